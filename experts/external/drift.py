"""How another hospital's clips differ from those that an expert was fitted on: labels, predictions, features, files.

Against the expert's own :class:`~sonokit.experts.external.reference.Reference` everything but two things can be told. With the
training store beside it also: how many clips lie beyond the training clips (:mod:`.bank`), and how well a linear head tells
the two hospitals apart (a domain classifier: Ben-David et al. 2010; Lipton, Wang and Smola 2018), by folds of patients, 0.5
where it cannot. A difference is no fault by itself: the scores say what it costs.
"""

import math
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import t

from ...evaluation.bootstrap import Interval, interval
from ...evaluation.nested import inner_out_of_fold
from ...evaluation.predictions import Predictions
from ...evaluation.weighted_draws import weighted_draws, weighted_means
from ..heads import make_head
from .reference import METADATA, Reference, metadata_distribution, predicted_distribution

SHIFTED = 0.5
"""A standardised mean difference that counts: Cohen's medium effect."""

_LISTED = 10
_PERMUTATIONS = 499
_REPEATS = 3  # of the folds of the domain classifier, whose division matters
_MOST_CLIPS = 1500  # of each side, for the domain classifier and the permutations


def label_shift(reference: Reference, truth: np.ndarray, patients: np.ndarray, **drawing: Any) -> dict[str, Any]:
    """Share of each class (or the mean) at home and here, with the interval of the latter; ``distance`` is total variation.

    Args:
        reference: Of the expert.
        truth: Class codes int [N], or float [N].
        patients: Whose each case is, [N].
        drawing: ``n``, ``seed`` and ``level`` of the patient bootstrap.
    """
    if not reference.classes:
        here = _mean(truth, patients, **drawing)
        return {"home": {"mean": reference.label["mean"]}, "here": {"mean": here.as_dict()}}
    shares = {name: _mean(truth == code, patients, **drawing) for code, name in enumerate(reference.classes)}
    home = dict(zip(reference.classes, reference.prior.tolist(), strict=True))
    return {
        "home": home,
        "here": {name: share.as_dict() for name, share in shares.items()},
        "distance": _variation(home, {name: share.value for name, share in shares.items()}),
    }


def prediction_shift(reference: Reference, values: np.ndarray, patients: np.ndarray, **drawing: Any) -> dict[str, Any]:
    """Mean raw prediction at home (out of fold) and here with its interval, and the histograms of the top probability.

    Args:
        reference: Of the expert.
        values: Raw, float [N, K] or [N].
        patients: Whose each case is, [N].
        drawing: As in :func:`label_shift`.
    """
    if not reference.classes:
        return {"home": {"mean": reference.predicted["mean"]}, "here": {"mean": _mean(values, patients, **drawing).as_dict()}}
    here = {name: _mean(values[:, code], patients, **drawing) for code, name in enumerate(reference.classes)}
    return {
        "home": dict(zip(reference.classes, reference.predicted["mean"], strict=True)),
        "here": {name: share.as_dict() for name, share in here.items()},
        "top": {"home": reference.predicted["top"], "here": predicted_distribution(reference.task, values)["top"]},
    }


def feature_shift(reference: Reference, features: np.ndarray, patients: np.ndarray) -> dict[str, Any]:
    """Standardised mean difference of each feature: here minus home, over the mean of both variances' root.

    Args:
        reference: Of the expert.
        features: float [N, F].
        patients: Whose each case is, [N].

    Returns:
        ``features``; ``share`` of them beyond ``SHIFTED``; ``expected``, that share where nothing differs and all clips of a
        patient are alike (by Student's t for as many cases as patients: fewer are never there, so it is an upper end); ``p`` of
        the largest difference by the same reckoning, corrected for the number of features (Bonferroni); ``largest``, ten by
        name.
    """
    difference = _standardised(reference.features[:, 0], reference.features[:, 1], features)
    here = max(1, len(np.unique(patients)))
    people = max(3, reference.patients + here)
    # from a standardised difference, whose deviations are those of the samples, to t
    scale = math.sqrt((people - 2) / people / (1 / reference.patients + 1 / here))
    order = np.argsort(-np.abs(difference), kind="stable")[:_LISTED]
    largest = float(np.abs(difference).max())
    return {
        "features": len(difference),
        "share": float((np.abs(difference) > SHIFTED).mean()),
        "expected": float(2 * t.sf(SHIFTED * scale, people - 2)),
        "p": min(1.0, float(len(difference) * 2 * t.sf(largest * scale, people - 2))),
        "largest": [{"name": reference.feature_names[k], "difference": float(difference[k])} for k in order],
    }


def exchanged_share(
    home: np.ndarray, home_patients: np.ndarray, here: np.ndarray, here_patients: np.ndarray, *, seed: int = 0
) -> dict[str, Any]:
    """The share of shifted features where patients change sides at random: what chance alone gives, by permutation.

    Args:
        home: Features of the training clips, float [M, F].
        home_patients: Whose each is, [M].
        here: Features of the other hospital's, float [N, F].
        here_patients: Whose each is, [N]; none of the former.
        seed: Of the exchanges.

    Returns:
        ``share`` as it is, ``by_chance`` (mean over the exchanges), ``p`` (share of the exchanges whose mean squared difference
        over all features reaches the real one, that itself counted among them) and ``permutations``.
    """
    rows = np.concatenate([home, here]).astype(np.float64)
    people, owner = np.unique(np.concatenate([home_patients, here_patients]).astype(str), return_inverse=True)
    owner, is_here = owner.reshape(-1), np.repeat([0.0, 1.0], [len(home), len(here)])
    rows = (rows - rows.mean(axis=0)) / np.maximum(rows.std(axis=0), 1e-12)  # so that the sums of squares are exact enough
    sums, squares = (_by_patient(values, owner, len(people)) for values in (rows, rows**2))  # [P, F]
    clips = np.bincount(owner, minlength=len(people)).astype(np.float64)
    here_now = np.zeros(len(people))
    here_now[owner] = is_here
    rng = np.random.default_rng(seed)
    sides = np.stack([here_now, *(rng.permutation(here_now) for _ in range(_PERMUTATIONS))])  # [1 + B, P]
    differences = _differences(sides, sums, squares, clips)  # [1 + B, F]
    shares, total = (np.abs(differences) > SHIFTED).mean(axis=1), (differences**2).mean(axis=1)
    return {
        "share": float(shares[0]),
        "by_chance": float(shares[1:].mean()),
        "p": float((1 + (total[1:] >= total[0] - 1e-12).sum()) / len(total)),
        "permutations": _PERMUTATIONS,
    }


def metadata_shift(reference: Reference, table: pd.DataFrame) -> dict[str, Any]:
    """Column by column: total variation distance from home, the share of clips with a value not met there, the largest values.

    Args:
        reference: Of the expert.
        table: One row a clip of the other hospital.
    """
    here = metadata_distribution(table)
    found: dict[str, Any] = {}
    for column in METADATA:
        home, now = reference.metadata[column], here[column]
        found[column] = {
            "distance": _variation(home, now),
            "new": float(sum(share for name, share in now.items() if name not in home)),
            "home": _largest(home),
            "here": _largest(now),
        }
    found["frame_rate"] = {"home": reference.metadata["frame_rate"], "here": here["frame_rate"]}
    return found


def out_of_distribution(beyond: np.ndarray, promised: float, patients: np.ndarray, **drawing: Any) -> dict[str, Any]:
    """Share of cases beyond the training clips, bool [N], each patient counted once, beside the promised false alarms."""
    return {"share": _mean(beyond, patients, by_patient=True, **drawing).as_dict(), "promised": promised}


def tell_apart(
    home: np.ndarray, home_patients: np.ndarray, here: np.ndarray, here_patients: np.ndarray,
    *, n: int = 2000, seed: int = 0, level: float = 0.95,
) -> Interval:  # fmt: skip
    """AUROC of a linear head that tells the other hospital's cases from the training clips, by folds of patients.

    Where nothing differs it is about 0.5, and rather below: a fold's training side leans away from its test side.

    Args:
        home: Features, float [M, F].
        home_patients: Whose each is, [M].
        here: Features, float [N, F].
        here_patients: Whose each is, [N]; none of the former.
        n: Resamples of the patients.
        seed: Of the folds and the resampling.
        level: Of the interval.
    """
    inputs, side = np.concatenate([home, here]), np.repeat([0, 1], [len(home), len(here)])
    patients = np.concatenate([home_patients, here_patients]).astype(str)
    values = [
        inner_out_of_fold(
            lambda: make_head(("linear",), "classification", seed), inputs, side, patients,
            task="classification", class_count=2, seed=seed + repeat,
        )
        for repeat in range(_REPEATS)
    ]  # fmt: skip
    names = np.arange(len(side)).astype(str)
    found = Predictions("classification", ("home", "here"), names, patients, side, np.stack(values))
    return interval(found.draws(n, seed)["auroc"], patients, level)


def some_rows(patients: np.ndarray, seed: int) -> np.ndarray:
    """Rows of patients drawn at random until the next would exceed what the comparisons above can take, int [·], in order."""
    people, owner = np.unique(patients, return_inverse=True)
    owner = owner.reshape(-1)
    order = np.random.default_rng(seed).permutation(len(people))
    inside = np.cumsum(np.bincount(owner)[order]) <= _MOST_CLIPS
    inside[0] = True
    return np.flatnonzero(np.isin(owner, order[inside]))


def _standardised(mean: np.ndarray, deviation: np.ndarray, features: np.ndarray) -> np.ndarray:
    features = features.astype(np.float64)
    scale = np.sqrt((deviation**2 + features.var(axis=0)) / 2)
    # a feature that is constant on both sides differs not at all, or by more than can be told in deviations
    difference = features.mean(axis=0) - mean
    same = np.isclose(difference, 0, atol=1e-7)
    return np.where(same, 0.0, difference / np.maximum(scale, 1e-9 + 1e-6 * np.abs(mean)))


def _differences(sides: np.ndarray, sums: np.ndarray, squares: np.ndarray, clips: np.ndarray) -> np.ndarray:
    """Standardised mean difference of each feature under each division of the patients [B, P], [B, F]."""
    means, variances = [], []
    for side in (1 - sides, sides):
        count = np.maximum(side @ clips, 1)[:, None]
        means.append(side @ sums / count)
        variances.append(np.maximum(side @ squares / count - means[-1] ** 2, 0))
    scale = np.sqrt((variances[0] + variances[1]) / 2)
    return (means[1] - means[0]) / np.maximum(scale, 1e-9)


def _by_patient(values: np.ndarray, owner: np.ndarray, count: int) -> np.ndarray:
    order = np.argsort(owner, kind="stable")
    return np.add.reduceat(values[order], np.searchsorted(owner[order], np.arange(count)))


def _mean(values: np.ndarray, patients: np.ndarray, *, n: int, seed: int, level: float, by_patient: bool = False) -> Interval:
    """The mean over the cases, or over the patients, with its interval."""
    people, owner, clips = np.unique(patients, return_inverse=True, return_counts=True)
    amounts = 1 / clips[owner.reshape(-1)] if by_patient else np.ones(len(values))
    draws = weighted_draws(
        lambda weights: {"mean": weighted_means(np.asarray(values, np.float64)[:, None], amounts[:, None], weights)[:, 0]},
        patients, n=n, seed=seed,
    )  # fmt: skip
    return interval(draws["mean"], people, level)


def _variation(first: dict[str, float], second: dict[str, float]) -> float:
    """Half the summed difference of two distributions: the share that would have to change its value."""
    return float(sum(abs(first.get(name, 0.0) - second.get(name, 0.0)) for name in sorted(first.keys() | second.keys())) / 2)


def _largest(shares: dict[str, float], most: int = 5) -> dict[str, float]:
    return dict(sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))[:most])
