"""Somebody out of what lies beside a store's rows: rejected.csv, config.yaml, and the division of a set."""

import csv
import dataclasses
import io
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from ...clips.mentions import Names
from ...clips.splits import Splits, write_splits
from ...errors import SonokitError
from .files import locked, put_bytes, put_json
from .store import EmbeddingStore, splits_of

_OF_PATHS = ("clip_id", "path")


def erase_from_records(folder: Path, names: Names, *, dry: bool = False) -> int:
    """Remove lines of rejected.csv that name them, and texts of config.yaml that do; how many. ``dry`` only counts."""
    count = 0
    listing = folder / "rejected.csv"
    if listing.is_file():
        rows = list(csv.reader(io.StringIO(listing.read_text(encoding="utf-8"))))
        kept = [row for i, row in enumerate(rows) if i == 0 or not _names_them(rows[0], row, names)]
        count += len(rows) - len(kept)
        if not dry and len(kept) < len(rows):
            text = io.StringIO()
            csv.writer(text, lineterminator="\n").writerows(kept)
            put_bytes(listing, text.getvalue().encode())
    values = config_of(folder)
    if names.are_in_tree(values):
        count += 1
        if not dry:
            text_now = yaml.safe_dump(names.erased_from(values), sort_keys=False, allow_unicode=True)
            put_bytes(folder / "config.yaml", text_now.encode())
    return count


def config_of(folder: Path) -> Any:
    """What config.yaml says, None where there is none.

    Raises:
        SonokitError: It cannot be read.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        return None
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise SonokitError(f"{file} cannot be read ({' '.join(str(error).split())}): mend or remove it") from error


def erase_from_set(folder: Path, stores: list[EmbeddingStore], names: Names) -> None:
    """Take the clips out of the division. Its fingerprint changes, so those that repeat it follow; splits.json comes last."""
    before = splits_of(folder)
    after = without_clips(before, names.clip_ids)
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


def without_clips(splits: Splits, clip_ids: Iterable[str]) -> Splits:
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


def _names_them(header: list[str], row: list[str], names: Names) -> bool:
    """Whether a line does; a cell without a column's name is read as text."""
    columns = [*header, *[""] * len(row)]
    return any(names.are_in_path(v) if c in _OF_PATHS else names.are_value(v) for c, v in zip(columns, row, strict=False))
