import os
import pickle
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from sonokit.backbones.build import build_backbone
from sonokit.backbones.folder import save_backbone
from sonokit.clips.cache import CacheSettings
from sonokit.clips.manifest import read_manifest, write_manifest
from sonokit.clips.sampling import Sampling
from sonokit.clips.shards import open_shards
from sonokit.clips.streaming import stream
from sonokit.errors import SonokitError
from sonokit.features.extraction import ray_extract
from sonokit.features.extraction.extract import extract_features
from sonokit.features.store import EmbeddingStore

ray = pytest.importorskip("ray")
SETTINGS = CacheSettings(32, Sampling(frames=6))


@pytest.fixture(scope="module")
def cluster():
    """A real one of two workers; slow to start, so all tests share it."""
    before = os.environ.get("RAY_USAGE_STATS_ENABLED")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 << 20)
    yield ray
    ray.shutdown()
    if before is None:
        del os.environ["RAY_USAGE_STATS_ENABLED"]


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clips")
    for i in range(9):
        pixels = np.random.default_rng(i).integers(0, 256, (2 + i, 48, 64, 3), dtype=np.uint8)
        with av.open(str(folder / f"{i}.mp4"), "w") as container:
            writing = container.add_stream("mpeg4", rate=10)
            writing.height, writing.width, writing.pix_fmt = 48, 64, "yuv420p"
            for picture in pixels:
                container.mux(writing.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            container.mux(writing.encode())
    (folder / "text.mp4").write_text("not a video")
    names = [*(f"{i}.mp4" for i in range(9)), "text.mp4"]
    write_manifest(pd.DataFrame({"path": names, "finding": range(10)}), folder / "manifest.csv")
    return read_manifest(folder / "manifest.csv")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    save_backbone(build_backbone("test_resnet", seed=3, temporal_shift=0.125), folder, provenance={"fitted_on_labels": False})
    return folder


def run(manifest, model, folder: Path, **options):
    clips = stream(manifest, folder / "cache", SETTINGS, workers=1, progress=False)
    out = extract_features(
        clips, model, folder / "store", segments=3, segment_frames=2, device="cpu", progress=False, config={}, **options
    )
    return EmbeddingStore.open(out)


def test_ray__rows_frames_and_rejected_are_those_of_a_local_run(cluster, manifest, model, tmp_path):
    local = run(manifest, model, tmp_path / "local")
    some = run(manifest.select(np.arange(10) == 4), model, tmp_path / "ray")  # its frames are in the cache, and it is done
    assert some.header.clip_count == 1
    spread = run(manifest, model, tmp_path / "ray", engine="ray", ray_workers=2)
    assert spread.table().equals(local.table())
    assert spread.header == local.header
    for name in ("store/rejected.csv", f"cache/{SETTINGS.key}/rejected.csv"):
        assert (tmp_path / "ray" / name).read_text() == (tmp_path / "local" / name).read_text()
    frames = [open_shards(tmp_path / name / "cache" / SETTINGS.key, 32) for name in ("local", "ray")]
    assert sorted(frames[0].table["content_hash"]) == sorted(frames[1].table["content_hash"])
    assert ray.is_initialized()  # a cluster that was there is left


def test_ray__a_fault_of_a_worker_is_one_line(model, manifest, tmp_path, monkeypatch):
    clips = stream(manifest, tmp_path, SETTINGS, workers=1, progress=False)
    share = clips.share(np.array([0]), open_shards(clips.shards, 32))
    worker = object.__new__(ray_extract._Worker)
    worker._features = type("Broken", (), {"numbered": broken, "runtime": "torch"})()
    answer = pickle.loads(worker({"share": np.array([pickle.dumps(share)], dtype=object)})["answer"][0])
    assert answer.fault == "the cache is full"


def broken(self, clips):
    raise SonokitError("the cache is full")
    yield


def test_device__of_the_cluster():
    assert ray_extract._device({"CPU": 8.0}, None, None) == ("cpu", 8)
    assert ray_extract._device({"CPU": 8.0, "GPU": 2.0}, None, None) == ("cuda", 2)
    assert ray_extract._device({"CPU": 8.0, "GPU": 2.0}, "cpu", 3) == ("cpu", 3)
    with pytest.raises(SonokitError, match="has no GPU"):
        ray_extract._device({"CPU": 8.0}, "cuda", None)


def test_extract__without_ray_is_told_before_the_work(manifest, model, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_extract.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SonokitError, match=r"pip install 'sonokit\[ray\]'"):
        run(manifest, model, tmp_path, engine="ray")
    with pytest.raises(SonokitError, match="engine must be local or ray"):
        run(manifest, model, tmp_path, engine="spark")
    assert not (tmp_path / "store").exists()
