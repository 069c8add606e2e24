"""Heat maps of gaze: Gaussians of a visual angle at the points, weighted by how long each was looked at, summing to 1.

The eye's sharp field is about one degree wide to each side, hence the usual standard deviation of one degree of visual angle
(Le Meur and Baccino, Behavior Research Methods 2013). What a degree is in pixels follows from how the clip was shown.
"""

import math
from dataclasses import dataclass

import numpy as np

from ...errors import SonokitError
from ..faults import Faults
from .gaze import Gaze


def pixels_per_degree(
    distance_mm: float, screen_mm: tuple[float, float], screen_pixels: tuple[int, int], magnification: float = 1.0
) -> tuple[float, float]:
    """Pixels of the clip (along x, along y) that one degree in the middle of the view spans.

    One degree, seen straight on from distance d, spans 2 d tan(½°).

    Args:
        distance_mm: From the eye to the screen.
        screen_mm: Width and height of the screen's picture.
        screen_pixels: Its resolution, width and height.
        magnification: Screen pixels that one pixel of the clip took.

    Raises:
        SonokitError: A value is not positive.
    """
    values = (distance_mm, *screen_mm, *screen_pixels, magnification)
    if not all(math.isfinite(value) and value > 0 for value in values):
        raise SonokitError(f"viewing distance, screen, resolution and magnification must be positive, they are {values}")
    degree_mm = 2 * distance_mm * math.tan(math.radians(0.5))
    across, down = (degree_mm * pixels / (mm * magnification) for mm, pixels in zip(screen_mm, screen_pixels, strict=True))
    return across, down


def sigma_pixels(degrees: float, per_degree: float | tuple[float, float]) -> tuple[float, float]:
    """The Gaussian's standard deviation (along x, along y) in pixels, from one in degrees of visual angle.

    Raises:
        SonokitError: It is not positive.
    """
    across, down = per_degree if isinstance(per_degree, tuple) else (per_degree, per_degree)
    if not all(math.isfinite(value) and value > 0 for value in (degrees, across, down)):
        raise SonokitError(f"sigma needs positive degrees and pixels per degree, got {degrees} and {per_degree}")
    return degrees * across, degrees * down


def heat_map(points: np.ndarray, weights: np.ndarray, size: tuple[int, int], sigma: float | tuple[float, float]) -> np.ndarray:
    """One map, float64 [H, W], not negative, summing to 1; all zero where no point with a weight is there.

    Args:
        points: (x, y) in pixels, float [M, 2]; nan counts as absent. Points beyond the frame bring what of their Gaussian
            reaches into it.
        weights: Of each point, float [M], not negative.
        size: (width, height) of the map.
        sigma: Standard deviation in pixels, of both axes or of each.
    """
    width, height = size
    sigma_x, sigma_y = sigma if isinstance(sigma, tuple) else (sigma, sigma)
    known = np.isfinite(points).all(axis=1) & (weights > 0)
    x, y, amount = points[known, 0], points[known, 1], weights[known]
    across = np.exp(-0.5 * ((np.arange(width) - x[:, None]) / sigma_x) ** 2)  # [M, W]: a Gaussian is a product of two
    down = np.exp(-0.5 * ((np.arange(height) - y[:, None]) / sigma_y) ** 2)  # [M, H]
    summed = (down * amount[:, None]).T @ across  # [H, W]
    total = summed.sum()
    return summed / total if total > 0 else summed


@dataclass(frozen=True, eq=False)
class GazeMaps:
    """Maps of the frames of one clip.

    Attributes:
        maps: float32 [T, H, W]; each sums to 1, or is all zero where nobody looked.
        seconds: How long each frame was looked at (samples: how many), float64 [T].
        faults: ``frame_without_gaze``, of T frames checked.
    """

    maps: np.ndarray
    seconds: np.ndarray
    faults: Faults


def still_map(gaze: Gaze, sigma: float | tuple[float, float]) -> np.ndarray:
    """The map of everything that was looked at, float32 [H, W]: for a still, or a clip as a whole."""
    weights = _weights(gaze, np.array([-np.inf]), np.array([np.inf]))[0]
    return heat_map(gaze.points, weights, gaze.size, sigma).astype(np.float32)


def frame_maps(
    gaze: Gaze, frame_times: np.ndarray, frame_s: float, sigma: float | tuple[float, float], *, window_s: float = 0.0
) -> GazeMaps:
    """Maps of the frames of a clip: what was looked at while each was on the screen.

    A fixation counts in a frame by the seconds for which they overlap, a raw sample by being there at all.

    Args:
        gaze: On the clip's clock.
        frame_times: When each wanted frame appears, seconds, float [T]; any frames, in any order.
        frame_s: How long a frame stays, 1 / frame rate.
        sigma: Standard deviation in pixels; see :func:`sigma_pixels`.
        window_s: Looks also so many seconds before and after the frame.

    Raises:
        SonokitError: A frame lasts no time.
    """
    if not (frame_s > 0 and window_s >= 0):
        raise SonokitError(f"a frame must last more than 0 s and the window 0 s or more, got {frame_s} and {window_s}")
    times = np.asarray(frame_times, dtype=np.float64)
    weights = _weights(gaze, times - window_s, times + frame_s + window_s)  # [T, M]
    width, height = gaze.size
    maps = np.zeros((len(times), height, width), dtype=np.float32)
    for number, amount in enumerate(weights):
        maps[number] = heat_map(gaze.points, amount, gaze.size, sigma)
    seconds = weights.sum(axis=1)
    empty = np.flatnonzero(maps.reshape(len(times), -1).max(axis=1, initial=0) == 0)
    faults = Faults(checked=len(times))
    faults.add("frame_without_gaze", len(empty), [f"frame at {times[k]:.3f} s" for k in empty[:3]])
    return GazeMaps(maps, seconds, faults)


def _weights(gaze: Gaze, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """How much each sample counts from a start up to an end, float64 [T, M]; missing samples and durations count nothing."""
    begin = gaze.times[None, :]
    if gaze.durations is None:
        return ((begin >= starts[:, None]) & (begin < ends[:, None]) & gaze.valid).astype(np.float64)
    lasting = np.where(gaze.valid & (gaze.durations > 0), gaze.durations, 0.0)
    overlap = np.minimum(begin + lasting, ends[:, None]) - np.maximum(begin, starts[:, None])
    return np.nan_to_num(np.clip(overlap, 0, None), nan=0.0, posinf=0.0)
