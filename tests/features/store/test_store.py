import dataclasses
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sonokit.errors import SonokitError
from sonokit.features.store import SCHEMA_VERSION, EmbeddingStore, StoreHeader, make_rows, open_stores, row_id

HEADER = StoreHeader(fingerprint="abc", kind="extractor", model="tiny", dimensions=3, biomarkers=["b_lines"])


def rows(clip_id, segments, content="v1", value=0.0, header=HEADER, **labels):
    frame = pd.DataFrame({"clip_id": clip_id, "content_hash": content, "segment": range(segments), "patient_id": "p", **labels})
    return make_rows(header, frame, np.full((segments, header.dimensions), value))


def values_of(store):
    table = store.table(["clip_id", "segment", "embedding"]).to_pylist()
    return [(r["clip_id"], r["segment"], float(r["embedding"][0])) for r in table]


@pytest.fixture
def store(tmp_path):
    return EmbeddingStore.create(tmp_path / "store", HEADER)


def test_table__order_does_not_depend_on_who_wrote_first(store):
    store.append(rows("b", 2))
    store.append(rows("a", 2, value=1))
    assert values_of(store) == [("a", 0, 1.0), ("a", 1, 1.0), ("b", 0, 0.0), ("b", 1, 0.0)]


def test_table__a_changed_clip_shows_its_new_content_only(store):
    store.append(rows("a", 4, content="old", value=1))
    store.append(rows("b", 1))
    store.append(rows("a", 2, content="new", value=2))
    assert values_of(store) == [("a", 0, 2.0), ("a", 1, 2.0), ("b", 0, 0.0)]
    assert store.done() == {("a", "new"), ("b", "v1")}
    assert (store.header.row_count, store.header.clip_count) == (3, 2)


def test_table__content_that_comes_back_counts_as_new(store):
    for content, value in [("x", 1), ("y", 2), ("x", 3)]:
        store.append(rows("a", 1, content=content, value=value))
    assert values_of(store) == [("a", 0, 3.0)]


def test_table__another_instance_sees_what_was_appended(store):
    reader = EmbeddingStore.open(store.folder)
    assert reader.done() == set()
    store.append(rows("a", 1))
    assert reader.done() == {("a", "v1")}
    assert values_of(reader) == values_of(store)


def test_append__many_writers_at_once(store):
    def write(worker):
        mine = EmbeddingStore.create(store.folder, HEADER)
        for clip in range(6):
            mine.append(rows(f"clip-{clip}", 2, value=clip))
        return worker

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(write, range(4))) == [0, 1, 2, 3]
    assert values_of(store) == [(f"clip-{c}", s, float(c)) for c in range(6) for s in range(2)]
    assert len(list((store.folder / "rows").iterdir())) == 24  # none was overwritten


def test_append__a_part_opens_in_plain_pandas_and_pyarrow(store):
    store.append(rows("a", 2, value=0.5, diagnosis="covid19", severity=2))
    (part,) = (store.folder / "rows").iterdir()
    frame = pd.read_parquet(part)
    assert frame["clip_id"].tolist() == ["a", "a"]
    assert frame["embedding"][1].tolist() == [0.5, 0.5, 0.5]
    schema = pq.read_schema(part)
    assert str(schema.field("embedding").type) == "fixed_size_list<element: halffloat>[3]"
    assert {n: str(schema.field(n).type) for n in ("row_id", "p_b_lines", "severity", "diagnosis")} == {
        "row_id": "int64",
        "p_b_lines": "float",
        "severity": "double",
        "diagnosis": "string",
    }


def test_append__label_columns_may_differ_between_parts(store):
    store.append(rows("a", 1, severity=1.0, note=None))
    store.append(rows("b", 1, note="seen", grade=[7]))
    frame = store.frame(["clip_id", "severity", "note", "grade"])
    assert frame["severity"].tolist()[0] == 1
    assert np.isnan(frame["severity"][1])
    assert frame["note"].isna().tolist() == [True, False]
    assert np.isnan(frame["grade"][0])


def test_append__a_column_that_is_unknown_everywhere_reads_as_unknown_numbers(store):
    store.append(rows("a", 1, severity=None))
    assert store.frame(["severity"])["severity"].dtype == np.float64


def test_append__text_where_the_store_has_numbers(store):
    store.append(rows("a", 1, severity=1.0))
    with pytest.raises(SonokitError, match=r"'severity' holds text.*holds numbers"):
        store.append(rows("b", 1, severity="mild"))


@pytest.mark.parametrize("spoil", ["missing", "null", "twice"])
def test_append__refuses_rows_of_another_form(store, spoil):
    good = rows("a", 2)
    bad = {
        "missing": good.drop_columns(["p_b_lines"]),
        "null": good.set_column(good.column_names.index("clip_id"), "clip_id", [["a", None]]),
        "twice": good.take([0, 0]),
    }[spoil]
    with pytest.raises(ValueError, match=r"lack|nulls|twice"):
        store.append(bad)
    assert store.done() == set()


def test_read__ignores_temporary_files(store):
    store.append(rows("a", 1))
    (store.folder / "rows" / ".tmp-1234-part-000009-00000000.parquet").write_bytes(b"half a file")
    assert values_of(EmbeddingStore.open(store.folder)) == [("a", 0, 0.0)]


def test_empty_store__has_columns_and_no_rows(store):
    assert store.table().num_rows == 0
    assert "embedding" in store.table().column_names
    assert store.embeddings()[0].shape == (0, 3)
    assert store.frame(["clip_id"]).empty


def test_embeddings__float32_in_the_order_of_the_table(tmp_path):
    header = dataclasses.replace(HEADER, dtype="float32")
    store = EmbeddingStore.create(tmp_path, header)
    values = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    frame = pd.DataFrame({"clip_id": list("edcba"), "content_hash": "x", "segment": 0})
    store.append(make_rows(header, frame, values))
    embeddings, ids = store.embeddings()
    np.testing.assert_array_equal(embeddings, values[::-1])
    assert embeddings.dtype == np.float32
    assert ids.tolist() == [row_id(c, 0) for c in "abcde"]


def test_create__goes_on_with_the_same_header_and_refuses_another(store):
    store.append(rows("a", 1))
    assert EmbeddingStore.create(store.folder, HEADER).done() == {("a", "v1")}
    with pytest.raises(SonokitError, match=r"fingerprint: 'abc' there, 'xyz' now.*Choose another --out"):
        EmbeddingStore.create(store.folder, dataclasses.replace(HEADER, fingerprint="xyz"))


def test_open__refuses_what_is_no_store_or_newer_or_damaged(store, tmp_path):
    with pytest.raises(SonokitError, match="not an embedding store"):
        EmbeddingStore.open(tmp_path)
    file = store.folder / "store.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"schema_version": SCHEMA_VERSION + 1}))
    with pytest.raises(SonokitError, match="update sonokit"):
        EmbeddingStore.open(store.folder)
    file.write_text('{"schema_version"')
    with pytest.raises(SonokitError, match="damaged"):
        EmbeddingStore.open(store.folder)


def test_update_counts__writes_what_is_there(store):
    store.append(rows("a", 4))
    store.update_counts()
    values = json.loads((store.folder / "store.json").read_text())
    assert (values["row_count"], values["clip_count"]) == (4, 1)
    assert EmbeddingStore.create(store.folder, HEADER).header.row_count == 4


def test_table__unknown_column_is_named_with_those_there_are(store):
    with pytest.raises(SonokitError, match=r"no column severety; it has: .*clip_id"):
        store.table(["severety"])


def test_floor__is_the_store_beside(store):
    assert store.floor is None
    EmbeddingStore.create(store.folder / "floor", HEADER)
    assert store.floor.header == HEADER
    store.append(rows("a", 1))
    with pytest.raises(SonokitError, match="lacks 1 clips"):
        _ = store.floor
    floor = EmbeddingStore.open(store.folder / "floor")
    floor.append(rows("a", 1))
    assert store.floor.done() == {("a", "v1")}
    store.append(rows("a", 1, content="v2"))  # the clip's file was replaced, the floor still has the old one
    with pytest.raises(SonokitError, match="older file"):
        _ = store.floor


@given(st.text(max_size=20), st.integers(0, 1000))
def test_row_id__fits_faiss_and_is_a_function_of_clip_and_segment(clip_id, segment):
    assert 0 <= row_id(clip_id, segment) < 2**63
    assert row_id(clip_id, segment) == row_id(clip_id, segment) != row_id(clip_id, segment + 1)


def test_row_id__never_changes():
    # stores on disk and indices elsewhere hold these numbers; the digest is that of: printf 'a\0000' | b2sum -l 64
    assert row_id("a", 0) == int("7e7f121fae3b9715", 16) >> 1


def test_open_stores__set_with_all_its_stores(tmp_path, small_splits):
    folder = write_set(tmp_path, small_splits)
    found = open_stores(folder)
    assert [s.header.fold for s in found.folds] == [0, 1]
    assert found.final.header.fold is None
    assert found.splits.fingerprint() == small_splits.fingerprint()
    assert found.floor is None


def test_open_stores__unfinished_set(tmp_path, small_splits):
    folder = write_set(tmp_path, small_splits)
    EmbeddingStore.open(folder / "final").append(rows("later", 1))
    with pytest.raises(SonokitError, match="unfinished"):
        open_stores(folder)


def test_open_stores__plain_store(store):
    assert isinstance(open_stores(store.folder), EmbeddingStore)


def write_set(folder, splits):
    from sonokit.clips.splits import write_splits

    for name, fold in [("fold-0", 0), ("fold-1", 1), ("final", None)]:
        header = dataclasses.replace(HEADER, fold=fold)
        EmbeddingStore.create(folder / name, header).append(rows("a", 1))
    write_splits(splits, folder / "splits.json")
    (folder / "set.json").write_text(json.dumps({"kind": "store-set", "folds": 2}))
    return folder


def test_import__needs_neither_torch_nor_faiss():
    code = "import sys, sonokit.features.store; print(sorted({'torch', 'faiss', 'timm', 'sklearn'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "torch" not in done.stdout
    assert "faiss" not in done.stdout


def test_open__a_set_says_that_one_of_its_stores_is_to_be_named(tmp_path):
    (tmp_path / "set.json").write_text('{"kind": "store-set", "folds": 2}', encoding="utf-8")
    with pytest.raises(SonokitError, match=r"is a set, not one store: name one in it, such as .*final"):
        EmbeddingStore.open(tmp_path)
