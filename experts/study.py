"""All that an expert's evaluation needs, made ready and checked before the long work: the question, its folds, its features."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..clips.held_out_column import held_out_by_column, with_held_out
from ..clips.splits import Splits
from ..errors import SonokitError
from ..evaluation.out_of_fold import FoldRows
from ..features.store import EmbeddingStore, StoreSet
from .crossval import QuestionFeatures
from .division import divide, held_out_rows, question_folds
from .labels import has_label
from .question import Question, pose
from .recipes import clip_table
from .settings import FitSettings


@dataclass(frozen=True)
class Study:
    """One question, divided.

    Attributes:
        question: Who takes part, held-out ones among them.
        splits: The division, by clips.
        given: Whether the division came from a file or a store set.
        features: What the folds may see.
        folds: As rows of the question.
        held_out: Rows that take no part in folds and fits, int [·].
        held_out_clips: Every clip of the splits that is held out, whether it answers this question or not, str [·].
    """

    question: Question
    splits: Splits
    given: bool
    features: QuestionFeatures
    folds: list[FoldRows]
    held_out: np.ndarray
    held_out_clips: np.ndarray

    @property
    def usable(self) -> np.ndarray:
        """False for what is held out, bool [N]."""
        usable = np.ones(len(self.question.truth), dtype=bool)
        usable[self.held_out] = False
        return usable


def prepare(
    stores: EmbeddingStore | StoreSet,
    labels: Sequence[str],
    settings: FitSettings,
    *,
    splits: Splits | None = None,
    labels_csv: Path | None = None,
) -> tuple[list[Study], list[str]]:
    """A study for each label, all over the same folds.

    Args:
        stores: A store, or a store set.
        labels: One, or several that share their folds. Of several, one that cannot be asked is left out.
        settings: How the question is posed and divided.
        splits: None: the store set's own, else made from the rows; then a column ``split`` of the store is honoured.
        labels_csv: See :func:`~sonokit.experts.labels.find_labels`.

    Returns:
        The studies, and a note on each label that is left out.

    Raises:
        SonokitError: The question cannot be asked, or not honestly.
    """
    final = stores.final if isinstance(stores, StoreSet) else stores
    given = stores.splits if isinstance(stores, StoreSet) and splits is None else splits
    patient = settings.patient or (given.patient_column if given else "patient_id")
    table = clip_table(final)
    out, said = (np.empty(0, dtype=str), []) if given else held_out_by_column(table, patient)
    questions, left_out = [], []
    nothing = table.iloc[:, :0]  # of several labels some may stand in the CSV and some in the store
    for label in labels:
        try:
            question = pose(
                table, label, task=settings.task, classes=settings.classes, where=settings.where,
                labels_csv=labels_csv if len(labels) == 1 or has_label(nothing, label, labels_csv) else None,
                patient=patient, fewest_patients=_fold_count(given) if given else settings.folds, unit=settings.unit,
                spo2=settings.spo2, fio2=settings.fio2,
            )  # fmt: skip
        except SonokitError as fault:
            if len(labels) == 1:
                raise
            left_out.append(f"{label} is left out: {fault}")
            continue
        questions.append(replace(question, notes=(*question.notes, *said)))
    if not questions:
        raise SonokitError(f"none of the labels can be asked: {'; '.join(left_out)}")
    used = given or _made(questions, settings, out)
    everyone_held_out = np.asarray(used.held_out, dtype=str) if given else np.sort(out)
    return [_study(stores, question, used, given is not None, settings, everyone_held_out) for question in questions], left_out


def _made(questions: list[Question], settings: FitSettings, out: np.ndarray) -> Splits:
    """Folds over the clips that are not held out, the others added as the held-out part."""
    inside: list[Question] = []
    outside: dict[str, str] = {}
    for question in questions:
        clips, patients = question.every_clip
        held = np.isin(clips, out)
        outside |= dict(zip(clips[held].tolist(), patients[held].tolist(), strict=True))
        rows = ~np.isin(question.clip_ids, clips[held] if question.unit == "clip" else patients[held])
        table = question.table[rows].reset_index(drop=True)
        inside.append(replace(question, table=table, truth=question.truth[rows], patients=question.patients[rows]))
    made = divide(inside, folds=settings.folds, repeats=settings.repeats, seed=settings.seed)
    return with_held_out(made, np.array(list(outside), dtype=str), np.array(list(outside.values()), dtype=str))


def _study(
    stores: EmbeddingStore | StoreSet,
    question: Question,
    splits: Splits,
    given: bool,
    settings: FitSettings,
    held_out_clips: np.ndarray,
) -> Study:
    features = QuestionFeatures(stores, question, settings.recipes, splits)
    folds = question_folds(splits, question)
    return Study(question, splits, given, features, folds, held_out_rows(splits, question), held_out_clips)


def _fold_count(splits: Splits) -> int:
    return sum(fold.repeat == 0 for fold in splits.folds)
