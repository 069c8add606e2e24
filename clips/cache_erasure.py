"""Clips out of the frame cache, for good: their frames, what is known of their files, their lines in rejected.csv.

A shard that holds one of them is written anew without it. The new shard is whole before the old one goes, and erasing again
ends what a kill interrupted. A process that has the cache open meanwhile keeps what it sees, and must open it again.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
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
        leftovers: Files of killed runs, whoever's they are.
        by_name: The remembered paths that are taken for theirs by their name alone, as the content is none that is known.
    """

    clips: int = 0
    sources: int = 0
    rejected: int = 0
    leftovers: int = 0
    by_name: tuple[str, ...] = field(default=(), compare=False)

    def __bool__(self) -> bool:
        return bool(self.clips or self.sources or self.rejected or self.leftovers)


def find_in_cache(folder: Path, names: Names, spared: Collection[str] = ()) -> CacheTraces:
    """Count what :func:`erase_from_cache` would remove.

    Raises:
        SonokitError: ``folder`` is no frame cache, or a file of it cannot be read.
    """
    contents, sources = _contents(folder, names, spared), _split_memo(folder, names, spared)[1]
    clips = sum(
        int(pc.sum(_named(index, contents)).as_py() or 0) for _, indexes in _settings(folder) for index in indexes.values()
    )
    rejected = sum(len(_split_listing(file, names)[1]) for file in _listings(folder))
    guessed = sources["path"][~sources["content_hash"].isin(names.content_hashes) & ~sources["path"].isin(names.paths)]
    return CacheTraces(clips, len(sources), rejected, len(_leftovers(folder)), tuple(guessed))


def erase_from_cache(folder: Path, names: Names, spared: Collection[str] = ()) -> CacheTraces:
    """Remove the frames of these contents, and of files whose path names the patient or a clip, and every mention of them.

    Args:
        folder: The cache, with all its settings.
        names: Of the patient, the clips, the contents.
        spared: Contents that are known to be others': a path that looks like the patient's does not condemn them.

    Returns:
        What was removed.

    Raises:
        SonokitError: As for :func:`find_in_cache`.
    """
    found = find_in_cache(folder, names, spared)
    contents = _contents(folder, names, spared)
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
    kept, gone = _split_memo(folder, names, spared)  # last: it tells which contents lie behind paths that name the patient
    if len(gone):
        with atomic_path(folder / "sources.parquet") as temporary:
            kept.to_parquet(temporary, index=False)
    for left in _leftovers(folder):
        left.unlink(missing_ok=True)
    return found


def _write_without(file: Path, index: pa.Table, contents: pa.Array) -> None:
    """Put the other clips of a shard into a new one, then remove it: first what makes it count, then the frames."""
    frames = file.with_suffix(".bin")
    if frames.is_file():
        _copy_others(file, frames, index, contents)
    file.unlink()
    frames.unlink(missing_ok=True)


def _copy_others(file: Path, frames: Path, index: pa.Table, contents: pa.Array) -> None:
    side = _side(file.parent)
    writer = ShardWriter(file.parent)
    with frames.open("rb") as stored:
        for row in index.filter(pc.invert(_named(index, contents))).to_pylist():
            stored.seek(row["offset"])
            clip = np.frombuffer(stored.read(len(row["indices"]) * side**2), np.uint8)
            if len(clip) == len(row["indices"]) * side**2:  # else the shard had lost it already
                about = {name: row[name] for name in row if name not in ("shard", "offset", "indices")}
                writer.add(StoredFrames(frames=clip, indices=np.array(row["indices"], dtype=np.int64), **about))
    writer.flush()


def _leftovers(folder: Path) -> list[Path]:
    """What killed runs left: of the memo, of the listings, of shards that do not count."""
    unfinished = [p for p in folder.glob("grey-*/shard-*.bin") if not p.with_suffix(".parquet").exists()]
    lists = [*folder.glob(".tmp-*-sources.parquet"), *folder.glob("grey-*/.tmp-*-rejected.csv")]
    return [*lists, *folder.glob("grey-*/.tmp-*shard-*"), *unfinished]


def _contents(folder: Path, names: Names, spared: Collection[str]) -> pa.Array:
    """The contents to remove: those that are named, and those behind paths that name the patient or a clip."""
    behind = _split_memo(folder, names, spared)[1]["content_hash"]
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
        return {file: _read(file).select(INDEX_SCHEMA.names) for file in sorted(place.glob("shard-*.parquet"))}
    except (OSError, ValueError, KeyError) as error:
        raise SonokitError(f"The frame cache {place} is damaged ({error}). Remove that folder; it is made anew.") from error


def _read(file: Path) -> pa.Table:
    with file.open("rb") as opened:  # a path with a colon would be taken for a URL
        return pq.ParquetFile(opened).read()


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
    named = np.zeros(len(table), dtype=bool)
    for column in table:
        tells = names.are_in_path if column in ("clip_id", "path") else names.are_value
        named |= table[column].map(tells).to_numpy(dtype=bool)
    return table[~named], table[named]


def _split_memo(folder: Path, names: Names, spared: Collection[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What is remembered of files, without and with those of the patient."""
    memo = folder / "sources.parquet"
    if not memo.is_file():
        empty = pd.DataFrame({"path": [], "stamp": [], "content_hash": []}, dtype="str")
        return empty, empty
    table = pd.read_parquet(memo)
    known = table["content_hash"].isin(names.content_hashes) | table["path"].isin(names.paths)
    mine = known | (table["path"].map(names.are_in_path).astype(bool) & ~table["content_hash"].isin(spared))
    return table[~mine], table[mine]
