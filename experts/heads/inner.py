"""One candidate on the inner folds of the training rows: what it says of each row without having seen that row's patient."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone

from ...evaluation.out_of_fold import FoldRows, fit_rows, only_one_class, predicted_values
from ...evaluation.scores import PRIMARY, Task, score
from .search import hopeless, row_losses, stage_losses


@dataclass(frozen=True)
class Trial:
    """How a candidate did.

    Attributes:
        values: What it said, float64 [M, K] or [M]; nan for rows of the folds that it was given up before.
        score: The task's primary score over the rows that it was tested on.
        stage: Settings that say for how long it is best trained; empty where that is not asked.
        given_up: Whether it was left before the last fold.
    """

    values: np.ndarray
    score: float
    stage: dict[str, Any]
    given_up: bool


@dataclass(frozen=True)
class InnerRows:
    """The rows that a choice is made on.

    Attributes:
        task: What kind of label it is.
        X: float [M, F].
        y: Class codes int [M], soft targets [M, K], or numbers [M].
        truth: Class codes of the same, or numbers.
        patients: int [M].
        folds: By patient.
        class_count: K.
    """

    task: Task
    X: np.ndarray
    y: np.ndarray
    truth: np.ndarray
    patients: np.ndarray
    folds: list[FoldRows]
    class_count: int

    def run(self, head: Any, columns: np.ndarray | None, *, staged: bool, best: Trial | None) -> Trial:
        """A candidate through the folds, until it is done or hopeless beside ``best``.

        Args:
            head: Not fitted.
            columns: The features that it reads, int [·]; None: all.
            staged: Whether the length of its training is found here too, where the head can say (``fit_staged``).
            best: Of the candidates before it.
        """
        inputs = self.X if columns is None else np.ascontiguousarray(self.X[:, columns])
        stages = head.stages() if staged and hasattr(head, "stages") else ()
        shape = (max(1, len(stages)), *self.truth.shape, *([] if self.task == "regression" else [self.class_count]))
        values, tested = np.full(shape, np.nan), np.zeros(len(self.truth), dtype=bool)
        for fold in self.folds:
            values[:, fold.test] = self._said(head, inputs, fold, bool(stages))
            tested[fold.test] = True
            at = self._best_stage(values, tested)
            if best is not None and not tested.all() and self._hopeless(values[at], best, tested):
                break
        found = np.round(values[at], 7)
        reached = score(self.task, self.truth[tested], found[tested])[PRIMARY[self.task]]
        return Trial(found, reached, stages[at] if stages else {}, given_up=not tested.all())

    def _said(self, head: Any, inputs: np.ndarray, fold: FoldRows, staged: bool) -> np.ndarray:
        """Of the fold's tested rows by each stage, [S, T, K] or [S, T]."""
        if not staged or (self.task != "regression" and only_one_class(self.y[fold.train])):
            make: Callable[[], Any] = lambda: clone(head)  # noqa: E731
            estimator = fit_rows(make, inputs, self.y, self.patients, fold.train, task=self.task)
            return predicted_values(estimator, inputs[fold.test], self.task, self.class_count)[None]
        estimator = clone(head)
        said = estimator.fit_staged(inputs[fold.train], self.y[fold.train], inputs[fold.test])
        if self.task == "regression":
            return said
        values = np.zeros((*said.shape[:2], self.class_count))
        values[..., np.asarray(estimator.classes_, dtype=np.int64)] = said
        return values

    def _best_stage(self, values: np.ndarray, tested: np.ndarray) -> int:
        if len(values) == 1:
            return 0
        return int(stage_losses(self.task, self.truth[tested], values[:, tested]).argmin())

    def _hopeless(self, values: np.ndarray, best: Trial, tested: np.ndarray) -> bool:
        losses, best_losses = (
            row_losses(self.task, self.truth[tested], said[tested]) for said in (values, best.values)
        )  # [tested]
        return hopeless(losses, best_losses, self.patients[tested])
