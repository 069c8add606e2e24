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
from PIL import Image

from ...atomic import atomic_path, write_json, write_text
from ...clips.cached_clips import CachedClips
from ...errors import SonokitError
from ..placement import fitted, place_image
from .choice import Candidate, Limits, choose_form, speed_up
from .forms import FP32
from .frames import resized
from .graphs import INPUT, onnx_of
from .note import EXPORT_FILE, EXPORT_SCHEMA, MODEL_FILE
from .run import ExportedModel
from .sources import Source

_PACKAGES = ("sonokit", "torch", "timm", "onnx", "onnxruntime", "onnxscript", "numpy", "pillow")


def export_model(
    source: Source,
    calibration: Sequence[np.ndarray],
    checks: Sequence[np.ndarray],
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
        checks: Other clips, which no form has seen: on each the prediction is compared with torch's.
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
    model, chosen, rows = choose_form(onnx_of(source.graph, source.shape), source, calibration, checks, limits, forms)
    content = model.SerializeToString()
    note = {
        "schema": EXPORT_SCHEMA,
        **source.note,
        "input": INPUT,
        "outputs": list(source.graph.outputs),  # type: ignore[arg-type]
        "form": chosen.form,
        "sha256": hashlib.sha256(content).hexdigest(),
        "bytes": len(content),
        "difference": chosen.difference,
        "unit": source.unit,
        "checks": {
            "clips": len(checks),
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
        write_text(staged / "CARD.md", card(note, rows))
        write_json(staged / EXPORT_FILE, note)
        _require_same(ExportedModel(staged, threads=limits.threads), source, checks, limits)
    return note


def parted(clips: CachedClips, *, most: int = 64, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Clips to calibrate with and clips to check with, no patient on both sides.

    Args:
        clips: Cached at the size that the source wants.
        most: To calibrate with; all clips of the other half are checked.
        seed: Of the division.

    Raises:
        SonokitError: All clips are of one patient.
    """
    patients = clips.manifest.group_codes()
    order = np.random.default_rng(seed).permutation(patients.max() + 1)
    if len(order) < 2:
        raise SonokitError("the clips are all of one patient: export wants one to calibrate with and another to check with")
    first = np.isin(patients, order[: len(order) // 2])
    calibration, checks = np.flatnonzero(first), np.flatnonzero(~first)
    kept = calibration[np.linspace(0, len(calibration) - 1, min(most, len(calibration))).astype(np.int64)]
    return [clips[i].frames for i in kept.tolist()], [clips[i].frames for i in checks.tolist()]


def parted_images(
    folder: Path, size: tuple[int, int], *, most: int = 64, seed: int = 0
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The same for a landmark model: the images in a folder, each in its place in an input of ``size`` (width, height).

    Raises:
        SonokitError: There are fewer than two images.
    """
    images = []
    for file in sorted(Path(folder).glob("*")):
        try:
            with Image.open(file) as opened:
                grey = np.asarray(opened.convert("L"))
        except OSError:  # whatever else lies there
            continue
        images.append(place_image(grey, fitted((grey.shape[1], grey.shape[0]), size))[None])
    if len(images) < 2:
        raise SonokitError(f"{folder} holds {len(images)} images: export wants one to calibrate with and another to check with")
    order = np.random.default_rng(seed).permutation(len(images)).tolist()
    half = len(order) // 2
    return [images[i] for i in order[:half][:most]], [images[i] for i in order[half:]]


def require_free(folder: Path) -> None:
    """Refuse a folder that holds something else than an export; to be asked before the work.

    Raises:
        SonokitError: It does.
    """
    folder = Path(folder)
    if folder.exists() and not (folder / EXPORT_FILE).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise SonokitError(f"{folder} holds something else than an export: choose another folder")


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
    unit = {"share": "share of the greatest feature"}.get(note["unit"], note["unit"])
    lines = [
        f"# {note['label'] or 'features'}: exported {note['kind']}",
        "",
        f"- Answers: {', '.join(note['classes']) or 'a feature vector'}.",
        f"- Reads: {reads}.",
        f"- Size: {note['parameters']:,} parameters, {note['bytes']:,} bytes; form {note['form']}.",
        f"- Beside torch: on {checked['clips']} clips that no form was calibrated on, the greatest change of a prediction is "
        f"{note['difference']:.2g} ({unit}; {checked['difference']:g} is allowed).",
        f"- Run it without torch: {how}.",
        "- Research software: not a medical device.",
        "",
        f"Forms tried on this machine ({checked['threads']} threads; milliseconds a pass of 1 and of 16 inputs):",
        "",
        "| form | 1 | 16 | times fp32 | change | faithful |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
    ]
    plain = next(row for row in rows if row.form == FP32)
    for row in rows:
        if row.fault is not None:
            lines.append(f"| {row.form} | | | | | cannot be made |")
            continue
        cells = [f"{value:.3g}" for value in row.latency_ms.values()]
        cells += [f"{speed_up(row, plain):.2f}", f"{row.difference:.2g}", "yes" if row.faithful else "no"]
        lines.append(f"| {row.form} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _require_same(exported: ExportedModel, source: Source, checks: Sequence[np.ndarray], limits: Limits) -> None:
    """What was written says what was measured: read back, and asked as ``predict`` will."""
    for clip in checks[:3]:
        if source.note["kind"] == "landmarks":
            said = source.pooled(exported.run(clip)["heat_maps"])
        else:
            said = exported.predict_frames(resized(clip, exported.size))
        if source.difference(source.expected(clip), said) > limits.allowed(source):
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
