"""Few large parts instead of many small ones, without the rows that others superseded.

The new parts are whole before the old ones go, so a kill at any moment leaves a store that reads the same: at worst with rows
that stand there twice, of which reads take one, and the next compaction ends the work.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from .catalogue import Catalogue
from .files import leftovers, locked, put_json, remove
from .parts import checksum_of
from .store import EmbeddingStore

TARGET_BYTES = 64 << 20  # of a part's rows in memory: what a compaction holds at one time, about
_OTHER_COLUMNS_BYTES = 250  # of a row without its embedding, usually


@dataclass(frozen=True)
class Compaction:
    """What it did: parts before and after, superseded rows that went, files of killed writers that went."""

    parts_before: int
    parts_after: int
    rows_removed: int
    leftovers_removed: int

    def __str__(self) -> str:
        return (
            f"{self.parts_before} parts -> {self.parts_after}; {self.rows_removed} superseded rows and "
            f"{self.leftovers_removed} leftovers of killed runs removed"
        )


def compact(store: EmbeddingStore, target_bytes: int = TARGET_BYTES) -> Compaction:
    """Write the rows of small parts together, without superseded rows, and give parts of older versions their checksum.

    Parts that are large enough and hold nothing superseded stay as they are. Others may read and append meanwhile; appending
    waits. Behind a URL nothing makes others wait: compact there when nobody writes.

    Args:
        store: The store; its ``floor`` is a store of its own.
        target_bytes: Size of a part, uncompressed.
    """
    with locked(store.folder, ".index.lock"), locked(store.folder):
        removed = remove_leftovers(store.folder)
        before = store.parts.catalogue()
        outdated = _outdated(store, before, target_bytes)
        stamp = store.stamp()
        replace_parts(store, outdated, _rows_of(store, before, outdated), target_bytes)
        _keep_index(store.folder, stamp, store.stamp())
        store.write_header()
        after = store.parts.names()
    return Compaction(len(before.parts), len(after), before.superseded_rows, removed)


def replace_parts(store: EmbeddingStore, names: list[str], rows: Iterable[pa.Table], target_bytes: int = TARGET_BYTES) -> None:
    """Write ``rows`` as the last parts, then remove the parts ``names``. Hold the store's lock."""
    if names:
        store.write_header()  # an older sonokit must not overlook the new parts
    for table in _gathered(rows, target_bytes):
        store.parts.write(table)
    store.parts.remove(names)


def remove_leftovers(folder: Path) -> int:
    """Remove what killed writers of rows, header and index left; how many files that were. Hold both of the store's locks."""
    own = [path for path in leftovers(folder) if "index" in path.name or path.name.endswith("store.json")]
    found = [*leftovers(folder / "rows"), *own]
    for path in found:
        remove(path)
    return len(found)


def _outdated(store: EmbeddingStore, catalogue: Catalogue, target_bytes: int) -> list[str]:
    """The parts to write anew: small ones, if there are several, those with superseded rows, those without a checksum."""
    wide = store.header.dimensions * (2 if store.header.dtype == "float16" else 4) + _OTHER_COLUMNS_BYTES
    small = [n for n, part in catalogue.parts.items() if int(part.rows.sum()) * wide < target_bytes // 2]
    spoiled = {n for n in catalogue.parts if checksum_of(n) is None or not catalogue.speaks[n].all()}
    together = set(small) if len(small) > 1 or spoiled else set()
    return [n for n in catalogue.parts if n in spoiled or n in together]


def _rows_of(store: EmbeddingStore, catalogue: Catalogue, names: list[str]) -> Iterator[pa.Table]:
    schema = store.parts.schema()  # with its columns of no type, so that they stay open to text as well as numbers
    for name in names:
        if schema is not None:
            yield store.parts.rows_that_hold(catalogue, name, schema)


def _gathered(tables: Iterable[pa.Table], target_bytes: int) -> Iterator[pa.Table]:
    """The same rows in tables of about the target's size; a part's clips stay together."""
    waiting: list[pa.Table] = []
    for table in tables:
        if table.num_rows:
            waiting.append(table)
        if sum(t.nbytes for t in waiting) >= target_bytes:
            yield pa.concat_tables(waiting)
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting)


def _keep_index(folder: Path, before: str, after: str) -> None:
    """The rows are the same, so an index of them still is: it only has to say so."""
    note = folder / "index.json"
    if before == after or not note.is_file():
        return
    try:
        values = json.loads(note.read_text(encoding="utf-8"))
    except ValueError:  # damaged; it is made anew with the next search
        return
    if values.get("stamp") == before:
        put_json(note, values | {"stamp": after})
