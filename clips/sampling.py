"""Which frames of a clip are looked at: so many, evenly spaced, or so many a second."""

import math
from dataclasses import dataclass

import numpy as np

from ..errors import SonokitError


@dataclass(frozen=True)
class Sampling:
    """A rule that chooses frames; exactly one of the two is set.

    Attributes:
        frames: this many frames, evenly spaced over the clip (all of a shorter clip).
        rate_hz: this many frames a second (all frames of a clip that is not faster than that).

    To sample by rate give ``frames=None``, because ``frames`` has a default.

    Raises:
        SonokitError: both or neither are set, or the value is not positive.
    """

    frames: int | None = 16
    rate_hz: float | None = None

    def __post_init__(self) -> None:
        if (self.frames is None) == (self.rate_hz is None):
            raise SonokitError(
                f"give either frames or rate_hz, not both or none; got frames={self.frames}, rate_hz={self.rate_hz}"
            )
        if self.frames is not None and self.frames < 1:
            raise SonokitError(f"frames must be 1 or more, got {self.frames}")
        if self.rate_hz is not None and not (math.isfinite(self.rate_hz) and self.rate_hz > 0):
            raise SonokitError(f"rate_hz must be a positive number, got {self.rate_hz}")

    def choose(self, frame_count: int, frame_rate: float) -> np.ndarray:
        """Frame numbers, int64 ``[T]``, strictly increasing, T between 1 and ``frame_count``.

        ``frame_rate`` is in Hz, nan where the clip does not tell it.
        """
        if self.frames is not None:
            return evenly_spaced(frame_count, self.frames)
        assert self.rate_hz is not None  # __post_init__ saw to it
        return at_rate(frame_count, frame_rate, self.rate_hz)


def evenly_spaced(frame_count: int, count: int) -> np.ndarray:
    """The centres of ``count`` equal intervals of the clip, int64 ``[min(count, frame_count)]``, distinct and increasing."""
    if frame_count <= count:
        return np.arange(frame_count, dtype=np.int64)
    # floor((i + 1/2) n / count) in integers: no rounding can make two of them meet
    return (2 * np.arange(count, dtype=np.int64) + 1) * frame_count // (2 * count)


def at_rate(frame_count: int, frame_rate: float, rate_hz: float) -> np.ndarray:
    """The frames nearest to the times 0, 1/``rate_hz``, 2/``rate_hz``, …, int64 ``[T]``, distinct, at least one.

    Every frame where the clip is not faster than ``rate_hz``, or where its rate is unknown (nan or not positive).
    """
    if not frame_rate > rate_hz or not math.isfinite(frame_rate):
        return np.arange(frame_count, dtype=np.int64)
    step = frame_rate / rate_hz  # frames between two samples, above 1: the rounded positions cannot meet
    positions = np.floor(np.arange(math.ceil(frame_count / step) + 1) * step + 0.5).astype(np.int64)
    return positions[positions < frame_count]
