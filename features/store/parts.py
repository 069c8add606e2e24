"""Parquet parts: the one place that reads and writes a store's rows.

A part is whole or absent, is never changed after it was written, and holds all rows of each clip that it mentions. Parts are
ordered by their name (a running number, then the SHA-256 of the file, so that two writers never share one and a changed byte
is found); of several parts that hold a clip the last one speaks for it. So a clip whose file changed is simply written again,
reads never mix two contents, and two processes that wrote the same clip leave it there once.

Whoever replaces parts (compaction, erasure) writes the new ones before the old ones go, so that a reader who finds a part gone
finds its rows by listing again. Stores of schema version 1 have eight random digits instead of the checksum.
"""

import hashlib
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ...errors import SonokitError
from .catalogue import Catalogue, PartClips
from .files import is_local, names_in, put_bytes

_NAME = re.compile(r"part-(\d{6,})-([0-9a-f]{64}|[0-9a-f]{8})\.parquet")
_TRIES = 20  # in which a reader must find all parts in place
_UNREADABLE = (OSError, ValueError, KeyError, pa.ArrowException)  # what damaged bytes lead to, broken UTF-8 among them


class Parts:
    """The parts in one folder. What other processes add is seen at the next call; only unseen parts are read for it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._catalogue = Catalogue({})

    def names(self) -> list[str]:
        """The parts' file names in order; temporary files are not among them."""
        return sorted((name for name in names_in(self.folder) if _NAME.fullmatch(name)), key=_order)

    def write(self, table: pa.Table) -> str:
        """Write ``table`` as the last part and return its name. Hold the store's lock: the order is that of time."""
        before = self.names()
        number = _order(before[-1])[0] + 1 if before else 0
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        content = memoryview(sink.getvalue())
        name = f"part-{number:06d}-{hashlib.sha256(content).hexdigest()}.parquet"
        put_bytes(self.folder / name, content)
        return name

    def remove(self, names: Collection[str]) -> None:
        """Remove parts, the oldest first, so that what they superseded never shows. Hold the store's lock."""
        for name in sorted(names, key=_order):
            (self.folder / name).unlink(missing_ok=True)

    def catalogue(self) -> Catalogue:
        """The clips of all parts that are there now."""
        for _ in range(_TRIES):
            names = self.names()
            known = self._catalogue.parts
            if names == list(known):
                return self._catalogue
            try:
                self._catalogue = Catalogue({name: known.get(name) or self._read_clips(name) for name in names})
            except FileNotFoundError:  # it was replaced since the list was made
                continue
            return self._catalogue
        raise SonokitError(f"{self.folder} changes faster than it can be read; try again when nothing else writes there")

    def schema(self) -> pa.Schema | None:
        """The parts' common schema (a column that some of them lack is null there), or None without parts."""
        parts = self.catalogue().parts
        if not parts:
            return None
        return pa.unify_schemas([part.schema for part in parts.values()], promote_options="permissive")

    def read(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows of one part as they are on disk, superseded ones too.

        Raises:
            FileNotFoundError: It is gone.
            SonokitError: It is no whole Parquet file.
        """
        path = self.folder / name
        try:
            with _opened(path) as file:
                return pq.ParquetFile(file).read(columns=columns)
        except _UNREADABLE as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise _damaged(path, error) from error

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Part by part the rows that hold, without superseded ones: all columns of the common schema or the named ones.

        Every clip comes once, also when the parts are replaced meanwhile.
        """
        schema = self.schema()
        if schema is None:
            return
        fields = pa.schema([_readable(schema.field(name)) for name in (schema.names if columns is None else columns)])
        told: dict[str, pa.Array] = {}  # part name → clips that were given from it
        for _ in range(_TRIES):
            catalogue = self.catalogue()
            earlier = list(told.values())  # of a part that is still there, too: a later one may speak for its clips by now
            try:
                for name in catalogue.parts:
                    if name not in told:
                        yield self.rows_that_hold(catalogue, name, fields, earlier)
                        told[name] = catalogue.spoken_ids(name)
            except FileNotFoundError:
                continue
            return
        raise SonokitError(f"{self.folder} changes faster than it can be read; try again when nothing else writes there")

    def rows_that_hold(self, catalogue: Catalogue, name: str, fields: pa.Schema, but: Sequence[pa.Array] = ()) -> pa.Table:
        """The rows of one part without superseded ones and without the clips ``but``, in the columns of ``fields``."""
        present = [c for c in dict.fromkeys([*fields.names, "clip_id"]) if c in catalogue.parts[name].schema.names]
        table = self.read(name, present)
        superseded = catalogue.superseded_ids(name)
        return _to_schema(without(table, [*but, *([superseded] if len(superseded) else [])]), fields)

    def _read_clips(self, name: str) -> PartClips:
        path = self.folder / name
        try:
            with _opened(path) as file:
                return _clips_of(pq.ParquetFile(file))
        except _UNREADABLE as error:
            if isinstance(error, FileNotFoundError):
                raise
            raise _damaged(path, error) from error


def checksum_of(name: str) -> str | None:
    """The SHA-256 in a part's name, None for a part of schema version 1."""
    match = _NAME.fullmatch(name)
    return match.group(2) if match and len(match.group(2)) == 64 else None


def without(table: pa.Table, clip_ids: Sequence[pa.Array]) -> pa.Table:
    """The rows of other clips than these."""
    if not clip_ids:
        return table
    return table.filter(pc.invert(pc.is_in(table["clip_id"], value_set=pa.concat_arrays(clip_ids))))


def _opened(path: Path) -> AbstractContextManager[Any]:
    """The file, open: given a path, Arrow takes one with a colon that is gone for a URL of a kind that it does not know."""
    return cast(AbstractContextManager[Any], pa.OSFile(str(path)) if is_local(path) else path.open("rb"))


def _clips_of(file: pq.ParquetFile) -> PartClips:
    return PartClips.of(file.schema_arrow.remove_metadata(), file.read(columns=["clip_id", "content_hash"]))


def _damaged(path: Path, error: Exception) -> SonokitError:
    reason = " ".join(str(error).split())
    return SonokitError(
        f"{path} is damaged ({reason}): remove that file, then run extract-features again; sonokit store verify finds all such"
    )


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
