"""A patient bootstrap of any statistic that can be written for weighted clips, a few resamples at a time.

What :func:`~sonokit.evaluation.bootstrap.score_draws` does for the scores, for whatever else is measured on the same clips:
two calls of either with the same ``patients``, ``n`` and ``seed`` see the same resamples, so their difference is paired.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np

from .patient_weights import PatientWeights, Weights

Draws = dict[str, np.ndarray]

_CELLS_AT_ONCE = 4_000_000  # numbers in memory at one time, some 32 MB
_CELLS_KEPT = 40_000_000  # of the last resampling, some 80 MB: a report asks for the same one dozens of times


def weighted_draws(
    statistic: Callable[[PatientWeights], Draws],
    patients: np.ndarray,
    *,
    n: int = 2000,
    seed: int = 0,
    cells_a_draw: int = 0,
) -> Draws:
    """The statistics on all clips and on each resample of the patients.

    Args:
        statistic: Takes how often each clip counts, [B, N]; gives name -> float [B].
        patients: Whose each clip is, [N].
        n: Resamples.
        seed: Of the resampling.
        cells_a_draw: How many numbers ``statistic`` holds at once for one resample, if more than there are patients.

    Returns:
        Name -> float [1 + n]; the first is on all clips. :func:`~sonokit.evaluation.bootstrap.interval` reads them.
    """
    names, owner = np.unique(np.asarray(patients).astype(str), return_inverse=True)
    owner, count = owner.reshape(-1), len(names)  # [N], P
    amounts = np.ones(len(owner))
    parts = [statistic(PatientWeights(np.ones((1, count)), owner, amounts))]
    step = max(1, _CELLS_AT_ONCE // max(1, count, cells_a_draw))
    for drawn in _resamples(count, n, seed, step):
        parts.append(statistic(PatientWeights(drawn.astype(np.float64), owner, amounts)))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def mean_over_repeats(parts: list[Draws]) -> Draws:
    """One entry a repeat of the folds -> their mean, name by name."""
    return {name: np.mean([part[name] for part in parts], axis=0) for name in parts[0]}


def weighted_means(values: np.ndarray, amounts: np.ndarray, weights: Weights) -> np.ndarray:
    """Means of M columns, float [B, M]: ``values`` and how much each clip counts in them, [N, M], under weights [B, N]."""
    return ratio(weights @ (values * amounts), weights @ amounts)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotient, nan where the denominator is 0."""
    result = np.full(np.broadcast_shapes(np.shape(numerator), np.shape(denominator)), np.nan)
    np.divide(numerator, denominator, out=result, where=np.asarray(denominator) > 0)
    return result


def _resamples(count: int, n: int, seed: int, step: int) -> Iterator[np.ndarray]:
    """How often each of ``count`` patients is drawn in each of ``n`` resamples, in blocks, int [at most step, count].

    The stream of :func:`~sonokit.evaluation.bootstrap.draw_patients`, whose matrix would be too large for very many patients.
    """
    if count * n <= _CELLS_KEPT:
        kept = _kept(count, n, seed)
        yield from (kept[start : start + step] for start in range(0, n, step))
        return
    rng = np.random.default_rng(seed)
    for start in range(0, n, step):
        yield rng.multinomial(count, np.full(count, 1 / count), size=min(step, n - start))


@lru_cache(maxsize=1)
def _kept(count: int, n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=n).astype(np.uint16)
