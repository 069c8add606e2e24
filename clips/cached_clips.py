"""Clips whose frames are in the cache: a table, and the frames of each row as a view of a memory map."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ..errors import SonokitError
from .manifest import Manifest
from .sampling import Sampling
from .shards import StoredClips


@dataclass(frozen=True)
class CacheSettings:
    """Which frames of a clip, and how large: letterboxed grey squares.

    Attributes:
        size: Side in pixels.
        sampling: Which frames.
    """

    size: int = 224
    sampling: Sampling = field(default_factory=lambda: Sampling(frames=16))

    def __post_init__(self) -> None:
        if self.size < 1:
            raise SonokitError(f"The side of the cached frames (size) must be at least 1 pixel, not {self.size}.")

    @property
    def key(self) -> str:
        """The name of these settings' folder: ``grey-224-16frames`` or ``grey-224-3hz``."""
        sampling = self.sampling
        frames = f"{sampling.frames}frames" if sampling.frames is not None else f"{sampling.rate_hz:.15g}hz"
        return f"grey-{self.size}-{frames}"


@dataclass(frozen=True)
class CachedClip:
    """One clip.

    Attributes:
        clip_id: Its name.
        content_hash: SHA-256 of its file.
        frames: uint8 [T, S, S], a read-only view of the memory map.
        times_s: Seconds from the clip's first frame, float32 [T]; NaN beyond that frame where the frame rate is unknown.
        frame_rate: Hz, NaN for a still.
        container: The kind of file.
        frame_count: Frames that decode.
        declared_count: Frames that the file announces, None where it says nothing.
    """

    clip_id: str
    content_hash: str
    frames: np.ndarray
    times_s: np.ndarray
    frame_rate: float
    container: str
    frame_count: int
    declared_count: int | None


class CachedClips:
    """The clips of a manifest that decoded, in its order. Can be sent to other processes: each opens the maps for itself.

    Attributes:
        table: The manifest's columns, content_hash, container, frame_rate, frame_count, declared_count.
        manifest: The same rows.
        rejected: clip_id, path, reason of the others.
        settings: What the frames were made with.
    """

    def __init__(self, manifest: Manifest, rejected: pd.DataFrame, settings: CacheSettings, stored: StoredClips) -> None:
        self.manifest, self.rejected, self.settings = manifest, rejected, settings
        self.table = pd.concat([manifest.table, stored.table], axis=1)
        self._stored = stored

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, i: int) -> CachedClip:
        if not 0 <= i < len(self):
            raise IndexError(f"clip {i} of {len(self)}")
        rate = float(self._about("frame_rate", i))
        numbers = self._stored.frame_numbers(i)  # [T]
        declared = self._about("declared_count", i)
        return CachedClip(
            clip_id=str(self._about("clip_id", i)),
            content_hash=str(self._about("content_hash", i)),
            frames=self._stored.frames(i),
            times_s=np.where(numbers == 0, 0.0, numbers / rate).astype(np.float32),
            frame_rate=rate,
            container=str(self._about("container", i)),
            frame_count=int(self._about("frame_count", i)),
            declared_count=None if pd.isna(declared) else int(declared),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return CachedClips, (self.manifest, self.rejected, self.settings, self._stored)  # the table is made anew

    def select(self, keep: np.ndarray) -> "CachedClips":
        """The rows where the boolean mask ``keep`` [len(self)] is true."""
        keep = np.asarray(keep, dtype=bool)
        return CachedClips(self.manifest.select(keep), self.rejected, self.settings, self._stored.take(np.flatnonzero(keep)))

    def _about(self, column: str, i: int) -> Any:
        return self.table[column].iat[i]  # a whole row at once would take ten times as long
