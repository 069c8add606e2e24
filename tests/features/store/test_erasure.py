"""A patient leaves a store and its cache: nothing of them is left in any byte, all others are as before."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from sonokit.clips.shards import ShardWriter, StoredFrames, open_shards
from sonokit.clips.splits import Fold, Splits, read_splits, write_splits
from sonokit.errors import SonokitError
from sonokit.features.search import search
from sonokit.features.store import EmbeddingStore, StoreHeader, StoreSet, make_rows, open_stores
from sonokit.features.store.erasure import erase, plan_erasure
from sonokit.features.store.made_from import find_mentions
from sonokit.features.store.verify import verify

HEADER = StoreHeader(fingerprint="abcdef", kind="extractor", model="tiny", dimensions=64, dtype="float32")
SCRIPT = Path(__file__).with_name("store_until_killed.py")
SIDE, CLIPS = 8, 14


def content(number, version=1):
    return hashlib.sha256(f"file {number} {version}".encode()).hexdigest()


def embedding(number, fold=0):
    return np.random.default_rng([number, fold]).normal(size=(2, 64)).astype(np.float32)


def frames_of(number):
    return np.random.default_rng(number).integers(0, 256, (3, SIDE, SIDE), dtype=np.uint8)


def rows(number, header=HEADER, version=1, patient=None, fold=0):
    frame = pd.DataFrame(
        {
            "clip_id": f"clip-{number:02d}",
            "content_hash": content(number, version),
            "segment": [0, 1],
            "patient_id": patient or f"patient-{number % 7}",
            "path": f"patient-{number % 7}/clip-{number:02d}.mp4",
            "severity": float(number),
        }
    )
    return make_rows(header, frame, embedding(number, fold))


def fill(folder, header=HEADER, fold=0, together=1):
    """Parts of one clip, or of some together.

    clip-03 is of patient-3 and was first given to patient-2 by mistake; clip-09 is of patient-2 and had another file first.
    """
    store = EmbeddingStore.create(folder, header)
    store.append(rows(3, header, patient="patient-2", fold=fold))
    store.append(rows(9, header, version=0, fold=fold))
    for start in range(0, CLIPS, together):
        store.append(pa.concat_tables([rows(n, header, fold=fold) for n in range(start, min(start + together, CLIPS))]))
    store.update_counts()
    return store


def fill_cache(folder):
    place = folder / f"grey-{SIDE}-3frames"
    place.mkdir(parents=True)
    writer = ShardWriter(place)
    for number in range(CLIPS):
        writer.add(StoredFrames(content(number), frames_of(number), np.arange(3), "mp4", 25.0, 30, 30))
        if number == 5:
            writer.flush()
    writer.flush()
    paths = [f"/data/patient-{n % 7}/clip-{n:02d}.mp4" for n in range(CLIPS)]
    memo = {"path": paths, "stamp": "1", "content_hash": [content(n) for n in range(CLIPS)]}
    pd.DataFrame(memo).to_parquet(folder / "sources.parquet", index=False)
    return folder


def everything(*folders):
    """All bytes of all files and names, and what the Parquet files hold when they are unpacked, their statistics too."""
    texts = []
    for path in (path for folder in folders for path in folder.rglob("*")):
        texts.append(path.name.encode())
        if path.is_file():
            texts.append(path.read_bytes())
        if path.suffix == ".parquet" and not path.name.startswith(".tmp"):
            file = pq.ParquetFile(path)
            table = file.read()
            texts += [str(file.metadata.to_dict()).encode(), str(file.schema_arrow.metadata).encode()]
            texts += [str(table.drop_columns([c for c in ["embedding"] if c in table.column_names]).to_pydict()).encode()]
            if "embedding" in table.column_names:
                texts.append(table["embedding"].combine_chunks().flatten().to_numpy().tobytes())
    return b"\n".join(texts)


def traces(numbers=(2, 9), folds=(0,), patient=b"patient-2"):
    """What would betray the clips."""
    found = [patient]
    for number in numbers:
        found += [f"clip-{number:02d}".encode(), frames_of(number)[0].tobytes()]
        for version in (0, 1):
            found += [content(number, version).encode(), bytes.fromhex(content(number, version))]
        for fold in folds:
            values = embedding(number, fold)
            unit = values / np.linalg.norm(values, axis=1, keepdims=True)
            found += [row.tobytes() for row in [*values, *unit.astype(np.float16), *unit]]
    return found


@pytest.fixture
def place(tmp_path):
    """A store with index and floor, its records, and the cache."""
    from sonokit.features.search.index import build_index

    store = fill(tmp_path / "store")
    floor = fill(tmp_path / "store" / "floor", dataclasses.replace(HEADER, fingerprint="random"), fold=9)
    build_index(store)
    build_index(floor)
    (tmp_path / "store" / "rejected.csv").write_text(
        'clip_id,path,reason\nodd,patient-2/odd.mp4,"empty, it seems"\nclip-99,x.mp4,"short, too"\n'
    )
    (tmp_path / "store" / "config.yaml").write_text("manifest: /data/patient-2/manifest.csv\nseed: 2\n")
    (tmp_path / "store" / "rows" / ".tmp-abc-part-000099-00000000.parquet").write_bytes(b"patient-2 half a part")
    fill_cache(tmp_path / "cache")
    return tmp_path


def test_erase__leaves_no_trace_in_any_byte(place):
    before = everything(place / "store", place / "cache")
    looked_for = traces(folds=(0, 9))
    present = [trace for trace in looked_for if trace in before]
    assert len(present) > 15  # so that looking for them later means something
    plan = plan_erasure(place / "store", patient="patient-2", cache=place / "cache")
    assert everything(place / "store", place / "cache") == before  # planning changes nothing
    assert plan.names.clip_ids == {"clip-02", "clip-09"}
    assert plan.names.content_hashes == {content(2), content(9), content(9, 0)}
    assert plan.rows == 2 * (4 + 2 + 2)  # in the store and its floor: two clips, one twice, and the row of a mistake
    assert plan.listed == 2
    assert plan.cache.clips == 2
    erase(plan)
    after = everything(place / "store", place / "cache")
    assert [trace for trace in looked_for if trace in after] == []
    assert not plan_erasure(place / "store", patient="patient-2", cache=place / "cache")


def test_erase__the_others_are_as_before(place):
    before = EmbeddingStore.open(place / "store").table()
    kept = before.filter([clip not in ("clip-02", "clip-09") for clip in before["clip_id"].to_pylist()])
    erase(plan_erasure(place / "store", patient="patient-2", cache=place / "cache"))
    store = EmbeddingStore.open(place / "store")
    assert store.table().equals(kept)
    assert store.floor.done() == store.done()
    found = verify(place / "store")
    assert found.faults == []
    assert not any("index" in note for note in found.notes)  # it was made anew
    values = json.loads((place / "store" / "store.json").read_text())
    assert (values["row_count"], values["clip_count"]) == (24, 12)
    assert (place / "store" / "rejected.csv").read_text() == 'clip_id,path,reason\nclip-99,x.mp4,"short, too"\n'
    assert yaml.safe_load((place / "store" / "config.yaml").read_text()) == {"manifest": "/data/erased/manifest.csv", "seed": 2}
    assert len(open_shards(place / "cache" / f"grey-{SIDE}-3frames", SIDE)) == CLIPS - 2
    answer = search(store, "clip-03", 11)
    assert not set(answer["clip_id"]) & {"clip-02", "clip-09"}


def test_erase__one_clip_only(place):
    erase(plan_erasure(place / "store", clip_ids=["clip-09"]))
    ids = set(EmbeddingStore.open(place / "store").frame(["clip_id"])["clip_id"])
    assert "clip-09" not in ids
    assert "clip-02" in ids


def test_plan__nobody_and_nowhere(place, tmp_path):
    with pytest.raises(SonokitError, match="Name a patient"):
        plan_erasure(place / "store")
    with pytest.raises(SonokitError, match="not an embedding store"):
        plan_erasure(tmp_path / "cache", patient="patient-2")
    nobody = plan_erasure(place / "store", patient="nobody", cache=place / "cache")
    assert not nobody.names_somebody()
    assert (nobody.rows, nobody.listed, nobody.leftovers) == (0, 0, 1)  # of a killed run, which may be anybody's


def test_erase__killed_before_any_step_and_done_again(tmp_path):
    fill(tmp_path / "whole" / "store", together=7)
    fill_cache(tmp_path / "whole" / "cache")
    (tmp_path / "whole" / "store" / "rejected.csv").write_text("clip_id,path,reason\nodd,patient-2/odd.mp4,empty\n")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, str(SCRIPT), "drop", str(tmp_path)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    steps = [line.split() for line in done.stdout.splitlines()]
    assert len(steps) > 12
    assert steps[-1][1] == "0"
    expected = EmbeddingStore.open(tmp_path / steps[-1][0] / "store").table()
    for step, _ in steps:
        killed = tmp_path / step
        erase(plan_erasure(killed / "store", patient="patient-2", cache=killed / "cache"))
        after = everything(killed / "store", killed / "cache")
        assert [trace for trace in traces() if trace in after] == [], f"killed before step {step}"
        assert EmbeddingStore.open(killed / "store").table().equals(expected)
        assert len(open_shards(killed / "cache" / f"grey-{SIDE}-3frames", SIDE)) == CLIPS - 2


def division(count=CLIPS):
    ids = [f"clip-{n:02d}" for n in range(count)]
    folds = tuple(Fold(0, k, tuple(c for n, c in enumerate(ids) if n % 7 % 2 == k)) for k in range(2))
    sites = {"here": tuple(ids[:10]), "there": tuple(ids[10:])}
    return Splits(tuple(ids), "severity", "patient_id", 0, folds, sites, (), tuple(f"patient-{n % 7}" for n in range(count)))


@pytest.fixture
def store_set(tmp_path):
    folder, splits = tmp_path / "set", division()
    for name, fold in [("fold-0", 0), ("fold-1", 1), ("final", None)]:
        fill(folder / name, dataclasses.replace(HEADER, fold=fold, splits_fingerprint=splits.fingerprint()), fold or 0)
    write_splits(splits, folder / "splits.json")
    values = {"kind": "store-set", "splits_fingerprint": splits.fingerprint(), "folds": 2}
    (folder / "set.json").write_text(json.dumps(values))
    return folder


def test_erase__from_all_stores_of_a_set_and_its_division(store_set):
    assert any(trace in everything(store_set) for trace in traces(folds=(0, 1)))
    erase(plan_erasure(store_set, patient="patient-2"))
    after = everything(store_set)
    assert [trace for trace in traces(folds=(0, 1)) if trace in after] == []
    opened = open_stores(store_set)
    assert isinstance(opened, StoreSet)
    assert len(opened.splits.clip_ids) == CLIPS - 2
    assert all(s.header.splits_fingerprint == opened.splits.fingerprint() for s in [*opened.folds, opened.final])
    assert verify(store_set).faults == []
    kept = division()
    assert set(kept.clip_ids) - set(opened.splits.clip_ids) == {"clip-02", "clip-09"}
    assert opened.splits.folds[1].test == kept.folds[1].test


def test_plan__a_fold_that_would_be_empty_is_refused_before_anything_is_done(store_set):
    splits = read_splits(store_set / "splits.json")
    before = everything(store_set)
    with pytest.raises(SonokitError, match="has none left to test"):
        plan_erasure(store_set, clip_ids=splits.folds[0].test)
    assert everything(store_set) == before


def test_mentions__name_what_was_made_from_them_and_nothing_else(place):
    names = plan_erasure(place / "store", patient="patient-2").names
    write = {
        "expert/expert.json": json.dumps({"store": {"fingerprint": "abcdef"}}),
        "expert/report.json": json.dumps({"patients": 14}),
        "other/expert.json": json.dumps({"store": {"fingerprint": "000"}}),
        "extractor/extractor.json": json.dumps({"provenance": {"training_patients": ["patient-2", "patient-3"]}}),
        "backbone/sonokit.json": json.dumps({"training_clips": {"x": content(9)}}),
        "clean/extractor.json": json.dumps({"provenance": {"training_patients": ["patient-20"]}}),
        "predictions.csv": "clip_id,prediction\nclip-02,1\n",
        "others.csv": "clip_id,prediction\nclip-020,1\n",
        "report.html": "<td>patient-2</td>",
        "settings.yaml": "where: patient_id=patient-2\n",
        "notes.md": "nothing of them",
        "bad/extractor.json": "{",
        ".hidden/predictions.csv": "clip_id\nclip-02\n",
    }
    for name, text in write.items():
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_text(text)
    fill(place / "sibling")
    pd.DataFrame({"clip_id": ["clip-09"]}).to_parquet(place / "labels.parquet")
    before = everything(place)
    found = find_mentions([place], names, store=place / "store", fingerprints={"abcdef"}, but=[place / "cache"])
    assert everything(place) == before
    reasons = {mention.path.relative_to(place.resolve()).as_posix(): mention.why for mention in found}
    assert set(reasons) == {
        "expert/expert.json", "extractor/extractor.json", "backbone/sonokit.json", "predictions.csv", "report.html",
        "settings.yaml", "bad/extractor.json", "sibling/store.json", "labels.parquet",
    }  # fmt: skip
    assert "fit it anew" in reasons["expert/expert.json"]
    assert "train them anew" in reasons["extractor/extractor.json"]
    assert "train them anew" in reasons["backbone/sonokit.json"]
    assert "could not be read" in reasons["bad/extractor.json"]
    assert "another store" in reasons["sibling/store.json"]


def short_rows(clip_id, patient, header=HEADER):
    number = sum(clip_id.encode())
    frame = pd.DataFrame({"clip_id": [clip_id], "content_hash": content(clip_id), "segment": 0, "patient_id": patient})
    return make_rows(header, frame, embedding(number)[:1])


@pytest.fixture
def short(tmp_path):
    """Patients with short names; P01/bad was rejected, P01/only was only prepared, both have no rows."""
    store = EmbeddingStore.create(tmp_path / "store", HEADER)
    for clip_id in ("P01/good", "P02/good", "P012/good"):
        store.append(short_rows(clip_id, clip_id.split("/")[0]))
    store.update_counts()
    rejected = "clip_id,path,reason\nP01/bad,P01/bad.mp4,no frames\nP02/bad,P02/bad.mp4,7/P01 frames\n"
    (tmp_path / "store" / "rejected.csv").write_text(rejected)
    (tmp_path / "store" / "config.yaml").write_text("manifest: /data/P01/manifest.csv\nsize: P01x\n")
    setting = tmp_path / "cache" / f"grey-{SIDE}-3frames"
    setting.mkdir(parents=True)
    (setting / "rejected.csv").write_text(rejected)
    writer = ShardWriter(setting)
    clips = ["P01/good", "P01/only", "P02/good", "P012/good"]
    for i, clip in enumerate(clips):
        writer.add(StoredFrames(content(clip), frames_of(i), np.arange(3), "mp4", 25.0, 30, 30))
    writer.flush()
    memo = {"path": [f"/data/{clip}.mp4" for clip in clips], "stamp": "1", "content_hash": [content(c) for c in clips]}
    pd.DataFrame(memo).to_parquet(tmp_path / "cache" / "sources.parquet", index=False)
    return tmp_path


def test_erase__a_short_name_in_paths_too(short):
    plan = plan_erasure(short / "store", patient="P01", cache=short / "cache")
    assert (plan.rows, plan.listed) == (1, 2)
    assert (plan.cache.clips, plan.cache.sources, plan.cache.rejected) == (2, 2, 1)
    assert plan.cache.by_name == ("/data/P01/only.mp4",)  # the other's content is that of a row
    erase(plan)
    after = everything(short)
    for trace in [b"P01/", content("P01/good").encode(), content("P01/only").encode(), frames_of(1)[0].tobytes()]:
        assert trace not in after
    for listing in short.rglob("rejected.csv"):
        assert listing.read_text() == "clip_id,path,reason\nP02/bad,P02/bad.mp4,7/P01 frames\n"
    assert yaml.safe_load((short / "store" / "config.yaml").read_text()) == {
        "manifest": "/data/erased/manifest.csv",
        "size": "P01x",
    }
    assert {c for c, _ in EmbeddingStore.open(short / "store").done()} == {"P02/good", "P012/good"}
    assert len(open_shards(short / "cache" / f"grey-{SIDE}-3frames", SIDE)) == 2
    assert not plan_erasure(short / "store", patient="P01", cache=short / "cache")


def test_erase__a_manifest_tells_of_clips_without_rows(short):
    (short / "cache" / "sources.parquet").unlink()
    clips = {"one": "a/1.mp4", "two": "b/2.mp4", "P02/good": "P02/good.mp4"}
    memo = {
        "path": [str(short / path) for path in clips.values()],
        "stamp": "1",
        "content_hash": [content("P01/only"), content("else"), content("P02/good")],
    }
    pd.DataFrame(memo).to_parquet(short / "cache" / "sources.parquet", index=False)
    table = pd.DataFrame({"path": list(clips.values()), "clip_id": list(clips), "patient_id": ["P01", "P02", "P01"]})
    table.to_csv(short / "manifest.csv", index=False)
    (short / "store" / "rejected.csv").write_text("clip_id,path,reason\none,a/1.mp4,empty\ntwo,b/2.mp4,empty\n")
    plan = plan_erasure(short / "store", patient="P01", cache=short / "cache", manifest=short / "manifest.csv")
    assert plan.names.clip_ids == {"P01/good", "one"}  # whose P02/good is its row says
    assert (plan.rows, plan.listed, plan.cache.sources, plan.cache.clips, plan.cache.by_name) == (1, 2, 1, 2, ())
    erase(plan)
    assert (short / "store" / "rejected.csv").read_text() == "clip_id,path,reason\ntwo,b/2.mp4,empty\n"
    assert str(short / "a").encode() not in everything(short / "cache")
    table.drop(columns="patient_id").to_csv(short / "manifest.csv", index=False)
    with pytest.raises(SonokitError, match=r"no column patient_id.*--clip"):
        plan_erasure(short / "store", patient="P01", manifest=short / "manifest.csv")


def test_erase__others_clips_stay_in_the_cache_whatever_their_paths_look_like(tmp_path):
    store = EmbeddingStore.create(tmp_path / "store", HEADER)
    clips = {"video1": "patient", "video2": "other"}
    for clip_id, patient in clips.items():
        store.append(short_rows(clip_id, patient))
    setting = tmp_path / "cache" / f"grey-{SIDE}-3frames"
    setting.mkdir(parents=True)
    writer = ShardWriter(setting)
    paths = {
        "video1": "/a/video1.mp4",
        "video2": "/data/patient/video2.mp4",
        "x": "/siteB/other/video1.mp4",
        "y": "/patient-2/y.mp4",
    }
    for i, clip in enumerate(paths):
        writer.add(StoredFrames(content(clip), frames_of(i), np.arange(3), "mp4", 25.0, 30, 30))
    writer.flush()
    memo = {"path": paths.values(), "stamp": "1", "content_hash": [content(clip) for clip in paths]}
    pd.DataFrame(memo).to_parquet(tmp_path / "cache" / "sources.parquet", index=False)
    plan = plan_erasure(store.folder, patient="patient", cache=tmp_path / "cache")
    erase(plan)
    left = open_shards(setting, SIDE)
    assert set(left.table["content_hash"]) == {content("video2"), content("x"), content("y")}
    assert set(pd.read_parquet(tmp_path / "cache" / "sources.parquet")["path"]) == {*paths.values()} - {"/a/video1.mp4"}


def test_plan__only_a_whole_store_or_set(store_set, place):
    before = everything(store_set, place / "store")
    for folder in (store_set.parent, store_set / "fold-0" / "rows"):
        with pytest.raises(SonokitError, match=r"no store\.json and no set\.json"):
            plan_erasure(folder, patient="patient-2")
    for folder in (store_set / "final", store_set / "fold-1", place / "store" / "floor"):
        with pytest.raises(SonokitError, match=f"only a part of {folder.parent}"):
            plan_erasure(folder, patient="patient-2")
    assert everything(store_set, place / "store") == before
    (store_set / "set.json").write_text(json.dumps({"kind": "extractor-set", "folds": 2}))
    with pytest.raises(SonokitError, match="set of extractor-set"):
        plan_erasure(store_set, patient="patient-2")
    (store_set / "set.json").write_text("[]")
    with pytest.raises(SonokitError, match=r"set\.json is damaged"):
        plan_erasure(store_set, patient="patient-2")


def test_erase__leftovers_of_killed_runs_in_every_folder(store_set):
    erase(plan_erasure(store_set, patient="patient-2"))
    assert not plan_erasure(store_set, patient="patient-2")
    left = [
        store_set / ".tmp-1-rejected.csv", store_set / "final" / ".tmp-2-store.json",
        store_set / "fold-1" / "rows" / ".tmp-3-part-000009-0.parquet",
    ]  # fmt: skip
    for file in left:
        file.write_text("patient-2")
    plan = plan_erasure(store_set, patient="patient-2")
    assert plan.leftovers == 3
    assert plan
    assert "3 files that killed runs left" in plan.summary()
    assert find_mentions([store_set], plan.names, store=store_set) == []  # what goes is not told again
    erase(plan)
    assert b"patient-2" not in everything(store_set)


def test_erase__the_index_is_again_of_the_kind_that_was_asked_for(place, monkeypatch):
    from sonokit.features.search.index import build_index
    from sonokit.features.store import erasure

    def kind(folder):
        values = json.loads((folder / "index.json").read_text())
        return values["kind"], values["asked"]

    store, floor = EmbeddingStore.open(place / "store"), EmbeddingStore.open(place / "store" / "floor")
    build_index(store, "flat")
    automatic = kind(floor.folder)
    assert automatic[0] != "flat"
    erase(plan_erasure(store.folder, patient="patient-2"))
    assert (kind(store.folder), kind(floor.folder)) == (("flat", "flat"), automatic)

    def killed(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(erasure, "build_index", killed)
        erase(plan_erasure(store.folder, patient="patient-3"))
    assert not (store.folder / "index.faiss").exists()
    search(EmbeddingStore.open(store.folder), "clip-04", 1)
    assert kind(store.folder) == ("flat", "flat")


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("expert.json", "[1]", None),
        ("expert.json", '{"store": "runs/store"}', None),
        ("expert.json", '{"store": {"fingerprint": ["abcdef"]}}', None),
        ("expert.json", '["of patient-2"]', "names"),
        ("store.json", "[]", "could not be read"),
        ("metrics.jsonl", '{"clip": "clip-09"}\n{"cl', "names"),
        ("metrics.jsonl", '{"cl\n{"clip": "clip-09"}\n', "names"),
        ("metrics.jsonl", '{"cl\n{"clip": "clip-08"}\n', None),
        ("metrics.json", '{"P7/a": 1, "x', "names"),
        ("metrics.json", '{"P78/a": 1, "x', None),
        ("run.yaml", "clip: patient-2/a\nx: !custom 3\n", "names"),
        ("run.yaml", "clip: P7/a\nx: !custom 3\n", "names"),
        ("run.yaml", "clip: patient-1/a\nx: !custom 3\n", None),
        ("predictions.tsv", "clip-09\t1\n", "names"),
        ("predictions.tsv", "a\tP7\n", "names"),
        ("predictions.csv", "path;y\nP7/a.mp4;1\n", "names"),
        ("predictions.csv", "path;y\nP78/a.mp4;P79\n", None),
        ("rows.parquet", "no table", "could not be read"),
        ("deep.json", "[" * 100_000, None),
    ],
)
def test_mentions__damaged_and_strange_files(tmp_path, name, text, why):
    from sonokit.clips.mentions import Names

    (tmp_path / "x").mkdir()
    (tmp_path / "x" / name).write_text(text)
    found = find_mentions([tmp_path], Names.of(["patient-2", "P7"], ["clip-09"]), store=tmp_path / "s", fingerprints=["abcdef"])
    assert [why in mention.why for mention in found] == ([] if why is None else [True])
