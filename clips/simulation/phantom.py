"""One simulated scan: chest wall and lung of a patient, imaged frame after frame in beam space.

The echo field is scatterers times what they reflect, blurred by the point-spread function; the wall's speckle is nearly still,
the lung's moves with its sliding and renews itself. Attenuation, an imperfect time-gain compensation and electronic noise
follow before detection and log compression.
"""

from collections.abc import Iterator

import numpy as np
from scipy import ndimage

from . import speckle
from .chest_wall import draw_chest_wall, smooth_noise
from .lung import Lung, breathe, decibels
from .patients import Patient, Site, View, probe_of
from .scan_geometry import BeamGrid, ScanConverter
from .signs import Signs

_CHUNK = 24  # frames at a time: bounds memory, whatever the clip's length
_LUNG_MEMORY = 0.75  # share of the lung's scatterers' amplitude that one frame hands to the next, at 25 Hz


class Scan:
    """A patient under a site's probe for one clip.

    Args:
        patient, site, signs, view: what is drawn.
        frames: their number.
        size: nominal picture height in pixels; the beam grid scales with it.
        seed: of the lung's texture in this clip.
    """

    def __init__(self, patient: Patient, site: Site, signs: Signs, view: View, *, frames: int, size: int, seed: int):
        self.patient, self.site, self.signs, self.view, self.frames = patient, site, signs, view, frames
        self.seed = seed
        self.grid = BeamGrid(probe_of(patient, site), rows=round(1.6 * size), beams=round(0.9 * size))
        self.wall = draw_chest_wall(patient, view, self.grid)
        self.motion = breathe(patient, view, frames, site.frame_rate)
        self.lung = Lung(patient, signs, view, self.wall, self.grid, self.motion, seed)
        rows_per_mm = 1 / self.grid.mm_per_row
        pulse_mm = 0.16 if patient.probe == "linear" else 0.36
        self.spread = speckle.PointSpread(
            axial=max(0.9, pulse_mm * rows_per_mm), focus=1.7, far=3.0, focal_row=1.3 * patient.pleural_depth * rows_per_mm
        )

    def envelopes(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Yield the detected echo amplitude before compression, float32 [t, Z, X], a chunk of frames at a time."""
        rows, beams = self.grid.rows, self.grid.beams
        wall_field = speckle.scatterers((rows, beams), np.random.default_rng([self.patient.texture_seed, 9]))
        smooth = np.float32(1 / self.spread.coherent_gain)  # so that levels in dB mean the same for both kinds of echo
        wall = speckle.blur(wall_field * self.wall.diffuse + smooth * self.wall.specular, self.spread)  # [Z, X]
        mm_per_beam = float(np.ptp(self.lung.lateral)) / (beams - 1)
        margin = int(np.ceil(np.abs(self.motion.slide_mm).max() / mm_per_beam)) + 1
        memory = _LUNG_MEMORY ** (25 / self.site.frame_rate)
        moving = speckle.MovingScatterers(rows, beams, margin, memory, rng)
        loss = self._attenuation()
        for start in range(0, self.frames, _CHUNK):
            frames = slice(start, min(start + _CHUNK, self.frames))
            diffuse, specular = self.lung.echoes(frames)  # [t, Z, X]
            field = moving.take(self.motion.slide_mm[frames] / mm_per_beam) * diffuse + smooth * specular
            field = speckle.blur(field, self.spread) + self._breathing_wall(wall, frames)
            noise = self._noise(rng, len(field))
            yield speckle.envelope(field * loss + noise)

    def beam_frames(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Yield log-compressed, slightly smoothed grey in beam space, float32 [t, Z, X] in [0, 1]."""
        site, across = self.site, np.linspace(0, 1, self.grid.beams, dtype=np.float32)
        gain = site.gain_db + self.view.gain_db + self._tgc() + self._contact(across)
        for amplitude in self.envelopes(rng):
            grey = speckle.log_compress(amplitude, gain, site.dynamic_range_db) ** np.float32(site.gamma)
            yield ndimage.gaussian_filter(grey, (0, site.smoothing, site.smoothing), truncate=2.5)

    def frames_uint8(self, convert: ScanConverter, rng: np.random.Generator) -> np.ndarray:
        """Image the whole clip, uint8 [T, H, W], without overlay."""
        pictures = [np.rint(255 * convert(beams)).astype(np.uint8) for beams in self.beam_frames(rng)]
        return np.concatenate(pictures)

    def _breathing_wall(self, wall: np.ndarray, frames: slice) -> np.ndarray:
        """Stretch the still wall with breathing and end it at the pleura, complex64 [t, Z, X]."""
        pleura = self.lung.surface[frames] - self.lung.fluid[frames]  # [t, X]
        stretch = self.lung.pleura[frames, :1] / self.lung.pleura[:, :1].mean()  # [t, 1]
        depth = self.grid.depth_mm
        place = np.minimum(np.arange(self.grid.rows, dtype=np.float32)[None, :] / stretch, self.grid.rows - 1.001)  # [t, Z]
        above = place.astype(int)
        part = (place - above)[:, :, None].astype(np.float32)
        moved = wall[above] * (1 - part) + wall[above + 1] * part  # [t, Z, X]
        return moved * np.clip(0.5 - 0.5 * (depth[None, :, None] - pleura[:, None, :]) / 0.35, 0, 1)

    def _attenuation(self) -> np.ndarray:
        """What the time-gain compensation does not make up for, [Z, 1]."""
        return (10 ** (-self.patient.attenuation * self.grid.depth_mm / 20)).astype(np.float32)[:, None]

    def _tgc(self) -> np.ndarray:
        """The sliders' error over depth in dB, [Z, 1]."""
        depth = np.linspace(0, 1, self.grid.rows, dtype=np.float32)[:, None]
        low, middle, high = self.site.tgc_ripple_db
        return low * np.cos(np.pi * depth) + middle * np.cos(2 * np.pi * depth) + high * np.cos(4 * np.pi * depth)

    def _contact(self, across: np.ndarray) -> np.ndarray:
        """Loss in dB along the probe: weaker beams at the sides, uneven skin, places without contact, [1, X]."""
        uneven = smooth_noise(np.random.default_rng([self.seed, 10]), 512, 18)
        loss = -7 * np.abs(2 * across - 1) ** 4 + 1.8 * np.interp(across, np.linspace(0, 1, 512), uneven)
        for lost, side in ((self.view.lost_left, across), (self.view.lost_right, 1 - across)):
            if lost > 0:
                loss = loss - 40 / (1 + np.exp((side - lost) / 0.03))
        return loss[None, :]

    def _noise(self, rng: np.random.Generator, frames: int) -> np.ndarray:
        """Electronic noise, the louder the deeper because gain rises with depth, [t, Z, X]."""
        rise = np.linspace(0, 14, self.grid.rows, dtype=np.float32)[:, None]
        level = decibels(self.site.noise_db - 6) * 10 ** (rise / 20)
        return speckle.scatterers((frames, self.grid.rows, self.grid.beams), rng) * level
