"""Every real clip, frame for frame against a plain sequential reading; each real DICOM file decoded or refused by name."""

import math
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from sonokit.clips.decode import ClipError, read_clip
from sonokit.clips.sampling import Sampling

pytestmark = pytest.mark.data

# one of each kind that has fooled a decoder: MPEG, MOV with an edit list, H.264 in AVI, odd width, mp4 under an avi name
SUBSET = [
    "pocus/clips/reg_pat1image_133410.mpeg",
    "pocus/clips/reg_recommendations_alines_mov1.mov",
    "pocus/clips/cov_denault_proposedus_vid1.mov",
    "pocus/clips/pneu_northumbria_0409_set2_vid4.avi",
    "pocus/clips/reg_northumbria_1009_vid7.avi",
    "pocus/clips/cov-atlas__45_.gif",
    "pocus/clips/pneu-radiopaeda.mp4",
    "clips-unlabelled/tongue/video10.avi",
    "clips-unlabelled/echo/0X129133A90A61A59D.mp4",
    "clips-unlabelled/echo/example_video.avi",
]


def sequential_grey(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        colour = (frame.to_ndarray(format="rgb24") for frame in container.decode(video=0))
        return np.stack([np.asarray(Image.fromarray(rgb).convert("L")) for rgb in colour])


def check(path: Path, seed: int) -> None:
    truth = sequential_grey(path)
    rng = np.random.default_rng(seed)
    scattered = rng.integers(0, len(truth), 12).tolist()  # unordered, with repeats
    few = np.sort(rng.choice(len(truth), 3, replace=False)).tolist()
    asked = [(None, False)] + [(choose, fast) for fast in (False, True) for choose in (Sampling().choose, scattered, few)]
    for choose, fast in asked:
        clip = read_clip(str(path), choose, fast=fast)
        assert clip.frame_count == len(truth)
        np.testing.assert_array_equal(clip.frames, truth[clip.indices], err_msg=f"{path.name} fast={fast}")


@pytest.mark.parametrize("name", SUBSET)
def test_read_clip__real(shared_data, name):
    check(shared_data / name, seed=1)


@pytest.mark.slow
def test_read_clip__every_real_clip(shared_data):
    paths = sorted((shared_data / "pocus" / "clips").iterdir())
    paths += sorted(p for p in (shared_data / "clips-unlabelled").rglob("*") if p.suffix in {".mp4", ".avi", ".gif"})
    assert len(paths) == 96 + 25
    for seed, path in enumerate(paths):
        check(path, seed)


def test_read_clip__half_a_real_avi(shared_data, tmp_path):
    content = (shared_data / "pocus/clips/pneu_northumbria_0409_set1_vid2.avi").read_bytes()
    half = tmp_path / "half.avi"
    half.write_bytes(content[: len(content) // 2])
    clip = read_clip(str(half), Sampling().choose)
    assert (clip.declared_count, clip.frame_count) == (93, 30)
    np.testing.assert_array_equal(clip.frames, sequential_grey(half)[clip.indices])


# name: frames, (height, width), rate in Hz by hand from FrameTime or FrameTimeVector
DICOM = {
    "2023-04-21-RLEPlanarConfigurationYBR_FULL.dcm": (1, (910, 1260), math.nan),
    "91243943_0007.dcm": (1, (708, 1016), math.nan),
    "IM00001.fragmented_no_bot_jpeg_baseline.50.dcm": (8, (240, 320), 22.58),
    "Implicit-vr-us-palette.dcm": (1, (600, 800), math.nan),
    "Issue16.dcm": (34, (430, 480), 33.33),
    "Issue164.dcm": (87, (743, 975), 28.58),
    "Issue19.dcm": (1, (480, 640), math.nan),
    "JPEGExtended_3s_1f_u_08_08.dcm": (1, (576, 768), math.nan),
    "JPEGLosslessP14SV1_3s_2f_u_08_08.dcm": (2, (768, 1024), 31.28),
    "JPGLosslessP14SV1_1s_1f_8b.dcm": (1, (768, 1024), math.nan),
    "US-RGB-8-epicard": (1, (480, 640), math.nan),
    "YBR_FULL-RLE.dcm": (1, (480, 640), math.nan),
    "gdcm-US-ALOKA-16.dcm": (1, (480, 640), math.nan),
    "jp2k91YBR-ICT.dcm": (1, (965, 1660), math.nan),
    "jpeg-ls-Palette.dcm": (10, (430, 600), 13.16),
}


@pytest.mark.parametrize("name", DICOM)
def test_read_dicom__real(shared_data, name):
    count, size, rate = DICOM[name]
    clip = read_clip(str(shared_data / "dicom" / name), Sampling(frames=4).choose, channels=3)
    assert clip.frame_count == clip.declared_count == count
    assert clip.frames.shape == (min(count, 4), *size, 3)
    assert clip.frame_rate == pytest.approx(rate, abs=0.01, nan_ok=True)
    grey = read_clip(str(shared_data / "dicom" / name), Sampling(frames=4).choose)
    np.testing.assert_array_equal(grey.frames[0], np.asarray(Image.fromarray(clip.frames[0]).convert("L")))
    # YBR taken for RGB, or converted twice, paints the ground green or pink: on these pictures nearly all of it is neutral
    spread = clip.frames.max(axis=-1).astype(int) - clip.frames.min(axis=-1)
    assert np.median(spread) <= 12
    assert (spread > 60).mean() < 0.25


def test_read_dicom__real_jpeg_xl_is_refused_by_name(shared_data):
    with pytest.raises(ClipError, match="JPEG XL"):
        read_clip(str(shared_data / "dicom" / "will-jxl.dcm"))
