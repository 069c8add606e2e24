"""What keeps a million clips cheap, on twenty thousand: nothing that is done once a clip makes an object that stays."""

import gc
import importlib.util
import pickle
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from sonokit.clips import cached_clips, content_memo, shards
from sonokit.clips.cache import prepare
from sonokit.clips.cached_clips import CachedClips, CacheSettings
from sonokit.clips.manifest import read_manifest
from sonokit.pretrain.data import PairDataset, PatientBatches, pair_loader
from sonokit.pretrain.pairs import SamplePairs

CLIPS = 20_000


def load_benchmark() -> ModuleType:
    file = Path(__file__).parents[2] / "benchmarks" / "pretrain_memory.py"
    spec = importlib.util.spec_from_file_location("pretrain_memory", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generated(tmp_path_factory) -> Path:
    """The benchmark's clips, each of whose first pixels are the first bytes of its content hash."""
    folder = tmp_path_factory.mktemp("many")
    load_benchmark().generate(folder, CLIPS)
    for index in (folder / "cache" / CacheSettings().key).glob("shard-*.parquet"):
        table = pd.read_parquet(index, columns=["content_hash", "offset"])
        with open(index.with_suffix(".bin"), "r+b") as file:
            for content, offset in table.itertuples(index=False):
                file.seek(offset)
                file.write(bytes.fromhex(content[:16]))
    return folder


def open_clips(folder: Path) -> CachedClips:
    return prepare(read_manifest(folder / "manifest.parquet"), folder / "cache", CacheSettings(), workers=2, progress=False)


@pytest.fixture(scope="module")
def clips(generated) -> CachedClips:
    return open_clips(generated)


def test_generated__is_what_prepare_would_have_made(clips, generated):
    assert len(clips) == CLIPS
    assert len(clips.rejected) == 0
    sources = pd.read_parquet(generated / "cache" / "sources.parquet").set_index("path")["content_hash"]
    for i in np.random.default_rng(0).integers(0, CLIPS, 200):
        clip = clips[int(i)]
        assert clip.content_hash == sources[clips.manifest.locate(int(i))]
        assert clip.frames.shape == (16, 224, 224)
        assert clip.frames[0, 0, :8].tobytes() == bytes.fromhex(clip.content_hash[:16])
    assert clips.manifest.table["b_lines"].dropna().isin([0.0, 1.0]).all()
    assert set(clips.manifest.table["diagnosis"].dropna()) == {"healthy", "pneumonia"}


def test_open__indexes_read_in_parts(generated, clips, monkeypatch):
    monkeypatch.setattr(shards, "_OPEN_INDEXES", 7)
    again = open_clips(generated)
    pd.testing.assert_frame_equal(again.table, clips.table)
    assert again[CLIPS - 1].frames[0, 0, :8].tobytes() == bytes.fromhex(again[CLIPS - 1].content_hash[:16])


def test_open__makes_no_object_that_stays_and_no_job_for_each_clip(generated, monkeypatch):
    jobs: Counter[str] = Counter()
    submit = ThreadPoolExecutor.submit

    def counted(self, *arguments, **options):
        jobs["submitted"] += 1
        return submit(self, *arguments, **options)

    def never(*_, **__):
        raise AssertionError("opening looks at no clip")

    open_clips(generated)  # modules are there, and what pandas remembers of types
    monkeypatch.setattr(ThreadPoolExecutor, "submit", counted)
    monkeypatch.setattr(content_memo, "content_hash", never)
    monkeypatch.setattr(cached_clips, "CachedClip", never)
    monkeypatch.setattr(shards.StoredClips, "frames", never)
    gc.collect()
    before = sys.getallocatedblocks()
    opened = open_clips(generated)
    gc.collect()
    assert sys.getallocatedblocks() - before < CLIPS / 10
    assert len(opened) == CLIPS
    assert 0 < jobs["submitted"] < CLIPS / 20


def test_epoch__leaves_nothing_behind(clips):
    patients = clips.manifest.group_codes()
    batches = PatientBatches(patients, 32, seed=0)
    assert len(batches) >= CLIPS / 32
    loader = iter(pair_loader(PairDataset(clips, SamplePairs(), np.full(CLIPS, -1), patients, seed=0), batches))
    for batch in islice(loader, 10):
        assert batch["frames"].shape == (len(batch["clips"]), 3, 224, 224)
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in islice(loader, 50):  # some 1600 clips
        pass
    gc.collect()
    assert sys.getallocatedblocks() - before < 1600  # not one object a clip


def test_pickled_for_a_worker__bytes_a_clip(clips):
    assert len(pickle.dumps(clips, protocol=5)) < 400 * CLIPS
    some = clips.select(np.arange(CLIPS) % 200 == 3)  # of a large cache a small study
    sent = pickle.dumps(some, protocol=5)
    assert len(sent) < 400 * 100 + 45 * 250 + 10_000  # the names of all 250 shards are among it
    arrived = pickle.loads(sent)
    for i in range(100):
        np.testing.assert_array_equal(arrived[i].times_s, clips[200 * i + 3].times_s)
        np.testing.assert_array_equal(arrived[i].frames[0, 0, :8], clips[200 * i + 3].frames[0, 0, :8])


def test_group_codes__are_those_of_the_names(clips):
    names = clips.manifest.groups()
    codes = clips.manifest.group_codes()
    assert codes.dtype == np.int64
    np.testing.assert_array_equal(codes, np.unique(names, return_inverse=True)[1])
    for table in (clips.manifest.table.assign(patient_id=None), clips.manifest.table.drop(columns="patient_id")):
        column = "patient_id" if "patient_id" in table else None
        unknown = type(clips.manifest)(table, clips.manifest.folder, column, clips.manifest.source)
        np.testing.assert_array_equal(unknown.group_codes(), np.unique(unknown.groups(), return_inverse=True)[1])
