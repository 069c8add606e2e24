import hashlib
import math
from pathlib import Path

import av
import fsspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from sonokit.clips import video
from sonokit.clips.decode import ClipError, content_hash, read_clip
from sonokit.clips.sampling import Sampling, evenly_spaced
from sonokit.errors import SonokitError

FRAMES = 40
# name of the file, codec, pixel format, codec options, size (height, width)
KINDS = {
    "h264.mp4": ("libx264", "yuv420p", {"g": "12", "bf": "2"}, (48, 64)),
    "odd.mp4": ("libx264", "yuv444p", {"g": "7"}, (45, 63)),
    "lossless.mp4": ("libx264rgb", "rgb24", {"qp": "0", "g": "10"}, (48, 64)),
    "mpeg4.mp4": ("mpeg4", "yuv420p", {"g": "9"}, (48, 64)),
    "mjpeg.avi": ("mjpeg", "yuvj420p", {}, (48, 64)),
    "mpeg4.avi": ("mpeg4", "yuv420p", {"g": "12", "bf": "2"}, (47, 61)),
    "h264.avi": ("libx264", "yuv420p", {"g": "12", "bf": "2"}, (48, 64)),
    "clip.mov": ("libx264", "yuv420p", {"g": "12", "bf": "2"}, (48, 64)),
    "clip.mpeg": ("mpeg2video", "yuv420p", {"g": "12", "bf": "2"}, (48, 64)),
    "clip.gif": ("gif", "rgb8", {}, (48, 64)),
}


def moving_pattern(count: int, height: int, width: int) -> np.ndarray:
    """Colour frames that all differ, [T, H, W, 3]."""
    noise = np.random.default_rng(0).integers(0, 256, (count + height, width, 3), dtype=np.uint8)
    smooth = (noise[:-2].astype(int) + noise[1:-1] + noise[2:]) // 3
    frames = np.stack([smooth[t % 8 : t % 8 + height - 2] for t in range(count)]).astype(np.uint8)
    frames = np.concatenate([frames, np.zeros((count, 2, width, 3), np.uint8)], axis=1)
    for t in range(count):
        frames[t, :, : 1 + t] //= 2
        frames[t, -2:, :] = 6 * t
    return frames


def write_video(path: Path, codec: str, pixel_format: str, options: dict[str, str], frames: np.ndarray, rate: int = 25) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixel_format
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


def sequential(path: Path) -> list[np.ndarray]:
    """The independent truth: every frame in order, RGB."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def pillow_grey(rgb: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(rgb).convert("L"))


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> dict[str, tuple[Path, list[np.ndarray]]]:
    folder = tmp_path_factory.mktemp("videos")
    written = {}
    for name, (codec, pixel_format, options, (height, width)) in KINDS.items():
        path = write_video(folder / name, codec, pixel_format, options, moving_pattern(FRAMES, height, width))
        written[name] = (path, sequential(path))
    return written


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", KINDS)
def test_read_clip__all_frames(videos, name, fast):
    path, truth = videos[name]
    clip = read_clip(str(path), fast=fast)
    assert len(truth) == FRAMES
    assert clip.frames.dtype == np.uint8
    assert clip.indices.dtype == np.int64
    assert clip.indices.tolist() == list(range(FRAMES))
    assert clip.frame_count == FRAMES
    assert clip.declared_count in (FRAMES, None)
    assert clip.frame_rate == pytest.approx(25, rel=0.01)
    assert clip.container == name.split(".")[1]
    np.testing.assert_array_equal(clip.frames, np.stack([pillow_grey(rgb) for rgb in truth]))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@pytest.mark.parametrize("name", KINDS)
@given(
    indices=st.lists(st.integers(0, FRAMES - 1), min_size=1, max_size=8), fast=st.booleans(), channels=st.sampled_from([1, 3])
)
def test_read_clip__any_frames(videos, name, indices, fast, channels):
    path, truth = videos[name]
    clip = read_clip(str(path), indices, channels=channels, fast=fast)
    assert clip.indices.tolist() == indices
    assert clip.frame_count == FRAMES
    expected = [truth[i] if channels == 3 else pillow_grey(truth[i]) for i in indices]
    np.testing.assert_array_equal(clip.frames, np.stack(expected))


@pytest.mark.parametrize("name", KINDS)
def test_read_clip__a_function_chooses(videos, name):
    path, truth = videos[name]
    clip = read_clip(str(path), Sampling(frames=None, rate_hz=5.0).choose)
    assert clip.indices.tolist() == list(range(0, FRAMES, 5))
    np.testing.assert_array_equal(clip.frames, np.stack([pillow_grey(truth[i]) for i in clip.indices]))


def test_read_clip__lossless_is_what_was_written(videos):
    path, _ = videos["lossless.mp4"]
    np.testing.assert_array_equal(read_clip(str(path), channels=3).frames, moving_pattern(FRAMES, 48, 64))


def test_read_clip__fast_path_is_taken_for_h264_mp4_only(videos, monkeypatch):
    taken = []
    through = video._read_fast
    monkeypatch.setattr(video, "_read_fast", lambda *given: taken.append(given[0]) or through(*given))
    for path, _ in videos.values():
        read_clip(str(path), [3], fast=True)
    assert [Path(path).name for path in taken] == ["h264.mp4", "odd.mp4"]
    assert all(through(*given) is not None for given in [(p, [3], video._read_header(p), 1) for p in taken])


def test_read_clip__container_is_told_by_content(videos, tmp_path):
    copy = tmp_path / "misnamed.avi"
    copy.write_bytes(videos["h264.mp4"][0].read_bytes())
    assert read_clip(str(copy), [0]).container == "mp4"


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("name", ["mjpeg.avi", "mpeg4.avi", "clip.mpeg"])
def test_read_clip__truncated(videos, tmp_path, name, fast):
    path, _ = videos[name]
    half = tmp_path / name
    half.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    truth = sequential_until_fault(half)
    assert 0 < len(truth) < FRAMES
    clip = read_clip(str(half), lambda count, rate: evenly_spaced(count, 4), fast=fast)
    assert clip.frame_count == len(truth)
    assert clip.declared_count == (FRAMES if name.endswith("avi") else None)
    assert clip.indices.tolist() == evenly_spaced(len(truth), 4).tolist()
    np.testing.assert_array_equal(clip.frames, np.stack([pillow_grey(truth[i]) for i in clip.indices]))


def sequential_until_fault(path: Path) -> list[np.ndarray]:
    frames: list[np.ndarray] = []
    with av.open(str(path)) as container:
        try:
            for frame in container.decode(video=0):
                frames.append(frame.to_ndarray(format="rgb24"))
        except av.error.FFmpegError:
            pass
    return frames


@pytest.mark.parametrize("fast", [False, True])
def test_read_clip__a_frame_fails_in_the_middle(videos, tmp_path, fast):
    path, truth = videos["h264.mp4"]
    content = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        key = [(p.pos, p.size) for p in container.demux(video=0) if p.size and p.is_keyframe]
    start, size = key[2]  # frame 24
    content[start : start + size] = b"\xff" * size
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(content)
    clip = read_clip(str(damaged), lambda count, rate: evenly_spaced(count, 16), fast=fast)
    kept = sequential_until_fault(damaged)
    assert clip.frame_count == len(kept) < FRAMES
    assert clip.declared_count == FRAMES
    np.testing.assert_array_equal(clip.frames, np.stack([pillow_grey(kept[i]) for i in clip.indices]))
    np.testing.assert_array_equal(clip.frames[0], pillow_grey(truth[clip.indices[0]]))


@pytest.mark.parametrize("name", ["h264.mp4", "mjpeg.avi", "clip.mpeg", "clip.gif"])
def test_read_clip__one_frame(tmp_path, name):
    codec, pixel_format, options, (height, width) = KINDS[name]
    path = write_video(tmp_path / name, codec, pixel_format, options, moving_pattern(1, height, width))
    for fast in (False, True):
        clip = read_clip(str(path), Sampling().choose, fast=fast)
        assert clip.indices.tolist() == [0]
        assert clip.frame_count == 1
        np.testing.assert_array_equal(clip.frames[0], pillow_grey(sequential(path)[0]))


@pytest.mark.parametrize("ending", ["png", "bmp", "jpg"])
def test_read_clip__still(tmp_path, ending):
    picture = moving_pattern(1, 48, 64)[0]
    path = tmp_path / f"still.{ending}"
    Image.fromarray(picture).save(path)
    clip = read_clip(str(path), channels=3)
    assert clip.container == ending
    assert clip.frames.shape == (1, 48, 64, 3)
    assert math.isnan(clip.frame_rate)
    if ending != "jpg":
        np.testing.assert_array_equal(clip.frames[0], picture)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.mp4", b"", "empty"),
        ("text.mp4", b"this is a letter, not a clip\n" * 100, "video"),
        ("text.txt", b"this is a letter, not a clip\n" * 100, "video"),
        ("text.dcm", b"this is a letter, not a clip\n" * 100, "DICOM"),
        ("noise.avi", bytes(np.random.default_rng(1).integers(0, 256, 5000, dtype=np.uint8)), "video"),
    ],
)
def test_read_clip__not_a_clip(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    for fast in (False, True):
        with pytest.raises(ClipError, match=reason) as caught:
            read_clip(str(path), fast=fast)
        assert name not in str(caught.value)


def test_read_clip__missing_or_folder(tmp_path):
    with pytest.raises(ClipError, match="no such file"):
        read_clip(str(tmp_path / "absent.mp4"))
    with pytest.raises(ClipError, match="folder"):
        read_clip(str(tmp_path))
    with pytest.raises(ClipError, match="no such file"):
        content_hash(str(tmp_path / "absent.mp4"))


def test_read_clip__frames_that_do_not_exist(videos):
    path = str(videos["mjpeg.avi"][0])
    for indices in ([FRAMES], [-1], []):
        with pytest.raises(ClipError):
            read_clip(path, indices)
    with pytest.raises(SonokitError, match="channels"):
        read_clip(path, channels=2)


def test_read_clip__over_fsspec(videos):
    path, truth = videos["mjpeg.avi"]
    content = path.read_bytes()
    with fsspec.open("memory://clips/one.avi", "wb") as handle:
        handle.write(content)
    np.testing.assert_array_equal(read_clip("memory://clips/one.avi", [5]).frames[0], pillow_grey(truth[5]))
    assert content_hash("memory://clips/one.avi") == content_hash(str(path)) == hashlib.sha256(content).hexdigest()
    with pytest.raises(ClipError, match="no such file"):
        read_clip("memory://clips/absent.avi")
    with pytest.raises(ClipError, match="nonsense"):
        read_clip("nonsense://clips/one.avi")
