"""``export.json``: what an exported model answers and what frames it wants. Reading it needs nothing but Python."""

import json
from pathlib import Path
from typing import Any

from ...errors import SonokitError

EXPORT_FILE = "export.json"
EXPORT_SCHEMA = 1
MODEL_FILE = "model.onnx"
CARD_FILE = "CARD.md"
KINDS = ("classes", "several", "extractor", "backbone", "landmarks")

_DECODINGS = ("taylor", "soft_argmax", "argmax")


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
    wrong = _wrong(note)
    if wrong:
        raise SonokitError(f"{file} is damaged ({', '.join(wrong)} cannot be read): make or copy the folder again")
    return note


def _wrong(note: dict[str, Any]) -> list[str]:
    """Names of what is there, but is not what a reader can use."""
    kind = note["kind"]
    sides = _pair if kind == "landmarks" else _whole
    right = {
        "kind": kind in KINDS,
        "classes": _texts(note["classes"]),
        "size": sides(note["size"]),
        "letterbox": sides(note["letterbox"]),
        "sampling": _sampling(note["sampling"]),
        "input": isinstance(note["input"], str),
        "outputs": _texts(note["outputs"]) and bool(note["outputs"]),
        "sha256": isinstance(note["sha256"], str),
    }
    if kind == "extractor":
        right |= {name: _whole(note.get(name)) for name in ("segments", "segment_frames")}
    if kind == "landmarks":
        right |= {"stride": _whole(note.get("stride")), "decoding": note.get("decoding") in _DECODINGS}
    return [name for name, fine in right.items() if not fine]


def _whole(value: Any) -> bool:
    return type(value) is int and value > 0


def _pair(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_whole, value))


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _sampling(value: Any) -> bool:
    if not isinstance(value, dict) or not value.keys() <= {"frames", "rate_hz"}:
        return False
    frames, rate = value.get("frames"), value.get("rate_hz")
    return (frames is None or _whole(frames)) and (rate is None or (type(rate) in (int, float) and rate > 0))
