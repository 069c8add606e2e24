"""Where the beams of a probe lie in the picture: beam space (depth x beam) and scan conversion to pixels.

A convex array sends its beams from an arc: the picture is a fan, lines of equal depth are arcs. A linear array sends parallel
beams: the picture is a rectangle. Scan conversion is bilinear interpolation in beam space, black outside.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from scipy import sparse


@dataclass(frozen=True)
class Probe:
    """A probe and the depth it is set to. ``radius_mm`` and ``angle_deg`` are a convex one's, ``width_mm`` a linear one's."""

    kind: Literal["convex", "linear"]
    depth_mm: float
    radius_mm: float = 55.0
    angle_deg: float = 62.0
    width_mm: float = 40.0


@dataclass(frozen=True)
class BeamGrid:
    """The samples of beam space: ``rows`` depths along each of ``beams`` beams."""

    probe: Probe
    rows: int
    beams: int

    @cached_property
    def depth_mm(self) -> np.ndarray:
        """Depth of each row below the skin, float32 [Z], from 0."""
        return np.linspace(0, self.probe.depth_mm, self.rows, dtype=np.float32)

    @property
    def mm_per_row(self) -> float:
        """Distance of two rows."""
        return self.probe.depth_mm / (self.rows - 1)

    def lateral_mm(self, at_depth_mm: float) -> np.ndarray:
        """Place of each beam along the arc (or line) at one depth, float32 [X], 0 in the middle."""
        across = np.linspace(-0.5, 0.5, self.beams, dtype=np.float32)
        if self.probe.kind == "linear":
            return across * np.float32(self.probe.width_mm)
        return across * np.float32(np.deg2rad(self.probe.angle_deg) * (self.probe.radius_mm + at_depth_mm))


class ScanConverter:
    """Turns beam-space frames into pictures of ``height`` x ``width`` pixels.

    Args:
        grid: the beam space.
        height, width: of the picture, pixels.
        margin: pixels left black above and below.
        zoom: at least 1; above 1 the sides of the fan leave the picture, as in many published clips.

    Attributes:
        mask: bool [H, W], the pixels inside the fan or rectangle.
        mm_per_pixel: the same in both directions.
        skin_row: the row of pixels where the middle beam begins.
    """

    def __init__(self, grid: BeamGrid, height: int, width: int, margin: int = 4, zoom: float = 1.0):
        self.grid, self.height, self.width = grid, height, width
        top, wide = self._extent()
        usable = height - 2 * margin
        fit_height = (grid.probe.depth_mm - top) / usable
        self.mm_per_pixel = max(fit_height, wide / ((width - 2 * margin) * zoom))
        # What does not fill the height hangs from the top, as on a scanner.
        self.skin_row = margin - top / self.mm_per_pixel
        self.mask, self._matrix = self._interpolation()

    def __call__(self, beams: np.ndarray) -> np.ndarray:
        """Convert float [T, Z, X] to float32 [T, H, W]."""
        count = len(beams)
        flat = np.ascontiguousarray(beams, dtype=np.float32).reshape(count, -1)  # [T, Z*X]
        return np.ascontiguousarray((self._matrix @ flat.T).T).reshape(count, self.height, self.width)

    def _extent(self) -> tuple[float, float]:
        """Height of the highest point above the middle of the skin line (negative, mm) and the full width (mm)."""
        probe = self.grid.probe
        if probe.kind == "linear":
            return 0.0, probe.width_mm
        half = np.deg2rad(probe.angle_deg) / 2
        return probe.radius_mm * (np.cos(half) - 1), 2 * (probe.radius_mm + probe.depth_mm) * np.sin(half)

    def _interpolation(self) -> tuple[np.ndarray, sparse.csr_matrix]:
        row, beam = self._beam_coordinates()
        inside = (row >= 0) & (row <= self.grid.rows - 1) & (beam >= 0) & (beam <= self.grid.beams - 1)
        pixel = np.flatnonzero(inside)
        row, beam = row.ravel()[pixel], beam.ravel()[pixel]
        above = np.minimum(row.astype(int), self.grid.rows - 2)
        left = np.minimum(beam.astype(int), self.grid.beams - 2)
        down, right = row - above, beam - left
        corners = [
            (0, 0, (1 - down) * (1 - right)),
            (0, 1, (1 - down) * right),
            (1, 0, down * (1 - right)),
            (1, 1, down * right),
        ]
        columns = np.concatenate([(above + i) * self.grid.beams + left + j for i, j, _ in corners])
        weights = np.concatenate([w for _, _, w in corners]).astype(np.float32)
        shape = (self.height * self.width, self.grid.rows * self.grid.beams)
        return inside, sparse.csr_matrix((weights, (np.tile(pixel, 4), columns)), shape=shape)

    def _beam_coordinates(self) -> tuple[np.ndarray, np.ndarray]:
        """Fractional row and beam of each pixel, both [H, W]."""
        probe = self.grid.probe
        y = (np.arange(self.height)[:, None] - self.skin_row) * self.mm_per_pixel
        x = (np.arange(self.width)[None, :] - (self.width - 1) / 2) * self.mm_per_pixel
        if probe.kind == "linear":
            depth, across = np.broadcast_arrays(y, x / probe.width_mm)
        else:
            depth = np.hypot(x, y + probe.radius_mm) - probe.radius_mm
            across = np.arctan2(x, y + probe.radius_mm) / np.deg2rad(probe.angle_deg)
        return depth / self.grid.mm_per_row, (across + 0.5) * (self.grid.beams - 1)
