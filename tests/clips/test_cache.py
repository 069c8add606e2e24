import errno
import hashlib
import os
import pickle
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from sonokit.clips import cache, content_memo, shards
from sonokit.clips.cache import CachedClips, CacheSettings, prepare
from sonokit.clips.letterbox import letterbox
from sonokit.clips.manifest import Manifest, read_manifest, write_manifest
from sonokit.clips.sampling import Sampling
from sonokit.errors import SonokitError

SMALL = CacheSettings(32, Sampling(frames=4))


def make_clip(file: Path, frames: int = 9, height: int = 48, width: int = 64, seed: int = 0, rate: int = 10) -> Path:
    random = np.random.default_rng(seed)
    file.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for _ in range(frames):
            image = np.kron(random.integers(0, 256, (height // 8, width // 8), dtype=np.uint8), np.ones((8, 8), np.uint8))
            frame = av.VideoFrame.from_ndarray(np.repeat(image[..., None], 3, axis=2), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


def truth(file: Path, indices: list[int], size: int) -> np.ndarray:
    """The frames as PyAV and Pillow alone give them."""
    with av.open(str(file)) as container:
        images = [frame.to_image().convert("L") for frame in container.decode(video=0)]
    return np.stack([np.asarray(ImageOps.pad(images[i], (size, size), Image.Resampling.BILINEAR)) for i in indices])


def manifest_of(folder: Path, **columns) -> Manifest:
    paths = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.suffix in (".mp4", ".avi"))
    write_manifest(pd.DataFrame({"path": paths, **columns}), folder / "manifest.csv")
    return read_manifest(folder / "manifest.csv", check_files=False)


def quiet(manifest: Manifest, folder: Path, options: CacheSettings = SMALL, **more) -> CachedClips:
    return prepare(manifest, folder, options, progress=False, **more)


def contents(clips: CachedClips) -> list[tuple]:
    return [
        (c.clip_id, c.content_hash, c.frames.tobytes(), c.times_s.tobytes(), c.frame_rate, c.container, c.frame_count)
        for c in (clips[i] for i in range(len(clips)))
    ]


@pytest.fixture(scope="module")
def eight(tmp_path_factory) -> Manifest:
    """Eight small clips and one that is none."""
    folder = tmp_path_factory.mktemp("eight")
    for i in range(8):
        make_clip(folder / f"{i}.{'mp4' if i % 2 else 'avi'}", frames=5 + i, seed=i)
    (folder / "text.mp4").write_text("not a video")
    return manifest_of(folder, patient_id=[f"p{i // 2}" for i in range(9)])


@pytest.fixture(scope="module")
def undisturbed(eight, tmp_path_factory) -> tuple[CachedClips, Path]:
    folder = tmp_path_factory.mktemp("cache")
    return quiet(eight, folder), folder


def test_prepare__frames_are_those_of_pyav_and_pillow(undisturbed, eight):
    clips, _ = undisturbed
    assert len(clips) == 8
    for i in range(8):
        count = 5 + i
        indices = [(2 * k + 1) * count // 8 for k in range(4)]
        np.testing.assert_array_equal(clips[i].frames, truth(Path(eight.locate(i)), indices, 32))
        np.testing.assert_allclose(clips[i].times_s, np.array(indices) / 10, rtol=1e-6)
        assert clips[i].content_hash == hashlib.sha256(Path(eight.locate(i)).read_bytes()).hexdigest()
        assert clips[i].frame_count == clips.table["frame_count"][i] == count
        assert clips[i].clip_id == str(i)
        assert clips[i].frame_rate == 10
    assert clips[0].frames.dtype == np.uint8
    assert not clips[0].frames.flags.writeable
    assert isinstance(clips[0].frames.base, np.ndarray)
    assert clips.table["patient_id"].tolist() == clips.manifest.table["patient_id"].tolist()
    with pytest.raises(IndexError):
        clips[8]


def test_prepare__a_text_is_rejected_with_its_reason(undisturbed, caplog, eight):
    clips, folder = undisturbed
    assert clips.rejected[["clip_id", "path"]].values.tolist() == [["text", "text.mp4"]]
    assert clips.rejected["reason"][0]
    on_disk = pd.read_csv(folder / SMALL.key / "rejected.csv")
    assert on_disk.astype(str).values.tolist() == clips.rejected.astype(str).values.tolist()
    quiet(eight, folder)
    assert "Clips left out: 1 of 9 (text: " in caplog.text


def test_prepare__a_second_run_reads_and_decodes_nothing(undisturbed, eight, monkeypatch):
    clips, folder = undisturbed
    decodable = eight.select(np.arange(9) < 8)

    def never(*_, **__):
        raise AssertionError("was done before")

    monkeypatch.setattr(cache, "read_clip", never)
    monkeypatch.setattr(content_memo, "content_hash", never)
    assert contents(quiet(decodable, folder)) == contents(clips)
    order = np.random.default_rng(0).permutation(8)
    turned = replace(decodable, table=decodable.table.iloc[order].reset_index(drop=True))
    assert contents(quiet(turned, folder)) == [contents(clips)[i] for i in order]


def test_prepare__only_what_is_new_or_changed(tmp_path, monkeypatch):
    decoded = []
    original = cache.read_clip
    monkeypatch.setattr(cache, "read_clip", lambda path, *a: decoded.append(Path(path).name) or original(path, *a))
    for i in range(3):
        make_clip(tmp_path / "clips" / f"{i}.avi", seed=i)
    quiet(manifest_of(tmp_path / "clips"), tmp_path / "cache")
    make_clip(tmp_path / "clips" / "3.avi", seed=3)
    make_clip(tmp_path / "clips" / "1.avi", seed=10, frames=11)
    decoded.clear()
    clips = quiet(manifest_of(tmp_path / "clips"), tmp_path / "cache")
    assert sorted(decoded) == ["1.avi", "3.avi"]
    np.testing.assert_array_equal(clips[1].frames, truth(tmp_path / "clips" / "1.avi", [1, 4, 6, 9], 32))
    (tmp_path / "clips").rename(tmp_path / "moved")
    decoded.clear()
    assert len(quiet(manifest_of(tmp_path / "moved"), tmp_path / "cache")) == 4
    assert decoded == []  # content, not place


def test_prepare__the_same_bytes_are_stored_once_and_stay_two_rows(tmp_path, monkeypatch):
    decoded = []
    original = cache.read_clip
    monkeypatch.setattr(cache, "read_clip", lambda path, *a: decoded.append(path) or original(path, *a))
    make_clip(tmp_path / "clips/a/x.mp4")
    (tmp_path / "clips/b").mkdir()
    shutil.copy(tmp_path / "clips/a/x.mp4", tmp_path / "clips/b/x.mp4")
    clips = quiet(manifest_of(tmp_path / "clips"), tmp_path / "cache")
    assert len(decoded) == 1
    assert [clips[i].clip_id for i in range(2)] == ["a/x", "b/x"]
    assert clips[0].content_hash == clips[1].content_hash
    np.testing.assert_array_equal(clips[0].frames, clips[1].frames)


def test_prepare__missing_empty_and_cut_clips_never_stop_the_rest(tmp_path):
    folder = tmp_path / "clips"
    make_clip(folder / "good.avi", frames=30)
    make_clip(folder / "one_frame.avi", frames=1)
    (folder / "empty.mp4").touch()
    whole = make_clip(folder / "cut.mp4", frames=30).read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])  # without its end, where the index of an mp4 is
    make_clip(folder / "gone.mp4")
    manifest = manifest_of(folder)
    (folder / "gone.mp4").unlink()
    clips = quiet(manifest, tmp_path / "cache")
    assert clips.table["clip_id"].tolist() == ["good", "one_frame"]
    assert clips[1].frames.shape == (1, 32, 32)
    assert clips[1].times_s.tolist() == [0]
    assert clips.rejected["clip_id"].tolist() == ["cut", "empty", "gone"]
    assert clips.rejected["reason"].tolist()[2] == "there is no such file"
    assert clips.rejected["reason"].notna().all()


def test_prepare__what_was_rejected_is_tried_again(tmp_path):
    make_clip(tmp_path / "clips/a.avi")
    make_clip(tmp_path / "clips/b.avi", seed=1)
    whole = (tmp_path / "clips/b.avi").read_bytes()
    (tmp_path / "clips/b.avi").write_bytes(b"")
    assert len(quiet(manifest_of(tmp_path / "clips"), tmp_path / "cache")) == 1
    (tmp_path / "clips/b.avi").write_bytes(whole)
    assert len(quiet(manifest_of(tmp_path / "clips"), tmp_path / "cache")) == 2
    assert pd.read_csv(tmp_path / "cache" / SMALL.key / "rejected.csv").empty


def test_prepare__nothing_usable(tmp_path):
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips/a.mp4").write_text("text")
    manifest = manifest_of(tmp_path / "clips")
    with pytest.raises(SonokitError, match=r"can be decoded, of 1 \(a: .*rejected.csv"):
        quiet(manifest, tmp_path / "cache")
    with pytest.raises(SonokitError, match="No clip"):
        quiet(manifest.select(np.array([False])), tmp_path / "cache")
    (tmp_path / "file").touch()
    with pytest.raises(SonokitError, match="Cannot write to the frame cache"):
        quiet(manifest, tmp_path / "file")


@pytest.fixture
def read_only(monkeypatch):
    """A file system that nothing can be written to any more; root may write anywhere, so permissions would not do."""

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    def turn_on():
        for place, name in ((os, "replace"), (shards, "open"), (cache.FileLock, "acquire")):
            monkeypatch.setattr(place, name, refuse, raising=False)

    return turn_on


def test_prepare__a_complete_cache_may_be_read_only(eight, undisturbed, tmp_path, read_only):
    shutil.copytree(undisturbed[1], tmp_path / "cache")
    decodable = eight.select(np.arange(9) < 8)
    read_only()
    assert contents(quiet(decodable, tmp_path / "cache")) == contents(undisturbed[0])
    (tmp_path / "cache" / "sources.parquet").unlink()
    assert contents(quiet(decodable, tmp_path / "cache")) == contents(undisturbed[0])


def test_prepare__what_is_missing_in_a_read_only_cache_is_told(eight, tmp_path, read_only):
    read_only()
    with pytest.raises(SonokitError, match=r"Cannot write to the frame cache .*Read-only file system.*--cache"):
        quiet(eight, tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="no limit on file sizes")
def test_prepare__a_full_disk_is_told_and_the_work_goes_on_with_room(eight, undisturbed, tmp_path):
    resource = pytest.importorskip("resource")
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9 * 4 * 32 * 32 // 2, unlimited[1]))  # room for half of the frames
    try:
        with pytest.raises(SonokitError, match=r"Cannot write to the frame cache .*Make room"):
            quiet(eight, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        signal.signal(signal.SIGXFSZ, previous)
    assert contents(quiet(eight, tmp_path)) == contents(undisturbed[0])


def test_prepare__fewer_frames_than_declared_is_said_and_kept(tmp_path, monkeypatch, caplog):
    original = cache.read_clip
    monkeypatch.setattr(cache, "read_clip", lambda *a: replace(original(*a), declared_count=93))
    make_clip(tmp_path / "clips/a.avi", frames=30)
    clips = quiet(manifest_of(tmp_path / "clips"), tmp_path / "cache")
    assert "Clips with fewer frames than they declare: 1 (a: 30 of 93)" in caplog.text
    assert clips[0].declared_count == clips.table["declared_count"][0] == 93


def test_prepare__unknown_rate_and_count(tmp_path, monkeypatch):
    original = cache.read_clip
    monkeypatch.setattr(cache, "read_clip", lambda *a: replace(original(*a), declared_count=None, frame_rate=float("nan")))
    make_clip(tmp_path / "clips/a.avi", frames=3)
    clip = quiet(manifest_of(tmp_path / "clips"), tmp_path / "cache")[0]
    assert clip.declared_count is None
    assert np.isnan(clip.frame_rate)
    np.testing.assert_array_equal(clip.times_s, np.float32([0, np.nan, np.nan]))


def test_prepare__a_file_that_changes_meanwhile_is_not_stored_under_its_old_name(tmp_path, monkeypatch):
    original = cache.read_clip

    def changed(path, *arguments):
        clip = original(path, *arguments)
        os.utime(path, ns=(1, 1))
        return clip

    make_clip(tmp_path / "clips/a.avi")
    make_clip(tmp_path / "clips/b.avi", seed=1)
    monkeypatch.setattr(cache, "read_clip", lambda path, *a: (changed if path.endswith("b.avi") else original)(path, *a))
    clips = quiet(manifest_of(tmp_path / "clips"), tmp_path / "cache")
    assert clips.rejected["clip_id"].tolist() == ["b"]
    assert "changed while it was read" in clips.rejected["reason"][0]


def test_prepare__stopping_keeps_what_is_finished(eight, tmp_path, monkeypatch):
    original, calls = cache.read_clip, []

    def interrupted(*arguments):
        calls.append(None)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(cache, "read_clip", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quiet(eight, tmp_path, workers=1)
    assert len(shards.open_shards(tmp_path / SMALL.key, 32)) >= 4
    assert not list((tmp_path / SMALL.key).glob(".tmp-*"))


def killed(manifest: Manifest, folder: Path, points: list[str]) -> dict[str, set[int]]:
    script = Path(__file__).with_name("prepare_until_killed.py")
    command = [sys.executable, str(script), str(manifest.source), str(folder), *points]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    statuses: dict[str, set[int]] = {}
    for line in lines:
        statuses.setdefault(line.split()[0], set()).add(int(line.split()[1]))
    return statuses


def test_prepare__killed_at_any_point_and_run_again(eight, undisturbed, tmp_path):
    # 8 clips, 3 a shard: replaced are the memo, then bytes and index of three shards, then rejected.csv
    points = [*(f"replace-{n}" for n in range(1, 9)), "fsync-3", "fsync-4", "read_clip-1", "read_clip-5", "read_clip-9"]
    statuses = killed(eight, tmp_path, points)
    assert statuses == {point: {-signal.SIGKILL} for point in points}
    for point in points:
        assert contents(quiet(eight, tmp_path / point)) == contents(undisturbed[0]), point
        left = [p.name for p in (tmp_path / point / SMALL.key).iterdir() if "shard" in p.name]
        assert all(name.startswith("shard-") for name in left), point  # no remains of the killed one
        assert len(left) % 2 == 0, point


def test_prepare__two_at_once(eight, undisturbed, tmp_path):
    assert killed(eight, tmp_path, ["together"]) == {"together": {0}}
    clips = quiet(eight, tmp_path / "together")
    assert contents(clips) == contents(undisturbed[0])


def test_open_shards__doubles_and_cut_shards(undisturbed, eight, tmp_path):
    clips, folder = undisturbed
    shutil.copytree(folder, tmp_path / "cache")
    shards_folder = tmp_path / "cache" / SMALL.key
    index = next(shards_folder.glob("shard-*.parquet"))
    twin = pd.read_parquet(index).assign(shard="shard-twin")  # as if two processes had decoded the same clips
    twin.to_parquet(shards_folder / "shard-twin.parquet")
    shutil.copy(index.with_suffix(".bin"), shards_folder / "shard-twin.bin")
    assert contents(quiet(eight, tmp_path / "cache")) == contents(clips)
    for data in shards_folder.glob("shard-*.bin"):
        os.truncate(data, data.stat().st_size - 5000)  # a disk that was full, a copy that broke off
    assert contents(quiet(eight, tmp_path / "cache")) == contents(clips)
    index.write_bytes(b"damaged")
    with pytest.raises(SonokitError, match="is damaged"):
        quiet(eight, tmp_path / "cache")


def test_cached_clips__pickled_and_selected(undisturbed):
    clips, _ = undisturbed
    clips[0]  # a map is open
    copy = pickle.loads(pickle.dumps(clips))
    assert len(pickle.dumps(clips)) < 50_000  # no frames travel
    assert contents(copy) == contents(clips)
    keep = np.arange(8) % 3 == 1
    some = copy.select(keep)
    assert contents(some) == [c for c, kept in zip(contents(clips), keep, strict=True) if kept]
    assert some.table.index.tolist() == [0, 1, 2]
    assert len(some.manifest) == 3
    assert len(some.rejected) == 1


def test_cached_clips__few_maps_are_open(eight, tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "SHARD_BYTES", 1)
    monkeypatch.setattr(shards, "_OPEN_MAPS", 2)
    clips = quiet(eight, tmp_path)
    assert len(list((tmp_path / SMALL.key).glob("shard-*.bin"))) == 8
    contents(clips)
    mapped = Path("/proc/self/maps")
    if not mapped.exists():
        pytest.skip("no /proc on this system")
    assert sum(str(tmp_path) in line for line in mapped.read_text().splitlines()) <= 3


def test_cache_settings__key_names_what_differs():
    sampled = [Sampling(frames=16), Sampling(frames=8), Sampling(frames=None, rate_hz=3), Sampling(frames=None, rate_hz=2.5)]
    keys = [CacheSettings(size, sampling).key for size in (224, 112) for sampling in sampled]
    assert keys[:4] == ["grey-224-16frames", "grey-224-8frames", "grey-224-3hz", "grey-224-2.5hz"]
    assert len(set(keys)) == 8
    with pytest.raises(SonokitError, match="at least 1 pixel"):
        CacheSettings(size=0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 64))
def test_letterbox__any_shape(height, width, size):
    frame = np.random.default_rng(0).integers(1, 256, (height, width), dtype=np.uint8)
    square = letterbox(frame, size)
    assert square.shape == (size, size)
    rows, columns = np.flatnonzero(square.any(1)), np.flatnonzero(square.any(0))
    inner_height, inner_width = (
        max(1, round(size * height / max(height, width))),
        max(1, round(size * width / max(height, width))),
    )
    assert (len(rows), len(columns)) == (inner_height, inner_width)  # the picture has no black, so all else is padding
    assert abs((size - 1 - rows[-1]) - rows[0]) <= 1
    assert abs((size - 1 - columns[-1]) - columns[0]) <= 1
    inner = Image.fromarray(frame).resize((inner_width, inner_height), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(square[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], np.asarray(inner))


def test_letterbox__by_hand():
    np.testing.assert_array_equal(letterbox(np.full((2, 4), 9, np.uint8), 4), [[0] * 4, [9] * 4, [9] * 4, [0] * 4])
    # half the size: each pixel is the weighted mean of what falls on it, here of equal stripes
    stripes = np.tile(np.array([0, 100], np.uint8), (8, 4))
    assert set(letterbox(stripes, 4)[:, 1:3].ravel().tolist()) <= {49, 50, 51}


@pytest.mark.data
def test_prepare__the_real_clips(shared_data, tmp_path):
    manifest = read_manifest(shared_data / "pocus" / "manifest.csv")
    clips = quiet(manifest.select(np.arange(96) % 12 == 0), tmp_path, CacheSettings(64, Sampling(frames=4)))
    assert len(clips) == 8
    assert all(clips[i].frames.shape == (4, 64, 64) for i in range(8))
