"""Whether a store, or a set of stores, is whole: every byte of its parts, every row, its index, and that its members agree.

Faults are what would give somebody a wrong answer or none. Notes are what is in order but worth knowing: rows that others
superseded, files that killed runs left behind, an index that the next search rebuilds.
"""

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ...errors import SonokitError
from .catalogue import ClipSet
from .files import as_folder, is_local, leftovers, members_of, names_in
from .parts import checksum_of
from .rows import embedding_matrix, row_id
from .store import EmbeddingStore, splits_of

_CHUNK = 8 << 20


@dataclass
class Verification:
    """What was found.

    Attributes:
        stores: How many were looked at: a store, its floor, the members of a set.
        parts, rows, clips: Of all of them together, as they could be read.
        faults: One line each.
        notes: One line each.
    """

    stores: int = 0
    parts: int = 0
    rows: int = 0
    clips: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def verify(folder: str | Path) -> Verification:
    """Read all of a store or store set, and its floor.

    Raises:
        SonokitError: ``folder`` is neither.
    """
    folder = as_folder(folder)
    found = Verification()
    if (folder / "set.json").is_file():
        _verify_set(folder, found)
    else:
        EmbeddingStore.open(folder)  # tells what is wrong with it, or that it is no store
        clips = _verify_store(folder, found)
        if clips is not None:
            _verify_floor(folder, clips, found)
    return found


def _verify_set(folder: Path, found: Verification) -> None:
    names = members_of(folder)
    values = json.loads((folder / "set.json").read_text(encoding="utf-8"))
    fingerprint = None
    try:
        fingerprint = splits_of(folder).fingerprint()
        if values.get("splits_fingerprint", fingerprint) != fingerprint:
            found.faults.append(f"{folder / 'splits.json'} is not the division that set.json names")
    except SonokitError as error:
        found.faults.append(str(error))
    held = {name: _verify_store(folder / name, found) for name in names}
    final = held["final"]
    for name, clips in held.items():
        if clips is not None and final is not None and clips != final:
            found.faults.append(f"{folder / name} and {folder / 'final'} hold different clips: run extract-features again")
        _verify_place(folder / name, name, fingerprint, found)
    if final is not None:
        _verify_floor(folder, final, found)


def _verify_place(folder: Path, name: str, fingerprint: str | None, found: Verification) -> None:
    """Whether a member's header says that it is this member."""
    try:
        header = EmbeddingStore.open(folder).header
    except SonokitError:
        return  # told already
    fold = None if name == "final" else int(name.removeprefix("fold-"))
    if header.fold != fold and header.fold is not None:
        found.faults.append(f"{folder / 'store.json'} says that it is fold {header.fold}")
    if fingerprint is not None and header.splits_fingerprint not in (None, fingerprint):
        found.faults.append(f"{folder} was made with other splits than those beside it")


def _verify_floor(folder: Path, clips: ClipSet, found: Verification) -> None:
    if not (folder / "floor").is_dir():
        return
    floor = _verify_store(folder / "floor", found)
    if floor is not None and len(lacking := clips - floor):
        found.faults.append(f"{folder / 'floor'} lacks {len(lacking)} clips of the store, or has them from older files")


def _verify_store(folder: Path, found: Verification) -> ClipSet | None:
    """Look at one store; its clips, None where they cannot be told."""
    try:
        store = EmbeddingStore.open(folder)
    except SonokitError as error:
        found.faults.append(str(error))
        return None
    found.stores += 1
    _note_strangers(store, found)
    names = store.parts.names()
    found.parts += len(names)
    sound = [_verify_part(store, name, found) for name in names]
    if not all(sound):
        return None
    catalogue = store.parts.catalogue()
    found.rows += catalogue.row_count
    found.clips += catalogue.clip_count
    _note_state(store, found)
    _verify_index(store, found)
    return catalogue.clips()


def _verify_part(store: EmbeddingStore, name: str, found: Verification) -> bool:
    """Whether the part can be read, after its faults were told."""
    path = store.parts.folder / name
    checksum = checksum_of(name)
    if checksum is not None and _digest(path) != checksum:
        found.faults.append(
            f"{path} was changed since it was written (its SHA-256 is another): restore it, or remove that file, then run "
            "extract-features again"
        )
        return False  # what it says counts no more
    try:
        table = store.parts.read(name)
    except FileNotFoundError:
        found.faults.append(f"{path} went while it was looked at: verify again when nothing else writes there")
        return False
    except SonokitError as error:
        found.faults.append(str(error))
        return False
    fixed = store.header_on_disk.fixed_schema()
    wrong = [f.name for f in fixed if f.name not in table.column_names or table.schema.field(f.name).type != f.type]
    if wrong:
        found.faults.append(f"{path} lacks the columns {', '.join(wrong)}, or has them in other types")
        return {"clip_id", "content_hash"}.isdisjoint(wrong)
    try:
        found.faults += [f"{path}: {fault}" for fault in _faults_of_rows(store, table)]
    except (ValueError, pa.ArrowException) as error:  # a part of schema version 1, which has no checksum: text that is none
        found.faults.append(
            f"{path} is damaged ({' '.join(str(error).split())}): remove that file, then run extract-features again"
        )
        return False
    return True


def _faults_of_rows(store: EmbeddingStore, table: pa.Table) -> list[str]:
    faults = []
    holed = [name for name in ("clip_id", "content_hash", "segment", "embedding", "row_id") if table[name].null_count]
    if holed:
        return [f"unknown values in {', '.join(holed)}"]
    ids = table["row_id"].to_numpy()
    expected = np.fromiter(
        (row_id(c, s) for c, s in zip(table["clip_id"].to_pylist(), table["segment"].to_pylist(), strict=True)), np.int64
    )
    if (wrong := int((ids != expected).sum())) > 0:
        faults.append(f"{wrong} row_ids are not those of their clip and segment")
    if (twice := len(ids) - len(np.unique(ids))) > 0:
        faults.append(f"{twice} segments stand there twice")
    embeddings = embedding_matrix(table, store.header_on_disk.dimensions)
    broken = ~np.isfinite(embeddings).all(axis=1)
    if broken.any():
        clip_id = table["clip_id"][int(np.argmax(broken))].as_py()
        faults.append(f"{int(broken.sum())} embeddings are not finite, the first of clip {clip_id!r}")
    clips = len(pc.unique(table["clip_id"]))
    if len(table.group_by(["clip_id", "content_hash"]).aggregate([])) != clips:
        faults.append("a clip has rows of more than one content")
    return faults


def _note_strangers(store: EmbeddingStore, found: Verification) -> None:
    left = [*leftovers(store.folder), *leftovers(store.parts.folder)]
    if left:
        found.notes.append(
            f"{store.folder}: {len(left)} files of killed runs ({left[0].name} …): sonokit store compact removes them"
        )
    others = names_in(store.parts.folder) - set(store.parts.names()) - {path.name for path in left}
    if others:
        found.faults.append(f"{store.parts.folder} holds what is no part: {', '.join(sorted(others)[:3])}; move it elsewhere")


def _note_state(store: EmbeddingStore, found: Verification) -> None:
    catalogue = store.parts.catalogue()
    if catalogue.superseded_rows:
        found.notes.append(f"{store.folder}: {catalogue.superseded_rows} superseded rows: sonokit store compact removes them")
    bare = [name for name in catalogue.parts if checksum_of(name) is None]
    if bare:
        found.notes.append(
            f"{store.folder}: {len(bare)} parts are not checksummed, an older sonokit wrote them: sonokit store compact does it"
        )
    lost = store.header_on_disk.clip_count - catalogue.clip_count
    if lost > 0:
        found.faults.append(
            f"{store.folder} lacks {lost} clips that store.json counts: a part was lost (extract again), or a drop was "
            "interrupted (drop again)"
        )
        return
    told = (store.header_on_disk.row_count, store.header_on_disk.clip_count)
    if told != (catalogue.row_count, catalogue.clip_count):
        found.notes.append(
            f"{store.folder}: store.json counts {told[0]} rows of {told[1]} clips, a run was stopped before its end"
        )


def _verify_index(store: EmbeddingStore, found: Verification) -> None:
    file, note = store.folder / "index.faiss", store.folder / "index.json"
    if not file.is_file():
        return
    rebuilt = "the next search rebuilds it"
    try:
        values: dict[str, Any] = dict(json.loads(note.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        found.notes.append(f"{file} has no index.json, {rebuilt}")
        return
    if values.get("stamp") != store.stamp():
        found.notes.append(f"{file} is older than the rows, {rebuilt}")
        return
    remedy = "remove it, then search again"
    checksums = {"index.faiss": values.get("sha256"), **values.get("sidecars", {})}
    changed = [n for n, checksum in checksums.items() if checksum and _digest(store.folder / n) != checksum]
    if changed:
        for name in changed:
            found.faults.append(f"{store.folder / name} was changed since it was written (its SHA-256 is another): {remedy}")
        return
    if is_local(file):
        fault = _fault_of_ids(store, file)
        if fault:
            found.faults.append(f"{file} {fault}: {remedy}")


def _fault_of_ids(store: EmbeddingStore, file: Path) -> str | None:
    """Whether the index stands for the rows that hold, no others; ids of row and index compared."""
    import faiss

    try:
        index = faiss.read_index(str(file))
    except RuntimeError as error:
        return f"cannot be read ({str(error).splitlines()[0]})"
    ids = _ids_of(index)
    if ids is None:
        return None if index.ntotal == store.parts.catalogue().row_count else "holds another number of rows than the store"
    rows = np.concatenate([t["row_id"].to_numpy() for t in store.tables(["row_id"])] or [np.empty(0, np.int64)])
    return None if np.array_equal(np.sort(ids), np.sort(rows)) else "holds other row_ids than the store"


def _ids_of(index: Any) -> np.ndarray | None:
    """The ids of a FAISS index, int64; None where it is of a kind that does not tell them."""
    import faiss

    if hasattr(index, "id_map"):
        return np.asarray(faiss.vector_to_array(index.id_map))
    if not hasattr(index, "invlists"):
        return None
    lists = index.invlists
    sizes = [lists.list_size(i) for i in range(lists.nlist)]
    found = [faiss.rev_swig_ptr(lists.get_ids(i), n).copy() for i, n in enumerate(sizes) if n]
    return np.concatenate(found) if found else np.empty(0, np.int64)


def _digest(path: Path) -> str:
    """The file's SHA-256, of nothing where it is gone."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_CHUNK):
                digest.update(block)
    except FileNotFoundError:
        return ""
    return digest.hexdigest()
