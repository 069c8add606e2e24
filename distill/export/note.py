"""``export.json``: what an exported model answers and what frames it wants. Reading it needs nothing but Python."""

import json
from pathlib import Path
from typing import Any

from ...errors import SonokitError

EXPORT_FILE = "export.json"
EXPORT_SCHEMA = 1
MODEL_FILE = "model.onnx"


def is_export(folder: str | Path) -> bool:
    """Whether the folder is one of ``sonokit export``."""
    return (Path(folder) / EXPORT_FILE).is_file()


def read_export(folder: Path) -> dict[str, Any]:
    """``export.json`` of a folder.

    Raises:
        SonokitError: There is none, it is damaged, or a newer sonokit wrote it.
    """
    file = Path(folder) / EXPORT_FILE
    if not file.is_file():
        raise SonokitError(f"{folder} is no exported folder: {EXPORT_FILE} is missing (sonokit export makes one)")
    try:
        note: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        schema = int(note["schema"])
        missing = {"kind", "classes", "size", "letterbox", "sampling", "input", "outputs", "sha256"} - note.keys()
    except (ValueError, KeyError, TypeError) as fault:
        raise SonokitError(f"{file} is damaged ({fault}): make or copy the folder again") from fault
    if schema > EXPORT_SCHEMA:
        raise SonokitError(f"{file} was written by a newer sonokit (schema {schema}): update this one")
    if missing:
        raise SonokitError(f"{file} is damaged ({', '.join(sorted(missing))} missing): make or copy the folder again")
    return note
