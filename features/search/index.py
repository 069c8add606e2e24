"""The FAISS index of a store: inner products of L2-normalised rows, that is cosine similarity, under the rows' own ids.

    STORE/index.faiss             the rows' directions, opened memory-mapped (kinds: see index_kinds.py)
    STORE/index-rows.arrow        what a search needs to know beside them, and the embeddings themselves (see index_rows.py)
    STORE/index-embeddings.npy
    STORE/index.json              kind, recall, and which state of the rows this is; written last

All of them are derived: they are made anew whenever ``index.json`` does not name the present state of the rows. The ids are the
store's row_ids, never positions, so an index that is a moment old still points at the right rows. Behind a URL the files are
made in a local temporary folder and copied there, and copied back to be opened.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import faiss

from ...atomic import atomic_path
from ..store import EmbeddingStore
from ..store.files import is_local, locked, put_json
from .index_kinds import Kind, Tuned, kind_for, known_kind, make_index, open_mapped, tune
from .index_rows import EMBEDDINGS_FILE, ROWS_FILE, IndexRows, normalised, open_rows, write_rows

__all__ = ["INDEX_FILES", "OpenIndex", "build_index", "index_is_current", "normalised", "open_index", "remove_index"]

INDEX_FILES = ("index.json", "index.faiss", ROWS_FILE, EMBEDDINGS_FILE)
"""All that is derived from the rows for searching; index.json counts for nothing without the others, and they without it."""

_LAYOUT = 1
_WIDE_BYTES = 256_000_000  # of memory that answering many queries at once may take
_LOW_RECALL = 0.95  # below, and for pq always, the recall is told
_log = logging.getLogger(__name__)
_TEMPORARY = ".tmp-index-"


@dataclass(frozen=True)
class OpenIndex:
    """An index that is open for searching, and stays what it is when the store changes.

    Attributes:
        faiss: The ``faiss.Index``; its ids are row_ids.
        rows: What lies under it.
        kind: How it finds.
        tuned: How hard it searches, and the recall that was measured at that.
    """

    faiss: Any
    rows: IndexRows
    kind: Kind
    tuned: Tuned
    place: Path
    _copy: "tempfile.TemporaryDirectory[str] | None" = None  # of what lies behind a URL; goes with this object

    @cached_property
    def for_many(self) -> Any:
        """What answers many queries at once.

        For 16-bit rows that fit into memory the same rows in 32 bits, searched by matrix products in less than half the time;
        for the other kinds the index itself.
        """
        count, dimensions = self.rows.embeddings.shape
        if self.kind != "fp16" or 4 * count * dimensions > _WIDE_BYTES:
            return self.faiss
        wide = faiss.IndexIDMap2(faiss.IndexFlatIP(dimensions))
        for some in self.rows.chunks():
            wide.add_with_ids(self.rows.units(some), self.rows.row_ids[some])
        return wide


def build_index(store: EmbeddingStore, kind: Kind | Literal["auto"] | None = None) -> Path:
    """Write the index anew and return the path of ``index.faiss``; the same rows give the same file.

    Memory: the columns without the embeddings, a sample of the rows, and the index itself.

    Args:
        store: The rows.
        kind: Which kind; "auto" for the one that suits the size. None for what was asked for when the present index was made,
            else "auto".

    Raises:
        SonokitError: The store is empty, or there is no such kind.
    """
    with locked(store.folder, ".index.lock"), _workplace(store.folder) as built:
        stamp = store.stamp()
        asked = kind or _note(store).get("asked", "auto")
        rows = write_rows(store, built)
        chosen = kind_for(len(rows)) if asked == "auto" else known_kind(asked)
        index = make_index(chosen, rows)
        tuned = tune(chosen, index, rows)
        _tell(store.folder, chosen, tuned)
        faiss.write_index(index, str(built / "index.faiss"))
        note = {
            "layout": _LAYOUT, "kind": chosen, "asked": asked, "rows": len(rows), "stamp": stamp, "effort": tuned.effort,
            "recall_at_10": round(tuned.recall, 4), "queries": tuned.queries, "sha256": _sha256(built / "index.faiss"),
            "sidecars": {name: _sha256(built / name) for name in (ROWS_FILE, EMBEDDINGS_FILE)},
        }  # fmt: skip
        del index, rows
        (store.folder / "index.json").unlink(missing_ok=True)  # while the files do not match, there is no valid index
        for name in INDEX_FILES[1:]:
            _move(built / name, store.folder / name)
        put_json(store.folder / "index.json", note)
    return store.folder / "index.faiss"


def open_index(store: EmbeddingStore, kind: Kind | Literal["auto"] | None = None) -> OpenIndex:
    """Open the store's index, built first where it is missing, older than the rows, or not of the kind that is asked for.

    Args:
        store: The rows.
        kind: As for ``build_index``; None takes the kind that is there.

    Raises:
        SonokitError: The store is empty, or there is no such kind.
    """
    rebuilt = False
    while True:
        if not index_is_current(store, kind):
            build_index(store, kind)
        note = _note(store)
        try:
            opened = _open(store.folder, note)
        except (OSError, RuntimeError, ValueError, KeyError):  # damaged, or between two states
            if note == _note(store):
                if rebuilt:
                    raise
                build_index(store, kind)
                rebuilt = True
            continue
        if note == _note(store):  # else another process wrote a new index meanwhile, and these files may not match
            return opened


def index_is_current(store: EmbeddingStore, kind: Kind | Literal["auto"] | None = None) -> bool:
    """Whether an index of the present rows is there, and of the kind that is asked for."""
    note = _note(store)
    if note.get("layout") != _LAYOUT or note.get("stamp") != store.stamp():
        return False
    wanted = kind_for(int(note["rows"])) if kind == "auto" else known_kind(kind or note["kind"])
    return bool(wanted == note["kind"]) and all((store.folder / name).is_file() for name in INDEX_FILES)


def remove_index(folder: Path) -> None:
    """Remove every file of an index from a store's folder, leftovers of killed builds too; the next search makes it anew."""
    with locked(folder, ".index.lock"):
        for name in INDEX_FILES:
            (folder / name).unlink(missing_ok=True)
        _remove_leftovers(folder)


def _tell(folder: Path, kind: Kind, tuned: Tuned) -> None:
    if kind == "pq" or tuned.recall < _LOW_RECALL:
        _log.warning(
            "The %s index of %s finds %.1f %% of the 10 nearest rows (measured with %d rows of the store); auto finds more.",
            kind, folder, 100 * tuned.recall, tuned.queries,
        )  # fmt: skip


def _note(store: EmbeddingStore) -> dict[str, Any]:
    """What index.json says; empty where there is none, or none that can be read."""
    try:
        values = json.loads((store.folder / "index.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _open(folder: Path, note: dict[str, Any]) -> OpenIndex:
    copy = None
    here = folder
    if not is_local(folder):
        copy = tempfile.TemporaryDirectory(prefix="sonokit-index-")
        here = Path(copy.name)
        for name in INDEX_FILES[1:]:
            _copy_file(folder / name, here / name)
    kind = known_kind(note["kind"])
    tuned = Tuned(int(note["effort"]), float(note["recall_at_10"]), int(note["queries"]))
    return OpenIndex(open_mapped(kind, here / "index.faiss"), open_rows(here), kind, tuned, folder, copy)


@contextmanager
def _workplace(folder: Path) -> Iterator[Path]:
    """A temporary folder: in the store where that is local, so that its files need only be renamed."""
    if not is_local(folder):
        with tempfile.TemporaryDirectory(prefix="sonokit-index-") as temporary:
            yield Path(temporary)
        return
    _remove_leftovers(folder)
    with tempfile.TemporaryDirectory(prefix=_TEMPORARY, dir=folder, ignore_cleanup_errors=True) as temporary:
        yield Path(temporary)


def _remove_leftovers(folder: Path) -> None:
    """What killed builds left; for whoever holds the lock."""
    if is_local(folder):
        for left in folder.glob(f"{_TEMPORARY}*"):
            shutil.rmtree(left)


def _move(built: Path, target: Path) -> None:
    if is_local(target):
        with atomic_path(target) as temporary:
            os.replace(built, temporary)
    else:
        _copy_file(built, target)


def _copy_file(source: Path, target: Path) -> None:
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 22)


def _sha256(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
