"""Grey frames written as the video files that scanners and web pages hand out: mp4 (H.264), avi (Motion JPEG), gif."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from ...atomic import atomic_path

_CODECS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    # ending: muxer, codec, pixel format, options. One thread, and no macroblock tree, for the same bytes each time: on small
    # pictures the tree reads memory that nobody has written (MALLOC_PERTURB_ shows it), and the file changes from run to run.
    "mp4": ("mp4", "libx264", "yuv420p", {"crf": "19", "preset": "veryfast", "threads": "1", "mbtree": "0"}),
    "avi": ("avi", "mjpeg", "yuvj420p", {"qmin": "3", "qmax": "3", "threads": "1"}),
    "gif": ("gif", "gif", "gray", {}),
}
CONTAINERS = tuple(_CODECS)


def write_video(path: Path, frames: np.ndarray, frame_rate: int) -> None:
    """Write ``frames`` atomically to ``path``; its ending (mp4, avi, gif) chooses container and codec.

    Args:
        path: its folder is made when absent.
        frames: uint8 [T, H, W] grey, H and W even.
        frame_rate: Hz. A gif counts time in hundredths of a second: give it a rate that divides 100.

    Raises:
        ValueError: another ending, or frames of another kind.
    """
    ending = path.suffix.removeprefix(".")
    if ending not in _CODECS or frames.dtype != np.uint8 or frames.ndim != 3 or any(n % 2 for n in frames.shape[1:]):
        raise ValueError(
            f"cannot write {frames.dtype} frames {frames.shape} to {path.name}: need uint8 [T, H, W], even H and W"
        )
    muxer, codec, pixel_format, options = _CODECS[ending]
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format=muxer) as container:
        stream = container.add_stream(codec, rate=Fraction(frame_rate), options=options)
        stream.height, stream.width = frames.shape[1:]
        stream.pix_fmt = pixel_format
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="gray")))
        container.mux(stream.encode(None))
