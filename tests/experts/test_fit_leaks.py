"""At the level of a whole fit: what is fitted or chosen inside a fold has met that fold's training patients only."""

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sonokit.clips.splits import Splits, make_splits
from sonokit.evaluation.out_of_fold import FoldRows, fold_rows
from sonokit.experts.choices import ChoiceLog
from sonokit.experts.crossval import QuestionFeatures
from sonokit.experts.fit import evaluate_and_fit, fit_expert
from sonokit.experts.heads.search_settings import SearchSettings
from sonokit.experts.question import Question, pose
from sonokit.experts.recipes import clip_table
from sonokit.experts.settings import FitSettings
from sonokit.features.store import EmbeddingStore


class Spy(ClassifierMixin, BaseEstimator):
    """Keeps every set of rows that any copy of it is fitted on, and predicts by the nearest class mean."""

    seen: ClassVar[list[np.ndarray]] = []

    def fit(self, X: np.ndarray, y: np.ndarray) -> "Spy":
        Spy.seen.append(np.array(X))
        self.classes_ = np.unique(y)
        self.means_ = np.stack([X[y == code].mean(axis=0) for code in self.classes_])
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        distance = ((X[:, None] - self.means_) ** 2).mean(axis=-1)
        weights = np.exp(-distance)
        return weights / weights.sum(axis=1, keepdims=True)

    def predict(self, X: np.ndarray) -> np.ndarray:
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pages, no floors, nothing explained: these fits are looked at from inside."""
    monkeypatch.setattr("sonokit.experts.fit_study.ContributionsCollector.note", lambda self, fold, head: None)
    monkeypatch.setattr("sonokit.experts.fit.page", lambda report: "")
    monkeypatch.setattr("sonokit.experts.fit_study.measure_floors", lambda *args, **kwargs: {})


@pytest.fixture
def splits(clips: pd.DataFrame) -> Splits:
    patients = clips["patient_id"].to_numpy(dtype=str)
    return make_splits(clips, patients, label="diagnosis", patient_column="patient_id", folds=3, repeats=2, held_out=0.2)


def posed(store: EmbeddingStore, splits: Splits) -> tuple[Question, list[FoldRows]]:
    question = pose(clip_table(store), "diagnosis", fewest_patients=3)
    return question, fold_rows(splits, question.clip_ids, question.patients)


@pytest.mark.parametrize("recipes", [("mean",), ("mean", "mean+spread")])
def test_fit__whatever_is_fitted_in_a_fold_meets_its_training_patients_only(
    recipes: tuple[str, ...], store: EmbeddingStore, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Head, choice of a recipe and readout: between two test sides the spy sees no row of the fold that is tested."""
    question, _ = posed(store, splits)
    means = QuestionFeatures(store, question, "mean", splits).final
    row_of = {row.tobytes(): k for k, row in enumerate(means)}
    assert len(row_of) == len(means)
    begun: list[tuple[FoldRows, int]] = []
    reading = QuestionFeatures.of

    def note_fold(self: QuestionFeatures, fold: FoldRows) -> np.ndarray:
        begun.append((fold, len(Spy.seen)))
        return reading(self, fold)

    monkeypatch.setattr(QuestionFeatures, "of", note_fold)
    Spy.seen.clear()
    settings = FitSettings(heads=(Spy(),), recipes=recipes, draws=10, calibration="platt")
    evidence, _ = evaluate_and_fit(store, "diagnosis", settings, splits=splits)
    held_out = {question.patients[question.clip_ids == clip][0] for clip in splits.held_out}
    assert len(begun) == 6
    ends = [start for _, start in begun[1:]]
    for (fold, start), end in zip(begun[:-1], ends, strict=True):
        fits = Spy.seen[start:end]
        assert len(fits) >= 6  # inner folds and the fit itself
        tested = set(question.patients[fold.test])
        for X in fits:
            met = {question.patients[row_of[np.ascontiguousarray(row[: means.shape[1]]).tobytes()]] for row in X}
            assert not met & (tested | held_out)
    everyone = {question.patients[row_of[np.ascontiguousarray(row[: means.shape[1]]).tobytes()]] for row in Spy.seen[-1]}
    assert everyone == set(question.patients) - held_out  # the kept head: all but the held-out ones
    assert evidence.recipe in recipes


def test_fit__scaler_statistics_are_those_of_the_training_rows(
    store: EmbeddingStore, splits: Splits, monkeypatch: pytest.MonkeyPatch
) -> None:
    question, folds = posed(store, splits)
    inputs = QuestionFeatures(store, question, "mean_std", splits).final.astype(np.float64)
    kept: list[tuple[int, Any]] = []
    monkeypatch.setattr(ChoiceLog, "note", lambda self, fold, head: kept.append((fold.index, head)))
    evaluate_and_fit(store, "diagnosis", FitSettings(draws=10), splits=splits)
    assert [index for index, _ in kept] == [fold.index for fold in folds]
    for index, head in kept:
        scaler = head.pipeline_["scale"]
        train = inputs[folds[index].train]
        np.testing.assert_allclose(scaler.mean_, train.mean(axis=0))
        np.testing.assert_allclose(scaler.scale_, np.where(train.std(axis=0) == 0, 1, train.std(axis=0)))
        assert not np.allclose(scaler.mean_, inputs.mean(axis=0))


def test_fit__labels_of_a_test_side_change_no_choice_in_its_fold(
    write: Any, clips: pd.DataFrame, embedding: Any, splits: Splits, tmp_path: Path
) -> None:
    """Recipe and head chosen in fold 0, and what it predicts, are the same whatever its test side is called."""
    fold = splits.folds[0]
    inside = clips["clip_id"].isin(fold.test)
    torn = clips.assign(diagnosis=clips["diagnosis"].mask(inside, "normal"))
    found = []
    for name, table in (("a", clips), ("b", torn)):
        store = write(tmp_path / name, table, embedding(clips, 0.4))
        settings = FitSettings(heads=("linear", Spy()), recipes=("mean", "mean_std+extremes"), draws=10)
        evidence, _ = evaluate_and_fit(store, "diagnosis", settings, splits=splits)
        rows = np.isin(evidence.predictions.clip_ids, fold.test)
        assert evidence.search is not None
        chosen = next(entry for entry in evidence.search["folds"] if entry["fold"] == 0)
        found.append((chosen, evidence.predictions.values[0][rows], evidence.reading.calibrated[0][rows]))
    assert found[0][0] == found[1][0]
    np.testing.assert_array_equal(found[0][1], found[1][1])
    np.testing.assert_array_equal(found[0][2], found[1][2])


def test_fit_expert__the_search_is_told_and_the_same_again(store: EmbeddingStore, tmp_path: Path) -> None:
    options: dict[str, Any] = {"recipe": ["mean", "mean_std"], "heads": ("linear", "xgboost"), "folds": 3, "repeats": 1}
    reports = []
    for name in ("a", "b"):
        folder = fit_expert(store, "diagnosis", tmp_path / name, draws=10, **options)
        reports.append(json.loads((folder / "report.json").read_text()))
    search = reports[0]["search"]
    assert search["trials"] == 3 * 4  # folds × (heads × recipes)
    assert sum(search["chosen"].values()) == 3
    assert {entry["recipe"] for entry in search["folds"]} <= {"mean", "mean_std"}
    assert search["final"]["recipe"] == reports[0]["recipe"]
    assert len(search["final"]["trials"]) == 4
    assert reports[0] == reports[1]


def test_fit_expert__seconds_are_for_all_fits_together(store: EmbeddingStore, splits: Splits) -> None:
    """Six folds and the kept head share the budget, and no fit is told more than its part."""
    search = SearchSettings(seconds=0.7)
    evidence, expert = evaluate_and_fit(store, "diagnosis", FitSettings(draws=10, search=search), splits=splits)
    assert evidence.search is not None
    assert evidence.search["seconds"] == pytest.approx(0.1)
    assert evidence.search["trials"] >= 6
    assert all(entry["head"] == "linear" for entry in evidence.search["folds"])
    assert expert.recipe == "mean_std"
    assert not hasattr(expert.head, "chosen_")  # what is kept is the head itself
    assert any("without a search" in note for note in evidence.question.notes)
