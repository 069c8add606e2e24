"""Which clips an audit looks at: never the labels of held-out ones, and not more than it can fit in a minute."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ..question import Question


def without_held_out(question: Question, held_out: Sequence[str] | np.ndarray) -> Question:
    """The question without the held-out clips, of which no label is looked at."""
    rows = ~np.isin(question.clip_ids, np.asarray(held_out, dtype=str))
    if rows.all():
        return question
    note = f"{int((~rows).sum())} held-out clips stay closed: no label of theirs was looked at, only who and what they are"
    return _select(question, rows, note)


def some_patients(question: Question, most_clips: int, seed: int) -> Question:
    """All clips, or those of patients drawn at random until the next would exceed ``most_clips``."""
    if len(question.truth) <= most_clips:
        return question
    people, owner = np.unique(question.patients, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(people))
    inside = np.cumsum(np.bincount(owner)[order]) <= most_clips
    inside[0] = True
    rows = np.isin(owner, order[inside])
    note = (
        f"what is fitted, and the search for nearly equal clips, saw {int(rows.sum())} of {len(rows)} clips: all those of "
        f"{int(inside.sum())} patients drawn at random"
    )
    return _select(question, rows, note)


def _select(question: Question, rows: np.ndarray, note: str) -> Question:
    return replace(
        question, table=question.table[rows].reset_index(drop=True), truth=question.truth[rows],
        patients=question.patients[rows], notes=(*question.notes, note),
    )  # fmt: skip
