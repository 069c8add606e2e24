"""Which content lies behind each path, without reading unchanged files again.

A file is taken as unchanged while its size and its time of change (to the nanosecond) are; a URL while its file system says so.
"""

import logging
import os
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.compute
from tqdm import tqdm

from ..atomic import atomic_path
from .decode import ClipError, content_hash

_COLUMNS = ["path", "stamp", "content_hash"]
_SAVE_EVERY = 10_000  # files
_JOBS = 500  # about so many, each of many files: a job for each of a million takes more memory than all their names
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unreadable:
    """Why a path has no content."""

    reason: str


def identify(paths: pd.Series, memo: Path, pool: Executor, *, progress: bool) -> pd.DataFrame:
    """The content behind every path: a table path, stamp, content_hash, reason in the order of ``paths``.

    Args:
        paths: Absolute paths or URLs.
        memo: The Parquet file that remembers; missing or unreadable, it is begun anew.
        pool: Reads the files.
        progress: Whether to show a bar on standard error.
    """
    table = pd.DataFrame({"path": paths.reset_index(drop=True)}).join(_stamps(paths, pool))
    table["content_hash"] = _remembered(table, _read(memo))
    unread = table[table["content_hash"].isna() & table["stamp"].notna()].drop_duplicates("path")
    if len(unread):
        found = _hash_all(unread, memo, pool, progress)
        hashes = {path: value for path, value in found.items() if isinstance(value, str)}
        reasons = {path: value.reason for path, value in found.items() if isinstance(value, Unreadable)}
        table["content_hash"] = table["content_hash"].fillna(table["path"].map(hashes).astype("str"))
        table["reason"] = table["reason"].fillna(table["path"].map(reasons).astype("str"))
    return table


def stamp_of(path: str) -> str | Unreadable:
    """What changes when the content of ``path`` may have changed."""
    try:
        if "://" in path:
            system, inside = fsspec.core.url_to_fs(path)
            return str(system.ukey(inside))
        status = os.stat(path)  # noqa: PTH116  # a Path for each of a million files takes three times as long
    except FileNotFoundError:
        return Unreadable("there is no such file")
    except (OSError, ValueError, ImportError) as error:  # no permission, no such protocol, its package not installed
        return Unreadable(" ".join(str(error).split()))
    return f"{status.st_size}-{status.st_mtime_ns}"


def _hash_all(unread: pd.DataFrame, memo: Path, pool: Executor, progress: bool) -> dict[str, str | Unreadable]:
    found: dict[str, str | Unreadable] = {}
    with tqdm(desc="reading clips", total=len(unread), unit="clip", disable=not progress) as bar:
        for start in range(0, len(unread), _SAVE_EVERY):
            some = unread.iloc[start : start + _SAVE_EVERY]
            try:
                for path, result in zip(some["path"], pool.map(_hash, some["path"]), strict=True):
                    found[path] = result
                    bar.update()
            finally:  # Ctrl-C: what was read is remembered
                _save(some, found, memo)
    return found


def _stamps(paths: pd.Series, pool: Executor) -> pd.DataFrame:
    """The stamp of every path, or the reason why there is none."""
    size = max(1, len(paths) // _JOBS)

    def job(start: int) -> pd.DataFrame:
        found = [stamp_of(path) for path in paths.iloc[start : start + size]]
        stamps = [f if isinstance(f, str) else None for f in found]
        reasons = [f.reason if isinstance(f, Unreadable) else None for f in found]
        return pd.DataFrame({"stamp": stamps, "reason": reasons}, dtype="str")

    return pd.concat(pool.map(job, range(0, len(paths), size)), ignore_index=True)


def _remembered(table: pd.DataFrame, memo: pd.DataFrame) -> pd.Series:
    """The content of every path of ``table`` whose stamp is still the one in ``memo``, else missing."""
    found = pa.compute.index_in(pa.array(table["path"]), value_set=pa.array(memo["path"]))  # null where it is not
    known = pa.Table.from_pandas(memo, preserve_index=False).take(found).to_pandas()
    return known["content_hash"].where(known["stamp"] == table["stamp"]).astype("str")


def _hash(path: str) -> str | Unreadable:
    try:
        return content_hash(path)
    except (ClipError, OSError, ValueError) as error:
        return Unreadable(" ".join(str(error).split()))


def _read(memo: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(memo, columns=_COLUMNS)
    except (OSError, ValueError):  # not there; or damaged: then it is only slower
        return pd.DataFrame({name: pd.Series(dtype="str") for name in _COLUMNS})


def _save(unread: pd.DataFrame, found: dict[str, str | Unreadable], memo: Path) -> None:
    # another process may write the memo between this reading and writing: its entries are then read once more, no harm
    hashes = unread["path"].map({path: value for path, value in found.items() if isinstance(value, str)})
    new = unread.assign(content_hash=hashes).dropna(subset="content_hash")[_COLUMNS]
    both = pd.concat([_read(memo), new]).drop_duplicates("path", keep="last")
    try:
        with atomic_path(memo) as temporary:
            both.to_parquet(temporary, index=False)
    except OSError as error:  # a complete cache may be read-only; without the memo it is only slower
        _log.warning("Cannot remember what was read, so it is read again next time: %s", error)
