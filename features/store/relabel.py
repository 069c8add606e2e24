"""Keeping up with the manifest: rows of clips whose labels or patients were mended, without another forward pass."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from .rows import embedding_matrix, label_array, make_rows
from .store import EmbeddingStore


def refresh_details(store: EmbeddingStore, details: pd.DataFrame, trained_on: np.ndarray) -> int:
    """Write anew the rows of clips of which the manifest now says something else, their embeddings unchanged.

    Args:
        store: The store.
        details: One row a clip, as :func:`sonokit.features.extraction.extract.clip_details` gives it.
        trained_on: ``extractor_trained_on`` of each, bool [N]: it follows the patient.

    Returns:
        How many clips that were.
    """
    now = details.assign(extractor_trained_on=trained_on).set_index("clip_id", drop=False)
    there = store.frame([n for n in now if n in store.columns()]).drop_duplicates("clip_id").set_index("clip_id", drop=False)
    both = now.index.intersection(there.index)
    both = both[(now.loc[both, "content_hash"] == there.loc[both, "content_hash"]).to_numpy(dtype=bool)]
    outdated = set(both[_differs(now.loc[both], there.loc[both])])
    if not outdated:
        return 0
    # one read: rows and embeddings must be those of one moment
    wanted = pa.array(sorted(outdated))
    table = pa.concat_tables([part.filter(pc.is_in(part["clip_id"], wanted)) for part in store.tables()])
    # what the manifest says nothing of stays: times, probabilities, and columns that only an earlier manifest had
    kept = table.select([n for n in table.column_names if n not in now and n not in ("row_id", "embedding")]).to_pandas()
    said = now.loc[table["clip_id"].to_pylist()].reset_index(drop=True)
    embeddings = embedding_matrix(table, store.header.dimensions)
    store.append(make_rows(store.header, pd.concat([said, kept], axis=1), embeddings))
    return len(outdated)


def _differs(now: pd.DataFrame, there: pd.DataFrame) -> np.ndarray:
    """Clip by clip, whether any column does; a column that the store lacks counts as unknown there. bool [N]."""
    differs = np.zeros(len(now), dtype=bool)
    for name in now:
        ours = _comparable(now[name].astype(np.float32) if name == "frame_rate" else now[name])  # the store's precision
        theirs = _comparable(there[name]) if name in there else np.full(len(now), None, dtype=object)
        differs |= ours != theirs
    return differs


def _comparable(values: pd.Series) -> np.ndarray:
    """Values as the store keeps them, None where unknown."""
    return np.array(label_array(values).to_pylist(), dtype=object)
