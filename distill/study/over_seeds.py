"""A figure over several seeds: mean and Student's t interval.

For studies in which every seed draws its own training set, its own test set and its own beginning of the networks: the seeds
are then independent, and what differs between them holds all that chance does. Arms are compared within a seed: the interval of
a difference is that of the seeds' differences.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import t

from ...errors import SonokitError
from ...evaluation.bootstrap import Interval


def over_seeds(values: Sequence[float] | np.ndarray, level: float = 0.95) -> Interval:
    """Mean of one value a seed, with its t interval; without ends where fewer than two are defined.

    Args:
        values: float [S]; nan is left out.
        level: Of the interval.
    """
    found = np.asarray(values, dtype=np.float64)
    found = found[~np.isnan(found)]
    if len(found) < 2:
        mean = float(found.mean()) if len(found) else math.nan
        return Interval(mean, math.nan, math.nan, "fewer than two seeds: no interval")
    reach = float(t.ppf((1 + level) / 2, len(found) - 1) * found.std(ddof=1) / math.sqrt(len(found)))
    mean = float(found.mean())
    return Interval(mean, mean - reach, mean + reach)


def differences_over_seeds(
    scores: Mapping[str, Sequence[float]], pairs: Sequence[tuple[str, str]], level: float = 0.95
) -> dict[str, Interval]:
    """``first − second`` within each seed, over the seeds: "first - second" -> interval.

    Args:
        scores: Arm -> one score a seed, in the same order.
        pairs: Arms that are compared.
        level: Of the intervals.

    Raises:
        SonokitError: Two arms have different numbers of seeds.
    """
    found = {}
    for first, second in pairs:
        if len(scores[first]) != len(scores[second]):
            raise SonokitError(f"{first} has {len(scores[first])} seeds, {second} {len(scores[second])}: they cannot be paired")
        found[f"{first} - {second}"] = over_seeds(np.subtract(scores[first], scores[second]), level)
    return found
