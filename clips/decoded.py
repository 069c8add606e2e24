"""What decoding a clip gives, and what every decoder shares: which frames are kept, how the true number of frames is found."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..errors import SonokitError

Choose = Callable[[int, float], np.ndarray]
"""Of a clip with so many frames at such a rate (Hz, nan unknown): the numbers of the frames that are wanted."""

# A damaged header may declare any number of frames; nothing is chosen on the word of one beyond this (11 hours at 25 Hz).
_BELIEVABLE_FRAMES = 1_000_000


class ClipError(SonokitError):
    """This clip cannot be used. The message is the reason alone: whoever catches it knows the path."""


@dataclass(frozen=True)
class DecodedClip:
    """The chosen frames of a clip, and what was found out on the way.

    Attributes:
        frames: uint8, grey ``[T, H, W]`` or, of three channels, RGB ``[T, H, W, 3]``.
        indices: int64 ``[T]``, the number of each frame in the clip.
        frame_count: how many frames really decode.
        declared_count: how many the container announces, None where it does not say.
        frame_rate: in Hz, nan for a still or where the file does not say.
        container: "mp4", "mov", "avi", "mpeg", "gif", "png", "dicom", … by content, whatever the file's ending.
    """

    frames: np.ndarray
    indices: np.ndarray
    frame_count: int
    declared_count: int | None
    frame_rate: float
    container: str


@dataclass(frozen=True)
class SequentialPass:
    """One reading of a clip from its first frame to its last: the kept pictures by frame number, and how many decoded."""

    pictures: dict[int, np.ndarray]
    frame_count: int


Wanted = set[int] | None
"""Frame numbers that a pass keeps; None keeps all."""


def collect(
    read: Callable[[Wanted], SequentialPass],
    choose: Choose | Sequence[int] | None,
    declared_count: int | None,
    frame_rate: float,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Read the chosen frames of a clip whose true number of frames only reading can tell.

    The first pass keeps what ``choose`` wants of the declared number. Where that number was wrong or is not known (MPEG), a
    second pass keeps what it wants of the true one: decoding is cheap beside converting and holding frames that nobody wants.

    Returns:
        The frames, uint8 ``[T, H, W]`` or ``[T, H, W, 3]``; their numbers, int64 ``[T]``; how many frames decode.

    Raises:
        ClipError: no frame decodes, none is chosen, or a chosen one does not exist.
    """
    wanted: Wanted = None
    if callable(choose):
        believed = declared_count is not None and 0 < declared_count <= _BELIEVABLE_FRAMES
        wanted = _as_set(choose(declared_count, frame_rate)) if believed and declared_count is not None else set()
    elif choose is not None:
        wanted = _as_set(choose)
    found = read(wanted)
    if found.frame_count == 0:
        raise ClipError("not one frame of it decodes")

    indices = chosen_indices(choose, found.frame_count, frame_rate)
    if not found.pictures.keys() >= _as_set(indices):
        again = read(_as_set(indices))
        if again.frame_count != found.frame_count:
            raise ClipError("it gives another number of frames each time that it is read")
        found = again
    return np.stack([found.pictures[i] for i in indices.tolist()]), indices, found.frame_count


def chosen_indices(choose: Choose | Sequence[int] | None, frame_count: int, frame_rate: float) -> np.ndarray:
    """The numbers of the chosen frames, int64 ``[T]``; all of them for ``choose=None``.

    Raises:
        ClipError: none is chosen, or one that the clip does not have.
    """
    if choose is None:
        return np.arange(frame_count, dtype=np.int64)
    indices = np.asarray(choose(frame_count, frame_rate) if callable(choose) else choose, dtype=np.int64).reshape(-1)
    if len(indices) == 0:
        raise ClipError("no frame of it was asked for")
    if indices.min() < 0 or indices.max() >= frame_count:
        missing = int(indices.min() if indices.min() < 0 else indices.max())
        raise ClipError(f"frame {missing} was asked for, but {frame_count} frames decode (0 to {frame_count - 1})")
    return indices


def grey_or_rgb(rgb: np.ndarray, channels: int) -> np.ndarray:
    """A picture, uint8 ``[H, W, 3]``, as it is (3 channels) or as Pillow's "L" grey ``[H, W]``, luma of ITU-R 601 (1)."""
    return rgb if channels == 3 else np.asarray(Image.fromarray(rgb).convert("L"))


def _as_set(indices: Iterable[int] | np.ndarray) -> set[int]:
    return {int(i) for i in indices}
