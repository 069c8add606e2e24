"""A model made ready for the point of care: one folder that runs with ONNX Runtime alone.

model.onnx     the network, from bytes to probabilities, in the fastest form that says what torch says
export.json    what it answers, what frames it wants, every form that was tried with its figures, SHA-256 of model.onnx
CARD.md        the same for people

The folder is written under a temporary name and renamed when it is whole.
"""

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ...atomic import atomic_path, write_json, write_text
from ...errors import SonokitError
from .choice import Candidate, Limits, choose_form, finite, greatest_differences, session_of, speed_up
from .division import Checks
from .division import parted as parted
from .forms import FP32
from .frames import resized
from .graphs import INPUT, onnx_of
from .note import CARD_FILE, EXPORT_FILE, EXPORT_SCHEMA, MODEL_FILE
from .run import ExportedModel
from .sources import Source

_PACKAGES = ("sonokit", "torch", "timm", "onnx", "onnxruntime", "onnxscript", "numpy", "pillow")


def export_model(
    source: Source,
    calibration: Sequence[np.ndarray],
    checks: Checks | Sequence[np.ndarray],
    folder: Path,
    *,
    forms: str = "auto",
    limits: Limits | None = None,
) -> dict[str, Any]:
    """Write ``folder``; an export that is there already is replaced once the new one is whole.

    Args:
        source: See :func:`~sonokit.distill.export.sources.open_source`.
        calibration: Clips for the ranges of int8: letterboxed frames, uint8 [T, L, L] each, as
            :func:`~sonokit.distill.export.sources.frame_settings` says.
        checks: Other clips, which no form has seen: on each the prediction is compared with torch's. Without a division into
            those that choose and those that report, all do both, and the card says so.
        folder: To be made.
        forms: "auto" the fastest faithful form of all, "fp32", or "int8" the fastest faithful int8 form.
        limits: What is asked of a form; None: the defaults, one thread.

    Returns:
        What ``export.json`` says.

    Raises:
        SonokitError: The network cannot be exported, no form is faithful, a list of clips is empty, or the folder holds
            something else.
    """
    folder, limits = Path(folder), limits or Limits()
    require_free(folder)
    if not len(calibration) or not len(checks):
        raise SonokitError("export needs clips to calibrate with and others to check with: give two clips or more")
    checks = checks if isinstance(checks, Checks) else Checks(list(checks), [])
    plain = onnx_of(source.graph, source.shape)
    model, chosen, rows = choose_form(plain, source, calibration, checks.choosing, limits, forms)
    clip_difference, frame_difference = chosen.difference, chosen.frame_difference
    if checks.reporting:
        sessions = {chosen.form: session_of(model, limits.threads)}
        clip_difference, frame_difference = greatest_differences(source, sessions, checks.reporting)[chosen.form]
    content = model.SerializeToString()
    note = {
        "schema": EXPORT_SCHEMA,
        **source.note,
        "input": INPUT,
        "outputs": list(source.graph.outputs),  # type: ignore[arg-type]
        "form": chosen.form,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "difference": finite(clip_difference),
        "frame_difference": finite(frame_difference),
        "unit": source.unit,
        "checks": {
            "clips": len(checks.reporting or checks.choosing),
            "choosing_clips": len(checks.choosing),
            "apart": bool(checks.reporting),
            "calibration_clips": len(calibration),
            **asdict(limits),
            "difference": limits.allowed(source),
        },
        "forms": [row.row() for row in rows],
        "made_on": {"processor": _processor(), "cores": os.cpu_count(), "packages": _versions()},
    }
    with atomic_path(folder) as staged:
        staged.mkdir()
        (staged / MODEL_FILE).write_bytes(content)
        write_text(staged / CARD_FILE, card(note, rows))
        write_json(staged / EXPORT_FILE, note)
        _require_same(ExportedModel(staged, threads=limits.threads), source, checks.choosing, limits)
    return note


def require_free(folder: Path) -> None:
    """Refuse a folder that holds something else than an export; to be asked before the work.

    Raises:
        SonokitError: It does.
    """
    folder = Path(folder)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise SonokitError(f"{folder} is a file: choose another folder")
    own = (EXPORT_FILE, MODEL_FILE, CARD_FILE) if (folder / EXPORT_FILE).is_file() else ()
    others = sorted(path.name for path in folder.iterdir() if path.name not in own or not path.is_file())
    if others:
        more = f" and {len(others) - 5} more" if len(others) > 5 else ""
        raise SonokitError(
            f"{folder} holds something else than an export ({', '.join(others[:5])}{more}), which would be lost: choose "
            "another folder, or move that away"
        )


def card(note: dict[str, Any], rows: Sequence[Candidate]) -> str:
    """``CARD.md``: what it is, what it wants, what was measured."""
    sampling = note["sampling"]
    count = sampling.get("frames")
    frames = f"{count} evenly spaced frames" if count else f"{sampling['rate_hz']:g} frames a second"
    checked, size = note["checks"], note["size"]
    if note["kind"] == "landmarks":
        reads = f"grey images, fitted into {size[0]} × {size[1]} pixels"
        how = "`sonokit.distill.export.run.ExportedModel(FOLDER).landmarks(images)`"
    else:
        reads = f"{frames} of a clip, grey, letterboxed to {note['letterbox']} pixels, then {size} × {size}"
        how = "`sonokit predict FOLDER --clips CLIPS --out FILE.csv`"
        if note["kind"] == "backbone":
            how = "`sonokit.distill.export.run.ExportedModel(FOLDER).predict_clips([(clip_id, path), …])`"
    unit = {"share": "share of the greatest feature"}.get(note["unit"], note["unit"])
    lines = [
        f"# {note['label'] or 'features'}: exported {note['kind']}",
        "",
        f"- Answers: {', '.join(note['classes']) or 'a feature vector'}.",
        f"- Reads: {reads}.",
        f"- Size: {note['parameters']:,} parameters, {note['bytes']:,} bytes; form {note['form']}.",
        f"- Beside torch: {_beside_torch(note, unit)}",
        f"- Run it without torch: {how}.",
        "- Research software: not a medical device.",
        "",
        f"Forms tried on this machine ({checked['threads']} threads; milliseconds a pass of 1 and of 16 inputs):",
        "",
        "| form | 1 | 16 | times fp32 | change per clip | change per frame | faithful |",
        "| --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    plain = next(row for row in rows if row.form == FP32)
    for row in rows:
        if row.fault is not None:
            lines.append(f"| {row.form} | | | | | | cannot be made |")
            continue
        cells = [f"{value:.3g}" for value in row.latency_ms.values()]
        frame = "" if row.frame_difference is None else f"{row.frame_difference:.2g}"
        cells += [f"{speed_up(row, plain):.2f}", f"{row.difference:.2g}", frame, "yes" if row.faithful else "no"]
        lines.append(f"| {row.form} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _beside_torch(note: dict[str, Any], unit: str) -> str:
    checked, change = note["checks"], note["difference"]
    one = "image" if note["kind"] == "landmarks" else "clip"
    which = "was calibrated on, nor the form chosen by" if checked["apart"] else "was calibrated on"
    said = f"{change:.2g}" if change is not None else "no finite number"
    text = f"on {checked['clips']} {one}s that no form {which}, the greatest change of a prediction is {said} per {one}"
    if note["frame_difference"] is not None:
        text += f" and {note['frame_difference']:.2g} of a single frame's"
    text += f" ({unit}; {checked['difference']:g} per {one} is allowed)."
    if change is None or change > checked["difference"]:
        text += f" That is MORE than is allowed, though the form kept to it on the {checked['choosing_clips']} that chose it."
    if not checked["apart"]:
        text += f" The form was chosen by the same {one}s: there are too few patients to keep others for this figure."
    return text


def _require_same(exported: ExportedModel, source: Source, checks: Sequence[np.ndarray], limits: Limits) -> None:
    """What was written says what was measured: read back, and asked as ``predict`` will."""
    for clip in checks[:3]:
        if source.note["kind"] == "landmarks":
            said = source.pooled(exported.run(clip)["heat_maps"])
        else:
            said = exported.predict_frames(resized(clip, exported.size))
        if not source.difference(source.expected(clip), said) <= limits.allowed(source):
            raise SonokitError("the exported folder says something else than what was exported: export it again")


def _processor() -> str:
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
