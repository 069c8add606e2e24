import io
import math
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.pixels import convert_color_space
from pydicom.uid import (
    UID,
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    RLELossless,
    UltrasoundMultiFrameImageStorage,
    generate_uid,
)
from sonokit.clips import dicom
from sonokit.clips.decode import ClipError, read_clip
from sonokit.clips.dicom import is_dicom, read_dicom

NAME = "Quintessa^Patient"


def dataset(
    pixels: np.ndarray, kind: str, *, bits: int = 8, frames: int | None = None, syntax=ExplicitVRLittleEndian
) -> Dataset:
    """A file in memory around pixels [H, W], [H, W, 3], [T, H, W] or [T, H, W, 3]."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UltrasoundMultiFrameImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = UID(syntax)
    made = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    made.PatientName, made.PatientID = NAME, "QP-4711"
    shape = pixels.shape[1:] if frames else pixels.shape
    made.Rows, made.Columns = shape[:2]
    made.SamplesPerPixel = 3 if len(shape) == 3 else 1
    if made.SamplesPerPixel == 3:
        made.PlanarConfiguration = 0
    if frames:
        made.NumberOfFrames = frames
    made.PhotometricInterpretation = kind
    made.BitsAllocated = 8 * pixels.itemsize
    made.BitsStored, made.HighBit = bits, bits - 1
    made.PixelRepresentation = int(np.issubdtype(pixels.dtype, np.signedinteger))
    made.PixelData = pixels.tobytes()
    return made


def saved(made: Dataset, folder: Path, name: str = "clip.dcm") -> str:
    made.save_as(folder / name, enforce_file_format=True)
    return str(folder / name)


def noise(*shape: int, top: int = 256, dtype=np.uint8) -> np.ndarray:
    return np.random.default_rng(3).integers(0, top, shape).astype(dtype)


def test_read_dicom__grey_multi_frame(tmp_path):
    pixels = noise(6, 20, 30)
    made = dataset(pixels, "MONOCHROME2", frames=6)
    made.FrameTime = "40"
    path = saved(made, tmp_path, "no-ending")
    assert is_dicom(path)
    clip = read_clip(path, [4, 0, 4])
    np.testing.assert_array_equal(clip.frames, pixels[[4, 0, 4]])
    assert (clip.frame_count, clip.declared_count, clip.frame_rate, clip.container) == (6, 6, 25.0, "dicom")
    colour = read_clip(path, channels=3)
    assert colour.frames.shape == (6, 20, 30, 3)
    assert (colour.frames == pixels[..., np.newaxis]).all()


def test_read_dicom__monochrome1_is_inverted(tmp_path):
    pixels = noise(20, 30)
    clip = read_dicom(saved(dataset(pixels, "MONOCHROME1"), tmp_path))
    np.testing.assert_array_equal(clip.frames[0], 255 - pixels)
    assert math.isnan(clip.frame_rate)


def test_read_dicom__rgb(tmp_path):
    pixels = noise(3, 20, 30, 3)
    path = saved(dataset(pixels, "RGB", frames=3), tmp_path)
    np.testing.assert_array_equal(read_dicom(path, channels=3).frames, pixels)
    np.testing.assert_array_equal(read_dicom(path, [2]).frames[0], np.asarray(Image.fromarray(pixels[2]).convert("L")))


def test_read_dicom__ybr_is_converted_once(tmp_path):
    rgb = np.zeros((8, 8, 3), np.uint8)
    rgb[:] = (200, 40, 90)
    clip = read_dicom(saved(dataset(convert_color_space(rgb, "RGB", "YBR_FULL"), "YBR_FULL"), tmp_path), channels=3)
    assert np.abs(clip.frames[0].astype(int) - rgb).max() <= 2


def test_read_dicom__jpeg_of_ybr(tmp_path):
    def jpeg(colour: tuple[int, int, int]) -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (32, 16), colour).save(buffer, "JPEG", quality=95)
        return buffer.getvalue()

    colours = [(200, 40, 90), (20, 200, 60)]
    made = dataset(np.zeros((2, 16, 32, 3), np.uint8), "YBR_FULL_422", frames=2, syntax=JPEGBaseline8Bit)
    made.PixelData = encapsulate([jpeg(colour) for colour in colours])
    made.CineRate = "30"
    clip = read_dicom(saved(made, tmp_path), channels=3)
    assert np.abs(clip.frames.astype(int) - np.array(colours)[:, np.newaxis, np.newaxis]).max() <= 4
    assert clip.frame_rate == 30


def test_read_dicom__rle(tmp_path):
    pixels = noise(2, 20, 30, 3)
    made = dataset(pixels, "RGB", frames=2)
    made.compress(RLELossless)
    np.testing.assert_array_equal(read_dicom(saved(made, tmp_path), channels=3).frames, pixels)


@pytest.mark.parametrize("eight_bit_values", [False, True])
def test_read_dicom__palette(tmp_path, eight_bit_values):
    pixels, colours = noise(20, 30), noise(3, 256)
    made = dataset(pixels, "PALETTE COLOR")
    for name, column in zip(("Red", "Green", "Blue"), colours, strict=True):
        entries = column.astype("<u2") if eight_bit_values else column.astype("<u2") * 257
        setattr(made, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(made, f"{name}PaletteColorLookupTableData", entries.tobytes())
    clip = read_dicom(saved(made, tmp_path), channels=3)
    np.testing.assert_array_equal(clip.frames[0], colours.T[pixels])


def test_read_dicom__stored_bits_fill_the_range(tmp_path):
    pixels = noise(20, 30, top=4096, dtype=np.uint16)
    clip = read_dicom(saved(dataset(pixels, "MONOCHROME2", bits=12), tmp_path))
    np.testing.assert_array_equal(clip.frames[0], np.floor(pixels / 4095 * 255 + 0.5).astype(np.uint8))
    signed = np.array([[-32768, 0, 32767]], np.int16)
    clip = read_dicom(saved(dataset(signed, "MONOCHROME2", bits=16), tmp_path))
    assert clip.frames[0].tolist() == [[0, 128, 255]]


def test_read_dicom__window_of_deep_pixels(tmp_path):
    made = dataset(np.array([[0, 900, 1000, 1100, 4095]], np.uint16), "MONOCHROME2", bits=12)
    made.WindowCenter, made.WindowWidth = "1000.5", "201"  # 900 is black, 1100 white
    assert read_dicom(saved(made, tmp_path)).frames[0].tolist() == [[0, 0, 128, 255, 255]]


@pytest.mark.parametrize(
    ("tags", "rate"),
    [
        ({"FrameTime": "20", "CineRate": "10"}, 50.0),
        ({"FrameTimeVector": ["0", "40", "60", "50"]}, 20.0),
        ({"FrameTime": "0", "CineRate": "12"}, 12.0),
        ({"RecommendedDisplayFrameRate": "33"}, 33.0),
        ({}, math.nan),
    ],
)
def test_read_dicom__frame_rate(tmp_path, tags, rate):
    made = dataset(noise(4, 8, 8), "MONOCHROME2", frames=4)
    for tag, value in tags.items():
        setattr(made, tag, value)
    assert read_dicom(saved(made, tmp_path)).frame_rate == pytest.approx(rate, nan_ok=True)


@pytest.mark.parametrize("format_name", ["h264", "mp4"])
def test_read_dicom__h264(tmp_path, format_name):
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=format_name) as container:
        stream = container.add_stream("libx264", rate=50, options={"bf": "2", "g": "8"})
        stream.height, stream.width, stream.pix_fmt = 48, 64, "yuv420p"
        for t in range(12):
            picture = np.full((48, 64, 3), 20 * t, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    made = dataset(np.zeros((12, 48, 64, 3), np.uint8), "YBR_PARTIAL_420", frames=12, syntax="1.2.840.10008.1.2.4.102")
    made.PixelData = encapsulate([buffer.getvalue()])
    made.FrameTime = "20"
    clip = read_clip(saved(made, tmp_path), lambda count, rate: np.array([1, count - 1, int(rate) - 45]))
    assert clip.indices.tolist() == [1, 11, 5]
    assert (clip.frame_count, clip.declared_count, clip.frame_rate, clip.container) == (12, 12, 50.0, "dicom")
    assert np.abs(clip.frames.mean(axis=(1, 2)) - [20, 220, 100]).max() < 3


def test_read_dicom__fewer_frames_than_declared(tmp_path):
    pixels = noise(5, 20, 30, 3)
    made = dataset(pixels, "RGB", frames=5)
    made.compress(RLELossless)
    fragments = list(pydicom.encaps.generate_frames(made.PixelData, number_of_frames=5))
    made.PixelData = encapsulate(fragments[:3])
    clip = read_dicom(saved(made, tmp_path), lambda count, rate: np.arange(count), 3)
    assert (clip.frame_count, clip.declared_count) == (3, 5)
    np.testing.assert_array_equal(clip.frames, pixels[:3])


@pytest.mark.parametrize(
    ("syntax", "words"),
    [
        ("1.2.840.10008.1.2.4.111", "JPEG XL JPEG Recompression"),
        ("1.2.840.10008.1.2.4.201", "High-Throughput"),
        ("1.2.840.10008.1.2.4.999", "1.2.840.10008.1.2.4.999"),
    ],
)
def test_read_dicom__codec_is_named(tmp_path, syntax, words):
    writable = "1.2.840.10008.1.2.4.201"  # pydicom writes none that it does not know: put the other over it afterwards
    made = dataset(np.zeros((1, 8, 8), np.uint8), "MONOCHROME2", frames=1, syntax=writable)
    made.PixelData = encapsulate([b"\0" * 64])
    path = Path(saved(made, tmp_path))
    path.write_bytes(path.read_bytes().replace(writable.encode(), syntax.encode()))
    with pytest.raises(ClipError, match=words) as caught:
        read_dicom(str(path))
    assert "convert" in str(caught.value)


def test_read_dicom__missing_extra_is_named(tmp_path, monkeypatch):
    without_gdcm = SimpleNamespace(is_available=False, missing_dependencies=["gdcm - requires gdcm>=3.0.10"])
    made = dataset(noise(8, 8), "MONOCHROME2", syntax=JPEGBaseline8Bit)
    made.PixelData = encapsulate([b"\0" * 64])
    monkeypatch.setattr(dicom, "get_decoder", lambda syntax: without_gdcm)
    with pytest.raises(ClipError, match=r"JPEG Baseline.*pip install \"sonokit\[dicom\]\""):
        read_dicom(saved(made, tmp_path))


def test_read_dicom__damage_names_nobody(tmp_path, capfd):
    made = dataset(noise(3, 20, 30), "MONOCHROME2", frames=3)
    made.PixelData = made.PixelData[:100]
    broken = {"short.dcm": made, "kind.dcm": dataset(noise(8, 8, 3), "CMYK"), "none.dcm": dataset(noise(8, 8), "RGB")}
    del broken["none.dcm"].PixelData
    whole = Path(saved(dataset(noise(20, 30), "MONOCHROME2"), tmp_path)).read_bytes()
    for name, thing in broken.items():
        saved(thing, tmp_path, name)
    (tmp_path / "cut.dcm").write_bytes(whole[: len(whole) // 3])
    (tmp_path / "header.dcm").write_bytes(whole[:300].replace(b"1.2.840", b"\xff\xfe^Quin"))
    for name in [*broken, "cut.dcm", "header.dcm"]:
        with pytest.raises(ClipError) as caught:
            read_dicom(str(tmp_path / name))
        assert "Quin" not in str(caught.value)
        assert caught.value.__cause__ is None
    shown = capfd.readouterr()
    assert "Quin" not in shown.out + shown.err


def test_read_dicom__without_preamble(tmp_path):
    pixels = noise(20, 30)
    made = dataset(pixels, "MONOCHROME2")
    bare = Dataset()
    bare.update(made)
    path = tmp_path / "old.dcm"
    pydicom.dcmwrite(path, bare, implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert path.read_bytes()[128:132] != b"DICM"
    np.testing.assert_array_equal(read_clip(str(path)).frames[0], pixels)


def test_read_dicom__in_threads_leaves_warnings_as_they_were(tmp_path):
    made = dataset(noise(3, 20, 30), "MONOCHROME2", frames=3)
    path = saved(made, tmp_path)
    before, disabled = list(warnings.filters), pydicom.config.logger.disabled
    with ThreadPoolExecutor(4) as pool:
        clips = list(pool.map(read_dicom, [path] * 12))
    assert all((clip.frames == clips[0].frames).all() for clip in clips)
    assert (list(warnings.filters), pydicom.config.logger.disabled) == (before, disabled)
