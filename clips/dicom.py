"""Ultrasound DICOM, still or multi-frame, through pydicom.

pydicom 3 hands out RGB for every YBR encoding; nothing here converts colours again (that makes frames green). What it leaves to
its user is done here: palettes, inverted grey, more than 8 bits, H.264 and its kin, and the frame rate.

No message carries a value of the header or the text of another library's error, which may quote one: a header holds names.
"""

import io
import struct
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isnan, nan
from typing import Any

import numpy as np
import pydicom
from pydicom.encaps import get_frame
from pydicom.errors import InvalidDicomError
from pydicom.pixels import apply_color_lut, apply_modality_lut, get_decoder, iter_pixels
from pydicom.uid import UID

from .decoded import Choose, ClipError, DecodedClip, SequentialPass, Wanted, chosen_indices, collect, grey_or_rgb
from .video import read_video

# Names that pydicom 3.0 does not know yet.
_NAMES = {
    "1.2.840.10008.1.2.4.110": "JPEG XL Lossless",
    "1.2.840.10008.1.2.4.111": "JPEG XL JPEG Recompression",
    "1.2.840.10008.1.2.4.112": "JPEG XL",
}
# MPEG-2, H.264 and HEVC: the pixel data is one video stream for all frames.
_VIDEO_SYNTAXES = {f"1.2.840.10008.1.2.4.{n}" for n in range(100, 109)} | {
    f"1.2.840.10008.1.2.4.{n}.1" for n in range(100, 107)
}
# What pydicom and the codecs below it raise on damaged pixel data and headers.
_FAULTS = (RuntimeError, ValueError, TypeError, AttributeError, LookupError, EOFError, OSError, ArithmeticError, struct.error)

Render = Callable[[np.ndarray], np.ndarray]
"""A frame as pydicom gives it, to uint8 grey ``[H, W]`` or RGB ``[H, W, 3]``."""


@dataclass(frozen=True)
class _Header:
    dataset: pydicom.Dataset
    declared_count: int
    frame_rate: float  # Hz, nan for a still
    render: Render | None  # None where the pixel data is a video stream


_one_header_at_a_time = threading.Lock()


def is_dicom(path: str) -> bool:
    """Whether a local file is DICOM by its content ("DICM" at byte 128) or, for files without that preamble, by ``.dcm``."""
    with open(path, "rb") as handle:
        return handle.read(132)[128:] == b"DICM" or path.lower().endswith(".dcm")


def read_dicom(path: str, choose: Choose | Sequence[int] | None = None, channels: int = 1) -> DecodedClip:
    """The chosen frames of a DICOM file as they would be displayed.

    Pixels of more or fewer than 8 bits are scaled to uint8: by the header's first window if there is one (grey only), else so
    that the range of the stored bits becomes 0 to 255. 8-bit pixels are taken as stored, whatever window the header suggests.

    Raises:
        ClipError: it holds no pictures, they do not decode, or they are encoded in a way that needs a codec that is not here.
    """
    with _silent_pydicom():
        header = _read_header(path)
    if header.render is None:
        return _read_video_stream(header, choose, channels)
    return _read_frames(header, header.render, choose, channels)


@contextmanager
def _silent_pydicom() -> Iterator[None]:
    """Keep pydicom from warning of malformed values by quoting them: an identity could get onto a screen or into a log.

    The filters are the process's: one thread at a time, and only while a header is read.
    """
    with _one_header_at_a_time, warnings.catch_warnings():
        disabled = pydicom.config.logger.disabled
        warnings.simplefilter("ignore")
        pydicom.config.logger.disabled = True
        try:
            yield
        finally:
            pydicom.config.logger.disabled = disabled


def _read_header(path: str) -> _Header:
    dataset = _read_dataset(path)
    syntax = dataset.file_meta.TransferSyntaxUID
    video = syntax in _VIDEO_SYNTAXES
    if not video:
        _require_decoder(syntax)
    try:
        declared = int(dataset.get("NumberOfFrames") or 1)
        rate = _frame_rate(dataset) if declared > 1 else nan
        return _Header(dataset, declared, rate, None if video else _renderer(dataset))
    except _FAULTS:
        raise ClipError("the DICOM header is damaged") from None


def _read_dataset(path: str) -> pydicom.Dataset:
    try:
        dataset = pydicom.dcmread(path, force=path.lower().endswith(".dcm"))
        if "PixelData" not in dataset:
            raise ClipError("the DICOM file holds no pictures" if len(dataset) else "it is not a DICOM file")
        if not hasattr(dataset, "file_meta") or "TransferSyntaxUID" not in dataset.file_meta:
            # files without a preamble are, by the standard's old default, implicit little endian; pydicom saw which
            dataset.file_meta = pydicom.dataset.FileMetaDataset()
            implicit = dataset.original_encoding[0]
            dataset.file_meta.TransferSyntaxUID = UID("1.2.840.10008.1.2" if implicit else "1.2.840.10008.1.2.1")
    except InvalidDicomError:
        raise ClipError("it is not a DICOM file") from None
    except _FAULTS:
        raise ClipError("the DICOM header is damaged") from None
    return dataset


def _require_decoder(syntax: UID) -> None:
    name = _NAMES.get(syntax, syntax.name)
    encoded = f"its pixels are encoded as {name} ({syntax})" if name != syntax else f"its pixels are encoded as {syntax}"
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError:
        decoder = None
    if decoder is not None and decoder.is_available:
        return
    if decoder is not None and any("gdcm" in missing for missing in decoder.missing_dependencies):
        raise ClipError(f'{encoded}, which needs a codec: pip install "sonokit[dicom]"')
    raise ClipError(f"{encoded}, which cannot be read here; convert the file to JPEG or uncompressed pixels first")


def _read_frames(header: _Header, render: Render, choose: Choose | Sequence[int] | None, channels: int) -> DecodedClip:
    def read(wanted: Wanted) -> SequentialPass:
        pictures: dict[int, np.ndarray] = {}
        count = 0
        try:
            for pixels in iter_pixels(header.dataset):
                if wanted is None or count in wanted:
                    pictures[count] = _in_channels(render(pixels), channels)
                count += 1
        except _FAULTS as error:
            if count == 0:
                raise ClipError(f"not one frame of it decodes ({type(error).__name__})") from None
        return SequentialPass(pictures, count)

    frames, indices, count = collect(read, choose, header.declared_count, header.frame_rate)
    return DecodedClip(frames, indices, count, header.declared_count, header.frame_rate, "dicom")


def _read_video_stream(header: _Header, choose: Choose | Sequence[int] | None, channels: int) -> DecodedClip:
    try:
        stream = io.BytesIO(get_frame(header.dataset.PixelData, 0, number_of_frames=1))  # one stream, whatever its fragments
    except _FAULTS:
        raise ClipError("the pixel data is damaged") from None

    def choose_by_header(count: int, video_rate: float) -> np.ndarray:
        rate = video_rate if isnan(header.frame_rate) else header.frame_rate
        return chosen_indices(choose, count, rate)

    clip = read_video(stream, choose_by_header if callable(choose) else choose, channels=channels)
    rate = clip.frame_rate if isnan(header.frame_rate) else header.frame_rate
    return DecodedClip(clip.frames, clip.indices, clip.frame_count, header.declared_count, rate, "dicom")


def _frame_rate(dataset: pydicom.Dataset) -> float:
    """In Hz, from the first of FrameTime, FrameTimeVector (ms), CineRate and RecommendedDisplayFrameRate that says one."""
    if milliseconds := _positive(dataset.get("FrameTime")):
        return 1000 / milliseconds
    vector = dataset.get("FrameTimeVector")
    # the increment before the first frame means nothing
    if isinstance(vector, Sequence) and len(vector) > 1 and (total := _positive(sum(float(v) for v in vector[1:]))):
        return 1000 * (len(vector) - 1) / total
    return _positive(dataset.get("CineRate")) or _positive(dataset.get("RecommendedDisplayFrameRate")) or nan


def _positive(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return 0.0
    return number if 0 < number < float("inf") else 0.0


def _renderer(dataset: pydicom.Dataset) -> Render:
    kind = str(dataset.PhotometricInterpretation)
    bits, signed = int(dataset.BitsStored), bool(dataset.PixelRepresentation)
    if kind == "PALETTE COLOR":
        return _palette(dataset, bits)
    if kind in ("MONOCHROME1", "MONOCHROME2"):
        grey = _window(dataset) if bits > 8 else None
        shown = grey or (lambda pixels: _by_stored_bits(pixels, bits, signed))
        return (lambda pixels: 255 - shown(pixels)) if kind == "MONOCHROME1" else shown
    if kind != "RGB" and not kind.startswith("YBR_"):
        raise ClipError("the photometric interpretation of its pixels is none that ultrasound uses (grey, palette, RGB or YBR)")
    return lambda pixels: _by_stored_bits(pixels, bits, signed)


def _palette(dataset: pydicom.Dataset, bits: int) -> Render:
    """Look up the colours of all stored values once, as uint8 ``[entries, 3]``."""
    entries, first = (int(v) for v in list(dataset.RedPaletteColorLookupTableDescriptor)[:2])
    entries = entries or 1 << 16  # 65536 does not fit the field
    values = np.arange(first, first + entries).clip(0, (1 << 16) - 1).astype(np.uint16)
    colours = apply_color_lut(values[np.newaxis], dataset)[0]  # [entries, 3] or [entries, 4]
    colours = colours[:, :3]
    if colours.max() > 255:  # 16-bit entries, some of which hold 8-bit colours all the same
        colours = colours >> 8
    table = colours.astype(np.uint8)
    return lambda pixels: table[(pixels.astype(np.int64) - first).clip(0, entries - 1)]  # [H, W] -> [H, W, 3]


def _window(dataset: pydicom.Dataset) -> Render | None:
    """The header's first window (linear, PS3.3 C.11.2.1.2), None where there is none."""
    centres, widths = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    if centres is None or widths is None or centres == "" or widths == "":
        return None
    centre = float(centres[0] if isinstance(centres, Sequence) else centres)
    width = float(widths[0] if isinstance(widths, Sequence) else widths)
    if width <= 1:
        return None

    def render(pixels: np.ndarray) -> np.ndarray:
        values = apply_modality_lut(pixels, dataset).astype(np.float64)
        shown = ((values - (centre - 0.5)) / (width - 1) + 0.5) * 255
        return np.rint(shown.clip(0, 255)).astype(np.uint8)

    return render


def _by_stored_bits(pixels: np.ndarray, bits: int, signed: bool) -> np.ndarray:
    if bits == 8 and not signed:
        return pixels.astype(np.uint8)
    top = (1 << bits) - 1
    values = pixels.astype(np.int64) + ((1 << (bits - 1)) if signed else 0)
    return ((values.clip(0, top) * 255 + top // 2) // top).astype(np.uint8)


def _in_channels(picture: np.ndarray, channels: int) -> np.ndarray:
    if picture.ndim == 3:
        return grey_or_rgb(picture, channels)
    return np.repeat(picture[:, :, np.newaxis], 3, axis=2) if channels == 3 else picture  # [H, W] -> [H, W, 3]
