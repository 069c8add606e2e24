"""Choosing among heads inside the training rows, so that the choice is part of what is scored (nested cross-validation).

The inner folds are grouped by patient like the outer ones, and stratified where the label has classes. Cross-validated from
outside, such a head is scored with its choosing; fitted on everything, it is the expert that is kept.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone

from ...errors import SonokitError
from ...evaluation.nested import inner_folds
from ...evaluation.out_of_fold import FoldRows, out_of_fold
from ...evaluation.scores import LOWER_IS_BETTER, PRIMARY, Task, score


class AutoHead(BaseEstimator):
    """The head with the best primary score on inner folds, fitted again on all training rows.

    Attributes:
        chosen_: Its name among ``heads``.
        inner_scores_: Name -> primary score on the inner folds.
    """

    def __init__(self, heads: Mapping[str, Any], task: Task = "classification", folds: int = 3, seed: int = 0) -> None:
        self.heads = heads
        self.task = task
        self.folds = folds
        self.seed = seed

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "AutoHead":
        """Choose and fit on X [N, F], y [N]; without ``groups`` each row is its own. Ties go to the head named first."""
        patients = np.arange(len(y)) if groups is None else np.unique(groups, return_inverse=True)[1]
        folds = self._inner_folds(X, y, patients)
        self.inner_scores_ = {name: self._inner_score(head, X, y, patients, folds) for name, head in self.heads.items()}
        sign = -1 if PRIMARY[self.task] in LOWER_IS_BETTER else 1
        self.chosen_ = max(self.inner_scores_, key=lambda name: np.nan_to_num(sign * self.inner_scores_[name], nan=-np.inf))
        self.head_ = clone(self.heads[self.chosen_]).fit(X, y, groups=groups)
        self.classes_ = getattr(self.head_, "classes_", None)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """As the chosen head."""
        return self.head_.predict(X)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """As the chosen head."""
        return self.head_.predict_proba(X)

    def save(self, folder: Path) -> None:
        """Write the chosen head; loading gives that head itself."""
        self.head_.save(folder)

    def _inner_folds(self, X: np.ndarray, y: np.ndarray, patients: np.ndarray) -> list[FoldRows]:
        """None where there is one patient only."""
        try:
            return inner_folds(y, patients, task=self.task, folds=self.folds, seed=self.seed)
        except SonokitError:
            return []

    def _inner_score(self, head: Any, X: np.ndarray, y: np.ndarray, patients: np.ndarray, folds: list[FoldRows]) -> float:
        if not folds:
            return float("nan")  # one patient: nothing to choose by, the first head it is
        classes = 0 if self.task == "regression" else int(y.max()) + 1
        values = out_of_fold(lambda: clone(head), lambda _: X, y, patients, folds, task=self.task, class_count=classes)
        return score(self.task, y, values[0])[PRIMARY[self.task]]
