from typing import Any

import numpy as np
import pytest
from sonokit.experts.distilled.soft_targets import FoldTargets, SoftTargets
from sonokit.experts.distilled.teachers import EnsembleTeacher, Lesson, NetworkTeacher, at_frequencies, soften


class Memory:
    """Knows the rows that it was fitted on by their first feature, and answers 0.5 for any other."""

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "Memory":
        self.known = dict(zip(X[:, 0].tolist(), y.tolist(), strict=True))
        self.classes_ = np.unique(y)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return np.array([self.known.get(key, 0.5) for key in X[:, 0].tolist()])

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        above = self.predict(X)
        return np.stack([1 - above, above], axis=1)


def lesson(**changes: Any) -> Lesson:
    rows = np.arange(12.0)
    known = {
        "X": np.stack([rows, rows], axis=1), "truth": np.arange(12) % 2, "patients": np.repeat(list("abcdef"), 2),
        "clip_ids": None, "more_X": np.array([[3.0, 3.0], [99.0, 99.0]]), "more_clip_ids": np.array(["u0", "u1"]),
        "fold": 0, "task": "classification", "class_count": 2,
    }  # fmt: skip
    return Lesson(**(known | changes))


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_ensemble__says_nothing_of_a_training_row_that_it_learnt_from_it(task: Any) -> None:
    """A head that only remembers gives every training row away if it is asked of what it was fitted on."""
    teacher = EnsembleTeacher(("linear", "xgboost"), make=lambda *_: Memory())
    said, more = teacher.teach(lesson(task=task, class_count=2 if task == "classification" else 0))
    assert said.shape == ((12, 2) if task == "classification" else (12,))
    assert (said == 0.5).all()
    # of the others the fitted members speak: the first has the content of row 3, which the memory knows to be 1
    assert more.tolist() == ([[0, 1], [0.5, 0.5]] if task == "classification" else [1, 0.5])


def test_ensemble__is_the_mean_over_heads_and_seeds() -> None:
    asked: list[tuple[str, int]] = []

    class Constant(Memory):
        def __init__(self, value: float) -> None:
            self.value = value

        def predict(self, X: np.ndarray) -> np.ndarray:
            return np.full(len(X), self.value)

    def make(heads: tuple[str, ...], task: str, seed: int) -> Constant:
        asked.append((heads[0], seed))
        return Constant({"linear": 0.2, "mlp": 0.4, "xgboost": 0.8}[heads[0]] + seed / 100)

    said, more = EnsembleTeacher(seeds=2, seed=5, inner_folds=3, make=make).teach(lesson())
    assert set(asked) == {("linear", 5), ("mlp", 5), ("mlp", 6), ("xgboost", 5), ("xgboost", 6)}
    mean = (0.25 + 0.45 + 0.46 + 0.85 + 0.86) / 5
    np.testing.assert_allclose(said[:, 1], mean)
    np.testing.assert_allclose(more[:, 1], mean)


def test_ensemble__of_one_patient_says_nothing() -> None:
    said, more = EnsembleTeacher(make=lambda *_: Memory()).teach(lesson(patients=np.repeat("a", 12)))
    assert np.isnan(said).all()
    assert np.isnan(more).all()


def test_network__speaks_of_a_fold_or_of_all() -> None:
    folds = tuple(
        FoldTargets({"x": np.array([k, 1 - k]), "u0": np.array([0.5, 0.5])}, frozenset({"x"} if k else {})) for k in (0, 1)
    )
    teacher = NetworkTeacher(SoftTargets(("a", "b"), folds, "somewhere"))
    rows = {"X": np.zeros((1, 2)), "truth": np.zeros(1, int), "patients": np.array(["a"]), "clip_ids": np.array(["x"])}
    assert [teacher.teach(lesson(**rows, fold=k))[0].tolist() for k in (0, 1, None)] == [[[0, 1]], [[1, 0]], [[0, 1]]]
    assert np.isnan(teacher.teach(lesson(**rows))[1]).all(axis=1).tolist() == [False, True]
    with pytest.raises(ValueError, match="names"):
        teacher.teach(lesson())


def test_soften() -> None:
    np.testing.assert_allclose(soften(np.array([[0.8, 0.2]]), 2), [[2 / 3, 1 / 3]])  # √0.8 = 2·√0.2
    assert soften(np.array([[0.8, 0.2]]), 1).tolist() == [[0.8, 0.2]]
    assert soften(np.array([3.0]), 2).tolist() == [3.0]


def test_at_frequencies__is_bayes_rule() -> None:
    """Likelihoods of one finding under three classes: the posterior at even shares, and at others, straight from the rule."""
    likelihood, shares = np.array([0.2, 0.5, 0.9]), np.array([0.7, 0.2, 0.1])
    even = likelihood / likelihood.sum()
    turned = at_frequencies(even[None], shares, "classification")[0]
    np.testing.assert_allclose(turned, likelihood * shares / (likelihood * shares).sum())
    np.testing.assert_allclose(at_frequencies(even[None], np.full(3, 1 / 3), "classification")[0], even)


def test_at_frequencies__ordered_levels_turn_a_threshold_at_a_time() -> None:
    shares, level = np.array([0.5, 0.3, 0.2]), np.array([[0.2, 0.2, 0.6]])
    turned = at_frequencies(level, shares, "ordinal")[0]
    # above 0: odds 0.8 : 0.2 times 0.5 : 0.5; above 1: odds 0.6 : 0.4 times 0.2 : 0.8
    first, second = 0.8, 0.6 * 0.2 / (0.6 * 0.2 + 0.4 * 0.8)
    np.testing.assert_allclose(turned, [1 - first, first - second, second])


def test_at_frequencies__of_classes_that_are_not_there_nothing_is_said() -> None:
    values = np.array([[0.0, 1.0], [0.5, 0.5], [np.nan, np.nan]])
    turned = at_frequencies(values, np.array([1.0, 0.0]), "classification")
    assert turned[1].tolist() == [1, 0]
    assert np.isnan(turned[[0, 2]]).all()
