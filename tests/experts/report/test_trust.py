import json
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression
from sonokit.evaluation.nested import Reading, nested_out_of_fold
from sonokit.evaluation.out_of_fold import FoldRows
from sonokit.evaluation.predictions import Predictions
from sonokit.evaluation.readout import ReadoutSettings
from sonokit.evaluation.scores import Task
from sonokit.experts.report.plots import trust_pictures
from sonokit.experts.report.trust import trust_entries

SETTINGS = {"draws": 30, "seed": 0, "level": 0.95}


class Plain:
    """scikit-learn's own, deaf to groups."""

    def __init__(self, regression: bool) -> None:
        self.model: Any = LinearRegression() if regression else LogisticRegression()

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "Plain":
        self.model.fit(X, y)
        self.classes_ = getattr(self.model, "classes_", None)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.model.predict(X)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return self.model.predict_proba(X)


def measured(task: Task, untested: int = 0) -> tuple[Predictions, Reading]:
    """Eighty clips of forty patients; the first ``untested`` clips are in no test side."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), 2).astype(str)
    codes = np.arange(80) // 2 % 3
    inputs = np.eye(3)[codes] + rng.normal(0, 0.5, (80, 3))
    truth = codes + rng.normal(0, 0.3, 80) if task == "regression" else codes
    classes = () if task == "regression" else ("a_lines", "b", "c")
    part = np.arange(80) // 2 % 4
    tested = np.arange(80) >= untested
    folds = [FoldRows(k, 0, np.flatnonzero(part != k), np.flatnonzero((part == k) & tested)) for k in range(4)]
    reading = nested_out_of_fold(
        lambda: Plain(task == "regression"), lambda _: inputs, truth, patients, folds, task=task, classes=classes,
        settings=ReadoutSettings(inner_folds=3),
    )  # fmt: skip
    predictions = Predictions(task, classes, np.arange(80).astype(str), patients, truth, reading.raw)
    return predictions.select(tested), reading.select(tested)


@pytest.mark.parametrize("task", ["classification", "ordinal", "regression"])
def test_trust_entries__are_plain_values_that_repeat_what_was_read(task: Task) -> None:
    predictions, reading = measured(task, untested=6)
    sites = np.where(np.arange(74) < 30, "s1", "s2")
    found = json.loads(json.dumps(trust_entries(predictions, reading, {"site": sites}, **SETTINGS), allow_nan=False))
    conformal = found["conformal"]
    assert conformal["promised"] == 0.9
    assert conformal["coverage_of_clips"]["value"] == pytest.approx(reading.holds(predictions.truth).mean())
    assert [(group["group"], group["clips"]) for group in found["groups"]["site"]] == [("s2", 44), ("s1", 30)]
    assert ("calibration" in found) == (task != "regression")
    if task == "regression":
        assert conformal["size"]["value"] == pytest.approx(reading.sizes().mean())
        return
    assert (conformal["kind"], conformal["for_each_class"]) == ("lac", False)
    calibration = found["calibration"]
    gain = calibration["calibrated"]["brier"]["value"] - calibration["raw"]["brier"]["value"]
    assert calibration["gain"]["brier"]["value"] == pytest.approx(gain)
    names = ["a_lines", "b", "c"] if task == "classification" else ["b or more", "c"]
    assert list(found["decision_curves"]) == list(calibration["curves"]["raw"]) == names
    assert len(found["operating_points"]) == 2 * len(names)
    for point in found["operating_points"]:
        assert 0 < point["thresholds"][0] <= point["thresholds"][1]
        assert point["sensitivity"]["value"] > 0.4


@pytest.mark.parametrize(("task", "count"), [("classification", 5), ("regression", 2)])
def test_trust_pictures__one_each_and_none_of_a_column_of_one_value(task: Task, count: int) -> None:
    predictions, reading = measured(task)
    groups = {"site": np.where(np.arange(80) < 40, "s1", "s2"), "probe": np.full(80, "convex")}
    found = trust_entries(predictions, reading, groups, **SETTINGS)
    pictures = trust_pictures(found, "mae" if task == "regression" else "balanced_accuracy", "score")
    titles = [title for title, _, _ in pictures]
    assert len(titles) == count
    assert titles[-1] == "By site"
    assert "Coverage" in titles


def test_trust_entries__a_point_without_a_threshold_in_some_fold_is_left_out() -> None:
    predictions, reading = measured("classification")
    (first, *rest) = reading.readouts
    points = tuple(type(point)(point.finding, point.fixed, point.wanted, None) for point in first.points[:1])
    lame = type(first)(first.calibrator, first.sets, first.interval, (*points, *first.points[1:]))
    without = Reading(reading.raw, reading.calibrated, reading.sets, reading.ends, reading.calls, [lame, *rest])
    kept = trust_entries(predictions, without, {}, **SETTINGS)["operating_points"]
    assert [point["name"] for point in kept] == [point.name for point in first.points[1:]]
