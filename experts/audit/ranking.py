"""Does the score hold within a site? How often two clips are ranked rightly: among all pairs, and among pairs of one site.

A pair is two clips of two patients and of different truth. Of two classes a and b it is ranked rightly where the clip of a has
the higher probability of a minus that of b (as Hand and Till 2001 compare classes two by two); of ordered levels or numbers
where the higher one is predicted higher (Harrell's C). Equal predictions count half. Guessing gives .5 in both, whatever the
site gives away.
"""

from dataclasses import dataclass

import numpy as np

from ...evaluation.bootstrap import Interval, draw_patients, interval
from ...evaluation.predictions import Predictions

_FEWEST_PAIRS = 20


@dataclass(frozen=True)
class Ranking:
    """Share of pairs that are ranked rightly, with patient-bootstrap intervals.

    Attributes:
        everywhere: Among all pairs.
        within: Among pairs of one site.
        pairs: How many pairs of one site there are.
        sites: At how many sites.
    """

    everywhere: Interval
    within: Interval
    pairs: int
    sites: int


def rank_within(
    predictions: Predictions, sites: np.ndarray, *, draws: int = 2000, level: float = 0.95, seed: int = 0
) -> Ranking | str:
    """Measure it.

    Args:
        predictions: Out of fold, of N clips.
        sites: Of each clip, str [N], empty where unknown.
        draws: Resamples of the patients.
        level: Of the intervals.
        seed: Of the resamples.

    Returns:
        The figures, or why there are none.
    """
    right, counted = _pairs(predictions)
    same_site = (sites[:, None] == sites[None, :]) & (sites != "")[:, None]
    within = counted & same_site
    if within.sum() < _FEWEST_PAIRS:
        return f"only {int(within.sum())} pairs of clips of different truth are from one site"
    counts, owner = draw_patients(predictions.patients, draws, seed)
    weights = counts[:, owner].astype(np.float64)  # [1 + draws, N]
    return Ranking(
        everywhere=interval(_share(right, counted, weights), predictions.patients, level),
        within=interval(_share(right, within, weights), predictions.patients, level),
        pairs=int(within.sum()),
        sites=len(np.unique(sites[within.any(axis=1) | within.any(axis=0)])),
    )


def _pairs(predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """How far pair (i, j) is ranked rightly, [N, N], mean over the repeats; and whether it counts: each pair once."""
    truth, people = predictions.truth, predictions.patients
    counted = (truth[:, None] > truth[None, :]) & (people[:, None] != people[None, :])
    right = np.zeros(counted.shape)
    for values in predictions.values:
        right += 0.5 * (1 + np.sign(_lead(predictions.task == "classification", truth, values)))
    return right / len(predictions.values), counted


def _lead(classes: bool, truth: np.ndarray, values: np.ndarray) -> np.ndarray:
    """By how much clip i is predicted above clip j in the direction of their truths, [N, N]."""
    if not classes:
        height = values if values.ndim == 1 else values @ np.arange(values.shape[1])
        return np.round(height[:, None] - height[None, :], 9)
    own = values[:, truth]  # [N, N]: probability for i of the class of j
    mine = values[np.arange(len(truth)), truth]  # of its own class
    for_i = mine[:, None] - own  # i's probability of its class less that of j's class
    for_j = own.T - mine[None, :]  # j's probability of i's class less that of its own
    return np.round(for_i - for_j, 9)


def _share(right: np.ndarray, counted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted share of pairs, [B]; a pair weighs as much as the product of its clips' weights, [B, N]."""
    hits = (weights @ (right * counted) * weights).sum(axis=1)
    total = (weights @ counted.astype(np.float64) * weights).sum(axis=1)
    return np.divide(hits, total, out=np.full(len(weights), np.nan), where=total > 0)
