"""Video files through PyAV, whose decoding from the first frame to the last is the truth about a clip; decord for the hurried.

Why no seeking: decord and other readers that jump to a frame return *other* frames without a word, on MPEG, on MOV with an edit
list and on AVI with H.264 (AVI keeps no display times, and B-frames are stored out of order). Why one decoding thread: with
several, how many frames of a damaged file come out depends on the number of cores. Several clips are decoded at once instead.
"""

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

import av
import numpy as np

from .decoded import Choose, ClipError, DecodedClip, SequentialPass, Wanted, chosen_indices, collect, grey_or_rgb

_CONTAINERS = {"mpegts": "mpeg", "mpegvideo": "mpeg", "matroska": "mkv", "jpeg": "jpg", "tiff": "tif", "asf": "wmv"}
_STILLS = {"png", "jpg", "tif", "bmp", "webp", "image2"}
# Formats that FFmpeg matches by a file's ending alone: a text file would be painted as a film of letters.
_NOT_VIDEO = {"tty"}

# Kinds of file on which decord has been seen to agree with PyAV to the last bit; a first frame that differs refuses it too.
_FAST_PIXEL_FORMATS = {"yuv420p", "yuvj420p", "yuv444p"}


@dataclass(frozen=True)
class _Header:
    container: str
    declared_count: int | None
    frame_rate: float  # Hz, nan for a still
    plain: bool  # nothing about it asks more of a reader than decord can do


def read_video(
    source: str | BinaryIO,
    choose: Choose | Sequence[int] | None = None,
    *,
    channels: int = 1,
    fast: bool = False,
) -> DecodedClip:
    """The chosen frames of a video or picture file, or of an open binary file that can seek.

    A frame that fails ends the clip there: the frames before it count, and ``declared_count`` shows that some are missing.
    ``fast`` lets decord seek to the chosen frames of a plain H.264 mp4; see ``read_clip`` for what that gives up.

    Raises:
        ClipError: not one frame decodes, or a chosen one does not exist.
    """
    header = _read_header(source)
    if fast and header.plain and isinstance(source, str):
        clip = _read_fast(source, choose, header, channels)
        if clip is not None:
            return clip

    def read(wanted: Wanted) -> SequentialPass:
        return _read_through(source, wanted, channels)

    frames, indices, count = collect(read, choose, header.declared_count, header.frame_rate)
    return DecodedClip(frames, indices, count, header.declared_count, header.frame_rate, header.container)


@contextmanager
def _opened(source: str | BinaryIO) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream."""
    if isinstance(source, str):
        # "file:" keeps a colon in a name from being taken for a protocol; the list keeps playlists from opening other places
        name: str | BinaryIO = f"file:{source}"
        options = {"protocol_whitelist": "file"}
    else:
        source.seek(0)
        name, options = source, {}
    try:
        container = av.open(name, options=options, metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise ClipError(f"it cannot be read as a video: {error.strerror}") from error
    with container:
        streams = container.streams.video
        if not streams or container.format.name in _NOT_VIDEO:
            raise ClipError("there is no video in it")
        if streams[0].codec_context is None:
            raise ClipError("it uses a video codec that FFmpeg does not know")
        streams[0].codec_context.thread_count = 1
        yield container, streams[0]


def _read_header(source: str | BinaryIO) -> _Header:
    with _opened(source) as (container, stream):
        name = _container_name(container)
        rate = stream.average_rate or stream.guessed_rate
        plain = (
            name == "mp4"
            and len(container.streams.video) == 1
            and stream.codec_context.name == "h264"
            and stream.codec_context.pix_fmt in _FAST_PIXEL_FORMATS
            and stream.start_time == 0  # no edit list that begins later
            and stream.average_rate == stream.base_rate  # constant frame rate
        )
        still = name in _STILLS
        return _Header(name, stream.frames or None, math.nan if still or not rate else float(rate), plain and stream.frames > 0)


def _container_name(container: Any) -> str:
    name: str = container.format.name.split(",")[0].removesuffix("_pipe")
    if name == "mov":  # one demuxer for the whole family: the brand tells QuickTime from MPEG-4; the oldest QuickTime has none
        brand = container.metadata.get("major_brand", "qt")
        return "mov" if brand.startswith("qt") else "mp4"
    return _CONTAINERS.get(name, name)


def _read_through(source: str | BinaryIO, wanted: Wanted, channels: int) -> SequentialPass:
    pictures: dict[int, np.ndarray] = {}
    count = 0
    width = height = None
    with _opened(source) as (container, stream):
        try:
            for frame in container.decode(stream):
                width, height = width or frame.width, height or frame.height  # a clip keeps the size of its first frame
                if wanted is None or count in wanted:
                    rgb = frame.to_ndarray(format="rgb24", width=width, height=height)  # [H, W, 3]
                    pictures[count] = grey_or_rgb(rgb, channels)
                count += 1
        except av.error.FFmpegError as error:
            if count == 0:
                raise ClipError(f"not one frame of it decodes: {error.strerror}") from error
    return SequentialPass(pictures, count)


def _read_fast(path: str, choose: Choose | Sequence[int] | None, header: _Header, channels: int) -> DecodedClip | None:
    """The same through decord, or None where it cannot be trusted with this file: then PyAV reads it and says why."""
    count, decord = header.declared_count, _decord()
    if decord is None or count is None:
        return None
    try:
        reader = decord.VideoReader(path, num_threads=1)  # opened here and never shared: a reader is not safe across workers
        if len(reader) != count:
            return None
        indices = chosen_indices(choose, count, header.frame_rate)
        pictures = reader.get_batch([0, *indices.tolist()]).asnumpy()  # [1 + T, H, W, 3]
    except (decord.DECORDError, RuntimeError, IndexError):
        return None
    first = _read_first(path)
    if first.shape != pictures[0].shape or not np.array_equal(first, pictures[0]):
        return None
    frames = np.stack([grey_or_rgb(rgb, channels) for rgb in pictures[1:]])
    return DecodedClip(frames, indices, count, count, header.frame_rate, header.container)


@functools.cache
def _decord() -> Any:
    """The module decord, or None where it is not installed.

    decord2 3.4 loads every CUDA library that it finds for all to use, NVBLAS among them, which then takes torch's matrix
    products and crashes. Loaded after torch it does no harm, and never loaded without need.
    """
    with contextlib.suppress(ImportError):
        import torch  # noqa: F401
    try:
        import decord
    except ImportError:
        return None
    decord.logging.set_level(decord.logging.QUIET)
    return decord


def _read_first(path: str) -> np.ndarray:
    with _opened(path) as (container, stream):
        for frame in container.decode(stream):
            return np.asarray(frame.to_ndarray(format="rgb24"))
    return np.empty((0, 0, 3), np.uint8)
