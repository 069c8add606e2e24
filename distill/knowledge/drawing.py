"""Polygons and boxes as masks. A pixel belongs to a shape if its centre does.

Coordinates are those of COCO and CVAT: (0, 0) is the corner of the image at the upper left and (width, height) the one at the
lower right, so that the centre of the first pixel is at (0.5, 0.5). A centre on a left or upper edge is in, on a right or lower
one out: shapes that share an edge share no pixel.
"""

import math

import numpy as np

Size = tuple[int, int]
"""(width, height)."""


_FAR = 1e9  # pixels: beyond it, corners are damage, and their products overflow


def drawable(corners: np.ndarray) -> bool:
    """Whether all corners, float [K, 2], are numbers, and near enough to be an image's."""
    return bool((np.abs(corners) < _FAR).all())


def polygon_mask(corners: np.ndarray, size: Size) -> np.ndarray:
    """What a polygon encloses by the even-odd rule, bool [H, W]; parts beyond the frame are cut off.

    Args:
        corners: (x, y) of each, float [K, 2], K ≥ 3; the last is joined to the first.
        size: (width, height) of the image.
    """
    width, height = size
    start, end = corners, np.roll(corners, -1, axis=0)
    centres = np.arange(height) + 0.5
    crossed = (start[None, :, 1] <= centres[:, None]) != (end[None, :, 1] <= centres[:, None])  # [H, K]
    rows, edges = np.nonzero(crossed)
    (x0, y0), (x1, y1) = start[edges].T, end[edges].T
    crossings = x0 + (centres[rows] - y0) / (y1 - y0) * (x1 - x0)
    # the first pixel whose centre is not left of the crossing turns; beyond the frame it turns the pad or all of the row
    first = np.clip(np.ceil(crossings - 0.5), 0, width).astype(np.int64)
    turns = np.zeros((height, width + 1), dtype=np.int64)
    np.add.at(turns, (rows, first), 1)
    return turns.cumsum(axis=1)[:, :width] % 2 == 1


def box_corners(x0: float, y0: float, x1: float, y1: float, degrees: float = 0.0) -> np.ndarray:
    """Corners of a box, float64 [4, 2], turned clockwise about its centre, as CVAT turns."""
    corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], dtype=np.float64)
    if degrees == 0:
        return corners
    centre = corners.mean(axis=0)
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    # y points down, so that this matrix turns clockwise for whoever looks at the image
    return (corners - centre) @ np.array([[cosine, sine], [-sine, cosine]]) + centre


def beyond(corners: np.ndarray, size: Size, tolerance: float = 0.5) -> bool:
    """Whether a corner lies more than ``tolerance`` pixels out of the frame (drawing tools round at its edge)."""
    return bool((corners < -tolerance).any() or (corners > np.array(size) + tolerance).any())
