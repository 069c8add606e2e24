"""Clips out of the frame cache, for good: their frames, what is known of their files, their lines in rejected.csv.

A shard that holds one of them is written anew without it. The new shard is whole before the old one goes, and erasing again
ends what a kill interrupted. A process that has the cache open meanwhile keeps what it sees, and must open it again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock

from ..atomic import atomic_path, write_text
from ..errors import SonokitError
from .mentions import Names
from .shards import INDEX_SCHEMA, ShardWriter, StoredFrames, remove_unfinished


@dataclass(frozen=True)
class CacheTraces:
    """What of somebody is in a frame cache, or was removed from it.

    Attributes:
        clips: Clips with frames, each counted for every setting it was prepared with.
        sources: Remembered paths.
        rejected: Lines of rejected.csv.
    """

    clips: int = 0
    sources: int = 0
    rejected: int = 0

    def __bool__(self) -> bool:
        return bool(self.clips or self.sources or self.rejected)


def find_in_cache(folder: Path, names: Names) -> CacheTraces:
    """Count what :func:`erase_from_cache` would remove.

    Raises:
        SonokitError: ``folder`` is no frame cache, or a file of it cannot be read.
    """
    contents = _contents(folder, names)
    clips = sum(
        int(pc.sum(_named(index, contents)).as_py() or 0) for _, indexes in _settings(folder) for index in indexes.values()
    )
    rejected = sum(len(_split_listing(file, names)[1]) for file in _listings(folder))
    return CacheTraces(clips, len(_split_memo(folder, names)[1]), rejected)


def erase_from_cache(folder: Path, names: Names) -> CacheTraces:
    """Remove the frames of these contents, and of files whose path names the patient or a clip, and every mention of them.

    Args:
        folder: The cache, with all its settings.
        names: Of the patient, the clips, the contents.

    Returns:
        What was removed.

    Raises:
        SonokitError: As for :func:`find_in_cache`.
    """
    found = find_in_cache(folder, names)
    contents = _contents(folder, names)
    for place, _ in _settings(folder):
        with FileLock(place / ".lock"):
            remove_unfinished(place)
            for file, index in _indexes(place).items():
                if pc.any(_named(index, contents)).as_py():
                    _write_without(file, index, contents)
            remove_unfinished(place)
    for listing in _listings(folder):
        kept, gone = _split_listing(listing, names)
        if len(gone):
            write_text(listing, kept.to_csv(index=False, lineterminator="\n"))
    kept, gone = _split_memo(folder, names)  # last: it tells which contents lie behind paths that name the patient
    if len(gone):
        with atomic_path(folder / "sources.parquet") as temporary:
            kept.to_parquet(temporary, index=False)
    for left in [*folder.glob(".tmp-*-sources.parquet"), *folder.glob("grey-*/.tmp-*-rejected.csv")]:
        left.unlink()
    return found


def _write_without(file: Path, index: pa.Table, contents: pa.Array) -> None:
    """Put the other clips of a shard into a new one, then remove it: first what makes it count, then the frames."""
    side = _side(file.parent)
    frames = file.with_suffix(".bin")
    writer = ShardWriter(file.parent)
    with frames.open("rb") as stored:
        for row in index.filter(pc.invert(_named(index, contents))).to_pylist():
            stored.seek(row["offset"])
            clip = np.frombuffer(stored.read(len(row["indices"]) * side**2), np.uint8)
            if len(clip) == len(row["indices"]) * side**2:  # else the shard had lost it already
                about = {name: row[name] for name in row if name not in ("shard", "offset", "indices")}
                writer.add(StoredFrames(frames=clip, indices=np.array(row["indices"], dtype=np.int64), **about))
    writer.flush()
    file.unlink()
    frames.unlink()


def _contents(folder: Path, names: Names) -> pa.Array:
    """The contents to remove: those that are named, and those behind paths that name the patient or a clip."""
    behind = _split_memo(folder, names)[1]["content_hash"]
    return pa.array(sorted({*names.content_hashes, *behind}), pa.string())


def _named(index: pa.Table, contents: pa.Array) -> pa.ChunkedArray:
    return pc.is_in(index["content_hash"], value_set=contents)


def _settings(folder: Path) -> Iterator[tuple[Path, dict[Path, pa.Table]]]:
    """The folders of frames in the cache, with their shards' indexes."""
    if not folder.is_dir():
        raise SonokitError(f"there is no frame cache {folder}; name the folder that was given as --cache")
    for place in sorted(folder.glob("grey-*")):
        if place.is_dir():
            yield place, _indexes(place)


def _indexes(place: Path) -> dict[Path, pa.Table]:
    try:
        return {file: pq.ParquetFile(file).read().select(INDEX_SCHEMA.names) for file in sorted(place.glob("shard-*.parquet"))}
    except (OSError, ValueError, KeyError) as error:
        raise SonokitError(f"The frame cache {place} is damaged ({error}). Remove that folder; it is made anew.") from error


def _side(place: Path) -> int:
    """The side of the frames, from the folder's name (see ``CacheSettings.key``)."""
    try:
        return int(place.name.split("-")[1])
    except (IndexError, ValueError):
        raise SonokitError(f"{place} is no folder of a frame cache; move it elsewhere") from None


def _listings(folder: Path) -> list[Path]:
    return sorted(folder.glob("grey-*/rejected.csv"))


def _split_listing(file: Path, names: Names) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The lines of a rejected.csv that name nobody of these, and those that do."""
    return split_rows(pd.read_csv(file, dtype=str, keep_default_na=False), names)


def split_rows(table: pd.DataFrame, names: Names) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of a table of text whose cells name nobody of these, and those that do."""
    if table.empty:
        return table, table
    named = table.apply(lambda column: column.map(names.are_value)).any(axis=1).to_numpy(dtype=bool)
    return table[~named], table[named]


def _split_memo(folder: Path, names: Names) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What is remembered of files, without and with those of the patient."""
    memo = folder / "sources.parquet"
    if not memo.is_file():
        empty = pd.DataFrame({"path": [], "stamp": [], "content_hash": []}, dtype="str")
        return empty, empty
    table = pd.read_parquet(memo)
    mine = table["content_hash"].isin(names.content_hashes) | table["path"].map(names.are_value).astype(bool)
    return table[~mine], table[mine]
