import dataclasses
import json
import os
import uuid

import fsspec
import numpy as np
import pandas as pd
import pytest
from sonokit.clips.splits import write_splits
from sonokit.errors import SonokitError
from sonokit.features.store import EmbeddingStore, StoreHeader, StoreSet, make_rows, open_stores
from sonokit.features.store.compact import compact
from sonokit.features.store.erasure import erase, plan_erasure
from sonokit.features.store.export import export
from sonokit.features.store.info import describe
from sonokit.features.store.merge import merge
from sonokit.features.store.verify import verify

HEADER = StoreHeader(fingerprint="abc", kind="extractor", model="tiny", dimensions=3, biomarkers=["b_lines"])


def rows(clip_id, segments=1, content="v1", value=0.0, header=HEADER, patient="p", **labels):
    frame = pd.DataFrame(
        {"clip_id": clip_id, "content_hash": content, "segment": range(segments), "patient_id": patient, **labels}
    )
    return make_rows(header, frame, np.full((segments, header.dimensions), value))


def make(folder, clips, header=HEADER, **labels):
    """A store of one part a clip: {clip_id: (content, value)}."""
    store = EmbeddingStore.create(folder, header)
    for clip_id, (content, value) in clips.items():
        store.append(rows(clip_id, 2, content, value, header, **labels))
    store.update_counts()
    return store


def values_of(store):
    table = store.table(["clip_id", "content_hash", "embedding"]).to_pylist()
    return {r["clip_id"]: (r["content_hash"], float(r["embedding"][0])) for r in table}


@pytest.fixture
def two(tmp_path):
    first = make(tmp_path / "a", {"x": ("v1", 1), "y": ("v1", 2)}, severity=1.0)
    second = make(tmp_path / "b", {"y": ("v2", 3), "z": ("v1", 4)}, note="seen")
    return [first.folder, second.folder]


@pytest.fixture
def bank():
    """A place in memory."""
    place = f"memory://bank-{uuid.uuid4().hex}"
    yield place
    fsspec.filesystem("memory").store.clear()


def test_merge__conflicts_are_refused_before_anything_is_written(two, tmp_path):
    with pytest.raises(SonokitError, match=r"1 clips have different contents.*\(y\).*--on_conflict"):
        merge(two, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("policy", "expected"), [("first", ("v1", 2)), ("last", ("v2", 3))])
def test_merge__first_or_last(two, tmp_path, policy, expected):
    done = merge(two, tmp_path / "out", policy)
    out = EmbeddingStore.open(tmp_path / "out")
    assert values_of(out) == {"x": ("v1", 1), "y": expected, "z": ("v1", 4)}
    assert (done.added, done.clips) == (3, 3)
    assert {"severity", "note"} <= set(out.columns())
    assert (out.header_on_disk.row_count, out.header.clip_count) == (6, 3)
    assert verify(out.folder).faults == []
    assert merge(two, tmp_path / "out", policy).added == 0


@pytest.mark.parametrize(("policy", "expected"), [("first", 9), ("last", 3)])
def test_merge__an_existing_store_counts_as_the_first(two, tmp_path, policy, expected):
    make(tmp_path / "out", {"y": ("v0", 9), "w": ("v1", 7)})
    merge(two, tmp_path / "out", policy)
    held = values_of(EmbeddingStore.open(tmp_path / "out"))
    assert held["y"][1] == expected
    assert set(held) == {"w", "x", "y", "z"}


FLOOR = dataclasses.replace(HEADER, fingerprint="random")


def test_merge__a_target_with_a_floor_and_sources_without_or_the_other_way_round(two, tmp_path):
    make(tmp_path / "out", {"w": ("v1", 7)})
    make(tmp_path / "out" / "floor", {"w": ("v1", 7)}, FLOOR)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SonokitError, match=r"out has a floor, .*a has none: .*--floor true"):
        merge(two[:1], tmp_path / "out")
    make(two[0] / "floor", {"x": ("v1", 1), "y": ("v1", 2)}, FLOOR)
    with pytest.raises(SonokitError, match=r"out has a floor, .*b has none"):
        merge(two, tmp_path / "out", "first")
    make(tmp_path / "bare", {"w": ("v1", 7)})
    with pytest.raises(SonokitError, match=r"bare has none of the floors"):
        merge(two[:1], tmp_path / "bare")
    mine = [p for p in sorted(tmp_path.rglob("*")) if "bare" not in p.parts and "a/floor" not in p.as_posix()]
    assert [p for p in mine if p.is_file()] == [p for p in before if p.is_file()]
    merge(two[:1], tmp_path / "out")
    opened = open_stores(tmp_path / "out")
    assert opened.floor.done() == opened.done() == {("w", "v1"), ("x", "v1"), ("y", "v1")}
    merge(two, tmp_path / "new", "first")
    assert open_stores(tmp_path / "new").floor is None  # one of the sources has none
    merge(two[1:], tmp_path / "bare")
    assert open_stores(tmp_path / "bare").floor is None


@pytest.mark.parametrize("failing", [1, 2, 3, 4])
def test_merge__with_floors_stopped_and_done_again(two, tmp_path, monkeypatch, failing):
    make(two[0] / "floor", {"x": ("v1", 1), "y": ("v1", 2)}, FLOOR)
    make(two[1] / "floor", {"y": ("v2", 3), "z": ("v1", 4)}, FLOOR)
    calls, append = [], EmbeddingStore.append

    def stopping(self, table):
        calls.append(None)
        if len(calls) == failing:
            raise KeyboardInterrupt
        append(self, table)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(EmbeddingStore, "append", stopping)
        merge(two, tmp_path / "out", "last")
    merge(two, tmp_path / "out", "last")
    opened = open_stores(tmp_path / "out")
    assert opened.floor.done() == opened.done() == {("x", "v1"), ("y", "v2"), ("z", "v1")}


def test_merge__stopped_and_done_again(two, tmp_path, monkeypatch):
    calls, append = [], EmbeddingStore.append

    def stopping(self, table):
        calls.append(None)
        if len(calls) == 2:
            raise KeyboardInterrupt
        append(self, table)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(EmbeddingStore, "append", stopping)
        merge(two, tmp_path / "out", "last")
    merge(two, tmp_path / "out", "last")
    merge(two, tmp_path / "quiet", "last")
    assert EmbeddingStore.open(tmp_path / "out").table().equals(EmbeddingStore.open(tmp_path / "quiet").table())


def test_merge__of_other_models_and_other_labels(two, tmp_path):
    other = make(tmp_path / "c", {"q": ("v1", 1)}, dataclasses.replace(HEADER, fingerprint="xyz"))
    with pytest.raises(SonokitError, match="fingerprint: 'abc' there, 'xyz' now"):
        merge([*two, other.folder], tmp_path / "out", "first")
    text = make(tmp_path / "d", {"q": ("v1", 1)}, severity="mild")
    with pytest.raises(SonokitError, match="'severity' holds text"):
        merge([*two, text.folder], tmp_path / "out", "first")
    with pytest.raises(SonokitError, match="leave it out"):
        merge(two, two[0])
    assert not (tmp_path / "out").exists()


def make_set(folder, splits, clips):
    for name, fold in [("fold-0", 0), ("fold-1", 1), ("final", None), ("floor", None)]:
        make(folder / name, clips, dataclasses.replace(HEADER, fold=fold))
    write_splits(splits, folder / "splits.json")
    (folder / "set.json").write_text(json.dumps({"kind": "store-set", "folds": 2}))
    return folder


def test_merge__sets_member_by_member(tmp_path, small_splits):
    first = make_set(tmp_path / "a", small_splits, {"x": ("v1", 1)})
    second = make_set(tmp_path / "b", small_splits, {"y": ("v1", 2)})
    assert merge([first, second], tmp_path / "out").clips == 2
    opened = open_stores(tmp_path / "out")
    assert isinstance(opened, StoreSet)
    assert values_of(opened.folds[1]) == values_of(opened.final) == {"x": ("v1", 1), "y": ("v1", 2)}
    assert opened.floor is not None
    assert opened.floor.done() == opened.final.done()
    assert verify(tmp_path / "out").faults == []
    plain = make(tmp_path / "plain", {"q": ("v1", 1)})
    with pytest.raises(SonokitError, match="sets with sets"):
        merge([first, plain.folder], tmp_path / "mixed")
    other = dataclasses.replace(small_splits, seed=99)
    third = make_set(tmp_path / "c", other, {"z": ("v1", 2)})
    with pytest.raises(SonokitError, match="different splits"):
        merge([first, third], tmp_path / "mixed")


@pytest.fixture
def exported(two, tmp_path):
    merge(two, tmp_path / "out", "last")
    store = EmbeddingStore.open(tmp_path / "out")
    store.append(rows("x", 3, "v3", 5.5, severity=2.0))
    return store


def test_export__parquet(exported, tmp_path):
    assert export(exported, tmp_path / "rows.parquet", "parquet") == 7
    there = pd.read_parquet(tmp_path / "rows.parquet").sort_values(["clip_id", "segment"], ignore_index=True)
    expected = exported.table().to_pandas()
    pd.testing.assert_frame_equal(there, expected)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_export__numpy(tmp_path, dtype):
    header = dataclasses.replace(HEADER, dtype=dtype)
    store = make(tmp_path / "s", {f"c{n}": ("v1", n / 3) for n in range(12)}, header)
    assert export(store, tmp_path / "plain", "numpy") == 24
    values = np.load(tmp_path / "plain" / "embeddings.npy")
    table = pd.read_csv(tmp_path / "plain" / "rows.csv")
    assert values.dtype == dtype
    assert values.shape == (24, 3)
    assert len(table) == 24
    numbers = table["clip_id"].str[1:].astype(int).to_numpy()
    np.testing.assert_array_equal(values, np.repeat((numbers / 3).astype(dtype)[:, None], 3, axis=1))


def test_export__csv(exported, tmp_path):
    assert export(exported, tmp_path / "rows.csv", "csv") == 7
    there = pd.read_csv(tmp_path / "rows.csv").sort_values(["clip_id", "segment"], ignore_index=True)
    assert there["e_000"].tolist() == [5.5, 5.5, 5.5, 3, 3, 4, 4]
    assert there.columns[-3:].tolist() == ["e_000", "e_001", "e_002"]
    assert there["note"].tolist()[3:] == ["seen"] * 4


def test_export__refuses_what_is_there_and_what_is_empty(exported, tmp_path):
    (tmp_path / "there").write_text("mine")
    with pytest.raises(SonokitError, match="there already"):
        export(exported, tmp_path / "there", "csv")
    with pytest.raises(SonokitError, match="no rows yet"):
        export(EmbeddingStore.create(tmp_path / "empty", HEADER), tmp_path / "x.csv", "csv")


def test_remote__append_resume_verify_compact(bank):
    store = make(bank, {"a": ("v1", 1), "b": ("v1", 2)})
    store.append(rows("a", 1, "v2", 3))
    again = EmbeddingStore.create(bank, HEADER)
    assert again.done() == {("a", "v2"), ("b", "v1")}
    assert values_of(again) == {"a": ("v2", 3), "b": ("v1", 2)}
    assert again.header.row_count == 3
    found = verify(bank)
    assert (found.rows, found.faults) == (3, [])
    assert compact(again).parts_after == 1
    assert values_of(store) == {"a": ("v2", 3), "b": ("v1", 2)}
    (part,) = again.parts.names()
    with (again.folder / "rows" / part).open("rb") as file:
        content = bytearray(file.read())
    content[len(content) // 2] ^= 4
    (again.folder / "rows" / part).write_bytes(bytes(content))
    assert any("SHA-256" in fault for fault in verify(bank).faults)
    with pytest.raises(SonokitError, match="fingerprint"):
        EmbeddingStore.create(bank, dataclasses.replace(HEADER, fingerprint="other"))
    with pytest.raises(SonokitError, match="not an embedding store"):
        EmbeddingStore.open(bank + "-elsewhere")


def test_remote__two_writers_that_do_not_see_each_other_lose_nothing(bank, monkeypatch):
    first, second = EmbeddingStore.create(bank, HEADER), EmbeddingStore.create(bank, HEADER)
    monkeypatch.setattr(second.parts, "names", list)  # as if both had listed the parts at one moment
    first.append(rows("a"))
    second.append(rows("b"))
    assert EmbeddingStore.open(bank).done() == {("a", "v1"), ("b", "v1")}


def test_remote__merge_from_local_and_export_and_erase(two, bank, tmp_path):
    merge(two, bank, "first")
    store = EmbeddingStore.open(bank)
    assert values_of(store) == {"x": ("v1", 1), "y": ("v1", 2), "z": ("v1", 4)}
    assert export(store, tmp_path / "rows.csv", "csv") == 6
    store.append(rows("mine", 2, patient="patient-2"))
    plan = plan_erasure(bank, patient="patient-2")
    assert plan.rows == 2
    erase(plan)
    assert EmbeddingStore.open(bank).done() == {("x", "v1"), ("y", "v1"), ("z", "v1")}
    assert any("6 of 3 clips" in line for line in describe(bank))


def test_remote__a_set_and_its_floor(bank, tmp_path, small_splits):
    local = make_set(tmp_path / "a", small_splits, {"x": ("v1", 1)})
    system = fsspec.filesystem("memory")
    for path in local.rglob("*"):
        if path.is_file() and path.name != ".lock":
            system.pipe(f"{bank}/{path.relative_to(local).as_posix()}", path.read_bytes())
    opened = open_stores(bank)
    assert isinstance(opened, StoreSet)
    assert opened.splits.fingerprint() == small_splits.fingerprint()
    assert values_of(opened.folds[0]) == {"x": ("v1", 1)}
    assert opened.floor is not None
    assert verify(bank).faults == []


def test_local_url__is_a_local_folder(tmp_path):
    make(tmp_path / "a", {"x": ("v1", 1)})
    store = EmbeddingStore.open(f"file://{tmp_path}/a")
    assert store.folder == tmp_path / "a"
    assert os.fspath(store.folder)


def test_describe__counts_clips_not_rows(tmp_path):
    store = EmbeddingStore.create(tmp_path / "s", HEADER)
    for number in range(20):
        labels = {"site": f"s{number % 2}", "severity": float(number % 3), "age": number + 0.5, "note": f"n{number}"}
        store.append(rows(f"c{number}", 3, patient=f"p{number % 5}", **labels))
    store.append(rows("c0", 1, "v2", patient="p0", site="s0", severity=0.0))
    text = "\n".join(describe(store.folder))
    for words in [
        "58 of 20 clips of 5 patients", "3 x float16", "parts        21, 4.9% of the rows superseded", "s0 (10), s1 (10)",
        "severity: 0 (7), 1 (7), 2 (6)", "age: 1.5 to 19.5, known of 19 clips", "note: 19 values, known of 19 clips",
        "without labels", "index        none", "floor        none",
    ]:  # fmt: skip
        assert words in text
