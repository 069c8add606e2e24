"""All that an expert's evaluation needs, made ready and checked before the long work: the question, its folds, its features."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from ..clips.held_out_column import held_out_by_column, require_held_out, with_held_out
from ..clips.splits import Splits
from ..errors import SonokitError
from ..evaluation.out_of_fold import FoldRows
from ..features.store import EmbeddingStore, StoreSet
from .crossval import QuestionFeatures
from .division import divide, held_out_rows, question_folds
from .labels import has_label
from .oxygenation import LABEL as SF_RATIO
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
        held_out_clips: Every clip that the splits or the column hold out, whether it answers this question or not, str [·].
        held_out_patients: What whoever these clips are of is called, in the column ``patient_id``, too, str [·].
    """

    question: Question
    splits: Splits
    given: bool
    features: QuestionFeatures
    folds: list[FoldRows]
    held_out: np.ndarray
    held_out_clips: np.ndarray
    held_out_patients: np.ndarray

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
        splits: None: the store set's own, else made from the rows. What a column ``split`` of the store holds out stays out
            either way.
        labels_csv: See :func:`~sonokit.experts.labels.find_labels`.

    Returns:
        The studies, and a note on each label that is left out.

    Raises:
        SonokitError: The question cannot be asked, or not honestly: the splits divide what the column holds out, for instance.
    """
    final = stores.final if isinstance(stores, StoreSet) else stores
    given = stores.splits if isinstance(stores, StoreSet) and splits is None else splits
    patient = settings.patient or (given.patient_column if given else "patient_id")
    table = clip_table(final)
    out, said = held_out_by_column(table, patient)
    everyone_held_out = np.union1d(out, np.asarray(given.held_out if given else (), dtype=str))
    questions, left_out = [], []
    for label in labels:
        mine = labels_csv if len(labels) == 1 or _in_csv(label, table, settings, labels_csv) else None
        named = label == SF_RATIO or SF_RATIO not in labels  # beside an S/F ratio the other labels need not know its columns
        try:
            question = pose(
                table, label, task=settings.task, classes=settings.classes, where=settings.where,
                labels_csv=mine,
                patient=patient, fewest_patients=_fold_count(given) if given else settings.folds, unit=settings.unit,
                spo2=settings.spo2 if named else None, fio2=settings.fio2 if named else None, held_out=everyone_held_out,
            )  # fmt: skip
        except SonokitError as fault:
            if len(labels) == 1:
                raise
            left_out.append(f"{label} is left out: {fault}")
            continue
        if given:
            require_held_out(given, out, question.every_clip[0])
        questions.append(replace(question, notes=(*question.notes, *said)))
    if not questions:
        raise SonokitError(f"none of the labels can be asked: {'; '.join(left_out)}")
    used = given or _made(questions, settings, out)
    people = _people(table, patient, everyone_held_out, used)
    return [
        _study(stores, question, used, given is not None, settings, everyone_held_out, people) for question in questions
    ], left_out


def _in_csv(label: str, table: pd.DataFrame, settings: FitSettings, labels_csv: Path | None) -> bool:
    """Whether the CSV says something of a label, or has what it is made of; of several labels some may stand in the store."""
    nothing = table.iloc[:, :0]
    if label != SF_RATIO or has_label(nothing, label, labels_csv):
        return has_label(nothing, label, labels_csv)
    there = [has_label(nothing, name, labels_csv) for name in (settings.spo2 or "spo2", settings.fio2 or "fio2")]
    ready = settings.spo2 is None and settings.fio2 is None and SF_RATIO in table
    return all(there) if ready else any(there)


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
    held_out_patients: np.ndarray,
) -> Study:
    features = QuestionFeatures(stores, question, settings.recipes, splits)
    folds = question_folds(splits, question)
    return Study(question, splits, given, features, folds, held_out_rows(splits, question), held_out_clips, held_out_patients)


def _people(table: pd.DataFrame, patient: str, clips: np.ndarray, splits: Splits) -> np.ndarray:
    """Every name that those whose clips these are have, str [·], sorted."""
    held_out = set(clips.tolist())
    rows = table[table["clip_id"].isin(held_out)]
    names = {name for column in {patient, "patient_id"}.intersection(table) for name in rows[column].dropna().astype(str)}
    of_splits = zip(splits.clip_ids, splits.patients or splits.clip_ids, strict=True)
    return np.array(sorted(names | {name for clip, name in of_splits if clip in held_out}), dtype=str)


def _fold_count(splits: Splits) -> int:
    return sum(fold.repeat == 0 for fold in splits.folds)
