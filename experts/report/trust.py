"""What a report says of how far an expert's answers can be trusted: calibration, coverage, calls, usefulness, groups.

All of it is measured on clips that neither the head nor its readout had met: out of fold, held out, or of another hospital.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ...evaluation.bootstrap import Interval
from ...evaluation.by_group import scores_by_group
from ...evaluation.calibration_scores import calibration_gain, calibration_intervals, chance_error, reliability_curve
from ...evaluation.conformal import coverage_report
from ...evaluation.decision_curve import decision_curve
from ...evaluation.findings import findings
from ...evaluation.nested import Reading
from ...evaluation.operating_points import call_intervals
from ...evaluation.predictions import Predictions


def trust_entries(
    predictions: Predictions, reading: Reading, groups: Mapping[str, np.ndarray], *, draws: int, seed: int, level: float
) -> dict[str, Any]:
    """The figures as a report keeps them, plain values only.

    Args:
        predictions: Raw, of the N clips that every repeat predicts.
        reading: Of the same clips in the same order; see :meth:`~sonokit.evaluation.nested.Reading.select`.
        groups: Column -> the group of each clip, str [N]; see :func:`~sonokit.evaluation.by_group.group_names`.
        draws: Resamples of the patients.
        seed: Of the resampling.
        level: Of the intervals.

    Returns:
        ``conformal``, ``groups``, and for classes ``calibration``, ``operating_points`` and ``decision_curves``.
    """
    settings: dict[str, Any] = {"n": draws, "seed": seed, "level": level}
    entries: dict[str, Any] = {
        "conformal": _conformal(predictions, reading, settings),
        "groups": {column: scores_by_group(predictions, names, **settings) for column, names in groups.items()},
    }
    if predictions.task == "regression":
        return entries
    calibrated = _with_values(predictions, reading.calibrated)
    asked = findings(predictions.task, predictions.classes)
    return entries | {
        "calibration": _calibration(predictions, calibrated, reading, settings),
        "operating_points": _operating_points(predictions, reading, settings),
        "decision_curves": {finding.name: decision_curve(calibrated, finding, **settings) for finding in asked},
    }


def _with_values(predictions: Predictions, values: np.ndarray) -> Predictions:
    found = predictions
    return Predictions(found.task, found.classes, found.clip_ids, found.patients, found.truth, values)


def _conformal(predictions: Predictions, reading: Reading, settings: dict[str, Any]) -> dict[str, Any]:
    told = reading.readouts[0].interval or reading.readouts[0].sets
    assert told is not None
    described: dict[str, Any] = {"promised": told.level}
    if reading.readouts[0].sets is not None:
        described |= {"kind": reading.readouts[0].sets.kind, "for_each_class": reading.readouts[0].sets.by_class}
    classes = predictions.classes
    measured = coverage_report(
        reading.holds(predictions.truth), predictions.patients, sizes=reading.sizes(),
        truth=predictions.truth if classes else None, classes=classes, **settings,
    )  # fmt: skip
    return described | measured


def _calibration(raw: Predictions, calibrated: Predictions, reading: Reading, settings: dict[str, Any]) -> dict[str, Any]:
    sides = {"raw": raw, "calibrated": calibrated}
    asked = findings(raw.task, raw.classes)
    calibrator = reading.readouts[0].calibrator
    return {
        "method": None if calibrator is None else calibrator.method,
        **{name: _plain(calibration_intervals(side, **settings)) for name, side in sides.items()},
        "gain": _plain(calibration_gain(raw, calibrated, **settings)),
        "error_by_chance": {name: chance_error(side, seed=settings["seed"]) for name, side in sides.items()},
        "curves": {
            name: {finding.name: reliability_curve(side, finding, **settings) for finding in asked}
            for name, side in sides.items()
        },
    }


def _operating_points(predictions: Predictions, reading: Reading, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Those for which every fold found a threshold."""
    entries = []
    for place, point in enumerate(reading.readouts[0].points):
        thresholds = [readout.points[place].threshold for readout in reading.readouts]
        entry = {"name": point.name, "fixed": point.fixed, "wanted": point.wanted}
        chosen = [threshold for threshold in thresholds if threshold is not None]
        if len(chosen) < len(thresholds):
            continue
        present = point.finding.present(predictions.truth)
        figures = call_intervals(present, reading.calls[point.name], predictions.patients, **settings)
        entries.append(entry | {"thresholds": [min(chosen), max(chosen)]} | _plain(figures))
    return entries


def _plain(figures: dict[str, Interval]) -> dict[str, Any]:
    return {name: figure.as_dict() for name, figure in figures.items()}
