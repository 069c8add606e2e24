"""Stores that are killed, spoilt, compacted, merged and exported."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sonokit.errors import SonokitError
from sonokit.features.store import EmbeddingStore, StoreHeader, make_rows
from sonokit.features.store.compact import compact
from sonokit.features.store.parts import Parts, checksum_of
from sonokit.features.store.verify import verify

HEADER = StoreHeader(fingerprint="abc", kind="extractor", model="tiny", dimensions=3, biomarkers=["b_lines"])
SCRIPT = Path(__file__).with_name("store_until_killed.py")


def rows(clip_id, segments=1, content="v1", value=0.0, header=HEADER, patient="p", **labels):
    frame = pd.DataFrame(
        {"clip_id": clip_id, "content_hash": content, "segment": range(segments), "patient_id": patient, **labels}
    )
    return make_rows(header, frame, np.full((segments, header.dimensions), value))


def until_killed(*arguments):
    """The lines that the script prints, split into words."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


@pytest.fixture
def store(tmp_path):
    return EmbeddingStore.create(tmp_path / "store", HEADER)


@pytest.fixture
def many(store):
    """Nine parts: eight clips, two of them twice."""
    for number in range(8):
        store.append(rows(f"c{number}", 2, value=number, severity=float(number), note=None))
        if number == 4:
            store.append(rows("c0", 3, content="v2", value=9, severity=0.0))
    store.append(rows("c1", 2, content="v1", value=8, severity=1.0))
    return store


def version_1(store):
    """Name the parts as the first version of sonokit did."""
    for name in store.parts.names():
        number, checksum = name.removesuffix(".parquet").split("-")[1:]
        (store.folder / "rows" / name).rename(store.folder / "rows" / f"part-{number}-{checksum[:8]}.parquet")
    file = store.folder / "store.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema_version": 1}))
    return EmbeddingStore.open(store.folder)


def test_two_writers__killed_at_20_random_moments_and_resumed(tmp_path):
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        import store_until_killed as script
    finally:
        sys.path.pop(0)
    lines = until_killed("write", tmp_path / "killed", 7)
    killed = sum(status == "-9" for line in lines for status in line)
    assert killed >= 20
    assert lines[-1] == ["0", "0"]
    quiet = EmbeddingStore.create(tmp_path / "quiet", script.HEADER)
    for clip in range(script.CLIPS):
        quiet.append(script.rows_of(clip))
    written = EmbeddingStore.open(tmp_path / "killed")
    assert written.table().equals(quiet.table())
    assert written.header == dataclasses.replace(quiet.header, row_count=120, clip_count=60)
    assert verify(written.folder).faults == []


def test_compact__killed_before_any_step_reads_the_same(tmp_path):
    whole = EmbeddingStore.create(tmp_path / "whole", HEADER)
    for number in range(5):
        whole.append(rows(f"c{number % 4}", 2, value=number))
    expected = whole.table()
    lines = [line for line in until_killed("compact", tmp_path) if line[0].isdigit() and len(line) == 2]
    assert len(lines) > 8
    for step, status in lines:
        there = EmbeddingStore.open(tmp_path / step)
        assert there.table().equals(expected), f"killed before step {step}"
        assert verify(there.folder).faults == []
        assert status == ("0" if step == lines[-1][0] else "-9")
        compact(there)
        assert verify(there.folder).notes == []
        assert there.table().equals(expected)


def test_compact__few_parts_the_same_rows(many):
    before = many.table()
    done = compact(many)
    assert (done.parts_before, done.parts_after, done.rows_removed) == (10, 1, 4)
    assert many.table().equals(before)
    assert EmbeddingStore.open(many.folder).table().equals(before)
    assert verify(many.folder).notes == []
    names = many.parts.names()
    compact(many)
    assert many.parts.names() == names  # nothing was left to do


def test_compact__keeps_the_clips_of_a_part_together_and_parts_small(many):
    compact(many, target_bytes=400)
    assert 1 < len(many.parts.names()) < 10
    holders = {}
    for name in many.parts.names():
        for clip in many.parts.read(name, ["clip_id"])["clip_id"].unique().to_pylist():
            holders.setdefault(clip, []).append(name)
    assert len(holders) == 8
    assert all(len(parts) == 1 for parts in holders.values())


def test_compact__a_column_that_is_unknown_everywhere_stays_open_to_text(many):
    compact(many)
    many.append(rows("later", note="seen"))
    assert many.frame(["note"])["note"].dropna().tolist() == ["seen"]


def test_compact__the_index_of_the_same_rows_stays(many):
    from sonokit.features.search.index import build_index, index_is_current

    build_index(many)
    compact(many)
    assert index_is_current(many)
    assert verify(many.folder).faults == []


def test_compact__removes_leftovers_and_checksums_old_parts(many):
    old = version_1(many)
    before = old.table()
    (old.folder / "rows" / ".tmp-abc-part-000001-00000000.parquet").write_bytes(b"half")
    (old.folder / ".tmp-abc-store.json").write_bytes(b"half")
    notes = "\n".join(verify(old.folder).notes)
    assert "2 files of killed runs" in notes
    assert "not checksummed" in notes
    assert compact(old).leftovers_removed == 2
    assert old.table().equals(before)
    assert all(checksum_of(name) for name in old.parts.names())
    assert json.loads((old.folder / "store.json").read_text())["schema_version"] == 2


def test_tables__parts_that_are_replaced_meanwhile_give_every_clip_once(many):
    expected = many.table(["clip_id", "segment", "embedding"])
    reader = EmbeddingStore.open(many.folder)
    parts = reader.tables(["segment", "clip_id", "embedding"])
    first = [next(parts), next(parts)]
    compact(many)
    seen = pa.concat_tables([*first, *parts]).select(["clip_id", "segment", "embedding"])
    assert seen.num_rows == expected.num_rows
    assert seen.sort_by([("clip_id", "ascending"), ("segment", "ascending")]).equals(expected)


def test_tables__a_clip_of_a_part_that_stays_is_not_given_again_in_its_new_content(store):
    store.append(rows("large", 2000, content="h1"))
    for clip in "bcd":
        store.append(rows(clip, 2))
    parts = EmbeddingStore.open(store.folder).tables(["clip_id", "content_hash"])
    first = next(parts)
    stays = store.parts.names()[0]
    compact(store, target_bytes=20_000)
    assert stays in store.parts.names()
    store.append(rows("large", 1, content="h2"))
    seen = pa.concat_tables([first, *parts])
    pairs = set(zip(seen["clip_id"].to_pylist(), seen["content_hash"].to_pylist(), strict=True))
    assert pairs == {("large", "h1"), ("b", "v1"), ("c", "v1"), ("d", "v1")}
    assert seen.num_rows == 2006


def test_part__a_colon_in_the_path_makes_no_url_of_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = EmbeddingStore.create("bank:1", HEADER)
    store.append(rows("a", 2))
    (name,) = store.parts.names()
    assert store.table().num_rows == 2
    (store.folder / "rows" / name).rename("elsewhere")
    with pytest.raises(FileNotFoundError):
        store.parts.read(name)
    assert EmbeddingStore.open("bank:1").table().num_rows == 0
    gone = iter([[name], []])
    reader = EmbeddingStore.open("bank:1")
    monkeypatch.setattr(reader.parts, "names", lambda: next(gone))
    assert reader.done() == set()  # it was replaced since the list was made


def test_tables__without_clip_ids_too(many):
    reader = EmbeddingStore.open(many.folder)
    parts = reader.tables(["row_id"])
    first = next(parts)
    compact(many)
    ids = pa.concat_tables([first, *parts])["row_id"].to_pylist()
    assert sorted(ids) == sorted(many.table(["row_id"])["row_id"].to_pylist())


def test_old_store__is_read_and_becomes_new_before_the_first_new_part(many):
    old = version_1(many)
    assert old.table().equals(many.table())
    old.append(rows("new"))
    assert json.loads((old.folder / "store.json").read_text())["schema_version"] == 2
    assert ("new", "v1") in EmbeddingStore.create(old.folder, HEADER).done()  # not refused for its version


@pytest.mark.parametrize("share", [0.0, 0.03, 0.2, 0.5, 0.8, 0.99, 1.0])
def test_verify__finds_a_flipped_byte_anywhere_in_a_part(many, share):
    name = many.parts.names()[3]
    path = many.folder / "rows" / name
    content = bytearray(path.read_bytes())
    content[min(int(share * len(content)), len(content) - 1)] ^= 1
    path.write_bytes(content)
    faults = verify(many.folder).faults
    assert any(name in fault and "SHA-256" in fault for fault in faults)


@pytest.mark.parametrize("checksummed", [True, False])
def test_verify__no_flipped_byte_ends_in_a_traceback(store, checksummed):
    store.append(rows("a", 2))
    opened = store if checksummed else version_1(store)
    opened.update_counts()
    (name,) = opened.parts.names()
    path = opened.folder / "rows" / name
    if not checksummed:
        path = path.rename(path.with_name("part-000000-00000000.parquet"))
    whole = path.read_bytes()
    assert verify(store.folder).faults == []
    damaged = 0
    for place in range(0, len(whole), 1 if checksummed else 2):
        content = bytearray(whole)
        content[place] ^= 128
        path.write_bytes(content)
        faults = verify(store.folder).faults
        damaged += len(faults) > 0
        assert faults or not checksummed, f"byte {place}"
    assert damaged > 300  # without a checksum a changed number is a number


def test_read__whatever_byte_is_flipped_the_store_reads_or_tells_which_part_is_damaged(store):
    store.append(rows("a", 2))
    (name,) = store.parts.names()
    path = store.folder / "rows" / name
    whole = path.read_bytes()
    told = []
    for place in range(0, len(whole), 3):
        content = bytearray(whole)
        content[place] ^= 128
        path.write_bytes(content)
        try:
            EmbeddingStore.open(store.folder).table()
        except SonokitError as error:
            told.append(str(error))
    assert all(f"{name} is damaged" in text and "remove that file" in text for text in told)
    assert any("utf-8" in text for text in told)  # names of columns that are no text any more
    assert len(told) > 50


def test_verify__all_right(many):
    many.update_counts()
    found = verify(many.folder)
    assert (found.stores, found.parts, found.rows, found.clips, found.faults) == (1, 10, 17, 8, [])
    assert len(found.notes) == 1
    assert "4 superseded rows" in found.notes[0]


def spoilt(store, change):
    table = change(rows("spoilt", 2))
    Parts(store.folder / "rows").write(table)
    return verify(store.folder).faults


def test_verify__rows_that_nobody_writes(store):
    def other_ids(table):
        return table.set_column(0, "row_id", pa.array([5, 6], pa.int64()))

    def two_contents(table):
        return table.set_column(2, "content_hash", pa.array(["v1", "v2"]))

    def infinite(table):
        values = pa.FixedSizeListArray.from_arrays(pa.array(np.array([1, 2, np.inf, 0, 0, 0], np.float16)), 3)
        return table.set_column(table.column_names.index("embedding"), "embedding", values)

    for change, words in [
        (other_ids, "2 row_ids are not those"),
        (two_contents, "more than one content"),
        (infinite, "1 embeddings are not finite, the first of clip 'spoilt'"),
        (lambda table: table.take([0, 0]), "1 segments stand there twice"),
        (lambda table: table.drop_columns(["embedding"]), "lacks the columns embedding"),
    ]:
        faults = spoilt(store, change)
        assert len(faults) == 1
        assert words in faults[0]
        store.parts.remove(store.parts.names())


def test_verify__torn_part_and_stranger(many):
    part = many.folder / "rows" / many.parts.names()[0]
    part.write_bytes(part.read_bytes()[:-100])
    (many.folder / "rows" / "notes.txt").write_text("mine")
    faults = "\n".join(verify(many.folder).faults)
    assert "was changed" in faults
    assert "damaged" not in faults  # told once
    assert "no part: notes.txt" in faults
    with pytest.raises(SonokitError, match=r"damaged.*store verify"):
        EmbeddingStore.open(many.folder).table()


def test_verify__index(many):
    import faiss
    from sonokit.features.search.index import build_index

    build_index(many)
    assert verify(many.folder).faults == []
    file, note = many.folder / "index.faiss", many.folder / "index.json"
    whole, values = file.read_bytes(), json.loads(note.read_text())
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "SHA-256" in verify(many.folder).faults[0]
    other = faiss.IndexIDMap2(faiss.IndexFlatIP(3))
    other.add_with_ids(np.ones((17, 3), np.float32), np.arange(17))
    faiss.write_index(other, str(file))
    note.write_text(json.dumps({k: v for k, v in values.items() if k != "sha256"}))
    assert "other row_ids" in verify(many.folder).faults[0]
    file.write_bytes(whole)
    many.append(rows("later"))
    found = verify(many.folder)
    assert found.faults == []
    assert any("older than the rows" in text for text in found.notes)


def test_verify__set_and_floor(tmp_path, small_splits):
    from sonokit.clips.splits import write_splits

    for name, fold in [("fold-0", 0), ("fold-1", 1), ("final", None), ("floor", None)]:
        EmbeddingStore.create(tmp_path / name, dataclasses.replace(HEADER, fold=fold)).append(rows("a"))
    write_splits(small_splits, tmp_path / "splits.json")
    (tmp_path / "set.json").write_text(json.dumps({"kind": "store-set", "folds": 2}))
    found = verify(tmp_path)
    assert (found.stores, found.rows, found.faults) == (4, 4, [])
    EmbeddingStore.open(tmp_path / "fold-1").append(rows("b"))
    EmbeddingStore.open(tmp_path / "final").append(rows("a", content="v2"))
    (tmp_path / "fold-0" / "store.json").write_text("{")
    faults = "\n".join(verify(tmp_path).faults)
    for words in ["fold-1 and", "floor lacks 1 clips", "fold-0/store.json is damaged"]:
        assert words in faults


def test_verify__a_part_that_is_gone(many):
    many.update_counts()
    many.parts.remove([many.parts.names()[3]])
    assert "lacks 1 clips that store.json counts" in "\n".join(verify(many.folder).faults)


def test_verify__no_store(tmp_path):
    with pytest.raises(SonokitError, match="not an embedding store"):
        verify(tmp_path)


def test_done__is_a_set_and_answers_for_many_at_once(many):
    expected = {(f"c{n}", "v1") for n in range(1, 8)} | {("c0", "v2")}
    done = many.done()
    assert done == expected
    assert set(done) == expected
    assert len(done) == 8
    assert ("c0", "v2") in done
    assert ("c0", "v1") not in done
    assert done.holds(["c0", "c0", "c3", "x"], ["v1", "v2", "v1", "v1"]).tolist() == [False, True, True, False]
    copy = many.folder.parent / "copy"
    shutil.copytree(many.folder, copy)
    other = EmbeddingStore.open(copy)
    assert other.done() == done
    other.append(rows("c3", content="v3"))
    assert other.done() != done
    assert set(done - other.done()) == {("c3", "v1")}
    assert done - {("c1", "v1")} == expected - {("c1", "v1")}


def test_part__plain_readers_open_the_whole_folder(many):
    compact(many)
    assert len(pd.read_parquet(many.folder / "rows")) == 17
    assert pq.read_table(many.folder / "rows").num_rows == 17
