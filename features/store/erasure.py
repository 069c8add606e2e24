"""A patient, or a clip, out of a store, or a set of stores, and out of the frame cache: really gone, not only superseded.

All parts that hold rows of the patient are written anew without them (also rows that were superseded long ago), the index and
what lies under it are made anew, the division of a set loses the clips, and so do rejected.csv and config.yaml; what killed
runs left goes whoever's it is. Everything is done in an order in which erasing again ends what a kill interrupted: what tells
the contents of the clips goes last.

What others made from the store is not touched but named (see ``made_from.py``): only people can say what becomes of it.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ...clips.cache_erasure import CacheTraces, erase_from_cache, find_in_cache
from ...clips.manifest import read_manifest
from ...clips.mentions import Names
from ...clips.splits import Splits
from ...errors import SonokitError
from ..search.index import build_index, remove_index
from ..search.index_kinds import known_kind
from .compact import replace_parts
from .erasure_records import config_of, erase_from_records, erase_from_set, without_clips
from .files import as_folder, is_local, leftovers, locked, members_of, put_json, remove, stores_below
from .store import EmbeddingStore, splits_of

_KEYS = ["clip_id", "patient_id", "content_hash"]


@dataclass(frozen=True)
class Erasure:
    """What would go, or went.

    Attributes:
        folder: The store or set.
        names: The patient, their clips, the contents and paths of those.
        rows: Rows of all stores there, superseded ones too.
        listed: Lines of rejected.csv, mentions in config.yaml and clips in splits.json.
        leftovers: Files that killed runs left in the store: nobody can say whose they are, so they go too.
        cache_folder, cache: What is in the frame cache, if one was named.
        spared: Contents of clips that stay: a path in the cache that looks like the patient's does not condemn them.
    """

    folder: Path
    names: Names
    rows: int
    listed: int
    leftovers: int
    cache_folder: Path | None
    cache: CacheTraces
    spared: frozenset[str] = frozenset()

    def __bool__(self) -> bool:
        return bool(self.rows or self.listed or self.leftovers or self.cache)

    def names_somebody(self) -> bool:
        """Whether anything but leftovers is there to erase; if not, the name is perhaps mistyped."""
        return bool(self.rows or self.listed or self.cache.clips or self.cache.sources or self.cache.rejected)

    def fingerprints(self) -> set[str]:
        """Of the models that made the rows."""
        return {store.header_on_disk.fingerprint for store in _open_all(self.folder)}

    def summary(self) -> str:
        """What goes, in a line."""
        text = (
            f"{self.rows} rows of {len(self.names.clip_ids)} clips in {self.folder}, {self.listed} mentions in its lists and "
            "settings"
        )
        if left := self.leftovers + self.cache.leftovers:
            text += f", {left} files that killed runs left"
        if self.cache_folder is None:
            return f"{text}; no frame cache was named (--cache)"
        return (
            f"{text}; frames of {self.cache.clips} clips, {self.cache.sources} remembered files and {self.cache.rejected} "
            f"rejected ones in {self.cache_folder}"
        )


def plan_erasure(
    folder: str | Path,
    *,
    patient: str | None = None,
    clip_ids: Iterable[str] = (),
    cache: Path | None = None,
    manifest: Path | None = None,
) -> Erasure:
    """Find all that :func:`erase` would remove; nothing is changed.

    Args:
        folder: A store or a store set; its floor belongs to it.
        patient: All clips that are this patient's now; superseded rows that gave another's clip to the patient go, too.
        clip_ids: These clips too, whoever's they are.
        cache: The frame cache that the clips were prepared in.
        manifest: Tells of clips of the patient that have no rows, as they were rejected or only prepared, and of paths.

    Raises:
        SonokitError: No such store or cache, only a part of a store or set, neither a patient nor a clip is named, the manifest
            does not tell patients, or a set's division cannot do without the clips.
    """
    folder = as_folder(folder)
    asked = set(clip_ids)
    if not patient and not asked:
        raise SonokitError("whose rows shall go? Name a patient (--patient) or a clip (--clip).")
    stores = _open_all(folder)
    _require_whole(folder)
    patients = [patient] if patient else []
    splits = splits_of(folder) if (folder / "set.json").is_file() else None
    mine = {*asked, *(_clips_of(splits, patients) if splits else ())}
    for store in stores:
        mine |= _clips_now(store, patients)
    paths = _paths_in_rows(folder, stores, mine)
    if manifest is not None:
        located = _in_manifest(manifest, folder, patients, asked)
        mine |= set(located) - {clip for store in stores for clip in store.done().clip_ids.to_pylist()}  # rows say it better
        paths |= {path for clip, path in located.items() if clip in mine}
    names = Names.of(patients, mine, {content for store in stores for content in _contents(store, mine)}, paths)
    if splits is not None:
        without_clips(splits, mine)  # refuses here, before anything is gone
    rows = sum(_rows_of(table, names) for store in stores for _, table in _keys(store))
    listed = sum(erase_from_records(place, names, dry=True) for place in _record_folders(folder, stores))
    listed += len(mine & set(splits.clip_ids)) if splits else 0
    left = sum(1 for place in _record_folders(folder, stores) for _ in _left_in(place))
    if cache is None:
        return Erasure(folder, names, rows, listed, left, None, CacheTraces())
    spared = frozenset(_contents_of_others(stores, names))
    return Erasure(folder, names, rows, listed, left, cache, find_in_cache(cache, names, spared), spared)


def erase(plan: Erasure) -> None:
    """Do it. Killed, plan and erase again; the same names are found until all is gone.

    Raises:
        SonokitError: Something is left, because another process wrote it meanwhile.
    """
    if plan.cache_folder is not None:
        erase_from_cache(plan.cache_folder, plan.names, plan.spared)
    stores = _open_all(plan.folder)
    for folder in _record_folders(plan.folder, stores):
        with locked(folder):
            _sweep(folder)
            erase_from_records(folder, plan.names)
    indexed = [store for store in stores if (store.folder / "index.json").is_file()]
    if (plan.folder / "set.json").is_file():
        erase_from_set(plan.folder, stores, plan.names)
    for store in stores:
        _erase_from_store(store, plan.names)
    for store in indexed:
        if store.header.row_count:
            build_index(store)  # of the kind that was asked for
    left = sum(_rows_of(table, plan.names) for store in stores for _, table in _keys(store))
    if left:
        raise SonokitError(f"{plan.folder} has {left} new rows of them: stop what extracts these clips, then drop them again")


def _erase_from_store(store: EmbeddingStore, names: Names) -> None:
    asked = _kind_asked_for(store.folder)
    remove_index(store.folder)
    if asked is not None:  # no index, but what the next one shall be, also after a kill
        put_json(store.folder / "index.json", {"asked": asked})
    with locked(store.folder, ".index.lock"), locked(store.folder):
        _sweep(store.folder)
        concerned = [name for name, table in _keys(store) if _rows_of(table, names)]
        catalogue, schema = store.parts.catalogue(), store.parts.schema()
        if concerned and schema is not None:
            kept = (store.parts.rows_that_hold(catalogue, name, schema) for name in concerned)
            replace_parts(store, concerned, (table.filter(pc.invert(_mask(table, names))) for table in kept))
        store.write_header()


def _kind_asked_for(folder: Path) -> str | None:
    """Which kind of index the present one was to be, None where there is none."""
    note = folder / "index.json"
    if not note.is_file():
        return None
    with suppress(ValueError, TypeError, SonokitError):  # damaged, or of no kind
        asked = str(dict(json.loads(note.read_text(encoding="utf-8"))).get("asked", "auto"))
        return asked if asked == "auto" else known_kind(asked)
    return "auto"


def _sweep(folder: Path) -> None:
    """Remove what killed runs left. Hold the folder's lock."""
    for path in _left_in(folder):
        remove(path)


def _left_in(folder: Path) -> list[Path]:
    return [*leftovers(folder), *leftovers(folder / "rows")]


def _require_whole(folder: Path) -> None:
    """Refuse one store of a set, and a floor: the others would still have the rows, and no longer match.

    Raises:
        SonokitError: It names what to drop from instead.
    """
    here = folder.resolve() if is_local(folder) else folder
    parent, siblings = here.parent, []
    if (parent / "set.json").is_file():
        with suppress(SonokitError):  # of something else than stores
            siblings = [*members_of(parent), "floor"]
    elif (parent / "store.json").is_file():
        siblings = ["floor"]
    if here.name in siblings:
        raise SonokitError(f"{folder} is only a part of {parent}, which would keep their other rows: drop them from {parent}")


def _open_all(folder: Path) -> list[EmbeddingStore]:
    """The store, or all of a set, and their floors."""
    return [EmbeddingStore.open(place) for place in stores_below(folder)]


def _record_folders(folder: Path, stores: list[EmbeddingStore]) -> list[Path]:
    return [folder, *(store.folder for store in stores if store.folder != folder)]


def _keys(store: EmbeddingStore) -> Iterator[tuple[str, pa.Table]]:
    """Part by part who is in it, superseded rows too."""
    for name in store.parts.names():
        yield name, store.parts.read(name, _KEYS)


def _clips_of(splits: Splits, patients: list[str]) -> set[str]:
    return {clip for clip, patient in zip(splits.clip_ids, splits.patients, strict=False) if patient in patients}


def _clips_now(store: EmbeddingStore, patients: list[str]) -> set[str]:
    wanted = pa.array(patients, pa.string())
    found: set[str] = set()
    for table in store.tables(["clip_id", "patient_id"]):
        found.update(table["clip_id"].filter(pc.is_in(table["patient_id"], value_set=wanted)).to_pylist())
    return found


def _paths_in_rows(folder: Path, stores: list[EmbeddingStore], clip_ids: set[str]) -> set[str]:
    """The paths of these clips as the manifest had them; absolute, where config.yaml tells the manifest's folder."""
    wanted = pa.array(sorted(clip_ids), pa.string())
    found: set[str] = set()
    for store in stores:
        if "path" in store.columns():
            for table in store.tables(["clip_id", "path"]):
                found.update(table["path"].filter(pc.is_in(table["clip_id"], value_set=wanted)).drop_null().to_pylist())
    beside = _setting(folder, "manifest")
    if beside is not None and Path(beside).is_absolute():
        found |= {str(Path(beside).parent / path) for path in found if "://" not in path}
    return found


def _in_manifest(file: Path, folder: Path, patients: list[str], clip_ids: set[str]) -> dict[str, str]:
    """The patient's clips, and those that are asked for, with their absolute paths.

    Raises:
        SonokitError: The manifest is faulty, or does not tell patients.
    """
    manifest = read_manifest(file, patient=_setting(folder, "patient"), check_files=False)
    if patients and manifest.patient_column is None:
        raise SonokitError(f"{file} has no column patient_id, so it does not tell whose clips are: name them with --clip")
    mine = manifest.table["clip_id"].isin(clip_ids)
    if manifest.patient_column is not None:
        mine |= manifest.table[manifest.patient_column].astype("string").isin(patients)
    chosen = manifest.select(mine.to_numpy(dtype=bool))
    return dict(zip(chosen.table["clip_id"], chosen.locations(), strict=True))


def _setting(folder: Path, name: str) -> str | None:
    """An option of the command that made the store."""
    values = config_of(folder)
    value = values.get(name) if isinstance(values, dict) else None
    return value if isinstance(value, str) else None


def _contents(store: EmbeddingStore, clip_ids: set[str]) -> set[str]:
    wanted = pa.array(sorted(clip_ids), pa.string())
    found: set[str] = set()
    for _, table in _keys(store):
        found.update(table["content_hash"].filter(pc.is_in(table["clip_id"], value_set=wanted)).to_pylist())
    return found


def _contents_of_others(stores: list[EmbeddingStore], names: Names) -> set[str]:
    found: set[str] = set()
    for store in stores:
        for _, table in _keys(store):
            found.update(pc.unique(table["content_hash"].filter(pc.invert(_mask(table, names)))).to_pylist())
    return found - names.content_hashes


def _rows_of(table: pa.Table, names: Names) -> int:
    return int(pc.sum(_mask(table, names)).as_py() or 0)


def _mask(table: pa.Table, names: Names) -> pa.ChunkedArray:
    """Rows of the clips, and rows that name the patient; of a clip that is another's by now only superseded rows do."""
    of_clips = pc.is_in(table["clip_id"], value_set=pa.array(sorted(names.clip_ids), pa.string()))
    return pc.or_(of_clips, pc.is_in(table["patient_id"], value_set=pa.array(sorted(names.patients), pa.string())))
