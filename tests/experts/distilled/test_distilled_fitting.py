from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sonokit.clips.splits import Fold, Splits, make_splits
from sonokit.errors import SonokitError
from sonokit.evaluation.comparison import compare_predictions
from sonokit.evaluation.out_of_fold import fold_rows
from sonokit.evaluation.readout import ReadoutSettings
from sonokit.experts.crossval import QuestionFeatures, cross_validate, cross_validate_read
from sonokit.experts.distilled import (
    Distillation,
    EnsembleTeacher,
    NetworkTeacher,
    SoftTargets,
    distil_final,
    distil_out_of_fold,
    distillation_gain,
    find_unlabelled,
)
from sonokit.experts.distilled.soft_targets import FoldTargets
from sonokit.experts.heads import load_head, make_head
from sonokit.experts.question import pose
from sonokit.experts.recipes import clip_table

LABELS = ("diagnosis", "severity", "ratio")


class Silent:
    """A teacher that must not be asked."""

    name, by_clip = "silent", False

    def teach(self, lesson: Any) -> Any:
        raise AssertionError("asked")


@pytest.fixture
def asked(store: Any, clips: pd.DataFrame) -> Callable[[str], Any]:
    """A question of the separable store, with its features and folds."""

    def ask(label: str) -> Any:
        question = pose(clip_table(store), label)
        patients = clips["patient_id"].to_numpy(dtype=str)
        splits = make_splits(clips, patients, label="diagnosis", patient_column="patient_id", folds=3, repeats=2)
        return question, QuestionFeatures(store, question, ("mean",), splits), fold_rows(splits, question.clip_ids, patients)

    return ask


@pytest.mark.parametrize(
    ("head", "label"), [*(("linear", label) for label in LABELS), ("mlp", "diagnosis"), ("xgboost", "severity")]
)
def test_distil__without_weight_and_unlabelled_clips_is_the_plain_head(head: str, label: str, asked: Any) -> None:
    question, features, folds = asked(label)

    def make() -> Any:
        return make_head((head,), question.task)

    plain = cross_validate(question, features.of, make, folds)
    taught, _ = distil_out_of_fold(question, features, folds, make_student=make, how=Distillation(Silent(), weight=0))
    assert np.array_equal(taught.values, plain.values)
    rows = np.arange(len(question.truth))
    final = distil_final(question, features, rows, make_student=make, how=Distillation(Silent(), weight=0))
    expected = make().fit(features.final, question.truth, groups=question.patients).predict(features.final)
    assert np.array_equal(final.predict(features.final), expected)


@pytest.mark.parametrize("label", LABELS)
def test_distil__readings_of_inner_folds_are_the_plain_heads_too(label: str, asked: Any) -> None:
    """Fold by fold and put together, or all at once: the same calibrated values, sets, ends and operating points."""
    question, features, folds = asked(label)

    def make() -> Any:
        return make_head(("linear",), question.task)

    settings = ReadoutSettings(inner_folds=3)
    plain, wanted = cross_validate_read(question, features, make, folds, settings)
    how = Distillation(Silent(), weight=0)
    taught, found = distil_out_of_fold(question, features, folds, make_student=make, how=how, settings=settings, nested=True)
    assert np.array_equal(taught.values, plain.values)
    np.testing.assert_array_equal(found.calibrated, wanted.calibrated)
    assert list(found.calls) == list(wanted.calls)
    for name, calls in wanted.calls.items():
        np.testing.assert_array_equal(found.calls[name], calls)
    if question.task == "regression":
        np.testing.assert_array_equal(found.ends, wanted.ends)
    else:
        np.testing.assert_array_equal(found.sets, wanted.sets)
    assert [readout.as_dict() for readout in found.readouts] == [readout.as_dict() for readout in wanted.readouts]


def simulate(write: Any, folder: Path, seed: int, *, useless: bool, head: str = "mlp") -> dict[str, Any]:
    """Two classes of even frequency in 20 dimensions: 24 labelled clips to learn from, 300 unlabelled ones, 200 to test on.

    Fold 0 tests the 200 (each of its own patient) and learns from the 24; fold 1, the other way round, is not looked at.
    The teacher says the true posterior of each clip, or that of another clip.
    """
    rng = np.random.default_rng(seed)
    few, tested, free = 24, 200, 300
    count = few + tested + free
    code = rng.permutation(np.arange(count) % 2)
    direction = rng.normal(size=20)
    direction *= 1.2 / np.linalg.norm(direction)
    X = rng.normal(size=(count, 20)) + np.where(code[:, None] == 1, direction, -direction)
    posterior = 1 / (1 + np.exp(-2 * X @ direction))  # of two normal distributions with means ± direction
    names = np.array([f"c{k:04d}" for k in range(count)])
    label = np.where(np.arange(count) < few + tested, np.array(["no", "yes"])[code], None)
    clips = pd.DataFrame({"clip_id": names, "content_hash": names, "patient_id": names, "finding": label})
    store = write(folder / "s", clips, X[:, None, :].astype(np.float32))
    learnt, judged = names[:few], names[few : few + tested]
    splits = Splits(
        tuple(names[: few + tested]), None, "patient_id", 0,
        (Fold(0, 0, tuple(judged)), Fold(0, 1, tuple(learnt))), {}, (), tuple(names[: few + tested]),
    )  # fmt: skip
    question = pose(clip_table(store), "finding")
    features = QuestionFeatures(store, question, ("mean",), splits)
    folds = fold_rows(splits, question.clip_ids, question.patients)
    said = rng.permutation(posterior) if useless else posterior
    values = {name: np.array([1 - p, p]) for name, p in zip(names, said, strict=True)}
    teacher = NetworkTeacher(SoftTargets(question.classes, tuple(FoldTargets(values, frozenset()) for _ in folds), "simulated"))

    def make() -> Any:
        return make_head((head,), "classification", seed)

    plain = cross_validate(question, features.of, make, folds)
    unlabelled = find_unlabelled(features, splits)
    taught, _ = distil_out_of_fold(question, features, folds, make_student=make, how=Distillation(teacher, unlabelled))
    rows = np.isin(plain.clip_ids, judged)
    assert rows.sum() == tested
    return distillation_gain(
        plain.select(rows), taught.select(rows), teacher=teacher.name, unlabelled_clips=len(unlabelled), draws=500
    )


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("seed", [0, 1])
def test_distil__a_teacher_that_knows_more_is_worth_something(head: str, seed: int, write: Any, tmp_path: Path) -> None:
    found = simulate(write, tmp_path, seed, useless=False, head=head)
    assert found["unlabelled_clips"] == 300
    assert found["gain"]["auroc"]["low"] > 0
    assert found["gain"]["balanced_accuracy"]["low"] > 0


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("seed", [0, 1])
def test_distil__a_teacher_that_knows_nothing_is_worth_nothing(head: str, seed: int, write: Any, tmp_path: Path) -> None:
    found = simulate(write, tmp_path, seed, useless=True, head=head)
    assert found["gain"]["auroc"]["low"] <= 0
    assert found["gain"]["auroc"]["value"] < 0.01


@pytest.mark.parametrize("label", LABELS)
def test_distil__same_call_same_numbers_and_saved_as_the_student(label: str, asked: Any, tmp_path: Path) -> None:
    question, features, folds = asked(label)

    def make() -> Any:
        return make_head(("linear",), question.task)

    how = Distillation(EnsembleTeacher(("linear",), inner_folds=2), weight=0.5)
    first, second = (distil_out_of_fold(question, features, folds, make_student=make, how=how)[0] for _ in range(2))
    assert np.array_equal(first.values, second.values)
    assert first.values.shape[:2] == (2, 60)
    head = distil_final(question, features, np.arange(60), make_student=make, how=how)
    head.save(tmp_path / "head")
    assert np.array_equal(load_head(tmp_path / "head").predict(features.final), head.predict(features.final))


def test_distil__a_student_that_chooses_does_so_on_the_labels_and_is_taught_then(store: Any, clips: pd.DataFrame) -> None:
    """The head that is kept is what the plain choice chose, and reads its recipe alone."""
    question = pose(clip_table(store), "diagnosis")
    features = QuestionFeatures(store, question, ("mean", "mean_std"), None)
    rows = np.arange(60)

    def make() -> Any:
        return make_head(("xgboost", "linear"), question.task, columns=features.columns)

    plain = make().fit(features.final, question.truth, groups=question.patients)
    taught, silent = (
        distil_final(question, features, rows, make_student=make, how=Distillation(EnsembleTeacher(("linear",)), weight=weight))
        for weight in (0.9, 0)
    )
    for head in (taught, silent):
        assert (head.chosen_, head.recipe_, head.settings_) == (plain.chosen_, plain.recipe_, plain.settings_)
        assert np.array_equal(head.columns_, plain.columns_)
        assert np.array_equal(head.predict(features.final), head.head_.predict(features.final[:, head.columns_]))
    assert np.array_equal(silent.predict_proba(features.final), plain.predict_proba(features.final))
    assert not np.array_equal(taught.predict_proba(features.final), plain.predict_proba(features.final))


def test_distil__a_network_knows_all_inner_sides(asked: Any) -> None:
    question, features, folds = asked("diagnosis")
    nothing = SoftTargets(question.classes, tuple(FoldTargets({}, frozenset()) for _ in folds), "nowhere")
    with pytest.raises(SonokitError, match="leave nested out"):
        distil_out_of_fold(
            question, features, folds, make_student=Silent, how=Distillation(NetworkTeacher(nothing)), nested=True
        )


def test_gain__is_distilled_minus_plain_on_the_same_patients(asked: Any) -> None:
    question, features, folds = asked("severity")
    plain, other = (
        cross_validate(question, features.of, lambda head=head: make_head((head,), question.task), folds)
        for head in ("linear", "xgboost")
    )
    found = distillation_gain(plain, other, teacher="ensemble", unlabelled_clips=3, draws=100, seed=4)
    assert found["gain"] == {name: i.as_dict() for name, i in compare_predictions(other, plain, n=100, seed=4).items()}
    for name, interval in found["plain"].items():
        both = other.intervals(100, 4)[name].value - interval["value"]
        assert found["gain"][name]["value"] == pytest.approx(both)
    assert (found["teacher"], found["unlabelled_clips"]) == ("ensemble", 3)
