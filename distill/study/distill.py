"""``sonokit distill``: a student of clips, taught, and scored out of fold beside its teacher and a student of labels alone.

    report = distill(asked, sources, Path("runs/student"), DistillSettings(), signals, splits=splits, config=config)

Killed at any moment, the same call goes on: finished folds are not run again, and the figures are the same.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ...atomic import write_json, write_text
from ...clips.splits import Splits
from ...errors import SonokitError
from ...evaluation.out_of_fold import FoldRows, fold_rows
from ...run_folder import require_same_config, write_config
from ..students.folder import StudentNote, is_student, read_student_note, save_student
from ..training.teachers import Source, device_of
from .asked import Asked
from .card import card
from .expert_knowledge import Knowledge
from .fairness import behind, divide, require_unseen, teacher_notes
from .fold_teacher import FoldTeacher, teacher_side
from .folds import ARMS, Study, Taken, final_student, run_fold
from .page import page
from .rehearsal import rehearse
from .report import costs_of, make_report
from .scoring import measured
from .settings import DistillSettings

STUDENT, TEACHER = "student", "teacher"
"""Folders in the study's."""


def distill(
    asked: Asked,
    sources: Sequence[Source],
    out: Path,
    settings: DistillSettings,
    signals: Mapping[str, Mapping[str, Any]],
    *,
    splits: Splits | None = None,
    knowledge: Knowledge | None = None,
    notes: Sequence[str] = (),
    config: dict[str, Any],
    device: str | None = None,
    progress: bool = False,
    kept: Path | None = None,
) -> dict[str, Any]:
    """Distil a student, measure it, and write ``out``.

    Args:
        asked: The question and the clips that can answer for it.
        sources: What teaches, from :func:`~sonokit.distill.training.teachers.open_source`; several are an ensemble.
        out: The folder to make: ``student/``, ``teacher/`` (where it was fitted here), ``report.json``, ``report.html``,
            ``CARD.md``, ``folds/``, ``config.yaml``, ``environment.json``.
        settings: How.
        signals: Of the distilled student, from :func:`~sonokit.distill.study.settings.read_signal_words`.
        splits: The study's; None: made from the clips, or those of a set of extractors.
        knowledge: Gaze or regions; they reach teachers that are fitted here, and regions the term region_overlap.
        notes: What a reader must know about the choice of clips.
        config: The command's resolved options, for config.yaml.
        device: "cpu" or "cuda"; None: a GPU where there is one.
        progress: Show bars on standard error.
        kept: A folder where fitted teachers, and what they said of the views, are kept: a study of another student, of other
            signals or epochs, finds them there. Nothing but time is lost with it. None: they go when this study is done.

    Returns:
        The content of report.json; see :mod:`sonokit.distill.study.report`.

    Raises:
        SonokitError: A teacher was fitted on clips that are scored, parts do not belong together, or ``out`` holds something
            else.
    """
    out = Path(out)
    _require_free(out, config)
    _require_used(sources, settings, signals, knowledge)
    study = Study(asked, tuple(sources), settings, signals, knowledge, out, device_of(device), progress, kept)
    division, held_out, said = divide(asked, sources, splits, settings)
    folds = [] if division is None else _folds(division, asked, settings)
    require_unseen([*sources, study.begin], asked, folds)
    _require_predicted(sources, asked, held_out)
    rows = np.flatnonzero(~held_out)
    rehearse(study, rows)
    write_config(out, config)
    arms = _arms(study, folds)
    _final(study, rows)
    scores = None if division is None else measured(asked, division, folds, arms, settings)
    report = make_report(
        study,
        scores,
        division,
        rows,
        {
            "splits_given": splits is not None,
            "held_out_clips": int(held_out.sum()),
            "trained_on_clips": len(rows),
            "notes": [*notes, *said, *teacher_notes(sources, study.begin, settings)],
            "costs": costs_of(study, out / STUDENT),
        },
    )
    write_json(out / "report.json", report)
    write_text(out / "report.html", page(report))
    write_text(out / "CARD.md", card(report))
    shutil.rmtree(study.work, ignore_errors=True)
    return report


def _folds(division: Splits, asked: Asked, settings: DistillSettings) -> list[FoldRows]:
    folds = [fold for fold in fold_rows(division, asked.clip_ids, asked.patients) if fold.repeat < settings.repeats]
    for fold in folds:
        if len(fold.train) * settings.frames_per_clip * settings.looks < 2:
            raise SonokitError(f"fold {fold.index} leaves too little to train on: take fewer folds or more patients")
    return [fold for fold in folds if len(fold.test)]


def _arms(study: Study, folds: Sequence[FoldRows]) -> dict[str, np.ndarray]:
    """Probabilities of each arm, float64 [R, N, K], nan where a clip was not tested."""
    if not folds:
        return {}
    shape = 1 + max(fold.repeat for fold in folds), len(study.asked), len(study.asked.classes)
    values = {arm: np.full(shape, np.nan) for arm in ARMS}
    for number, fold in enumerate(folds):
        told = run_fold(study, fold, f"fold {number + 1} of {len(folds)}")
        for arm, content in told.items():
            values[arm][fold.repeat, fold.test] = np.reshape(content["values"], (-1, shape[2]))
    return values


def _final(study: Study, rows: np.ndarray) -> None:
    """The student and its teachers that were fitted here, of all clips that may be learnt from; unless they are there."""
    identity = study.identity(rows, np.zeros(0, dtype=np.int64), None)
    place = study.out / STUDENT
    if is_student(place) and read_student_note(place).provenance.get("identity") == identity:
        return
    taken, teacher = final_student(study, rows)
    for number, one in enumerate(teacher.fitted):
        name = TEACHER if len(teacher.fitted) == 1 else f"{TEACHER}-{number}"
        side, told = teacher_side(study.settings, study.sources), {"kind": "teacher", "identity": identity}
        note = _note(study, rows, side, told, study.sources)
        save_student(one, study.out / name, note)
    told = _told(study, taken, teacher, identity)
    save_student(taken.student, place, _note(study, rows, study.settings.size, told, (*study.sources, study.begin)))


def _told(study: Study, taken: Taken, teacher: FoldTeacher, identity: str) -> dict[str, Any]:
    return {
        "kind": "student",
        "identity": identity,
        "student": study.settings.student,
        "teachers": [{"name": source.name, "kind": source.kind, "fingerprint": source.fingerprint} for source in study.sources],
        "networks": teacher.members,
        "signals": taken.signals,
        "settings": asdict(study.settings),
        "knowledge": None if study.knowledge is None else study.knowledge.how,
        "training_loss": [epoch["loss"] for epoch in taken.history],
    }


def _note(study: Study, rows: np.ndarray, size: int, provenance: dict[str, Any], sources: Sequence[Source]) -> StudentNote:
    asked = study.asked
    seen = behind(asked, rows, sources)
    return StudentNote(
        kind=asked.kind,
        classes=asked.classes,
        label=asked.label,
        size=size,
        sampling=asdict(asked.clips.settings.sampling),
        cache_size=asked.clips.settings.size,
        trained_on=tuple(seen.pop("clip_ids")),
        provenance={**provenance, **seen},
    )


def _require_free(out: Path, config: dict[str, Any]) -> None:
    """Only a study of the same settings may be gone on with."""
    strange = out.is_dir() and any(out.iterdir()) and not (out / "config.yaml").exists()
    if out.is_file() or strange or (out / "student.json").exists() or (out / "config.json").exists():
        raise SonokitError(f"{out} is there already and is no folder of a distillation: choose another --out")
    require_same_config(out, config)


def _require_used(
    sources: Sequence[Source], settings: DistillSettings, signals: Mapping[str, Mapping[str, Any]], knowledge: Knowledge | None
) -> None:
    """What a user gives must have an effect, and what a signal needs must be there."""
    if not sources:
        raise SonokitError("nothing teaches: name a teacher, such as a backbone folder or a timm model")
    fitted = any(source.backbone is not None for source in sources)
    if not fitted and settings.members > 1:
        raise SonokitError(f"members {settings.members}: no teacher is trained here; name a backbone, or leave members out")
    if not fitted and settings.teacher_size is not None:
        raise SonokitError("teacher_size is of a teacher that is trained here, and none is: name a backbone, or leave it out")
    overlap = "region_overlap" in signals
    if knowledge is not None and not fitted and not (overlap and knowledge.regions is not None):
        told = "gaze" if knowledge.gaze is not None else "regions"
        raise SonokitError(f"{told} would reach nobody: a teacher that is trained here is shown it, so name a backbone as one")
    if overlap and (knowledge is None or knowledge.regions is None):
        raise SonokitError("the signal region_overlap needs --regions: name a file of them, or leave the signal out")


def _require_predicted(sources: Sequence[Source], asked: Asked, held_out: np.ndarray) -> None:
    """Files of predictions must have every clip, and that is said before anything is trained."""
    for source in sources:
        if source.soft_labels is not None:
            source.soft_labels.probabilities(asked.clip_ids[~held_out])
