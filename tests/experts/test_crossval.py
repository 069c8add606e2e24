import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sonokit.clips.splits import Splits, make_splits
from sonokit.errors import SonokitError
from sonokit.evaluation.out_of_fold import FoldRows, fold_rows
from sonokit.experts.crossval import QuestionFeatures, cross_validate, leave_sites_out
from sonokit.experts.fit import fit_expert
from sonokit.experts.folder import load_expert
from sonokit.experts.heads import make_head
from sonokit.experts.predict import predict
from sonokit.experts.question import Question, pose
from sonokit.experts.recipes import clip_table
from sonokit.features.store import EmbeddingStore, StoreSet


def divide(clips: pd.DataFrame, repeats: int = 1, **settings: Any) -> Splits:
    patients = clips["patient_id"].to_numpy(dtype=str)
    return make_splits(clips, patients, label="diagnosis", patient_column="patient_id", repeats=repeats, **settings)


def setup(
    store: EmbeddingStore, clips: pd.DataFrame, label: str = "diagnosis", repeats: int = 1
) -> tuple[Question, list[FoldRows]]:
    question = pose(clip_table(store), label)
    return question, fold_rows(divide(clips, repeats), question.clip_ids, question.patients)


@pytest.mark.parametrize("names", [("linear",), ("mlp",), ("xgboost",), ("linear", "xgboost")])
@pytest.mark.parametrize("label", ["diagnosis", "severity", "ratio"])
def test_cross_validate__test_clips_cannot_reach_what_is_fitted(
    names: tuple[str, ...], label: str, store: EmbeddingStore, clips: pd.DataFrame
) -> None:
    """Changing the test side's features must leave every parameter bit for bit alone: a scaler fitted outside would move."""
    question, folds = setup(store, clips, label)
    inputs = QuestionFeatures(store, question, "mean_std", None).final
    probe = inputs[:5] + 0.5

    def answers(spoil: bool) -> np.ndarray:
        fold = folds[0]
        features = inputs.copy()
        if spoil:
            features[fold.test] = features[fold.test] * 1000 + 77
        kept: list[Any] = []
        cross_validate(
            question,
            lambda _: features,
            lambda: make_head(names, question.task),
            [fold],
            fitted=lambda _, head: kept.append(head),
        )
        head = kept[0]
        return head.predict(probe) if question.task == "regression" else head.predict_proba(probe)

    assert np.array_equal(answers(spoil=False), answers(spoil=True))


def test_cross_validate__the_leak_test_catches_a_scaler_fitted_outside(store: EmbeddingStore, clips: pd.DataFrame) -> None:
    """The test above is worth something: standardising all rows beforehand does change what is fitted."""
    question, folds = setup(store, clips)
    inputs = QuestionFeatures(store, question, "mean_std", None).final

    def weights(features: np.ndarray) -> np.ndarray:
        kept: list[Any] = []
        leaky = (features - features.mean(axis=0)) / (features.std(axis=0) + 1e-9)
        cross_validate(
            question, lambda _: leaky, lambda: make_head(("linear",), "classification"), [folds[0]],
            fitted=lambda _, head: kept.append(head),
        )  # fmt: skip
        return kept[0].pipeline_["scale"].mean_

    spoilt = inputs.copy()
    spoilt[folds[0].test] *= 1000
    assert not np.array_equal(weights(inputs), weights(spoilt))


@pytest.mark.parametrize("label", ["diagnosis", "severity", "ratio"])
def test_cross_validate__shuffled_labels_give_chance(label: str, write: Any, make: Any, embedding: Any, tmp_path: Path) -> None:
    """Labels dealt anew to the patients: chance is inside the interval, widened for three checks."""
    clips = make(40, 2)
    store = write(tmp_path / "s", clips, embedding(clips, 1.0))
    first = clips.drop_duplicates("patient_id")
    dealt = dict(zip(first["patient_id"], np.random.default_rng(7).permutation(first[label]), strict=True))
    table = clip_table(store).assign(**{label: clips["patient_id"].map(dealt)})
    question = pose(table, label)
    folds = fold_rows(divide(clips, repeats=3), question.clip_ids, question.patients)
    features = QuestionFeatures(store, question, "mean_std", None)
    found = cross_validate(question, features.of, lambda: make_head(("linear",), question.task), folds)
    name, chance = {"diagnosis": ("balanced_accuracy", 1 / 3), "severity": ("quadratic_kappa", 0), "ratio": ("spearman", 0)}[
        label
    ]
    figure = found.intervals(n=500, level=1 - 0.05 / 3)[name]
    assert figure.low <= chance <= figure.high


def test_cross_validate__finds_what_is_there(store: EmbeddingStore, clips: pd.DataFrame) -> None:
    question, folds = setup(store, clips, repeats=2)
    found = cross_validate(
        question,
        QuestionFeatures(store, question, "mean_std", None).of,
        lambda: make_head(("linear",), "classification"),
        folds,
    )
    assert found.values.shape == (2, 60, 3)
    assert found.intervals(n=50)["balanced_accuracy"].value > 0.95


def trained(store: EmbeddingStore, clips: pd.DataFrame, rows: np.ndarray) -> pd.DataFrame:
    return clips.assign(extractor_trained_on=rows)


def test_features__final_store_of_an_extractor_that_saw_the_labels_is_refused(
    write: Any, clips: pd.DataFrame, embedding: Any, tmp_path: Path
) -> None:
    marked = clips.assign(extractor_trained_on=clips.index < 10)
    store = write(tmp_path / "s", marked, embedding(clips, 1.0), kind="extractor", fitted_on_labels=True)
    question = pose(clip_table(store), "diagnosis")
    with pytest.raises(SonokitError, match=r"10 of these clips.*--splits"):
        QuestionFeatures(store, question, "mean_std", None)
    elsewhere = pose(clip_table(store).iloc[10:].reset_index(drop=True), "diagnosis")
    QuestionFeatures(store, elsewhere, "mean_std", None)  # clips that it never saw: fair


def test_features__backbone_that_saw_the_labels_is_called_one(
    write: Any, clips: pd.DataFrame, embedding: Any, tmp_path: Path
) -> None:
    """A store set could not mend that: its extractors would rest on the same backbone."""
    store = write(tmp_path / "s", clips.assign(extractor_trained_on=True), embedding(clips, 1.0), fitted_on_labels=True)
    with pytest.raises(SonokitError, match=r"backbone of .* 60 of these clips.*Pretrain without a label"):
        QuestionFeatures(store, pose(clip_table(store), "diagnosis"), "mean_std", None)


def test_features__a_floor_that_lacks_clips_is_told_before_any_fold(
    write: Any, clips: pd.DataFrame, embedding: Any, tmp_path: Path
) -> None:
    store = write(tmp_path / "s", clips, embedding(clips, 1.0))
    write(tmp_path / "s" / "floor", clips.iloc[:50], embedding(clips, 0.0)[:50])
    with pytest.raises(SonokitError, match="lacks 10 clips"):
        QuestionFeatures(store, pose(clip_table(store), "diagnosis"), "mean_std", None)


def build_set(write: Any, clips: pd.DataFrame, folder: Path, *, leak: bool = False) -> StoreSet:
    """Fold k's store holds the value k in every embedding, so that a test can see which store was read."""
    splits = divide(clips)
    stores = []
    for k, fold in enumerate(splits.folds):
        marks = ~clips["clip_id"].isin(fold.test) | leak
        settings = {"kind": "extractor", "fitted_on_labels": True, "fold": k, "splits_fingerprint": splits.fingerprint()}
        values = np.full((len(clips), 2, 3), k, dtype=np.float32)
        stores.append(
            write(folder / f"fold-{k}", clips.assign(extractor_trained_on=marks), values, fingerprint=f"f{k}", **settings)
        )
    final = write(
        folder / "final", clips.assign(extractor_trained_on=True), np.full((len(clips), 2, 3), 99, dtype=np.float32),
        kind="extractor", fitted_on_labels=True,
    )  # fmt: skip
    return StoreSet(folder, splits, stores, final, None)


def test_features__fold_k_is_read_from_store_k(write: Any, clips: pd.DataFrame, tmp_path: Path) -> None:
    stores = build_set(write, clips, tmp_path)
    question = pose(clip_table(stores.final), "diagnosis")
    features = QuestionFeatures(stores, question, "mean", stores.splits)
    for fold in fold_rows(stores.splits, question.clip_ids, question.patients):
        assert (features.of(fold) == fold.index).all()
    assert (features.final == 99).all()


def test_features__fold_store_fitted_on_its_test_clips_is_refused(write: Any, clips: pd.DataFrame, tmp_path: Path) -> None:
    stores = build_set(write, clips, tmp_path, leak=True)
    question = pose(clip_table(stores.final), "diagnosis")
    features = QuestionFeatures(stores, question, "mean", stores.splits)
    with pytest.raises(SonokitError, match="fold 0 tests"):
        features.of(fold_rows(stores.splits, question.clip_ids, question.patients)[0])


def test_features__stores_in_wrong_order_or_other_splits_are_refused(write: Any, clips: pd.DataFrame, tmp_path: Path) -> None:
    stores = build_set(write, clips, tmp_path)
    question = pose(clip_table(stores.final), "diagnosis")
    with pytest.raises(SonokitError, match="not fold 0"):
        QuestionFeatures(replace(stores, folds=stores.folds[::-1]), question, "mean", None)
    with pytest.raises(SonokitError, match="other splits"):
        QuestionFeatures(stores, question, "mean", divide(clips, seed=5))


def test_fit_expert__store_set_is_scored_on_its_folds_and_kept_on_the_final_store(
    write: Any, clips: pd.DataFrame, tmp_path: Path
) -> None:
    stores = build_set(write, clips, tmp_path)
    folder = fit_expert(stores, "diagnosis", tmp_path / "e", draws=20)
    report = json.loads((folder / "report.json").read_text())
    assert report["data"]["splits_fingerprint"] == stores.splits.fingerprint()
    assert report["scores"]["balanced_accuracy"]["value"] < 0.5  # the folds' stores are constant: nothing to find
    reasons = {floor["name"]: floor.get("reason", "") for floor in report["floors"]}
    assert "labels of every site" in reasons["site_left_out"]
    assert "no floor/" in reasons["random_init"]
    assert load_expert(folder).store.fingerprint == stores.final.header.fingerprint
    assert len(predict(folder, stores)) == len(clips)


def test_leave_sites_out__label_fitted_set_is_not_measured(write: Any, clips: pd.DataFrame, tmp_path: Path) -> None:
    stores = build_set(write, clips, tmp_path)
    question = pose(clip_table(stores.final), "diagnosis")
    features = QuestionFeatures(stores, question, "mean", stores.splits)
    found = leave_sites_out(question, features, lambda: make_head(("linear",), "classification"), np.ones(60, dtype=bool))
    assert isinstance(found, str)
    assert "labels of every site" in found


def test_leave_sites_out__every_clip_of_known_site_once(
    write: Any, clips: pd.DataFrame, embedding: Any, tmp_path: Path
) -> None:
    partly = clips.assign(site=clips["site"].mask(clips.index < 6))
    store = write(tmp_path / "s", partly, embedding(clips, 1.0))
    question = pose(clip_table(store), "diagnosis")
    features = QuestionFeatures(store, question, "mean_std", None)
    found = leave_sites_out(question, features, lambda: make_head(("linear",), "classification"), np.ones(60, dtype=bool))
    assert not isinstance(found, str)
    assert found.clip_ids.tolist() == sorted(clips["clip_id"][6:])


def test_leave_sites_out__one_site(write: Any, clips: pd.DataFrame, embedding: Any, tmp_path: Path) -> None:
    store = write(tmp_path / "s", clips.assign(site="only"), embedding(clips, 1.0))
    question = pose(clip_table(store), "diagnosis")
    features = QuestionFeatures(store, question, "mean_std", None)
    assert leave_sites_out(question, features, lambda: None, np.ones(60, dtype=bool)) == "one site only"
