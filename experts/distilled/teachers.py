"""Who writes the soft targets: the ensemble of all heads, or a network fine-tuned end to end.

A teacher is worth listening to where it did not fit: what it says of its own training rows is nearly the label itself, and
nothing is learnt from that. So the ensemble speaks of a training row through members that were fitted without its patient
(inner folds). A fine-tuned network costs too much for that: of its own training clips it says what its file holds, nearly one
hot; those that the file lacks keep their label. A temperature above one flattens what a teacher says (Hinton et al. 2015).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ...evaluation.nested import inner_out_of_fold
from ...evaluation.out_of_fold import fit_rows, predicted_values
from ...evaluation.scores import Task
from ..heads import HEADS, make_head
from .soft_targets import SoftTargets


@dataclass(frozen=True)
class Lesson:
    """What a teacher is given: M training rows and U clips without a label. Nothing of a test side.

    Attributes:
        X: Features of the training rows, float [M, F].
        truth: Their class codes int [M], or float [M].
        patients: Whose each is, [M].
        clip_ids: Their names, str [M]; None inside a fold, where rows have none (a network cannot be asked there).
        more_X: Features of the unlabelled clips, float [U, F].
        more_clip_ids: Their names, str [U].
        fold: Place among the folds of the splits; None for the head that is kept.
        task: What kind of label it is.
        class_count: K; 0 for regression.
    """

    X: np.ndarray
    truth: np.ndarray
    patients: np.ndarray
    clip_ids: np.ndarray | None
    more_X: np.ndarray
    more_clip_ids: np.ndarray
    fold: int | None
    task: Task
    class_count: int


class Teacher(Protocol):
    """Anything that says something of clips."""

    @property
    def name(self) -> str:
        """What a report calls it."""

    @property
    def by_clip(self) -> bool:
        """Whether it knows clips by name and fold only: no inner fold can be made without it having seen the other side."""

    def teach(self, lesson: Lesson) -> tuple[np.ndarray, np.ndarray]:
        """Soft targets of the training rows [M, K] or [M], and of the unlabelled clips [U, K] or [U]; nan: says nothing.

        Probabilities are those to which all classes are equally frequent.
        """


@dataclass(frozen=True)
class EnsembleTeacher:
    """The mean over heads and seeds, each fitted on the training rows (bagging of unlike models).

    Attributes:
        heads: Their names; the linear one draws nothing and counts once.
        seeds: How many of each other.
        inner_folds: By which training rows are predicted without their patient.
        seed: Of the inner folds; seed + s that of the s-th of a kind.
        make: Makes a head from (name,), task and seed.
    """

    heads: tuple[str, ...] = HEADS
    seeds: int = 2
    inner_folds: int = 5
    seed: int = 0
    make: Callable[..., Any] = make_head

    name = "ensemble"
    by_clip = False

    def teach(self, lesson: Lesson) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`Teacher`; of the rows of a single patient it says nothing."""
        task, count = lesson.task, lesson.class_count
        rows = np.arange(len(lesson.truth))
        own, more = [], []
        if len(np.unique(lesson.patients)) < 2:
            return _nothing(len(rows), count), _nothing(len(lesson.more_X), count)
        for make in self._members(task):
            own.append(
                inner_out_of_fold(
                    make, lesson.X, lesson.truth, lesson.patients,
                    task=task, class_count=count, folds=self.inner_folds, seed=self.seed,
                )
            )  # fmt: skip
            if len(lesson.more_X):
                fitted = fit_rows(make, lesson.X, lesson.truth, lesson.patients, rows, task=task)
                more.append(predicted_values(fitted, lesson.more_X, task, count))
        return np.mean(own, axis=0), np.mean(more, axis=0) if more else _nothing(0, count)

    def _members(self, task: Task) -> list[Callable[[], Any]]:
        seeds = {name: 1 if name == "linear" else self.seeds for name in self.heads}
        return [_Member(self.make, name, task, self.seed + s) for name in self.heads for s in range(seeds[name])]


@dataclass(frozen=True)
class NetworkTeacher:
    """Networks fine-tuned end to end, one a fold, whose soft targets were read from files."""

    targets: SoftTargets

    by_clip = True

    @property
    def name(self) -> str:
        """What a report calls it."""
        return f"fine-tuned network ({self.targets.source})"

    def teach(self, lesson: Lesson) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`Teacher`.

        Raises:
            ValueError: The rows have no names.
        """
        if lesson.clip_ids is None:
            raise ValueError("a network knows clips by their names only")
        say = self.targets.final if lesson.fold is None else _OfFold(self.targets, lesson.fold)
        return say(lesson.clip_ids), say(lesson.more_clip_ids)


def soften(values: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities [N, K] at a temperature T: p^(1/T), summing to one again (Hinton et al. 2015); numbers [N] stay."""
    if values.ndim == 1 or temperature == 1:
        return values
    powers = values ** (1 / temperature)
    return powers / powers.sum(axis=1, keepdims=True)


def at_frequencies(values: np.ndarray, shares: np.ndarray, task: Task) -> np.ndarray:
    """Probabilities to which all classes are equally frequent, turned into those where the classes have other shares.

    Bayes' rule (Elkan 2001): p_k · share_k, summing to one again. Of ordered levels each threshold by itself, as
    :class:`~sonokit.experts.heads.ordinal.OrdinalHead` fits them: to "above k" and "not above" alike.

    Args:
        values: float [N, K], nan where nothing is said.
        shares: Of the classes among the training rows, [K]; a class of share 0 gets probability 0.
        task: Ordinal or not.

    Returns:
        float64 [N, K]; nan also where all that is left is 0.
    """
    if task == "ordinal":
        above = np.clip(np.cumsum(values[:, :0:-1], axis=1)[:, ::-1], 0, 1)  # [N, K-1]
        share = np.cumsum(shares[:0:-1])[::-1]  # [K-1]
        turned = _divide(above * share, above * share + (1 - above) * (1 - share))
        edges = np.ones((len(values), 1)), np.zeros((len(values), 1))
        return np.maximum(-np.diff(np.concatenate([edges[0], turned, edges[1]], axis=1), axis=1), 0)
    turned = values * shares
    return _divide(turned, turned.sum(axis=1, keepdims=True))


@dataclass(frozen=True)
class _Member:
    make: Callable[..., Any]
    head: str
    task: Task
    seed: int

    def __call__(self) -> Any:
        return self.make((self.head,), self.task, self.seed)


@dataclass(frozen=True)
class _OfFold:
    targets: SoftTargets
    fold: int

    def __call__(self, clip_ids: np.ndarray) -> np.ndarray:
        return self.targets.of(self.fold, clip_ids)


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotient, nan where the denominator is 0."""
    return numerator / np.where(denominator > 0, denominator, np.nan)


def _nothing(rows: int, class_count: int) -> np.ndarray:
    return np.full((rows, class_count) if class_count else rows, np.nan)
