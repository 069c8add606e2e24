"""Scores by site, by probe, by any column: where a score comes from, and who gets less of it.

Each group is scored on its own clips, and against all other clips on the same resampled patients, because two intervals that
overlap say little of their difference. With many groups one of them will be far off by
chance alone: an interval that leaves out 0 says less the more groups there are.
"""

from typing import Any

import numpy as np
import pandas as pd

from ..errors import SonokitError
from .bootstrap import interval
from .patient_weights import PatientWeights
from .predictions import Predictions
from .scores import PRIMARY, weighted_primary
from .value_names import value_names
from .weighted_draws import Draws, mean_over_repeats, weighted_draws

UNKNOWN = "(unknown)"

_MOST_GROUPS = 30
_PARTS = 4  # that a number of many values is cut into


def scores_by_group(
    predictions: Predictions, groups: np.ndarray, *, n: int = 2000, seed: int = 0, level: float = 0.95
) -> list[dict[str, Any]]:
    """Every score of every group.

    Args:
        predictions: Out of fold.
        groups: Of each clip, str [N]; see :func:`group_names`.
        n: Resamples of the patients.
        seed: Of the resampling.
        level: Of the intervals.

    Returns:
        By falling number of clips, for each group: ``group``, ``clips``, ``patients``, ``classes`` (name -> clips; none for
        regression), ``scores`` (of the group's clips) and ``minus_others`` (the primary score minus that of all other clips),
        with intervals or the reason why there is none, as plain values. A score that one class cannot have is None.
    """
    names, counts = np.unique(groups.astype(str), return_counts=True)
    order = names[np.lexsort((names, -counts))]
    return [_entry(predictions, name, groups.astype(str) == name, n, seed, level) for name in order]


def group_names(values: pd.Series, column: str) -> np.ndarray:
    """The group of each clip, str [N]: the value itself; a number of many values is cut into quarters; missing: ``(unknown)``.

    Raises:
        SonokitError: The column has too many values to score each.
    """
    number = pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values)
    if number and values.nunique() > _MOST_GROUPS // 2:
        values = pd.qcut(values, _PARTS, duplicates="drop", precision=3)
    names = (value_names(values) if number else values.astype("string")).fillna(UNKNOWN)
    names = names.where(names.str.strip() != "", UNKNOWN)
    if names.nunique() > _MOST_GROUPS:
        raise SonokitError(
            f"{column} has {names.nunique()} values, too many to score each: name a column of {_MOST_GROUPS} values or fewer"
        )
    return names.to_numpy(dtype=str)


def _entry(predictions: Predictions, name: str, inside: np.ndarray, n: int, seed: int, level: float) -> dict[str, Any]:
    own = predictions.select(inside)
    figures = own.intervals(n, seed, level)
    if predictions.task != "regression" and len(np.unique(own.truth)) < 2:
        # one class only: balanced accuracy is that class's recall, and nothing can be ranked or agreed on beyond chance
        figures = {score: figure for score, figure in figures.items() if score in ("accuracy", "mae")}
    return {
        "group": name,
        "clips": len(own.truth),
        "patients": len(np.unique(own.patients)),
        "classes": {label: int((own.truth == code).sum()) for code, label in enumerate(predictions.classes)},
        "scores": {score: figure.as_dict() for score, figure in figures.items()},
        "minus_others": _minus_others(predictions, inside, n, seed, level) if PRIMARY[predictions.task] in figures else None,
    }


def _minus_others(predictions: Predictions, inside: np.ndarray, n: int, seed: int, level: float) -> dict[str, Any] | None:
    """The group's primary score minus that of the other clips; None where there are no others, or of one class."""
    others = predictions.truth[~inside]
    if not len(others) or (predictions.task != "regression" and len(np.unique(others)) < 2):
        return None
    score = PRIMARY[predictions.task]

    def statistic(weights: PatientWeights) -> Draws:
        return mean_over_repeats(
            [
                {
                    "difference": weighted_primary(predictions.task, predictions.truth, values, weights * inside)
                    - weighted_primary(predictions.task, predictions.truth, values, weights * ~inside)
                }
                for values in predictions.values
            ]
        )

    draws = weighted_draws(statistic, predictions.patients, n=n, seed=seed)["difference"]
    fewest = min((predictions.patients[part] for part in (inside, ~inside)), key=lambda part: len(np.unique(part)))
    return {"score": score} | interval(draws, fewest, level).as_dict()
