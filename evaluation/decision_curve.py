"""Decision curves: is acting on these probabilities better than acting on everybody, or on nobody?

Vickers and Elkin (2006). Whoever acts from a probability p on holds a missed finding to be (1 − p) / p times as bad as a
needless act. The net benefit at p is

    true positives / n − false positives / n · p / (1 − p),

in units of findings acted on per clip. Acting on nobody has 0. An expert is of use for the p where its curve lies above both
others; which p is reasonable is a clinical question that no curve answers. The probabilities must be calibrated, and the
share of the finding here must be that of the clinic, else the curve speaks of another one.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from .bootstrap import interval
from .findings import Finding
from .patient_weights import Weights
from .predictions import Predictions
from .weighted_draws import Draws, ratio, weighted_draws

THRESHOLDS = tuple(round(0.05 * step, 2) for step in range(1, 20))
"""Probabilities from which one might act: 0.05 to 0.95."""


def decision_curve(
    predictions: Predictions,
    finding: Finding,
    *,
    thresholds: Sequence[float] = THRESHOLDS,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> list[dict[str, Any]]:
    """Net benefit over the thresholds, mean over the repeats, with patient-bootstrap intervals.

    Args:
        predictions: Calibrated, of classes.
        finding: What would be acted on.
        thresholds: Above 0 and below 1.
        n: Resamples.
        seed: Of the resampling.
        level: Of the intervals.

    Returns:
        For each threshold ``threshold``, ``expert``, ``everybody`` and ``expert_minus_best`` (the expert minus the better of
        acting on everybody and on nobody, whichever that is on all clips), the last three with their intervals, as plain
        values.
    """
    present, told = finding.present(predictions.truth), finding.probability(predictions.values)  # [N], [R, N]
    limits = np.asarray(thresholds, dtype=np.float64)  # [T]
    worth = np.mean([_worth(present, row[:, None] >= limits, limits) for row in told], axis=0)  # [N, T]
    everybody = _worth(present, np.ones((len(present), len(limits)), dtype=bool), limits)

    def statistic(weights: Weights) -> Draws:
        total = weights.sum(axis=1, keepdims=True)
        return {"expert": ratio(weights @ worth, total), "everybody": ratio(weights @ everybody, total)}

    draws = weighted_draws(statistic, predictions.patients, n=n, seed=seed)  # each [1 + n, T]
    best = np.where(draws["everybody"][0] > 0, draws["everybody"], 0)
    people = np.unique(predictions.patients)  # interval counts them, for every figure anew
    figures = {"expert": draws["expert"], "everybody": draws["everybody"], "expert_minus_best": draws["expert"] - best}
    return [
        {"threshold": float(threshold)}
        | {name: interval(drawn[:, place], people, level).as_dict() for name, drawn in figures.items()}
        for place, threshold in enumerate(thresholds)
    ]


def net_benefit(present: np.ndarray, acted_on: np.ndarray, threshold: float, weights: np.ndarray | None = None) -> np.ndarray:
    """Net benefit under each of B weightings of the clips, float [B].

    Args:
        present: Whether each clip has the finding, bool [N].
        acted_on: Whether one acts on it, bool [N].
        threshold: The probability from which one acts, above 0 and below 1.
        weights: How often each clip counts, [B, N]; None: once each, B = 1.
    """
    counts = np.ones((1, len(present))) if weights is None else weights
    worth = _worth(present, np.asarray(acted_on)[:, None], np.array([threshold]))[:, 0]
    return ratio(counts @ worth, counts.sum(axis=1))


def _worth(present: np.ndarray, acted_on: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """What a clip brings, [N, T]: acted on 1 with the finding and minus the odds of the threshold without it, else 0."""
    odds = thresholds / (1 - thresholds)
    return np.where(present[:, None], 1.0, -odds) * acted_on
