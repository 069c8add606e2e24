"""Readouts inside the folds: each test side is read by a calibrator, a set and a threshold that never met it.

Two ways to come by predictions to fit a fold's readout to:

- :func:`nested_out_of_fold` divides the fold's training side once more by patient. Nothing of the test side can enter. It
  costs an inner cross-validation a fold, and it is the way wherever the features do not depend on labels. A head that divided
  its training rows itself, to choose by them, has such predictions already (``inner_values_``): those are taken. They are a
  little too good, as those of whatever was chosen by them; the coverage that is reported is measured on the test sides.
- :func:`readouts_of_other_folds` takes the out-of-fold predictions of the same repeat's other test sides. It costs nothing,
  and it is the way for features whose extractor was fitted on the labels of the training side: there the inner way would
  calibrate on clips that the extractor knows. Its price: the heads behind those predictions had the fold's test labels among
  their training labels, so that a trace of them remains (as in every cross-conformal method: Vovk 2015).
"""

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ..errors import SonokitError
from .out_of_fold import Estimator, FoldRows, fit_rows, out_of_fold, predicted_values, require_training_rows
from .readout import Readout, ReadoutSettings, fit_readout
from .scores import Task


@dataclass(frozen=True)
class Reading:
    """What was said of N clips in R repeats by readouts that had not met them; rows that no fold tests are nan, sets False.

    Attributes:
        raw: The heads' own: probabilities [R, N, K], or values [R, N].
        calibrated: The same, calibrated; ``raw`` itself for regression.
        sets: Whether each class is in the set, bool [R, N, K]; None for regression.
        ends: Lower and upper ends of the interval, [R, N] each; None for classes.
        calls: Name of the operating point -> 1, 0 or nan, [R, N].
        readouts: One a fold that tests anything, in the folds' order.
    """

    raw: np.ndarray
    calibrated: np.ndarray
    sets: np.ndarray | None
    ends: tuple[np.ndarray, np.ndarray] | None
    calls: dict[str, np.ndarray]
    readouts: list[Readout]

    def select(self, keep: np.ndarray) -> "Reading":
        """Some of the clips; ``keep`` is a mask or row numbers [N]."""
        return Reading(
            self.raw[:, keep],
            self.calibrated[:, keep],
            None if self.sets is None else self.sets[:, keep],
            None if self.ends is None else (self.ends[0][:, keep], self.ends[1][:, keep]),
            {name: calls[:, keep] for name, calls in self.calls.items()},
            self.readouts,
        )

    def holds(self, truth: np.ndarray) -> np.ndarray:
        """Whether each set or interval holds the truth [N], bool [R, N]."""
        if self.ends is not None:
            return (self.ends[0] <= truth) & (truth <= self.ends[1])
        assert self.sets is not None
        return self.sets[:, np.arange(len(truth)), truth]

    def sizes(self) -> np.ndarray:
        """Classes in each set, or the width of each interval, float [R, N]."""
        if self.ends is not None:
            return self.ends[1] - self.ends[0]
        assert self.sets is not None
        return self.sets.sum(axis=-1).astype(np.float64)


def nested_out_of_fold(
    make: Callable[[], Estimator],
    features: Callable[[FoldRows], np.ndarray],
    truth: np.ndarray,
    patients: np.ndarray,
    folds: Sequence[FoldRows],
    *,
    task: Task,
    classes: tuple[str, ...],
    settings: ReadoutSettings,
    fitted: Callable[[FoldRows, Estimator], None] | None = None,
    shown: Iterable[FoldRows] | None = None,
) -> Reading:
    """As :func:`~sonokit.evaluation.out_of_fold.out_of_fold`, with a readout a fold from inner folds of its training side.

    Args:
        make: A fresh estimator.
        features: The features of all rows as this fold may see them, [N, F].
        truth: Class codes int [N], or float [N].
        patients: Whose each clip is, str [N].
        folds: From ``fold_rows`` or ``site_rows``.
        task: What kind of label it is.
        classes: Names of the K classes; empty for regression.
        settings: Of the readouts.
        fitted: Told of each fitted estimator.
        shown: The same folds inside a progress bar.

    Raises:
        SonokitError: A fold's training side is empty or has fewer than two patients.
    """
    found = _empty(len(truth), folds, task, classes)
    with threadpool_limits(1, user_api="blas"):  # as in out_of_fold: a fold's matrices are small
        for fold in folds if shown is None else shown:
            if len(fold.test) == 0:
                continue
            require_training_rows(fold)
            inputs = features(fold)
            sides = inputs[fold.train], truth[fold.train], patients[fold.train]
            estimator = fit_rows(make, inputs, truth, patients, fold.train, task=task)
            if fitted is not None:
                fitted(fold, estimator)
            inner = _own_inner_values(estimator, task, len(classes))
            if inner is None:
                inner = inner_out_of_fold(
                    make, *sides, task=task, class_count=len(classes), folds=settings.inner_folds, seed=settings.seed
                )
            known = ~np.isnan(inner).reshape(len(inner), -1).any(axis=1)  # a choice on much data looks at a part of it
            readout = fit_readout(task, classes, inner[known][None], sides[1][known], sides[2][known], settings)
            values = np.round(predicted_values(estimator, inputs[fold.test], task, len(classes)), 7)
            _read(found, readout, fold, values)
    return found


def readouts_of_other_folds(
    values: np.ndarray,
    truth: np.ndarray,
    patients: np.ndarray,
    folds: Sequence[FoldRows],
    *,
    task: Task,
    classes: tuple[str, ...],
    settings: ReadoutSettings,
) -> Reading:
    """A readout a fold from the out-of-fold predictions of the other test sides; see the top of this file for when.

    Args:
        values: From :func:`~sonokit.evaluation.out_of_fold.out_of_fold`, [R, N, K] or [R, N].
        truth: Class codes int [N], or float [N].
        patients: Whose each clip is, str [N].
        folds: Those that ``values`` came of.
        task: What kind of label it is.
        classes: Names of the K classes; empty for regression.
        settings: Of the readouts; the inner folds are not needed.

    Raises:
        SonokitError: A repeat has one test side only.
    """
    found = _empty(len(truth), folds, task, classes)
    for fold in folds:
        if len(fold.test) == 0:
            continue
        others = [other.test for other in folds if other.repeat == fold.repeat and other is not fold]
        rows = np.concatenate([np.empty(0, dtype=np.int64), *others])
        rows = rows[~np.isin(patients[rows], patients[fold.test])]  # left-out sites may share a patient
        if not len(rows):
            raise SonokitError(f"fold {fold.index} has no other fold to calibrate on: take two folds or more")
        readout = fit_readout(task, classes, values[fold.repeat, rows][None], truth[rows], patients[rows], settings)
        _read(found, readout, fold, values[fold.repeat, fold.test])
    return found


def read_values(readout: Readout, task: Task, classes: tuple[str, ...], values: np.ndarray) -> Reading:
    """What one readout says of clips that nothing was fitted on: a held-out part, or another hospital's clips.

    Args:
        readout: Of a finished expert.
        task: What kind of label it is.
        classes: Names of the K classes; empty for regression.
        values: The expert's raw ones, [R, N, K] or [R, N].
    """
    repeats, clips = values.shape[:2]
    rows = np.arange(clips)
    folds = [FoldRows(repeat, repeat, rows[:0], rows) for repeat in range(repeats)]
    found = _empty(clips, folds, task, classes)
    for fold in folds:
        _read(found, readout, fold, np.round(values[fold.repeat], 7))
    return found


def inner_out_of_fold(
    make: Callable[[], Estimator],
    inputs: np.ndarray,
    truth: np.ndarray,
    patients: np.ndarray,
    *,
    task: Task,
    class_count: int,
    folds: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """Predictions of a training side's own rows, each by an estimator that had not seen its patient.

    Args:
        make: A fresh estimator.
        inputs: The training rows only, [M, F].
        truth: Class codes int [M], or float [M].
        patients: Whose each row is, [M].
        task: What kind of label it is.
        class_count: K.
        folds: As many, or as there are patients.
        seed: Of the division.

    Returns:
        float64 [M, K], or [M] for regression.

    Raises:
        SonokitError: There are fewer than two patients.
    """
    division = inner_folds(truth, patients, task=task, folds=folds, seed=seed)
    values = out_of_fold(make, lambda _: inputs, truth, patients, division, task=task, class_count=class_count)
    return values[0]


def inner_folds(truth: np.ndarray, patients: np.ndarray, *, task: Task, folds: int = 5, seed: int = 0) -> list[FoldRows]:
    """A training side divided by patient, stratified where the label has classes; arguments as in :func:`inner_out_of_fold`.

    Every fold tests something, so there may be fewer of them than were asked for, but never fewer than two.
    """
    count = min(folds, len(np.unique(patients)))
    if task != "regression":
        count = min(count, int(np.unique(truth, return_counts=True)[1].max()))
    if count < 2:
        raise SonokitError("the training side of a fold has one patient only: nothing can be calibrated; take more patients")
    kind = GroupKFold if task == "regression" else StratifiedGroupKFold
    splitter = kind(n_splits=count, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # a class of fewer rows than inner folds is no fault: some folds do not test it
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        sides = [(train, test) for train, test in splitter.split(truth, truth, patients) if len(test)]
    if len(sides) < 2:  # stratifying by large patients may give some folds nobody, here all but one
        sides = list(GroupKFold(2, shuffle=True, random_state=seed).split(truth, truth, patients))
    return [FoldRows(k, 0, train, test) for k, (train, test) in enumerate(sides)]


def _own_inner_values(estimator: Estimator, task: Task, class_count: int) -> np.ndarray | None:
    """What an estimator said of its training rows while it chose, [M, K] or [M]; None where it chose nothing."""
    values = getattr(estimator, "inner_values_", None)
    if values is None or task == "regression":
        return values
    # classes beyond the last one that the training side has
    return np.pad(values, ((0, 0), (0, class_count - values.shape[1])))


def _empty(clips: int, folds: Sequence[FoldRows], task: Task, classes: tuple[str, ...]) -> Reading:
    shape = (1 + max(fold.repeat for fold in folds), clips)
    if task == "regression":
        raw = np.full(shape, np.nan)
        return Reading(raw, raw, None, (np.full(shape, np.nan), np.full(shape, np.nan)), {}, [])
    wide = (*shape, len(classes))
    return Reading(np.full(wide, np.nan), np.full(wide, np.nan), np.zeros(wide, dtype=bool), None, {}, [])


def _read(found: Reading, readout: Readout, fold: FoldRows, values: np.ndarray) -> None:
    """Write what ``readout`` says of the test side's raw ``values`` into ``found``."""
    place = fold.repeat, fold.test
    found.readouts.append(readout)
    found.raw[place] = values
    calibrated = readout.calibrated(values)
    if found.ends is not None and readout.interval is not None:
        found.ends[0][place], found.ends[1][place] = readout.interval.apply(values)
        return
    found.calibrated[place] = calibrated
    if found.sets is not None and readout.sets is not None:
        found.sets[place] = readout.sets.apply(values)
    for point in readout.points:
        calls = found.calls.setdefault(point.name, np.full(found.raw.shape[:2], np.nan))
        calls[place] = point.apply(calibrated)
