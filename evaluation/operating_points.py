"""Operating points: the probability from which a finding is called, and how the calls turn out on other patients.

A threshold that is chosen on the clips that it is scored on flatters itself. Here it is chosen on predictions made inside the
training side (:mod:`sonokit.evaluation.nested`), for a wanted specificity or sensitivity there, and what it reaches on the
test side is reported: it will miss the wanted figure now and then, and by how much is what a reader needs to know.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from ..errors import SonokitError
from .bootstrap import Interval, interval
from .findings import Finding
from .patient_weights import Weights
from .weighted_draws import Draws, mean_over_repeats, ratio, weighted_draws

Fixed = Literal["specificity", "sensitivity"]

CALL_SCORES = ("sensitivity", "specificity", "ppv", "npv")


@dataclass(frozen=True)
class OperatingPoint:
    """A finding is called where its probability is ``threshold`` or more.

    Attributes:
        finding: What is called.
        fixed: What the threshold was chosen for.
        wanted: How much of it.
        threshold: A probability, or just above 1 where nothing may be called; None where nothing could be chosen, since the
            clips that it should be chosen on all had the finding, or none had.
    """

    finding: Finding
    fixed: Fixed
    wanted: float
    threshold: float | None

    @property
    def name(self) -> str:
        """For instance ``covid19 at specificity 0.9``."""
        return f"{self.finding.name} at {self.fixed} {self.wanted:g}"

    def apply(self, probabilities: np.ndarray) -> np.ndarray:
        """1 where it is called, 0 where not, float [...]; nan without a threshold. Class probabilities [..., K]."""
        told = self.finding.probability(np.asarray(probabilities, dtype=np.float64))
        return np.full(told.shape, np.nan) if self.threshold is None else (told >= self.threshold).astype(np.float64)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        finding = {"name": self.finding.name, "code": self.finding.code, "or_more": self.finding.or_more}
        return {"finding": finding, "fixed": self.fixed, "wanted": self.wanted, "threshold": self.threshold}


def point_from_dict(plain: Mapping[str, Any]) -> OperatingPoint:
    """What :meth:`OperatingPoint.as_dict` wrote."""
    threshold = None if plain["threshold"] is None else float(plain["threshold"])
    return OperatingPoint(Finding(**plain["finding"]), plain["fixed"], float(plain["wanted"]), threshold)


def fit_point(
    finding: Finding,
    probabilities: np.ndarray,
    truth: np.ndarray,
    *,
    fixed: Fixed = "specificity",
    wanted: float = 0.9,
    weights: np.ndarray | None = None,
) -> OperatingPoint:
    """Choose the threshold on clips that are not those it will be scored on.

    For a specificity it is the lowest threshold that still reaches it (so that sensitivity is highest); for a sensitivity the
    highest.

    Args:
        finding: What is called.
        probabilities: Class probabilities float [N, K].
        truth: Class codes int [N].
        fixed: What to reach.
        wanted: How much of it, above 0 and up to 1.
        weights: How much each row counts, [N]; None: 1 each.

    Raises:
        SonokitError: What is wanted is neither of the two, or no share.
    """
    if fixed not in get_args(Fixed) or not 0 < wanted <= 1:
        raise SonokitError(f"no operating point at {fixed} {wanted:g}: give a specificity or sensitivity above 0, up to 1")
    present, told = finding.present(truth), finding.probability(np.asarray(probabilities, dtype=np.float64))
    amounts = np.ones(len(told)) if weights is None else np.asarray(weights, dtype=np.float64)
    if present.all() or not present.any():
        return OperatingPoint(finding, fixed, wanted, None)
    choose = threshold_at_specificity if fixed == "specificity" else threshold_at_sensitivity
    return OperatingPoint(finding, fixed, wanted, choose(present, told, wanted, amounts))


def threshold_at_specificity(present: np.ndarray, told: np.ndarray, wanted: float, weights: np.ndarray) -> float:
    """The lowest of the probabilities ``told`` [N], or the number above the highest, that calls few enough of the others."""
    candidates = np.append(np.unique(told), math.nextafter(told.max(), math.inf))
    absent = ~present
    reached = _share_below(told[absent], weights[absent], candidates)
    return float(candidates[(reached >= wanted - 1e-12).argmax()])  # the last candidate calls nothing: it always does


def threshold_at_sensitivity(present: np.ndarray, told: np.ndarray, wanted: float, weights: np.ndarray) -> float:
    """The highest of the probabilities ``told`` [N] that calls enough of those with the finding."""
    candidates = np.unique(told)
    reached = 1 - _share_below(told[present], weights[present], candidates)
    return float(candidates[np.flatnonzero(reached >= wanted - 1e-12)[-1]])  # the first candidate calls all: there is one


def call_intervals(
    present: np.ndarray, called: np.ndarray, patients: np.ndarray, *, n: int = 2000, seed: int = 0, level: float = 0.95
) -> dict[str, Interval]:
    """What calls amount to, mean over the repeats, with patient-bootstrap intervals.

    Args:
        present: Whether each clip has the finding, bool [N].
        called: 1 or 0 in each of R repeats, by the threshold of the fold that tested the clip, [R, N].
        patients: Whose each clip is, [N].
        n: Resamples.
        seed: Of the resampling.
        level: Of the intervals.

    Returns:
        ``sensitivity``, ``specificity``, ``ppv`` and ``npv`` (the predictive values hold for these clips' share of the
        finding only). Nan where undefined.
    """

    def statistic(weights: Weights) -> Draws:
        return mean_over_repeats([_call_scores(present, row, weights) for row in called])

    draws = weighted_draws(statistic, patients, n=n, seed=seed)
    people = np.unique(patients)  # interval counts them, for every figure anew
    return {name: interval(draws[name], people, level) for name in CALL_SCORES}


def _call_scores(present: np.ndarray, called: np.ndarray, weights: Weights) -> Draws:
    cells = {
        (truth, call): weights @ ((present == truth) & (called == call)).astype(np.float64)
        for truth in (0, 1)
        for call in (0, 1)
    }
    return {
        "sensitivity": ratio(cells[1, 1], cells[1, 1] + cells[1, 0]),
        "specificity": ratio(cells[0, 0], cells[0, 0] + cells[0, 1]),
        "ppv": ratio(cells[1, 1], cells[1, 1] + cells[0, 1]),
        "npv": ratio(cells[0, 0], cells[0, 0] + cells[1, 0]),
    }


def _share_below(values: np.ndarray, weights: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Share of the weight of ``values`` that lies below each limit, [L]."""
    order = np.argsort(values, kind="stable")
    sums = np.concatenate([[0.0], np.cumsum(weights[order])])
    return sums[np.searchsorted(values[order], limits, side="left")] / sums[-1]
