"""How far probabilities can be taken at their word: Brier score, log loss, calibration error and the reliability curve.

- ``brier`` (Brier 1950): mean squared distance to the truth; two classes: of the second alone, 0 to 1; several: summed over the
  classes, 0 to 2, as scikit-learn has it.
- ``log_loss``: mean −ln of the probability that the true class was given.
- ``ece``, the expected calibration error: mean distance, over bins of like probability, of the share that happened from the
  mean probability. Two classes: of the second class's probability; several: of the highest one, against whether it was right
  (Guo et al. 2017). Bins hold equally many clips, and ties stay together. Chance alone puts it above 0, the
  more the fewer patients there are, and resampling adds chance to chance: so it has no bootstrap interval, but stands beside
  what chance gives to probabilities that are right (:func:`chance_error`; Bröcker and Smith 2007 have it by bin).

A lower figure is better for all three. They are written for weighted clips, for the patient bootstrap.
"""

import math
from typing import Any

import numpy as np
from scipy.stats import rankdata

from .bootstrap import Interval, interval
from .findings import Finding
from .patient_weights import Weights
from .predictions import Predictions
from .weighted_draws import Draws, ratio, weighted_draws, weighted_means

CALIBRATION_TITLES = {"brier": "Brier score", "log_loss": "log loss", "ece": "expected calibration error"}

_SMALLEST = 1e-7  # predictions are kept to seven digits: without it one 0 would make a log loss infinite
_CLIPS_A_BIN, _FEWEST_BINS, _MOST_BINS = 20, 3, 10


def calibration_draws(predictions: Predictions, *, n: int = 2000, seed: int = 0, bins: int | None = None) -> Draws:
    """``brier``, ``log_loss`` and ``ece``, mean over the repeats, on all clips and on each resample of the patients.

    Args:
        predictions: Of classes.
        n: Resamples.
        seed: Of the resampling; the same ``n`` and ``seed`` give resamples that another call's can be paired with.
        bins: Of the calibration error; None: one for each 20 clips, three to ten.

    Returns:
        Name -> float [1 + n].
    """
    count = bins or default_bins(len(predictions.truth))
    binned = [_confidence_bins(values, predictions.truth, count) for values in predictions.values]
    losses = np.mean([_losses(values, predictions.truth) for values in predictions.values], axis=0)  # [N, 2]

    def statistic(weights: Weights) -> Draws:
        brier, log_loss = weighted_means(losses, np.ones_like(losses), weights).T
        return {"brier": brier, "log_loss": log_loss, "ece": np.mean([_binned_error(*one, weights) for one in binned], axis=0)}

    return weighted_draws(statistic, predictions.patients, n=n, seed=seed)


def calibration_intervals(
    predictions: Predictions, *, n: int = 2000, seed: int = 0, level: float = 0.95, bins: int | None = None
) -> dict[str, Interval]:
    """The three scores with their patient-bootstrap intervals; arguments as in :func:`calibration_draws`."""
    return _intervals(calibration_draws(predictions, n=n, seed=seed, bins=bins), predictions.patients, level)


def calibration_gain(
    raw: Predictions, calibrated: Predictions, *, n: int = 2000, seed: int = 0, level: float = 0.95
) -> dict[str, Interval]:
    """Calibrated minus raw on the same resampled patients: below 0 where calibrating helped."""
    before, after = (calibration_draws(side, n=n, seed=seed) for side in (raw, calibrated))
    return _intervals({name: after[name] - before[name] for name in before}, raw.patients, level)


def chance_error(predictions: Predictions, *, draws: int = 200, seed: int = 0, bins: int | None = None) -> float:
    """The calibration error that these predictions would have on average if every probability were right.

    The truth is drawn anew from the probabilities, all clips of a patient with the same luck, because they are alike; clips
    that are less alike give less, so that an error below this one is no sign of bad calibration.

    Args:
        predictions: Of classes; its truth is not looked at.
        draws: Of the truth.
        seed: Of the draws.
        bins: As in :func:`calibration_draws`.
    """
    names, owner = np.unique(predictions.patients, return_inverse=True)
    owner, clips = owner.reshape(-1), len(predictions.truth)
    count = bins or default_bins(clips)
    binned = [_confidence_bins(values, predictions.truth, count) for values in predictions.values]
    inside = [np.eye(count)[places] for _, _, places in binned]  # each [N, bins]
    rng = np.random.default_rng(seed)
    errors = []
    for _ in range(draws):
        luck = rng.random(len(names))[owner]  # [N]
        errors += [
            np.abs(((luck < confidence) - confidence) @ bin_of).sum() / clips
            for (confidence, _, _), bin_of in zip(binned, inside, strict=True)
        ]
    return float(np.mean(errors))


def reliability_curve(
    predictions: Predictions,
    finding: Finding,
    *,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
    bins: int | None = None,
) -> list[dict[str, Any]]:
    """What was predicted against what was seen, for one finding, its repeats pooled.

    Returns:
        From low to high probability, a bin each: ``predicted`` (mean probability), ``observed`` (share of clips that have it,
        with ``low`` and ``high`` over the patients, None where there is no interval), ``clips`` (mean over the repeats),
        ``patients``.
    """
    told = finding.probability(predictions.values)  # [R, N]
    repeats, clips = told.shape
    count = bins or default_bins(clips)
    place = equal_count_bins(told.ravel(), count).reshape(repeats, clips)
    inside = np.stack([(place == k).sum(axis=0) for k in range(count)], axis=1).astype(np.float64)  # [N, B]
    present = finding.present(predictions.truth).astype(np.float64)
    mass = np.stack([np.where(place == k, told, 0).sum(axis=0) for k in range(count)], axis=1)  # [N, B]

    def statistic(weights: Weights) -> Draws:
        return {"observed": weighted_means(np.repeat(present[:, None], count, axis=1), inside, weights)}

    draws = weighted_draws(statistic, predictions.patients, n=n, seed=seed)["observed"]  # [1 + n, B]
    points = []
    for k in range(count):
        there = inside[:, k] > 0
        if not there.any():
            continue
        seen = interval(draws[:, k], predictions.patients[there], level).as_dict()
        points.append(
            {
                "predicted": float(mass[:, k].sum() / inside[:, k].sum()),
                "observed": seen["value"],
                "low": seen["low"],
                "high": seen["high"],
                "clips": float(inside[:, k].sum() / repeats),
                "patients": len(np.unique(predictions.patients[there])),
            }
        )
    return points


def default_bins(clips: int) -> int:
    """One bin for each 20 clips, three to ten."""
    return int(np.clip(clips // _CLIPS_A_BIN, _FEWEST_BINS, _MOST_BINS))


def equal_count_bins(values: np.ndarray, bins: int) -> np.ndarray:
    """The bin of each value, int [N] in 0..bins-1: about equally many in each, equal values always together."""
    middle = rankdata(values, method="average") - 0.5
    return np.minimum((middle / max(1, len(values)) * bins).astype(np.int64), bins - 1)


def expected_calibration_error(confidence: np.ndarray, happened: np.ndarray, places: np.ndarray) -> float:
    """Mean distance of what happened from what was told, over the bins that ``places``, int [N], puts the clips into."""
    return float(_binned_error(confidence, happened, places, np.ones((1, len(confidence))))[0])


def _intervals(draws: Draws, patients: np.ndarray, level: float) -> dict[str, Interval]:
    people = np.unique(patients)  # interval counts them, for every figure anew
    found = {name: interval(drawn, people, level) for name, drawn in draws.items()}
    reason = "resampling adds chance to a calibration error: no interval, see chance_error"
    return found | {"ece": Interval(found["ece"].value, math.nan, math.nan, reason)}


def _confidence_bins(values: np.ndarray, truth: np.ndarray, bins: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Confidence [N], whether it came true [N], and its bin [N]."""
    if values.shape[1] == 2:
        confidence, happened = values[:, 1], truth == 1
    else:
        confidence, happened = values.max(axis=1), values.argmax(axis=1) == truth
    return confidence, happened.astype(np.float64), equal_count_bins(confidence, bins)


def _losses(values: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Each clip's squared distance and log loss, [N, 2]."""
    given = np.clip(values[np.arange(len(truth)), truth], _SMALLEST, 1)
    squared = ((values - np.eye(values.shape[1])[truth]) ** 2).sum(axis=1)
    return np.stack([squared / 2 if values.shape[1] == 2 else squared, -np.log(given)], axis=1)


def _binned_error(confidence: np.ndarray, happened: np.ndarray, places: np.ndarray, weights: Weights) -> np.ndarray:
    """Calibration error [B] under each weighting [B, N]."""
    excess = np.zeros((len(places), int(places.max()) + 1))  # [N, bins]
    excess[np.arange(len(places)), places] = happened.astype(np.float64) - confidence
    return ratio(np.abs(weights @ excess).sum(axis=1), weights.sum(axis=1))
