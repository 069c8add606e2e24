from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sonokit.errors import SonokitError
from sonokit.experts.distilled import DistilledHead
from sonokit.experts.distilled.unlabelled import UnlabelledRows
from sonokit.experts.heads import ChosenHead


class Given:
    """A teacher that says the same of every row."""

    name, by_clip = "given", False

    def __init__(self, own: Any, more: Any) -> None:
        self.own, self.more = np.asarray(own, dtype=float), np.asarray(more, dtype=float)

    def teach(self, lesson: Any) -> tuple[np.ndarray, np.ndarray]:
        return self.own, self.more


class Keeps:
    """A head that keeps what it was fitted on."""

    def __init__(self, kept: list[Any]) -> None:
        self.kept = kept

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "Keeps":
        self.kept.append((X, y, groups))
        return self


def targets(teacher: Any, y: np.ndarray, task: Any, classes: int, **settings: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a student is given of two labelled and two unlabelled rows."""
    kept: list[Any] = []
    more = UnlabelledRows(np.array(["u", "v"]), np.array(["q", "r"]), np.array([[7.0], [8.0]]))
    head = DistilledHead(Keeps(kept), teacher, task=task, class_count=classes, more=more, **settings)
    head.fit(np.array([[5.0], [6.0]]), y, groups=np.array(["o", "p"]))
    return kept[0]


def test_student__targets_are_labels_and_teacher_by_weight() -> None:
    """Classes are equally frequent among the labels, so what the teacher says stays as it is; a silent row keeps its label."""
    teacher = Given([[0.75, 0.25], [np.nan, np.nan]], [[0.5, 0.5], [0.125, 0.875]])
    X, y, groups = targets(teacher, np.array([0, 1]), "classification", 2, weight=0.5)
    assert X[:, 0].tolist() == [5, 6, 7, 8]
    assert y.tolist() == [[0.875, 0.125], [0, 1], [0.5, 0.5], [0.125, 0.875]]
    assert groups.tolist() == ["o", "p", "q", "r"]


def test_student__an_unlabelled_row_of_which_nothing_is_said_takes_no_part() -> None:
    X, y, _ = targets(Given([3.0, 5.0], [np.nan, 9.0]), np.array([1.0, 2.0]), "regression", 0, weight=0.25)
    assert X[:, 0].tolist() == [5, 6, 8]
    assert y.tolist() == [1.5, 2.75, 9]


def test_student__temperature_flattens_the_teacher() -> None:
    teacher = Given([[0.8, 0.2]] * 2, [[0.2, 0.8]] * 2)
    _, y, _ = targets(teacher, np.array([0, 1]), "classification", 2, weight=1, temperature=2)
    np.testing.assert_allclose(y, [[2 / 3, 1 / 3]] * 2 + [[1 / 3, 2 / 3]] * 2)


@pytest.mark.parametrize(("settings", "said"), [({"weight": 1.5}, "from 0 to 1"), ({"temperature": 0}, "above 0")])
def test_student__settings_that_there_are_not(settings: dict[str, float], said: str) -> None:
    with pytest.raises(SonokitError, match=said):
        DistilledHead(Keeps([]), Given(0, 0), task="classification", class_count=2, **settings)


def test_student__reads_its_columns_in_the_order_of_memory_of_a_store() -> None:
    """Equal numbers in another order in memory may differ in the last digit of what is made of them."""
    seen: list[np.ndarray] = []

    class Sees(BaseEstimator):
        def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "Sees":
            seen.append(X)
            return self

        def predict(self, X: np.ndarray) -> np.ndarray:
            return self.fit(X, X[:, 0]) and X[:, 0]

    student = ChosenHead({"sees": Sees()}, "regression", columns={"a": np.array([2, 0]), "b": np.array([1])})
    head = DistilledHead(student, Given(0, 0), task="regression", class_count=0, weight=0)
    inputs = np.arange(12.0).reshape(4, 3)
    head.fit(inputs, np.arange(4.0), groups=np.full(4, "one patient")).predict(inputs)
    assert len(seen) == 3  # the choice, the lesson, the prediction
    for given in seen:
        assert given.tolist() == [[2, 0], [5, 3], [8, 6], [11, 9]]
        assert given.flags["C_CONTIGUOUS"]
