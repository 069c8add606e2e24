"""A study's division as rows of a question: its folds, and what is held out."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ..clips.splits import Fold, Splits, make_splits
from ..errors import SonokitError
from ..evaluation.out_of_fold import FoldRows, fold_rows
from .question import Question


def divide(questions: Sequence[Question], *, folds: int, repeats: int, seed: int) -> Splits:
    """Folds by patient for one question, or the same ones for several over the clips of all of them.

    Classes are spread evenly; a number is not stratified. With several labels a patient counts for the rarest of the
    labels that they have, so that it is spread first (after Sechidis et al. 2011).

    Args:
        questions: Of the same store and patient column; with patients as rows it is their clips that are divided.
        folds: Of one division.
        repeats: Divisions.
        seed: Of the first.

    Raises:
        SonokitError: Too few patients.
    """
    if len(questions) == 1 and questions[0].unit == "clip":
        table = questions[0].table.copy()
        patients = questions[0].patients
    else:
        pairs = [pd.DataFrame(dict(zip(("clip_id", "patient"), question.every_clip, strict=True))) for question in questions]
        table = pd.concat(pairs).drop_duplicates("clip_id").sort_values("clip_id", ignore_index=True)
        patients = table["patient"].to_numpy(dtype=str)
    label, classes = _strata(questions, table["clip_id"].to_numpy(dtype=str), patients)
    if label is not None:
        table[label] = classes
    return make_splits(
        table, patients, label=label, patient_column=questions[0].patient_column, folds=folds, repeats=repeats, seed=seed
    )


def question_folds(splits: Splits, question: Question) -> list[FoldRows]:
    """The folds as rows of a question.

    Raises:
        SonokitError: The splits do not know a clip, or it is another patient's there, or a patient is on both sides.
    """
    if question.unit == "clip":
        return fold_rows(splits, question.clip_ids, question.patients)
    return fold_rows(_by_patient(splits, question), question.clip_ids, question.patients)


def held_out_rows(splits: Splits, question: Question) -> np.ndarray:
    """The question's rows that the splits hold out, int [·]."""
    held_out = np.asarray(splits.held_out, dtype=str)
    if question.unit == "clip":
        return np.flatnonzero(np.isin(question.clip_ids, held_out))
    clips, patients = question.every_clip
    return np.flatnonzero(np.isin(question.clip_ids, patients[np.isin(clips, held_out)]))


def _strata(questions: Sequence[Question], clips: np.ndarray, patients: np.ndarray) -> tuple[str | None, np.ndarray | None]:
    """By what the clips are spread: a column's name, and a class for each clip."""
    classed = [question for question in questions if question.task != "regression"]
    if len(questions) > 1:
        classes = _rarest_label(classed, patients)
        return ("rarest label", classes) if len(set(classes)) > 1 else (None, None)
    if not classed:
        return None, None
    question = classed[0]
    codes = dict(zip(question.patients if question.unit == "patient" else question.clip_ids, question.truth, strict=True))
    of_clip = [codes[name] for name in (patients if question.unit == "patient" else clips)]
    return question.label, np.asarray(question.classes, dtype=object)[of_clip]


def _rarest_label(questions: Sequence[Question], patients: np.ndarray) -> np.ndarray:
    """For each clip the rarest label that its patient has (the last class of a question), or "none"; object [N]."""
    have = {
        question.label: set(question.patients[question.truth == len(question.classes) - 1].tolist()) for question in questions
    }
    found = np.full(len(patients), "none", dtype=object)
    for label in sorted(have, key=lambda name: -len(have[name])):  # the rarest last, so that it stays
        found[np.isin(patients, sorted(have[label]))] = label
    return found


def _by_patient(splits: Splits, question: Question) -> Splits:
    """The same division with patients in place of clips.

    Raises:
        SonokitError: A patient would be on two sides.
    """
    clips, patients = question.every_clip
    splits.check(clips, patients)
    owner = dict(zip(clips.tolist(), patients.tolist(), strict=True))

    def people(names: Sequence[str]) -> tuple[str, ...]:
        return tuple(sorted({owner[clip] for clip in names if clip in owner}))

    held_out = people(splits.held_out)
    folds = tuple(Fold(fold.repeat, fold.fold, people(fold.test)) for fold in splits.folds)
    for repeat in range(splits.repeats):
        sides = [*held_out, *(name for fold in folds if fold.repeat == repeat for name in fold.test)]
        if len(sides) > len(set(sides)):
            twice = next(name for name in sorted(sides) if sides.count(name) > 1)
            raise SonokitError(f"the splits have clips of patient {twice!r} on several sides: make them again by patient")
    return Splits(tuple(sorted(set(owner.values()))), splits.label, splits.patient_column, splits.seed, folds, {}, held_out)
