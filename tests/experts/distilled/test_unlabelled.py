from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sonokit.clips.splits import Splits, make_splits
from sonokit.errors import SonokitError
from sonokit.evaluation.out_of_fold import fold_rows
from sonokit.experts.crossval import QuestionFeatures
from sonokit.experts.distilled import find_unlabelled
from sonokit.experts.question import pose
from sonokit.experts.recipes import clip_table
from sonokit.features.store import EmbeddingStore, StoreSet

RECIPES = ("mean",)
HIDDEN = np.arange(60) % 3 == 0
"""Of these clips nobody knows the diagnosis; a patient has two clips, so most patients have one of each kind."""


def divide(clips: pd.DataFrame, **settings: Any) -> Splits:
    patients = clips["patient_id"].to_numpy(dtype=str)
    return make_splits(clips, patients, label=None, patient_column="patient_id", folds=3, **settings)


def numbered(clips: pd.DataFrame) -> np.ndarray:
    """Embeddings [C, 2, 4] whose every value is the clip's number, so that a test sees whose row it is."""
    return np.broadcast_to(np.arange(len(clips), dtype=np.float32)[:, None, None], (len(clips), 2, 4)).copy()


@pytest.fixture
def half(clips: pd.DataFrame) -> pd.DataFrame:
    return clips.assign(diagnosis=clips["diagnosis"].where(~HIDDEN))


def test_unlabelled__are_the_clips_of_which_nobody_said_anything(write: Any, half: pd.DataFrame, tmp_path: Path) -> None:
    """A class that takes no part is still a label: its clips are none that could be normal or covid19."""
    store = write(tmp_path / "s", half, numbered(half))
    question = pose(clip_table(store), "diagnosis", classes=["normal", "covid19"])
    found = find_unlabelled(QuestionFeatures(store, question, RECIPES, None), divide(half))
    assert found.question.clip_ids.tolist() == half["clip_id"][HIDDEN].tolist()
    np.testing.assert_array_equal(found.final().X[:, 0], np.flatnonzero(HIDDEN))
    assert found.notes == ()


def test_unlabelled__of_a_fold_are_of_no_patient_whom_it_tests(write: Any, half: pd.DataFrame, tmp_path: Path) -> None:
    store, splits = write(tmp_path / "s", half, numbered(half)), divide(half)
    question = pose(clip_table(store), "diagnosis")
    found = find_unlabelled(QuestionFeatures(store, question, RECIPES, splits), splits)
    owner = dict(zip(half["clip_id"], half["patient_id"], strict=True))
    for fold, division in zip(fold_rows(splits, question.clip_ids, question.patients), splits.folds, strict=True):
        rows = found.of(fold)
        tested = {owner[clip] for clip in division.test}
        wanted = [clip for clip in half["clip_id"][HIDDEN] if owner[clip] not in tested]
        assert rows.clip_ids.tolist() == wanted
        assert rows.patients.tolist() == [owner[clip] for clip in wanted]
        np.testing.assert_array_equal(rows.X[:, 0], half.index[half["clip_id"].isin(wanted)])


def test_unlabelled__of_a_fold_of_other_splits_is_refused(write: Any, half: pd.DataFrame, tmp_path: Path) -> None:
    store = write(tmp_path / "s", half, numbered(half))
    question = pose(clip_table(store), "diagnosis")
    found = find_unlabelled(QuestionFeatures(store, question, RECIPES, None), divide(half))
    other = fold_rows(divide(half, seed=1), question.clip_ids, question.patients)
    with pytest.raises(ValueError, match="tests clips that the splits do not"):
        found.of(other[0])


def test_unlabelled__who_must_stay_away_in_every_fold(write: Any, half: pd.DataFrame, tmp_path: Path) -> None:
    """A copy of a labelled clip under another name and patient, held-out patients, and clips of nobody knows whom."""
    rows = half.copy()
    rows.loc[3, "content_hash"] = rows.loc[50, "content_hash"]  # 50 has a label
    rows.loc[[0, 1], "patient_id"] = [pd.NA, "p99"]  # 0 has no label
    inside = rows[rows["patient_id"].notna()]
    splits = divide(inside, held_out=0.2)
    store = write(tmp_path / "s", rows, numbered(rows))
    question = pose(clip_table(store), "diagnosis")
    found = find_unlabelled(QuestionFeatures(store, question, RECIPES, splits), splits)
    held_out = set(rows["patient_id"][rows["clip_id"].isin(splits.held_out)])
    assert len(held_out) == 6
    wanted = HIDDEN & ~rows["patient_id"].isin(held_out) & rows["patient_id"].notna() & (rows.index != 3)
    assert found.question.clip_ids.tolist() == rows["clip_id"][wanted].tolist()
    assert [note.split(" have ")[1] for note in found.notes] == [
        "the same content as a clip that has a label and are not learnt from",
        "no patient_id and are not learnt from",
        "a held-out patient and are not learnt from",
    ]


def test_unlabelled__where_is_the_questions_or_nobodys(write: Any, half: pd.DataFrame, tmp_path: Path) -> None:
    store, splits = write(tmp_path / "s", half, numbered(half)), divide(half)
    question = pose(clip_table(store), "diagnosis", where={"probe": "convex"})
    convex = find_unlabelled(QuestionFeatures(store, question, RECIPES, splits), splits, where={"probe": "convex"})
    assert convex.question.clip_ids.tolist() == half["clip_id"][HIDDEN & (half["probe"] == "convex")].tolist()
    assert len(find_unlabelled(QuestionFeatures(store, question, RECIPES, splits), splits)) == HIDDEN.sum()


def test_unlabelled__a_label_in_the_csv_is_one(write: Any, half: pd.DataFrame, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    pd.DataFrame({"clip_id": ["clip-003", "clip-006"], "diagnosis": ["normal", pd.NA]}).to_csv(file, index=False)
    store = write(tmp_path / "s", half, numbered(half))
    question = pose(clip_table(store), "diagnosis", labels_csv=file)
    found = find_unlabelled(QuestionFeatures(store, question, RECIPES, None), divide(half), labels_csv=file)
    assert set(half["clip_id"][HIDDEN]) - set(found.question.clip_ids) == {"clip-003"}


def other_clips(clips: pd.DataFrame) -> pd.DataFrame:
    """Of another hospital: own names, contents and patients, but for one patient who was seen at both."""
    named = clips.drop(columns="diagnosis").assign(clip_id="far-" + clips["clip_id"], content_hash="f" + clips["content_hash"])
    far = named.assign(patient_id="far-" + clips["patient_id"])
    far.loc[[0, 1], "patient_id"] = "p00"
    return far


def test_unlabelled__of_another_store(write: Any, clips: pd.DataFrame, tmp_path: Path) -> None:
    store = write(tmp_path / "s", clips, numbered(clips))
    far = other_clips(clips)
    other, splits = write(tmp_path / "other", far, numbered(far) + 1000), divide(clips)
    question = pose(clip_table(store), "diagnosis")
    found = find_unlabelled(QuestionFeatures(store, question, RECIPES, splits), splits, unlabelled=other)
    assert len(found) == 60
    folds = fold_rows(splits, question.clip_ids, question.patients)
    for fold in folds:
        rows = found.of(fold)
        tests_p00 = "p00" in question.patients[fold.test]
        assert len(rows) == (58 if tests_p00 else 60)
        assert (rows.X >= 1000).all()


def test_unlabelled__of_another_store_that_does_not_fit(write: Any, clips: pd.DataFrame, tmp_path: Path) -> None:
    store, splits, far = write(tmp_path / "s", clips, numbered(clips)), divide(clips), other_clips(clips)
    question = pose(clip_table(store), "diagnosis")
    other = write(tmp_path / "o", far, numbered(far), fingerprint="e" * 16)
    with pytest.raises(SonokitError, match=r"another extractor \(eeeeeeeeeeeeeeee\)"):
        find_unlabelled(QuestionFeatures(store, question, RECIPES, splits), splits, unlabelled=other)
    told = far.assign(diagnosis="normal")
    with pytest.raises(SonokitError, match=r"no clip of .* can be learnt from without 'diagnosis'"):
        find_unlabelled(
            QuestionFeatures(store, question, RECIPES, splits),
            splits,
            unlabelled=write(tmp_path / "told", told, numbered(told)),
        )
    by_site = pose(clip_table(store).assign(person=clips["patient_id"]), "diagnosis", patient="person")
    with pytest.raises(SonokitError, match=r"has no column 'person'"):
        find_unlabelled(
            QuestionFeatures(store, by_site, RECIPES, splits), splits, unlabelled=write(tmp_path / "p", far, numbered(far))
        )


def build_set(write: Any, clips: pd.DataFrame, folder: Path, splits: Splits) -> StoreSet:
    """Fold k's store holds 1000 k + the clip's number; all labels of its training side went into its extractor."""
    stores: list[EmbeddingStore] = []
    for k in range(len(splits.folds)):
        marked = clips.assign(extractor_trained_on=~clips["clip_id"].isin(splits.folds[k].test))
        made = write(
            folder / f"fold-{k}", marked, numbered(clips) + 1000 * k, kind="extractor", fold=k, fitted_on_labels=True,
            splits_fingerprint=splits.fingerprint(), fingerprint=f"{k:016x}",
        )  # fmt: skip
        stores.append(made)
    final = write(folder / "final", clips.assign(extractor_trained_on=True), numbered(clips) + 9000, kind="extractor")
    return StoreSet(folder, splits, stores, final, None)


def test_unlabelled__features_of_a_set_are_the_folds_own(write: Any, half: pd.DataFrame, tmp_path: Path) -> None:
    splits = divide(half)
    stores = build_set(write, half, tmp_path / "set", splits)
    question = pose(clip_table(stores.final), "diagnosis")
    found = find_unlabelled(QuestionFeatures(stores, question, RECIPES, splits), splits)
    for k, fold in enumerate(fold_rows(splits, question.clip_ids, question.patients)):
        rows = found.of(fold)
        assert len(rows) > 5
        np.testing.assert_array_equal(rows.X[:, 0], 1000 * k + half.index[half["clip_id"].isin(rows.clip_ids)])
    np.testing.assert_array_equal(found.final().X[:, 0], 9000 + np.flatnonzero(HIDDEN))


def test_unlabelled__a_single_store_cannot_add_to_a_set(write: Any, half: pd.DataFrame, tmp_path: Path) -> None:
    splits = divide(half)
    stores = build_set(write, half, tmp_path / "set", splits)
    question, far = pose(clip_table(stores.final), "diagnosis"), other_clips(half)
    with pytest.raises(SonokitError, match="is one store, but each fold of"):
        find_unlabelled(
            QuestionFeatures(stores, question, RECIPES, splits), splits, unlabelled=write(tmp_path / "o", far, numbered(far))
        )


def test_unlabelled__patients_as_rows(write: Any, clips: pd.DataFrame, tmp_path: Path) -> None:
    """Clips 0 and 1 are of p00, of whom nothing is known; clip 3 is of p01, whose other clip has a label."""
    rows = clips.assign(diagnosis=clips["diagnosis"].where(~clips.index.isin([0, 1, 3])))
    store, splits = write(tmp_path / "s", rows, numbered(rows)), divide(rows)
    question = pose(clip_table(store), "diagnosis", unit="patient")
    found = find_unlabelled(QuestionFeatures(store, question, RECIPES, splits), splits)
    assert found.question.clip_ids.tolist() == ["p00"]
    assert found.final().X[:, 0].tolist() == [0.5]


def test_unlabelled__held_out_clips_that_have_no_label(write: Any, half: pd.DataFrame, tmp_path: Path) -> None:
    """They are in no splits, yet nobody may learn from them or from another clip of their patient."""
    store = write(tmp_path / "s", half, numbered(half))
    features = QuestionFeatures(store, pose(clip_table(store), "diagnosis"), RECIPES, None)
    labelled = half[half["diagnosis"].notna() & (half["patient_id"] != "p01")]
    found = find_unlabelled(features, divide(labelled), held_out=np.array(["clip-003", "clip-006"]))
    owners = half["patient_id"][half["clip_id"].isin(["clip-003", "clip-006"])]
    wanted = HIDDEN & ~half["patient_id"].isin(owners)
    assert found.question.clip_ids.tolist() == half["clip_id"][wanted].tolist()


def test_unlabelled__what_another_store_holds_out_stays_out(write: Any, clips: pd.DataFrame, tmp_path: Path) -> None:
    store, splits = write(tmp_path / "s", clips, numbered(clips)), divide(clips)
    far = other_clips(clips).assign(split=np.where(clips.index < 10, "test", "train"))
    features = QuestionFeatures(store, pose(clip_table(store), "diagnosis"), RECIPES, splits)
    found = find_unlabelled(features, splits, unlabelled=write(tmp_path / "o", far, numbered(far)))
    assert found.question.clip_ids.tolist() == far["clip_id"][10:].tolist()
