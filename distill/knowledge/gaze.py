"""Where somebody looked in a clip or a still, as it was recorded; what is wrong with it; and mending that is asked for.

A point (x, y) is in pixels of the image, with (0, 0) the centre of the pixel at the upper left, so that the frame reaches from
-0.5 to width - 0.5. Nothing here changes a sample unless :func:`mend` is told to.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ...errors import SonokitError
from ..faults import Faults
from ..placement import Placement

Outside = Literal["keep", "drop", "clip"]

KINDS = {
    "missing_sample": "x, y or the time is not there (a blink, a lost eye)",
    "outside_frame": "the point lies beyond the edges of the frame",
    "negative_time": "looked at before the clip begins: the clocks differ",
    "beyond_end": "looked at after the clip has ended: the clocks differ",
    "backward_time": "the time is earlier than that of the sample before",
    "repeated_time": "the time is that of the sample before",
    "no_duration": "a fixation of no, negative or unknown duration",
    "unknown_clip": "the clip is not among those asked for",
    "clip_without_gaze": "not one sample is of this clip",
    "frame_without_gaze": "nobody looked while this frame was shown: its map is zero",
}
"""What each fault of gaze means."""


@dataclass(frozen=True, eq=False)
class Gaze:
    """What one person looked at in one clip, as fixations or as raw samples.

    Attributes:
        times: Seconds since the clip's first frame, float64 [M]; of a fixation: its beginning.
        points: (x, y) in pixels of the clip, float64 [M, 2]; nan where the sample is missing.
        durations: Seconds that each fixation lasts, float64 [M]; None for raw samples.
        size: (width, height) of the clip in pixels.
    """

    times: np.ndarray
    points: np.ndarray
    durations: np.ndarray | None
    size: tuple[int, int]

    def __post_init__(self) -> None:
        lengths = {len(self.times), len(self.points)} | ({len(self.durations)} if self.durations is not None else set())
        if len(lengths) != 1 or self.points.shape != (len(self.times), 2):
            raise ValueError(f"times, points and durations must belong together, got {self.times.shape}, {self.points.shape}")

    def __len__(self) -> int:
        return len(self.times)

    @property
    def valid(self) -> np.ndarray:
        """Which samples have a time and a point, bool [M]."""
        return np.isfinite(self.times) & np.isfinite(self.points).all(axis=1)

    @property
    def inside(self) -> np.ndarray:
        """Which points lie in the frame, bool [M]; a missing one does not."""
        width, height = self.size
        x, y = self.points[:, 0], self.points[:, 1]
        return (x >= -0.5) & (x <= width - 0.5) & (y >= -0.5) & (y <= height - 0.5)

    def select(self, keep: np.ndarray) -> "Gaze":
        """Some of the samples; ``keep`` is a mask [M] or sample numbers."""
        durations = None if self.durations is None else self.durations[keep]
        return replace(self, times=self.times[keep], points=self.points[keep], durations=durations)


def gaze_faults(gaze: Gaze, length_s: float | None = None, name: str = "") -> Faults:
    """Count what is wrong with one recording.

    Args:
        gaze: As recorded.
        length_s: How long the clip lasts; None or nan where that is not known or it is a still: then no time is too late.
        name: Of the clip, for the examples.
    """
    found = Faults(name, len(gaze))
    limit = math.inf if length_s is None or math.isnan(length_s) else length_s
    wrong = {
        "missing_sample": ~gaze.valid,
        "outside_frame": gaze.valid & ~gaze.inside,
        "negative_time": gaze.times < 0,
        "beyond_end": gaze.times > limit,
    }
    known = np.flatnonzero(np.isfinite(gaze.times))
    steps = np.diff(gaze.times[known])
    for kind, met in (("backward_time", steps < 0), ("repeated_time", steps == 0)):
        wrong[kind] = np.isin(np.arange(len(gaze)), known[1:][met])
    if gaze.durations is not None:
        wrong["no_duration"] = ~(gaze.durations > 0)
    for kind, met in wrong.items():
        places = [f"{name + ' ' if name else ''}sample {k}" for k in np.flatnonzero(met)[:3]]
        found.add(kind, int(met.sum()), places)
    return found


def mend(
    gaze: Gaze,
    *,
    clock_offset_s: float = 0.0,
    missing: Literal["keep", "drop"] = "keep",
    outside: Outside = "keep",
    order: Literal["keep", "sort"] = "keep",
) -> Gaze:
    """A changed copy; each change is one that the caller names.

    Args:
        gaze: As recorded.
        clock_offset_s: Added to every time: how much the tracker's clock is behind the clip's.
        missing: "drop" leaves out missing samples.
        outside: "drop" leaves out points beyond the frame, "clip" moves them onto its edge.
        order: "sort" puts the samples into the order of their times (equal times stay as they are).

    Raises:
        SonokitError: An option is none of those.
    """
    for option, value, allowed in (
        ("missing", missing, ("keep", "drop")),
        ("outside", outside, ("keep", "drop", "clip")),
        ("order", order, ("keep", "sort")),
    ):
        if value not in allowed:
            raise SonokitError(f"{option} must be one of {', '.join(allowed)}, it is {value!r}")
    gaze = replace(gaze, times=gaze.times + clock_offset_s)
    if missing == "drop":
        gaze = gaze.select(gaze.valid)
    if outside == "drop":
        gaze = gaze.select(gaze.inside | ~gaze.valid)
    elif outside == "clip":
        edges = np.array(gaze.size) - 0.5
        gaze = replace(gaze, points=np.clip(gaze.points, -0.5, edges))  # nan stays nan
    return gaze.select(np.argsort(gaze.times, kind="stable")) if order == "sort" else gaze


def placed(gaze: Gaze, placement: Placement) -> Gaze:
    """The same gaze in the pixels of a network's input, or in the cells of its map.

    A Gaussian's sigma goes along as ``sigma * placement.scale``.

    Raises:
        SonokitError: The placement is for images of another size.
    """
    if tuple(placement.original) != tuple(gaze.size):
        raise SonokitError(f"the gaze is on {gaze.size} pixels, the placement is for {placement.original}")
    return replace(gaze, points=placement.to_input(gaze.points), size=placement.cells)
