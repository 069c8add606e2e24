"""Nearest clips in a store.

A clip that is asked about is the mean of its L2-normalised segment embeddings; a clip that answers is as similar as the most
similar of its segments (cosine), so that a finding that is seen in one moment only is found. The answer is exact: rows are
fetched until k different clips are among them, and every row that was not fetched is less similar than those.
"""

import numpy as np
import pandas as pd

from ..errors import SonokitError
from .index import normalised, open_index
from .rows import SEGMENT_COLUMNS
from .store import EmbeddingStore


def search(
    store: EmbeddingStore,
    query: np.ndarray | str,
    k: int = 5,
    *,
    exclude_same_patient: bool = True,
    patient: str | None = None,
) -> pd.DataFrame:
    """The ``k`` clips that are most similar to ``query``, fewer where the store has no more.

    Args:
        store: The bank of clips.
        query: A clip_id of the store (never among its own answers), or an embedding, shape [D].
        k: Clips wanted.
        exclude_same_patient: Leave out the other clips of the query's patient, which are similar for no medical reason.
        patient: The patient of an embedding that is not in the store.

    Returns:
        rank (from 1), clip_id, patient_id, similarity (cosine), segment (the most similar one), and the clip's other columns;
        equally similar clips in order of clip_id.

    Raises:
        SonokitError: ``clip_id`` is not in the store, or the embedding has another length.
    """
    if k < 1:
        raise SonokitError(f"k must be at least 1, it is {k}")
    index = open_index(store)
    rows = store.frame().set_index("row_id", drop=False)
    left_out: set[str] = set()
    if isinstance(query, str):
        left_out = {query}
        vector, patient = _of_clip(store, query)
    else:
        vector = np.asarray(query, dtype=np.float32)
        if vector.shape != (store.header.dimensions,):
            raise SonokitError(
                f"the query has shape {vector.shape}, the embeddings of {store.folder} {store.header.dimensions}"
            )
    if exclude_same_patient and patient is not None:
        left_out |= set(rows.loc[rows["patient_id"] == patient, "clip_id"])
    best = _best_rows(index, normalised(vector), rows, left_out, k)
    return _answer(best, rows)


def _of_clip(store: EmbeddingStore, clip_id: str) -> tuple[np.ndarray, str | None]:
    """The clip's mean direction, float32 [D], and its patient."""
    table = store.table(["clip_id", "patient_id", "embedding"])
    mine = np.flatnonzero(np.asarray(table["clip_id"].to_pylist()) == clip_id)
    if not len(mine):
        raise SonokitError(f"there is no clip {clip_id!r} in {store.folder}; its clip_id column lists them")
    segments = table.take(mine)
    embeddings = np.asarray(segments["embedding"].to_pylist(), dtype=np.float32)  # [S, D]
    return normalised(embeddings).mean(axis=0), segments["patient_id"][0].as_py()


def _best_rows(index: object, vector: np.ndarray, rows: pd.DataFrame, left_out: set[str], k: int) -> pd.DataFrame:
    """The best row of each of the k best clips: row_id, similarity, clip_id."""
    total = index.ntotal  # type: ignore[attr-defined]
    wanted = min(total, 4 * k)
    while True:
        similarity, ids = index.search(vector[None], wanted)  # type: ignore[attr-defined]  # [1, wanted] each
        found = pd.DataFrame({"row_id": ids[0], "similarity": similarity[0]})
        found["clip_id"] = rows["clip_id"].reindex(found["row_id"]).to_numpy()
        found = found[found["clip_id"].notna() & ~found["clip_id"].isin(left_out)]
        found = found.sort_values(["similarity", "clip_id"], ascending=[False, True], kind="stable")
        found = found.drop_duplicates("clip_id")
        # one clip more than asked for, so that clips as similar as the last one are all there to be ordered
        complete = len(found) > k and found["similarity"].iloc[k] < found["similarity"].iloc[k - 1]
        if complete or wanted == total:
            return found.head(k)
        wanted = min(total, wanted * 4)


def _answer(best: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    details = rows.loc[best["row_id"]].reset_index(drop=True)
    answer = pd.DataFrame(
        {
            "rank": np.arange(1, len(best) + 1),
            "clip_id": details["clip_id"],
            "patient_id": details["patient_id"],
            "similarity": best["similarity"].to_numpy(),
            "segment": details["segment"],
        }
    )
    further = [name for name in details if name not in answer and name not in SEGMENT_COLUMNS]
    return pd.concat([answer, details[further]], axis=1)
