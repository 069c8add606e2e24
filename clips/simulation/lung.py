"""The lung under the pleura, and its signs, as they move with breathing.

The signs are the artefacts and tissues of the consensus (Volpicelli et al., "International evidence-based recommendations for
point-of-care lung ultrasound", Intensive Care Medicine, 2012): the pleural line and its sliding, A-lines at multiples of its
depth, B-lines from it to the bottom of the picture, consolidation with a shredded deep border, effusion. Coordinates: depth
below the skin in mm and place along the pleura in mm; what belongs to the lung is a function of the place minus the slide.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from .chest_wall import ChestWall, pleural_depth_mm, smooth_noise
from .patients import Patient, View
from .scan_geometry import BeamGrid
from .signs import Consolidation, Signs

_LUNG_MM = np.linspace(-130, 130, 2081, dtype=np.float32)  # the lung's own lateral axis, 0.125 mm
_AXIAL_MOVE = 0.02  # share of depth by which breathing stretches the chest wall
_FLUID = 10 ** (-64 / 20)


def decibels(level: float) -> np.float32:
    """Amplitude of a level in dB."""
    return np.float32(10 ** (level / 20))


@dataclass(frozen=True)
class Motion:
    """Breathing: ``phase`` float32 [T] from -1 (out) to 1 (in), ``slide_mm`` float32 [T] along the pleura."""

    phase: np.ndarray
    slide_mm: np.ndarray


def breathe(patient: Patient, view: View, frames: int, frame_rate: float) -> Motion:
    """Breathe in faster than out, with the heart's small pulse on top."""
    seconds = np.arange(frames) / frame_rate
    angle = 2 * np.pi * patient.breaths_per_minute / 60 * seconds + view.breath_phase
    phase = np.sin(angle + 0.35 * np.sin(angle))
    pulse = 0.3 * np.sin(2 * np.pi * 1.25 * seconds + view.heart_phase)
    return Motion(phase.astype(np.float32), (patient.sliding * phase + pulse).astype(np.float32))


class Lung:
    """The moving lung of one clip, as profiles along the pleura ([T, X]) and as echo amplitudes ([T, Z, X]).

    Args:
        seed: of this clip's lung texture.
    """

    def __init__(self, patient: Patient, signs: Signs, view: View, wall: ChestWall, grid: BeamGrid, motion: Motion, seed: int):
        self.patient, self.signs, self.view, self.wall, self.grid, self.motion, self.seed = (
            patient, signs, view, wall, grid, motion, seed,
        )  # fmt: skip
        self.lateral = grid.lateral_mm(patient.pleural_depth)  # [X]
        self.lung_place = self.lateral[None, :] - motion.slide_mm[:, None]  # [T, X]
        rest = pleural_depth_mm(patient, self.lateral)
        self.pleura = rest[None, :] * (1 + _AXIAL_MOVE * motion.phase[:, None])  # [T, X] mm

    @cached_property
    def fluid(self) -> np.ndarray:
        """Thickness of the effusion in mm, float32 [T, X]; it breathes, thinner when the lung is filled (sinusoid sign)."""
        effusion = self.signs.effusion
        if effusion is None:
            return np.zeros_like(self.pleura)
        place = effusion.side * (self.lung_place + 0.5 * self.motion.slide_mm[:, None])
        rng = np.random.default_rng([self.seed, 4])
        uneven = 1 + 0.12 * np.interp(self.lung_place, _LUNG_MM, smooth_noise(rng, len(_LUNG_MM), 90))
        grows = 1 / (1 + np.exp(-(place + effusion.edge) / (0.22 * effusion.thickness + 2)))
        swing = 1 - 0.22 * self.motion.phase[:, None]
        return (effusion.thickness * grows * swing * uneven).astype(np.float32)

    @cached_property
    def surface(self) -> np.ndarray:
        """Depth of the lung's own surface (visceral pleura) in mm, float32 [T, X]: smooth, or dented where irregular."""
        dents = np.interp(self.lung_place, _LUNG_MM, _dents(self.signs.irregularity, self.seed))
        scale = 0.6 if self.grid.probe.kind == "linear" else 1.0
        return (self.pleura + self.fluid + scale * dents).astype(np.float32)

    @cached_property
    def b_profile(self) -> np.ndarray:
        """How much of each beam is B-line, float32 [T, X], about 0 to 1; each line waxes and wanes with breathing."""
        profile = np.zeros_like(self.pleura)
        for number, line in enumerate(self.signs.b_lines):
            flicker = 1 + 0.2 * np.sin(2.1 * number + 2.5 * self.motion.phase)[:, None]
            shape = np.exp(-0.5 * ((self.lung_place - line.position) / line.width) ** 2)
            profile = np.maximum(profile, line.strength * flicker * shape)
        return np.clip(profile, 0, 1.1).astype(np.float32)

    @cached_property
    def consolidated_mm(self) -> np.ndarray:
        """Thickness of airless lung below its surface in mm, float32 [T, X]."""
        total = sum((_shred_border(c, self.seed, k) for k, c in enumerate(self.signs.consolidations)), np.zeros_like(_LUNG_MM))
        return np.interp(self.lung_place, _LUNG_MM, total).astype(np.float32)

    @cached_property
    def diaphragm(self) -> np.ndarray | None:
        """Depth of the diaphragm's dome in mm, float32 [T, X]; below it lies liver or spleen. None where not in view."""
        effusion = self.signs.effusion
        if effusion is None or not effusion.diaphragm:
            return None
        radius = 46.0
        centre = effusion.side * 0.58 * float(np.ptp(self.lateral)) + 0.7 * self.motion.slide_mm[:, None]  # [T, 1]
        from_centre = np.clip(np.abs(self.lateral[None, :] - centre) / radius, 0, 1)
        dome = radius * (1 - np.sqrt(1 - from_centre**2)) + np.where(from_centre < 1, 0, 1e3)  # out of the picture beyond it
        return (self.pleura + 3.0 + 0.5 * effusion.thickness + dome).astype(np.float32)

    @cached_property
    def aerated(self) -> np.ndarray:
        """Where air under a smooth pleura leaves room for A-lines, float32 [T, X], 0 to 1."""
        clear = np.clip(1 - 1.15 * self.b_profile, 0, 1) * np.exp(-((self.consolidated_mm / 1.5) ** 2))
        return (clear * np.exp(-((self.fluid / 1.5) ** 2))).astype(np.float32)

    @cached_property
    def facing(self) -> np.ndarray:
        """How squarely beams meet the pleura, float32 [X]: a mirror is brightest there and lost at the sides."""
        rng = np.random.default_rng([self.patient.texture_seed, 7])
        middle = rng.uniform(-0.15, 0.15) * float(np.ptp(self.lateral))
        return np.exp(-0.5 * ((self.lateral - middle) / (0.27 * np.ptp(self.lateral))) ** 2).astype(np.float32)

    def haze_db(self, below: np.ndarray) -> np.ndarray:
        """Level of the haze in dB at some depths below the lung's surface (mm), before attenuation."""
        per_mm = 0.48 if self.grid.probe.kind == "linear" else 0.24
        return self.patient.haze_db - per_mm * np.maximum(below, 0)

    def a_line_db(self, multiple: int) -> float:
        """Level of the A-line at ``multiple`` (2, 3 ...) times the pleura's depth in dB, before attenuation."""
        return self.patient.a_line_db - 9.0 * (1 - self.signs.a_lines) - 4.5 * (multiple - 2)

    def echoes(self, frames: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return diffuse and specular amplitudes, float32 [t, Z, X] each, of some frames."""
        depth = self.grid.depth_mm[None, :, None]  # [1, Z, 1]
        surface, pleura = self.surface[frames, None, :], self.pleura[frames, None, :]  # [t, 1, X]
        below = depth - surface  # [t, Z, X]
        inside = _step(below / 0.35)
        diffuse = self._air(frames, below) * inside
        specular = self._a_lines(frames, depth) * inside
        if self.signs.consolidations:
            diffuse, specular = self._with_consolidation(frames, below, diffuse, specular)
        if self.signs.effusion is not None:
            diffuse += _FLUID * _step((depth - pleura) / 0.35) * (1 - inside)
        specular += self._pleural_line(frames, depth)
        if self.diaphragm is not None:
            diffuse, specular = self._with_diaphragm(frames, depth, diffuse, specular)
        shadow = self.wall.transmission[None]  # [1, Z, X]
        return diffuse * shadow, specular * shadow

    def _air(self, frames: slice, below: np.ndarray) -> np.ndarray:
        """Reverberation haze that fades with depth, and B-lines that do not, [t, Z, X]."""
        patient = self.patient
        haze = 10 ** (self.haze_db(below) / 20)
        rng = np.random.default_rng([self.seed, 5])
        streaks = 1 + 0.25 * np.interp(self.lung_place[frames], _LUNG_MM, smooth_noise(rng, len(_LUNG_MM), 14))[:, None, :]
        b = self.b_profile[frames, None, :]
        # The beam's attenuation is applied to everything later; a B-line rings on and makes up for it.
        ring = 10 ** ((-19.0 + (patient.attenuation + 0.02) * np.maximum(below, 0)) / 20)
        covered = np.exp(-((self.consolidated_mm[frames, None, :] / 2.5) ** 2))
        return haze * streaks * (1 - 0.5 * np.clip(b, 0, 1)) + b**1.3 * ring * covered * np.clip(below / 1.5, 0, 1)

    def _a_lines(self, frames: slice, depth: np.ndarray) -> np.ndarray:
        """Repeat the pleura at 2, 3, 4 ... times its depth, each fainter and a little broader, [t, Z, X]."""
        pleura = self.pleura[frames, None, :]
        lines = np.zeros((pleura.shape[0], depth.shape[1], pleura.shape[2]), dtype=np.float32)
        if self.signs.a_lines <= 0:
            return lines
        facing = self.facing[None, None, :]
        bright = self.aerated[frames, None, :] * self._pleural_brightness(frames)[:, None, :]
        deepest = int(self.grid.probe.depth_mm / self.patient.pleural_depth) + 1
        for multiple in range(2, min(deepest, 6) + 1):
            width = self.patient.pleural_thickness * (0.8 + 0.15 * multiple)
            level = decibels(self.a_line_db(multiple))
            lines += level * facing * bright * np.exp(-0.5 * ((depth - multiple * pleura) / width) ** 2)
        return lines

    def _pleural_line(self, frames: slice, depth: np.ndarray) -> np.ndarray:
        """The bright line: one where the leaves touch, two around fluid, [t, Z, X]."""
        patient, irregularity = self.patient, self.signs.irregularity
        thickness = patient.pleural_thickness * (1 + 0.55 * irregularity)
        bright = self._pleural_brightness(frames) * (0.55 + 0.45 * self.facing)[None]
        bright = bright * (1 - 0.6 * np.clip(self.consolidated_mm[frames] / 5, 0, 1))
        line = bright[:, None, :] * np.exp(-0.5 * ((depth - self.surface[frames, None, :]) / thickness) ** 2)
        apart = (self.fluid / (self.fluid + 1.0))[frames, None, :]
        if self.signs.effusion is None:
            return line
        outer = decibels(-9) * apart * np.exp(-0.5 * ((depth - self.pleura[frames, None, :]) / patient.pleural_thickness) ** 2)
        return line * (1 - 0.3 * apart) + outer

    def _pleural_brightness(self, frames: slice) -> np.ndarray:
        """Echo of the pleura along itself, [t, X]: it varies and, where irregular, breaks."""
        rng = np.random.default_rng([self.seed, 6])
        irregularity = self.signs.irregularity
        ripple = smooth_noise(rng, len(_LUNG_MM), 10)
        breaks = smooth_noise(rng, len(_LUNG_MM), 10)
        level = (1 + (0.25 + 0.1 * irregularity) * ripple) * 1.1
        gaps = 1 - min(1.0, 1.3 * irregularity) / (1 + np.exp((breaks + 1.15 - 0.35 * irregularity) / 0.12))
        return np.interp(self.lung_place[frames], _LUNG_MM, np.clip(level * gaps, 0.03, None)).astype(np.float32)

    def _with_consolidation(
        self, frames: slice, below: np.ndarray, diffuse: np.ndarray, specular: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Replace air by tissue down to the shredded border, with air bronchograms in it and rays below it."""
        border = self.consolidated_mm[frames, None, :]  # [t, 1, X]
        tissue = _step((border - below) / 0.5) * _step(below / 0.35) * np.clip(border / 1.5, 0, 1)
        level = decibels(float(np.mean([c.level_db for c in self.signs.consolidations])))
        maps = _tissue_maps(self.signs.consolidations, self.seed, self.grid)
        rows = np.clip(below / self.grid.mm_per_row, 0, self.grid.rows - 1)
        columns = (self.lung_place[frames, None, :] - _LUNG_MM[0]) / (_LUNG_MM[4] - _LUNG_MM[0])
        where = np.stack(np.broadcast_arrays(rows, columns))
        clouds, air = (ndimage.map_coordinates(m, where, order=1, mode="nearest") for m in maps)
        deep = np.clip(border / 2, 0, 1)
        edge = deep * np.exp(-0.5 * ((below - border) / 0.7) ** 2)
        rng = np.random.default_rng([self.seed, 8])
        torn = np.clip(0.6 + 0.6 * np.interp(self.lung_place[frames], _LUNG_MM, smooth_noise(rng, len(_LUNG_MM), 7)), 0, 1.6)
        rays = (
            deep * torn[:, None, :] * 10 ** ((-17 - 0.12 * np.maximum(below - border, 0)) / 20) * _step((below - border) / 0.6)
        )
        diffuse = diffuse * (1 - tissue) + tissue * level * clouds + rays * 0.8 + 0.25 * edge * torn[:, None, :]
        specular = specular * (1 - tissue) * (1 - deep) + tissue * air + 0.22 * edge * torn[:, None, :]
        return diffuse.astype(np.float32), specular.astype(np.float32)

    def _with_diaphragm(
        self, frames: slice, depth: np.ndarray, diffuse: np.ndarray, specular: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cover what lies below the diaphragm with the even texture of liver or spleen."""
        assert self.diaphragm is not None
        below = depth - self.diaphragm[frames, None, :]
        organ = _step(below / 0.5)
        line = decibels(-5) * np.exp(-0.5 * (below / 0.9) ** 2)
        return diffuse * (1 - organ) + decibels(-25) * organ, specular * (1 - organ) + line


def _step(x: np.ndarray) -> np.ndarray:
    """Soft step from 0 to 1, cheaper than a logistic."""
    return np.clip(0.5 + 0.5 * x, 0, 1)


def _dents(irregularity: float, seed: int) -> np.ndarray:
    """Unevenness of the visceral pleura in mm on the lung's axis: small subpleural notches."""
    if irregularity <= 0:
        return np.zeros_like(_LUNG_MM)
    rng = np.random.default_rng([seed, 1])
    rough = 0.9 * smooth_noise(rng, len(_LUNG_MM), 12) + 0.5 * smooth_noise(rng, len(_LUNG_MM), 5)
    return 1.1 * irregularity * np.maximum(rough, -0.3)


def _shred_border(consolidation: Consolidation, seed: int, number: int) -> np.ndarray:
    """Thickness of one consolidation along the lung's axis in mm: a bowl with a torn edge."""
    rng = np.random.default_rng([seed, 2, number])
    across = (_LUNG_MM - consolidation.centre) / consolidation.half_width
    bowl = np.sqrt(np.clip(1 - across**2, 0, None))
    torn = 0.16 * smooth_noise(rng, len(_LUNG_MM), 34) + 0.12 * smooth_noise(rng, len(_LUNG_MM), 12)
    torn += 0.07 * smooth_noise(rng, len(_LUNG_MM), 5)
    return (consolidation.depth * bowl * np.clip(1 + torn, 0.2, 1.6)).astype(np.float32)


def _tissue_maps(consolidations: tuple[Consolidation, ...], seed: int, grid: BeamGrid) -> tuple[np.ndarray, np.ndarray]:
    """Relative echo of airless lung and amplitude of air in its bronchi, [rows below the surface, lung axis / 4]."""
    rng = np.random.default_rng([seed, 3])
    axis = _LUNG_MM[::4]
    shape = (grid.rows, len(axis))
    rows_per_mm = 1 / grid.mm_per_row
    clouds = ndimage.gaussian_filter(rng.standard_normal(shape, dtype=np.float32), (2.2 * rows_per_mm, 6), mode="wrap")
    air = np.zeros(shape, dtype=np.float32)
    for c in consolidations:
        for _ in range(c.bronchograms):
            _draw_bronchus(air, axis, rows_per_mm, c, rng)
    air = ndimage.gaussian_filter(air, (0.35 * rows_per_mm, 0.9))
    return np.exp(0.35 * clouds / clouds.std()), air


def _draw_bronchus(air: np.ndarray, axis: np.ndarray, rows_per_mm: float, c: Consolidation, rng: np.random.Generator) -> None:
    """Mark a short oblique streak of air, more often deep than shallow."""
    place = c.centre + rng.uniform(-0.7, 0.7) * c.half_width
    deep = c.depth * rng.uniform(0.15, 1.0) ** 0.7
    length, slope = min(6.0, 0.2 * c.depth) * rng.random() ** 2, rng.normal(0, 0.7)
    bright = rng.uniform(2, 9)
    steps = np.linspace(-0.5, 0.5, max(2, int(length * 4))) * length
    columns = np.searchsorted(axis, place + steps)
    rows = ((deep + slope * steps) * rows_per_mm).astype(int)
    keep = (rows >= 0) & (rows < air.shape[0]) & (columns >= 0) & (columns < air.shape[1])
    air[rows[keep], columns[keep]] = bright
