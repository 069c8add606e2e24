"""From the segments of a clip, or of a patient, to one row of features.

A recipe is blocks joined by ``+``, for instance ``mean+extremes`` or ``mean_std+biomarkers``:

    mean        mean embedding over the segments
    spread      standard deviation over the segments (0 for a clip of one segment)
    extremes    minimum and maximum over the segments, dimension by dimension
    biomarkers  mean and maximum over the segments of each biomarker's probability: a sign seen once is seen
    mean_std    another name of mean+spread

Nothing is fitted here; whatever is (a scaler, a choice) belongs to the head.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ..errors import SonokitError
from ..features.store import EmbeddingStore
from ..features.store.rows import embedding_matrix

BLOCKS = ("mean", "spread", "extremes", "biomarkers")
_ALIASES = {"mean_std": ("mean", "spread")}

RECIPES = ("mean_std", "mean", "biomarkers", "mean_std+biomarkers")
"""The recipes that messages and help texts name; any other sum of blocks is one too."""

Unit = Literal["clip", "patient"]
"""What a row of features is."""

SEGMENT_COLUMNS = ("row_id", "segment", "start_s", "end_s")
"""Columns that say something of a segment, not of its clip."""

_VALUES_AT_ONCE = 4_000_000  # of the embeddings that are in memory as float64 at one time, 32 MB


@dataclass(frozen=True)
class ClipFeatures:
    """Features of C clips, or of C patients.

    Attributes:
        clip_ids: str [C], in the store's order; names of the patients, sorted, where they are the rows.
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
        if np.array_equal(self.clip_ids, clip_ids):
            return self.X
        row_of = {clip: row for row, clip in enumerate(self.clip_ids)}
        return self.X[[row_of[clip] for clip in clip_ids]]


def recipe_blocks(recipe: str) -> tuple[str, ...]:
    """The blocks of a recipe in its order, each once.

    Raises:
        SonokitError: No such recipe.
    """
    blocks: list[str] = []
    for word in recipe.split("+"):
        blocks += _ALIASES.get(word, (word,))
    if unknown := [block for block in blocks if block not in BLOCKS]:
        raise SonokitError(
            f"no recipe {recipe!r} ({unknown[0]!r} is no block): choose among {', '.join(RECIPES)}, or join "
            f"{', '.join(BLOCKS)} with +"
        )
    return tuple(dict.fromkeys(blocks))


def usual_recipes(store: EmbeddingStore) -> tuple[str, ...]:
    """The recipes that ``auto`` tries: no spread or extremes where a clip has one segment, biomarkers where there are any."""
    wide = ("mean_std", "mean_std+extremes") if store.header.segments > 1 else ()
    signs = ("biomarkers", f"{wide[0] if wide else 'mean'}+biomarkers") if store.header.biomarkers else ()
    return ("mean", *wide, *signs)


def clip_features(
    store: EmbeddingStore,
    recipe: str = "mean_std",
    unit: Unit = "clip",
    patient: str = "patient_id",
    *,
    only: np.ndarray | None = None,
) -> ClipFeatures:
    """The features that a recipe makes of a store.

    Args:
        store: Its rows are segments of clips.
        recipe: See the top of this file.
        unit: With "patient" a row is a patient, and the recipe runs over all segments of all of their clips.
        patient: The column that says whose a clip is.
        only: Names of the clips that are looked at, str [·]; None: all.

    Raises:
        SonokitError: No such recipe, an empty store, a clip of which nobody knows the patient, or a store without the
            biomarkers that the recipe reads.
    """
    blocks = recipe_blocks(recipe)
    signs = [f"p_{name}" for name in store.header.biomarkers] if "biomarkers" in blocks else []
    if "biomarkers" in blocks and not signs:
        raise SonokitError(
            f"the recipe {recipe!r} reads biomarker probabilities, which {store.folder} has not: "
            "extract it with a biomarker extractor, or take the recipe mean_std"
        )
    wide = ["embedding"] if set(blocks) - {"biomarkers"} else []
    owner = patient if unit == "patient" else "clip_id"
    # one read, so that what another process appends meanwhile cannot shift embeddings against clips
    table = _chosen(store.table(list(dict.fromkeys(["clip_id", owner, *wide, *signs]))), only)
    if table.num_rows == 0:
        raise SonokitError(f"{store.folder} has no rows yet: run extract-features")
    table, starts, names = _grouped(store, table, owner)
    dimensions = store.header.dimensions
    widths = [_block_width(block, dimensions, len(signs)) for block in blocks]
    features = np.empty((len(starts), sum(widths)), dtype=np.float32)
    for rows, begin, length in _parts(starts, table.num_rows, max(1, dimensions if wide else len(signs))):
        part, inside = table.slice(begin, length), starts[rows] - begin
        values = _block_values(part, blocks, signs, dimensions, inside)
        for block, place in zip(blocks, _places(widths), strict=True):
            features[rows, place] = values[block]
    _require_finite(store, features, names, unit)
    return ClipFeatures(names, features, feature_names(recipe, dimensions, store.header.biomarkers))


def feature_names(recipe: str, dimensions: int, biomarkers: Sequence[str]) -> tuple[str, ...]:
    """What each column of a recipe is."""
    words = {"mean": ("mean",), "spread": ("spread",), "extremes": ("minimum", "maximum"), "biomarkers": ("mean", "maximum")}
    names: list[str] = []
    for block in recipe_blocks(recipe):
        of = list(biomarkers) if block == "biomarkers" else [f"dimension {d}" for d in range(dimensions)]
        names += [f"{how} of {name}" for how in words[block] for name in of]
    return tuple(names)


def union_recipe(recipes: Sequence[str]) -> str:
    """The smallest recipe that holds the blocks of several; of one recipe it is that one."""
    if len(recipes) == 1:
        return recipes[0]
    return "+".join(dict.fromkeys(block for recipe in recipes for block in recipe_blocks(recipe)))


def recipe_columns(recipes: Sequence[str], dimensions: int, biomarkers: int) -> dict[str, np.ndarray]:
    """Recipe -> its columns in the features of :func:`union_recipe`, int64 [·], in the recipe's own order."""
    blocks = recipe_blocks(union_recipe(recipes))
    widths = [_block_width(block, dimensions, biomarkers) for block in blocks]
    place = dict(zip(blocks, _places(widths), strict=True))
    whole = np.arange(sum(widths))
    return {recipe: np.concatenate([whole[place[block]] for block in recipe_blocks(recipe)]) for recipe in recipes}


def clip_table(store: EmbeddingStore) -> pd.DataFrame:
    """One row a clip, in the order of :func:`clip_features`: all columns but those of a segment; RangeIndex."""
    rows = store.frame()
    if rows.empty:
        raise SonokitError(f"{store.folder} has no rows yet: run extract-features")
    clips = rows.drop_duplicates("clip_id").reset_index(drop=True)
    return clips.drop(columns=[name for name in clips if name in SEGMENT_COLUMNS or name in _probability_columns(store)])


def _chosen(table: pa.Table, only: np.ndarray | None) -> pa.Table:
    return table if only is None else table.filter(pc.is_in(table["clip_id"], pa.array(np.unique(only).astype(str))))


def _grouped(store: EmbeddingStore, table: pa.Table, owner: str) -> tuple[pa.Table, np.ndarray, np.ndarray]:
    """The rows of each owner together, where each one's begin, int64 [C], and their names, str [C]."""
    if owner != "clip_id":
        if table[owner].null_count:
            clip = table["clip_id"].filter(pc.is_null(table[owner]))[0].as_py()
            raise SonokitError(f"{owner} of clip {clip!r} is unknown in {store.folder}: fill it in, or take --unit clip")
        # as a question names its patients: arrow would write a number in another way
        written = pa.array(table[owner].to_pandas().astype("string"), pa.string(), from_pandas=True)
        table = table.set_column(table.schema.get_field_index(owner), owner, pa.chunked_array([written]))
        named = table[owner].combine_chunks().dictionary_encode()
        rank = np.argsort(np.argsort(named.dictionary.to_numpy(zero_copy_only=False).astype(str), kind="stable"))
        order = np.argsort(rank[named.indices.to_numpy()], kind="stable")
        table = table.take(pa.array(order))
    ids = table[owner].combine_chunks()
    differs = pc.not_equal(ids.slice(1), ids.slice(0, len(ids) - 1)).to_numpy(zero_copy_only=False).astype(bool)
    starts = np.flatnonzero(np.concatenate([[True], differs]))
    return table, starts, ids.take(pa.array(starts)).to_numpy(zero_copy_only=False).astype(str)


def _parts(starts: np.ndarray, rows: int, width: int) -> Iterator[tuple[slice, int, int]]:
    """Whole clips a few thousand rows at a time: which clips, their first row, how many rows."""
    ends, first = np.append(starts[1:], rows), 0
    while first < len(starts):
        last = max(first + 1, int(np.searchsorted(ends, starts[first] + _VALUES_AT_ONCE // width, side="right")))
        yield slice(first, last), int(starts[first]), int(ends[last - 1] - starts[first])
        first = last


def _block_values(
    part: pa.Table, blocks: Sequence[str], signs: Sequence[str], dimensions: int, starts: np.ndarray
) -> dict[str, np.ndarray]:
    """Block -> its columns, [C, ·], of rows whose clips begin at ``starts`` [C]."""
    found: dict[str, np.ndarray] = {}
    if set(blocks) - {"biomarkers"}:
        values = embedding_matrix(part, dimensions)  # [rows, D]
        if "mean" in blocks or "spread" in blocks:
            found["mean"], found["spread"] = _mean_and_spread(values, starts, with_spread="spread" in blocks)
        if "extremes" in blocks:
            found["extremes"] = np.concatenate(
                [np.minimum.reduceat(values, starts), np.maximum.reduceat(values, starts)], axis=1
            )
    if signs:
        seen = np.stack([part[name].to_numpy() for name in signs], axis=1).astype(np.float64)  # [rows, B]
        mean, _ = _mean_and_spread(seen, starts, with_spread=False)
        found["biomarkers"] = np.concatenate([mean, np.maximum.reduceat(seen, starts)], axis=1)
    return found


def _mean_and_spread(values: np.ndarray, starts: np.ndarray, *, with_spread: bool) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation over the rows of each clip, both float64 [C, D]; values [rows, D]."""
    counts = np.diff(np.append(starts, len(values)))  # [C]
    mean = np.add.reduceat(values, starts, dtype=np.float64) / counts[:, None]
    if not with_spread:
        return mean, mean[:0]
    deviation = values - np.repeat(mean, counts, axis=0)
    return mean, np.sqrt(np.add.reduceat(deviation**2, starts) / counts[:, None])


def _block_width(block: str, dimensions: int, biomarkers: int) -> int:
    return {"mean": dimensions, "spread": dimensions, "extremes": 2 * dimensions, "biomarkers": 2 * biomarkers}[block]


def _places(widths: Sequence[int]) -> list[slice]:
    ends = np.cumsum(widths).tolist()
    return [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]


def _require_finite(store: EmbeddingStore, features: np.ndarray, names: np.ndarray, unit: Unit) -> None:
    sums = np.isfinite(features.sum(axis=1, dtype=np.float64))
    if not sums.all():
        raise SonokitError(
            f"{store.folder}: the features of {unit} {names[~sums][0]!r} are not finite; extract the features again"
        )


def _probability_columns(store: EmbeddingStore) -> list[str]:
    return [f"p_{name}" for name in store.header.biomarkers]
