"""From the segments of a clip to one row of features a clip.

    mean                 mean embedding over the clip's segments
    mean_std             that, and the standard deviation over the segments (0 for a clip of one segment)
    biomarkers           mean and maximum over the segments of each biomarker's probability: a sign seen once is seen
    mean_std+biomarkers  both

Nothing is fitted here; whatever is (a scaler, a choice) belongs to the head.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..errors import SonokitError
from ..features.store import EmbeddingStore
from ..features.store.rows import embedding_matrix

RECIPES = ("mean_std", "mean", "biomarkers", "mean_std+biomarkers")

SEGMENT_COLUMNS = ("row_id", "segment", "start_s", "end_s")
"""Columns that say something of a segment, not of its clip."""


@dataclass(frozen=True)
class ClipFeatures:
    """Features of C clips.

    Attributes:
        clip_ids: str [C], in the store's order.
        X: float32 [C, F].
        names: What each feature is, F of them.
    """

    clip_ids: np.ndarray
    X: np.ndarray
    names: tuple[str, ...]

    def rows(self, clip_ids: np.ndarray) -> np.ndarray:
        """The features of some clips in their order, [len(clip_ids), F].

        Raises:
            KeyError: One of them is not here.
        """
        row_of = {clip: row for row, clip in enumerate(self.clip_ids)}
        return self.X[[row_of[clip] for clip in clip_ids]]


def clip_features(store: EmbeddingStore, recipe: str = "mean_std") -> ClipFeatures:
    """The features that a recipe makes of a store.

    Raises:
        SonokitError: No such recipe, an empty store, or one without the biomarkers that the recipe reads.
    """
    if recipe not in RECIPES:
        raise SonokitError(f"no recipe {recipe!r}: choose among {', '.join(RECIPES)}")
    signs = _probability_columns(store) if "biomarkers" in recipe else []
    if "biomarkers" in recipe and not signs:
        raise SonokitError(
            f"the recipe {recipe!r} reads biomarker probabilities, which {store.folder} has not: "
            "extract it with a biomarker extractor, or take the recipe mean_std"
        )
    # one read, so that what another process appends meanwhile cannot shift embeddings against clips
    table = store.table(["clip_id", *(["embedding"] if recipe != "biomarkers" else []), *signs])
    starts, clip_ids = _clip_starts(store, table["clip_id"].to_numpy().astype(str))
    blocks, names = [], []
    if recipe != "biomarkers":
        mean, spread = _mean_and_spread(embedding_matrix(table, store.header.dimensions), starts)
        blocks += [mean] if recipe == "mean" else [mean, spread]
        names += [f"mean of dimension {d}" for d in range(mean.shape[1])]
        names += [] if recipe == "mean" else [f"spread of dimension {d}" for d in range(mean.shape[1])]
    if signs:
        probabilities = table.select(signs).to_pandas().to_numpy(dtype=np.float64)  # [rows, B]
        blocks += [_mean_and_spread(probabilities, starts)[0], np.maximum.reduceat(probabilities, starts)]
        names += [f"{how} of {name}" for how in ("mean", "maximum") for name in store.header.biomarkers]
    features = np.concatenate(blocks, axis=1).astype(np.float32)
    if not np.isfinite(features).all():
        broken = clip_ids[~np.isfinite(features).all(axis=1)][0]
        raise SonokitError(f"{store.folder}: the features of clip {broken!r} are not finite; extract the features again")
    return ClipFeatures(clip_ids, features, tuple(names))


def clip_table(store: EmbeddingStore) -> pd.DataFrame:
    """One row a clip, in the order of :func:`clip_features`: all columns but those of a segment; RangeIndex."""
    rows = store.frame()
    if rows.empty:
        raise SonokitError(f"{store.folder} has no rows yet: run extract-features")
    clips = rows.drop_duplicates("clip_id").reset_index(drop=True)
    return clips.drop(columns=[name for name in clips if name in SEGMENT_COLUMNS or name in _probability_columns(store)])


def _clip_starts(store: EmbeddingStore, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each clip's rows begin, int [C], and its name, str [C]; ``ids`` [rows] has a clip's rows together."""
    if len(ids) == 0:
        raise SonokitError(f"{store.folder} has no rows yet: run extract-features")
    starts = np.flatnonzero(np.concatenate([[True], ids[1:] != ids[:-1]]))
    return starts, ids[starts]


def _mean_and_spread(values: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over the rows of each clip, both [C, D]; values [rows, D]."""
    counts = np.diff(np.append(starts, len(values)))  # [C]
    mean = np.add.reduceat(values, starts, dtype=np.float64) / counts[:, None]
    deviation = values - np.repeat(mean, counts, axis=0)
    return mean, np.sqrt(np.add.reduceat(deviation**2, starts) / counts[:, None])


def _probability_columns(store: EmbeddingStore) -> list[str]:
    return [f"p_{name}" for name in store.header.biomarkers]
