"""What a row of an embedding store is: the header that all rows share, their columns and types, their ids."""

import dataclasses
import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa

from ...errors import SonokitError

SCHEMA_VERSION = 2
"""1: parts named by a random word. 2: by the SHA-256 of the file."""

SEGMENT_COLUMNS = ("row_id", "segment", "start_s", "end_s", "embedding")
"""What differs between the rows of one clip, beside the biomarker probabilities."""

_FIXED_TYPES = {
    "row_id": pa.int64(), "clip_id": pa.string(), "content_hash": pa.string(), "patient_id": pa.string(), "site": pa.string(),
    "probe": pa.string(), "container": pa.string(), "frame_rate": pa.float32(), "segment": pa.int32(), "start_s": pa.float32(),
    "end_s": pa.float32(),
}  # fmt: skip
_NEVER_NULL = ("row_id", "clip_id", "content_hash", "segment", "embedding", "extractor_trained_on")


@dataclass(frozen=True, kw_only=True)
class StoreHeader:
    """What made the rows of a store; two models, or two ways of cutting clips into segments, never mix in one.

    Attributes:
        fingerprint: Hash of the model's weights and of how clips are cut; experts check it.
        kind: Whether a plain backbone made the rows, or a biomarker extractor.
        model: Its name, for people.
        dimensions: Length of an embedding.
        dtype: In which the embeddings are kept.
        biomarkers: Those with a probability column ``p_<biomarker>``, in order.
        segments, segment_frames: A clip gives up to ``segments`` rows, each from ``segment_frames`` frames.
        size: Side of the square frames, in pixels.
        sampling: The frame cache's ``frames`` and ``rate_hz``, one of them None.
        fold: The fold of ``splits_fingerprint`` whose training side the extractor was fitted on; None for a final one.
        fitted_on_labels: Whether labels were used anywhere in the model's making.
        row_count, clip_count: As of the last finished writing; ``EmbeddingStore.header`` counts afresh.
    """

    fingerprint: str
    kind: Literal["backbone", "extractor"]
    model: str
    dimensions: int
    dtype: Literal["float16", "float32"] = "float16"
    metric: str = "cosine"
    biomarkers: list[str] = dataclasses.field(default_factory=list)
    segments: int = 16
    segment_frames: int = 1
    size: int = 224
    sampling: dict[str, int | float | None] = dataclasses.field(default_factory=lambda: {"frames": 16, "rate_hz": None})
    fold: int | None = None
    splits_fingerprint: str | None = None
    fitted_on_labels: bool = False
    row_count: int = 0
    clip_count: int = 0
    schema_version: int = SCHEMA_VERSION

    def fixed_schema(self) -> pa.Schema:
        """The columns that every part of this store has; label columns of the manifest follow them."""
        types = dict(_FIXED_TYPES)
        types["embedding"] = pa.list_(pa.from_numpy_dtype(np.dtype(self.dtype)), self.dimensions)
        types.update({f"p_{name}": pa.float32() for name in self.biomarkers})
        types["extractor_trained_on"] = pa.bool_()
        return pa.schema([pa.field(name, kind) for name, kind in types.items()])


def row_id(clip_id: str, segment: int) -> int:
    """63 bits of a hash of clip and segment: the same whoever writes the row, and never negative."""
    digest = hashlib.blake2b(f"{clip_id}\0{segment}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def make_rows(header: StoreHeader, rows: pd.DataFrame, embeddings: np.ndarray) -> pa.Table:
    """Rows in the form that ``EmbeddingStore.append`` takes.

    Args:
        header: Of the store.
        rows: One row a segment: clip_id, content_hash and segment, and whatever is known of the other fixed columns; any
            further column is a label, kept as float64 where it is numeric and as string otherwise.
        embeddings: Shape [len(rows), D].

    Raises:
        SonokitError: An embedding is not finite in the store's dtype.
    """
    with np.errstate(over="ignore"):  # told below
        values = np.ascontiguousarray(embeddings, dtype=header.dtype).reshape(len(rows), header.dimensions)
    _require_finite(values, rows)
    columns: dict[str, pa.Array] = {}
    for field in header.fixed_schema():
        if field.name == "row_id":
            ids = [row_id(c, int(s)) for c, s in zip(rows["clip_id"], rows["segment"], strict=True)]
            columns[field.name] = pa.array(ids, pa.int64())
        elif field.name == "embedding":
            columns[field.name] = pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), header.dimensions)
        elif field.name in rows:
            columns[field.name] = pa.array(rows[field.name], field.type, from_pandas=True)
        else:
            columns[field.name] = (
                pa.array([False] * len(rows)) if pa.types.is_boolean(field.type) else pa.nulls(len(rows), field.type)
            )
    columns |= {str(name): label_array(rows[name]) for name in rows if name not in columns}
    return pa.table(columns)


def embedding_matrix(table: pa.Table, dimensions: int) -> np.ndarray:
    """The column ``embedding`` of a table, float32 [rows, dimensions]."""
    flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=np.float32).reshape(-1, dimensions)


def checked_rows(header: StoreHeader, table: pa.Table) -> pa.Table:
    """``table`` with the fixed columns first, in their types.

    Raises:
        ValueError: A fixed column is missing or cannot be cast, a label has another type than float64, string or null, or a
            segment occurs twice.
    """
    fixed = header.fixed_schema()
    missing = [name for name in fixed.names if name not in table.column_names]
    if missing:
        raise ValueError(f"rows lack the columns {missing}")
    labels = [name for name in table.column_names if name not in fixed.names]
    for name in labels:
        kind = table.schema.field(name).type
        if kind not in (pa.float64(), pa.string(), pa.null()):
            raise ValueError(f"label column {name!r} is {kind}; expected double, string or null")
    columns = [table[field.name].cast(field.type) for field in fixed] + [table[name] for name in labels]
    checked = pa.table(columns, names=[*fixed.names, *labels])
    holed = [name for name in _NEVER_NULL if checked[name].null_count]
    if holed:
        raise ValueError(f"rows have nulls in {holed}")
    if len(set(checked["row_id"].to_pylist())) < checked.num_rows:
        raise ValueError("a segment of a clip occurs twice")
    return checked


def label_array(values: pd.Series) -> pa.Array:
    """A label column in one of the store's types: float64 for numbers, string otherwise, null where all are unknown."""
    if values.isna().all():
        return pa.nulls(len(values))
    if pd.api.types.is_numeric_dtype(values):
        return pa.array(values.astype("Float64"), pa.float64(), from_pandas=True)
    return pa.array(values.astype("string"), pa.string(), from_pandas=True)


def _require_finite(values: np.ndarray, rows: pd.DataFrame) -> None:
    bad = ~np.isfinite(values).all(axis=1)
    if bad.any():
        clip_id = rows["clip_id"].iloc[int(np.argmax(bad))]
        raise SonokitError(
            f"the embedding of clip {clip_id!r} has values that {values.dtype} cannot hold (too large, or no numbers); "
            "choose dtype float32, and if that fails too another model"
        )
