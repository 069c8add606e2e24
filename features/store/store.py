"""The embedding store: where feature learning and clinical tasks meet. Parquet parts below a header; needs no torch.

    STORE/store.json                which model made the rows, and how
    STORE/rows/part-*.parquet       one row a segment of a clip; any Arrow reader opens them
    STORE/index.faiss               rebuilt from the parts whenever they changed (see index.py)
    STORE/floor/                    perhaps: the same clips through the same network with random weights

STORE is a local folder or any fsspec URL. A store set holds one store a fold, each with *all* clips as that fold's extractor
sees them, and a final one.
"""

import dataclasses
import hashlib
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ...clips.splits import Splits, read_splits
from ...errors import SonokitError
from .catalogue import ClipSet
from .files import as_folder, is_local, locked, make_folder, put_json
from .parts import Parts
from .rows import SCHEMA_VERSION, StoreHeader, checked_rows, embedding_matrix, label_array, make_rows, row_id

__all__ = ["SCHEMA_VERSION", "EmbeddingStore", "StoreHeader", "StoreSet", "label_array", "make_rows", "open_stores", "row_id"]


class EmbeddingStore:
    """One folder of embeddings. Any number of processes may append and read at once.

    Attributes:
        folder: A ``pathlib.Path``, or for a URL a ``upath.UPath``.
        parts: Its rows as files, for what looks after a store.
    """

    def __init__(self, folder: Path, header: StoreHeader) -> None:
        self.folder = folder
        self.parts = Parts(folder / "rows")
        self._header = header

    @classmethod
    def create(cls, folder: str | Path, header: StoreHeader) -> Self:
        """Begin a store, or go on with one of the same header.

        Raises:
            SonokitError: ``folder`` holds a store that another model, or other settings, made.
        """
        folder = as_folder(folder)
        make_folder(folder)
        with locked(folder):
            if (folder / "store.json").exists():
                store = cls.open(folder)
                require_same_header(folder, store._header, header)
                return store
            put_json(folder / "store.json", dataclasses.asdict(header))
        return cls(folder, header)

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Open a store.

        Raises:
            SonokitError: ``folder`` is not a store, or a newer version of sonokit wrote it.
        """
        folder = as_folder(folder)
        file = folder / "store.json"
        if not file.is_file() and (folder / "set.json").is_file():
            raise SonokitError(f"{folder} is a set, not one store: name one in it, such as {folder / 'final'}")
        if not file.is_file():
            raise SonokitError(f"{folder} is not an embedding store (it has no store.json); extract-features makes one")
        try:
            values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
            version = int(values["schema_version"])
            known = {f.name for f in dataclasses.fields(StoreHeader)}
            if version > SCHEMA_VERSION:
                raise SonokitError(f"{file} has schema version {version}, this sonokit knows {SCHEMA_VERSION}: update sonokit")
            return cls(folder, StoreHeader(**{k: v for k, v in values.items() if k in known}))
        except (ValueError, KeyError, TypeError) as error:
            raise SonokitError(f"{file} is damaged ({error}); extract the features anew into another folder") from error

    @property
    def header(self) -> StoreHeader:
        """The header, with the rows and clips that are there now."""
        clips = self.parts.catalogue()
        return dataclasses.replace(self._header, row_count=clips.row_count, clip_count=clips.clip_count)

    @property
    def header_on_disk(self) -> StoreHeader:
        """The header as it was read, with the counts that store.json names; costs nothing."""
        return self._header

    @property
    def floor(self) -> "EmbeddingStore | None":
        """The same clips through the same network with random weights, where it was made.

        Raises:
            SonokitError: It lacks clips of this store, or has them from other files.
        """
        return _floor_of(self.folder, self)

    def append(self, table: pa.Table) -> None:
        """Add all rows of some clips as one part; clips that are there already are superseded.

        Args:
            table: The columns of ``header.fixed_schema()`` and any label columns (float64, string, or null where all are
                unknown). ``make_rows`` builds it.

        Raises:
            SonokitError: A label column is text here and numbers in the store, or the other way round.
            ValueError: The table is not of this store's form.
        """
        if table.num_rows == 0:
            return
        table = checked_rows(self._header, table)
        with locked(self.folder):
            self.require_label_types(table.schema)
            if self._header.schema_version < SCHEMA_VERSION:  # first, so that an older sonokit never overlooks a new part
                self.write_header()
            self.parts.write(table)

    def update_counts(self) -> None:
        """Write the present counts into store.json, for readers that only look there."""
        with locked(self.folder):
            self.write_header()

    def done(self) -> ClipSet:
        """(clip_id, content_hash) of every clip that is there, as a set; its ``holds`` asks for many at once."""
        return self.parts.catalogue().clips()

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, or their named columns, sorted by clip_id and segment whoever wrote them first."""
        schema = self.parts.schema() or self._header.fixed_schema()
        wanted = list(schema.names if columns is None else columns)
        unknown = sorted(set(wanted) - set(schema.names))
        if unknown:
            raise SonokitError(f"{self.folder} has no column {', '.join(unknown)}; it has: {', '.join(schema.names)}")
        parts = list(self.parts.tables(list(dict.fromkeys([*wanted, "clip_id", "segment"]))))
        if not parts:
            return schema.empty_table().select(wanted)
        rows = pa.concat_tables(parts).combine_chunks()
        return rows.take(_order(rows)).select(wanted)

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """The rows part by part, all columns or the named ones, in the order of writing: for what must not hold all at once."""
        return self.parts.tables(columns)

    def embeddings(self) -> tuple[np.ndarray, np.ndarray]:
        """The embeddings, float32 [N, D], and their row_ids, int64 [N], in the order of ``table``."""
        rows = self.table(["row_id", "embedding"])
        return embedding_matrix(rows, self._header.dimensions), rows["row_id"].to_numpy()

    def frame(self, columns: Sequence[str] | None = None) -> pd.DataFrame:
        """All columns but the embedding, or the named ones, in the order of ``table``."""
        if columns is None:
            columns = [name for name in self.columns() if name != "embedding"]
        return self.table(columns).to_pandas()

    def columns(self) -> list[str]:
        """The names of all columns, those that every store has first."""
        return list((self.parts.schema() or self._header.fixed_schema()).names)

    def stamp(self) -> str:
        """Names the present state of the rows: equal stamps, equal rows."""
        return hashlib.sha256("\n".join(self.parts.names()).encode()).hexdigest()[:16]

    def reload_header(self) -> None:
        """Read store.json again, after it was changed by other means."""
        self._header = type(self).open(self.folder).header_on_disk

    def require_label_types(self, schema: pa.Schema) -> None:
        """Refuse rows whose labels are of other types than those that are there.

        Raises:
            SonokitError: A label column is text here and numbers in the store, or the other way round.
        """
        present = self.parts.schema()
        for field in schema:
            there = present.field(field.name).type if present is not None and field.name in present.names else field.type
            if there != field.type and pa.null() not in (there, field.type):
                words = {pa.float64(): "numbers", pa.string(): "text"}
                raise SonokitError(
                    f"the manifest's column {field.name!r} holds {words[field.type]}, in {self.folder} it holds "
                    f"{words[there]}; mend the column, or choose another --out"
                )

    def write_header(self) -> None:
        """Write store.json with the present counts and schema version. Hold the store's lock."""
        self._header = dataclasses.replace(self._header, schema_version=SCHEMA_VERSION)
        put_json(self.folder / "store.json", dataclasses.asdict(self.header))


@dataclass(frozen=True)
class StoreSet:
    """One store a fold, each with all clips, and the final one."""

    folder: Path
    splits: Splits
    folds: list[EmbeddingStore]
    final: EmbeddingStore
    floor: EmbeddingStore | None


def open_stores(folder: str | Path) -> EmbeddingStore | StoreSet:
    """Open a store or a store set, whichever ``folder`` is.

    Raises:
        SonokitError: It is neither, or a set whose extraction was stopped before all of its stores held the same clips.
    """
    folder = as_folder(folder)
    if not (folder / "set.json").is_file():
        return EmbeddingStore.open(folder)
    values = json.loads((folder / "set.json").read_text(encoding="utf-8"))
    if values.get("kind") != "store-set":
        raise SonokitError(f"{folder} is a set of {values.get('kind')}, not of stores; extract-features makes stores from it")
    names = [*(f"fold-{k}" for k in range(int(values["folds"]))), "final"]
    unfinished = f"{folder} is unfinished: run the same extract-features command again, it only does what is missing"
    if not all((folder / name / "store.json").is_file() for name in names):
        raise SonokitError(unfinished)
    stores = [EmbeddingStore.open(folder / name) for name in names]
    if any(store.done() != stores[-1].done() for store in stores):
        raise SonokitError(unfinished)
    return StoreSet(folder, splits_of(folder), stores[:-1], stores[-1], _floor_of(folder, stores[-1]))


def splits_of(folder: Path) -> Splits:
    """The division of a store set.

    Raises:
        SonokitError: ``splits.json`` is missing or holds no division.
    """
    if is_local(folder):
        return read_splits(folder / "splits.json")
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "splits.json"
        copy.write_bytes((folder / "splits.json").read_bytes())
        return read_splits(copy)


def _floor_of(folder: Path, store: EmbeddingStore) -> EmbeddingStore | None:
    """The store in ``folder/floor``, if any; it must hold the clips of ``store``, made from the same files."""
    if not (folder / "floor" / "store.json").is_file():
        return None
    floor = EmbeddingStore.open(folder / "floor")
    missing = store.done() - floor.done()
    if missing:
        raise SonokitError(
            f"{floor.folder} lacks {len(missing)} clips of the store, or holds an older file of them: run extract-features "
            "again with --floor true"
        )
    return floor


def _order(rows: pa.Table) -> pa.Array:
    """Positions that sort ``rows`` by clip_id (as bytes) and segment."""
    return pc.sort_indices(rows, sort_keys=[("clip_id", "ascending"), ("segment", "ascending")])


def require_same_header(folder: Path, there: StoreHeader, now: StoreHeader) -> None:
    """Refuse to put rows of one header into the store ``folder`` of another.

    Raises:
        SonokitError: It names what differs; counts and the version of the schema may.
    """
    neutral = {"row_count": 0, "clip_count": 0, "schema_version": 0}
    before, after = ({**dataclasses.asdict(header), **neutral} for header in (there, now))
    differing = [name for name in before if before[name] != after[name]]
    if differing:
        changes = ", ".join(f"{name}: {before[name]!r} there, {after[name]!r} now" for name in differing)
        raise SonokitError(
            f"{folder} holds the rows of another model or setting ({changes}). Choose another --out, or remove that folder."
        )
