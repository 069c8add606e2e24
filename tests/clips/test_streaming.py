import dataclasses
import pickle
import shutil
import threading
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from filelock import FileLock, Timeout
from sonokit.clips import cache, content_memo
from sonokit.clips.cache import CacheSettings, prepare
from sonokit.clips.manifest import Manifest, read_manifest, write_manifest
from sonokit.clips.sampling import Sampling
from sonokit.clips.shards import open_shards
from sonokit.clips.streaming import ClipStream, stream
from sonokit.errors import SonokitError

SMALL = CacheSettings(32, Sampling(frames=4))


def make_clip(file: Path, frames: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    with av.open(str(file), "w") as container:
        writing = container.add_stream("mpeg4", rate=10)
        writing.height, writing.width, writing.pix_fmt = 48, 64, "yuv420p"
        for _ in range(frames):
            image = np.kron(random.integers(0, 256, (6, 8), dtype=np.uint8), np.ones((8, 8), np.uint8))
            frame = av.VideoFrame.from_ndarray(np.repeat(image[..., None], 3, axis=2), format="rgb24")
            container.mux(writing.encode(frame))
        container.mux(writing.encode())


def manifest_of(folder: Path) -> Manifest:
    paths = sorted(p.name for p in folder.glob("*.mp4"))
    write_manifest(pd.DataFrame({"path": paths}), folder / "manifest.csv")
    return read_manifest(folder / "manifest.csv", check_files=False)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Manifest:
    """Six clips, of which 2 and 5 are one content under two names; a text, and an empty file."""
    folder = tmp_path_factory.mktemp("mixed")
    for i in range(5):
        make_clip(folder / f"{i}.mp4", frames=3 + 2 * i, seed=i)
    shutil.copy(folder / "2.mp4", folder / "5.mp4")
    (folder / "6-text.mp4").write_text("not a video")
    (folder / "7-empty.mp4").write_bytes(b"")
    return manifest_of(folder)


def opened(manifest: Manifest, folder: Path, **more) -> ClipStream:
    return stream(manifest, folder, SMALL, progress=False, **more)


def told(clip) -> tuple:
    """All that a clip says of itself, to compare bit for bit."""
    values = dataclasses.asdict(clip)
    rate = values.pop("frame_rate")
    return (*(v.tobytes() if isinstance(v, np.ndarray) else v for v in values.values()), float(rate).hex(), clip.frames.shape)


def everything(clips: ClipStream) -> dict[int, tuple]:
    return {position: told(clip) for position, clip in clips.over(np.arange(len(clips)))}


def test_stream__gives_and_leaves_what_prepare_does(mixed, tmp_path):
    prepared = prepare(mixed, tmp_path / "prepared", SMALL, progress=False)
    clips = opened(mixed, tmp_path / "streamed", workers=2)
    first = everything(clips)
    expected = {i: told(prepared[i]) for i in range(6)}
    assert first == expected
    assert everything(opened(mixed, tmp_path / "streamed")) == expected  # now from the cache
    clips.finish()
    pd.testing.assert_frame_equal(clips.rejected, prepared.rejected)
    listing = Path(SMALL.key) / "rejected.csv"
    assert (tmp_path / "streamed" / listing).read_text() == (tmp_path / "prepared" / listing).read_text()
    assert len(open_shards(tmp_path / "streamed" / SMALL.key, 32)) == 5


def test_stream__decodes_only_what_is_asked_for(mixed, tmp_path, monkeypatch):
    decoded = []
    original = cache.read_clip
    monkeypatch.setattr(cache, "read_clip", lambda path, *a: decoded.append(Path(path).name) or original(path, *a))
    clips = opened(mixed, tmp_path)
    assert [p for p, _ in clips.over(np.array([5]))] == [5]
    assert decoded == ["5.mp4"]
    found = list(clips.over(np.array([1, 2, 4])))
    assert found[0][0] == 2  # its content came with the other name
    assert sorted(p for p, _ in found) == [1, 2, 4]
    assert sorted(decoded) == ["1.mp4", "4.mp4", "5.mp4"]


def test_stream__a_second_opening_reads_no_file(mixed, tmp_path, monkeypatch):
    readable = mixed.select(np.arange(8) < 6)
    list(opened(readable, tmp_path).over(np.arange(6)))

    def never(*a):
        raise AssertionError

    monkeypatch.setattr(cache, "read_clip", never)
    monkeypatch.setattr(content_memo, "content_hash", never)
    assert len(list(opened(readable, tmp_path).over(np.arange(6)))) == 6


def test_stream__clips_come_before_all_are_decoded(tmp_path, monkeypatch):
    for i in range(30):
        make_clip(tmp_path / f"{i:02d}.mp4", frames=2, seed=i)
    decoded, original = [], cache.read_clip
    monkeypatch.setattr(cache, "read_clip", lambda path, *a: decoded.append(path) or original(path, *a))
    clips = opened(manifest_of(tmp_path), tmp_path / "cache", workers=1)
    over = clips.over(np.arange(30))
    next(over)
    assert len(decoded) < 30  # and never more than so many lie in memory, however slow the taker is
    over.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("decode")]
    kept = len(open_shards(tmp_path / "cache" / SMALL.key, 32))
    assert 1 <= kept < 30  # what was handed on is kept
    assert len(list(clips.over(np.arange(30)))) == 30
    assert len(open_shards(tmp_path / "cache" / SMALL.key, 32)) == 30


def test_stream__one_process_decodes_at_a_time(mixed, tmp_path):
    clips = opened(mixed, tmp_path)
    lock = FileLock(tmp_path / SMALL.key / ".lock", is_singleton=False)
    over = clips.over(np.arange(6))
    next(over)
    with pytest.raises(Timeout):
        lock.acquire(timeout=0)
    over.close()
    lock.acquire(timeout=0)
    lock.release()


def test_share__another_process_decodes_and_stores_it(mixed, tmp_path):
    expected = everything(opened(mixed, tmp_path / "one"))
    clips = opened(mixed, tmp_path / "shared")
    list(clips.over(np.array([3])))
    stored = open_shards(clips.shards, 32)
    shares = [pickle.loads(pickle.dumps(clips.share(some, stored))) for some in (np.array([0, 2, 3]), np.array([1, 4, 5]))]
    assert [len(s.jobs) for s in shares] == [2, 3]
    assert [s.cached_positions.tolist() for s in shares] == [[3], []]
    found = {position: told(clip) for share in shares for position, clip in share.over()}
    assert found == expected
    assert len(open_shards(clips.shards, 32)) == 5  # the content that both decoded counts once


def test_share__reasons_come_back(mixed, tmp_path):
    clips = opened(mixed, tmp_path)
    assert len(clips) == 7  # the empty file has no content
    share = clips.share(np.array([0, 6]), open_shards(clips.shards, 32))
    assert [position for position, _ in share.over()] == [0]
    clips.reject(share.reasons)
    assert clips.rejected["clip_id"].tolist() == ["6-text", "7-empty"]
    assert clips.rejected["reason"].iloc[1] == "the file is empty"


def test_stream__faults_are_told(mixed, tmp_path, caplog, monkeypatch):
    original = cache.read_clip
    monkeypatch.setattr(cache, "read_clip", lambda *a: dataclasses.replace(original(*a), declared_count=93))
    clips = opened(mixed, tmp_path / "a")
    everything(clips)
    clips.finish()
    assert "Clips left out: 2 of 8 (6-text: " in caplog.text
    assert "Clips with fewer frames than they declare: 6 (" in caplog.text
    assert "0: 3 of 93" in caplog.text
    bad = mixed.select(np.arange(8) >= 6)
    nothing = opened(bad, tmp_path / "b")
    assert everything(nothing) == {}
    with pytest.raises(SonokitError, match=r"No clip of .* can be decoded, of 2"):
        nothing.finish()
    with pytest.raises(SonokitError, match=r"No clip of .* can be decoded, of 1"):
        opened(mixed.select(np.arange(8) == 7), tmp_path / "c")
    with pytest.raises(SonokitError, match=r"No clip of .* is left"):
        opened(mixed.select(np.zeros(8, bool)), tmp_path / "d")
    (tmp_path / "file").write_text("")
    with pytest.raises(SonokitError, match="choose another --cache"):
        opened(mixed, tmp_path / "file")
