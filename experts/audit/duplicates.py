"""Clips of different patients that are too alike to be of different patients: one film under two names, or one person twice.

Every clip is asked for its nearest clip of another patient: the index proposes ten, of which the most similar one counts by the
cosine of the two clips' mean directions, so that a copy has 1. How alike such neighbours are depends on the extractor, so the
threshold comes from the store itself: the similarities are put on Fisher's scale, artanh, where they spread evenly, and what
lies more than 3.5 robust standard deviations (1.4826 times the median absolute deviation) above the median stands out:
Iglewicz and Hoaglin's rule (1993). It fails where half of the clips have a double.
"""

from dataclasses import dataclass

import numpy as np

from ...features.search import search_many
from ...features.search.index import OpenIndex, open_index
from ...features.store import EmbeddingStore

_OUTLYING = 3.5
_TO_DEVIATION = 1.4826
_ASKED_AT_ONCE = 1024
_ANSWERS = 10
_LARGEST = 1 - 1e-7  # a similarity of 1 has no place on Fisher's scale


@dataclass(frozen=True)
class Pair:
    """Two clips of two patients, ``first`` before ``second`` by name."""

    first: str
    second: str
    first_patient: str
    second_patient: str
    similarity: float


@dataclass(frozen=True)
class NearDuplicates:
    """What stands out.

    Attributes:
        pairs: Most similar first.
        threshold: On the cosine; None where fewer than ten clips have a neighbour, which gives no distribution.
        median: Of the nearest other-patient similarities; None likewise.
        clips: How many were asked.
    """

    pairs: tuple[Pair, ...]
    threshold: float | None
    median: float | None
    clips: int


def near_duplicates(
    store: EmbeddingStore, clip_ids: np.ndarray, patient_of: dict[str, str], *, by_patient_id: bool = True
) -> NearDuplicates:
    """Look for pairs; the store's index is built where it is missing.

    Args:
        store: Where neighbours are looked for, in all of it.
        clip_ids: The clips that are asked, str [N].
        patient_of: The patient of every clip of the store; clips that are not in it answer for nobody.
        by_patient_id: Whether these are those of the store's own column patient_id, which the search leaves out by itself; else
            they are left out of its ten answers.
    """
    nearest = _nearest_others(store, clip_ids, patient_of, by_patient_id)
    similarities = np.array([pair.similarity for pair in nearest])
    threshold, median = outlying(similarities)
    if threshold is None:
        return NearDuplicates((), None, None, len(clip_ids))
    found = {(pair.first, pair.second): pair for pair in nearest if pair.similarity > threshold}
    pairs = sorted(found.values(), key=lambda pair: (-pair.similarity, pair.first, pair.second))
    return NearDuplicates(tuple(pairs), threshold, median, len(clip_ids))


def outlying(similarities: np.ndarray) -> tuple[float | None, float | None]:
    """The similarity above which one stands out of ``similarities`` [N], and their median; None for fewer than ten."""
    if len(similarities) < 10:
        return None, None
    spread_evenly = np.arctanh(np.clip(similarities, -_LARGEST, _LARGEST))
    middle = np.median(spread_evenly)
    deviation = _TO_DEVIATION * np.median(np.abs(spread_evenly - middle))
    return float(np.tanh(middle + _OUTLYING * deviation)), float(np.tanh(middle))


def _nearest_others(store: EmbeddingStore, clip_ids: np.ndarray, patient_of: dict[str, str], by_patient_id: bool) -> list[Pair]:
    """Of each clip the nearest one of another patient."""
    index = open_index(store)
    nearest, directions = [], _Directions(index)
    for start in range(0, len(clip_ids), _ASKED_AT_ONCE):
        names = [str(name) for name in clip_ids[start : start + _ASKED_AT_ONCE]]
        whose = [patient_of[name] for name in names] if by_patient_id else None
        asked = np.stack([directions.of(name) for name in names])
        found = search_many(index, asked, _ANSWERS, clips=names, patients=whose)
        there = found.positions >= 0
        others = np.full(there.shape, "", dtype=object)
        others[there] = index.rows.details(found.positions[there])["clip_id"].to_numpy(dtype=object)
        for name, answers in zip(names, others, strict=True):
            pairs = [
                _pair(name, other, patient_of, float(directions.of(name) @ directions.of(other)))
                for other in map(str, answers)
                if other in patient_of and patient_of[other] != patient_of[name]
            ]
            nearest += [max(pairs, key=lambda pair: (pair.similarity, pair.first, pair.second))] if pairs else []
    return nearest


def _pair(name: str, other: str, patient_of: dict[str, str], similarity: float) -> Pair:
    first, second = sorted((name, other))
    return Pair(first, second, patient_of[first], patient_of[second], similarity)


class _Directions:
    """The mean of a clip's rows at length 1, itself at length 1, float64 [D]; each is made once."""

    def __init__(self, index: OpenIndex) -> None:
        self.rows = index.rows
        self.known: dict[str, np.ndarray] = {}

    def of(self, name: str) -> np.ndarray:
        if name not in self.known:
            mean = self.rows.units(self.rows.of_clip(self.rows.code("clip_id", name))).mean(axis=0, dtype=np.float64)
            self.known[name] = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return self.known[name]
