"""Parquet parts: the one place that reads and writes a store's rows on disk.

A part is whole or absent, is never changed after it was written, and holds all rows of each clip that it mentions. Parts are
ordered by their name (a running number, then a random word, so that two writers never share one); of several parts that hold a
clip the last one speaks for it. So a clip whose file changed is simply written again, reads never mix two contents, and two
processes that wrote the same clip leave it there once.
"""

import re
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..atomic import atomic_path

_NAME = re.compile(r"part-(\d{6,})-[0-9a-f]{8}\.parquet")


@dataclass(frozen=True)
class PartOfClip:
    """Where a clip's rows lie: the part, the content they were made from, and how many they are."""

    part: str
    content_hash: str
    rows: int


class Parts:
    """The parts in one folder. What other processes add is seen at the next call; only unseen parts are read for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._seen: dict[str, pa.Schema] = {}
        self._clips: dict[str, PartOfClip] = {}

    def names(self) -> list[str]:
        """The parts' file names in order; temporary files are not among them."""
        if not self.folder.is_dir():
            return []
        return sorted((p.name for p in self.folder.iterdir() if _NAME.fullmatch(p.name)), key=_order)

    def write(self, table: pa.Table) -> str:
        """Write ``table`` as the last part and return its name. Hold the store's lock: the order is that of time."""
        before = self.names()
        number = _order(before[-1])[0] + 1 if before else 0
        name = f"part-{number:06d}-{uuid.uuid4().hex[:8]}.parquet"
        with atomic_path(self.folder / name) as temporary:
            pq.write_table(table, temporary, compression="zstd")
        return name

    def clips(self) -> dict[str, PartOfClip]:
        """clip_id → the part that speaks for it."""
        names = self.names()
        if self._seen.keys() - set(names):  # parts went away: what they spoke for is told anew by the others
            self._seen, self._clips = {}, {}
        for name in names:
            if name not in self._seen:
                self._read_catalogue(name)
        return self._clips

    def schema(self) -> pa.Schema | None:
        """The parts' common schema (a column that some of them lack is null there), or None without parts."""
        self.clips()
        if not self._seen:
            return None
        return pa.unify_schemas([self._seen[n] for n in sorted(self._seen, key=_order)], promote_options="permissive")

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Part by part the rows that hold, without superseded ones: all columns of the common schema or the named ones."""
        clips = self.clips()
        schema = self.schema()
        if schema is None:
            return
        wanted = list(schema.names if columns is None else columns)
        fields = pa.schema([_readable(schema.field(name)) for name in wanted])
        for name in self.names():
            if name not in self._seen:  # written by another process since the catalogue was read
                continue
            present = [c for c in {*wanted, "clip_id"} if c in self._seen[name].names]
            table = pq.read_table(self.folder / name, columns=present, partitioning=None)
            table = table.filter(pa.array([clips[clip].part == name for clip in table["clip_id"].to_pylist()], pa.bool_()))
            yield _to_schema(table, fields)

    def _read_catalogue(self, name: str) -> None:
        table = pq.read_table(self.folder / name, columns=["clip_id", "content_hash"], partitioning=None)
        self._seen[name] = pq.read_schema(self.folder / name).remove_metadata()
        ids, first, counts = np.unique(table["clip_id"].to_numpy(), return_index=True, return_counts=True)
        hashes = table["content_hash"].take(pa.array(first)).to_pylist()
        for clip_id, content, rows in zip(ids.tolist(), hashes, counts.tolist(), strict=True):
            known = self._clips.get(clip_id)
            if known is None or _order(known.part) < _order(name):
                self._clips[clip_id] = PartOfClip(name, content, rows)


def _order(name: str) -> tuple[int, str]:
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"{name} is not the name of a part")
    return int(match.group(1)), name


def _readable(field: pa.Field) -> pa.Field:
    """A column that is empty in every part has no type of its own; it is read as numbers that are unknown."""
    return pa.field(field.name, pa.float64()) if pa.types.is_null(field.type) else field


def _to_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = []
    for field in schema:
        if field.name in table.column_names:
            columns.append(table[field.name].cast(field.type))
        else:
            columns.append(pa.chunked_array([pa.nulls(table.num_rows, field.type)]))
    return pa.table(columns, schema=schema)
