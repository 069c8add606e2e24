import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.linear_model import Ridge
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.tree import DecisionTreeClassifier
from sonokit.errors import SonokitError
from sonokit.evaluation.calibration import fit_calibrator
from sonokit.evaluation.conformal import coverage_report
from sonokit.evaluation.nested import inner_folds, inner_out_of_fold, nested_out_of_fold, read_values, readouts_of_other_folds
from sonokit.evaluation.out_of_fold import FoldRows, out_of_fold
from sonokit.evaluation.predictions import Predictions
from sonokit.evaluation.probe import LinearProbe
from sonokit.evaluation.readout import ReadoutSettings, fit_readout, readout_from_dict, readout_of
from sonokit.evaluation.scores import Task

CLASSES = ("a", "b", "c")
SETTINGS = ReadoutSettings(inner_folds=3)
METHODS = ("platt", "temperature", "isotonic")


class Tree(BaseEstimator):
    """Learns its training rows by heart."""

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "Tree":
        self.model_ = DecisionTreeClassifier(random_state=0).fit(X, y)
        self.classes_ = self.model_.classes_
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return self.model_.predict_proba(X)

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.model_.predict(X)


class Line(BaseEstimator):
    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "Line":
        self.model_ = Ridge().fit(X, y)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.model_.predict(X)


def drawn(patients: int = 30, seed: int = 0, task: Task = "classification") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features [N, 4], truth [N] and patients [N], two clips a patient."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(patients), 2)
    codes = owner % 3
    inputs = np.eye(4)[codes] + rng.normal(0, 0.8, (len(owner), 4))
    truth = inputs @ np.array([1.0, 2, 3, 4]) + rng.normal(0, 1, len(owner)) if task == "regression" else codes
    return inputs, truth, owner.astype(str)


def divided(patients: np.ndarray, folds: int = 3, repeats: int = 1) -> list[FoldRows]:
    owner, made = patients.astype(int), []
    for repeat in range(repeats):
        part = np.random.default_rng(repeat).permutation(owner.max() + 1)[owner] % folds
        made += [
            FoldRows(repeat * folds + k, repeat, np.flatnonzero(part != k), np.flatnonzero(part == k)) for k in range(folds)
        ]
    return made


def nested(inputs: np.ndarray, truth: np.ndarray, patients: np.ndarray, folds: list[FoldRows], **settings: Any) -> Any:
    task = settings.pop("task", "classification")
    make = Line if task == "regression" else settings.pop("make", LinearProbe)
    classes = () if task == "regression" else CLASSES
    return nested_out_of_fold(
        make, lambda _: inputs, truth, patients, folds, task=task, classes=classes,
        settings=ReadoutSettings(inner_folds=3, **settings),
    )  # fmt: skip


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("task", ["classification", "ordinal", "regression"])
def test_nested__the_test_side_cannot_reach_what_is_fitted(method: Any, task: Task) -> None:
    """Other features and other labels on the test side leave calibrator, sets, interval and thresholds alike in every digit."""
    inputs, truth, patients = drawn(task=task)
    fold = divided(patients)[0]
    before = nested(inputs, truth, patients, [fold], task=task, calibration=method).readouts[0]
    spoilt, false = inputs.copy(), truth.copy()
    spoilt[fold.test] = spoilt[fold.test] * 1000 + 77
    false[fold.test] = false[fold.test][::-1]
    assert not np.array_equal(false, truth)
    after = nested(spoilt, false, patients, [fold], task=task, calibration=method).readouts[0]
    assert json.dumps(before.as_dict()) == json.dumps(after.as_dict())


@pytest.mark.parametrize("method", METHODS)
def test_nested__the_leak_test_catches_a_calibrator_fitted_outside_its_fold(method: Any) -> None:
    """The test above is worth something: fitted to all out-of-fold predictions, a calibrator moves with the tested labels."""
    inputs, truth, patients = drawn()
    folds = divided(patients)

    def leaky(labels: np.ndarray) -> str:
        values = out_of_fold(LinearProbe, lambda _: inputs, truth, patients, folds, task="classification", class_count=3)
        return json.dumps(fit_calibrator(values[0], labels, method=method).as_dict())

    false = truth.copy()
    false[folds[0].test] = false[folds[0].test][::-1]
    assert leaky(truth) != leaky(false)


def test_nested__predictions_are_those_of_out_of_fold() -> None:
    inputs, truth, patients = drawn()
    folds = divided(patients, repeats=2)
    seen: list[int] = []
    found = nested_out_of_fold(
        LinearProbe, lambda _: inputs, truth, patients, folds, task="classification", classes=CLASSES, settings=SETTINGS,
        fitted=lambda fold, _: seen.append(fold.index),
    )  # fmt: skip
    plain = out_of_fold(LinearProbe, lambda _: inputs, truth, patients, folds, task="classification", class_count=3)
    assert np.array_equal(found.raw, plain)
    assert seen == [0, 1, 2, 3, 4, 5]
    assert len(found.readouts) == 6
    for fold, readout in zip(folds, found.readouts, strict=True):
        place = fold.repeat, fold.test
        np.testing.assert_allclose(found.calibrated[place], readout.calibrated(plain[place]), atol=1e-7)
        assert readout.sets is not None
        assert np.array_equal(found.sets[place], readout.sets.apply(plain[place]))
    assert set(found.calls) == {f"{name} at {fixed} 0.9" for name in CLASSES for fixed in ("specificity", "sensitivity")}
    assert all(set(np.unique(calls)) <= {0.0, 1.0} for calls in found.calls.values())


def test_nested__a_head_that_learns_by_heart_keeps_the_promise_only_if_calibrated_on_unseen_patients() -> None:
    inputs, truth, patients = drawn(patients=90)
    folds = divided(patients)
    found = nested(inputs, truth, patients, folds, make=Tree)
    report = coverage_report(found.holds(truth), patients, sizes=found.sizes(), classes=CLASSES, n=200)
    assert report["coverage"]["high"] >= 0.9
    by_heart = []
    for fold in folds:
        tree = Tree().fit(inputs[fold.train], truth[fold.train])
        seen = tree.predict_proba(inputs[fold.train])[None]
        readout = fit_readout("classification", CLASSES, seen, truth[fold.train], patients[fold.train], SETTINGS)
        assert readout.sets is not None
        sets = readout.sets.apply(tree.predict_proba(inputs[fold.test]))
        by_heart.append(sets[np.arange(len(fold.test)), truth[fold.test]])
    assert np.concatenate(by_heart).mean() < 0.8


def test_nested__intervals_of_a_number_hold_about_what_was_promised() -> None:
    inputs, truth, patients = drawn(patients=120, task="regression")
    found = nested(inputs, truth, patients, divided(patients), task="regression", coverage=0.8)
    low, high = found.ends
    np.testing.assert_allclose((low + high) / 2, found.raw)
    assert np.array_equal(found.holds(truth), (low <= truth) & (truth <= high))
    report = coverage_report(found.holds(truth), patients, sizes=found.sizes(), n=200)
    assert report["coverage"]["low"] < 0.8 < report["coverage"]["high"]
    assert report["size"]["value"] == pytest.approx((high - low).mean())
    assert found.calls == {}


def test_other_folds__are_fitted_on_the_other_test_sides_of_the_same_repeat() -> None:
    inputs, truth, patients = drawn()
    folds = divided(patients, repeats=2)
    values = out_of_fold(LinearProbe, lambda _: inputs, truth, patients, folds, task="classification", class_count=3)
    found = readouts_of_other_folds(values, truth, patients, folds, task="classification", classes=CLASSES, settings=SETTINGS)
    assert np.array_equal(found.raw, values)
    rows = np.setdiff1d(np.arange(len(truth)), folds[4].test)
    expected = fit_readout("classification", CLASSES, values[1, rows][None], truth[rows], patients[rows], SETTINGS)
    place = 1, folds[4].test
    np.testing.assert_allclose(found.calibrated[place], expected.calibrated(values[place]), atol=1e-6)
    assert expected.sets is not None
    assert np.array_equal(found.sets[place], expected.sets.apply(values[place]))


def test_other_folds__a_patient_of_the_test_side_is_left_out() -> None:
    """Left-out sites may share a patient: without that patient there is nobody left here."""
    truth, values = np.array([0, 1]), np.full((1, 2, 2), 0.5)
    folds = [FoldRows(k, 0, np.array([1 - k]), np.array([k])) for k in (0, 1)]
    with pytest.raises(SonokitError, match="no other fold to calibrate on"):
        readouts_of_other_folds(
            values, truth, np.array(["p", "p"]), folds, task="classification", classes=("a", "b"), settings=SETTINGS
        )


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_read_values__is_what_the_readout_says_of_each_clip(task: Task) -> None:
    inputs, truth, patients = drawn(task=task)
    folds = divided(patients)
    found = nested(inputs, truth, patients, folds, task=task)
    again = read_values(found.readouts[0], task, () if task == "regression" else CLASSES, found.raw[:, folds[0].test])
    assert np.array_equal(again.calibrated[0], found.calibrated[0, folds[0].test])
    assert np.array_equal(again.holds(truth[folds[0].test])[0], found.holds(truth)[0, folds[0].test])
    assert np.array_equal(again.sizes()[0], found.sizes()[0, folds[0].test])
    assert all(np.array_equal(again.calls[name][0], calls[0, folds[0].test]) for name, calls in found.calls.items())


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_inner_folds__keep_patients_apart_and_test_every_row_once(task: Task) -> None:
    _, truth, patients = drawn(task=task)
    folds = inner_folds(truth, patients, task=task, folds=4)
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(60))
    assert all(not set(patients[fold.train]) & set(patients[fold.test]) for fold in folds)
    if task == "classification":
        assert all(set(truth[fold.train]) == {0, 1, 2} for fold in folds)


def test_inner_out_of_fold__few_patients_make_few_folds_and_one_is_refused() -> None:
    inputs, truth, patients = drawn(patients=3)
    values = inner_out_of_fold(LinearProbe, inputs, truth, patients, task="classification", class_count=3)
    np.testing.assert_allclose(values.sum(axis=1), 1)
    assert (values[np.arange(6), truth] == 0).all()  # nobody else is of that class
    with pytest.raises(SonokitError, match="one patient only"):
        inner_out_of_fold(LinearProbe, inputs[:2], truth[:2], patients[:2], task="classification", class_count=3)


def test_fit_readout__the_same_predictions_in_every_repeat_count_once() -> None:
    inputs, truth, patients = drawn()
    values = inner_out_of_fold(LinearProbe, inputs, truth, patients, task="classification", class_count=3)
    once, thrice = (
        fit_readout("classification", CLASSES, np.repeat(values[None], repeats, axis=0), truth, patients, SETTINGS)
        for repeats in (1, 3)
    )
    assert (once.sets, once.points) == (thrice.sets, thrice.points)
    np.testing.assert_allclose(once.calibrated(values), thrice.calibrated(values), atol=1e-5)


@pytest.mark.parametrize("task", ["classification", "ordinal", "regression"])
def test_readout__comes_back_from_json_the_same(task: Task) -> None:
    inputs, truth, patients = drawn(task=task)
    count = 0 if task == "regression" else 3
    make = Line if task == "regression" else LinearProbe
    values = inner_out_of_fold(make, inputs, truth, patients, task=task, class_count=count)
    found = readout_of(Predictions(task, CLASSES[:count], patients, patients, truth, values[None]), SETTINGS)
    plain = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert readout_from_dict(plain) == found
    with pytest.raises(SonokitError, match="update sonokit"):
        readout_from_dict(plain | {"schema_version": 99})
    with pytest.raises(SonokitError, match="damaged"):
        readout_from_dict({"schema_version": 1})


def test_modules__need_no_torch() -> None:
    names = ("nested", "by_group", "decision_curve", "calibration_scores")
    imports = "\n".join(f"import sonokit.evaluation.{name}" for name in names)
    code = f"{imports}\nimport sys\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_inner_folds__every_one_tests_something() -> None:
    """A few large patients, by which scikit-learn's division leaves one of five folds without anybody."""
    sizes = [2, 5, 5, 1, 9]
    patients, truth = np.repeat(np.arange(5), sizes), np.repeat([0, 0, 1, 1, 1], sizes)
    plain = StratifiedGroupKFold(5, shuffle=True, random_state=3).split(truth, truth, patients)
    assert sorted(len(test) > 0 for _, test in plain) == [False, True, True, True, True]
    folds = inner_folds(truth, patients, task="classification", folds=5, seed=3)
    assert [fold.index for fold in folds] == [0, 1, 2, 3]
    assert all(len(fold.test) and len(fold.train) for fold in folds)
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(len(truth)))
    assert all(not set(patients[fold.train]) & set(patients[fold.test]) for fold in folds)


def test_inner_folds__never_fewer_than_two(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nobody:
        def __init__(self, n_splits: int, **settings: Any) -> None: ...

        def split(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray) -> Any:
            return iter([(np.arange(0), np.arange(len(X))), (np.arange(len(X)), np.arange(0))])

    monkeypatch.setattr("sonokit.evaluation.nested.StratifiedGroupKFold", Nobody)
    folds = inner_folds(np.array([0, 1, 0, 1]), np.arange(4), task="classification")
    assert [len(fold.test) for fold in folds] == [2, 2]


def test_nested__a_fold_without_training_rows_is_named() -> None:
    inputs, truth, patients = drawn()
    everyone = np.arange(len(truth))
    with pytest.raises(SonokitError, match="fold 3 leaves no clip to train on"):
        nested(inputs, truth, patients, [FoldRows(3, 0, everyone[:0], everyone)])
