"""A patient, or a clip, out of a store, or a set of stores, and out of the frame cache: really gone, not only superseded.

All parts that hold rows of the patient are written anew without them (also rows that were superseded long ago), the index and
what lies under it are made anew, the division of a set loses the clips, and so do rejected.csv and config.yaml. Everything is
done in an order in which erasing again ends what a kill interrupted: what tells the contents of the clips goes last.

What others made from the store is not touched but named (see ``made_from.py``): only people can say what becomes of it.
"""

import csv
import dataclasses
import io
import json
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from ...clips.cache_erasure import CacheTraces, erase_from_cache, find_in_cache
from ...clips.mentions import Names
from ...clips.splits import Splits, write_splits
from ...errors import SonokitError
from ..search.index import build_index, remove_index
from .compact import replace_parts
from .files import as_folder, leftovers, locked, put_bytes, put_json, remove, stores_below
from .store import EmbeddingStore, splits_of

_KEYS = ["clip_id", "patient_id", "content_hash"]


@dataclass(frozen=True)
class Erasure:
    """What would go, or went.

    Attributes:
        folder: The store or set.
        names: The patient, their clips, and the contents of those.
        rows: Rows of all stores there, superseded ones too.
        listed: Lines of rejected.csv, mentions in config.yaml and clips in splits.json.
        cache_folder, cache: What is in the frame cache, if one was named.
    """

    folder: Path
    names: Names
    rows: int
    listed: int
    cache_folder: Path | None
    cache: CacheTraces

    def __bool__(self) -> bool:
        return bool(self.rows or self.listed or self.cache)

    def fingerprints(self) -> set[str]:
        """Of the models that made the rows."""
        return {store.header_on_disk.fingerprint for store in _open_all(self.folder)}

    def summary(self) -> str:
        """What goes, in a line."""
        text = (
            f"{self.rows} rows of {len(self.names.clip_ids)} clips in {self.folder}, {self.listed} mentions in its lists and "
            "settings"
        )
        if self.cache_folder is None:
            return f"{text}; no frame cache was named (--cache)"
        return (
            f"{text}; frames of {self.cache.clips} clips, {self.cache.sources} remembered files and {self.cache.rejected} "
            f"rejected ones in {self.cache_folder}"
        )


def plan_erasure(
    folder: str | Path, *, patient: str | None = None, clip_ids: Iterable[str] = (), cache: Path | None = None
) -> Erasure:
    """Find all that :func:`erase` would remove; nothing is changed.

    Args:
        folder: A store or a store set; its floor belongs to it.
        patient: All clips that are this patient's now; superseded rows that gave another's clip to the patient go, too.
        clip_ids: These clips too, whoever's they are.
        cache: The frame cache that the clips were prepared in.

    Raises:
        SonokitError: No such store or cache, neither a patient nor a clip is named, or a set's division cannot do without them.
    """
    folder = as_folder(folder)
    if patient is None and not list(clip_ids):
        raise SonokitError("whose rows shall go? Name a patient (--patient) or a clip (--clip).")
    stores = _open_all(folder)
    patients = [] if patient is None else [patient]
    splits = splits_of(folder) if (folder / "set.json").is_file() else None
    mine = {*clip_ids, *(_clips_of(splits, patients) if splits else ())}
    for store in stores:
        mine |= _clips_now(store, patients)
    names = Names.of(patients, mine, {content for store in stores for content in _contents(store, mine)})
    if splits is not None:
        _without(splits, mine)  # refuses here, before anything is gone
    rows = sum(_rows_of(table, names) for store in stores for _, table in _keys(store))
    listed = sum(_erase_from_records(store_folder, names, dry=True) for store_folder in _record_folders(folder, stores))
    listed += len(mine & set(splits.clip_ids)) if splits else 0
    traces = find_in_cache(cache, names) if cache is not None else CacheTraces()
    return Erasure(folder, names, rows, listed, cache, traces)


def erase(plan: Erasure) -> None:
    """Do it. Killed, plan and erase again; the same names are found until all is gone.

    Raises:
        SonokitError: Something is left, because another process wrote it meanwhile.
    """
    if plan.cache_folder is not None:
        erase_from_cache(plan.cache_folder, plan.names)
    stores = _open_all(plan.folder)
    for folder in _record_folders(plan.folder, stores):
        _erase_from_records(folder, plan.names)
    indexed = [store for store in stores if (store.folder / "index.json").is_file()]
    if (plan.folder / "set.json").is_file():
        _erase_from_set(plan.folder, stores, plan.names)
    for store in stores:
        _erase_from_store(store, plan.names)
    for store in indexed:
        if store.header.row_count:
            build_index(store)
    left = sum(_rows_of(table, plan.names) for store in stores for _, table in _keys(store))
    if left:
        raise SonokitError(f"{plan.folder} has {left} new rows of them: stop what extracts these clips, then drop them again")


def _erase_from_store(store: EmbeddingStore, names: Names) -> None:
    remove_index(store.folder)
    with locked(store.folder, ".index.lock"), locked(store.folder):
        for path in [*leftovers(store.folder), *leftovers(store.folder / "rows")]:
            remove(path)
        concerned = [name for name, table in _keys(store) if _rows_of(table, names)]
        catalogue, schema = store.parts.catalogue(), store.parts.schema()
        if concerned and schema is not None:
            kept = (store.parts.rows_that_hold(catalogue, name, schema) for name in concerned)
            replace_parts(store, concerned, (table.filter(pc.invert(_mask(table, names))) for table in kept))
        store.write_header()


def _erase_from_set(folder: Path, stores: list[EmbeddingStore], names: Names) -> None:
    """Take the clips out of the division. Its fingerprint changes, so those that repeat it follow; splits.json comes last."""
    before = splits_of(folder)
    after = _without(before, names.clip_ids)
    if after == before:
        return
    for store in stores:
        header = store.header_on_disk
        if header.splits_fingerprint is not None:
            values = json.loads((store.folder / "store.json").read_text(encoding="utf-8"))
            with locked(store.folder):
                put_json(store.folder / "store.json", values | {"splits_fingerprint": after.fingerprint()})
            store.reload_header()
    values = json.loads((folder / "set.json").read_text(encoding="utf-8"))
    put_json(folder / "set.json", values | {"splits_fingerprint": after.fingerprint()})
    with tempfile.TemporaryDirectory() as place:
        write_splits(after, Path(place) / "splits.json")
        put_bytes(folder / "splits.json", (Path(place) / "splits.json").read_bytes())


def _erase_from_records(folder: Path, names: Names, *, dry: bool = False) -> int:
    """Lines of rejected.csv that name them, and texts of config.yaml that do; how many."""
    count = 0
    listing = folder / "rejected.csv"
    if listing.is_file():
        rows = list(csv.reader(io.StringIO(listing.read_text(encoding="utf-8"))))
        kept = [row for i, row in enumerate(rows) if i == 0 or not any(map(names.are_value, row))]
        count += len(rows) - len(kept)
        if not dry and len(kept) < len(rows):
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(kept)
            put_bytes(listing, text.getvalue().encode())
    config = folder / "config.yaml"
    if config.is_file():
        values = yaml.safe_load(config.read_text(encoding="utf-8"))
        if names.are_in_tree(values):
            count += 1
            if not dry:
                put_bytes(config, yaml.safe_dump(names.erased_from(values), sort_keys=False, allow_unicode=True).encode())
    return count


def _without(splits: Splits, clip_ids: Iterable[str]) -> Splits:
    """The division without these clips.

    Raises:
        SonokitError: A fold would be left without clips to test.
    """
    gone = set(clip_ids)
    kept = [(clip, patient) for clip, patient in zip(splits.clip_ids, splits.patients or splits.clip_ids, strict=True)]
    kept = [pair for pair in kept if pair[0] not in gone]
    folds = tuple(dataclasses.replace(f, test=tuple(c for c in f.test if c not in gone)) for f in splits.folds)
    if not kept or any(not fold.test for fold in folds):
        raise SonokitError(
            "without these clips a fold of the set has none left to test, so the set cannot go on without them: remove its "
            "folder, then make splits, extractors and features anew"
        )
    sites = {site: tuple(c for c in clips if c not in gone) for site, clips in splits.sites.items()}
    sites = {site: clips for site, clips in sites.items() if clips}
    return dataclasses.replace(
        splits,
        clip_ids=tuple(clip for clip, _ in kept),
        patients=tuple(patient for _, patient in kept) if splits.patients else (),
        folds=folds,
        sites=sites if len(sites) > 1 else {},
        held_out=tuple(c for c in splits.held_out if c not in gone),
    )


def _open_all(folder: Path) -> list[EmbeddingStore]:
    """The store, or all of a set, and their floors."""
    return [EmbeddingStore.open(place) for place in stores_below(folder)]


def _record_folders(folder: Path, stores: list[EmbeddingStore]) -> list[Path]:
    return [folder, *(store.folder for store in stores if store.folder != folder)]


def _keys(store: EmbeddingStore) -> Iterable[tuple[str, pa.Table]]:
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


def _contents(store: EmbeddingStore, clip_ids: set[str]) -> set[str]:
    wanted = pa.array(sorted(clip_ids), pa.string())
    found: set[str] = set()
    for _, table in _keys(store):
        found.update(table["content_hash"].filter(pc.is_in(table["clip_id"], value_set=wanted)).to_pylist())
    return found


def _rows_of(table: pa.Table, names: Names) -> int:
    return int(pc.sum(_mask(table, names)).as_py() or 0)


def _mask(table: pa.Table, names: Names) -> pa.ChunkedArray:
    """Rows of the clips, and rows that name the patient; of a clip that is another's by now only superseded rows do."""
    of_clips = pc.is_in(table["clip_id"], value_set=pa.array(sorted(names.clip_ids), pa.string()))
    return pc.or_(of_clips, pc.is_in(table["patient_id"], value_set=pa.array(sorted(names.patients), pa.string())))
