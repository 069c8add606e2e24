"""How well biomarkers are told on clips of patients that nothing was fitted on: AUROC out of fold, with patient intervals."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import SonokitError
from .bootstrap import Interval, draw_patients, interval
from .scores import weighted_auroc

_RESAMPLES = 2000
_AT_ONCE = 100  # resamples whose weights are in memory together
MIN_PATIENTS = 2  # of each class on every training side; with fewer a score says nothing


@dataclass(frozen=True)
class OutOfFold:
    """Predictions for N clips in each of R repeats.

    Attributes:
        probabilities: [R, N, B]; nan where a clip was on no test side.
        labels: 1, 0 or nan, [N, B].
        patients: [N].
        training_sides: One bool mask [N] a fold.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    training_sides: list[np.ndarray]


def score_biomarkers(outcome: OutOfFold, biomarkers: tuple[str, ...], *, seed: int = 0) -> dict[str, Any]:
    """Scores in plain values: by biomarker, and ``macro_auroc`` over those that are measurable.

    A biomarker's ``auroc`` is {"value", "low", "high"}, the mean over repeats, or None with a ``reason``.
    """
    counts, owner = draw_patients(outcome.patients, _RESAMPLES, seed)  # [1 + n, P], [N]
    scores: dict[str, Any] = {}
    measured = []
    for column, name in enumerate(biomarkers):
        known = _scored(outcome, column)
        scores[name] = _counts(outcome.labels[:, column], known, outcome.patients)
        draws = _draws_of(outcome, column, counts, owner)
        if isinstance(draws, str):
            scores[name] |= {"auroc": None, "reason": draws}
            continue
        measured.append(draws)
        scores[name]["auroc"] = interval(draws, outcome.patients[known]).as_dict()
    macro = interval(np.mean(measured, axis=0), outcome.patients).as_dict() if measured else None
    return {"biomarkers": scores, "macro_auroc": macro, "interval": f"95 %, {_RESAMPLES} resamples of patients"}


def compare_macro_auroc(first: OutOfFold, second: OutOfFold, *, seed: int = 0) -> Interval:
    """Macro AUROC of ``first`` minus that of ``second``, over the biomarkers that both measure, on the same resamples.

    Raises:
        SonokitError: Other clips, labels or patients, or nothing that both measure.
    """
    same = first.labels.shape == second.labels.shape and np.array_equal(first.patients, second.patients)
    if not same or not np.array_equal(first.labels, second.labels, equal_nan=True):
        raise SonokitError("these biomarkers cannot be compared: their clips differ in labels or patients; take the same clips")
    counts, owner = draw_patients(first.patients, _RESAMPLES, seed)
    differences = []
    for column in range(first.labels.shape[1]):
        ours, theirs = (_draws_of(outcome, column, counts, owner) for outcome in (first, second))
        if not isinstance(ours, str) and not isinstance(theirs, str):
            differences.append(ours - theirs)
    if not differences:
        raise SonokitError("these biomarkers cannot be compared: none is measurable on both sides; take more patients")
    return interval(np.mean(differences, axis=0), first.patients)


def _scored(outcome: OutOfFold, column: int) -> np.ndarray:
    """Which clips have a label and a prediction in every repeat, bool [N]."""
    return ~np.isnan(outcome.labels[:, column]) & ~np.isnan(outcome.probabilities[:, :, column]).any(axis=0)


def _draws_of(outcome: OutOfFold, column: int, counts: np.ndarray, owner: np.ndarray) -> np.ndarray | str:
    """One biomarker's AUROC on all clips and on each resample, [1 + n], or why it cannot be measured."""
    labels, known = outcome.labels[:, column], _scored(outcome, column)
    reason = _not_measurable(labels, known, outcome)
    if reason:
        return reason
    rankings = outcome.probabilities[:, known, column].astype(np.float64)  # [R, N']
    return _draws(labels[known] == 1, rankings, counts, owner[known])


def _draws(positive: np.ndarray, rankings: np.ndarray, counts: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Mean AUROC over the repeats, on all clips and on each resample: [1 + n]."""
    parts = []
    for start in range(0, len(counts), _AT_ONCE):
        weights = counts[start : start + _AT_ONCE][:, owner].astype(np.float64)  # [≤100, N']
        parts.append(np.mean([weighted_auroc(positive, ranking, weights) for ranking in rankings], axis=0))
    return np.concatenate(parts)


def _counts(labels: np.ndarray, known: np.ndarray, patients: np.ndarray) -> dict[str, Any]:
    return {
        "clips": int(known.sum()),
        "positive_clips": int((labels[known] == 1).sum()),
        "positive_patients": len(set(patients[known & (labels == 1)])),
        "negative_patients": len(set(patients[known & (labels == 0)])),
    }


def _not_measurable(labels: np.ndarray, known: np.ndarray, outcome: OutOfFold) -> str | None:
    for value, word in ((1, "positive"), (0, "negative")):
        if not (known & (labels == value)).any():
            return f"no {word} clip"
        for fold, side in enumerate(outcome.training_sides):
            there = len(set(outcome.patients[side & (labels == value)]))
            if there < MIN_PATIENTS:
                return f"{there} {word} patient(s) on the training side of fold {fold}"
    return None
