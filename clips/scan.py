"""Finds the clips in a folder, and gives them names."""

import os
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from ..errors import SonokitError

ENDINGS = frozenset({".mp4", ".avi", ".gif", ".mov", ".mpeg", ".mpg", ".mkv", ".webm", ".m4v", ".wmv", ".dcm"})


def scan_folder(folder: Path) -> pd.DataFrame:
    """Every clip below ``folder``: its ``path`` (relative, with ``/``) and its ``clip_id``, sorted by path.

    Videos are known by their ending, DICOM files also by their content where they have no ending or a number for one (scanners
    name files by UID). Hidden files and folders are skipped.

    Raises:
        SonokitError: No such folder, or no clip in it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SonokitError(f"There is no folder {folder} to look for clips in.")
    found = sorted(file.relative_to(folder).as_posix() for file in _files(folder) if _is_clip(file))
    if not found:
        endings = ", ".join(sorted(e[1:] for e in ENDINGS))
        raise SonokitError(
            f"There is no clip in {folder} or below. Files with these endings are taken: {endings}, and any DICOM."
        )
    paths = pd.Series(found, dtype="str")
    return pd.DataFrame({"path": paths, "clip_id": default_clip_ids(paths)})


def clips_at(place: Path) -> pd.DataFrame:
    """The clips in a folder, or the one clip, with absolute paths: a manifest that may lie anywhere.

    Raises:
        SonokitError: There is nothing at ``place``, or no clip in it.
    """
    place = Path(place)
    if place.is_dir():
        table = scan_folder(place)
        return table.assign(path=[str((place / path).resolve()) for path in table["path"]])
    if not place.is_file():
        raise SonokitError(f"There is no clip and no folder {place}.")
    return pd.DataFrame({"path": [str(place.resolve())], "clip_id": [_without_ending(place.name)]})


def default_clip_ids(paths: pd.Series) -> pd.Series:
    """The paths without their endings; where that is not unique, with them.

    Only the endings of videos are taken off: ``1.2.840.7`` and ``1.2.840.8`` are two names. A missing path has no name.
    """
    names = paths.map(_without_ending, na_action="ignore")
    while True:
        # "a.mp4" and "a.avi", then beside "a.mp4.avi"; an empty path differs from itself and stays empty
        doubtful = names.duplicated(keep=False) & (names != paths) & names.notna()
        if not doubtful.any():
            return names
        names = names.mask(doubtful, paths)


def _without_ending(path: str) -> str:
    name, _, ending = path.rpartition(".")
    return name if f".{ending.lower()}" in ENDINGS and name and not name.endswith("/") else path


def _files(folder: Path) -> Iterator[Path]:
    seen = {folder.resolve()}
    for root, folders, files in os.walk(folder, followlinks=True):
        where = Path(root)
        folders[:] = [f for f in folders if not f.startswith(".") and (where / f).resolve() not in seen]
        seen.update((where / f).resolve() for f in folders)  # a link back up would go round for ever
        yield from (where / f for f in files if not f.startswith(".") and (where / f).is_file())


def _is_clip(file: Path) -> bool:
    ending = file.suffix.lower()
    if ending in ENDINGS:
        return True
    from .dicom import is_dicom  # brings pydicom, which nobody needs who only reads a manifest

    return (not ending or ending[1:].isdigit()) and is_dicom(str(file))
