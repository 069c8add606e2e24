"""The FAISS index of a store: exact inner products of L2-normalised rows, that is cosine similarity, under the rows' own ids.

``index.faiss`` is derived: it is rebuilt whenever ``index.json`` does not name the present state of the rows. The ids are the
store's row_ids, never positions, so an index that is a moment old still points at the right rows.
"""

import json
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from filelock import FileLock

from ..atomic import atomic_path, write_json
from ..errors import SonokitError
from .store import EmbeddingStore

INDEX_KIND = "flat"


def build_index(store: EmbeddingStore) -> Path:
    """Write ``index.faiss`` anew and return its path.

    Raises:
        SonokitError: The store is empty.
    """
    file = store.folder / "index.faiss"
    with FileLock(store.folder / ".index.lock"):
        stamp = store.stamp()
        embeddings, row_ids = store.embeddings()
        if not len(row_ids):
            raise SonokitError(f"{store.folder} holds no rows yet; extract-features fills it")
        index = faiss.IndexIDMap2(faiss.IndexFlatIP(embeddings.shape[1]))
        index.add_with_ids(normalised(embeddings), row_ids)
        (store.folder / "index.json").unlink(missing_ok=True)  # while the two files do not match, there is no valid index
        with atomic_path(file) as temporary:
            faiss.write_index(index, str(temporary))
        write_json(store.folder / "index.json", {"kind": INDEX_KIND, "rows": len(row_ids), "stamp": stamp})
    return file


def open_index(store: EmbeddingStore) -> Any:
    """The store's index (``faiss.Index``), built first where it is missing or older than the rows."""
    if not index_is_current(store):
        build_index(store)
    return faiss.read_index(str(store.folder / "index.faiss"))


def index_is_current(store: EmbeddingStore) -> bool:
    """Whether an index of the present rows is there."""
    note = store.folder / "index.json"
    if not note.is_file() or not (store.folder / "index.faiss").is_file():
        return False
    return bool(json.loads(note.read_text(encoding="utf-8")).get("stamp") == store.stamp())


def normalised(embeddings: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32, shape as given; a row of zeros stays one, and is similar to nothing."""
    rows = np.ascontiguousarray(embeddings, dtype=np.float32)
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1), dtype=np.float32)
