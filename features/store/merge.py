"""Several stores of one model as one: what two machines extracted, or two hospitals."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import SonokitError
from .catalogue import ClipSet
from .compact import TARGET_BYTES
from .files import as_folder, make_folder, put_bytes
from .store import EmbeddingStore, require_same_header, splits_of

OnConflict = Literal["refuse", "first", "last"]
_NAMED = 5


@dataclass(frozen=True)
class Merge:
    """The clips that came into the store, and all that it has now."""

    added: int
    clips: int


def merge(sources: Sequence[str | Path], out: str | Path, on_conflict: OnConflict = "refuse") -> Merge:
    """Bring the clips of ``sources`` into ``out``, which may hold some already; the sources stay as they are.

    A clip that several hold with the same content is taken once, from the first that has it, with its labels there. Killed, the
    same call goes on. Sets of stores are merged member by member, if they have the same division; floors where all have one,
    the store that is there too.

    Args:
        sources: Stores, or store sets, of one model and the same settings.
        out: Where all go: a new folder, or one of the same kind, which counts as the first source.
        on_conflict: For a clip of different contents: "refuse", or take that of the "first" or the "last" source.

    Raises:
        SonokitError: They are of different models or settings, hold different contents of a clip, a label is text in one and
            numbers in another, or the store that is there has a floor and these have none, or the other way round.
    """
    folders = [as_folder(source) for source in sources]
    target = as_folder(out)
    if not folders:
        raise SonokitError("name the stores to merge")
    if any(folder == target for folder in folders):
        raise SonokitError(f"{target} is one of the stores to merge: leave it out there, or choose another --out")
    members = _members(folders, target)
    plans = [_Plan([folder / name for folder in folders], target / name, on_conflict) for name in members]
    for plan in plans:
        plan.carry_out()
    _copy_set(folders[0], target)  # last: until then it is no set
    main = plans[-1]
    return Merge(main.added, main.store.header.clip_count)


def _members(folders: list[Path], target: Path) -> list[str]:
    """The stores in each of the folders, "" for the folder itself, the floor first.

    So the floor never lacks clips of the others, and a merge that was killed has made one if there is to be one.
    """
    sets = [(folder / "set.json").is_file() for folder in folders]
    if any(sets) and not all(sets):
        raise SonokitError("some of these are stores, others sets of stores: merge stores with stores, sets with sets")
    if all(sets):
        divisions = {splits_of(folder).fingerprint() for folder in [*folders, *([target] if _is_set(target) else [])]}
        if len(divisions) > 1:
            raise SonokitError("these sets were made with different splits, so their folds do not match")
        if (target / "store.json").is_file():
            raise SonokitError(f"{target} holds a single store, these are sets; choose another --out")
        count = len(splits_of(folders[0]).folds)
        names = [*(f"fold-{k}" for k in range(count)), "final"]
    else:
        if _is_set(target):
            raise SonokitError(f"{target} holds a set of stores, these are single stores; choose another --out")
        names = [""]
    return [*(["floor"] if _with_floor(folders, target, names) else []), *names]


def _with_floor(folders: list[Path], target: Path, names: list[str]) -> bool:
    """Whether floors are merged, too.

    Raises:
        SonokitError: The target is there and would have a floor without some of its clips.
    """
    lacking = [folder for folder in folders if not _has_floor(folder)]
    if not any((target / name / "store.json").is_file() for name in names) and not _has_floor(target):
        return not lacking
    remedy = "run extract-features there with --floor true, or choose another --out"
    if _has_floor(target) and lacking:
        raise SonokitError(f"{target} has a floor, {lacking[0]} has none: {remedy}")
    if not _has_floor(target) and not lacking:
        raise SonokitError(f"{target} has none of the floors that these stores have: {remedy}")
    return not lacking


def _has_floor(folder: Path) -> bool:
    return (folder / "floor" / "store.json").is_file()


class _Plan:
    """Which clips of which source go into one store; made, and refused, before anything is written."""

    def __init__(self, folders: list[Path], target: Path, on_conflict: OnConflict) -> None:
        self.sources = [EmbeddingStore.open(folder) for folder in folders]
        header = self.sources[0].header_on_disk
        for source in self.sources[1:]:
            require_same_header(self.sources[0].folder, header, source.header_on_disk)
        self.target, self.header = target, header
        there = EmbeddingStore.open(target) if (target / "store.json").is_file() else None
        if there is not None:
            require_same_header(target, there.header_on_disk, header)
        held = (
            there.done() if there is not None else ClipSet(pa.chunked_array([], pa.string()), pa.chunked_array([], pa.string()))
        )
        self.chosen = _choose([held, *(source.done() for source in self.sources)], on_conflict)[1:]
        _require_same_labels([*([there] if there is not None else []), *self.sources])
        self.added = sum(map(len, self.chosen))

    @property
    def store(self) -> EmbeddingStore:
        return EmbeddingStore.open(self.target)

    def carry_out(self) -> None:
        store = EmbeddingStore.create(self.target, self.header)
        waiting: list[pa.Table] = []
        for source, clip_ids in zip(self.sources, self.chosen, strict=True):
            for table in source.tables() if len(clip_ids) else ():
                waiting.append(table.filter(pc.is_in(table["clip_id"], value_set=clip_ids)))
                if sum(t.nbytes for t in waiting) >= TARGET_BYTES:
                    _append(store, waiting)
                    waiting = []
            _append(store, waiting)  # the columns of another source may differ
            waiting = []
        store.update_counts()


def _append(store: EmbeddingStore, tables: list[pa.Table]) -> None:
    if tables:
        store.append(pa.concat_tables(tables))


def _choose(held: list[ClipSet], on_conflict: OnConflict) -> list[pa.Array]:
    """The clip_ids to take from each: those that it has and nobody of precedence, and that the first does not hold as wanted.

    Raises:
        SonokitError: "refuse", and a clip has different contents.
    """
    sizes = np.array([len(clips) for clips in held])
    ids = pa.chunked_array([c for clips in held for c in clips.clip_ids.chunks], pa.string()).combine_chunks()
    hashes = pa.chunked_array([c for clips in held for c in clips.content_hashes.chunks], pa.string()).combine_chunks()
    encoded = ids.dictionary_encode()
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    contents = hashes.dictionary_encode().indices.to_numpy(zero_copy_only=False)
    first, last = np.full(len(encoded.dictionary), -1), np.full(len(encoded.dictionary), -1)
    last[codes] = np.arange(len(codes))
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    disputed = np.unique(codes[contents != contents[first[codes]]])
    if len(disputed) and on_conflict == "refuse":
        names = encoded.dictionary.take(pa.array(disputed[:_NAMED])).to_pylist()
        more = f" and {len(disputed) - _NAMED} more" if len(disputed) > _NAMED else ""
        raise SonokitError(
            f"{len(disputed)} clips have different contents in these stores ({', '.join(names)}{more}): choose --on_conflict "
            "first or last"
        )
    speaks = contents[last if on_conflict == "last" else first]  # the content that counts, clip by clip
    wanted = np.full(len(first), len(codes))
    matching = np.flatnonzero(contents == speaks[codes])
    np.minimum.at(wanted, codes[matching], matching)  # the first entry that has it; of the store itself: nothing to do
    taken = np.zeros(len(codes), dtype=bool)
    taken[wanted] = True
    return _split(ids, taken, sizes)


def _split(ids: pa.Array, taken: np.ndarray, sizes: np.ndarray) -> list[pa.Array]:
    starts = np.cumsum(sizes) - sizes
    return [
        ids.slice(int(start), int(size)).filter(pa.array(taken[start : start + size]))
        for start, size in zip(starts, sizes, strict=True)
    ]


def _require_same_labels(stores: list[EmbeddingStore]) -> None:
    for i, store in enumerate(stores):
        for other in stores[i + 1 :]:
            schema = other.parts.schema()
            if schema is not None:
                store.require_label_types(schema)


def _is_set(folder: Path) -> bool:
    return (folder / "set.json").is_file()


def _copy_set(source: Path, target: Path) -> None:
    make_folder(target)
    for name in ("splits.json", "set.json"):
        if (source / name).is_file() and not (target / name).is_file():
            put_bytes(target / name, (source / name).read_bytes())
