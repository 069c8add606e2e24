"""Nearest clips in a store.

A clip that is asked about is the mean of its L2-normalised segment embeddings; a clip that answers is as similar as the most
similar of its segments (cosine), so that a finding that is seen in one moment only is found. Similarities are those of the
embeddings in the store whichever the index. With an index that compares every row (kinds flat and fp16) the answer is exactly
that of comparing everything; the others find the share that ``index.json`` tells as recall, under a filter about as much: they
then search as much more as the filter leaves less.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from ...errors import SonokitError
from ..store import EmbeddingStore
from ..store.rows import SEGMENT_COLUMNS
from .index import OpenIndex, open_index
from .index_kinds import Kind
from .index_rows import IndexRows, normalised
from .neighbours import Leave, nearest


def search(
    store: EmbeddingStore | OpenIndex,
    query: np.ndarray | str,
    k: int = 5,
    *,
    exclude_same_patient: bool = True,
    patient: str | None = None,
    where: Mapping[str, Any] | None = None,
    without_patients: Sequence[str] = (),
    one_per_patient: bool = False,
    kind: Kind | Literal["auto"] | None = None,
) -> pd.DataFrame:
    """The ``k`` clips that are most similar to ``query``, fewer where the store has no more.

    Args:
        store: The bank of clips, or its index where it is open already.
        query: A clip_id of the store (never among its own answers), or an embedding, shape [D].
        k: Clips wanted.
        exclude_same_patient: Leave out the other clips of the query's patient, which are similar for no medical reason.
        patient: The patient of an embedding that is not in the store.
        where: Columns and what they must hold: a value, or a list of which one must be there. Rows of the clips that answer
            hold all of it.
        without_patients: Patients that may not answer.
        one_per_patient: Of each patient only the most similar clip.
        kind: Kind of index; it is built where it is not there. None takes the one that is there.

    Returns:
        rank (from 1), clip_id, patient_id, similarity (cosine), segment (the most similar one), and the clip's other columns;
        equally similar clips in order of clip_id.

    Raises:
        SonokitError: ``clip_id`` is not in the store, the embedding has another length, or ``where`` names no column or a value
            that no row has.
    """
    if k < 1:
        raise SonokitError(f"k must be at least 1, it is {k}")
    index = store if isinstance(store, OpenIndex) else open_index(store, kind)
    own_clip = None
    if isinstance(query, str):
        own_clip = query
        query, patient = _of_clip(index, query)
    found = search_many(
        index,
        np.asarray(query)[None],
        k,
        where=where,
        clips=[own_clip],
        patients=[patient if exclude_same_patient else None],
        without_patients=without_patients,
        one_per_patient=one_per_patient,
    )
    return _answer(found, index.rows)


def direction_of(store: EmbeddingStore) -> np.ndarray:
    """The mean of all L2-normalised rows, float64 [D]: of a store of one clip, what that clip is asked about with."""
    embeddings, _ = store.embeddings()
    return normalised(embeddings).astype(np.float64).mean(axis=0)


@dataclass(frozen=True)
class Neighbours:
    """What was found for Q queries, most similar first.

    Attributes:
        row_ids: int64 [Q, k]; -1 where the store has no more.
        similarities: Cosine, float64 [Q, k]; NaN there.
        positions: Where the rows stand in the index, int64 [Q, k], -1 there (for ``IndexRows.details``).
    """

    row_ids: np.ndarray
    similarities: np.ndarray
    positions: np.ndarray


def search_many(
    store: EmbeddingStore | OpenIndex,
    queries: np.ndarray,
    k: int = 10,
    *,
    where: Mapping[str, Any] | None = None,
    clips: Sequence[str | None] | None = None,
    patients: Sequence[str | None] | None = None,
    without_patients: Sequence[str] = (),
    one_per_patient: bool = False,
    kind: Kind | Literal["auto"] | None = None,
) -> Neighbours:
    """The most similar row of each of the ``k`` most similar clips, for many embeddings at once.

    Args:
        store: The bank of clips, or its index where it is open already, which spares opening it again.
        queries: Embeddings, shape [Q, D], of any length.
        k: Clips wanted for each.
        where: As for ``search``.
        clips: Of each query the clip that may not answer it, or None.
        patients: Of each query the patient who may not answer it, or None.
        without_patients: Patients who may not answer any.
        one_per_patient: Of each patient only the most similar clip; clips of unknown patients count each for themselves.
        kind: As for ``search``.

    Raises:
        SonokitError: As ``search`` does.
    """
    index = store if isinstance(store, OpenIndex) else open_index(store, kind)
    rows = index.rows
    queries = np.asarray(queries)
    if queries.ndim != 2 or queries.shape[1] != rows.embeddings.shape[1]:
        raise SonokitError(
            f"the query has shape {queries.shape[1:]}, the embeddings of {index.place} {rows.embeddings.shape[1:]}"
        )
    if not np.isfinite(queries).all():
        raise SonokitError("a query has values that are not finite; a similarity to it means nothing")
    leave = Leave(
        groups=_each_patient(rows) if one_per_patient else rows.clips,
        keep=_kept(rows, where or {}, without_patients),
        clips=_codes(rows, "clip_id", clips, len(queries)),
        patients=_codes(rows, "patient_id", patients, len(queries)),
    )
    best = nearest(index, queries, k, leave)
    found = Neighbours(np.full((len(queries), k), -1), np.full((len(queries), k), np.nan), np.full((len(queries), k), -1))
    place = best.query, np.arange(len(best.query)) - np.searchsorted(best.query, best.query)
    found.positions[place] = best.position
    found.row_ids[place] = rows.row_ids[best.position]
    found.similarities[place] = best.similarity
    return found


def _of_clip(index: OpenIndex, clip_id: str) -> tuple[np.ndarray, str | None]:
    """The clip's mean direction, float64 [D], and its patient."""
    rows = index.rows
    code = rows.code("clip_id", clip_id)
    if code < 0:
        raise SonokitError(f"there is no clip {clip_id!r} in {index.place}; its clip_id column lists them")
    segments = rows.of_clip(code)
    patient = rows.table["patient_id"][int(segments[0])].as_py()
    return normalised(rows.take(segments)).astype(np.float64).mean(axis=0), patient


def _codes(rows: IndexRows, column: str, names: Sequence[str | None] | None, count: int) -> np.ndarray:
    """The number of each query's own clip or patient, int64 [count]; -1 for none, and for one that the store has not."""
    if names is None:
        return np.full(count, -1)
    if len(names) != count:
        raise SonokitError(f"there are {count} queries and {len(names)} values for {column}; give one a query")
    known = {name: rows.code(column, name) for name in set(names) if name is not None}
    return np.array([-1 if name is None else known[name] for name in names], dtype=np.int64)


def _kept(rows: IndexRows, where: Mapping[str, Any], without_patients: Sequence[str]) -> np.ndarray | None:
    """Which rows may answer, bool [N]; None for all."""
    masks = [rows.matches(c, list(v) if isinstance(v, list | tuple | set) else [v]) for c, v in where.items()]
    if without_patients:
        masks.append(~np.isin(rows.patients, _codes(rows, "patient_id", without_patients, len(without_patients))))
        masks[-1] |= rows.patients < 0
    return np.logical_and.reduce(masks) if masks else None


def _each_patient(rows: IndexRows) -> np.ndarray:
    """A number a patient, int64 [N]; clips of unknown patients have one each."""
    known = rows.patients >= 0
    return np.where(known, rows.patients, rows.clips.astype(np.int64) + int(rows.patients.max()) + 1)


def _answer(found: Neighbours, rows: IndexRows) -> pd.DataFrame:
    """What was found for the first query, as a table."""
    positions = found.positions[0][found.positions[0] >= 0]
    details = rows.details(positions)
    answer = pd.DataFrame(
        {
            "rank": np.arange(1, len(positions) + 1),
            "clip_id": details["clip_id"],
            "patient_id": details["patient_id"],
            "similarity": found.similarities[0][: len(positions)],
            "segment": details["segment"],
        }
    )
    further = [name for name in details if name not in answer and name not in SEGMENT_COLUMNS]
    return pd.concat([answer, details[further]], axis=1)
