"""One prepared study, evaluated beside its floors and fitted once more on everything: the work of a fit without any file."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SonokitError
from ..evaluation.bootstrap import interval
from ..evaluation.by_group import group_names
from ..evaluation.by_patient import average_by_patient
from ..evaluation.nested import Reading, read_values
from ..evaluation.out_of_fold import FoldRows
from ..evaluation.predictions import Predictions
from ..evaluation.readout import readout_of
from .choices import ChoiceLog, chooses, head_maker
from .crossval import Measured, cross_validate_read, fit_final, predict_held_out
from .distilled import Distillation, distil_final, distil_out_of_fold, distillation_for, distilled_entry
from .external.reference import make_reference
from .floors import columns_of, few_folds, measure_floors
from .folder import Expert
from .heads import head_name, needs_trust
from .heads.kept import KeptHead
from .held_out import closed_note
from .report.content import Evidence
from .report.contributions import ContributionsCollector
from .settings import USUAL_COLUMNS, FitSettings
from .study import Study


@dataclass(frozen=True)
class Fitted:
    """An expert and what is known of it.

    Attributes:
        evidence: What was measured.
        expert: What is kept.
        search_seconds: How long candidates were tried inside the folds.
    """

    evidence: Evidence
    expert: Expert
    search_seconds: float = 0.0


def fit_study(study: Study, settings: FitSettings, *, labels_csv: Path | None = None, progress: bool = False) -> Fitted:
    """Cross-validate beside the floors, and fit what is kept.

    Args:
        study: From :func:`~sonokit.experts.study.prepare`.
        settings: How.
        labels_csv: Where labels of unlabelled clips would be found, for a teacher.
        progress: Whether to show bars on standard error.

    Raises:
        SonokitError: A teacher's soft targets are not whole or not fair, or what the heads raise.
    """
    question, features = study.question, study.features
    groups, how = _groups(study, settings), _distillation(study, settings, labels_csv)  # what is wrong comes out first
    tested_folds = sum(len(fold.test) > 0 for fold in study.folds)
    searched = 1 + (tested_folds if how is None else 2 * tested_folds)  # every fold's fit, and that of what is kept
    make_searched, make_plain = (head_maker(settings, question.task, searched, search=search) for search in (True, False))
    own, log = columns_of(features), ChoiceLog(features.recipes[0])

    def make() -> Any:
        return make_searched(own)

    predictions, reading, explained, distilled = _cross_validated(study, settings, make, how, log, progress)
    floors = measure_floors(
        question, features, lambda: make_plain(own), study.folds, study.usable, seed=settings.seed, make_for=make_plain,
        chooses=chooses(settings, features.recipes), progress=progress,
    )  # fmt: skip
    rows = np.flatnonzero(study.usable)
    if how is None:
        final = fit_final(question, features, make, rows)
    else:
        final = distil_final(question, features, rows, make_student=make, how=how)
    recipe = getattr(final, "recipe_", None) or features.recipes[0]
    expert = _expert(study, settings, final, recipe, predictions)
    held_out, held_out_reading = _held_out(study, settings, final, expert)
    noted = replace(question, notes=(*question.notes, *_notes(study, settings, expert.head)))
    evidence = Evidence(
        noted, study.splits, splits_given=study.given,
        store=expert.store, predictions=predictions, floors=floors, held_out=held_out, head=head_name(expert.head),
        chosen=log.heads(), reading=reading, held_out_reading=held_out_reading, groups=groups,
        recipe=recipe, by_patient=by_patient_entry(predictions, settings), search=log.report(final, settings, searched),
        contributions=explained, distilled=distilled,
    )  # fmt: skip
    return Fitted(evidence, expert, log.seconds)


def _cross_validated(
    study: Study, settings: FitSettings, make: Callable[[], Any], how: Distillation | None, log: ChoiceLog, progress: bool
) -> tuple[Predictions, Reading, dict[str, Any] | None, dict[str, Any] | None]:
    """Predictions and readings out of fold, what they rest on, and what a teacher brought."""
    question, features = study.question, study.features
    collector = ContributionsCollector(question, features, seed=settings.seed)

    def note(fold: FoldRows, head: Any) -> None:
        log.note(fold, head)
        if how is None:
            collector.note(fold, head)

    predictions, reading = cross_validate_read(
        question,
        features,
        make,
        study.folds,
        settings.readout(question.label),
        fitted=note,
        progress="expert" if progress else None,
    )
    distilled = None
    if how is not None:
        plain = predictions
        predictions, reading = distil_out_of_fold(
            question, features, study.folds, make_student=make, how=how, settings=settings.readout(question.label),
            fitted=lambda fold, head: collector.note(fold, head if hasattr(head, "chosen_") else head.head_),
            progress="distilled expert" if progress else None,
        )  # fmt: skip
        distilled = distilled_entry(how, plain, predictions, draws=settings.draws, seed=settings.seed, level=settings.level)
    explained = collector.entries(draws=settings.draws, seed=settings.seed, level=settings.level)
    return predictions, reading, explained, distilled


def _distillation(study: Study, settings: FitSettings, labels_csv: Path | None) -> Distillation | None:
    if settings.teacher is None:
        return None
    return distillation_for(
        study, settings.teacher, unlabelled=settings.unlabelled, weight=settings.teacher_weight,
        where=settings.where, labels_csv=labels_csv, seed=settings.seed,
    )  # fmt: skip


def _expert(study: Study, settings: FitSettings, final: Any, recipe: str, predictions: Predictions) -> Expert:
    """What is kept: the head by itself, what reads it out, and what is known of the clips it was fitted on."""
    question, features, rows = study.question, study.features, np.flatnonzero(study.usable)
    columns = features.columns[recipe]
    reference = make_reference(
        features.final_store, question.clip_ids[rows], question.patients[rows], question.truth[rows], question.classes,
        features.final[rows][:, columns], predictions, names=tuple(np.asarray(features.names, dtype=object)[columns]),
        where=settings.where, unit=question.unit, patient=question.patient_column, banked=question.clips_of(rows),
        held_out=study.held_out_clips, draws=settings.draws, level=settings.level, seed=settings.seed,
    )  # fmt: skip
    kept = final.head_ if isinstance(final, KeptHead) else final
    return Expert(
        question.label, question.task, question.classes, recipe, features.final_store.header, kept,
        readout_of(predictions, settings.readout(question.label)), unit=question.unit, patient=question.patient_column,
        reference=reference,
    )  # fmt: skip


def by_patient_entry(predictions: Predictions, settings: FitSettings) -> dict[str, Any] | None:
    """Scores of the clips' predictions averaged by patient, plain values; None where that would be nothing new."""
    found = average_by_patient(predictions)
    several = len(np.unique(predictions.patients)) < len(predictions.patients)
    if settings.unit == "patient" or not several or len(found.patients) < 2:
        return None
    figures = {
        name: interval(drawn, found.patients, settings.level).as_dict()
        for name, drawn in found.draws(settings.draws, settings.seed).items()
    }
    left_out = len(np.unique(predictions.patients)) - len(found.patients)
    return {"patients": len(found.patients), "left_out": left_out, "scores": figures}


def _held_out(study: Study, settings: FitSettings, final: Any, expert: Expert) -> tuple[Measured | None, Reading | None]:
    """The held-out part as the finished expert sees it; nothing while it stays closed."""
    if not settings.open_held_out:
        return None, None
    question, rows = study.question, np.flatnonzero(study.usable)
    tested = predict_held_out(question, study.features, final, study.held_out, fitted_rows=rows)
    if tested is None or isinstance(tested, str) or expert.readout is None:
        return tested, None
    return tested, read_values(expert.readout, question.task, question.classes, tested.values)


def _notes(study: Study, settings: FitSettings, head: Any) -> list[str]:
    notes = []
    if types := needs_trust(head):
        notes.append(f"this head is loaded only by who names its types: --trust {','.join(types)}")
    if len(study.held_out) and not settings.open_held_out:
        notes.append(closed_note(study))
    if chooses(settings, study.features.recipes):
        few = 1 + max(fold.repeat for fold in few_folds(study.folds, True))
        notes.append(
            "the floors choose head and recipe as the expert does, among the defaults without a search; the random-initialised "
            f"network does so over {few} of {study.splits.repeats} repeats of the folds"
        )
    elif settings.search is not None and settings.search.wanted:
        notes.append("the floors take the head at its defaults, without a search")
    return notes


def _groups(study: Study, settings: FitSettings) -> dict[str, np.ndarray]:
    """The group of each clip by each column that there is.

    Raises:
        SonokitError: A column that was asked for by name is not there.
    """
    table = study.question.table
    absent = [column for column in settings.columns if column not in table and column not in USUAL_COLUMNS]
    if absent:
        raise SonokitError(f"--columns {absent[0]}: the store has no such column; it has: {', '.join(map(str, table))}")
    return {column: group_names(table[column], column) for column in settings.columns if column in table}
