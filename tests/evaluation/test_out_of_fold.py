from typing import Any

import numpy as np
import pandas as pd
import pytest
from sonokit.clips.splits import make_splits
from sonokit.errors import SonokitError
from sonokit.evaluation.out_of_fold import FoldRows, fold_rows, out_of_fold, site_rows

PATIENTS = np.array([f"p{k // 2}" for k in range(24)])
IDS = np.array([f"c{k:02d}" for k in range(24)])
TABLE = pd.DataFrame({"clip_id": IDS, "label": ["a", "a", "b", "b"] * 6})


class Remembers:
    """Predicts class 1 surely, and keeps what it was given."""

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "Remembers":
        self.seen, self.groups, self.classes_ = X.copy(), groups, np.unique(y)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return np.full(len(X), self.seen.mean())

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return np.tile(np.eye(len(self.classes_))[-1], (len(X), 1))


def splits(**settings: Any) -> Any:
    return make_splits(TABLE, PATIENTS, label="label", patient_column="patient_id", folds=3, **settings)


def test_fold_rows__each_clip_tested_once_a_repeat_and_no_patient_on_both_sides() -> None:
    folds = fold_rows(splits(repeats=2), IDS, PATIENTS)
    assert [fold.repeat for fold in folds] == [0, 0, 0, 1, 1, 1]
    for repeat in (0, 1):
        tested = np.concatenate([fold.test for fold in folds if fold.repeat == repeat])
        assert sorted(tested) == list(range(24))
    assert all(not set(PATIENTS[fold.train]) & set(PATIENTS[fold.test]) for fold in folds)


def test_fold_rows__held_out_clips_are_in_neither_part() -> None:
    divided = splits(held_out=0.3)
    held_out = np.flatnonzero(np.isin(IDS, divided.held_out))
    assert len(held_out)
    for fold in fold_rows(divided, IDS, PATIENTS):
        assert not set(held_out) & {*fold.train, *fold.test}


def test_fold_rows__some_clips_only() -> None:
    some = np.arange(0, 24, 2)
    folds = fold_rows(splits(), IDS[some], PATIENTS[some])
    assert sorted(np.concatenate([fold.test for fold in folds])) == list(range(12))


def test_fold_rows__another_patient_column_is_refused() -> None:
    with pytest.raises(SonokitError, match="patient"):
        fold_rows(splits(), IDS, np.roll(PATIENTS, 1))


def test_fold_rows__unknown_clip_is_refused() -> None:
    with pytest.raises(SonokitError, match="strange"):
        fold_rows(splits(), np.append(IDS, "strange"), np.append(PATIENTS, "px"))


def test_out_of_fold__sees_training_rows_only() -> None:
    seen: list[tuple[FoldRows, Any]] = []
    inputs = np.arange(24.0)[:, None]
    folds = fold_rows(splits(repeats=2), IDS, PATIENTS)
    out_of_fold(
        Remembers, lambda _: inputs, np.arange(24) % 2, PATIENTS, folds, task="classification", class_count=2,
        fitted=lambda fold, estimator: seen.append((fold, estimator)),
    )  # fmt: skip
    assert len(seen) == 6
    for fold, estimator in seen:
        assert np.array_equal(estimator.seen[:, 0], fold.train)
        assert np.array_equal(estimator.groups, PATIENTS[fold.train])


def test_out_of_fold__class_that_training_lacks_has_probability_zero() -> None:
    truth = np.array([0, 0, 1, 1, 2, 2])
    fold = FoldRows(0, 0, np.array([0, 1, 2, 3]), np.array([4, 5]))
    found = out_of_fold(
        Remembers, lambda _: np.zeros((6, 1)), truth, PATIENTS[:6], [fold], task="classification", class_count=3
    )
    assert found.shape == (1, 6, 3)
    assert found[0, 4:].tolist() == [[0, 1, 0]] * 2
    assert np.isnan(found[0, :4]).all()


def test_out_of_fold__one_class_to_train_on_is_predicted() -> None:
    fold = FoldRows(0, 0, np.array([0, 1]), np.array([2, 3]))
    found = out_of_fold(
        Remembers,
        lambda _: np.zeros((4, 1)),
        np.array([1, 1, 0, 0]),
        PATIENTS[:4],
        [fold],
        task="classification",
        class_count=2,
    )
    assert found[0, 2:].tolist() == [[0, 1]] * 2


def test_site_rows__no_patient_of_the_site_and_nobody_of_unknown_site_trains() -> None:
    sites = np.array(["a", "a", "b", "b", "", "b"])
    patients = np.array(["1", "2", "2", "3", "4", "5"])
    usable = np.array([True, True, True, True, True, False])
    first, second = site_rows(sites, patients, usable)
    assert (first.test.tolist(), first.train.tolist()) == ([0, 1], [3])
    assert (second.test.tolist(), second.train.tolist()) == ([2, 3], [0])
