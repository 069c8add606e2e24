"""Real scanpaths and their statistics, from which a simulated sonographer's gaze is drawn.

The scanpaths are those of GazeSearch (Pham et al., WACV 2025): radiologists who look for a finding in a chest radiograph.
"""

import gzip
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import SonokitError
from ..faults import Faults
from .gaze import Gaze, gaze_faults

GAZESEARCH_SIZE = (224, 224)
"""The frame in which GazeSearch gives its points: (width, height)."""


@dataclass(frozen=True, eq=False)
class Scanpath:
    """One look at one image.

    Attributes:
        image: Its name.
        task: What was looked for.
        split: "train", "valid" or "test".
        gaze: Fixations; the times are the sums of the durations before, because those of the saccades are not published.
    """

    image: str
    task: str
    split: str
    gaze: Gaze


def read_scanpaths(source: Path, size: tuple[int, int] = GAZESEARCH_SIZE) -> tuple[list[Scanpath], Faults]:
    """Read the JSON of GazeSearch, plain or gzipped: a list of objects with name, task, X, Y, T (seconds), length, split.

    Args:
        source: The file.
        size: (width, height) of the frame that X and Y are in.

    Returns:
        The scanpaths; what is wrong with their fixations (``no_duration``, ``outside_frame``).

    Raises:
        SonokitError: No such file, or it is of another form.
    """
    source = Path(source)
    if not source.is_file():
        raise SonokitError(f"There is no file of scanpaths {source}.")
    data = source.read_bytes()
    try:
        entries = json.loads(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)
    except (ValueError, OSError, EOFError) as error:
        raise SonokitError(f"{source} is not readable as JSON ({error}). Get it anew.") from None
    if not isinstance(entries, list):
        raise SonokitError(f"{source}: a list of scanpaths is needed, this is {type(entries).__name__}.")
    found = Faults(str(source))
    paths = [_scanpath(entry, f"{source}, scanpath {number}", size) for number, entry in enumerate(entries)]
    for path in paths:
        met = gaze_faults(path.gaze, name=path.image)
        met.counts.pop("repeated_time", None)  # of our own making: the times are sums of durations
        found.merge(met)
    return paths, found


@dataclass(frozen=True)
class ScanpathStatistics:
    """How people look, as tables to draw from.

    Attributes:
        counts: How many scanpaths have 1, 2, 3 … fixations.
        durations: Quantiles of a fixation's seconds at 0, 5, 10 … 100 %.
        steps: Quantiles of the distance between two fixations in a row, in widths of the frame, at 0, 5, 10 … 100 %.
    """

    counts: tuple[int, ...]
    durations: tuple[float, ...]
    steps: tuple[float, ...]

    def draw_counts(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Numbers of fixations of ``n`` scanpaths, int64 [n]."""
        chances = np.array(self.counts, dtype=np.float64)
        return rng.choice(len(chances), size=n, p=chances / chances.sum()) + 1

    def draw_durations(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Seconds of ``n`` fixations, float64 [n]: straight lines between the quantiles."""
        return _between(self.durations, rng.random(n))

    def draw_steps(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Lengths of ``n`` saccades in widths of the frame, float64 [n]."""
        return _between(self.steps, rng.random(n))


RADIOLOGISTS = ScanpathStatistics(
    counts=(1, 2, 10, 22, 45, 4795),
    durations=(
        *(0.0146, 0.125, 0.157, 0.178, 0.195, 0.2104, 0.226, 0.24, 0.254, 0.267, 0.283),
        *(0.299, 0.317, 0.337, 0.357, 0.3848, 0.417, 0.457, 0.517, 0.6308, 2.841),
    ),
    steps=(
        *(0.0045, 0.0456, 0.0607, 0.0736, 0.0853, 0.0979, 0.1103, 0.1226, 0.1378, 0.1528, 0.1711),
        *(0.192, 0.216, 0.2442, 0.2768, 0.3119, 0.3547, 0.4107, 0.4767, 0.5632, 0.9535),
    ),
)
"""Measured on the 4 875 scanpaths of GazeSearch, 29 116 fixations, so that gaze can be simulated without them.

Its authors cut every scanpath after six fixations: the counts tell where people stopped earlier, not how long they go on.
"""


def scanpath_statistics(paths: list[Scanpath]) -> ScanpathStatistics:
    """The tables of these scanpaths. Fixations of no duration are left out.

    Raises:
        SonokitError: There is nothing to measure.
    """
    gaze = [path.gaze for path in paths if len(path.gaze)]
    lasting = np.concatenate([_durations(part) for part in gaze]) if gaze else np.zeros(0)
    steps = [np.hypot(*np.diff(part.points, axis=0).T) / part.size[0] for part in gaze if len(part) > 1]
    if not (lasting > 0).any() or not steps:
        raise SonokitError("there is no scanpath of two fixations that last: nothing can be drawn from these")
    at = np.linspace(0, 1, 21)
    counts = np.bincount([len(part) for part in gaze])[1:]
    return ScanpathStatistics(
        tuple(counts.tolist()),
        tuple(np.quantile(lasting[lasting > 0], at).round(4).tolist()),
        tuple(np.quantile(np.concatenate(steps), at).round(4).tolist()),
    )


def _scanpath(entry: Any, place: str, size: tuple[int, int]) -> Scanpath:
    try:
        points = np.stack([np.asarray(entry[axis], dtype=np.float64) for axis in ("X", "Y")], axis=1)
        lasting = np.asarray(entry["T"], dtype=np.float64)
        path = Scanpath(str(entry["name"]), str(entry["task"]), str(entry["split"]), _in_a_row(points, lasting, size))
    except (KeyError, TypeError, ValueError) as error:
        raise SonokitError(f"{place}: name, task, split and X, Y, T of one length are needed ({error!r}).") from None
    if int(entry.get("length", len(lasting))) != len(lasting):
        raise SonokitError(f"{place}: length says {entry['length']}, {len(lasting)} fixations are there.")
    return path


def _in_a_row(points: np.ndarray, lasting: np.ndarray, size: tuple[int, int]) -> Gaze:
    ended = np.cumsum(np.nan_to_num(np.clip(lasting, 0, None)))
    return Gaze(np.concatenate([[0.0], ended])[: len(lasting)], points, lasting, size)


def _durations(gaze: Gaze) -> np.ndarray:
    assert gaze.durations is not None  # a scanpath is made of fixations
    return gaze.durations


def _between(quantiles: tuple[float, ...], at: np.ndarray) -> np.ndarray:
    return np.interp(at, np.linspace(0, 1, len(quantiles)), quantiles)
