from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sonokit.clips.splits import Splits, make_splits
from sonokit.evaluation.out_of_fold import FoldRows, fold_rows
from sonokit.evaluation.readout import ReadoutSettings
from sonokit.experts.crossval import QuestionFeatures
from sonokit.experts.distilled import (
    Distillation,
    DistilledHead,
    EnsembleTeacher,
    Unlabelled,
    distil_out_of_fold,
    find_unlabelled,
)
from sonokit.experts.question import pose
from sonokit.experts.recipes import clip_table

LABELS = ("diagnosis", "severity", "ratio")


class Spy:
    """A head that keeps whose clips it was fitted on: its first feature is the clip's number."""

    def __init__(self, kept: list[Any]) -> None:
        self.kept = kept

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "Spy":
        self.kept.append((X[:, 0].astype(int), np.asarray(groups)))
        self.classes_ = np.arange(3)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return np.zeros(len(X))

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return np.tile([0.5, 0.25, 0.25], (len(X), 1))


class Watched(QuestionFeatures):
    """Notes in ``kept`` for which fold it was asked."""

    def __init__(self, store: Any, question: Any, recipes: Any, splits: Splits, kept: list[Any]) -> None:
        super().__init__(store, question, recipes, splits)
        self.kept = kept

    def of(self, fold: FoldRows) -> np.ndarray:
        self.kept.append(fold)
        return super().of(fold)


def leaks(write: Any, clips: pd.DataFrame, folder: Path, *, label: str = "diagnosis", nested: bool = False) -> tuple[int, int]:
    """In how many fits (of a teacher's member or of a student) a clip took part, labelled or not, of a patient whom its fold
    tests or who is held out; and in how many one of a patient whom its inner fold tests.

    Two clips a patient, of which every third clip has no label.
    """
    unknown = clips.index.to_numpy() % 3 == 0
    rows = clips.assign(**{label: clips[label].where(~unknown)})
    owner = rows["patient_id"].to_numpy(dtype=str)
    store = write(folder / "s", rows, np.broadcast_to(np.arange(60, dtype=np.float32)[:, None, None], (60, 1, 3)).copy())
    splits = make_splits(rows, owner, label=None, patient_column="patient_id", folds=3, held_out=0.2)
    question = pose(clip_table(store), label)
    kept: list[Any] = []  # each fold, and then every fit in it
    features = Watched(store, question, ("mean",), splits, kept)
    distil_out_of_fold(
        question, features, fold_rows(splits, question.clip_ids, question.patients),
        make_student=lambda: Spy(kept), settings=ReadoutSettings(inner_folds=3), nested=nested,
        how=Distillation(
            EnsembleTeacher(("linear",), inner_folds=3, make=lambda *_: Spy(kept)), find_unlabelled(features, splits)
        ),
    )  # fmt: skip
    outer = inner = seen = 0
    for one in kept:
        if isinstance(one, FoldRows):
            tested = {*question.patients[one.test], *owner[rows["clip_id"].isin(splits.held_out)]}
            trained = set(question.patients[one.train])
            continue
        numbers, groups = one
        assert np.array_equal(owner[numbers], groups)
        taught, learnt = set(groups[~unknown[numbers]]), set(groups[unknown[numbers]])
        outer += bool((taught | learnt) & tested)
        inner += bool(learnt & trained - taught)
        seen += len(learnt)
    assert seen, "no unlabelled clip took part at all"
    return outer, inner


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("label", LABELS)
def test_distil__no_clip_of_a_tested_patient_reaches_teacher_or_student(
    label: str, nested: bool, write: Any, clips: pd.DataFrame, tmp_path: Path
) -> None:
    assert leaks(write, clips, tmp_path, label=label, nested=nested) == (0, 0)


def test_distil__the_leak_test_catches_unlabelled_clips_of_tested_patients(
    write: Any, clips: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Unlabelled, "of", lambda self, fold: self.final())
    assert leaks(write, clips, tmp_path)[0] == 3  # the student of each fold


def test_distil__the_leak_test_catches_unlabelled_clips_of_inner_folds(
    write: Any, clips: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DistilledHead, "_unlabelled", lambda self, patients, X: self.more)
    outer, inner = leaks(write, clips, tmp_path, nested=True)
    assert outer == 0
    assert inner == 9  # each inner student of each fold
