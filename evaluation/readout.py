"""All that stands between a head's raw output and what an expert says: calibrator, conformal set, operating points.

A readout is fitted to predictions of clips that the head had not seen, never to the clips that it is scored on. It is plain
numbers, kept as JSON beside the head. Conformal sets read the raw probabilities, so that their promise does not rest on a
calibrator that was fitted to the same clips; operating points read the calibrated ones, since those are what a user sees.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import SonokitError
from .calibration import Calibrator, Method, calibrator_from_dict, fit_calibrator
from .conformal import ConformalInterval, ConformalSets, SetKind, fit_interval, fit_sets, interval_from_dict, sets_from_dict
from .findings import findings
from .operating_points import Fixed, OperatingPoint, fit_point, point_from_dict
from .predictions import Predictions
from .scores import Task

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ReadoutSettings:
    """How readouts are fitted.

    Attributes:
        calibration: See :mod:`sonokit.evaluation.calibration`.
        coverage: That conformal sets and intervals promise.
        sets: See :mod:`sonokit.evaluation.conformal`.
        by_class: Whether the coverage is promised for each class.
        points: What each finding's thresholds are chosen for, (what, how much).
        inner_folds: Of a training side, for predictions of clips that a head had not seen.
        seed: Of the inner folds.
        bounds: What a number can be, where that is known; ends of intervals stay inside.
    """

    calibration: Method = "platt"
    coverage: float = 0.9
    sets: SetKind = "lac"
    by_class: bool = False
    points: tuple[tuple[Fixed, float], ...] = (("specificity", 0.9), ("sensitivity", 0.9))
    inner_folds: int = 5
    seed: int = 0
    bounds: tuple[float, float] = (-math.inf, math.inf)


@dataclass(frozen=True)
class Readout:
    """A fitted readout; for regression the interval alone, else all but the interval."""

    calibrator: Calibrator | None
    sets: ConformalSets | None
    interval: ConformalInterval | None
    points: tuple[OperatingPoint, ...]

    def calibrated(self, values: np.ndarray) -> np.ndarray:
        """Calibrated probabilities of raw ones [..., K], to seven digits, as they are kept; values [...] stay as they are."""
        return values if self.calibrator is None else np.round(self.calibrator.apply(values), 7)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "schema_version": SCHEMA_VERSION,
            "calibrator": None if self.calibrator is None else self.calibrator.as_dict(),
            "sets": None if self.sets is None else self.sets.as_dict(),
            "interval": None if self.interval is None else self.interval.as_dict(),
            "points": [point.as_dict() for point in self.points],
        }


def fit_readout(
    task: Task,
    classes: tuple[str, ...],
    values: np.ndarray,
    truth: np.ndarray,
    patients: np.ndarray,
    settings: ReadoutSettings,
) -> Readout:
    """Fit everything to predictions of clips that the head had not seen.

    Args:
        task: What kind of label it is.
        classes: Names of the K classes; empty for regression.
        values: Raw, in each of R repeats: float [R, N, K], or [R, N] for regression. A clip's R predictions share its weight.
        truth: Class codes int [N], or float [N].
        patients: Whose each clip is, [N].
        settings: How.

    Raises:
        SonokitError: There is no prediction, or a setting that there is not.
    """
    repeats, clips = values.shape[:2]
    if not repeats * clips:
        raise SonokitError("there is no prediction to fit a readout to: take more patients")
    flat, told = values.reshape(repeats * clips, *values.shape[2:]), np.tile(truth, repeats)
    owners, weights = np.tile(patients, repeats), np.full(repeats * clips, 1 / repeats)
    if task == "regression":
        return Readout(None, None, fit_interval(flat, told, owners, level=settings.coverage, bounds=settings.bounds), ())
    calibrator = fit_calibrator(flat, told, method=settings.calibration, weights=weights)
    sets = fit_sets(flat, told, owners, level=settings.coverage, kind=settings.sets, by_class=settings.by_class)
    calibrated = Readout(calibrator, sets, None, ()).calibrated(flat)
    points = tuple(
        fit_point(finding, calibrated, told, fixed=fixed, wanted=wanted, weights=weights)
        for finding in findings(task, classes)
        for fixed, wanted in settings.points
    )
    return Readout(calibrator, sets, None, points)


def readout_of(predictions: Predictions, settings: ReadoutSettings) -> Readout:
    """The readout of a finished expert, from its out-of-fold predictions, raw: all that can be had of clips that no head saw.

    Its promise cannot be measured on the clips of ``predictions``; see :mod:`sonokit.evaluation.nested` for what can.
    """
    found = predictions
    return fit_readout(found.task, found.classes, found.values, found.truth, found.patients, settings)


def readout_from_dict(plain: Mapping[str, Any]) -> Readout:
    """What :meth:`Readout.as_dict` wrote.

    Raises:
        SonokitError: It is damaged, or a newer version wrote it.
    """
    try:
        version = int(plain["schema_version"])
        if version > SCHEMA_VERSION:
            raise SonokitError(
                f"this readout has schema version {version}, this sonokit knows {SCHEMA_VERSION}: update sonokit"
            )
        calibrator, sets, interval = plain["calibrator"], plain["sets"], plain["interval"]
        return Readout(
            None if calibrator is None else calibrator_from_dict(calibrator),
            None if sets is None else sets_from_dict(sets),
            None if interval is None else interval_from_dict(interval),
            tuple(point_from_dict(point) for point in plain["points"]),
        )
    except (KeyError, TypeError, ValueError) as fault:
        raise SonokitError(f"the readout is damaged ({fault}): fit the expert again") from fault
