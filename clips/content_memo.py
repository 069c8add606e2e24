"""Which content lies behind each path, without reading unchanged files again.

A file is taken as unchanged while its size and its time of change (to the nanosecond) are; a URL while its file system says so.
"""

import logging
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import fsspec
import pandas as pd
from tqdm import tqdm

from ..atomic import atomic_path
from .decode import ClipError, content_hash

_COLUMNS = ["path", "stamp", "content_hash"]
_SAVE_EVERY = 10_000  # files
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
    stamps = list(pool.map(stamp_of, paths))
    table = pd.DataFrame(
        {"path": paths.to_numpy(), "stamp": pd.Series([s if isinstance(s, str) else None for s in stamps], dtype="str")}
    )
    table["reason"] = pd.Series([s.reason if isinstance(s, Unreadable) else None for s in stamps], dtype="str")
    table = table.merge(_read(memo), on=["path", "stamp"], how="left", validate="many_to_one")
    unread = table[table["content_hash"].isna() & table["stamp"].notna()].drop_duplicates("path")
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
        status = Path(path).stat()
    except FileNotFoundError:
        return Unreadable("there is no such file")
    except (OSError, ValueError, ImportError) as error:  # no permission, no such protocol, its package not installed
        return Unreadable(" ".join(str(error).split()))
    return f"{status.st_size}-{status.st_mtime_ns}"


def _hash_all(unread: pd.DataFrame, memo: Path, pool: Executor, progress: bool) -> dict[str, str | Unreadable]:
    found: dict[str, str | Unreadable] = {}
    if unread.empty:
        return found
    try:
        results = zip(unread["path"], pool.map(_hash, unread["path"]), strict=True)
        for path, result in tqdm(results, "reading clips", len(unread), unit="clip", disable=not progress):
            found[path] = result
            if len(found) % _SAVE_EVERY == 0:
                _save(unread, found, memo)
    finally:
        _save(unread, found, memo)
    return found


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
