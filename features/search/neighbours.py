"""From what an index finds to an answer: compared again exactly, one row a clip or patient, as many as were asked for.

The rows that the index finds are compared with the query by their own embeddings, in float64. For the kinds that compare every
row (flat, fp16), rows are fetched until the next one cannot belong to the answer even if its inner product is off by all that
rounding allows; the answer is then exactly that of comparing everything. The other kinds fetch until there are enough different
clips. Filters act inside the index, and where they leave few rows, those are all compared: an answer is never short because
what the index found first was filtered out.
"""

from dataclasses import dataclass

import faiss
import numpy as np

from .index import OpenIndex
from .index_kinds import EXACT, OVERSAMPLING, parameters
from .index_rows import normalised

_COMPARE_FILTERED = 20_000  # rows that a filter leaves and that are simply all compared
_MOST_FETCHED = 20_000  # rows a query that an index is asked for; beyond, all rows are compared
_MANY = 512  # queries at once for which rows of 32 bits are worth being made
_DECIMALS = 12  # of a similarity: the last bits depend on the order of summing, and must not order equal rows
_AT_ONCE = 1 << 22  # similarities that are worked on at once: 32 MB


@dataclass(frozen=True)
class Leave:
    """What may not answer a query, and what may answer only once.

    Attributes:
        groups: Of each row a number below 2 N, [N]: of several rows of one number the most similar one answers.
        keep: Rows that may answer any query, bool [N]; None for all.
        clips, patients: Of each query [Q] the clip and the patient that may not answer it, as numbers of ``IndexRows``; -1 for
            none.
    """

    groups: np.ndarray
    keep: np.ndarray | None
    clips: np.ndarray
    patients: np.ndarray


@dataclass(frozen=True)
class Candidates:
    """Rows beside a query each: number of the query, position, and cosine similarity (float64), most similar first."""

    query: np.ndarray
    position: np.ndarray
    similarity: np.ndarray

    def take(self, which: np.ndarray) -> "Candidates":
        """Those at ``which``, an array of places or a boolean mask."""
        return Candidates(self.query[which], self.position[which], self.similarity[which])


def nearest(index: OpenIndex, queries: np.ndarray, k: int, leave: Leave) -> Candidates:
    """The ``k`` best groups of each query, fewer where there are no more.

    Args:
        index: What to search.
        queries: Shape [Q, D]; their lengths do not matter.
        k: Groups wanted.
        leave: What may not answer.

    Returns:
        At most k rows a query, by query, then by similarity, then by clip_id and segment.
    """
    total = len(index.rows) if leave.keep is None else int(leave.keep.sum())
    if leave.keep is not None and total <= _COMPARE_FILTERED:
        return _compare(index, queries, np.arange(len(queries)), np.flatnonzero(leave.keep), k, leave)
    selector = _selector(index, leave.keep)
    # what a filter leaves lies thinner, so that the nearest of it lie in further cells
    effort = index.tuned.effort * -(-len(index.rows) // total)
    pending, wanted = np.arange(len(queries)), min(total, OVERSAMPLING * k)
    most = max(_MOST_FETCHED, OVERSAMPLING * k)
    answers = []
    while len(pending) and wanted <= most:
        params = parameters(index.kind, effort, wanted, selector)
        engine = index.for_many if len(pending) >= _MANY else index.faiss
        scores, row_ids = engine.search(normalised(queries[pending]), wanted, params=params)  # [P, wanted] each
        best = _best(_compared(index, queries, pending, row_ids), k, leave, index)
        everything = wanted == total and index.kind in EXACT
        done = _finished(best, scores, pending, k, index.kind) | everything
        answers.append(best.take(np.isin(best.query, pending[done])))
        pending = pending[~done]
        if wanted == total:
            break
        wanted, effort = min(total, 4 * wanted), 4 * effort
    if len(pending):
        every = np.arange(len(index.rows)) if leave.keep is None else np.flatnonzero(leave.keep)
        answers.append(_compare(index, queries, pending, every, k, leave))
    return _in_order(_joined(answers))


def _exact_similarity(index: OpenIndex, queries: np.ndarray, query: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Cosine similarity in float64 of queries [Q, D] number ``query`` [n] and the rows at ``position`` [n]."""
    units = _units(queries)
    similarity = np.empty(len(query))
    step = max(1, _AT_ONCE // queries.shape[1])
    for start in range(0, len(query), step):
        some = slice(start, start + step)
        similarity[some] = np.einsum("nd,nd->n", units[query[some]], _units(index.rows.take(position[some])))
    return similarity.round(_DECIMALS)


def _units(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, dtype=np.float64)
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.where(length > 0, length, 1)


def _selector(index: OpenIndex, keep: np.ndarray | None) -> faiss.IDSelector | None:
    if keep is None:
        return None
    if 2 * keep.sum() <= len(keep):
        return faiss.IDSelectorBatch(index.rows.row_ids[keep])
    return faiss.IDSelectorNot(faiss.IDSelectorBatch(index.rows.row_ids[~keep]))


def _compared(index: OpenIndex, queries: np.ndarray, pending: np.ndarray, row_ids: np.ndarray) -> Candidates:
    """What the index found for the pending queries, int64 [P, wanted], compared again."""
    positions = index.rows.positions(row_ids)
    there = positions >= 0
    query, position = np.broadcast_to(pending[:, None], there.shape)[there], positions[there]
    return Candidates(query, position, _exact_similarity(index, queries, query, position))


def _compare(
    index: OpenIndex, queries: np.ndarray, pending: np.ndarray, positions: np.ndarray, k: int, leave: Leave
) -> Candidates:
    """The answers of the pending queries among the rows at ``positions``, by comparing all."""
    units, answers = _units(queries[pending]), []
    step = max(1, _AT_ONCE // queries.shape[1])
    for start in range(0, len(positions), step):
        some = positions[start : start + step]
        rows = _units(index.rows.take(some))
        for part in range(0, len(pending), max(1, _AT_ONCE // len(some))):
            asked = pending[part : part + max(1, _AT_ONCE // len(some))]
            similarity = (units[part : part + len(asked)] @ rows.T).round(_DECIMALS)  # [asked, some]
            found = Candidates(np.repeat(asked, len(some)), np.tile(some, len(asked)), similarity.ravel())
            answers.append(_best(found, k, leave, index))
    return _best(_joined(answers), k, leave, index)


def _best(found: Candidates, k: int, leave: Leave, index: OpenIndex) -> Candidates:
    """The k best allowed groups of each query among ``found``, each by its best row."""
    rows = index.rows
    own_clip, own_patient = leave.clips[found.query], leave.patients[found.query]
    allowed = rows.clips[found.position] != own_clip
    allowed &= (own_patient < 0) | (rows.patients[found.position] != own_patient)
    if leave.keep is not None:
        allowed &= leave.keep[found.position]
    found = _in_order(found.take(allowed))
    groups = found.query * (2 * len(rows)) + leave.groups[found.position]
    _, first = np.unique(groups, return_index=True)
    found = found.take(np.sort(first))
    starts = np.searchsorted(found.query, found.query)  # where each one's query begins
    return found.take(np.arange(len(starts)) - starts < k)


def _finished(best: Candidates, scores: np.ndarray, pending: np.ndarray, k: int, kind: str) -> np.ndarray:
    """Which of the pending queries need no further rows, bool [P]; ``scores`` [P, wanted] are those of the index."""
    ends = np.searchsorted(best.query, pending, side="right")
    enough = ends - np.searchsorted(best.query, pending) == k
    if kind not in EXACT or not enough.any():
        return enough
    last = np.full(len(pending), -np.inf)
    last[enough] = best.similarity[ends[enough] - 1]
    return enough & (last > scores[:, -1] + EXACT[kind])


def _in_order(found: Candidates) -> Candidates:
    return found.take(np.lexsort((found.position, -found.similarity, found.query)))


def _joined(some: list[Candidates]) -> Candidates:
    empty = Candidates(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    return Candidates(*(np.concatenate([getattr(c, n) for c in [empty, *some]]) for n in ("query", "position", "similarity")))
