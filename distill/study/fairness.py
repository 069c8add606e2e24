"""No teacher may have seen what its student is scored on: what is refused, and which clips end up behind a student."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ...clips.held_out_column import divide_as_told, held_out_by_column, require_held_out
from ...clips.splits import Splits
from ...errors import SonokitError
from ...evaluation.out_of_fold import FoldRows
from ..training.teachers import Source
from .asked import Asked
from .settings import DistillSettings

VOUCHED = (
    "the predictions in {file} taught as they are: that whatever made them has seen labels of none of the clips scored here, "
    "nor of other clips of their patients, is the word of whoever gave them, and no figure here can be better than that word; "
    "ordinary out-of-fold predictions are not enough, for those of a training clip come from a model that saw the clips tested "
    "here"
)
UNTOLD = (
    "nobody can tell whose labels the weights {weights} of {whose} have seen: weights of everyday pictures (ImageNet) are "
    "fine, those of a network that was fitted on labels of these clips are not, and make every score here too good"
)


def divide(
    asked: Asked, sources: Sequence[Source], splits: Splits | None, settings: DistillSettings
) -> tuple[Splits | None, np.ndarray, tuple[str, ...]]:
    """The folds of a study.

    Args:
        asked: The question.
        sources: The teachers; a set of extractors brings its own splits.
        splits: That the user gave.
        settings: With how many folds, where none are given; 0 folds: no evaluation.

    Returns:
        The splits, or None without evaluation; which clips are held out, bool [N]; notes.

    Raises:
        SonokitError: Splits, clips and teachers do not belong together.
    """
    sets = [source.extractors for source in sources if source.extractors is not None]
    column = asked.clips.manifest.patient_column or "clip_id"
    table = asked.clips.table[["clip_id", *(name for name in ("site", "split") if name in asked.clips.table)]].copy()
    out, notes = held_out_by_column(table.assign(**{column: asked.patients}), column)
    for one in sets:
        if splits is not None and splits.fingerprint() != one.splits.fingerprint():
            raise SonokitError(f"{one.folder} was trained with other splits: give its own, {one.folder}/splits.json")
        splits = one.splits
    if splits is not None:
        require_held_out(splits, out, asked.clip_ids)
        return splits if settings.folds else None, np.isin(asked.clip_ids, splits.held_out), tuple(notes)
    if not settings.folds:
        return None, np.isin(asked.clip_ids, out), tuple(notes)
    label = None
    if asked.kind == "classes":
        table[asked.label] = np.asarray(asked.classes, dtype=object)[asked.truth]
        label = asked.label
    made, said = divide_as_told(
        table, asked.patients, label=label, patient_column=column,
        folds=settings.folds, repeats=settings.repeats, seed=settings.seed,
    )  # fmt: skip
    note = "the folds were made from these clips; write them once with `sonokit split` to share them over a study"
    return made, np.isin(asked.clip_ids, made.held_out), (*said, note)


def require_unseen(sources: Sequence[Source], asked: Asked, folds: Sequence[FoldRows]) -> None:
    """Refuse a teacher that was fitted on labels of clips, or of patients, on which its student would be scored.

    Args:
        sources: The teachers, and what the student begins with (``weights_source``).
        asked: The question.
        folds: That would be scored.

    Raises:
        SonokitError: It names the teacher, how many clips, and what to do.
    """
    for source in sources:
        for fold in folds:
            told = source
            if source.extractors is not None:
                told = Source(source.name, source.kind, source.fingerprint, source.extractors.provenance(fold.index))
            tested = fold.test
            seen = told.seen(asked.clip_ids[tested], asked.contents[tested], asked.patients[tested])
            if seen.any():
                who, remedy = _who(source)
                raise SonokitError(
                    f"{who} was trained on labels of {int(seen.sum())} clips that fold {fold.index} tests, or of their "
                    f"patients (first {asked.clip_ids[tested][seen][0]}): no score would be fair. {remedy}; or say --folds 0 "
                    "for no scores"
                )


def behind(asked: Asked, rows: np.ndarray, sources: Sequence[Source]) -> dict[str, Any]:
    """Whose labels had a part in a final student: ``clip_ids``, ``training_clips`` {clip_id: hash}, ``training_patients``."""
    clips = dict(zip(asked.clip_ids[rows].tolist(), asked.contents[rows].tolist(), strict=True))
    ids, people = set(clips), set(asked.patients[rows].tolist())
    for source in sources:
        seen = source.extractors.provenance(None) if source.extractors is not None else source.provenance
        if seen.get("fitted_on_labels", False):
            clips |= seen.get("training_clips", {})
            people |= set(seen.get("training_patients", ()))
            ids |= {*seen.get("clip_ids", ()), *seen.get("training_clips", {})}
    return {"clip_ids": sorted(ids), "training_clips": clips, "training_patients": sorted(people)}


def teacher_notes(sources: Sequence[Source], begin: Source, settings: DistillSettings) -> tuple[str, ...]:
    """What a reader must know about where the teaching comes from.

    Args:
        sources: The teachers.
        begin: What the student begins with.
        settings: Of the study.
    """
    notes = [VOUCHED.format(file=source.name) for source in sources if source.soft_labels is not None]
    for source in (*sources, begin):
        if source.untold:
            whose = "the student" if source is begin else f"the teacher {source.name}"
            notes.append(UNTOLD.format(weights=source.weights if source.weights != "none" else source.name, whose=whose))
    said = settings.teacher_size
    larger = [source for source in sources if said is not None and source.size is not None and source.size > said]
    notes += [f"{one.name} wants frames of {one.size} pixels: all teachers saw these, not those of {said}" for one in larger]
    return tuple(notes)


def _who(source: Source) -> tuple[str, str]:
    """Whoever has seen too much, and what to do."""
    if source.kind == "weights":
        return f"what gave the student its weights {source.name}", "Take other --student_weights"
    if source.weights != "none":
        return f"what gave the teacher {source.name} its weights {source.weights}", "Take other --weights"
    remedy = "Name a backbone, which is trained once a fold, or a set of extractors"
    return f"the teacher {source.name}", remedy
