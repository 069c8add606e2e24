"""Conformal sets and intervals whose promise is about patients.

A set of classes (an interval of values) that holds the truth for a clip of a new patient with the promised probability,
whatever the head. Clips of one patient are alike, so what is exchangeable is the patient: each calibration patient has one
weight, shared by the patient's clips, and the new patient has one more, at infinity (hierarchical conformal prediction: Lee,
Barber and Willett 2023; with one clip a patient it is split conformal prediction: Vovk et al. 2005). Scores of sets:

- ``lac``: one minus the probability of the class (Sadinle, Lei and Wasserman 2019). The smallest sets on average. An empty
  set is an answer: no class fits as well as it should.
- ``aps``: the probability of the class and of all that are likelier (Romano, Sesia and Candès 2020), without their random
  part, so that a clip's set is always the same. Larger sets, of which the hard clips get the larger ones; where the truth is
  the last class more often than the promise allows, every class is in every set.

Limits, which a report has to state:

- The promise is kept on average over patients like those of the calibration, not for each patient, class or site.
  ``by_class`` makes it for each class, at the price of larger sets (Vovk 2012). At another hospital nothing is promised:
  measure.
- It takes level / (1 − level) calibration patients, 9 for 0.9 (with ``by_class`` of each class): with fewer every class is in
  every set, and the interval is all numbers.
- It is exact for the head that made the calibration predictions. An expert is calibrated on out-of-fold predictions and then
  fitted on all clips, which is close to it but proven by nobody; that is why the coverage is measured out of fold beside the
  promise.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from ..errors import SonokitError
from .bootstrap import interval
from .patient_weights import Weights
from .weighted_draws import Draws, weighted_draws, weighted_means

SetKind = Literal["lac", "aps"]

_ROUNDING = 1e-12  # sums of probabilities differ in the last digits with the order of summing


@dataclass(frozen=True)
class ConformalSets:
    """Which classes a clip's set holds.

    Attributes:
        kind: Of the scores.
        level: Promised coverage.
        by_class: Whether it is promised for each class.
        thresholds: Highest score that is let in, one, or with ``by_class`` K; infinite with too few patients.
        patients: How many each threshold rests on.
    """

    kind: SetKind
    level: float
    by_class: bool
    thresholds: tuple[float, ...]
    patients: tuple[int, ...]

    def apply(self, probabilities: np.ndarray) -> np.ndarray:
        """Whether each class is in each clip's set, bool [..., K], from probabilities [..., K]."""
        return class_scores(probabilities, self.kind) <= np.asarray(self.thresholds) + _ROUNDING

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None for an infinite threshold."""
        return {
            "kind": self.kind,
            "level": self.level,
            "by_class": self.by_class,
            "thresholds": [None if math.isinf(threshold) else threshold for threshold in self.thresholds],
            "patients": list(self.patients),
        }


@dataclass(frozen=True)
class ConformalInterval:
    """The same width around every prediction.

    Attributes:
        level: Promised coverage.
        half_width: In the unit of the label; infinite with too few patients.
        patients: How many it rests on.
        bounds: What the label can be; no end lies beyond. Nothing true is lost by that, so the coverage stays.
    """

    level: float
    half_width: float
    patients: int
    bounds: tuple[float, float] = (-math.inf, math.inf)

    def apply(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper ends [...] around predictions [...]."""
        return np.clip(values - self.half_width, *self.bounds), np.clip(values + self.half_width, *self.bounds)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; None for an infinite width."""
        half_width = None if math.isinf(self.half_width) else self.half_width
        bounds = [None if math.isinf(end) else end for end in self.bounds]
        return {"level": self.level, "half_width": half_width, "patients": self.patients, "bounds": bounds}


def sets_from_dict(plain: Mapping[str, Any]) -> ConformalSets:
    """What :meth:`ConformalSets.as_dict` wrote."""
    thresholds = tuple(math.inf if one is None else float(one) for one in plain["thresholds"])
    return ConformalSets(
        plain["kind"], float(plain["level"]), bool(plain["by_class"]), thresholds, tuple(map(int, plain["patients"]))
    )


def interval_from_dict(plain: Mapping[str, Any]) -> ConformalInterval:
    """What :meth:`ConformalInterval.as_dict` wrote."""
    half_width = math.inf if plain["half_width"] is None else float(plain["half_width"])
    low, high = plain.get("bounds") or (None, None)
    bounds = -math.inf if low is None else float(low), math.inf if high is None else float(high)
    return ConformalInterval(float(plain["level"]), half_width, int(plain["patients"]), bounds)


def fit_sets(
    probabilities: np.ndarray,
    truth: np.ndarray,
    patients: np.ndarray,
    *,
    level: float = 0.9,
    kind: SetKind = "lac",
    by_class: bool = False,
) -> ConformalSets:
    """Calibrate sets on predictions of clips whose patients the head had not seen.

    Args:
        probabilities: float [N, K]; a clip may be there several times, once for each repeat of the folds.
        truth: Class codes int [N].
        patients: Whose each clip is, [N].
        level: Promised coverage, between 0 and 1.
        kind: Of the scores.
        by_class: Whether to promise it for each class.

    Raises:
        SonokitError: No such kind, or a level that is no probability.
    """
    if kind not in get_args(SetKind):
        raise SonokitError(f"no conformal set {kind!r}: choose among {', '.join(get_args(SetKind))}")
    own = class_scores(probabilities, kind)[np.arange(len(truth)), truth]  # [N]
    parts = [truth == code for code in range(probabilities.shape[1])] if by_class else [np.ones(len(truth), dtype=bool)]
    thresholds = tuple(patient_quantile(own[part], patients[part], level) for part in parts)
    return ConformalSets(kind, level, by_class, thresholds, tuple(len(np.unique(patients[part])) for part in parts))


def fit_interval(
    values: np.ndarray,
    truth: np.ndarray,
    patients: np.ndarray,
    *,
    level: float = 0.9,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> ConformalInterval:
    """Calibrate an interval from absolute errors (Papadopoulos et al. 2002).

    Args:
        values: Predictions, float [N].
        truth: float [N].
        patients: Whose each clip is, [N].
        level: Promised coverage, between 0 and 1.
        bounds: What the label can be.
    """
    half_width = patient_quantile(np.abs(np.asarray(values) - truth), patients, level)
    return ConformalInterval(level, half_width, len(np.unique(patients)), bounds)


def class_scores(probabilities: np.ndarray, kind: SetKind) -> np.ndarray:
    """How badly each class fits each clip, float [..., K], from probabilities [..., K]: the higher, the worse."""
    given = np.asarray(probabilities, dtype=np.float64)
    if kind == "lac":
        return 1 - given
    as_likely = given[..., None, :] >= given[..., :, None]  # [..., K, K]: is the second at least as likely as the first?
    return (as_likely * given[..., None, :]).sum(axis=-1)


def patient_quantile(scores: np.ndarray, patients: np.ndarray, level: float) -> float:
    """The smallest score below which, counting a new patient as infinite, patients of weight ``level`` lie.

    Each of P patients has weight 1 / (P + 1), shared by that patient's clips; the new one has the rest.

    Args:
        scores: float [N].
        patients: Whose each is, [N].
        level: Between 0 and 1.

    Returns:
        Infinity where the patients are too few for the level.

    Raises:
        SonokitError: A level that is no probability.
    """
    if not 0 < level < 1:
        raise SonokitError(f"a coverage of {level:g} cannot be promised: choose one between 0 and 1, for instance 0.9")
    if not len(scores):
        return math.inf
    shares = _share_of_patient(patients, np.ones(len(patients), dtype=bool))
    weights = shares / (len(np.unique(patients)) + 1)
    order = np.argsort(scores, kind="stable")
    enough = np.cumsum(weights[order]) >= level - _ROUNDING
    return float(scores[order][enough.argmax()]) if enough.any() else math.inf


def coverage_report(
    inside: np.ndarray, patients: np.ndarray, *, sizes: np.ndarray | None = None, truth: np.ndarray | None = None,
    classes: tuple[str, ...] = (), n: int = 2000, seed: int = 0, level: float = 0.95,
) -> dict[str, Any]:  # fmt: skip
    """How often the truth was in, measured on clips that nothing was calibrated on.

    Args:
        inside: Whether each clip's set or interval holds its truth, in each of R repeats, bool [R, N].
        patients: Whose each clip is, [N].
        sizes: How many classes each set holds, int [R, N], or how wide each interval is, float [R, N].
        truth: Class codes [N], for the coverage of each class.
        classes: Their names.
        n: Resamples of the patients.
        seed: Of the resampling.
        level: Of the bootstrap interval (not the promised coverage).

    Returns:
        ``coverage``, mean over the patients, to which the promise refers, with its interval; ``coverage_of_clips``; ``size``
        (mean); for sets ``empty``, ``single`` and ``all`` (shares of the clips); ``by_class``, name -> coverage. Plain values.
    """
    everyone = np.ones(len(patients), dtype=bool)
    asked: dict[str, tuple[np.ndarray, np.ndarray]] = {  # name -> what each clip has, and how much it counts, [N]
        "coverage": (inside.mean(axis=0), _share_of_patient(patients, everyone)),
        "coverage_of_clips": (inside.mean(axis=0), everyone.astype(np.float64)),
    }
    if sizes is not None:
        asked["size"] = (sizes.mean(axis=0), everyone.astype(np.float64))
    of_class = {} if truth is None else {name: truth == code for code, name in enumerate(classes) if (truth == code).any()}
    asked |= {f"class {name}": (inside.mean(axis=0), _share_of_patient(patients, rows)) for name, rows in of_class.items()}
    figures = _intervals(asked, patients, n, seed, level)
    report: dict[str, Any] = {name: figures[name] for name in asked if not name.startswith("class ")}
    if sizes is not None and classes:
        wanted = {"empty": 0, "single": 1, "all": len(classes)}
        report |= {name: float((sizes == size).mean()) for name, size in wanted.items()}
    if of_class:
        report["by_class"] = {name: figures[f"class {name}"] for name in of_class}
    return report


def _share_of_patient(patients: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """One for each patient, shared by those clips of the patient's that are among ``rows``, bool [N]; 0 for the others."""
    shares = np.zeros(len(patients))
    _, owner, clips = np.unique(patients[rows], return_inverse=True, return_counts=True)
    shares[rows] = 1 / clips[owner.reshape(-1)]
    return shares


def _intervals(
    asked: dict[str, tuple[np.ndarray, np.ndarray]], patients: np.ndarray, n: int, seed: int, level: float
) -> dict[str, Any]:
    """The mean of each with its interval over those patients who count in it, as plain values."""
    values, amounts = (np.stack([pair[side] for pair in asked.values()], axis=1) for side in (0, 1))  # [N, M]

    def statistic(weights: Weights) -> Draws:
        return {"means": weighted_means(values, amounts, weights)}

    draws = weighted_draws(statistic, patients, n=n, seed=seed)["means"]  # [1 + n, M]
    return {
        name: interval(draws[:, place], patients[amounts[:, place] > 0], level).as_dict() for place, name in enumerate(asked)
    }
