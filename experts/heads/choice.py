"""Choosing a head, a recipe and settings inside the training rows, so that the choice is part of what is scored.

The inner folds are grouped by patient like the outer ones, and stratified where the label has classes. Cross-validated from
outside, such a head is scored with its choosing; fitted on everything, it is the expert that is kept.

What the chosen candidate said of its own training rows, out of the inner folds, is kept (``inner_values_``), so that a readout
can be fitted to it without choosing again inside the choice. It is a little too good: of several candidates the one is taken
that these very rows liked best. What the readout then promises is measured on the outer folds, where nothing was chosen.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone

from ...errors import SonokitError
from ...evaluation.nested import inner_folds
from ...evaluation.scores import LOWER_IS_BETTER, PRIMARY, Task
from .inner import InnerRows, Trial
from .kept import KeptHead
from .search import Candidate, candidates
from .search_settings import SearchSettings
from .targets import hard_codes

CHOOSING_ROWS = 20_000
"""Rows that a choice looks at, at most: whole patients are drawn. Beyond this more rows change the ranking of the candidates
little and cost in proportion; the chosen one is fitted on all rows."""


class ChosenHead(KeptHead, BaseEstimator):
    """The candidate with the best primary score on inner folds, fitted again on all training rows.

    Args:
        heads: Name -> estimator, not fitted.
        task: What kind of label it is.
        columns: Recipe -> the features that it reads, int [·]; None, or of one recipe: all features as they are.
        search: What is tried besides the defaults, and on how many inner folds; None: the defaults only.
        seed: Of the inner folds and the draws.
        choosing_rows: See ``CHOOSING_ROWS``.

    Attributes:
        chosen_: Name of the head.
        recipe_: Name of the recipe, or None.
        columns_: Its features, int [·], or None.
        settings_: What differs from the head's own settings.
        head_: Fitted on ``X[:, columns_]``.
        inner_values_: What the candidate said of the training rows out of inner folds, float64 [M, K] or [M]; nan for rows that
            the choice did not look at. None where there is one patient only: nothing was chosen.
        trials_: Each candidate: head, recipe, settings, inner_score, seconds, given_up.
    """

    def __init__(
        self,
        heads: Mapping[str, Any],
        task: Task = "classification",
        columns: Mapping[str, np.ndarray] | None = None,
        search: SearchSettings | None = None,
        seed: int = 0,
        choosing_rows: int = CHOOSING_ROWS,
    ) -> None:
        self.heads = heads
        self.task = task
        self.columns = columns
        self.search = search
        self.seed = seed
        self.choosing_rows = choosing_rows

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "ChosenHead":
        """Choose and fit on X [N, F], y [N] (or soft targets [N, K], chosen by the most probable class).

        Without ``groups`` each row is its own patient. Ties go to what was tried first.
        """
        y = np.asarray(y)
        patients = np.arange(len(y)) if groups is None else np.unique(groups, return_inverse=True)[1]
        chosen, trial, rows = self._choose(X, y, patients)
        self.chosen_, self.recipe_, self.columns_ = chosen.head, chosen.recipe, self._columns_of(chosen)
        self.settings_ = {**chosen.settings, **(trial.stage if trial else {})}
        self.inner_values_ = None
        if trial is not None:
            self.inner_values_ = np.full((len(y), *trial.values.shape[1:]), np.nan)
            self.inner_values_[rows] = trial.values
        self.head_ = self._fresh(chosen.head, self.settings_).fit(self._read(X), y, groups=groups)
        self.classes_ = getattr(self.head_, "classes_", None)
        return self

    def _choose(self, X: np.ndarray, y: np.ndarray, patients: np.ndarray) -> tuple[Candidate, Trial | None, np.ndarray]:
        """The best candidate, how it did, and the rows that it was tried on."""
        search = self.search or SearchSettings()
        rows = _some_patients(patients, self.choosing_rows, self.seed)
        truth = hard_codes(y)
        order = self._in_time(search)
        try:
            folds = inner_folds(truth[rows], patients[rows], task=self.task, folds=search.inner_folds, seed=self.seed)
        except SonokitError:
            self.trials_: list[dict[str, Any]] = []
            return next(order), None, rows  # one patient: nothing to choose by, the first candidate it is
        inner = InnerRows(
            self.task, X[rows], y[rows], truth[rows], patients[rows], folds,
            0 if self.task == "regression" else y.shape[1] if y.ndim == 2 else int(y.max()) + 1,
        )  # fmt: skip
        return *self._race(inner, order, search), rows

    def _race(self, inner: InnerRows, order: Iterator[Candidate], search: SearchSettings) -> tuple[Candidate, Trial]:
        best: tuple[Candidate, Trial] | None = None
        self.trials_ = []
        for candidate in order:
            started = time.perf_counter()
            trial = inner.run(
                self._fresh(candidate.head, candidate.settings), self._columns_of(candidate),
                staged=search.wanted, best=best[1] if best else None,
            )  # fmt: skip
            self.trials_.append(
                {
                    "head": candidate.head, "recipe": candidate.recipe, "settings": {**candidate.settings, **trial.stage},
                    "inner_score": trial.score, "seconds": time.perf_counter() - started, "given_up": trial.given_up,
                }
            )  # fmt: skip
            if best is None or (not trial.given_up and self._worth(trial) > self._worth(best[1])):
                best = candidate, trial
        assert best is not None
        return best

    def _in_time(self, search: SearchSettings) -> Iterator[Candidate]:
        """The candidates, as far as the budget goes from now on."""
        started, drawn_so_far = time.perf_counter(), 0
        for candidate, drawn in candidates(self.heads, tuple(self.columns or (None,)), self.seed):
            if drawn:
                late = search.seconds is not None and time.perf_counter() - started >= search.seconds
                if not search.wanted or late or 0 < search.trials <= drawn_so_far:
                    return
                drawn_so_far += 1
            yield candidate

    def _worth(self, trial: Trial) -> float:
        sign = -1 if PRIMARY[self.task] in LOWER_IS_BETTER else 1
        return float(np.nan_to_num(sign * trial.score, nan=-np.inf))

    def _fresh(self, name: str, settings: Mapping[str, Any]) -> Any:
        head = clone(self.heads[name])
        return head.set_params(**settings) if settings else head

    def _columns_of(self, candidate: Candidate) -> np.ndarray | None:
        """None where there is one recipe: the features as they are."""
        return np.asarray(self.columns[str(candidate.recipe)]) if self.columns and len(self.columns) > 1 else None


def _some_patients(patients: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Rows of as many patients as ``most`` rows hold, in their order; patients int [N] from 0 without a gap."""
    if len(patients) <= most:
        return np.arange(len(patients))
    order = np.random.default_rng(seed).permutation(patients.max() + 1)
    sizes = np.bincount(patients)[order]
    taken = order[: max(2, int((np.cumsum(sizes) <= most).sum()))]
    return np.flatnonzero(np.isin(patients, taken))
