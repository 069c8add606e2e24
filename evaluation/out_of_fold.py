"""Predictions for clips that the predictor has not seen: patient-grouped folds, and whole sites left out.

Everything that learns is inside ``make()``: a scaler, a choice among heads, a threshold. The functions here hand an estimator
its training rows only, so nothing fitted can have met the fold that it is scored on.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ..errors import SonokitError
from .scores import Task

if TYPE_CHECKING:
    from ..clips.splits import Splits


class Estimator(Protocol):
    """scikit-learn's interface, told whose each row is. Classifiers also have ``predict_proba`` and ``classes_``."""

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> Any: ...  # noqa: D102
    def predict(self, X: np.ndarray) -> np.ndarray: ...  # noqa: D102


@dataclass(frozen=True)
class FoldRows:
    """One fold as row numbers, int [·]; ``index`` is its place among the folds of the splits."""

    index: int
    repeat: int
    train: np.ndarray
    test: np.ndarray


def fold_rows(splits: "Splits", clip_ids: np.ndarray, patients: np.ndarray) -> list[FoldRows]:
    """The folds of ``splits`` as rows of ``clip_ids``, left-out clips in neither part.

    Raises:
        SonokitError: The splits do not know a clip, or it is another patient's there, or a patient is on both sides.
    """
    splits.check(clip_ids, patients)
    row_of = {clip: row for row, clip in enumerate(clip_ids)}
    held_out = np.isin(np.asarray(clip_ids, dtype=str), np.asarray(splits.held_out, dtype=str))
    folds = []
    for index, fold in enumerate(splits.folds):
        test = np.array(sorted(row_of[clip] for clip in fold.test if clip in row_of), dtype=np.int64)
        in_train = ~held_out
        in_train[test] = False
        folds.append(FoldRows(index, fold.repeat, np.flatnonzero(in_train), test))
    for found in folds:
        _require_apart(found, patients)
    return folds


def site_rows(sites: np.ndarray, patients: np.ndarray, usable: np.ndarray) -> list[FoldRows]:
    """One fold a site: it is tested on, the patients of all others train.

    A clip of unknown site takes no part: it may be from the site that is left out.

    Args:
        sites: str [N], empty where unknown.
        patients: str [N].
        usable: bool [N], False for what must not take part at all.
    """
    folds = []
    for index, site in enumerate(sorted(set(sites[usable & (sites != "")]))):
        test = usable & (sites == site)
        train = usable & (sites != "") & ~test & ~np.isin(patients, patients[test])
        folds.append(FoldRows(index, 0, np.flatnonzero(train), np.flatnonzero(test)))
    return folds


def out_of_fold(
    make: Callable[[], Estimator],
    features: Callable[[FoldRows], np.ndarray],
    truth: np.ndarray,
    patients: np.ndarray,
    folds: Sequence[FoldRows],
    *,
    task: Task,
    class_count: int,
    fitted: Callable[[FoldRows, Estimator], None] | None = None,
    shown: Iterable[FoldRows] | None = None,
) -> np.ndarray:
    """Predictions of every test row, by an estimator fitted on the fold's training rows.

    Args:
        make: A fresh estimator.
        features: The features of all rows as this fold may see them, [N, F].
        truth: Class codes int [N], or float [N].
        patients: Given to the estimator as ``groups``, str [N].
        folds: From :func:`fold_rows` or :func:`site_rows`.
        task: What kind of label it is.
        class_count: K.
        fitted: Told of each fitted estimator.
        shown: The same folds inside a progress bar.

    Returns:
        float64 [R, N, K] class probabilities, or [R, N] values; nan for rows that no fold tests.

    Raises:
        SonokitError: A fold tests clips and trains on none.
    """
    repeats = 1 + max(fold.repeat for fold in folds)
    shape = (repeats, len(truth)) if task == "regression" else (repeats, len(truth), class_count)
    values = np.full(shape, np.nan)
    # a fold's matrices are small: several BLAS threads wait for each other, on busy cores twenty times as long as they work
    with threadpool_limits(1, user_api="blas"):
        for fold in folds if shown is None else shown:
            if len(fold.test) == 0:
                continue
            require_training_rows(fold)
            inputs = features(fold)
            estimator = fit_rows(make, inputs, truth, patients, fold.train, task=task)
            if fitted is not None:
                fitted(fold, estimator)
            values[fold.repeat, fold.test] = predicted_values(estimator, inputs[fold.test], task, class_count)
    return np.round(values, 7)  # as they are written down, so that a report's figures follow from its predictions


def fit_rows(
    make: Callable[[], Estimator], inputs: np.ndarray, truth: np.ndarray, patients: np.ndarray, rows: np.ndarray, *, task: Task
) -> Estimator:
    """An estimator fitted on some rows; where they are all of one class there is nothing to learn, and a constant says so.

    ``truth`` are class codes or numbers [N], or soft targets [N, K].
    """
    only_one = task != "regression" and only_one_class(truth[rows])
    estimator = _OneClass() if only_one else make()
    estimator.fit(inputs[rows], truth[rows], groups=patients[rows])
    return estimator


def require_training_rows(fold: FoldRows) -> None:
    """Refuse a fold with nothing to fit on.

    Raises:
        SonokitError: It names the fold.
    """
    if len(fold.train) == 0:
        raise SonokitError(f"fold {fold.index} leaves no clip to train on: take fewer folds or more patients")


def only_one_class(truth: np.ndarray) -> bool:
    """Whether class codes [M], or soft targets [M, K], are of one class and nothing can be learnt from them."""
    return int((truth > 0).any(axis=0).sum()) == 1 if truth.ndim == 2 else len(np.unique(truth)) == 1


def predicted_values(estimator: Any, inputs: np.ndarray, task: Task, class_count: int) -> np.ndarray:
    """Probabilities [M, K] over all classes, 0 for a class that the training rows did not have; regression: values [M]."""
    if task == "regression":
        return np.asarray(estimator.predict(inputs), dtype=np.float64)
    values = np.zeros((len(inputs), class_count))
    values[:, np.asarray(estimator.classes_, dtype=np.int64)] = estimator.predict_proba(inputs)
    return values


class _OneClass:
    """Predicts the only class there was."""

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "_OneClass":
        self.classes_ = np.flatnonzero((y > 0).any(axis=0)) if y.ndim == 2 else np.unique(y)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return np.repeat(self.classes_, len(X))

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return np.ones((len(X), 1))


def _require_apart(fold: FoldRows, patients: np.ndarray) -> None:
    both = np.intersect1d(patients[fold.train], patients[fold.test])
    if len(both):
        raise SonokitError(
            f"fold {fold.index} of the splits has patient {both[0]!r} on both sides: make the splits again by these patients"
        )
