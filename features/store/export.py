"""A store's rows as plain files for other tools: one Parquet file, NumPy with a CSV beside it, or CSV alone.

Rows come in the order in which they were written, part by part, so that a store of any size needs the memory of one part.
"""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ...atomic import atomic_path
from ...errors import SonokitError
from .rows import StoreHeader
from .store import EmbeddingStore

Format = Literal["parquet", "numpy", "csv"]


def export(store: EmbeddingStore, out: Path, kind: Format) -> int:
    """Write all rows that hold, without superseded ones; returns how many.

    ``parquet`` is a file of the store's columns. ``numpy`` is a folder with ``embeddings.npy`` [N, D] in the store's dtype and
    ``rows.csv``, the other columns in the same order. ``csv`` is a file with the embedding as columns e_000, e_001, ….

    Raises:
        SonokitError: ``out`` is there already, or the store is empty.
    """
    out = Path(out)
    if out.exists():
        raise SonokitError(f"{out} is there already; choose another --out")
    if not store.header.row_count:
        raise SonokitError(f"{store.folder} holds no rows yet; extract-features fills it")
    with atomic_path(out) as temporary:
        return {"parquet": _parquet, "numpy": _numpy, "csv": _csv}[kind](store, temporary)


def _parquet(store: EmbeddingStore, path: Path) -> int:
    count, writer = 0, None
    try:
        for table in store.tables():
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
            writer.write_table(table)
            count += table.num_rows
    finally:
        if writer is not None:
            writer.close()
    return count


def _numpy(store: EmbeddingStore, folder: Path) -> int:
    folder.mkdir()
    dimensions, dtype = store.header.dimensions, np.dtype(store.header.dtype)
    count = 0
    with open(folder / "embeddings.npy", "wb") as values, open(folder / "rows.csv", "w", encoding="utf-8", newline="") as rows:
        values.write(_npy_head(0, dimensions, dtype))
        for table in store.tables():
            values.write(_matrix(table, dimensions, dtype).tobytes())
            table.drop_columns(["embedding"]).to_pandas().to_csv(rows, index=False, header=count == 0)
            count += table.num_rows
        values.seek(0)
        values.write(_npy_head(count, dimensions, dtype))  # as long as the first one: numpy leaves room for the number to grow
    return count


def _csv(store: EmbeddingStore, path: Path) -> int:
    count = 0
    with open(path, "w", encoding="utf-8", newline="") as file:
        for table in store.tables():
            for frame in _frames(table, store.header):
                frame.to_csv(file, index=False, header=count == 0)
                count += len(frame)
    return count


def _frames(table: pa.Table, header: StoreHeader) -> Iterator[pd.DataFrame]:
    digits = max(3, len(str(header.dimensions - 1)))
    names = [f"e_{d:0{digits}d}" for d in range(header.dimensions)]
    for batch in table.to_batches(max_chunksize=10_000):
        rows = pa.table(batch)
        values = _matrix(rows, header.dimensions, np.dtype(header.dtype))
        others = rows.drop_columns(["embedding"]).to_pandas()
        yield pd.concat([others, pd.DataFrame(values, columns=names)], axis=1)


def _matrix(table: pa.Table, dimensions: int, dtype: np.dtype) -> np.ndarray:
    """The embeddings as they are kept, [rows, D]."""
    flat = table["embedding"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat, dtype=dtype).reshape(-1, dimensions)


def _npy_head(rows: int, dimensions: int, dtype: np.dtype) -> bytes:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (rows, dimensions)}
    )
    return head.getvalue()
