"""Clips that are decoded while they are worked on, and kept in the frame cache on the way.

``prepare`` decodes everything, then work begins. A stream hands each clip on as soon as its frames are there, and decodes none
that nobody asks for. What it leaves in the cache, and what it gives, is what ``prepare`` would have left and given.
"""

import os
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import SonokitError
from .cache import (
    as_completed,
    decode_frames,
    decoding_jobs,
    give_back_memory,
    list_rejected,
    locked,
    missing_sources,
    warn_of_short_clips,
)
from .cached_clips import CachedClip, CachedClips, CacheSettings
from .content_memo import identify
from .manifest import Manifest
from .shards import ShardWriter, StoredClips, StoredFrames, open_shards, remove_unfinished

_AHEAD = 16  # clips that may be decoded before they are asked for, beside two a thread


@dataclass(frozen=True)
class Share:
    """Some clips of a stream. Can be sent to another process, which decodes and stores what is not in the cache.

    Attributes:
        cached: Those whose frames are in the cache.
        cached_positions: Where these stand in the stream, int64 [len(cached)].
        jobs: Content, path and stamp of what is to be decoded.
        waiting: By content, the position and clip_id of every clip that waits for it.
        shards: The folder that gets the frames. Whoever calls :meth:`over` with jobs sees to it that its lock is held.
        settings: Which frames, how large.
        reasons: By content, why it could not be decoded; filled by :meth:`over`.
    """

    cached: CachedClips
    cached_positions: np.ndarray
    jobs: list[tuple[str, str, str]]
    waiting: dict[str, list[tuple[int, str]]]
    shards: Path
    settings: CacheSettings
    reasons: dict[str, str] = field(default_factory=dict)

    def over(self, workers: int = 1) -> Generator[tuple[int, CachedClip]]:
        """Positions and clips: those in the cache, then the others as ``workers`` threads finish them.

        Raises:
            SonokitError: The cache cannot be written.
        """
        for i, position in enumerate(self.cached_positions.tolist()):
            yield position, self.cached[i]
        if self.jobs:
            yield from self._decoded(workers)

    def _decoded(self, workers: int) -> Generator[tuple[int, CachedClip]]:
        pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
        writer = ShardWriter(self.shards)
        try:
            work = partial(decode_frames, settings=self.settings)
            for result in as_completed(pool, work, self.jobs, 2 * workers + _AHEAD):
                if not isinstance(result, StoredFrames):
                    self.reasons[result[0]] = result[1]
                    continue
                with _writing(self.shards):
                    writer.add(result)
                for position, clip_id in self.waiting[result.content_hash]:
                    yield position, _as_clip(clip_id, result)
        finally:  # Ctrl-C: what is finished is kept
            pool.shutdown(wait=True, cancel_futures=True)
            with _writing(self.shards):
                writer.flush()


class ClipStream:
    """The clips of a manifest, decoded when they are asked for.

    Attributes:
        manifest: The clips whose files can be read; a position counts these.
        table: The manifest's columns and content_hash.
        settings: Which frames, how large.
        shards: Where in the cache the frames are.
        workers: Threads that decode.
    """

    def __init__(self, manifest: Manifest, sources: pd.DataFrame, shards: Path, settings: CacheSettings, workers: int) -> None:
        readable = sources["content_hash"].notna().to_numpy()
        self.settings, self.shards, self.workers = settings, shards, workers
        self._all, self._all_sources = manifest, sources
        self.manifest = manifest.select(readable)
        self._sources = sources[readable].reset_index(drop=True)
        self.table = self.manifest.table.assign(content_hash=self._sources["content_hash"].to_numpy())
        self._reasons: dict[str, str] = {}
        self._short: list[tuple[str, int, int]] = []

    def __len__(self) -> int:
        return len(self.table)

    @property
    def rejected(self) -> pd.DataFrame:
        """clip_id, path, reason of what cannot be read, and of what could not be decoded so far."""
        reasons = self._all_sources["reason"].fillna(self._all_sources["content_hash"].map(self._reasons).astype("str"))
        bad = reasons.notna().to_numpy()
        return self._all.table.loc[bad, ["clip_id", "path"]].assign(reason=reasons[bad].to_numpy()).reset_index(drop=True)

    def over(self, positions: np.ndarray) -> Generator[tuple[int, CachedClip]]:
        """The clips at ``positions`` that decode, each with its position: those in the cache first, the others as they come.

        Close it, or go through to its end: until then other processes that want to decode into the cache wait.

        Raises:
            SonokitError: Something is missing in a cache that cannot be written.
        """
        ready = self.share(positions, open_shards(self.shards, self.settings.size))
        for position, clip in replace(ready, jobs=[]).over():
            self.note(clip)
            yield position, clip
        if not ready.jobs:
            return
        left = np.setdiff1d(positions, ready.cached_positions)
        with _writing(self.shards), locked(self.shards):
            remove_unfinished(self.shards)
            rest = self.share(left, open_shards(self.shards, self.settings.size))  # another process may have been at it
            try:
                for position, clip in rest.over(self.workers):
                    self.note(clip)
                    yield position, clip
            finally:
                self._reasons |= rest.reasons

    def share(self, positions: np.ndarray, stored: StoredClips) -> Share:
        """The clips at ``positions``, of which the cache holds ``stored``."""
        positions = np.asarray(positions, dtype=np.int64)
        found = stored.find(self._sources["content_hash"].iloc[positions])
        there = found >= 0
        none = self._all.table.iloc[:0]
        named = self._rows(positions[there])
        named = replace(named, table=named.table[["clip_id", "path"]])  # labels would only be heavy to send
        cached = CachedClips(named, none, self.settings, stored.take(found[there]))
        absent = positions[~there]
        sources = self._sources.iloc[absent].reset_index(drop=True)
        waiting: dict[str, list[tuple[int, str]]] = {}
        names = self.table["clip_id"].iloc[absent]
        for position, content, name in zip(absent.tolist(), sources["content_hash"], names, strict=True):
            waiting.setdefault(content, []).append((position, str(name)))
        jobs = list(decoding_jobs(missing_sources(self._rows(absent), sources, stored)))
        return Share(cached, positions[there], jobs, waiting, self.shards, self.settings)

    def note(self, clip: CachedClip) -> None:
        """Remember of a clip what :meth:`finish` tells."""
        if clip.declared_count is not None and clip.declared_count > clip.frame_count:
            self._short.append((clip.clip_id, clip.frame_count, clip.declared_count))

    def reject(self, reasons: dict[str, str]) -> None:
        """Remember contents that could not be decoded, and why."""
        self._reasons |= reasons

    def finish(self) -> None:
        """List what was left out in the cache's ``rejected.csv``, and warn of it and of clips that are shorter than they say.

        Raises:
            SonokitError: No clip of the manifest can be used.
        """
        list_rejected(self.rejected, self._all, self.shards)
        warn_of_short_clips(pd.DataFrame(self._short, columns=["clip_id", "frame_count", "declared_count"]))

    def _rows(self, positions: np.ndarray) -> Manifest:
        return replace(self.manifest, table=self.manifest.table.iloc[positions].reset_index(drop=True))


def stream(
    manifest: Manifest, folder: Path, settings: CacheSettings, *, workers: int | None = None, progress: bool = True
) -> ClipStream:
    """The clips of a manifest, none of them decoded yet; only which contents they are is found out here.

    Args:
        manifest: The clips.
        folder: The cache, shared by all manifests and settings.
        settings: Which frames, how large.
        workers: Threads that decode (default: one a core).
        progress: Whether to show a bar on standard error.

    Raises:
        SonokitError: No clip can be read, or the cache cannot be written.
    """
    if not len(manifest):
        raise SonokitError(f"No clip of {manifest.source} is left to work on.")
    threads = workers or os.cpu_count() or 1
    shards = Path(folder) / settings.key
    with _writing(folder), ThreadPoolExecutor(threads) as pool:
        shards.mkdir(parents=True, exist_ok=True)
        sources = identify(manifest.locations(), Path(folder) / "sources.parquet", pool, progress=progress).drop(columns="path")
    give_back_memory()
    clips = ClipStream(manifest, sources, shards, settings, threads)
    if not len(clips):
        clips.finish()
    return clips


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:  # a clip that cannot be read is no OSError here but a reason
        raise SonokitError(
            f"Cannot write to the frame cache {folder}: {error}. Make room, or choose another --cache."
        ) from error


def _as_clip(clip_id: str, stored: StoredFrames) -> CachedClip:
    """The clip as it would come out of the cache."""
    numbers = stored.indices.astype(np.int32)  # [T]
    frames = np.ascontiguousarray(stored.frames)
    frames.setflags(write=False)
    return CachedClip(
        clip_id=clip_id,
        content_hash=stored.content_hash,
        frames=frames,
        times_s=np.where(numbers == 0, 0.0, numbers / stored.frame_rate).astype(np.float32),
        frame_rate=float(stored.frame_rate),
        container=stored.container,
        frame_count=stored.frame_count,
        declared_count=stored.declared_count,
    )
