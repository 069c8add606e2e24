"""The held-out part is opened once: who scored it, when, with what, is written beside the store.

``STORE/held_out_opened.jsonl`` gets one line for each opening. A second opening for the same label by another configuration is
refused as soon as one of its held-out patients was scored before: a score on clips that earlier scores were compared on is a
score on training clips. So is one of the same clips with the same truth under another label's name. The very same
configuration gives the very same score and may be run again.
"""

import dataclasses
import datetime
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SonokitError
from ..features.store.files import is_local, locked
from .settings import FitSettings
from .study import Study

NAME = "held_out_opened.jsonl"


@dataclasses.dataclass(frozen=True)
class Opening:
    """One opening of a held-out part.

    Attributes:
        ledgers: Where earlier openings may stand.
        written: Where this one is written: beside the store, or, where nothing can be written there, None for the expert's
            own folder.
        record: The line, without what is known only afterwards.
    """

    ledgers: tuple[Path, ...]
    written: Path | None
    record: dict[str, Any]


def closed_note(study: Study) -> str:
    """What a report says of a held-out part that was not scored."""
    return (
        f"{_amount(study)} are held out and stay closed; --open_held_out true scores them, once"
        if study.question.unit == "clip"
        else f"{len(study.held_out)} patients are held out and stay closed; --open_held_out true scores them, once"
    )


def ask_to_open(study: Study, settings: FitSettings, out: Path) -> Opening:
    """Make sure that the held-out part may be scored; look before the long work.

    Args:
        study: What is evaluated.
        settings: With what.
        out: The expert folder.

    Raises:
        SonokitError: Nothing is held out, or another configuration has scored one of these patients for the same label, or the
            same truth of the same clips under another name.
    """
    if not len(study.held_out):
        raise SonokitError(
            "--open_held_out: nothing is held out; a column split with test in it, or splits made with --held_out, hold out"
        )
    folder = study.features.stores.folder
    beside = folder / NAME
    record = {
        "held_out": _digest(sorted(study.held_out_clips.tolist())),
        "who": sorted(_digest(name)[:10] for name in study.held_out_patients.tolist()),
        "truth": _truth(study),
        "clips": len(study.question.clips_of(study.held_out)),
        "patients": len(np.unique(study.question.patients[study.held_out])),
        "label": study.question.label,
        "task": study.question.task,
        "classes": list(study.question.classes),
        "unit": study.question.unit,
        "splits": study.splits.fingerprint(),
        "store": study.features.final_store.header_on_disk.fingerprint,
        "configuration": _configuration(study, settings),
        "expert": "/".join(out.parts[-3:]) if out.parent.name == "labels" else out.name,
    }
    opening = Opening((beside, out / NAME), beside if _writable(folder) else None, record)
    for ledger in opening.ledgers:
        _require_unopened(ledger, record)
        _require_new_truth(ledger, record)
    return opening


def opened_notes(opening: Opening) -> list[str]:
    """What a report says of a held-out part that was scored."""
    notes = ["the held-out part was opened for this expert: it holds for no other one of this label"]
    if opening.written is None:
        notes.append(
            f"nothing can be written beside the store: that its held-out part was opened stands in {NAME} of this folder only; "
            "do not open it again"
        )
    return notes


def write_opening(opening: Opening, expert: Path, outcome: dict[str, Any]) -> None:
    """Append the line: the last step before the score can be seen.

    Args:
        opening: From :func:`ask_to_open`.
        expert: The expert folder that is being written; it takes the line where the store cannot.
        outcome: Head, recipe and scores.

    Raises:
        SonokitError: Another run opened the same part meanwhile.
    """
    record = {**opening.record, **outcome, "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")}
    if opening.written is not None:
        with locked(opening.written.parent):
            _require_unopened(opening.written, opening.record)
            _append(opening.written, record)
        return
    expert.mkdir(parents=True, exist_ok=True)
    before = opening.ledgers[1]
    for line in _lines(before):  # the folder that is being replaced keeps its history
        _append(expert / NAME, line)
    _append(expert / NAME, record)


def _require_unopened(ledger: Path, record: dict[str, Any]) -> None:
    for line in _lines(ledger):
        if line.get("label") == record["label"] and _same_people(line, record) and not _same_configuration(line, record):
            raise SonokitError(
                f"the held-out part{_how_much(line, record)} was opened for {record['label']!r} {_told(line, ledger)}: a "
                "configuration that is chosen after that score has no held-out score left. Leave --open_held_out out, or hold "
                "out new patients only"
            )


def _require_new_truth(ledger: Path, record: dict[str, Any]) -> None:
    """Asked before the work only: labels of one run may well agree on a few clips, and open them together."""
    lines = _lines(ledger)
    if any(line.get("label") == record["label"] and _same_configuration(line, record) for line in lines):
        return
    for line in lines:
        if line.get("label") != record["label"] and record["truth"] is not None and line.get("truth") == record["truth"]:
            raise SonokitError(
                f"the held-out part was opened for {line.get('label')!r} {_told(line, ledger)}, and {record['label']!r} is the "
                "same there, clip by clip: another name makes no new score. Leave --open_held_out out, or hold out new patients"
            )


def _same_people(line: dict[str, Any], record: dict[str, Any]) -> bool:
    """Whether a patient is in both; older lines say only which clips were held out as a whole."""
    return line.get("held_out") == record["held_out"] or not set(line.get("who", ())).isdisjoint(record["who"])


def _same_configuration(line: dict[str, Any], record: dict[str, Any]) -> bool:
    return record["configuration"] is not None and line.get("configuration") == record["configuration"]


def _how_much(line: dict[str, Any], record: dict[str, Any]) -> str:
    return "" if line.get("held_out") == record["held_out"] else ", with some of these patients in it,"


def _told(line: dict[str, Any], ledger: Path) -> str:
    scores = ", ".join(f"{name} {value:.3f}" for name, value in (line.get("scores") or {}).items() if value is not None)
    return (
        f"on {line.get('date')} by {line.get('expert')} "
        f"({line.get('head')} on {line.get('recipe')}{': ' + scores if scores else ''}; {ledger})"
    )


def _truth(study: Study) -> str | None:
    """Names what is true of each held-out clip; None where all have the same, as rare labels often do."""
    question, rows = study.question, study.held_out
    truth = question.truth[rows]
    values = truth.tolist() if question.task == "regression" else np.asarray(question.classes, dtype=object)[truth].tolist()
    if len(set(values)) < 2:
        return None
    of_row = dict(zip(question.clip_ids[rows].tolist(), values, strict=True))  # a row is a clip, or a patient
    clips, patients = question.every_clip
    names = clips if question.unit == "clip" else patients
    return _digest(sorted([c, str(of_row[n])] for c, n in zip(clips.tolist(), names.tolist(), strict=True) if n in of_row))


def _configuration(study: Study, settings: FitSettings) -> str | None:
    """Names all that the score depends on; None where nothing does, so that no two runs are known to be the same.

    A clock may have a say in it, and so may a teacher's file or another store, whose content may change under its name.
    """
    if settings.search is not None and settings.search.seconds is not None:
        return None
    if settings.unlabelled is not None or (settings.teacher is not None and settings.teacher != "ensemble"):
        return None
    plain = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if field.name not in ("open_held_out", "heads", "draws", "level", "columns")
    }
    heads = [head if isinstance(head, str) else f"{type(head).__name__} {head.get_params()}" for head in settings.heads]
    truth = study.question.truth.tolist()
    return _digest(
        [repr(sorted(plain.items())), heads, study.question.clip_ids.tolist(), truth, study.splits.fingerprint(),
         study.features.final_store.header_on_disk.fingerprint, study.features.final_store.stamp()]
    )  # fmt: skip


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def _writable(folder: Path) -> bool:
    return is_local(folder) and os.access(folder, os.W_OK)


def _lines(ledger: Path) -> list[dict[str, Any]]:
    if not ledger.is_file():
        return []
    try:
        return [json.loads(line) for line in ledger.read_text(encoding="utf-8").splitlines() if line.strip()]
    except ValueError as fault:
        raise SonokitError(f"{ledger} is damaged ({fault}): it says who opened the held-out part; bring back a copy") from fault


def _append(ledger: Path, record: dict[str, Any]) -> None:
    """One write of one whole line at the end, flushed to disk."""
    with open(ledger, "ab", buffering=0) as handle:
        handle.write((json.dumps(record) + "\n").encode())
        os.fsync(handle.fileno())


def _amount(study: Study) -> str:
    return f"{len(study.held_out)} clips of {len(np.unique(study.question.patients[study.held_out]))} patients"
