"""Files that are either whole or absent: written beside their place, flushed, then renamed."""

import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of ``path``; on success it is flushed to disk and renamed to ``path``.

    The temporary path may be written as a file or as a folder. A folder takes the place of an existing one, which is removed
    only once the new one is whole. After an exception nothing is left behind and ``path`` is as it was. After a kill a file
    ``.tmp-*`` may remain; readers ignore such names.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".tmp-{uuid.uuid4().hex[:12]}-{path.name}"
    try:
        yield temporary
        _flush(temporary)
        if temporary.is_dir() and path.exists():
            retired = path.parent / f".tmp-{uuid.uuid4().hex[:12]}-retired"
            os.replace(path, retired)
            os.replace(temporary, path)
            shutil.rmtree(retired)
        else:
            os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        else:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` to ``path`` as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` to ``path`` as indented JSON, atomically. NaN is refused: write ``None`` for what is unknown."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def _flush(path: Path) -> None:
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    for file in files:
        with open(file, "rb") as handle:
            os.fsync(handle.fileno())
