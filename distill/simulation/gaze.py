"""A simulated sonographer's gaze on an image, with the counts, durations and steps of real scanpaths.

Most fixations lie on the deciding structure, the others anywhere; from one fixation to the next the eye jumps. The statistics
are those of radiologists (:data:`~sonokit.distill.knowledge.scanpaths.RADIOLOGISTS`): there is no public gaze of sonographers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..knowledge.gaze import Gaze
from ..knowledge.gaze_maps import still_map
from ..knowledge.scanpaths import RADIOLOGISTS, ScanpathStatistics


@dataclass(frozen=True)
class Looking:
    """How somebody looks and how well it is recorded.

    Attributes:
        on_target: Probability that a fixation is on a target, not elsewhere; half of it for the first fixation of all.
        first: Share of these fixations that the deciding structure gets, where there are several targets.
        spread: Standard deviation of fixations about what they are on, in widths of the image.
        noise: Standard deviation of the tracker's error, of each fixation and each sample, in widths of the image.
        offset: Standard deviation of an error that a whole recording has, in widths of the image.
        dropout: Probability that a fixation is lost, and that a raw sample is missing.
        statistics: What counts, durations and steps are drawn from.
        speed: Widths of the image that a saccade covers a second.
    """

    on_target: float = 0.75
    first: float = 0.8
    spread: float = 0.02
    noise: float = 0.01
    offset: float = 0.01
    dropout: float = 0.05
    statistics: ScanpathStatistics = RADIOLOGISTS
    speed: float = 12.0


def simulate_gaze(
    target_xy: np.ndarray,
    size: tuple[int, int],
    rng: np.random.Generator,
    *,
    looking: Looking | None = None,
    rate: float | None = None,
) -> Gaze:
    """One look at one image.

    Args:
        target_xy: The deciding structure (x, y) in pixels, float [2]; or several [K, 2], of which the first one gets most.
        size: (width, height) of the image in pixels.
        rng: Drawn from.
        looking: How; None: the defaults.
        rate: Hz of raw samples that are wanted, the saccades between among them; None gives fixations.

    Returns:
        Fixations; or raw samples, missing ones with nan. At least one fixation or sample has a point in the frame.
    """
    looking = looking or Looking()
    targets = np.atleast_2d(np.asarray(target_xy, dtype=np.float64))
    points, lasting = _scanpath(targets, size, rng, looking)
    width = size[0]
    times = _begins(points, lasting, looking.speed * width)
    points = points + rng.normal(0, looking.offset * width, 2)
    if rate is None:
        noisy = points + rng.normal(0, looking.noise * width, points.shape)
        kept = rng.random(len(points)) >= looking.dropout
        kept[0] |= not kept.any()
        return Gaze(times[kept], np.clip(noisy[kept], 0, np.array(size) - 1.0), lasting[kept], size)
    at = np.arange(0, times[-1] + lasting[-1], 1 / rate)
    samples = _between(at, times, lasting, points) + rng.normal(0, looking.noise * width, (len(at), 2))
    samples = np.clip(samples, 0, np.array(size) - 1.0)
    lost = rng.random(len(at)) < looking.dropout
    lost[0] &= not lost.all()
    samples[lost] = np.nan
    return Gaze(at, samples, None, size)


def gaze_maps(gaze: Sequence[Gaze], sigma: float | tuple[float, float], stride: int = 1) -> np.ndarray:
    """Maps of looks at images of one size, 255 at the peak of each, uint8 [N, h, w]: as views have them.

    Args:
        gaze: Of each image.
        sigma: Standard deviation in pixels of the image.
        stride: Pixels of the image a cell, each cell their mean.
    """
    maps = []
    for one in gaze:
        whole = still_map(one, sigma)  # [H, W]
        height, width = (side // stride for side in whole.shape)
        cells = whole[: height * stride, : width * stride].reshape(height, stride, width, stride).mean(axis=(1, 3))
        peak = cells.max()
        maps.append(np.rint(255 * cells / peak if peak > 0 else cells).astype(np.uint8))
    return np.stack(maps)


def _scanpath(
    targets: np.ndarray, size: tuple[int, int], rng: np.random.Generator, looking: Looking
) -> tuple[np.ndarray, np.ndarray]:
    """Points [M, 2] and durations [M]: onto a target, or a real step's length away from the point before."""
    count = int(looking.statistics.draw_counts(rng, 1)[0])
    lasting = looking.statistics.draw_durations(rng, count)
    steps = looking.statistics.draw_steps(rng, count) * size[0]
    weights = np.full(len(targets), (1 - looking.first) / max(len(targets) - 1, 1))
    weights[0] = 1.0 if len(targets) == 1 else looking.first
    point = np.array(size) * rng.normal(0.5, 0.12, 2)
    points = []
    for number in range(count):
        chance = looking.on_target * (0.5 if number == 0 and count > 1 else 1.0)
        if rng.random() < chance:
            point = targets[rng.choice(len(targets), p=weights)] + rng.normal(0, looking.spread * size[0], 2)
        elif number > 0:
            point = _stepped(point, steps[number], size, rng)
        points.append(point)
    return np.array(points), lasting


def _stepped(point: np.ndarray, step: float, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """A step away in a direction that stays in the frame, if any of some tried does."""
    for _ in range(16):
        angle = rng.uniform(0, 2 * np.pi)
        reached = point + step * np.array([np.cos(angle), np.sin(angle)])
        if ((reached >= 0) & (reached <= np.array(size) - 1)).all():
            return reached
    return np.array(size) * rng.uniform(0.1, 0.9, 2)


def _begins(points: np.ndarray, lasting: np.ndarray, speed: float) -> np.ndarray:
    """When each fixation begins, seconds: a saccade takes 20 ms and the way."""
    jumps = 0.02 + np.linalg.norm(np.diff(points, axis=0), axis=1) / speed
    return np.concatenate([[0.0], np.cumsum(lasting[:-1] + jumps)])


def _between(at: np.ndarray, times: np.ndarray, lasting: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Where the eye is at each time, [M, 2]: still in a fixation, straight on in a saccade."""
    knots = np.stack([times, times + lasting], axis=1).ravel()
    places = np.repeat(points, 2, axis=0)
    return np.stack([np.interp(at, knots, places[:, axis]) for axis in (0, 1)], axis=1)
