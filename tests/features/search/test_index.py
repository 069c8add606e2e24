import json
from pathlib import Path

import faiss
import numpy as np
import pandas as pd
import pytest
from sonokit.errors import SonokitError
from sonokit.features.search import search
from sonokit.features.search.index import INDEX_FILES, build_index, index_is_current, normalised, open_index, remove_index
from sonokit.features.store import EmbeddingStore, StoreHeader, make_rows

DIMENSIONS = 8


@pytest.fixture
def store(tmp_path):
    """30 clips of 10 patients with 3 segments each, in two parts."""
    header = StoreHeader(fingerprint="f", kind="backbone", model="m", dimensions=DIMENSIONS, dtype="float32")
    store = EmbeddingStore.create(tmp_path / "store", header)
    store.append(random_rows(header, range(20, 30), seed=0))
    store.append(random_rows(header, range(20), seed=1))
    return store


def random_rows(header, numbers, seed):
    frame = pd.DataFrame(
        [
            {"clip_id": f"c{n:02d}", "content_hash": "x", "segment": s, "patient_id": f"p{n % 10}", "severity": float(n)}
            for n in numbers
            for s in range(3)
        ]
    )
    return make_rows(header, frame, np.random.default_rng(seed).normal(size=(len(frame), DIMENSIONS)))


def test_index__faiss_itself_holds_the_unit_rows_under_their_row_ids(store):
    index = faiss.read_index(str(build_index(store, "flat")))
    embeddings, ids = store.embeddings()
    queries = normalised(np.random.default_rng(1).normal(size=(20, DIMENSIONS)))
    similarity, found = index.search(queries, 7)
    exact = queries.astype(np.float64) @ normalised(embeddings).astype(np.float64).T
    order = np.argsort(-exact, axis=1)[:, :7]
    np.testing.assert_array_equal(found, ids[order])
    np.testing.assert_allclose(similarity, np.take_along_axis(exact, order, axis=1), atol=1e-6)


def test_index__rebuilt_when_rows_came(store):
    build_index(store)
    assert index_is_current(store)
    store.append(random_rows(store.header, range(30, 31), seed=9))
    assert not index_is_current(store)
    assert open_index(store).faiss.ntotal == 93
    assert index_is_current(store)


def test_index__of_an_empty_store_is_refused(tmp_path):
    store = EmbeddingStore.create(tmp_path, StoreHeader(fingerprint="f", kind="backbone", model="m", dimensions=2))
    with pytest.raises(SonokitError, match="holds no rows"):
        build_index(store)


def test_index__the_kind_that_was_asked_for_stays_until_another_is(store):
    assert open_index(store).kind == "fp16"  # by size
    assert open_index(store, "ivf").kind == "ivf"
    store.append(random_rows(store.header, range(30, 31), seed=9))
    assert open_index(store).kind == "ivf"
    assert not index_is_current(store, "flat")
    assert open_index(store, "auto").kind == "fp16"
    with pytest.raises(SonokitError, match="no index kind 'tree'"):
        open_index(store, "tree")


@pytest.mark.parametrize("kind", ["flat", "fp16", "ivf", "hnsw"])
def test_index__the_same_rows_give_the_same_files(store, tmp_path, kind):
    other = EmbeddingStore.create(tmp_path / "other", store.header)
    other.append(random_rows(store.header, range(20), seed=1))  # written in another order
    other.append(random_rows(store.header, range(20, 30), seed=0))
    for one in (store, other):
        build_index(one, kind)
    for name in INDEX_FILES[1:]:
        assert (store.folder / name).read_bytes() == (other.folder / name).read_bytes(), name


def test_index__the_note_has_the_files_hashes(store):
    import hashlib

    build_index(store)
    note = json.loads((store.folder / "index.json").read_text())
    hashes = {"index.faiss": note["sha256"], **note["sidecars"]}
    assert set(hashes) == set(INDEX_FILES) - {"index.json"}
    for name, digest in hashes.items():
        assert hashlib.sha256((store.folder / name).read_bytes()).hexdigest() == digest
    assert note["rows"] == 90
    assert note["stamp"] == store.stamp()


def test_index__is_made_again_where_a_file_of_it_is_gone(store):
    for name in INDEX_FILES:
        build_index(store)
        (store.folder / name).unlink()
        assert not index_is_current(store)
        assert len(search(store, "c07", 3)) == 3


@pytest.mark.parametrize("kind", ["fp16", "ivf"])
def test_index__is_made_again_where_a_file_of_it_is_cut_short(store, kind):
    expected = search(store, "c07", 5, kind=kind)
    for name in INDEX_FILES:
        content = (store.folder / name).read_bytes()
        (store.folder / name).write_bytes(content[: len(content) // 2])
        pd.testing.assert_frame_equal(search(store, "c07", 5), expected)
        assert open_index(store).kind == (kind if name != "index.json" else "fp16")  # which kind was asked for is lost with it
        build_index(store, kind)


def test_index__a_killed_build_leaves_an_index_that_is_made_again(store, monkeypatch):
    """Killed before each of the files in turn."""
    import sonokit.features.search.index as module

    build_index(store)
    expected = search(store, "c07", 5)
    store.append(random_rows(store.header, range(30, 31), seed=9))
    store.append(random_rows(store.header, range(20, 30), seed=0))  # the rows are others, then as before but for one clip
    move = module._move
    for name in INDEX_FILES[1:]:

        def dying(built, target, name=name):
            if target.name == name:
                raise KeyboardInterrupt
            move(built, target)

        monkeypatch.setattr(module, "_move", dying)
        with pytest.raises(KeyboardInterrupt):
            build_index(store)
        assert not index_is_current(store)
    monkeypatch.undo()
    found = search(store, "c07", 6)
    found = found[found["clip_id"] != "c30"]
    assert found["clip_id"].tolist()[:5] == expected["clip_id"].tolist()


def test_index__an_open_one_stays_what_it_is(store):
    opened = open_index(store)
    before = search(opened, "c07", 5)
    store.append(random_rows(store.header, range(30), seed=5))
    build_index(store)
    pd.testing.assert_frame_equal(search(opened, "c07", 5), before)
    assert not search(store, "c07", 5)["similarity"].equals(before["similarity"])


def test_remove_index__leaves_no_file_of_it(store):
    build_index(store)
    (store.folder / ".tmp-index-dead").mkdir()
    (store.folder / ".tmp-index-dead" / "index-rows.arrow").write_bytes(b"of a killed build")
    remove_index(store.folder)
    names = {path.name for path in store.folder.rglob("*")}
    assert not {name for name in names if "index" in name} - {".index.lock"}


def test_index__of_a_store_behind_a_url(store):
    from sonokit.features.store.files import as_folder

    remote = EmbeddingStore.create(as_folder("memory://index-test/bank"), store.header)
    for part in store.tables():
        remote.append(part)
    pd.testing.assert_frame_equal(search(remote, "c07", 5), search(store, "c07", 5))
    assert (remote.folder / "index.json").exists()
    copy = Path(open_index(remote)._copy.name)
    assert not copy.exists()  # it went with the index that was opened


def test_normalised__a_row_of_zeros_stays():
    np.testing.assert_allclose(normalised(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0, 0]], atol=1e-7)
    np.testing.assert_allclose(normalised(np.array([[3e30, 4e30]])), [[0.6, 0.8]], atol=1e-7)
