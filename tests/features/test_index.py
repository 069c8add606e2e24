import numpy as np
import pandas as pd
import pytest
from sonokit.errors import SonokitError
from sonokit.features.index import build_index, index_is_current, normalised, open_index
from sonokit.features.search import search
from sonokit.features.store import EmbeddingStore, StoreHeader, make_rows

DIMENSIONS = 8


@pytest.fixture
def store(tmp_path):
    """30 clips of 10 patients with 3 segments each."""
    header = StoreHeader(fingerprint="f", kind="backbone", model="m", dimensions=DIMENSIONS, dtype="float32")
    store = EmbeddingStore.create(tmp_path / "store", header)
    store.append(random_rows(header, range(30), seed=0))
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


def brute_force(store, query, k, leave_out):
    """Best segment of every clip by float64 cosines, straight from the rows."""
    embeddings, _ = store.embeddings()
    rows = store.frame(["clip_id"])
    unit = embeddings.astype(np.float64) / np.linalg.norm(embeddings.astype(np.float64), axis=1, keepdims=True)
    rows["similarity"] = unit @ (query / np.linalg.norm(query))
    best = rows.groupby("clip_id")["similarity"].max()
    best = best[~best.index.isin(leave_out)].sort_values(ascending=False)
    return best.head(k)


def test_index__equals_brute_force(store):
    index = open_index(store)
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
    assert open_index(store).ntotal == 93
    assert index_is_current(store)


def test_index__of_an_empty_store_is_refused(tmp_path):
    store = EmbeddingStore.create(tmp_path, StoreHeader(fingerprint="f", kind="backbone", model="m", dimensions=2))
    with pytest.raises(SonokitError, match="holds no rows"):
        build_index(store)


def test_normalised__a_row_of_zeros_stays():
    np.testing.assert_allclose(normalised(np.array([[3.0, 4.0], [0.0, 0.0]])), [[0.6, 0.8], [0, 0]], atol=1e-7)


@pytest.mark.parametrize("k", [1, 5, 26])
def test_search__a_vector_finds_what_brute_force_finds(store, k):
    query = np.random.default_rng(2).normal(size=DIMENSIONS)
    found = search(store, query, k)
    expected = brute_force(store, query, k, [])
    assert found["clip_id"].tolist() == expected.index.tolist()
    np.testing.assert_allclose(found["similarity"], expected, atol=1e-6)
    assert found["rank"].tolist() == list(range(1, k + 1))
    assert (found["severity"] == [float(c[1:]) for c in found["clip_id"]]).all()


@pytest.mark.parametrize("same_patient_too", [True, False])
def test_search__a_clip_is_never_its_own_neighbour(store, same_patient_too):
    embeddings, _ = store.embeddings()
    mine = (store.frame(["clip_id"])["clip_id"] == "c07").to_numpy()
    query = normalised(embeddings[mine]).astype(np.float64).mean(axis=0)
    leave_out = ["c07"] if same_patient_too else ["c07", "c17", "c27"]
    found = search(store, "c07", 6, exclude_same_patient=not same_patient_too)
    assert found["clip_id"].tolist() == brute_force(store, query, 6, leave_out).index.tolist()


def test_search__the_patient_of_a_vector_can_be_named(store):
    query = np.ones(DIMENSIONS)
    found = search(store, query, 50, patient="p3")
    assert len(found) == 27
    assert "p3" not in set(found["patient_id"])


def test_search__fetches_on_past_the_segments_of_one_clip(tmp_path):
    # one clip fills the first 200 places
    header = StoreHeader(fingerprint="f", kind="backbone", model="m", dimensions=2)
    store = EmbeddingStore.create(tmp_path, header)
    frame = pd.DataFrame({"clip_id": ["big"] * 200 + ["other", "third"], "content_hash": "x", "segment": [*range(200), 0, 0]})
    store.append(make_rows(header, frame, np.array([[1.0, 0.0]] * 200 + [[1.0, 1.0], [0.0, 1.0]])))
    assert search(store, np.array([1.0, 0.0]), 3)["clip_id"].tolist() == ["big", "other", "third"]
    assert search(store, "big", 1)["clip_id"].tolist() == ["other"]


def test_search__equal_similarities_come_in_order_of_clip_id(tmp_path):
    header = StoreHeader(fingerprint="f", kind="backbone", model="m", dimensions=2)
    store = EmbeddingStore.create(tmp_path, header)
    frame = pd.DataFrame({"clip_id": list("gfedcba"), "content_hash": "x", "segment": 0})
    store.append(make_rows(header, frame, np.ones((7, 2))))
    assert search(store, np.array([1.0, 1.0]), 3)["clip_id"].tolist() == ["a", "b", "c"]


def test_search__faults_are_named(store):
    with pytest.raises(SonokitError, match="no clip 'nobody'"):
        search(store, "nobody")
    with pytest.raises(SonokitError, match=r"shape \(3,\)"):
        search(store, np.ones(3))
    with pytest.raises(SonokitError, match="at least 1"):
        search(store, np.ones(DIMENSIONS), 0)
