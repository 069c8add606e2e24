"""Look after embedding stores: what is in them, whether they are whole, what must leave them."""

import json
import sys
from pathlib import Path
from typing import Literal

from .command_line import Command
from .errors import SonokitError


def info(store: str) -> None:
    """Say what is in a store: rows, clips, patients, sites, labels, model, index.

    Args:
        store: A store or store set: a folder, or a URL such as s3://bucket/store.
    """
    from .features.store.info import describe

    print("\n".join(describe(store)))


def verify(store: str) -> None:
    """Read every byte of a store, or a set of stores, and say whether all is whole.

    Every part is compared with its checksum, every row looked at, the index compared with the rows, and the members of a set
    with each other. Lines that begin with "note:" are in order but worth knowing. The exit status is 1 where there is a fault.

    Args:
        store: A store or store set: a folder or a URL.
    """
    from .features.store.verify import verify as look_at

    found = look_at(store)
    for note in found.notes:
        print(f"note: {note}")
    for fault in found.faults:
        print(f"fault: {fault}")
    if found.faults:
        sys.exit(1)
    print(f"{store} is whole: {found.rows} rows of {found.clips} clips in {found.parts} parts of {found.stores} stores")


def compact(store: str) -> None:
    """Write many small parts together as few large ones, without superseded rows and leftovers of killed runs.

    Safe to kill and to run again; a store on this machine may be read and added to meanwhile.

    Args:
        store: A store or store set: a folder, or a URL where nobody else writes meanwhile.
    """
    from .features.store import EmbeddingStore
    from .features.store.compact import compact as write_together
    from .features.store.files import as_folder, stores_below

    for folder in stores_below(as_folder(store)):
        print(f"{folder}: {write_together(EmbeddingStore.open(folder))}")


def drop(
    store: str,
    patient: str = "",
    clip: str = "",
    cache: Path | None = None,
    manifest: Path | None = None,
    look_in: str | None = None,
    yes: bool = False,
) -> None:
    """Erase a patient, or clips, from a store and the frame cache for good; without --yes true only say what would go.

    The rows are removed from all parts (superseded ones too), from the index, from the floor and from every store of a set; the
    frames and what is remembered of their files from the cache. Experts, reports, predictions, manifests and weights that name
    the patient or were made from this store are listed, never changed: they are yours to remove or to make anew, and so are
    the clips themselves and any backup.

    Args:
        store: A store or store set: a folder, or a URL where nobody else writes meanwhile.
        patient: Whose clips go: the value in the column patient_id of the rows.
        clip: clip_ids to erase, separated by commas; where one has a comma itself, a JSON list: '["a,b", "c"]'.
        cache: The folder of decoded frames, to erase them from it as well. Other studies' files whose paths look like the
            patient's go with them (they are listed before, and only have to be decoded again).
        manifest: The manifest, to find clips of the patient that have no rows, as they were rejected or only prepared.
        look_in: Folders to look through for what was made from these rows, separated by commas (default: the one that the store
            is in).
        yes: Do it.
    """
    from .features.store.erasure import erase, plan_erasure
    from .features.store.files import as_folder, is_local
    from .features.store.made_from import find_mentions

    folder = as_folder(store)
    plan = plan_erasure(folder, patient=patient, clip_ids=_clip_ids(clip), cache=cache, manifest=manifest)
    fingerprints = plan.fingerprints()
    places = [Path(word) for word in _words(look_in)] or ([folder.resolve().parent] if is_local(folder) else [])
    mentions = find_mentions(
        places, plan.names, store=folder, fingerprints=fingerprints, but=[cache] if cache is not None else []
    )
    if yes and plan:
        erase(plan)
    if plan:
        print(f"{'erased' if yes else 'would erase'}: {plan.summary()}")
    for path in plan.cache.by_name:
        print(f"by its name: {path}")
    for mention in mentions:
        print(f"yours to decide: {mention}")
    if not plan.names_somebody():
        where = f"{folder} or {cache}" if cache is not None else str(folder)
        raise SonokitError(
            f"nothing in {where} is of {patient or clip!r}: look for a mistyped name (sonokit store export lists patients and "
            "clips). After a drop that was stopped it means that all is gone; sonokit store compact then mends the counts"
        )
    if not yes:
        print("Nothing was changed. Say --yes true to erase.")


def merge(stores: str, out: str, on_conflict: Literal["refuse", "first", "last"] = "refuse") -> None:
    """Bring the clips of several stores of one model together in one store.

    Killed, the same command goes on. Sets of stores are merged member by member.

    Args:
        stores: The stores, or store sets: folders or URLs, separated by commas.
        out: A new folder or URL, or a store that counts as the first of them.
        on_conflict: For a clip of which the stores hold different contents: "refuse", or take the "first" or the "last".
    """
    from .features.store.merge import merge as merge_stores

    done = merge_stores(_words(stores), out, on_conflict)
    print(f"{done.added} clips added, {done.clips} clips -> {out}")


def export(store: str, out: Path, format: Literal["parquet", "numpy", "csv"] = "parquet") -> None:
    """Write a store's rows as plain Parquet, NumPy or CSV for other tools.

    Args:
        store: A store: a folder or a URL. Of a set name one of its stores, such as SET/final.
        out: The file to write, for "numpy" the folder.
        format: "parquet", "csv" (the embedding as columns e_000, …), or "numpy": embeddings.npy beside rows.csv.
    """
    from .features.store import EmbeddingStore
    from .features.store.export import export as write_rows

    print(f"{write_rows(EmbeddingStore.open(store), out, format)} rows -> {out}")


def _clip_ids(text: str) -> list[str]:
    if not text.lstrip().startswith("["):
        return _words(text)
    try:
        values = json.loads(text)
    except ValueError:
        values = None
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise SonokitError(f'--clip {text} is no JSON list of texts; write \'["a,b", "c"]\'')
    return values


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


COMMANDS: dict[str, Command] = {
    "info": info,
    "verify": verify,
    "compact": compact,
    "drop": drop,
    "merge": merge,
    "export": export,
}
