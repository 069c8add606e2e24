"""From scatterers to grey: point-spread function, envelope detection, log compression.

Fully developed speckle is the envelope of many unresolved echoes: circular complex Gaussian scatterers seen through the
imaging system's point-spread function have a Rayleigh envelope, mean / standard deviation = 1.91 (Wagner et al., "Statistics
of speckle in ultrasound B-scans", IEEE Trans. Sonics and Ultrasonics, 1983). Everything here works on base-band data in beam
space, so the carrier frequency does not appear.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class PointSpread:
    """Gaussian standard deviations: ``axial`` in depth samples, ``focus`` and ``far`` in beams, the focus at ``focal_row``."""

    axial: float
    focus: float
    far: float
    focal_row: float

    @property
    def coherent_gain(self) -> float:
        """How much `blur` raises an even reflector against scatterers of the same amplitude, at the focus."""
        return float(2 * np.sqrt(np.pi) * np.sqrt(self.axial * self.focus))


def scatterers(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Draw circular complex Gaussian scatterers, complex64, mean power 1."""
    parts = rng.standard_normal((*shape, 2), dtype=np.float32) * np.float32(np.sqrt(0.5))
    return parts.view(np.complex64)[..., 0]


class MovingScatterers:
    """Scatterers of a moving, slowly changing tissue.

    They live on a grid wider than the picture by ``margin`` beams each side; each frame looks at it from another place and
    renews the part ``1 - memory**2`` of their power (an AR(1) process), which is what decorrelates speckle over time.
    """

    def __init__(self, depths: int, beams: int, margin: int, memory: float, rng: np.random.Generator):
        self.margin, self.beams, self.memory, self.rng = margin, beams, memory, rng
        self.field = scatterers((depths, beams + 2 * margin + 1), rng)

    def take(self, shifts: np.ndarray) -> np.ndarray:
        """Return [T, Z, X] complex64 for the next ``len(shifts)`` frames; ``shifts`` in beams, to the right, float [T]."""
        frames = []
        for shift in shifts:
            start = float(np.clip(self.margin - shift, 0, 2 * self.margin))
            whole, part = int(start), np.float32(start - int(start))
            left, right = self.field[:, whole : whole + self.beams], self.field[:, whole + 1 : whole + 1 + self.beams]
            # Linear interpolation of white noise loses power between the samples: put it back.
            power = np.sqrt((1 - part) ** 2 + part**2)
            frames.append(((1 - part) * left + part * right) / power)
            renewed = np.float32(np.sqrt(1 - self.memory**2))
            self.field = np.float32(self.memory) * self.field + renewed * scatterers(self.field.shape, self.rng)
        return np.stack(frames)


def blur(field: np.ndarray, spread: PointSpread) -> np.ndarray:
    """Convolve complex64 [..., Z, X] with the point-spread function; white scatterers keep their mean power."""
    parts = np.ascontiguousarray(field, dtype=np.complex64).view(np.float32).reshape(*field.shape, 2)  # [..., Z, X, 2]
    parts = _unit_power_gaussian(parts, spread.axial, axis=-3)
    near = _unit_power_gaussian(parts, spread.focus, axis=-2)
    far = _unit_power_gaussian(parts, spread.far, axis=-2)
    rows = np.arange(field.shape[-2], dtype=np.float32)
    weight = np.clip(np.abs(rows - spread.focal_row) / (0.8 * len(rows)), 0, 1)[:, None, None]  # [Z, 1, 1]
    # The two are correlated but not equal, so the mix of amplitudes is rescaled to keep the power.
    overlap = 2 * spread.focus * spread.far / (spread.focus**2 + spread.far**2)
    power = (1 - weight) ** 2 + weight**2 + 2 * weight * (1 - weight) * np.sqrt(overlap)
    mixed = ((1 - weight) * near + weight * far) / np.sqrt(power)
    return np.ascontiguousarray(mixed, dtype=np.float32).view(np.complex64)[..., 0]


def envelope(field: np.ndarray) -> np.ndarray:
    """Detect the envelope: float32 magnitude of the complex echo field, same shape."""
    return np.abs(field).astype(np.float32, copy=False)


def log_compress(amplitude: np.ndarray, gain_db: np.ndarray | float, dynamic_range_db: float) -> np.ndarray:
    """Map echo amplitude to float32 grey in [0, 1]: 0 dB is white, ``-dynamic_range_db`` is black.

    Args:
        amplitude: envelope, any shape.
        gain_db: added before the cut, broadcast against ``amplitude`` (a column [Z, 1] is a time-gain compensation).
        dynamic_range_db: what is shown, in dB.
    """
    decibels = 20 * np.log10(np.maximum(amplitude, np.float32(1e-6))) + np.asarray(gain_db, dtype=np.float32)
    return np.clip(1 + decibels / np.float32(dynamic_range_db), 0, 1)


def _unit_power_gaussian(parts: np.ndarray, sigma: float, axis: int) -> np.ndarray:
    """Gaussian filter scaled so that white noise keeps its power (a kernel of unit sum would quench it)."""
    blurred = ndimage.gaussian_filter1d(parts, sigma, axis=axis, mode="reflect", truncate=3.0)
    radius = int(3.0 * sigma + 0.5)
    kernel = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    blurred *= np.float32(1 / np.sqrt((kernel**2).sum()))
    return blurred
