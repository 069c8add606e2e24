"""Clips without a label that a head may nevertheless learn from, through a teacher's soft targets.

A clip is unlabelled for a question where nobody said anything of the label. A clip that has a value whose class takes no part
(too few patients, left out by ``classes``) is not: its truth is known to be none of those that are asked for.

Where patients are the rows, an unlabelled row is a patient of whom no clip has a label.

Nothing of a fold's test side may reach what is fitted in that fold, with or without a label: clips of its patients stay away,
and so do clips of held-out patients, clips of nobody knows whom, and copies (by content) of any clip that has a label here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from ...clips.held_out_column import held_out_by_column
from ...clips.splits import Splits
from ...errors import SonokitError
from ...evaluation.out_of_fold import FoldRows
from ...features.store import EmbeddingStore, StoreSet
from ..crossval import QuestionFeatures
from ..labels import class_names, find_labels
from ..patient_rows import one_row_a_patient
from ..question import Question
from ..recipes import clip_table

_NO_ROWS = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class UnlabelledRows:
    """The U clips that take part in one fit.

    Attributes:
        clip_ids: str [U].
        patients: Whose each is, str [U].
        X: Their features, from the store that the fit reads, float32 [U, F].
    """

    clip_ids: np.ndarray
    patients: np.ndarray
    X: np.ndarray

    def __len__(self) -> int:
        return len(self.clip_ids)

    def select(self, keep: np.ndarray) -> "UnlabelledRows":
        """Some of them; ``keep`` is a mask or row numbers [U]."""
        return UnlabelledRows(self.clip_ids[keep], self.patients[keep], self.X[keep])


@dataclass(frozen=True)
class Unlabelled:
    """All clips that are unlabelled for a question and may be learnt from in some fold.

    Attributes:
        question: The question, of these clips; its ``truth`` says nothing.
        features: Their features.
        asked: The question of the clips that have a label.
        splits: By which the folds are told.
        notes: Who had to stay away, and why.
    """

    question: Question
    features: QuestionFeatures
    asked: Question
    splits: Splits
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.question.clip_ids)

    def of(self, fold: FoldRows) -> UnlabelledRows:
        """Those that fold ``fold`` may learn from, with the features that it may see.

        Raises:
            ValueError: The fold is none of the splits that the clips were found for.
        """
        if fold.index >= len(self.splits.folds):
            raise ValueError(f"there is no fold {fold.index} in the splits, which have {len(self.splits.folds)}")
        test = np.asarray(self.splits.folds[fold.index].test, dtype=str)
        if not np.isin(self.asked.clips_of(fold.test), test).all():
            raise ValueError(f"fold {fold.index} tests clips that the splits do not test there")
        tested = {*self.asked.patients[fold.test], *_patients_of(self.splits, test)}
        keep = ~np.isin(self.question.patients, list(tested)) & ~np.isin(self.question.clip_ids, test)
        # no rows are asked of the features here: a fold's own are the labelled question's
        return self._rows(self.features.of(FoldRows(fold.index, fold.repeat, _NO_ROWS, _NO_ROWS))).select(keep)

    def final(self) -> UnlabelledRows:
        """Those that the head that is kept may learn from: all."""
        return self._rows(self.features.final)

    def _rows(self, X: np.ndarray) -> UnlabelledRows:
        return UnlabelledRows(self.question.clip_ids, self.question.patients, X)


def find_unlabelled(
    features: QuestionFeatures,
    splits: Splits,
    *,
    where: Mapping[str, str] | None = None,
    labels_csv: Path | None = None,
    held_out: np.ndarray | None = None,
    unlabelled: EmbeddingStore | StoreSet | None = None,
) -> Unlabelled:
    """The clips that nobody labelled, of the question's own store or of another that the same extractor made.

    Args:
        features: What the folds see of the clips that have a label; it knows the question, its stores and recipes.
        splits: By which the folds are told.
        where: Only clips whose column has this value: the question's own, or nothing for clips of any kind.
        labels_csv: The question's.
        held_out: Clips that are held out besides those of the splits, str [·]: they may have no label.
        unlabelled: Another store, or store set; None: the question's own. A label that a clip has there counts as one, and what
            its column ``split`` holds out stays out.

    Raises:
        SonokitError: The other store was made by other extractors, does not say whose its clips are, has patients on both sides
            of its column ``split``, or has no such clip.
    """
    question, stores = features.question, features.stores
    source = stores if unlabelled is None else unlabelled
    if unlabelled is not None:
        _require_same_extractors(stores, unlabelled)
    final = source.final if isinstance(source, StoreSet) else source
    table = clip_table(final)
    column = question.patient_column
    if column not in table:
        raise SonokitError(
            f"{final.folder} has no column {column!r}, so nobody can tell whether its clips are of tested patients: "
            "extract it from a manifest with that column"
        )
    rows = table[_without_label(table, question, labels_csv) & _matches(table, where or {})]
    away = np.concatenate([np.asarray(splits.held_out, dtype=str), [] if held_out is None else held_out]).astype(str)
    if unlabelled is not None:
        away = np.concatenate([away, held_out_by_column(table, column)[0]])
    rows, notes = _stay_away(rows, question, splits, away, clip_table(features.final_store))
    if unlabelled is not None and rows.empty:
        raise SonokitError(
            f"no clip of {final.folder} can be learnt from without {question.label!r}: each has a value, another "
            f"{', '.join(where or {}) or 'patient'} than is asked for, or is of a held-out patient"
        )
    found = _as_question(rows.reset_index(drop=True), question)
    return Unlabelled(found, QuestionFeatures(source, found, features.recipes, splits), question, splits, notes)


def _as_question(rows: pd.DataFrame, question: Question) -> Question:
    """The question of these clips, so that their features are made as those of the labelled ones; no truth."""
    # Whether an extractor knew these clips is no matter: nothing is scored on them.
    rows = rows.assign(extractor_trained_on=False)
    patients, members = rows[question.patient_column].to_numpy(dtype=str), None
    if question.unit == "patient" and len(rows):
        rows, _, members, _ = one_row_a_patient(rows, pd.Series(np.zeros(len(rows))), patients)
        patients = rows["clip_id"].to_numpy(dtype=str)
    truth = np.zeros(len(rows), question.truth.dtype)
    return replace(question, table=rows, truth=truth, patients=patients, members=members, notes=())


def _without_label(table: pd.DataFrame, question: Question, labels_csv: Path | None) -> np.ndarray:
    """Whether nobody said anything of the label, bool [C]."""
    label = question.label
    if label not in table and labels_csv is None:
        return np.ones(len(table), dtype=bool)
    known = np.zeros(len(table), dtype=bool) if label not in table else table[label].notna().to_numpy()
    if labels_csv is None:
        return ~known
    try:
        found, _ = find_labels(table, label, labels_csv, question.patient_column)
    except SonokitError:  # a second store may well share no clip with the CSV, which the question has read without fault
        return ~known
    return found.isna().to_numpy()


def _matches(table: pd.DataFrame, where: Mapping[str, str]) -> np.ndarray:
    """Whether a clip has every wanted value, bool [C]; none has where the column is not there."""
    keep = np.ones(len(table), dtype=bool)
    for column, value in where.items():
        if column not in table:
            return np.zeros(len(table), dtype=bool)
        keep &= (class_names(table[column]) == str(value)).fillna(False).to_numpy(dtype=bool)
    return keep


def _stay_away(
    rows: pd.DataFrame, question: Question, splits: Splits, held_out: np.ndarray, own: pd.DataFrame
) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """``rows`` without clips that no fold may learn from, and what there is to say about it; ``own``: the question's store."""
    labelled = question.every_clip[0]
    contents = own["content_hash"][own["clip_id"].isin(labelled)]
    owners = own[question.patient_column][own["clip_id"].isin(held_out)].dropna().astype(str)
    hidden = {*owners, *_patients_of(splits, held_out)}
    patients = rows[question.patient_column].astype("string")
    reasons = {
        "the same content as a clip that has a label": rows["content_hash"].isin(contents) | rows["clip_id"].isin(labelled),
        f"no {question.patient_column}": patients.isna(),
        "a held-out patient": patients.isin(list(hidden)).fillna(False) | rows["clip_id"].isin(held_out),
    }
    if question.unit == "patient":
        reasons["a patient who has a label"] = patients.isin(question.patients).fillna(False)
    away = np.zeros(len(rows), dtype=bool)
    notes = []
    for reason, which in reasons.items():
        fresh = which.to_numpy(dtype=bool) & ~away
        if fresh.any():
            notes.append(f"{int(fresh.sum())} clips without {question.label} have {reason} and are not learnt from")
        away |= fresh
    return rows[~away], tuple(notes)


def _patients_of(splits: Splits, clip_ids: np.ndarray) -> set[str]:
    """The patients of some clips, of those that the splits know."""
    wanted = set(clip_ids.tolist())
    pairs = zip(splits.clip_ids, splits.patients or splits.clip_ids, strict=True)
    return {patient for clip, patient in pairs if clip in wanted}


def _require_same_extractors(ours: EmbeddingStore | StoreSet, theirs: EmbeddingStore | StoreSet) -> None:
    first, second = (
        [store.header.fingerprint for store in ([*side.folds, side.final] if isinstance(side, StoreSet) else [side])]
        for side in (ours, theirs)
    )
    if first == second:
        return
    if isinstance(ours, StoreSet) and not isinstance(theirs, StoreSet):
        raise SonokitError(
            f"{theirs.folder} is one store, but each fold of {ours.folder} reads its own extractor's: "
            "extract the unlabelled clips with the same set of extractors"
        )
    raise SonokitError(
        f"{theirs.folder} was made by another extractor ({second[-1]}) than {ours.folder} ({first[-1]}): "
        "extract the unlabelled clips with the same one"
    )
