"""Distilled heads inside the folds: teacher and student are fitted anew in each, from what that fold may see.

A readout is fitted to the other test sides' predictions of the same repeat, as for extractors that were fitted on labels: it
costs nothing, where an inner cross-validation would fit an ensemble of heads within each of its folds. The price is named in
:mod:`sonokit.evaluation.nested`; ``nested`` pays the other one, wherever there is an honest inner way at all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tqdm import tqdm

from ...errors import SonokitError
from ...evaluation.nested import Reading, nested_out_of_fold, readouts_of_other_folds
from ...evaluation.out_of_fold import FoldRows, out_of_fold
from ...evaluation.predictions import Predictions
from ...evaluation.readout import ReadoutSettings
from ...features.store import StoreSet
from ..crossval import QuestionFeatures, fit_final
from ..question import Question
from .student import DistilledHead
from .teachers import Teacher
from .unlabelled import Unlabelled


@dataclass(frozen=True)
class Distillation:
    """How a head is taught.

    Attributes:
        teacher: Who says what.
        unlabelled: Clips without a label; None for none.
        weight: Of the teacher on labelled rows, from 0 to 1; fixed beforehand.
        temperature: At which the teacher speaks; above 1 it says less surely what it says.
    """

    teacher: Teacher
    unlabelled: Unlabelled | None = None
    weight: float = 0.5
    temperature: float = 1.0


def distil_out_of_fold(
    question: Question,
    features: QuestionFeatures,
    folds: Sequence[FoldRows],
    *,
    make_student: Callable[[], Any],
    how: Distillation,
    settings: ReadoutSettings | None = None,
    nested: bool = False,
    fitted: Callable[[FoldRows, DistilledHead], None] | None = None,
    progress: str | None = None,
) -> tuple[Predictions, Reading]:
    """Predictions of a taught head for every clip that a fold tests, and what readouts say that had not met the clips.

    As :func:`~sonokit.experts.crossval.cross_validate_read` for a plain head: the two may be compared, clip by clip.

    Args:
        question: Who takes part.
        features: What the folds see.
        folds: From :func:`~sonokit.evaluation.out_of_fold.fold_rows`.
        make_student: A fresh head.
        how: Teacher, unlabelled clips, weight, temperature.
        settings: Of the readouts; None: the defaults.
        nested: Whether a fold's readout comes of inner folds of its training side; see the top of this file.
        fitted: Told of each taught head (a fold whose training rows are all of one class has none).
        progress: What a progress bar on standard error calls this; None for no bar.

    Raises:
        SonokitError: ``nested`` where a teacher or an extractor has met every inner side, or what the heads raise.
    """
    settings, folds = settings or ReadoutSettings(), list(folds)
    if nested and (how.teacher.by_clip or isinstance(features.stores, StoreSet)):
        raise SonokitError(
            "readouts of inner folds are not honest here: a fold's teacher or extractor knows the labels of its whole training "
            "side; leave nested out"
        )
    _require_clips(question, how)
    merged: Reading | None = None
    for fold in tqdm(folds, desc=progress, unit="fold", leave=False, disable=progress is None):
        if len(fold.test):
            found = _of_fold(question, features, fold, make_student, how, settings, nested, fitted)
            merged = found if merged is None else _join(merged, found, fold)
    if merged is None:
        raise SonokitError("no fold tests anything: make the splits again")
    if not nested:
        merged = readouts_of_other_folds(
            merged.raw, question.truth, question.patients, folds,
            task=question.task, classes=question.classes, settings=settings,
        )  # fmt: skip
    everyone = Predictions(question.task, question.classes, question.clip_ids, question.patients, question.truth, merged.raw)
    axes = (0,) if merged.raw.ndim == 2 else (0, 2)
    tested = ~np.isnan(merged.raw).any(axis=axes)
    return everyone.select(tested), merged.select(tested)


def distil_final(
    question: Question, features: QuestionFeatures, rows: np.ndarray, *, make_student: Callable[[], Any], how: Distillation
) -> DistilledHead:
    """The taught head that is kept: on all clips that are not held out, int [·], and all unlabelled ones.

    A network that was fine-tuned a fold speaks of each clip through the folds that were not trained on it.

    Raises:
        SonokitError: All clips are of one class.
    """
    _require_clips(question, how)
    more = None if how.unlabelled is None else how.unlabelled.final()

    def make() -> DistilledHead:
        return DistilledHead(
            make_student(), how.teacher, task=question.task, class_count=len(question.classes), more=more,
            clip_ids=question.clip_ids[rows] if how.teacher.by_clip else None,
            weight=how.weight, temperature=how.temperature,
        )  # fmt: skip

    head: DistilledHead = fit_final(question, features, make, rows)
    return head


def _require_clips(question: Question, how: Distillation) -> None:
    if how.teacher.by_clip and question.unit == "patient":
        raise SonokitError(f"the teacher ({how.teacher.name}) speaks of clips, not of patients: take --unit clip")


def _of_fold(
    question: Question,
    features: QuestionFeatures,
    fold: FoldRows,
    make_student: Callable[[], Any],
    how: Distillation,
    settings: ReadoutSettings,
    nested: bool,
    fitted: Callable[[FoldRows, Any], None] | None,
) -> Reading:
    """A reading with this fold's test rows filled in; without ``nested`` its ``raw`` only."""
    more = None if how.unlabelled is None else how.unlabelled.of(fold)
    count = len(question.classes)

    def make() -> DistilledHead:
        return DistilledHead(
            make_student(), how.teacher, task=question.task, class_count=count, more=more,
            trained=np.unique(question.patients[fold.train]),
            clip_ids=question.clip_ids[fold.train] if how.teacher.by_clip else None, fold=fold.index,
            weight=how.weight, temperature=how.temperature,
        )  # fmt: skip

    sides = question.truth, question.patients
    if nested:
        return nested_out_of_fold(
            make, features.of, *sides, [fold], task=question.task, classes=question.classes, settings=settings, fitted=fitted
        )
    raw = out_of_fold(make, features.of, *sides, [fold], task=question.task, class_count=count, fitted=fitted)
    return Reading(raw, raw, None, None, {}, [])


def _join(ours: Reading, theirs: Reading, fold: FoldRows) -> Reading:
    """``ours`` with the test rows of ``fold`` from ``theirs``; a later fold may be of a later repeat."""
    place = fold.repeat, fold.test

    def both(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        whole = np.zeros_like(second, shape=(max(len(first), len(second)), *second.shape[1:]))
        if second.dtype != bool:
            whole[:] = np.nan
        whole[: len(first)] = first
        whole[place] = second[place]
        return whole

    nothing = np.full(theirs.raw.shape[:2], np.nan)
    names = list(dict.fromkeys([*ours.calls, *theirs.calls]))
    return Reading(
        both(ours.raw, theirs.raw),
        both(ours.calibrated, theirs.calibrated),
        None if ours.sets is None or theirs.sets is None else both(ours.sets, theirs.sets),
        None if ours.ends is None or theirs.ends is None else (
            both(ours.ends[0], theirs.ends[0]), both(ours.ends[1], theirs.ends[1])
        ),
        {name: both(ours.calls.get(name, nothing), theirs.calls.get(name, nothing)) for name in names},
        [*ours.readouts, *theirs.readouts],
    )  # fmt: skip
