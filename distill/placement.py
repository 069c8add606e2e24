"""How an image of any size lies in a network's input, and back again without loss.

A pixel's centre is at a whole number. Resizing keeps the image's edges where they are, as Pillow's and torch's
(``align_corners=False``) do: the position x of W pixels becomes (x + ½) w / W - ½ of w pixels. The two axes may be scaled by
different factors: also a rounded width is one.
"""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image

from ..errors import SonokitError

Size = tuple[int, int]
"""(width, height)."""


@dataclass(frozen=True)
class Placement:
    """Scale and shift between an image and a network's input (or a map of it).

    Attributes:
        original: (width, height) of the image.
        inner: (width, height) that it is resized to.
        offset: (left, top) empty pixels before it.
        outer: (width, height) of the input.
        stride: Input pixels a cell, where a map of the input is meant.
    """

    original: Size
    inner: Size
    offset: Size
    outer: Size
    stride: float = 1.0

    @property
    def scale(self) -> np.ndarray:
        """Cells an original pixel, along x and y, float64 [2]."""
        return np.array(self.inner, dtype=np.float64) / np.array(self.original) / self.stride

    @property
    def cells(self) -> Size:
        """(width, height) of the input, or of its map; what does not fill a cell is not counted."""
        return int(self.outer[0] // self.stride), int(self.outer[1] // self.stride)

    def to_input(self, points: np.ndarray) -> np.ndarray:
        """Positions in the original image, float [..., 2] (x, y), as positions in the input."""
        return (np.asarray(points, dtype=np.float64) + 0.5) * self.scale + np.array(self.offset) / self.stride - 0.5

    def to_original(self, points: np.ndarray) -> np.ndarray:
        """Positions in the input as positions in the original image: the exact inverse of :meth:`to_input`."""
        return (np.asarray(points, dtype=np.float64) + 0.5 - np.array(self.offset) / self.stride) / self.scale - 0.5

    def at_stride(self, stride: float) -> "Placement":
        """The same for a map that has one cell for ``stride`` pixels of the input."""
        return replace(self, stride=self.stride * stride)


def fitted(original: Size, outer: Size, *, keep_shape: bool = True) -> Placement:
    """Where an image goes: as large as fits and centred (``keep_shape``), or stretched over the whole input.

    Of a square input it is where :func:`~sonokit.clips.letterbox.letterbox` puts it.

    Raises:
        SonokitError: A size is not positive.
    """
    if min(*original, *outer) < 1:
        raise SonokitError(f"sizes must be at least 1 × 1, got an image of {original} for an input of {outer}")
    if not keep_shape:
        return Placement(original, outer, (0, 0), outer)
    scale = min(outer[0] / original[0], outer[1] / original[1])
    width, height = (min(max(1, round(side * scale)), room) for side, room in zip(original, outer, strict=True))
    return Placement(original, (width, height), ((outer[0] - width) // 2, (outer[1] - height) // 2), outer)


def place_image(image: np.ndarray, placement: Placement) -> np.ndarray:
    """A grey image, uint8 [H, W], in its place: uint8 [outer height, outer width], black around it.

    Raises:
        SonokitError: The image is of another size than the placement's.
    """
    if image.shape != placement.original[::-1]:
        raise SonokitError(f"the image is {image.shape[1]} × {image.shape[0]}, its place is for {placement.original}")
    left, top = placement.offset
    width, height = placement.inner
    placed = np.zeros(placement.outer[::-1], dtype=np.uint8)
    resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)  # averages when it gets smaller
    placed[top : top + height, left : left + width] = np.asarray(resized)
    return placed
