"""What puts one person on both sides: overlapping splits, contents that occur twice, an extractor that knew the clips."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ...clips.splits import Splits
from ...features.store import EmbeddingStore, StoreSet
from ..question import Question


@dataclass(frozen=True)
class SharedContent:
    """One content under several names: the clips that have it, and whose they are."""

    clip_ids: tuple[str, ...]
    patients: tuple[str, ...]


@dataclass(frozen=True)
class BothSides:
    """What stands on both sides of a fold, or inside and outside of the held-out part; sorted names."""

    patients: tuple[str, ...]
    contents: tuple[str, ...]
    folds: int


def shared_contents(table: pd.DataFrame, patients: np.ndarray) -> list[SharedContent]:
    """Contents of more than one clip, those of several patients first.

    Args:
        table: One row a clip: clip_id, content_hash.
        patients: Whose each clip is, str [N].
    """
    clips = pd.DataFrame({"clip": table["clip_id"].astype(str), "content": table["content_hash"], "patient": patients})
    twice = clips[clips["content"].duplicated(keep=False)]
    found = [
        SharedContent(tuple(sorted(group["clip"])), tuple(sorted(set(group["patient"]))))
        for _, group in twice.groupby("content", sort=True)
    ]
    return sorted(found, key=lambda shared: (-len(shared.patients), shared.clip_ids))


def both_sides(splits: Splits, question: Question) -> BothSides:
    """Who and what is on both sides of a fold by the store's own patients and contents, whatever the splits believe of them."""
    clip_ids, contents = question.clip_ids, question.table["content_hash"].to_numpy(dtype=str)
    held_out = np.isin(clip_ids, np.asarray(splits.held_out, dtype=str))
    sides = [np.isin(clip_ids, np.asarray(fold.test, dtype=str)) for fold in splits.folds]
    pairs = [(~held_out & ~test, test) for test in sides] + [(~held_out, held_out)]
    folds = 0
    people: set[str] = set()
    things: set[str] = set()
    for train, test in pairs:
        same_people, same_things = _common(question.patients, train, test), _common(contents, train, test)
        folds += bool(same_people or same_things)
        people |= same_people
        things |= same_things
    return BothSides(tuple(sorted(people)), tuple(sorted(things)), folds)


def clips_trained_on(stores: EmbeddingStore | StoreSet, clip_ids: np.ndarray) -> tuple[int, str]:
    """How many of these clips were tested by an extractor that had their labels, and which store says so.

    Of a store set every fold's store is asked for the clips that its fold tests; the final store may know all of them.
    """
    if isinstance(stores, EmbeddingStore):
        return _marked(stores, clip_ids), str(stores.folder)
    for fold, store in zip(stores.splits.folds, stores.folds, strict=True):
        count = _marked(store, np.intersect1d(clip_ids, np.asarray(fold.test, dtype=str)))
        if count:
            return count, str(store.folder)
    return 0, str(stores.folder)


def _common(names: np.ndarray, first: np.ndarray, second: np.ndarray) -> set[str]:
    return set(np.intersect1d(names[first], names[second]).tolist())


def _marked(store: EmbeddingStore, clip_ids: np.ndarray | Sequence[str]) -> int:
    rows = store.frame(["clip_id", "extractor_trained_on"]).drop_duplicates("clip_id").set_index("clip_id")
    return int(rows["extractor_trained_on"].reindex(list(clip_ids)).fillna(False).astype(bool).sum())
