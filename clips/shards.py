"""Decoded frames on disk: shards of raw bytes, each with a Parquet index that is written after them.

``shard-ID.bin`` holds frames one after another, ``shard-ID.parquet`` says which clip lies where. A shard counts from the moment
that its index is there, so a kill at any point leaves whole shards and perhaps a file without an index, which is ignored.
Opening reads columns, never one object a clip.
"""

import mmap
import os
import uuid
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute
import pyarrow.dataset
import pyarrow.parquet

from ..atomic import atomic_path
from ..errors import SonokitError

SHARD_BYTES = 64 << 20  # what a kill can cost: some 80 clips of 16 frames at 224 pixels
_OPEN_MAPS = 64  # shards that one process keeps open
_OPEN_INDEXES = 256  # of all shards' indexes at once; a hundred thousand clips have a thousand
INDEX_SCHEMA = pa.schema(
    {
        "content_hash": pa.string(),
        "shard": pa.string(),
        "offset": pa.int64(),  # of the first byte
        "indices": pa.list_(pa.int32()),  # which frames of the clip these are
        "container": pa.string(),
        "frame_rate": pa.float64(),
        "frame_count": pa.int64(),
        "declared_count": pa.int64(),
    }
)
_SHARD = INDEX_SCHEMA.get_field_index("shard")
_DESCRIBING = ["content_hash", "container", "frame_rate", "frame_count", "declared_count"]


@dataclass(frozen=True)
class StoredFrames:
    """One clip as it goes into a shard: ``frames`` is uint8 [T, S, S], ``indices`` int64 [T]."""

    content_hash: str
    frames: np.ndarray
    indices: np.ndarray
    container: str
    frame_rate: float
    frame_count: int
    declared_count: int | None


class ShardWriter:
    """Appends clips to shards of a folder. A new shard begins when one is full; :meth:`flush` ends the current one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: Any = None
        self._begin()

    def add(self, clip: StoredFrames) -> None:
        """Append one clip."""
        if self._file is None:
            self._file = open(self._temporary, "wb")  # noqa: SIM115  # closed by flush
        self._file.write(np.ascontiguousarray(clip.frames).data)
        row = {name: getattr(clip, name) for name in _DESCRIBING}
        self._rows.append({**row, "shard": self._name, "offset": self._bytes, "indices": clip.indices.tolist()})
        self._bytes += clip.frames.nbytes
        if self._bytes >= SHARD_BYTES:
            self.flush()

    def flush(self) -> None:
        """Make everything that was added count."""
        if self._file is None:
            return
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self._folder / f"{self._name}.bin")
        with atomic_path(self._folder / f"{self._name}.parquet") as temporary:
            pa.parquet.write_table(pa.Table.from_pylist(self._rows, schema=INDEX_SCHEMA), temporary)
        self._begin()

    def _begin(self) -> None:
        self._name = f"shard-{uuid.uuid4().hex}"
        self._temporary = self._folder / f".tmp-{self._name}.bin"
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        self._file = None


@dataclass(frozen=True)
class StoredClips:
    """Clips in the shards of a folder, as columns of N clips; nothing is opened before a frame is asked for.

    Attributes:
        folder: Where the shards are.
        size: Side S of the frames.
        names: Shard names [shards].
        shard: Which of ``names``, int64 [N].
        offset: First byte in the shard, int64 [N].
        first: Where the clip's frame numbers begin in ``indices``, int64 [N].
        count: Its number of frames T, int64 [N].
        indices: Frame numbers of all clips, int32.
        table: content_hash, container, frame_rate, frame_count, declared_count [N].
    """

    folder: Path
    size: int
    names: np.ndarray
    shard: np.ndarray
    offset: np.ndarray
    first: np.ndarray
    count: np.ndarray
    indices: np.ndarray
    table: pd.DataFrame

    def __len__(self) -> int:
        return len(self.shard)

    def find(self, content_hashes: pd.Series) -> np.ndarray:
        """The position of each content, int64; -1 where it is not stored."""
        found = pa.compute.index_in(pa.array(content_hashes), value_set=pa.array(self.table["content_hash"]))
        return found.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)

    def take(self, positions: np.ndarray) -> "StoredClips":
        """The clips at ``positions``, in that order; a clip may be taken more than once."""
        columns = {name: getattr(self, name)[positions] for name in ("shard", "offset", "first", "count")}
        first, count, indices = columns["first"], columns["count"], self.indices
        if 2 * count.sum() < len(indices):  # else they are left where they are, which takes no memory
            columns["first"] = np.cumsum(count) - count
            indices = indices[np.repeat(first - columns["first"], count) + np.arange(count.sum())]
        return replace(self, **columns, indices=indices, table=self.table.iloc[positions].reset_index(drop=True))

    def frames(self, i: int) -> np.ndarray:
        """The frames of clip ``i``: a read-only view of the memory map, uint8 [T, S, S]."""
        start, count = int(self.offset[i]), int(self.count[i])
        opened = self._map(int(self.shard[i]))
        end = start + count * self.size**2
        _announce(opened, start, end)
        return np.frombuffer(opened, np.uint8)[start:end].reshape(count, self.size, self.size)

    def frame_numbers(self, i: int) -> np.ndarray:
        """Which frames of the clip those are, int32 [T]."""
        return self.indices[self.first[i] : self.first[i] + self.count[i]]

    @cached_property
    def _map(self) -> Any:  # a least-recently-used map of shards, one for each process
        folder, names = self.folder, self.names

        @lru_cache(_OPEN_MAPS)
        def open_map(shard: int) -> mmap.mmap:
            with (folder / f"{names[shard]}.bin").open("rb") as file:
                opened = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            if hasattr(mmap, "MADV_RANDOM"):  # not on Windows
                opened.madvise(mmap.MADV_RANDOM)  # else each page read brings its neighbours, on some disks 8 MB of them
            return opened

        return open_map

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_map"}


def open_shards(folder: Path, size: int) -> StoredClips:
    """Open what is whole in ``folder``; a content that was stored twice is taken once.

    Raises:
        SonokitError: An index that cannot be read.
    """
    return _each_once(_as_columns(folder, size, _read_index(folder)))


def _announce(opened: mmap.mmap, start: int, end: int) -> None:
    """Have these bytes read in one go, not page by page as they are looked at."""
    if hasattr(mmap, "MADV_WILLNEED"):  # not on Windows
        start -= start % mmap.PAGESIZE
        opened.madvise(mmap.MADV_WILLNEED, start, end - start)


def remove_unfinished(folder: Path) -> None:
    """Remove what killed runs left behind. Only for whoever holds the folder's lock."""
    for file in folder.glob(".tmp-*shard-*"):
        file.unlink()
    for file in folder.glob("shard-*.bin"):
        if not file.with_suffix(".parquet").exists():
            file.unlink()


def _read_index(folder: Path) -> pa.Table:
    """All shards' indexes, some files at a time: what is known of a file stays in memory while it is open."""
    files = sorted(str(file) for file in folder.glob("shard-*.parquet"))
    none = INDEX_SCHEMA.empty_table()
    tables = [none.set_column(_SHARD, "shard", none["shard"].dictionary_encode())]  # a name for each clip takes 50 MB
    try:
        for start in range(0, len(files), _OPEN_INDEXES):
            some = pa.dataset.dataset(files[start : start + _OPEN_INDEXES], schema=INDEX_SCHEMA, format="parquet").to_table()
            tables.append(some.set_column(_SHARD, "shard", some["shard"].dictionary_encode()).combine_chunks())
    except (OSError, ValueError) as error:  # pyarrow's errors are kinds of these
        raise SonokitError(f"The frame cache {folder} is damaged ({error}). Remove that folder; it is made anew.") from None
    return pa.concat_tables(tables)


def _as_columns(folder: Path, size: int, index: pa.Table) -> StoredClips:
    table = index.select(_DESCRIBING).to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
    table["frame_count"] = table["frame_count"].astype(np.int64)
    shard = index["shard"].combine_chunks()
    lists = index["indices"].combine_chunks()
    count = lists.value_lengths().to_numpy(zero_copy_only=False).astype(np.int64)
    return StoredClips(
        folder=folder,
        size=size,
        names=shard.dictionary.to_numpy(zero_copy_only=False),
        shard=shard.indices.to_numpy().astype(np.int64),
        offset=index["offset"].to_numpy(),
        first=np.concatenate([[0], np.cumsum(count)])[:-1].astype(np.int64),
        count=count,
        indices=lists.flatten().to_numpy(),
        table=table,
    )


def _each_once(clips: StoredClips) -> StoredClips:
    """The clips whose bytes are all there, each content once."""
    whole = clips.offset + clips.count * clips.size**2 <= _sizes(clips.folder, clips.names)[clips.shard]
    hashes = clips.table["content_hash"]
    content = pa.array(hashes if whole.all() else hashes.where(whole))
    first = pa.compute.index_in(content, value_set=content).to_numpy(zero_copy_only=False)  # where each content stands first
    once = whole & (first == np.arange(len(first)))
    return clips if once.all() else clips.take(np.flatnonzero(once))


def _sizes(folder: Path, names: np.ndarray) -> np.ndarray:
    """The bytes that each shard really has; 0 for one that is gone. int64 [shards]."""
    there = {entry.name: entry.stat().st_size for entry in os.scandir(folder)} if len(names) else {}
    return np.array([there.get(f"{name}.bin", 0) for name in names], dtype=np.int64)
