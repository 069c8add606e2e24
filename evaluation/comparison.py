"""Is one expert better than another? Paired on the same clips, patients and folds, never by the bare difference."""

from typing import Any

import numpy as np

from ..errors import SonokitError
from .bootstrap import Interval, interval
from .predictions import Predictions, predictions_from_dict


def compare_predictions(
    first: Predictions, second: Predictions, *, n: int = 2000, seed: int = 0, level: float = 0.95
) -> dict[str, Interval]:
    """Every score of ``first`` minus that of ``second``, with the interval over the same resampled patients.

    The order of the clips may differ; each side's score is the mean over its repeats.

    Raises:
        SonokitError: The two do not answer the same question about the same clips.
    """
    if (first.task, first.classes) != (second.task, second.classes):
        sides = [f"{side.task} of {list(side.classes)}" for side in (first, second)]
        raise SonokitError(f"these cannot be compared: one is {sides[0]}, the other {sides[1]}")
    second = second.select(_order_like(first.clip_ids, second.clip_ids))
    if not (np.array_equal(first.truth, second.truth) and np.array_equal(first.patients, second.patients)):
        raise SonokitError("these cannot be compared: their clips have other labels or patients; fit both on the same labels")
    draws_first, draws_second = first.draws(n, seed), second.draws(n, seed)
    return {name: interval(draws_first[name] - draws_second[name], first.patients, level) for name in draws_first}


def compare_reports(first: dict[str, Any], second: dict[str, Any], *, n: int = 2000, seed: int = 0) -> dict[str, Interval]:
    """Two experts' ``report.json``, first minus second; see :func:`compare_predictions`.

    Raises:
        SonokitError: Other clips, labels, patients or folds.
    """
    folds = [report["data"]["splits_fingerprint"] for report in (first, second)]
    if folds[0] != folds[1]:
        raise SonokitError(
            f"these cannot be compared: their folds differ ({folds[0]}, {folds[1]}); give both the same --splits"
        )
    sides = [predictions_from_dict(report["predictions"]) for report in (first, second)]
    return compare_predictions(sides[0], sides[1], n=n, seed=seed)


def _order_like(wanted: np.ndarray, clip_ids: np.ndarray) -> np.ndarray:
    """Rows of ``clip_ids`` in the order of ``wanted``."""
    row_of = {clip: row for row, clip in enumerate(clip_ids)}
    if len(row_of) != len(wanted) or any(clip not in row_of for clip in wanted):
        different = len(set(wanted) ^ set(clip_ids))
        raise SonokitError(
            f"these cannot be compared: {different} clips are in one only; use the same --where and classes for both"
        )
    return np.array([row_of[clip] for clip in wanted], dtype=np.int64)
