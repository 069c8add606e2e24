import numpy as np
import pandas as pd
import pytest
from sonokit.errors import SonokitError
from sonokit.features.search import neighbours, search, search_many
from sonokit.features.search.index import open_index
from sonokit.features.store import EmbeddingStore, StoreHeader, make_rows

DIMENSIONS = 8
SITES = ["north", "south", None]


def make_store(folder, clips=60, patients=12, segments=3, *, dtype="float16", dimensions=DIMENSIONS, seed=0, step=None):
    """Clips of random directions; with ``step`` their values are multiples of it, so that many are equally similar."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame(
        [
            {"clip_id": f"c{n:03d}", "content_hash": f"h{n}", "segment": s, "patient_id": _patient(n, patients)}
            for n in range(clips)
            for s in range(segments)
        ]
    )
    number = frame["clip_id"].str[1:].astype(int)
    frame["site"] = [SITES[n % 3] for n in number]
    frame["severity"] = number % 4.0
    frame["diagnosis"] = np.where(number % 5 == 0, "ill", "well")
    header = StoreHeader(fingerprint="f", kind="backbone", model="m", dimensions=dimensions, dtype=dtype)
    store = EmbeddingStore.create(folder, header)
    values = rng.normal(size=(len(frame), dimensions))
    values = values if step is None else np.round(values / step) * step
    for part in np.array_split(rng.permutation(clips), 3):
        mine = number.isin(part).to_numpy()
        store.append(make_rows(header, frame[mine], values[mine]))
    return store


def _patient(clip, patients):
    return None if clip % 7 == 3 else f"p{clip % patients}"


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "store")


def brute_force(store, query, k, keep=lambda rows: np.ones(len(rows), bool), per="clip_id"):
    """The best allowed row of every clip (or patient) by float64 cosines, straight from the rows; ties by clip_id."""
    embeddings, _ = store.embeddings()
    rows = store.frame()
    unit = embeddings.astype(np.float64) / np.maximum(np.linalg.norm(embeddings.astype(np.float64), axis=1)[:, None], 1e-300)
    query = np.asarray(query, np.float64)
    rows["similarity"] = (unit @ (query / max(np.linalg.norm(query), 1e-300))).round(12)
    rows["group"] = rows["clip_id"] if per == "clip_id" else rows["patient_id"].fillna("clip " + rows["clip_id"])
    rows = rows[keep(rows)].sort_values(["similarity", "clip_id", "segment"], ascending=[False, True, True])
    return rows.drop_duplicates("group").head(k)


def same(found, expected):
    assert found["clip_id"].tolist() == expected["clip_id"].tolist()
    assert found["segment"].tolist() == expected["segment"].tolist()
    np.testing.assert_allclose(found["similarity"], expected["similarity"], atol=1e-11, rtol=0)


@pytest.mark.parametrize("kind", ["flat", "fp16"])
@pytest.mark.parametrize("k", [1, 5, 60])
@pytest.mark.parametrize("step", [None, 1.0])
def test_search__is_exactly_that_of_comparing_everything(tmp_path, kind, k, step):
    store = make_store(tmp_path, step=step)
    index = open_index(store, kind)
    for query in np.random.default_rng(2).normal(size=(15, DIMENSIONS)).round(0 if step else 6):
        same(search(index, query, k), brute_force(store, query, k))


@pytest.mark.parametrize("kind", ["flat", "fp16"])
def test_search__is_exact_where_rows_differ_by_less_than_the_index_can_tell(tmp_path, kind):
    # 2,000 rows within 1e-4 of each other in float32
    rng = np.random.default_rng(3)
    header = StoreHeader(fingerprint="f", kind="backbone", model="m", dimensions=DIMENSIONS, dtype="float32")
    store = EmbeddingStore.create(tmp_path, header)
    frame = pd.DataFrame({"clip_id": [f"c{n:04d}" for n in range(2000)], "content_hash": "x", "segment": 0})
    store.append(make_rows(header, frame, 1 + 1e-4 * rng.normal(size=(2000, DIMENSIONS))))
    query = rng.normal(size=DIMENSIONS) + 3
    same(search(store, query, 10, kind=kind), brute_force(store, query, 10))


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
@pytest.mark.parametrize(
    ("where", "keep"),
    [
        ({"site": "south"}, lambda r: r["site"] == "south"),
        ({"site": ["south", "north"], "severity": 3}, lambda r: r["site"].notna() & (r["severity"] == 3)),
        ({"severity": "2"}, lambda r: r["severity"] == 2),
        ({"diagnosis": "ill", "extractor_trained_on": "false"}, lambda r: r["diagnosis"] == "ill"),
    ],
)
@pytest.mark.parametrize("few", [0, 10**6])  # by the index's own filter, or by comparing what the filter leaves
def test_search__filtered_is_that_of_comparing_what_the_filter_leaves(store, kind, where, keep, few, monkeypatch):
    monkeypatch.setattr(neighbours, "_COMPARE_FILTERED", few)
    query = np.random.default_rng(4).normal(size=DIMENSIONS)
    for k in (3, 60):  # 60: all that there are, whatever the index skips
        found = search(store, query, k, where=where, kind=kind)
        expected = brute_force(store, query, k, keep)
        if kind == "flat" or few or k == 60:
            same(found, expected)
        assert len(found) == len(expected)
        assert keep(found).all()


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_search__patients(store, kind):
    query = np.random.default_rng(5).normal(size=DIMENSIONS)
    without = search(store, query, 60, without_patients=["p1", "p2", "not there"], kind=kind)
    same(without, brute_force(store, query, 60, lambda r: ~r["patient_id"].isin(["p1", "p2"])))
    own = search(store, query, 60, patient="p4", kind=kind)
    same(own, brute_force(store, query, 60, lambda r: r["patient_id"] != "p4"))
    both = search(store, query, 60, patient="p4", exclude_same_patient=False, kind=kind)
    same(both, brute_force(store, query, 60))


def test_search__one_per_patient(store):
    query = np.random.default_rng(6).normal(size=DIMENSIONS)
    for k in (4, 60):
        found = search(store, query, k, one_per_patient=True)
        same(found, brute_force(store, query, k, per="patient_id"))
        assert not found["patient_id"].dropna().duplicated().any()


@pytest.mark.parametrize("same_patient_too", [True, False])
def test_search__a_clip_is_never_its_own_neighbour(store, same_patient_too):
    embeddings, _ = store.embeddings()
    mine = embeddings[(store.frame()["clip_id"] == "c007").to_numpy()].astype(np.float64)
    query = (mine / np.linalg.norm(mine, axis=1, keepdims=True)).mean(axis=0)
    found = search(store, "c007", 6, exclude_same_patient=not same_patient_too)

    def others(rows):
        return (rows["clip_id"] != "c007") & (same_patient_too | (rows["patient_id"] != "p7"))

    expected = brute_force(store, query, 6, others)
    assert found["clip_id"].tolist() == expected["clip_id"].tolist()
    np.testing.assert_allclose(found["similarity"], expected["similarity"], atol=1e-6)
    assert found["rank"].tolist() == [1, 2, 3, 4, 5, 6]


def test_search__a_clip_of_an_unknown_patient_excludes_itself_only(store):
    found = search(store, "c003", 60)
    assert set(store.frame()["clip_id"]) - set(found["clip_id"]) == {"c003"}


def test_search__the_answers_columns(store):
    found = search(store, "c007", 4)
    kept = [
        "rank",
        "clip_id",
        "patient_id",
        "similarity",
        "segment",
        "content_hash",
        "site",
        "probe",
        "container",
        "frame_rate",
    ]
    assert list(found) == [*kept, "extractor_trained_on", "severity", "diagnosis"]
    there = store.frame().drop_duplicates("clip_id").set_index("clip_id")
    for name in ("patient_id", "content_hash", "site", "severity", "diagnosis"):
        expected = there.loc[found["clip_id"], name].reset_index(drop=True)
        pd.testing.assert_series_equal(found[name], expected, check_names=False)


def test_search__fetches_on_past_the_segments_of_one_clip(tmp_path):
    # one clip fills the first 200 places
    header = StoreHeader(fingerprint="f", kind="backbone", model="m", dimensions=2)
    store = EmbeddingStore.create(tmp_path, header)
    frame = pd.DataFrame({"clip_id": ["big"] * 200 + ["other", "third"], "content_hash": "x", "segment": [*range(200), 0, 0]})
    store.append(make_rows(header, frame, np.array([[1.0, 0.0]] * 200 + [[1.0, 1.0], [0.0, 1.0]])))
    for kind in ("fp16", "ivf", "hnsw"):
        assert search(store, np.array([1.0, 0.0]), 3, kind=kind)["clip_id"].tolist() == ["big", "other", "third"]
        assert search(store, "big", 1)["clip_id"].tolist() == ["other"]


def test_search__equal_similarities_come_in_order_of_clip_id(tmp_path):
    header = StoreHeader(fingerprint="f", kind="backbone", model="m", dimensions=2)
    store = EmbeddingStore.create(tmp_path, header)
    frame = pd.DataFrame({"clip_id": list("gfedcba"), "content_hash": "x", "segment": 0})
    store.append(make_rows(header, frame, np.ones((7, 2))))
    assert search(store, np.array([1.0, 1.0]), 3)["clip_id"].tolist() == ["a", "b", "c"]


def test_search__zeros_are_similar_to_nothing(tmp_path):
    header = StoreHeader(fingerprint="f", kind="backbone", model="m", dimensions=2)
    store = EmbeddingStore.create(tmp_path, header)
    frame = pd.DataFrame({"clip_id": ["black", "away", "near"], "content_hash": "x", "segment": 0})
    store.append(make_rows(header, frame, np.array([[0.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])))
    assert search(store, np.array([2.0, 0.0]))["similarity"].tolist() == [1.0, 0.0, -1.0]
    assert search(store, np.zeros(2))["similarity"].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(("kind", "many_from"), [("flat", 512), ("fp16", 512), ("fp16", 2), ("ivf", 512), ("hnsw", 512)])
def test_search_many__is_search_for_each(store, kind, many_from, monkeypatch):
    monkeypatch.setattr(neighbours, "_MANY", many_from)  # so many queries at once are asked of rows of 32 bits
    index = open_index(store, kind)
    queries = np.random.default_rng(7).normal(size=(40, DIMENSIONS))
    patients = [None if n % 3 else f"p{n % 12}" for n in range(40)]
    clips = [None if n % 4 else f"c{n:03d}" for n in range(40)]
    many = search_many(index, queries, 5, patients=patients, clips=clips)
    ids = store.frame(["row_id", "clip_id"]).set_index("row_id")["clip_id"]
    for n, query in enumerate(queries):
        one = search_many(index, query[None], 5, patients=[patients[n]], clips=[clips[n]])
        assert one.row_ids[0].tolist() == many.row_ids[n].tolist()
        np.testing.assert_array_equal(one.similarities[0], many.similarities[n])
        expected = brute_force(
            store,
            query,
            5,
            lambda r, n=n: (r["clip_id"] != clips[n]) & (r["patient_id"].isna() | (r["patient_id"] != patients[n])),
        )
        if kind in ("flat", "fp16"):
            assert (index.for_many is index.faiss) == (kind == "flat")
            assert ids.loc[many.row_ids[n]].tolist() == expected["clip_id"].tolist()


def test_search_many__fewer_than_asked_for_are_marked(store):
    found = search_many(store, np.ones((2, DIMENSIONS)), 70, where={"site": "north"})
    assert found.row_ids.shape == (2, 70)
    assert (found.row_ids[:, :20] >= 0).all()
    assert (found.row_ids[:, 20:] == -1).all()
    assert (found.positions[:, 20:] == -1).all()
    assert np.isnan(found.similarities[:, 20:]).all()
    assert search_many(store, np.ones((0, DIMENSIONS)), 3).row_ids.shape == (0, 3)


def test_search__faults_are_named(store):
    with pytest.raises(SonokitError, match="no clip 'nobody'"):
        search(store, "nobody")
    with pytest.raises(SonokitError, match=r"shape \(3,\)"):
        search(store, np.ones(3))
    with pytest.raises(SonokitError, match="at least 1"):
        search(store, np.ones(DIMENSIONS), 0)
    with pytest.raises(SonokitError, match="not finite"):
        search(store, np.full(DIMENSIONS, np.nan))
    with pytest.raises(SonokitError, match=r"no column 'hospital'; it has: .*site"):
        search(store, "c007", where={"hospital": "a"})
    with pytest.raises(SonokitError, match="site = east; there is: north, south"):
        search(store, "c007", where={"site": "east"})
    with pytest.raises(SonokitError, match="'severity' holds double"):
        search(store, "c007", where={"severity": "bad"})
