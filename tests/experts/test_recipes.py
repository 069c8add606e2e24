from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sonokit.errors import SonokitError
from sonokit.experts.question import pose
from sonokit.experts.recipes import clip_features, clip_table, recipe_columns, union_recipe, usual_recipes
from sonokit.features.store import EmbeddingStore, StoreHeader

CLIPS = pd.DataFrame({"clip_id": ["b", "a"], "content_hash": ["h1", "h2"], "patient_id": ["p", "q"], "diagnosis": ["x", "y"]})
EMBEDDINGS = np.array([[[1, 2], [3, 6]], [[5, 5], [5, 5]]], dtype=np.float32)  # [clips, segments, D]


def test_clip_features__mean_and_spread_by_hand_in_the_stores_order(write: Any, tmp_path: Path) -> None:
    found = clip_features(write(tmp_path / "s", CLIPS, EMBEDDINGS), "mean_std")
    assert found.clip_ids.tolist() == ["a", "b"]
    assert found.X.tolist() == [[5, 5, 0, 0], [2, 4, 1, 2]]
    assert found.X.dtype == np.float32
    assert found.names == ("mean of dimension 0", "mean of dimension 1", "spread of dimension 0", "spread of dimension 1")


def test_clip_features__biomarkers_by_hand(tmp_path: Path) -> None:
    from sonokit.features.store import make_rows

    header = StoreHeader(fingerprint="f", kind="extractor", model="m", dimensions=2, dtype="float32", biomarkers=["b_lines"])
    store = EmbeddingStore.create(tmp_path / "s", header)
    rows = CLIPS.loc[[0, 0, 1, 1]].assign(segment=[0, 1, 0, 1], p_b_lines=[0.25, 0.75, 0.5, 0.5])
    store.append(make_rows(header, rows, EMBEDDINGS.reshape(4, 2)))
    assert clip_features(store, "biomarkers").X.tolist() == [[0.5, 0.5], [0.5, 0.75]]
    both = clip_features(store, "mean_std+biomarkers")
    assert both.X.tolist() == [[5, 5, 0, 0, 0.5, 0.5], [2, 4, 1, 2, 0.5, 0.75]]
    assert both.names[-2:] == ("mean of b_lines", "maximum of b_lines")
    assert "p_b_lines" not in clip_table(store)


def test_clip_features__equals_a_plain_loop(write: Any, make: Any, embedding: Any, tmp_path: Path) -> None:
    clips = make(6, 2)
    embeddings = embedding(clips, 1.0, dimensions=5, segments=4)
    found = clip_features(write(tmp_path / "s", clips, embeddings), "mean_std")
    for clip, block in zip(clips["clip_id"], embeddings, strict=True):
        expected = np.concatenate([block.mean(axis=0), block.std(axis=0)])
        np.testing.assert_allclose(found.rows(np.array([clip]))[0], expected, rtol=1e-5, atol=1e-6)


def test_clip_features__backbone_store_has_no_biomarkers(write: Any, tmp_path: Path) -> None:
    with pytest.raises(SonokitError, match="biomarker extractor"):
        clip_features(write(tmp_path / "s", CLIPS, EMBEDDINGS), "biomarkers")


def test_clip_features__unknown_recipe_names_the_known(write: Any, tmp_path: Path) -> None:
    with pytest.raises(SonokitError, match="mean_std"):
        clip_features(write(tmp_path / "s", CLIPS, EMBEDDINGS), "median")


def test_clip_features__infinite_embedding_is_named(write: Any, tmp_path: Path) -> None:
    broken = EMBEDDINGS.copy()
    broken[0, 0, 0] = np.inf
    with pytest.raises(SonokitError, match="'b'"):
        clip_features(write(tmp_path / "s", CLIPS, broken))


def test_clip_features__empty_store(tmp_path: Path) -> None:
    store = EmbeddingStore.create(tmp_path / "s", StoreHeader(fingerprint="f", kind="backbone", model="m", dimensions=2))
    with pytest.raises(SonokitError, match="no rows yet"):
        clip_features(store)
    with pytest.raises(SonokitError, match="no rows yet"):
        clip_table(store)


def test_clip_table__one_row_a_clip_without_what_is_of_a_segment(write: Any, tmp_path: Path) -> None:
    table = clip_table(write(tmp_path / "s", CLIPS, EMBEDDINGS))
    assert table["diagnosis"].tolist() == ["y", "x"]
    assert not {"segment", "row_id", "start_s"} & set(table)


@pytest.mark.parametrize("recipe", ["mean_std", "mean"])
def test_clip_features__a_clip_that_another_process_adds_meanwhile_shifts_nothing(
    write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    """Clip "aa" sorts between the two that are there, and arrives after the first read."""
    store = write(tmp_path / "s", CLIPS, EMBEDDINGS)
    expected = clip_features(store, recipe)
    reading, late = EmbeddingStore.table, [CLIPS.loc[:0].assign(clip_id="aa", content_hash="h3")]

    def read_then_append(self: EmbeddingStore, columns: Any = None) -> Any:
        table = reading(self, columns)
        if late:
            write(tmp_path / "s", late.pop(), np.full((1, 3, 2), 9, dtype=np.float32))
        return table

    monkeypatch.setattr(EmbeddingStore, "table", read_then_append)
    found = clip_features(store, recipe)
    assert not late
    np.testing.assert_array_equal(found.rows(np.array(["a", "b"])), expected.rows(np.array(["a", "b"])))


def test_clip_features__extremes_by_hand(write: Any, tmp_path: Path) -> None:
    mixed = np.array([[[1, 9], [3, 6], [-2, 7]], [[5, 5], [5, 5], [5, 5]]], dtype=np.float32)
    found = clip_features(write(tmp_path / "s", CLIPS, mixed), "extremes+mean")
    assert found.X.tolist()[1] == pytest.approx([-2, 6, 3, 9, 2 / 3, 22 / 3])
    assert found.names == (
        "minimum of dimension 0", "minimum of dimension 1", "maximum of dimension 0", "maximum of dimension 1",
        "mean of dimension 0", "mean of dimension 1",
    )  # fmt: skip


def test_clip_features__mean_std_is_mean_and_spread(write: Any, make: Any, embedding: Any, tmp_path: Path) -> None:
    clips = make(6, 2)
    store = write(tmp_path / "s", clips, embedding(clips, 1.0))
    np.testing.assert_array_equal(clip_features(store, "mean_std").X, clip_features(store, "mean+spread").X)
    np.testing.assert_array_equal(clip_features(store, "mean_std+mean").X, clip_features(store, "mean_std").X)


def test_clip_features__a_patients_row_runs_over_all_segments_of_all_clips(
    write: Any, make: Any, embedding: Any, tmp_path: Path
) -> None:
    clips = make(6, 3).sample(frac=1, random_state=3).reset_index(drop=True)  # a patient's clips lie apart
    clips["clip_id"] = np.random.default_rng(0).permutation(clips["clip_id"])
    values = embedding(clips, 1.0, dimensions=4)
    found = clip_features(write(tmp_path / "s", clips, values), "mean_std+extremes", "patient")
    assert found.clip_ids.tolist() == sorted(set(clips["patient_id"]))
    for name, row in zip(found.clip_ids, found.X, strict=True):
        seen = values[(clips["patient_id"] == name).to_numpy()].reshape(-1, 4)
        expected = np.concatenate([seen.mean(axis=0), seen.std(axis=0), seen.min(axis=0), seen.max(axis=0)])
        np.testing.assert_allclose(row, expected, rtol=1e-5, atol=1e-6)


def test_clip_features__only_some_clips_of_a_patient(write: Any, make: Any, embedding: Any, tmp_path: Path) -> None:
    clips = make(6, 2)
    values = embedding(clips, 1.0)
    found = clip_features(write(tmp_path / "s", clips, values), "mean", "patient", only=np.array(["clip-003", "clip-000"]))
    assert found.clip_ids.tolist() == ["p00", "p01"]
    np.testing.assert_allclose(found.X, values[[0, 3]].mean(axis=1), rtol=1e-5)


def test_clip_features__patient_of_a_clip_unknown(write: Any, tmp_path: Path) -> None:
    store = write(tmp_path / "s", CLIPS.assign(patient_id=["p", None]), EMBEDDINGS)
    with pytest.raises(SonokitError, match=r"patient_id of clip 'a' is unknown.*--unit clip"):
        clip_features(store, "mean", "patient")


def test_clip_features__many_clips_in_parts_equal_one_part(
    write: Any, make: Any, embedding: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clips = make(20, 2)
    store = write(tmp_path / "s", clips, embedding(clips, 1.0))
    whole = clip_features(store, "mean_std+extremes")
    monkeypatch.setattr("sonokit.experts.recipes._VALUES_AT_ONCE", 100)  # two clips at a time
    np.testing.assert_array_equal(clip_features(store, "mean_std+extremes").X, whole.X)


def test_recipe_columns__each_recipe_is_found_in_the_union(write: Any, tmp_path: Path) -> None:
    recipes = ("extremes+mean", "mean", "mean_std")
    store = write(tmp_path / "s", CLIPS, EMBEDDINGS)
    whole = clip_features(store, union_recipe(recipes)).X
    assert whole.shape == (2, 8)  # every block once
    for recipe, columns in recipe_columns(recipes, 2, 0).items():
        np.testing.assert_array_equal(whole[:, columns], clip_features(store, recipe).X)


def test_usual_recipes__what_a_store_has_to_give(write: Any, tmp_path: Path) -> None:
    many = write(tmp_path / "many", CLIPS, EMBEDDINGS, biomarkers=["b_lines"])
    assert usual_recipes(many) == ("mean", "mean_std", "mean_std+extremes", "biomarkers", "mean_std+biomarkers")
    assert usual_recipes(write(tmp_path / "one", CLIPS, EMBEDDINGS[:, :1], segments=1)) == ("mean",)


def test_clip_features__patients_by_number_have_the_names_that_a_question_gives_them(
    write: Any, make: Any, embedding: Any, tmp_path: Path
) -> None:
    clips = make(12, 2)
    clips = clips.assign(subject=clips["patient_id"].str[1:].astype(float)).assign(
        diagnosis=clips["diagnosis"].where(clips["patient_id"] != "p11"),
        subject=lambda t: t["subject"].mask(t["subject"] == 11),
    )
    values = embedding(clips, 1.0)
    store = write(tmp_path / "s", clips, values)
    question = pose(clip_table(store), "diagnosis", unit="patient", patient="subject", fewest_patients=2)
    found = clip_features(store, "mean", "patient", "subject", only=question.every_clip[0])
    of_ten = clips["patient_id"] == "p10"
    tenth = question.clip_ids[[float(name) == 10 for name in question.clip_ids]]
    expected = values[of_ten].reshape(-1, values.shape[2]).mean(axis=0)
    np.testing.assert_allclose(found.rows(tenth)[0], expected, rtol=1e-5)
    assert len(found.rows(question.clip_ids)) == 11
