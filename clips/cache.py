"""The frame cache: every clip decoded once, its sampled frames letterboxed and kept in memory maps.

Kept by content and settings: ``CACHE/SETTINGS/shard-*`` (see ``shards.py``), so a file that moves or is listed twice is decoded
once, and a second run does only what is missing. ``CACHE/sources.parquet`` remembers which content lies behind a path.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from filelock import FileLock, Timeout
from tqdm import tqdm

from ..atomic import write_text
from ..errors import SonokitError
from .cached_clips import CachedClip, CachedClips, CacheSettings
from .content_memo import identify, stamp_of
from .decode import ClipError, read_clip
from .letterbox import letterbox
from .manifest import Manifest
from .shards import ShardWriter, StoredClips, StoredFrames, open_shards, remove_unfinished

_NAMED = 5  # how many clips a message names
_log = logging.getLogger(__name__)

Decoded = StoredFrames | tuple[str, str]  # a decoded clip, or its content hash and the reason why it cannot be used


def prepare(
    manifest: Manifest, folder: Path, settings: CacheSettings, *, workers: int | None = None, progress: bool = True
) -> CachedClips:
    """Decode what is missing and return all clips of the manifest that can be used, in its order.

    Kill it at any moment and run it again: it goes on with at most one shard's work lost. What cannot be decoded is listed with
    its reason in ``rejected.csv`` beside the shards, and is tried again next time.

    Args:
        manifest: The clips.
        folder: The cache, shared by all manifests and settings.
        settings: Which frames, how large.
        workers: Threads that decode (default: one a core). Decoders let go of Python's lock, so threads are as fast here as
            processes, and need no guard in the caller's script.
        progress: Whether to show bars on standard error.

    Raises:
        SonokitError: No clip can be used, or something is missing in a cache that cannot be written.
    """
    if not len(manifest):
        raise SonokitError(f"No clip of {manifest.source} is left to prepare.")
    folder = Path(folder)
    shards = folder / settings.key
    threads = workers or os.cpu_count() or 1
    pool = ThreadPoolExecutor(threads)
    try:
        shards.mkdir(parents=True, exist_ok=True)
        sources = identify(manifest.locations(), folder / "sources.parquet", pool, progress=progress)
        sources = sources.drop(columns="path")  # it is made anew for those that are missing: 70 MB for a million clips
        give_back_memory()
        stored = open_shards(shards, settings.size)
        if len(missing_sources(manifest, sources, stored)):
            with locked(shards):
                remove_unfinished(shards)
                stored = open_shards(shards, settings.size)  # another process may have been at it
                missing = missing_sources(manifest, sources, stored)
                work = partial(decode_frames, settings=settings)
                reasons = _store_all(missing, shards, as_completed(pool, work, decoding_jobs(missing), 2 * threads), progress)
            sources["reason"] = sources["reason"].fillna(sources["content_hash"].map(reasons).astype("str"))
            stored = open_shards(shards, settings.size)
    except OSError as error:  # a clip that cannot be read is no OSError here but a reason
        raise SonokitError(
            f"Cannot write to the frame cache {folder}: {error}. Make room, or choose another --cache."
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    clips = _collect(manifest, sources, stored, settings)
    del sources, stored
    give_back_memory()
    return clips


def give_back_memory() -> None:
    """Arrow keeps what it has used for later: for a million clips 0.3 GB."""
    pa.default_memory_pool().release_unused()


def missing_sources(manifest: Manifest, sources: pd.DataFrame, stored: StoredClips) -> pd.DataFrame:
    """The sources that are not stored yet, each content once: content_hash, stamp, path.

    Args:
        manifest: The clips.
        sources: What ``identify`` found out about each, in the same order.
        stored: The clips whose frames are there.
    """
    is_absent = (sources["content_hash"].notna() & (stored.find(sources["content_hash"]) < 0)).to_numpy()
    absent = sources[is_absent].assign(path=manifest.select(is_absent).locations().to_numpy())
    # of several files of one content always the same one is read, whatever the order of the rows
    return absent.sort_values("path", kind="stable").drop_duplicates("content_hash").sort_index()


def decoding_jobs(missing: pd.DataFrame) -> Iterator[tuple[str, str, str]]:
    """What :func:`decode_frames` takes, of the table that :func:`missing_sources` gives."""
    return missing[["content_hash", "path", "stamp"]].itertuples(index=False, name=None)


def _store_all(missing: pd.DataFrame, shards: Path, results: Iterable[Decoded], progress: bool) -> dict[str, str]:
    """Write what was decoded; returns the reason for every content that could not be."""
    reasons: dict[str, str] = {}
    writer = ShardWriter(shards)
    try:
        for result in tqdm(results, "decoding clips", len(missing), unit="clip", disable=not progress):
            if isinstance(result, StoredFrames):
                writer.add(result)
            else:
                reasons[result[0]] = result[1]
    finally:  # Ctrl-C: what is finished is kept
        writer.flush()
    return reasons


def decode_frames(job: tuple[str, str, str], settings: CacheSettings) -> Decoded:
    """One clip, or its content hash and the reason why it cannot be used."""
    content, path, stamp = job
    try:
        clip = read_clip(path, settings.sampling.choose)
    except (ClipError, OSError, ValueError) as error:
        return content, " ".join(str(error).split()) or type(error).__name__
    if stamp_of(path) != stamp:
        return content, "the file changed while it was read: run this again"
    frames = np.stack([letterbox(frame, settings.size) for frame in clip.frames])  # [T, S, S]
    return StoredFrames(content, frames, clip.indices, clip.container, clip.frame_rate, clip.frame_count, clip.declared_count)


def as_completed(pool: Executor, work: partial, jobs: Iterable, window: int) -> Iterator[Decoded]:
    """Results as they come; never more than ``window`` jobs are waiting or in memory."""
    jobs = iter(jobs)
    pending = {pool.submit(work, job) for job in islice(jobs, window)}
    while pending:
        done, pending = wait(pending, return_when=FIRST_COMPLETED)
        pending |= {pool.submit(work, job) for job in islice(jobs, len(done))}
        for future in done:
            yield future.result()


def _collect(manifest: Manifest, sources: pd.DataFrame, stored: StoredClips, settings: CacheSettings) -> CachedClips:
    positions = np.where(sources["content_hash"].notna(), stored.find(sources["content_hash"]), -1)
    usable = positions >= 0
    rejected = manifest.table.loc[~usable, ["clip_id", "path"]].assign(reason=sources["reason"][~usable]).reset_index(drop=True)
    list_rejected(rejected, manifest, stored.folder)
    clips = CachedClips(manifest.select(usable), rejected, settings, stored.take(positions[usable]))
    warn_of_short_clips(clips.table)
    return clips


def list_rejected(rejected: pd.DataFrame, manifest: Manifest, shards: Path) -> None:
    """Write ``rejected.csv`` (clip_id, path, reason) beside the shards, and say so.

    Raises:
        SonokitError: All clips of the manifest were rejected.
    """
    listing = shards / "rejected.csv"
    try:
        write_text(listing, rejected.to_csv(index=False, lineterminator="\n"))
    except OSError as error:  # a cache that is complete may be read-only
        _log.warning("Cannot write the list of clips that are left out: %s", error)
    examples = "; ".join((rejected["clip_id"] + ": " + rejected["reason"]).head(_NAMED))
    if len(rejected) == len(manifest):
        raise SonokitError(f"No clip of {manifest.source} can be decoded, of {len(manifest)} ({examples}). See {listing}.")
    if len(rejected):
        _log.warning("Clips left out: %d of %d (%s); see %s", len(rejected), len(manifest), examples, listing)


def warn_of_short_clips(table: pd.DataFrame) -> None:
    """Name the clips (clip_id, frame_count, declared_count) with fewer frames than their files announce."""
    short = table[(table["declared_count"] > table["frame_count"]).fillna(False)]
    if len(short):
        names = [f"{row.clip_id}: {row.frame_count} of {row.declared_count}" for row in short.head(_NAMED).itertuples()]
        more = [f"and {len(short) - _NAMED} more"] if len(short) > _NAMED else []
        _log.warning("Clips with fewer frames than they declare: %d (%s)", len(short), "; ".join(names + more))


@contextmanager
def locked(shards: Path) -> Iterator[None]:
    """One process decodes at a time; a second one waits and finds the work done."""
    lock = FileLock(shards / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        _log.warning("Another process is preparing %s; waiting for it.", shards)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


__all__ = ["CacheSettings", "CachedClip", "CachedClips", "prepare"]
