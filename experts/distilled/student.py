"""A small head that learns from its own labels and from a teacher at once (Hinton et al. 2015).

A labelled row's target is (1 − w)·label + w·teacher, an unlabelled row's is the teacher alone; both count alike. A teacher that
says nothing of a labelled row leaves it its label; of an unlabelled row, and the row takes no part. For a number the same with
values in the place of probabilities. w is fixed beforehand and never chosen on what is scored.

Labels and teacher do not speak alike: heads and networks here are fitted as if all classes were equally frequent, labels are as
frequent as they are. So the teacher's probabilities are first turned into those under the training rows' frequencies (Elkan
2001), and the student weighs classes alike by their mass, as it does with labels alone.
"""

from typing import Any

import numpy as np
from sklearn.base import clone

from ...errors import SonokitError
from ...evaluation.scores import Task
from ..heads import ChosenHead
from ..heads.kept import KeptHead
from .teachers import Lesson, Teacher, at_frequencies, soften
from .unlabelled import UnlabelledRows


class DistilledHead(KeptHead):
    """A student with its teacher; see :mod:`sonokit.experts.heads` for the interface. Saved, it is the student itself.

    Where the student chooses among heads or recipes, it first does so on the labels alone, and what it chose is then taught.

    Attributes:
        head_: The fitted student, which reads ``X[:, columns_]``.
        columns_: int [·]; None for all.
        classes_: Codes of the classes that it tells apart.
        chosen_, recipe_, settings_, trials_: Of a student that chooses, see :mod:`sonokit.experts.heads`.
        unlabelled_: How many unlabelled clips took part.
    """

    def __init__(
        self,
        student: Any,
        teacher: Teacher,
        *,
        task: Task,
        class_count: int,
        more: UnlabelledRows | None = None,
        trained: np.ndarray | None = None,
        clip_ids: np.ndarray | None = None,
        fold: int | None = None,
        weight: float = 0.5,
        temperature: float = 1.0,
    ) -> None:
        """Put the parts together.

        Args:
            student: A fresh head.
            teacher: Also fresh, or one that was fitted without any test side.
            task: What kind of label it is.
            class_count: K; 0 for regression.
            more: Unlabelled clips of nobody who is tested.
            trained: The patients of the training side, str [·]: those of them who are not in a fit are tested by an inner fold,
                and their unlabelled clips stay away too.
            clip_ids: Names of the rows that ``fit`` will be given, for a teacher that knows clips by name.
            fold: Place among the folds of the splits, for such a teacher; None for the head that is kept.
            weight: w, of the teacher on labelled rows, from 0 to 1.
            temperature: At which the teacher speaks.

        Raises:
            SonokitError: A weight outside 0 to 1, or a temperature that is not above 0.
        """
        if not 0 <= weight <= 1:
            raise SonokitError(f"the teacher's weight is a share from 0 to 1, not {weight}")
        if not temperature > 0:
            raise SonokitError(f"the teacher's temperature is above 0, not {temperature}")
        self.student, self.teacher, self.task, self.class_count = student, teacher, task, class_count
        self.more, self.trained, self.clip_ids, self.fold = more, trained, clip_ids, fold
        self.weight, self.temperature = weight, temperature

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "DistilledHead":
        """Teach on X [M, F], y [M], of the patients ``groups`` [M]."""
        patients = np.arange(len(y)).astype(str) if groups is None else np.asarray(groups)
        more = self._unlabelled(patients, X)
        student = self._chosen(X, y, patients)
        rows, targets, owners = self._targets(X, y, patients, more)
        self.head_ = student.fit(self._read(rows), targets, groups=owners)
        self.classes_ = getattr(self.head_, "classes_", None)
        return self

    def _unlabelled(self, patients: np.ndarray, X: np.ndarray) -> UnlabelledRows:
        """The unlabelled clips that this fit may learn from."""
        if self.more is None:
            return UnlabelledRows(np.empty(0, dtype=str), np.empty(0, dtype=str), X[:0])
        if self.trained is None:
            return self.more
        inner_test = np.setdiff1d(self.trained, patients)
        return self.more.select(~np.isin(self.more.patients, inner_test))

    def _chosen(self, X: np.ndarray, y: np.ndarray, patients: np.ndarray) -> Any:
        """The head that is taught: the student, or what it chose on the labels."""
        self.columns_: np.ndarray | None = None
        if not isinstance(self.student, ChosenHead):
            return self.student
        self.student.fit(X, y, groups=patients)
        for name in ("chosen_", "recipe_", "columns_", "settings_", "trials_"):
            setattr(self, name, getattr(self.student, name))
        return clone(self.student.head_)

    def _targets(
        self, X: np.ndarray, y: np.ndarray, patients: np.ndarray, more: UnlabelledRows
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Features, targets and patients of all rows that are learnt from."""
        self.unlabelled_ = 0
        if self.weight == 0 and not len(more):
            return X, y, patients  # nothing to listen to: the plain head, to the last bit
        lesson = Lesson(
            X, y, patients, self.clip_ids, more.X, more.clip_ids, self.fold, task=self.task, class_count=self.class_count
        )
        if self.clip_ids is not None and len(self.clip_ids) != len(y):
            raise ValueError(f"{len(y)} rows are to be learnt from, but {len(self.clip_ids)} were named")
        said, said_more = (soften(values, self.temperature) for values in self.teacher.teach(lesson))
        if self.task == "regression":
            labels = y.astype(np.float64)
        else:
            labels = np.eye(self.class_count)[y]
            said, said_more = (at_frequencies(values, labels.mean(axis=0), self.task) for values in (said, said_more))
        own = np.where(np.isnan(said), labels, (1 - self.weight) * labels + self.weight * said)
        usable = ~np.isnan(said_more if said_more.ndim == 1 else said_more.sum(axis=1))
        self.unlabelled_ = int(usable.sum())
        more = more.select(usable)
        return (
            np.concatenate([X, more.X]),
            np.concatenate([own, said_more[usable]]),
            np.concatenate([patients, more.patients]),
        )
