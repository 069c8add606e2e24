"""A section through tissue, painted in beam space and imaged: the ground on which all simulated pictures here are drawn.

What is painted are echo levels in dB (0 dB is as bright as the picture gets), even reflectors that shine where the beam meets
them squarely, and the loss on the way through. Imaging then is physics in small: scatterers seen through the point-spread
function, the loss summed up along each beam (which makes the shadows), noise, detection, log compression, scan conversion.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from ...clips.simulation import speckle
from ...clips.simulation.scan_geometry import BeamGrid, Probe, ScanConverter
from ..placement import Placement, fitted, place_image

NOTHING_DB = -70.0
"""Level of fluid: it echoes nothing."""


@dataclass(frozen=True)
class Ellipse:
    """An ellipse in mm: ``centre`` (x, y), ``radii`` along its own axes, ``turn`` of these in radians."""

    centre: tuple[float, float]
    radii: tuple[float, float]
    turn: float = 0.0

    def own(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Points along the ellipse's own axes, from its centre, mm."""
        across, down = x - self.centre[0], y - self.centre[1]
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        return across * cos + down * sin, down * cos - across * sin

    def at(self, u: float, v: float) -> np.ndarray:
        """The point (x, y) at (u, v) in units of the radii, float64 [2]."""
        along, beside = u * self.radii[0], v * self.radii[1]
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        return np.array([self.centre[0] + along * cos - beside * sin, self.centre[1] + along * sin + beside * cos])

    def distance(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Distance to the outline in mm, negative inside; to the first order, which is exact on the outline itself."""
        u, v = self.own(x, y)
        a, b = self.radii
        level = np.hypot(u / a, v / b)
        slope = np.hypot(u / a**2, v / b**2) / np.maximum(level, 1e-6)
        return (level - 1) / np.maximum(slope, 1e-6)

    def angle(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Where around the ellipse points lie, radians from its first axis."""
        u, v = self.own(x, y)
        return np.arctan2(v / self.radii[1], u / self.radii[0])


@dataclass(frozen=True)
class Machine:
    """Settings of the scanner, in dB; ``attenuation``, which the depth gain does not make up for, in dB a mm.

    ``looks`` is the number of directions whose pictures are averaged (spatial compounding), which smooths the speckle.
    """

    gain_db: float = 0.0
    dynamic_range_db: float = 56.0
    noise_db: float = -56.0
    depth_gain_db: float = 0.0
    attenuation: float = 0.03
    looks: int = 1

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> "Machine":
        """Another one for each examination."""
        return cls(
            gain_db=rng.uniform(-5, 5),
            dynamic_range_db=rng.uniform(48, 62),
            noise_db=rng.uniform(-62, -46),
            depth_gain_db=rng.uniform(-4, 4),
            attenuation=rng.uniform(0.0, 0.06),
        )


class Canvas:
    """What lies under the probe: paint on it, then :meth:`image` it.

    Args:
        probe: The probe and the depth that it is set to.
        size: (width, height) of the picture in pixels.
        stretch: Millimetres a pixel along x over those along y; other than 1 where pixels are not square.

    Attributes:
        x, y: Where the samples of beam space are, mm: from the middle of the probe to the right, from the skin down; [Z, X].
        spacing: Millimetres a pixel of the picture (along x, along y), float64 [2].
        level: Echo level, dB, [Z, X].
        mirror: Amplitude of even reflectors, [Z, X].
        loss: On the way there and back, dB a mm, [Z, X].
    """

    def __init__(self, probe: Probe, size: tuple[int, int], stretch: float = 1.0) -> None:
        width, height = size
        square = max(2, round(width * stretch))  # the picture with square pixels, before it is resized along x
        self.grid = BeamGrid(probe, rows=round(1.6 * height), beams=round(0.9 * height))
        self.converter = ScanConverter(self.grid, height, square, margin=1, zoom=2.5)
        self.placement: Placement = fitted((square, height), size, keep_shape=False)
        self.spacing = self.converter.mm_per_pixel / self.placement.scale
        depth = self.grid.depth_mm[:, None].astype(np.float64)
        angle = np.deg2rad(probe.angle_deg) * np.linspace(-0.5, 0.5, self.grid.beams)[None, :]
        self.x = (probe.radius_mm + depth) * np.sin(angle)
        self.y = (probe.radius_mm + depth) * np.cos(angle) - probe.radius_mm
        self.level = np.full(self.x.shape, NOTHING_DB)
        self.mirror = np.zeros(self.x.shape)
        self.loss = np.zeros(self.x.shape)

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Where points (x, y) in mm, float [..., 2], lie in the picture, pixels."""
        scale = self.converter.mm_per_pixel
        middle = np.array([(self.converter.mask.shape[1] - 1) / 2, self.converter.skin_row])
        return self.placement.to_input(np.asarray(points, dtype=np.float64) / scale + middle)

    def places(self, pixels: np.ndarray) -> np.ndarray:
        """Where positions in the picture, float [..., 2] in pixels, lie in mm: the inverse of :meth:`pixels`."""
        middle = np.array([(self.converter.mask.shape[1] - 1) / 2, self.converter.skin_row])
        return (self.placement.to_original(pixels) - middle) * self.converter.mm_per_pixel

    def millimetres(self) -> tuple[np.ndarray, np.ndarray]:
        """Where the pixels of the picture lie: x and y in mm, float64 [H, W] each."""
        width, height = self.placement.outer
        x, y = np.moveaxis(self.places(np.stack(np.meshgrid(np.arange(width), np.arange(height)), axis=-1)), -1, 0)
        return x, y

    def fill(self, distance: np.ndarray, level_db: float, *, edge: float = 0.6, loss: float = 0.0) -> None:
        """Fill where a distance (mm) is negative; ``edge`` is how softly, mm."""
        inside = _inside(distance, edge)
        self.level += inside * (level_db - self.level)
        self.loss += inside * (loss - self.loss)

    def outline(
        self, distance: np.ndarray, level_db: float, thickness: float, *, seen: np.ndarray | float = 1.0, loss: float = 0.0
    ) -> None:
        """Draw where a distance is about 0: a wall of ``thickness`` mm, brightest where the beam meets it squarely.

        Args:
            distance: To the line, mm, [Z, X].
            level_db: Where it is met squarely.
            thickness: In mm.
            seen: Factor on its brightness, for parts that are missing.
            loss: In the wall, dB a mm.
        """
        wall = np.exp(-0.5 * (distance / (0.5 * thickness)) ** 2)
        squarely = np.abs(self._facing(distance))
        amplitude = 10 ** (level_db / 20) * wall * seen
        self.mirror = np.maximum(self.mirror, amplitude * (0.08 + 0.92 * squarely**2))
        self.level = np.maximum(self.level, level_db - 14 + 20 * np.log10(np.maximum(wall * seen, 1e-3)))
        self.loss = np.maximum(self.loss, loss * wall)

    def mottle(self, rng: np.random.Generator, strength_db: float, grain_mm: float) -> None:
        """Make all tissue uneven, in grains of so many mm."""
        grain = grain_mm / self.grid.mm_per_row
        noise = ndimage.gaussian_filter(rng.standard_normal(self.level.shape), (grain, grain * 0.6))
        self.level += strength_db * noise / max(noise.std(), 1e-9)

    def image(self, rng: np.random.Generator, machine: Machine) -> np.ndarray:
        """The picture, uint8 [height, width]."""
        rows, beams = self.level.shape
        spread = speckle.PointSpread(axial=1.1, focus=0.9, far=1.5, focal_row=0.5 * rows)
        even = self.mirror / spread.coherent_gain  # so that levels in dB mean the same for both kinds of echo
        shape = (machine.looks, rows, beams)
        along = np.cumsum(self.loss + machine.attenuation, axis=0) * self.grid.mm_per_row
        field = speckle.blur(speckle.scatterers(shape, rng) * 10 ** (self.level / 20) + even, spread)
        rise = np.linspace(0, 10, rows)[:, None]
        field = field * 10 ** (-(along - along[:1]) / 20)
        field = field + speckle.scatterers(shape, rng) * 10 ** ((machine.noise_db - 10 + rise) / 20)
        tgc = machine.depth_gain_db * np.cos(np.pi * np.linspace(0, 1, rows))[:, None]
        amplitude = speckle.envelope(field).mean(axis=0)  # [Z, X]
        grey = speckle.log_compress(amplitude, machine.gain_db + tgc, machine.dynamic_range_db)
        grey = ndimage.gaussian_filter(grey, 0.6, truncate=2.5)
        picture = np.rint(255 * self.converter(grey[None])[0]).clip(0, 255).astype(np.uint8)
        return _resized(picture, self.placement)

    def _facing(self, distance: np.ndarray) -> np.ndarray:
        """Cosine between the beam and the line's normal, [Z, X]; the normal is the gradient of the distance."""
        along_beam = np.gradient(distance, self.grid.mm_per_row, axis=0)
        across = np.hypot(np.gradient(self.x, axis=1), np.gradient(self.y, axis=1))
        along_arc = np.gradient(distance, axis=1) / across
        return along_beam / np.maximum(np.hypot(along_beam, along_arc), 1e-9)


def _inside(distance: np.ndarray, edge: float) -> np.ndarray:
    return 1 / (1 + np.exp(np.clip(4 * distance / edge, -40, 40)))


def _resized(picture: np.ndarray, placement: Placement) -> np.ndarray:
    return picture if placement.inner == placement.original else place_image(picture, placement)
