"""Uncertainty of a score by resampling patients, and of a difference by resampling both sides alike.

Clips of one patient resemble each other, so the patient is what is drawn (with replacement, all clips together): the cluster
bootstrap of Field and Welsh (2007), with percentile intervals (Efron and Tibshirani 1993). Where folds are drawn several times,
the statistic is the mean over these repeats of the score on the resampled clips. The interval speaks of which patients were
met, not of refitting on other training patients.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .patient_weights import PatientWeights
from .scores import Task, cells_a_draw, weighted_scores
from .weighted_draws import Draws, mean_over_repeats, weighted_draws


@dataclass(frozen=True)
class Interval:
    """A figure with its percentile interval; ``low`` and ``high`` are nan where ``reason`` says why there is none.

    The figure itself may be nan where it is not defined, or infinite, as the width of a conformal interval is that too few
    patients leave without an end.
    """

    value: float
    low: float
    high: float
    reason: str | None = None

    def as_dict(self) -> dict[str, float | str | None]:
        """Plain values for JSON, None for what is not finite."""
        figures: dict[str, float | str | None] = {
            name: figure if math.isfinite(figure) else None
            for name, figure in (("value", self.value), ("low", self.low), ("high", self.high))
        }
        return figures | ({"reason": self.reason} if self.reason else {})


def patient_bootstrap(
    statistic: Callable[[np.ndarray], float], patients: np.ndarray, n: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Interval of any statistic of rows.

    Args:
        statistic: Takes row numbers, int [M] (a row that is drawn twice is there twice), gives a number or nan.
        patients: Whose each row is, [N].
        n: Resamples.
        seed: Of the resampling.
        level: Of the interval.
    """
    draws = _draws_of_rows(statistic, patients, n, seed)
    return interval(draws, patients, level)


def paired_difference(
    statistic_a: Callable[[np.ndarray], float],
    statistic_b: Callable[[np.ndarray], float],
    patients: np.ndarray,
    n: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Interval of a − b, both taken on the same resamples. Arguments as in :func:`patient_bootstrap`."""
    return patient_bootstrap(lambda rows: statistic_a(rows) - statistic_b(rows), patients, n, seed, level)


def score_draws(
    task: Task, y_true: np.ndarray, predictions: np.ndarray, patients: np.ndarray, *, n: int = 2000, seed: int = 0
) -> dict[str, np.ndarray]:
    """Every score on all rows and on each resample, averaged over repeats of the cross-validation.

    Two calls with the same ``patients``, ``n`` and ``seed`` see the same resamples: the interval of a paired difference is
    ``interval(draws_a[name] - draws_b[name], patients)``.

    Args:
        task: What kind of label it is.
        y_true: As for :func:`~sonokit.evaluation.scores.score`, [N].
        predictions: One array of predictions a repeat, [R, N, K] or [R, N].
        patients: Whose each row is, [N].
        n: Resamples.
        seed: Of the resampling.

    Returns:
        Name of the score -> float [1 + n]; the first is the score on all rows.
    """

    def statistic(weights: PatientWeights) -> Draws:
        return mean_over_repeats([weighted_scores(task, y_true, prediction, weights) for prediction in predictions])

    return weighted_draws(statistic, patients, n=n, seed=seed, cells_a_draw=cells_a_draw(task, len(y_true)))


def interval(draws: np.ndarray, patients: np.ndarray, level: float = 0.95) -> Interval:
    """Percentile interval from the figure (first) and its resamples (rest), [1 + n]. Undefined resamples are left out."""
    value, resampled = float(draws[0]), draws[1:]
    count = len(np.unique(patients))
    if count < 2:
        return Interval(value, math.nan, math.nan, "one patient only: no interval")
    if np.isinf(draws).any():
        return Interval(value, math.nan, math.nan, "infinite in some resamples of the patients: no interval")
    defined = resampled[~np.isnan(resampled)]
    if 2 * len(defined) < max(1, len(resampled)):
        return Interval(value, math.nan, math.nan, "undefined in most resamples of the patients: no interval")
    low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, float(low), float(high))


def draw_patients(patients: np.ndarray, n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """How often each patient is drawn, int [1 + n, P] (the first row: each once), and the patient of each row, int [N]."""
    names, owner = np.unique(np.asarray(patients).astype(str), return_inverse=True)
    count = len(names)
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=n)
    return np.concatenate([np.ones((1, count), dtype=drawn.dtype), drawn]), owner.reshape(-1)


def _draws_of_rows(statistic: Callable[[np.ndarray], float], patients: np.ndarray, n: int, seed: int) -> np.ndarray:
    counts, owner = draw_patients(patients, n, seed)
    rows = np.arange(len(owner))
    return np.array([statistic(np.repeat(rows, drawn[owner])) for drawn in counts], dtype=np.float64)
