"""Nothing that is fitted may have met the rows that it is scored on.

Each test spoils the test side of one fold (huge features, labels turned round) and looks at everything that was fitted for that
fold: scaler, choice, calibrator, sets, interval, thresholds. All of it must be the same in every digit. The same look at a
procedure that leaks on purpose must see a difference, else the test would prove nothing.
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.feature_selection import f_classif
from sklearn.preprocessing import StandardScaler
from sonokit.evaluation.nested import inner_out_of_fold, nested_out_of_fold
from sonokit.evaluation.out_of_fold import FoldRows
from sonokit.evaluation.readout import ReadoutSettings, fit_readout
from sonokit.evaluation.scores import Task
from sonokit.experts.heads import ChosenHead, SearchSettings, make_head

CLASSES = ("a", "b", "c")
SETTINGS = ReadoutSettings(inner_folds=3)
TASKS: tuple[Task, ...] = ("classification", "ordinal", "regression")
COLUMNS = {"first": np.arange(3), "last": np.arange(3, 6)}
Make = Callable[[], Any]
Features = Callable[[np.ndarray, np.ndarray], np.ndarray]


def drawn(task: Task) -> tuple[np.ndarray, np.ndarray, np.ndarray, FoldRows]:
    """Features [N, 6], truth [N], patients [N] of two clips each, and one fold."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(24), 2)
    codes = patients % 3
    inputs = rng.normal(size=(48, 6))
    inputs[:, :3] += np.eye(3)[codes]
    truth = codes + rng.normal(0, 0.3, 48) if task == "regression" else codes
    test = patients >= 16
    return inputs, truth, patients.astype(str), FoldRows(0, 0, np.flatnonzero(~test), np.flatnonzero(test))


def spoilt(inputs: np.ndarray, truth: np.ndarray, fold: FoldRows) -> tuple[np.ndarray, np.ndarray]:
    """The test side's features out of all proportion, its labels turned round."""
    inputs, truth = inputs.copy(), truth.copy()
    inputs[fold.test] = 1e6 * inputs[fold.test] + 1e7
    truth[fold.test] = truth.max() - truth[fold.test]
    return inputs, truth


def as_they_are(inputs: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return inputs


def fitted_things(make: Make, features: Features, task: Task, *, spoil: bool) -> str:
    """All that was fitted for the fold, as text: the scaler, what was chosen, the weights, and the readout."""
    inputs, truth, patients, fold = drawn(task)
    if spoil:
        inputs, truth = spoilt(inputs, truth, fold)
    heads: list[Any] = []
    found = nested_out_of_fold(
        make, lambda _: features(inputs, truth), truth, patients, [fold], task=task,
        classes=() if task == "regression" else CLASSES, settings=SETTINGS, fitted=lambda _, head: heads.append(head),
    )  # fmt: skip
    return json.dumps([described(heads[0]), found.readouts[0].as_dict()], default=str)


def described(head: Any) -> dict[str, Any]:
    """The numbers inside a fitted linear head, a threshold's too, and what a choice says of itself."""
    told: dict[str, Any] = {}
    if hasattr(head, "chosen_"):
        told = {"chosen": head.chosen_, "recipe": head.recipe_, "settings": head.settings_}
        told["scores"] = [(trial["settings"], trial["inner_score"]) for trial in head.trials_]
        head = head.head_
    for k, model in enumerate(getattr(head, "models_", [head])):
        scaler, weights = model.pipeline_["scale"], model.pipeline_["model"]
        told[f"model {k}"] = [part.tolist() for part in (scaler.mean_, scaler.scale_, weights.coef_)]
    return told


def plain(task: Task) -> Make:
    return lambda: make_head(("linear",), task)


def choosing(task: Task) -> Make:
    search = SearchSettings(trials=3, inner_folds=3)
    return lambda: make_head(("linear",), task, columns=COLUMNS, search=search)


@pytest.mark.parametrize("make", [plain, choosing])
@pytest.mark.parametrize("task", TASKS)
def test_leak__nothing_that_is_fitted_knows_the_test_side(task: Task, make: Callable[[Task], Make]) -> None:
    clean, poisoned = (fitted_things(make(task), as_they_are, task, spoil=spoil) for spoil in (False, True))
    assert clean == poisoned


def scaled_outside(inputs: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return StandardScaler().fit_transform(inputs)


def selected_outside(inputs: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """The five features that go best with the labels of all rows, in their order."""
    kept = np.sort(np.argsort(-f_classif(inputs, truth.round().astype(int))[0])[:5])
    return np.pad(inputs[:, kept], ((0, 0), (0, 1)))


@pytest.mark.parametrize("make", [plain, choosing])
@pytest.mark.parametrize("leaky", [scaled_outside, selected_outside])
@pytest.mark.parametrize("task", TASKS)
def test_leak__scaler_or_selector_outside_its_fold_is_seen(task: Task, leaky: Features, make: Callable[[Task], Make]) -> None:
    clean, poisoned = (fitted_things(make(task), leaky, task, spoil=spoil) for spoil in (False, True))
    assert clean != poisoned


def chosen_outside(task: Task, *, spoil: bool) -> str:
    """A recipe and a setting that were chosen once, on all rows, and then kept for the fold."""
    inputs, truth, patients, fold = drawn(task)
    if spoil:
        inputs, truth = spoilt(inputs, truth, fold)
    told = described(choosing(task)().fit(inputs, truth, patients))
    return json.dumps({name: told[name] for name in ("chosen", "recipe", "settings", "scores")})


@pytest.mark.parametrize("task", TASKS)
def test_leak__choice_outside_its_fold_is_seen(task: Task) -> None:
    assert chosen_outside(task, spoil=False) != chosen_outside(task, spoil=True)


def read_outside(task: Task, *, spoil: bool) -> str:
    """Calibrator, sets, interval and thresholds fitted to out-of-fold predictions of all rows, the tested ones among them."""
    inputs, truth, patients, fold = drawn(task)
    if spoil:
        inputs, truth = spoilt(inputs, truth, fold)
    classes = () if task == "regression" else CLASSES
    values = inner_out_of_fold(plain(task), inputs, truth, patients, task=task, class_count=len(classes), folds=3)
    return json.dumps(fit_readout(task, classes, values[None], truth, patients, SETTINGS).as_dict())


@pytest.mark.parametrize("task", TASKS)
def test_leak__readout_outside_its_fold_is_seen(task: Task) -> None:
    assert read_outside(task, spoil=False) != read_outside(task, spoil=True)


class Recognises(BaseEstimator):
    """The first feature is the patient's number; what it says is how many of the rows' patients it was fitted on."""

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "Recognises":
        self.seen_ = set(X[:, 0])
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return np.isin(X[:, 0], list(self.seen_)).astype(float)


@pytest.mark.parametrize("staged", [False, True])
def test_leak__inner_values_are_of_heads_that_did_not_know_the_patient(staged: bool) -> None:
    _, truth, patients, _ = drawn("regression")
    numbers = patients.astype(float)[:, None]
    search = SearchSettings(seconds=0 if staged else None, inner_folds=4)
    head = ChosenHead({"a": Recognises(), "b": Recognises()}, task="regression", search=search)
    head.fit(numbers, truth, patients)
    assert np.all(head.inner_values_ == 0)
    assert (head.predict(numbers) == 1).all()
    by_row = ChosenHead({"a": Recognises()}, task="regression", search=search).fit(numbers, truth)  # told of no patients
    assert np.any(by_row.inner_values_ == 1)


def test_nested__a_choice_is_read_by_its_own_inner_values_and_made_once() -> None:
    """No second inner loop: the choice is fitted once a fold, and its inner predictions are what the readout is fitted to."""
    inputs, truth, patients, fold = drawn("classification")
    made: list[Any] = []

    def make() -> Any:
        made.append(choosing("classification")())
        return made[-1]

    found = nested_out_of_fold(
        make, lambda _: inputs, truth, patients, [fold], task="classification", classes=CLASSES, settings=SETTINGS
    )
    assert len(made) == 1
    expected = fit_readout(
        "classification", CLASSES, made[0].inner_values_[None], truth[fold.train], patients[fold.train], SETTINGS
    )
    assert found.readouts[0] == expected


def test_nested__rows_that_a_choice_did_not_look_at_and_classes_it_never_met_are_left_out() -> None:
    inputs, truth, patients, fold = drawn("classification")
    train = fold.train[truth[fold.train] < 2]  # no row of the last class
    head = make_head(("linear",), "classification", columns=COLUMNS).set_params(choosing_rows=14)
    found = nested_out_of_fold(
        lambda: head, lambda _: inputs, truth, patients, [FoldRows(0, 0, train, fold.test)], task="classification",
        classes=CLASSES, settings=SETTINGS,
    )  # fmt: skip
    known = ~np.isnan(head.inner_values_).any(axis=1)
    assert known.sum() == 14
    values = np.pad(head.inner_values_[known], ((0, 0), (0, 1)))
    expected = fit_readout("classification", CLASSES, values[None], truth[train][known], patients[train][known], SETTINGS)
    assert found.readouts[0] == expected
