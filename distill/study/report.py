"""report.json of a distillation: every figure with its interval, what it cost, what taught, and what must be read beside it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ...clips.splits import Splits
from ..students.folder import load_student
from ..students.measure import measure_student
from ..students.profile import profile_student
from .folds import Study
from .scoring import Measured, difference_rows, primary_of, score_rows

SCHEMA_VERSION = 1
NOT_MEASURED = "not measured: the student was made without evaluation (--folds 0)"

_REPEATS = 20  # timed passes


def make_report(
    study: Study, scores: Measured | None, division: Splits | None, rows: np.ndarray, about: dict[str, Any]
) -> dict[str, Any]:
    """The content of report.json, plain values only.

    Args:
        study: What was done.
        scores: What was measured; None without evaluation.
        division: The splits; None without evaluation.
        rows: The clips that are not held out, int64 [M]: those that are counted.
        about: ``splits_given``, ``held_out_clips``, ``trained_on_clips``, ``notes``, ``costs``.
    """
    asked, settings = study.asked, study.settings
    costs = about.pop("costs")
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "distillation",
        "label": asked.label,
        "task": "classification" if asked.kind == "classes" else "several",
        "classes": list(asked.classes),
        "primary": primary_of(asked),
        "measured": scores is not None,
        "reason": None if scores is not None else NOT_MEASURED,
        "data": _data(study, division, scores, rows),
        "settings": asdict(settings),
        "signals": {name: dict(options) for name, options in study.signals.items()},
        "teachers": [_teacher(source) for source in study.sources],
        "knowledge": None if study.knowledge is None else _knowledge(study, rows),
        "frames": asked.clips.settings.key,
        "rows": [] if scores is None else score_rows(scores, settings),
        "differences": [] if scores is None else difference_rows(scores, settings),
        "draws": settings.draws,
        "level": settings.level,
        "seed": settings.seed,
        **about,
        **costs,
    }


def costs_of(study: Study, student: Path) -> dict[str, Any]:
    """``sizes`` of student and teacher, the same on every machine, and ``speed``, which is this machine's.

    Args:
        study: What was done; its teachers that were fitted here lie beside the student.
        student: Folder of the finished student.
    """
    classifier, note = load_student(student)
    frame = (1, note.size, note.size)
    sizes: dict[str, Any] = {
        "student": {"name": study.settings.student, "size": note.size, **asdict(profile_student(classifier, frame))}
    }
    speed: dict[str, Any] = {"student": asdict(measure_student(classifier, frame, repeats=_REPEATS))}
    networks = _teachers(study)
    if networks:
        told = [asdict(profile_student(network, (1, side, side))) for network, side in networks]
        timed = [measure_student(network, (1, side, side), repeats=5, warm_up=1) for network, side in networks]
        sizes["teacher"] = {
            "networks": len(networks),
            "size": max(side for _, side in networks),
            **{key: sum(one[key] for one in told) for key in told[0]},
        }
        speed["teacher"] = {
            "latency_ms": sum(one.latency_ms for one in timed),
            "peak_bytes": max(one.peak_bytes for one in timed),
            "batch": 1,
            "threads": timed[0].threads,
        }
    return {"sizes": sizes, "speed": speed}


def _teachers(study: Study) -> list[tuple[nn.Module, int]]:
    """Every network that teaches in the end, and the side of its frames."""
    found: list[tuple[nn.Module, int]] = []
    for source in study.sources:
        if source.network is not None:
            found.append((source.network.cpu(), int(source.size or study.settings.size)))
        elif source.extractors is not None:
            found.append((source.extractors.network(None), source.extractors.size))
    for place in sorted(study.out.glob("teacher*")):
        classifier, note = load_student(place)
        found.append((classifier, note.size))
    return found


def _data(study: Study, division: Splits | None, scores: Measured | None, rows: np.ndarray) -> dict[str, Any]:
    asked = study.asked
    scored = np.unique(np.concatenate([fold.test for fold in scores.folds])) if scores and scores.folds else rows[:0]
    return {
        "clips": len(rows),
        "patients": len(np.unique(asked.patients[rows])),
        "scored_clips": len(scored),
        "scored_patients": len(np.unique(asked.patients[scored])),
        "classes": _counts(study, rows),
        "split_unit": asked.clips.manifest.patient_column,
        "folds": None if division is None else sum(fold.repeat == 0 for fold in division.folds),
        "repeats": None if division is None else min(division.repeats, study.settings.repeats),
        "splits_fingerprint": None if division is None else division.fingerprint(),
        "fingerprint": asked.fingerprint(np.arange(len(asked))),
    }


def _counts(study: Study, rows: np.ndarray) -> list[dict[str, Any]]:
    asked, truth, patients = study.asked, study.asked.truth[rows], study.asked.patients[rows]
    counts = []
    for code, name in enumerate(asked.classes):
        there = truth == code if asked.kind == "classes" else truth[:, code] == 1
        known = len(rows) if asked.kind == "classes" else int((~np.isnan(truth[:, code])).sum())
        people = len(np.unique(patients[there]))
        counts.append({"name": name, "clips": int(there.sum()), "patients": people, "known": known})
    return counts


def _teacher(source: Any) -> dict[str, Any]:
    pretrained = source.pretrained if source.backbone is not None else None
    return {"name": source.name, "kind": source.kind, "fingerprint": source.fingerprint, "pretrained": pretrained}


def _knowledge(study: Study, rows: np.ndarray) -> dict[str, Any]:
    assert study.knowledge is not None
    known = study.knowledge
    kind = "gaze" if known.gaze is not None else "regions"
    return {"kind": kind, **known.how, "annotated_clips": int(known.annotated[rows].sum()), "faults": known.faults.as_dict()}
