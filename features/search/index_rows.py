"""What an index needs to know of the rows beside their directions: a memory-mapped copy of the store's columns.

    STORE/index-rows.arrow        every column but the embedding, one row a row of the store, sorted by clip_id and segment
    STORE/index-embeddings.npy    the embeddings in that order, as the store holds them

A *position* is a place in that order. Text is kept once (dictionaries), so that a million rows take some 100 MB of disk and
none of memory; a search reads the pages that it needs. Both files are derived: written with the index, and useless without it.
"""

import os
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import SonokitError
from ..store import EmbeddingStore

ROWS_FILE, EMBEDDINGS_FILE = "index-rows.arrow", "index-embeddings.npy"
CHUNK = 1 << 16  # rows that are worked on at once: 32 MB at 128 dimensions
_SORTER = "_by_row_id"  # positions in ascending order of row_id
_MAPPED_SHARE = 16  # of so many rows more than one at once: they are read through the memory map
_ATTEMPTS = 3


@dataclass(frozen=True)
class IndexRows:
    """The rows under an index.

    Attributes:
        table: Every column of the store but the embedding, text as dictionaries, sorted by clip_id and segment.
        embeddings: [N, D] in the store's dtype, in that order; a view of the file.
        file: Which file that is.
    """

    table: pa.Table
    embeddings: np.ndarray
    file: Path

    def __len__(self) -> int:
        return len(self.embeddings)

    @cached_property
    def row_ids(self) -> np.ndarray:
        """int64 [N]."""
        return self._numbers("row_id")

    @cached_property
    def by_row_id(self) -> np.ndarray:
        """Positions in ascending order of row_id, int64 [N]."""
        return self._numbers(_SORTER)

    @cached_property
    def clips(self) -> np.ndarray:
        """A number a clip, int32 [N], ascending as the clip_ids do."""
        return self._codes("clip_id")

    @cached_property
    def patients(self) -> np.ndarray:
        """A number a patient, int32 [N]; -1 where the patient is unknown."""
        return self._codes("patient_id")

    def code(self, column: str, value: str) -> int:
        """The number that stands for ``value`` in ``clips`` or ``patients``; -1 where no row has it."""
        names = self._whole(column).dictionary
        return int(pc.index(names, pa.scalar(value, names.type)).as_py())

    def of_clip(self, clip: int) -> np.ndarray:
        """The positions of clip number ``clip``, int64, in order of segment."""
        return np.arange(np.searchsorted(self.clips, clip), np.searchsorted(self.clips, clip, side="right"))

    def positions(self, row_ids: np.ndarray) -> np.ndarray:
        """Where these rows stand, int64, shape as given; -1 stays -1."""
        found = np.searchsorted(self.row_ids, row_ids, sorter=self.by_row_id)
        found = self.by_row_id[np.minimum(found, len(self.row_ids) - 1)]
        return np.where((row_ids >= 0) & (self.row_ids[found] == row_ids), found, -1)

    def units(self, positions: np.ndarray | slice) -> np.ndarray:
        """The embeddings at ``positions`` at length 1, float32 [n, D]; a row of zeros stays one."""
        return normalised(self.embeddings[positions])

    def take(self, positions: np.ndarray) -> np.ndarray:
        """The embeddings at ``positions`` [n] in the store's dtype, [n, D].

        Few of many rows are read one by one: through the memory map each would bring its whole neighbourhood into this process.
        """
        if self._descriptor is None or _MAPPED_SHARE * len(positions) > len(self):
            return np.asarray(self.embeddings[positions])
        count, dimensions = self.embeddings.shape
        size = dimensions * self.embeddings.itemsize
        start = os.fstat(self._descriptor).st_size - count * size  # the file's head comes first
        content = b"".join([os.pread(self._descriptor, size, place) for place in (start + positions * size).tolist()])
        return np.frombuffer(content, self.embeddings.dtype).reshape(-1, dimensions)

    def chunks(self) -> Iterator[slice]:
        """Slices that cover all rows in turn."""
        return (slice(start, min(start + CHUNK, len(self))) for start in range(0, len(self), CHUNK))

    def matches(self, column: str, values: list[Any]) -> np.ndarray:
        """Which rows have one of ``values`` in ``column``, bool [N]; a number may be given as text.

        Raises:
            SonokitError: There is no such column, it cannot hold such a value, or no row has one.
        """
        names = [name for name in self.table.column_names if name != _SORTER]
        if column not in names:
            raise SonokitError(f"the store has no column {column!r}; it has: {', '.join(names)}")
        whole = self._whole(column)
        kind = whole.type.value_type if pa.types.is_dictionary(whole.type) else whole.type
        try:
            wanted = pa.array([str(value) for value in values], pa.string()).cast(kind)
        except pa.ArrowInvalid as error:
            raise SonokitError(f"the column {column!r} holds {kind}, which {values} is not; ask for another value") from error
        if pa.types.is_dictionary(whole.type):
            codes = pc.drop_null(pc.index_in(wanted, value_set=whole.dictionary))
            keep = pc.is_in(whole.indices, value_set=codes.cast(whole.indices.type))
        else:
            keep = pc.is_in(whole, value_set=wanted)
        mask = keep.to_numpy(zero_copy_only=False).astype(bool)
        if not mask.any():
            raise SonokitError(f"no row has {column} = {' or '.join(map(str, values))}{_some_values(whole)}")
        return mask

    def is_category(self, column: str, most: int = 10) -> bool:
        """Whether a column of the store is text, or numbers of at most ``most`` different values; true for no such column."""
        if column not in self.table.column_names or pa.types.is_dictionary(self.table.schema.field(column).type):
            return True
        return int(pc.count_distinct(self.table[column]).as_py()) <= most

    def details(self, positions: np.ndarray) -> pd.DataFrame:
        """All columns of the rows at ``positions``, as ``EmbeddingStore.frame`` gives them."""
        some = self.table.take(pa.array(positions, pa.int64())).drop_columns([_SORTER])
        plain = [c.cast(c.type.value_type) if pa.types.is_dictionary(c.type) else c for c in some.columns]
        return pa.table(plain, names=some.column_names).to_pandas()

    @cached_property
    def _descriptor(self) -> int | None:
        """The file that was opened, whatever has taken its place since; None where single rows cannot be read (Windows)."""
        if not hasattr(os, "pread"):
            return None
        opened = os.open(self.file, os.O_RDONLY)
        weakref.finalize(self, os.close, opened)
        return opened

    def _whole(self, column: str) -> Any:
        """A column as one array; the file holds it as one, so nothing is copied."""
        values = self.table[column]
        return values.chunk(0) if values.num_chunks == 1 else values.combine_chunks()

    def _codes(self, column: str) -> np.ndarray:
        indices = self._whole(column).indices
        return np.asarray((indices.fill_null(-1) if indices.null_count else indices).to_numpy(zero_copy_only=False))

    def _numbers(self, column: str) -> np.ndarray:
        return np.asarray(self._whole(column).to_numpy())


def normalised(embeddings: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32, shape as given; a row of zeros stays one, and is similar to nothing."""
    rows = np.ascontiguousarray(embeddings, dtype=np.float32)
    length = np.linalg.norm(rows.astype(np.float64), axis=-1, keepdims=True)  # the square of 1e30 is no float32
    return np.asarray(rows / np.where(length > 0, length, 1), dtype=np.float32)


def write_rows(store: EmbeddingStore, folder: Path) -> IndexRows:
    """Copy a store's rows into the two files in ``folder``, part by part, and open them.

    Raises:
        SonokitError: The store is empty, or its rows are replaced all the time.
    """
    for _ in range(_ATTEMPTS):
        table = _all_columns(store)
        if not table.num_rows:
            raise SonokitError(f"{store.folder} holds no rows yet; extract-features fills it")
        with pa.OSFile(str(folder / ROWS_FILE), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        del table
        if _write_embeddings(store, folder):
            return open_rows(folder)
    raise SonokitError(f"the rows of {store.folder} are replaced faster than they can be read; try again when nobody writes")


def open_rows(folder: Path) -> IndexRows:
    """Map the two files in ``folder``; nothing is read before it is needed."""
    table = pa.ipc.open_file(pa.memory_map(str(folder / ROWS_FILE))).read_all()
    rows = IndexRows(table, np.asarray(np.load(folder / EMBEDDINGS_FILE, mmap_mode="r")), folder / EMBEDDINGS_FILE)
    rows._descriptor  # noqa: B018  # now, not when another file may lie there
    return rows


def _all_columns(store: EmbeddingStore) -> pa.Table:
    """Every column but the embedding, text as dictionaries, by clip_id and segment, and the order of the row_ids."""
    names = [name for name in store.columns() if name != "embedding"]
    parts = [_with_dictionaries(part) for part in store.tables(names)]
    if not parts:
        return pa.table({})
    table = pa.concat_tables(parts).unify_dictionaries().combine_chunks()
    del parts
    clip_id = table["clip_id"].chunk(0)
    by_name = pc.sort_indices(clip_id.dictionary).to_numpy()  # by bytes, as the store sorts
    rank = np.empty(len(by_name), np.int32)
    rank[by_name] = np.arange(len(by_name), dtype=np.int32)
    codes = rank[clip_id.indices.to_numpy()]
    clip_id = pa.DictionaryArray.from_arrays(pa.array(codes), clip_id.dictionary.take(pa.array(by_name)))
    table = table.set_column(table.schema.get_field_index("clip_id"), "clip_id", clip_id)
    table = table.take(pa.array(np.lexsort((table["segment"].to_numpy(), codes)))).combine_chunks()
    return table.append_column(_SORTER, pa.array(np.argsort(table["row_id"].to_numpy(), kind="stable")))


def _with_dictionaries(part: pa.Table) -> pa.Table:
    columns = [c.dictionary_encode() if pa.types.is_string(c.type) else c for c in part.columns]
    return pa.table(columns, names=part.column_names)


def _write_embeddings(store: EmbeddingStore, folder: Path) -> bool:
    """Write the embeddings in the order of the rows file; False where the store no longer has one of those rows."""
    rows = IndexRows(
        pa.ipc.open_file(pa.memory_map(str(folder / ROWS_FILE))).read_all(), np.empty((0, 0)), folder / EMBEDDINGS_FILE
    )
    missing = np.ones(len(rows.row_ids), bool)
    target: np.ndarray | None = None
    for part in store.tables(["row_id", "embedding"]):
        column = part["embedding"].combine_chunks()
        values = column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), column.type.list_size)
        if target is None:
            shape = (len(missing), values.shape[1])
            target = np.lib.format.open_memmap(folder / EMBEDDINGS_FILE, "w+", dtype=values.dtype, shape=shape)
        places = rows.positions(part["row_id"].to_numpy())
        known = places >= 0  # a row that came since is in the next index
        target[places[known]] = values[known]
        missing[places[known]] = False
    if target is not None:
        target.flush()  # type: ignore[attr-defined]
    return not missing.any()


def _some_values(column: Any, most: int = 10) -> str:
    if not pa.types.is_dictionary(column.type) or len(column.dictionary) > most:
        return "; ask for another value"
    return f"; there is: {', '.join(sorted(column.dictionary.to_pylist()))}"
