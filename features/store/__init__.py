"""The embedding store: where feature learning and clinical tasks meet. Needs no torch."""

from .rows import SCHEMA_VERSION, StoreHeader, label_array, make_rows, row_id
from .store import EmbeddingStore, StoreSet, open_stores

__all__ = ["SCHEMA_VERSION", "EmbeddingStore", "StoreHeader", "StoreSet", "label_array", "make_rows", "open_stores", "row_id"]
