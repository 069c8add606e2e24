"""Which clips a store holds, as columns: a million of them take some 100 MB, where one object a clip would take a gigabyte."""

from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_STEP = 10_000  # pairs that are Python objects at one time


@dataclass(frozen=True)
class PartClips:
    """The clips of one part: their names and contents, each once, and how many rows each has there.

    Attributes:
        schema: Of the part.
        clip_ids: string [C].
        content_hashes: string [C].
        rows: int32 [C].
        disputed: Clips that have rows of more than one content, which no writer makes.
    """

    schema: pa.Schema
    clip_ids: pa.Array
    content_hashes: pa.Array
    rows: np.ndarray
    disputed: int = 0

    @classmethod
    def of(cls, schema: pa.Schema, table: pa.Table) -> "PartClips":
        """From a part's columns clip_id and content_hash."""
        encoded = table["clip_id"].combine_chunks().dictionary_encode()
        codes = encoded.indices.to_numpy(zero_copy_only=False)
        _, first, counts = np.unique(codes, return_index=True, return_counts=True)
        hashes = table["content_hash"].combine_chunks()
        of_clip = hashes.take(pa.array(first))
        same = pc.equal(hashes, of_clip.take(encoded.indices))
        disputed = len(np.unique(codes[~same.to_numpy(zero_copy_only=False).astype(bool)]))
        return cls(schema, encoded.dictionary, of_clip, counts.astype(np.int32), disputed)


class Catalogue:
    """What all parts hold together; of several that hold a clip the last one speaks for it.

    Attributes:
        parts: Part name → its clips, in order.
        speaks: Part name → for which of its clips it speaks, bool [C].
    """

    def __init__(self, parts: dict[str, PartClips]) -> None:
        self.parts = parts

    @cached_property
    def speaks(self) -> dict[str, np.ndarray]:
        """See above; worked out when it is first asked for."""
        sizes = [len(part.clip_ids) for part in self.parts.values()]
        if not sizes:
            return {}
        encoded = pa.concat_arrays([part.clip_ids for part in self.parts.values()]).dictionary_encode()
        codes, clips = encoded.indices.to_numpy(zero_copy_only=False), len(encoded.dictionary)
        del encoded
        pa.default_memory_pool().release_unused()  # Arrow keeps what it has used for later: here more than the catalogue takes
        places = np.arange(len(codes), dtype=np.int32)
        last = np.empty(clips, dtype=np.int32)
        last[codes] = places  # of several values for one place numpy keeps the last
        holds = last[codes] == places
        return dict(zip(self.parts, np.split(holds, np.cumsum(sizes)[:-1]), strict=True))

    @property
    def row_count(self) -> int:
        """The rows that hold."""
        return sum(int(part.rows[self.speaks[name]].sum()) for name, part in self.parts.items())

    @property
    def superseded_rows(self) -> int:
        """The rows that a later part replaced."""
        return sum(int(part.rows[~self.speaks[name]].sum()) for name, part in self.parts.items())

    @property
    def clip_count(self) -> int:
        """The clips that are there."""
        return sum(int(speaks.sum()) for speaks in self.speaks.values())

    def clips(self) -> "ClipSet":
        """(clip_id, content_hash) of every clip that is there."""
        chosen = [(self._of(name, part.clip_ids), self._of(name, part.content_hashes)) for name, part in self.parts.items()]
        return ClipSet(
            pa.chunked_array([ids for ids, _ in chosen], pa.string()), pa.chunked_array([h for _, h in chosen], pa.string())
        )

    def spoken_ids(self, name: str) -> pa.Array:
        """The clips for which the part speaks."""
        return self._of(name, self.parts[name].clip_ids)

    def superseded_ids(self, name: str) -> pa.Array:
        """The clips of the part for which a later one speaks."""
        return self.parts[name].clip_ids.filter(pa.array(~self.speaks[name]))

    def _of(self, name: str, values: pa.Array) -> pa.Array:
        speaks = self.speaks[name]
        return values if speaks.all() else values.filter(pa.array(speaks))


class ClipSet(AbstractSet[tuple[str, str]]):
    """A set of (clip_id, content_hash) that is kept as columns; equal to the Python set of the same pairs."""

    def __init__(self, clip_ids: pa.ChunkedArray, content_hashes: pa.ChunkedArray) -> None:
        self.clip_ids, self.content_hashes = clip_ids, content_hashes

    def holds(self, clip_ids: Sequence[str] | pa.Array | Any, content_hashes: Sequence[str] | pa.Array | Any) -> np.ndarray:
        """Which of these pairs are in the set, bool [len(clip_ids)]; many at once, where ``in`` asks for one."""
        asked, contents = _strings(clip_ids), _strings(content_hashes)
        if not len(asked) or not len(self):
            return np.zeros(len(asked), dtype=bool)
        place = pc.index_in(asked, value_set=self.clip_ids)  # null where there is no such clip
        same = pc.equal(self.content_hashes.take(place), contents)
        return np.asarray(pc.fill_null(same, False).to_numpy(), dtype=bool)

    def __len__(self) -> int:
        return len(self.clip_ids)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        for start in range(0, len(self), _STEP):
            ids, hashes = (column.slice(start, _STEP).to_pylist() for column in (self.clip_ids, self.content_hashes))
            yield from zip(ids, hashes, strict=True)

    def __contains__(self, pair: object) -> bool:
        places, digests = self._digests
        at = int(np.searchsorted(digests, hash(pair)))
        while at < len(digests) and digests[at] == hash(pair):
            if pair == (self.clip_ids[int(places[at])].as_py(), self.content_hashes[int(places[at])].as_py()):
                return True
            at += 1
        return False

    def __le__(self, other: AbstractSet[Any]) -> bool:
        if isinstance(other, ClipSet):
            return len(self) <= len(other) and bool(other.holds(self.clip_ids, self.content_hashes).all())
        return super().__le__(other)

    def __sub__(self, other: AbstractSet[Any]) -> AbstractSet[tuple[str, str]]:
        if not isinstance(other, ClipSet):
            return super().__sub__(other)
        kept = pa.array(~other.holds(self.clip_ids, self.content_hashes))
        return ClipSet(self.clip_ids.filter(kept), self.content_hashes.filter(kept))

    @classmethod
    def _from_iterable(cls, it: Iterable[Any]) -> set[Any]:  # what & and | give is a plain set
        return set(it)

    @cached_property
    def _digests(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions, and Python's hashes of the pairs there in ascending order: 16 bytes a pair."""
        digests = np.fromiter(map(hash, self), dtype=np.int64, count=len(self))
        order = np.argsort(digests, kind="stable")
        return order, digests[order]


def _strings(values: Any) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        return values.cast(pa.string()).combine_chunks()
    return pa.array(values, pa.string(), from_pandas=True)
