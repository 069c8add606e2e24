"""Where a store's files lie: a local folder, or any fsspec URL (``s3://…``, ``memory://…``); one way to write to either.

A local file is written beside its place and renamed, and writers take turns by a lock. A file behind a URL is put as a whole,
as object stores do it, and nothing locks it: appending is safe all the same (no two writers choose the same name), while
whatever removes parts (compact, drop) must be alone there.
"""

import json
import shutil
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

from filelock import FileLock

from ...atomic import atomic_path
from ...errors import SonokitError

LEFTOVER = ".tmp-"
"""How the names of files begin that are not whole yet."""


def as_folder(place: str | Path) -> Path:
    """The folder behind a path or URL: a ``pathlib.Path`` where it is local, else a ``upath.UPath``, which is used alike."""
    if isinstance(place, Path):
        return place
    if isinstance(place, str) and "://" not in place:
        return Path(place)
    from upath import UPath

    opened = UPath(place)
    if opened.protocol in ("", "file", "local"):
        return Path(opened.path)
    return cast(Path, opened)


def is_local(path: Path) -> bool:
    """Whether the path is one of this machine's file system."""
    return isinstance(path, Path)


def locked(folder: Path, name: str = ".lock") -> AbstractContextManager[Any]:
    """Hold the folder's lock; behind a URL there is none."""
    return FileLock(folder / name) if is_local(folder) else nullcontext()


def make_folder(folder: Path) -> None:
    """Make the folder where it is missing."""
    folder.mkdir(parents=True, exist_ok=True)


def put_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write a file that is whole or absent at any moment."""
    if not is_local(path):
        make_folder(path.parent)
        path.write_bytes(content)
        return
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def put_json(path: Path, value: Any) -> None:
    """Write indented JSON, whole or absent at any moment."""
    put_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def names_in(folder: Path) -> set[str]:
    """The names of what lies in a folder, none where there is no folder.

    Listed until two lists agree: one that was read while a part took the place of others may hold neither.
    """
    before = _list(folder)
    while (now := _list(folder)) != before:
        before = now
    return now


def leftovers(folder: Path) -> list[Path]:
    """What killed writers left directly in ``folder``, by name."""
    return [folder / name for name in sorted(_list(folder)) if name.startswith(LEFTOVER)]


def stores_below(folder: Path) -> list[Path]:
    """The folders of a store and its floor, or of all stores of a set that are there, the floor last.

    Raises:
        SonokitError: ``folder`` itself is neither a store nor a set of stores, though one may lie below it.
    """
    if (folder / "set.json").is_file():
        return [folder / name for name in [*members_of(folder), "floor"] if (folder / name / "store.json").is_file()]
    if not (folder / "store.json").is_file():
        raise SonokitError(
            f"{folder} is not an embedding store, nor a set of them (it has no store.json and no set.json): name the folder "
            "that has one"
        )
    return [folder, *([folder / "floor"] if (folder / "floor" / "store.json").is_file() else [])]


def members_of(folder: Path) -> list[str]:
    """The names of the stores that a set consists of, without a floor.

    Raises:
        SonokitError: It is a set of something else, or ``set.json`` is damaged.
    """
    try:
        values = json.loads((folder / "set.json").read_text(encoding="utf-8"))
        kind, names = values.get("kind"), [*(f"fold-{k}" for k in range(int(values["folds"]))), "final"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SonokitError(f"{folder / 'set.json'} is damaged ({error}); make the set of stores anew") from error
    if kind != "store-set":
        raise SonokitError(f"{folder} is a set of {kind}, not of stores; extract-features makes stores from it")
    return names


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it."""
    if path.is_dir() and is_local(path):
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _list(folder: Path) -> set[str]:
    if not is_local(folder):
        cast(Any, folder).fs.invalidate_cache()  # some file systems remember what they listed
    try:
        return {path.name for path in folder.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        return set()
