import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
from sonokit.errors import SonokitError
from sonokit.features.search import index_kinds, index_rows, search_many
from sonokit.features.search.index import build_index, open_index
from sonokit.features.search.index_kinds import KINDS, kind_for
from sonokit.features.store import EmbeddingStore, StoreHeader, make_rows

ROWS, DIMENSIONS = 4000, 16


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """40 clusters, one row a clip."""
    rng = np.random.default_rng(0)
    header = StoreHeader(fingerprint="f", kind="backbone", model="m", dimensions=DIMENSIONS)
    store = EmbeddingStore.create(tmp_path_factory.mktemp("kinds"), header)
    frame = pd.DataFrame({"clip_id": [f"c{n:05d}" for n in range(ROWS)], "content_hash": "x", "segment": 0})
    values = rng.normal(size=(40, DIMENSIONS))[rng.integers(0, 40, ROWS)] + 0.7 * rng.normal(size=(ROWS, DIMENSIONS))
    for part in np.array_split(np.arange(ROWS), 4):
        store.append(make_rows(header, frame.iloc[part], values[part]))
    return store


def truth(store, queries, count):
    embeddings, ids = store.embeddings()
    unit = embeddings.astype(np.float64) / np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    return ids[np.argsort(-(queries @ unit.T), axis=1)[:, :count]]


def test_kind_for__by_size():
    assert [kind_for(n) for n in (1, 100_000, 100_001, 10**8)] == ["fp16", "fp16", "ivf", "ivf"]


@pytest.mark.parametrize("kind", KINDS)
def test_kinds__recall_of_fresh_queries_is_near_the_recall_that_was_measured(store, kind):
    index = open_index(store, kind)
    rng = np.random.default_rng(1)
    embeddings, _ = store.embeddings()
    queries = embeddings[rng.integers(0, ROWS, 200)] + 0.2 * rng.normal(size=(200, DIMENSIONS))
    found = search_many(index, queries, 10)
    recall = np.mean([np.isin(t, f).mean() for t, f in zip(truth(store, queries, 10), found.row_ids, strict=True)])
    assert recall == 1.0 if kind in ("flat", "fp16") else recall > index.tuned.recall - 0.05
    assert recall > 0.9
    # what is reported is the cosine itself, whatever the index keeps
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    own = queries / np.linalg.norm(queries, axis=1, keepdims=True)
    exact = np.take_along_axis(own @ unit.T, found.positions, axis=1)
    np.testing.assert_allclose(found.similarities, exact, atol=1e-6)


@pytest.mark.parametrize("kind", ["ivf", "hnsw"])
def test_tune__takes_the_least_effort_that_finds_enough(store, kind):
    index = open_index(store, kind)
    queries = index.rows.units(index.rows.by_row_id[-500:])
    # a row is its own first neighbour, so 11 of which 10 count
    wanted = truth(store, queries, 11)[:, 1:]
    wanted_rows = 1 + 4 * 10

    def recall(effort):
        _, found = index.faiss.search(queries, wanted_rows, params=index_kinds.parameters(kind, effort, wanted_rows))
        return np.mean([np.isin(t, f).mean() for t, f in zip(wanted, found, strict=True)])

    assert recall(index.tuned.effort) == pytest.approx(index.tuned.recall, abs=0.002)  # float16 ties aside
    assert index.tuned.recall >= 0.98
    less = [e for e in index_kinds._EFFORTS if e < index.tuned.effort]
    assert not less or recall(less[-1]) < 0.982


@pytest.mark.skipif(sys.platform != "linux", reason="asks the system what is mapped")
@pytest.mark.parametrize("kind", KINDS)
def test_kinds__rows_stay_on_the_disk(store, kind):
    opened = open_index(store, kind)
    mapped = {Path(region.path).name for region in psutil.Process().memory_maps()}
    assert {"index.faiss", "index-rows.arrow", "index-embeddings.npy"} <= mapped
    assert opened.faiss.ntotal == ROWS


def test_pq__needs_rows_for_its_code_books(tmp_path):
    header = StoreHeader(fingerprint="f", kind="backbone", model="m", dimensions=4)
    store = EmbeddingStore.create(tmp_path, header)
    frame = pd.DataFrame({"clip_id": ["a", "b"], "content_hash": "x", "segment": 0})
    store.append(make_rows(header, frame, np.eye(2, 4)))
    with pytest.raises(SonokitError, match="at least 256 rows, there are 2; choose flat"):
        build_index(store, "pq")
    for kind in ("flat", "fp16", "ivf", "hnsw"):
        index = open_index(store, kind)
        assert search_many(index, np.eye(1, 4), 5).similarities[0, :2].tolist() == [1.0, 0.0], kind


def test_index_rows__single_rows_are_those_of_the_map(store, monkeypatch):
    rows = open_index(store).rows
    some = np.random.default_rng(0).integers(0, ROWS, 50)
    assert 16 * len(some) < ROWS  # so that they are read one by one
    embeddings, row_ids = store.embeddings()
    np.testing.assert_array_equal(rows.take(some).astype(np.float32), embeddings[some])
    np.testing.assert_array_equal(rows.take(np.arange(ROWS)).astype(np.float32), embeddings)
    np.testing.assert_array_equal(rows.positions(row_ids[some]), some)
    assert rows.positions(np.array([-1, 5])).tolist() == [-1, -1]  # no row has id 5
    monkeypatch.setattr(index_rows, "CHUNK", 1500)
    assert [(c.start, c.stop) for c in rows.chunks()] == [(0, 1500), (1500, 3000), (3000, 4000)]


def test_pq__tells_its_recall(store, caplog):
    build_index(store, "pq")
    recall = json.loads((store.folder / "index.json").read_text())["recall_at_10"]
    assert f"pq index of {store.folder} finds {100 * recall:.1f} % of the 10 nearest rows" in caplog.text
    caplog.clear()
    build_index(store, "ivf")
    assert not caplog.text
