"""The kinds of FAISS index: made, tuned on the store's own rows, and opened memory-mapped.

    flat    float32, every row compared: exact                        (faiss.IndexFlatIP)
    fp16    the same at half the memory                               (faiss.IndexScalarQuantizer, 16-bit floats)
    hnsw    a graph of neighbours over 16-bit floats; built slowly    (Malkov and Yashunin 2018, arXiv 1603.09320)
    ivf     cells, a few of them searched, 8 bits a value             (faiss.IndexIVFScalarQuantizer)
    pq      cells, 8 bits for 4 values; by name only, loses most      (Jégou et al. 2011, doi 10.1109/TPAMI.2010.57)

All compare by the inner product of rows of length 1, and know their rows by the store's row_ids. What an index finds is
compared again with the embeddings themselves (see ``neighbours.py``), so the figures that a search reports are exact for each.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import faiss as _faiss
import numpy as np

from ...errors import SonokitError
from .index_rows import IndexRows

faiss: Any = _faiss  # its stubs lack parts of what is used here
Kind = Literal["flat", "fp16", "hnsw", "ivf", "pq"]
KINDS: tuple[Kind, ...] = get_args(Kind)
EXACT: dict[str, float] = {"flat": 1e-5, "fp16": 1e-3}
"""Kinds that compare every row, and by how much their inner products of unit rows may be wrong: float32 sums, and beside them
16-bit values, each off by 2^-11 of itself."""

OVERSAMPLING = 4
"""Rows that are fetched and compared again for each one that is asked for."""

RECALL_AT = 10
_COMPARE_ALL = 100_000  # rows up to which every row is compared, in some milliseconds at 128 numbers
_RECALL_WANTED = 0.98
_QUERIES = 500
_PER_CELL = 64  # training rows a cell; faiss asks for 39 at least
_PQ_ROWS = 256  # an 8-bit code book needs as many rows
_SEED = 0
_LINKS, _BUILD_EFFORT = 32, 80  # of the graph
_EFFORTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 4096)


@dataclass(frozen=True)
class Tuned:
    """How hard an index searches, and what it then finds.

    Attributes:
        effort: Cells that are searched (ivf, pq) or the breadth of the walk (hnsw); 0 where every row is compared.
        recall: The share of the 10 nearest other rows that is found, over ``queries`` rows of the store.
        queries: How many.
    """

    effort: int
    recall: float
    queries: int


def kind_for(rows: int) -> Kind:
    """The kind that is chosen by size: every row compared up to 100,000 rows, cells beyond."""
    return "fp16" if rows <= _COMPARE_ALL else "ivf"


def known_kind(name: str) -> Kind:
    """``name`` as a kind.

    Raises:
        SonokitError: It is none.
    """
    if name not in KINDS:
        raise SonokitError(f"there is no index kind {name!r}; choose {', '.join(KINDS)}")
    return name


def make_index(kind: Kind, rows: IndexRows) -> Any:
    """A filled index (``faiss.Index``); the same rows give the same index.

    Raises:
        SonokitError: There are too few rows for ``pq``.
    """
    count, dimensions = rows.embeddings.shape
    if kind == "pq" and count < _PQ_ROWS:
        raise SonokitError(f"an index of kind pq needs at least {_PQ_ROWS} rows, there are {count}; choose flat")
    index = _empty(kind, count, dimensions)
    if not index.is_trained:
        index.train(rows.units(_drawn(rows, max(_PQ_ROWS, _cells(count) * _PER_CELL))))
    threads = faiss.omp_get_max_threads()
    if kind == "hnsw":
        faiss.omp_set_num_threads(1)  # the links depend on who comes first
    try:
        for chunk in rows.chunks():
            index.add_with_ids(rows.units(chunk), rows.row_ids[chunk])
    finally:
        faiss.omp_set_num_threads(threads)
    return index


def tune(kind: Kind, index: Any, rows: IndexRows) -> Tuned:
    """The least effort that finds 98 % of the nearest rows, measured with rows of the store as queries.

    A query is not counted among its own neighbours. Where no effort reaches that share (``pq``), the least that comes within
    half a point of the best.
    """
    count = min(RECALL_AT, len(rows) - 1)
    if kind == "flat" or count < 1:
        return Tuned(0, 1.0, 0)
    drawn = _drawn(rows, _QUERIES, last=True)
    queries = rows.units(drawn)
    truth = _nearest(rows, queries, drawn, count)
    if kind == "fp16":
        return Tuned(0, _recall(kind, index, queries, truth, 0), len(drawn))
    most = _cells(len(rows)) if kind in ("ivf", "pq") else _EFFORTS[-1]
    found: list[Tuned] = []
    for effort in [e for e in _EFFORTS if e < most] + [most]:
        found.append(Tuned(effort, _recall(kind, index, queries, truth, effort), len(drawn)))
        if found[-1].recall >= _RECALL_WANTED:
            return found[-1]
    best = max(tuned.recall for tuned in found)
    return next(tuned for tuned in found if tuned.recall >= best - 0.005)


def parameters(kind: Kind, effort: int, wanted: int, selector: Any = None) -> Any:
    """What ``index.search`` takes as ``params``: the effort, and which row_ids may be found."""
    among = {} if selector is None else {"sel": selector}
    if kind in ("ivf", "pq"):
        return faiss.SearchParametersIVF(nprobe=effort, **among)
    if kind == "hnsw":
        return faiss.SearchParametersHNSW(efSearch=max(effort, wanted), **among)
    return faiss.SearchParameters(**among)


def open_mapped(kind: Kind, file: Path) -> Any:
    """The index in ``file``, its rows left on the disk until they are looked at.

    faiss 1.15 maps the lists of cells with one flag and everything else with another, and ignores the wrong one silently.
    """
    flag = faiss.IO_FLAG_MMAP if kind in ("ivf", "pq") else faiss.IO_FLAG_MMAP_IFC
    return faiss.read_index(str(file), flag)


def _empty(kind: Kind, count: int, dimensions: int) -> Any:
    inner, half = faiss.METRIC_INNER_PRODUCT, faiss.ScalarQuantizer.QT_fp16
    if kind == "flat":
        return faiss.IndexIDMap2(faiss.IndexFlatIP(dimensions))
    if kind == "fp16":
        return faiss.IndexIDMap2(faiss.IndexScalarQuantizer(dimensions, half, inner))
    if kind == "hnsw":
        graph = faiss.IndexHNSWSQ(dimensions, half, _LINKS, inner)
        graph.hnsw.efConstruction = _BUILD_EFFORT
        return faiss.IndexIDMap2(graph)
    coarse, cells = faiss.IndexFlatIP(dimensions), _cells(count)
    if kind == "ivf":
        index = faiss.IndexIVFScalarQuantizer(coarse, dimensions, cells, faiss.ScalarQuantizer.QT_8bit, inner)
    else:
        parts = max(n for n in range(1, dimensions + 1) if dimensions % n == 0 and n <= max(1, dimensions // 4))
        index = faiss.IndexIVFPQ(coarse, dimensions, cells, parts, 8, inner)
    index.cp.seed = _SEED
    index.cp.max_points_per_centroid = _PER_CELL
    return index


def _cells(count: int) -> int:
    """Some 2 sqrt(N), a power of two, and never so many that there is too little to place them by."""
    return max(1, min(2 ** round(np.log2(2 * np.sqrt(count))), count // 39))


def _drawn(rows: IndexRows, count: int, *, last: bool = False) -> np.ndarray:
    """Positions of ``count`` rows: those of the smallest row_ids, or of the largest. Row_ids are hashes: an even sample."""
    ordered = rows.by_row_id
    return np.sort(ordered[-count:] if last else ordered[:count])


def _nearest(rows: IndexRows, queries: np.ndarray, own: np.ndarray, count: int) -> np.ndarray:
    """The row_ids of the ``count`` rows nearest to each query but its own, int64 [Q, count], by comparing all."""
    best = faiss.ResultHeap(len(queries), count, keep_max=True)
    for chunk in rows.chunks():
        similar = queries @ rows.units(chunk).T  # [Q, rows]
        mine = np.flatnonzero((own >= chunk.start) & (own < chunk.stop))
        similar[mine, own[mine] - chunk.start] = -np.inf
        some = min(count, similar.shape[1])
        top = np.argpartition(-similar, some - 1, axis=1)[:, :some]
        best.add_result(np.take_along_axis(similar, top, axis=1), rows.row_ids[chunk][top])
    best.finalize()
    return np.asarray(best.I)


def _recall(kind: Kind, index: Any, queries: np.ndarray, truth: np.ndarray, effort: int) -> float:
    wanted = min(index.ntotal, 1 + OVERSAMPLING * truth.shape[1])
    _, found = index.search(queries, wanted, params=parameters(kind, effort, wanted))
    return float(np.mean([np.isin(true, ids).mean() for true, ids in zip(truth, found, strict=True)]))
