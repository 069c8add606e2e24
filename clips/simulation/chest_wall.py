"""What lies above the pleura: skin, fat with its septa, striated muscle, ribs with their shadow.

Drawn once per clip as echo amplitudes in beam space. The texture comes from the patient's own seed and the view only shifts
it, so clips of one patient show the same chest wall.
"""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .patients import Patient, View
from .scan_geometry import BeamGrid

_SHADOW = 10 ** (-44 / 20)  # what bone lets through, two ways
_TEXTURE_MM = (0.25, 0.5)  # raster of the patient's texture, depth and lateral
_TEXTURE_EXTENT_MM = (60.0, 260.0)


@dataclass(frozen=True)
class ChestWall:
    """Echo amplitudes relative to a strong pleura.

    Attributes:
        diffuse: float32 [Z, X], times scatterers.
        specular: float32 [Z, X], smooth reflectors.
        transmission: float32 [Z, X], 1 in the open, near 0 in the shadow of a rib.
        open_beams: float32 [X], the transmission at the pleura and below.
    """

    diffuse: np.ndarray
    specular: np.ndarray
    transmission: np.ndarray
    open_beams: np.ndarray


def draw_chest_wall(patient: Patient, view: View, grid: BeamGrid) -> ChestWall:
    """Draw the wall down to the pleura; below it the amplitudes are meant to be cut off by the lung."""
    beams = grid.lateral_mm(patient.pleural_depth)  # [X]
    # Depth in a straightened wall, [Z, X]: the layers bend as the pleura does.
    depth = grid.depth_mm[:, None] * (patient.pleural_depth / pleural_depth_mm(patient, beams))
    lateral = beams + np.float32(view.offset)
    level, fascia = _layers(patient, depth, lateral)
    ridges, clouds = _texture(patient, depth, lateral)
    diffuse = 10 ** ((level + patient.striation_db * (1.5 * ridges + 0.5 * clouds)) / 20)
    fibres = 10 ** ((level + 9.0) / 20) * np.clip(ridges, 0, None) * (depth > patient.skin)
    specular = fascia + fibres + _near_field(grid.depth_mm[:, None], patient)
    transmission, bone = _ribs(patient, depth, lateral)
    return ChestWall(
        diffuse=(diffuse * transmission).astype(np.float32),
        specular=(specular * transmission + bone).astype(np.float32),
        transmission=transmission.astype(np.float32),
        open_beams=transmission[-1].astype(np.float32),
    )


def pleural_depth_mm(patient: Patient, lateral: np.ndarray) -> np.ndarray:
    """Depth of the parietal pleura at rest along the probe, same shape as ``lateral`` (mm)."""
    bent = patient.pleural_depth + patient.pleural_tilt * lateral + patient.pleural_bend * lateral**2
    return np.clip(bent, 0.6 * patient.pleural_depth, 1.7 * patient.pleural_depth).astype(np.float32)


def smooth_noise(rng: np.random.Generator, count: int, scale: float) -> np.ndarray:
    """One-dimensional Gaussian noise of unit variance, correlated over ``scale`` samples, float32 [count]."""
    noise = ndimage.gaussian_filter1d(rng.standard_normal(count), scale, mode="wrap")
    return (noise / noise.std()).astype(np.float32)


def _layers(patient: Patient, depth: np.ndarray, lateral: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Echo level in dB, and the bright fascia between the layers, both [Z, X]."""
    rng = np.random.default_rng([patient.texture_seed, 1])
    fat_end = patient.skin + patient.fat_fraction * (patient.pleural_depth - patient.skin)
    inner = max(patient.pleural_depth - min(6.0, 0.28 * patient.pleural_depth), fat_end + 1.0)
    axis = np.linspace(-_TEXTURE_EXTENT_MM[1] / 2, _TEXTURE_EXTENT_MM[1] / 2, 512)
    borders = []
    for border, wave in ((patient.skin, 0.12), (fat_end, 0.7), (inner, 0.5)):
        borders.append(border + wave * np.interp(lateral, axis, smooth_noise(rng, 512, 22)))
    level = np.full((depth.shape[0], len(lateral)), patient.muscle_db - 4.0, dtype=np.float32)
    level[depth < borders[2]] = patient.muscle_db
    level[depth < borders[1]] = patient.fat_db
    level[depth < borders[0]] = -14.0
    fascia = np.zeros_like(level)
    for border, strength in zip(borders, (-8.0, -9.0, -13.0), strict=True):
        along = 10 ** ((strength + 3.5 * np.interp(lateral, axis, smooth_noise(rng, 512, 7))) / 20)
        fascia += along * np.exp(-0.5 * ((depth - border) / 0.3) ** 2)
    return level, fascia


def _texture(patient: Patient, depth: np.ndarray, lateral: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Fibres and septa (thin ridges, nearly horizontal, -0.3 to 0.7) and clouds (unit variance), both [Z, X]."""
    rng = np.random.default_rng([patient.texture_seed, 2])
    shape = tuple(int(e / r) for e, r in zip(_TEXTURE_EXTENT_MM, _TEXTURE_MM, strict=True))
    fibres = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), (3.2, 24), mode="wrap")
    clouds = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), (9, 14), mode="wrap")
    fibres /= fibres.std()
    clouds /= clouds.std()
    ridges = np.exp(-0.5 * (fibres / 0.28) ** 2) - 0.3  # where the noise crosses zero: long thin curves
    rows = depth / _TEXTURE_MM[0]
    columns = (lateral + _TEXTURE_EXTENT_MM[1] / 2) / _TEXTURE_MM[1]
    where = np.stack(np.broadcast_arrays(rows, columns))
    sampled = [ndimage.map_coordinates(m, where, order=1, mode="grid-wrap") for m in (ridges, clouds)]
    return sampled[0], sampled[1]


def _near_field(depth: np.ndarray, patient: Patient) -> np.ndarray:
    """Ringing under the lens: a few even bright bands that fade within the skin, [Z, 1]."""
    order = np.arange(4)  # [4]
    bands = np.exp(-0.5 * ((depth - 0.5 * patient.skin * order) / 0.22) ** 2)  # [Z, 4]
    return (bands * 10 ** (-(4 + 6 * order) / 20)).sum(axis=1, keepdims=True)


def _ribs(patient: Patient, depth: np.ndarray, lateral: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Transmission below the ribs and the echo of their surface, both [Z, X]."""
    ones = np.ones((depth.shape[0], len(lateral)), dtype=np.float32)
    if not patient.ribs:
        return ones, np.zeros_like(ones)
    rng = np.random.default_rng([patient.texture_seed, 3])
    phase = rng.uniform(0, patient.rib_spacing)
    number = np.floor((lateral - phase) / patient.rib_spacing + 0.5)
    from_centre = lateral - phase - number * patient.rib_spacing
    across = from_centre / patient.rib_half_width  # [X], -1 to 1 over a rib
    lift, lean = rng.normal(0, 0.7, 64)[number.astype(int) % 64], rng.normal(0, 0.8, 64)[number.astype(int) % 64]
    top = max(patient.pleural_depth - patient.rib_cover, 0.45 * patient.pleural_depth)
    surface = top + lift + lean * across + 2.4 * np.clip(np.abs(across), 0, 1.3) ** 2
    over = 1 / (1 + np.exp((np.abs(across) - 1) * patient.rib_half_width / 0.45))  # soft edge
    below = 1 / (1 + np.exp(-(depth - surface - 0.5) / 0.4))
    loss = 1 - (1 - _SHADOW) * over * below
    uneven = np.interp(lateral, np.linspace(-130, 130, 512), smooth_noise(rng, 512, 3))
    along = 10 ** ((-7 + 2.5 * uneven) / 20) * np.clip(1 - (1.15 * across) ** 2, 0, 1) ** 1.5
    return loss, along * np.exp(-0.5 * ((depth - surface) / 0.4) ** 2)
