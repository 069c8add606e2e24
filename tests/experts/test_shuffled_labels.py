"""Labels that say nothing must score like chance, whatever the head and the task; a head that has seen them must not."""

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sonokit.evaluation.bootstrap import interval
from sonokit.evaluation.chance import Chance, chance
from sonokit.evaluation.nested import inner_folds
from sonokit.evaluation.out_of_fold import FoldRows, out_of_fold
from sonokit.evaluation.predictions import Predictions
from sonokit.evaluation.scores import Task
from sonokit.experts.heads import make_head
from sonokit.experts.multi_label import macro_draws

TASKS: dict[str, tuple[Task, int]] = {
    "binary": ("classification", 2),
    "several classes": ("classification", 3),
    "ordinal": ("ordinal", 4),
    "number": ("regression", 0),
}
HEADS = ("linear", "mlp", "xgboost", "auto", "own")
CHECKS = len(TASKS) * len(HEADS)
CHANCE = {"balanced_accuracy": {2: 1 / 2, 3: 1 / 3}, "quadratic_kappa": {4: 0.0}, "spearman": {0: 0.0}}
PATIENTS = np.repeat([f"p{k:02d}" for k in range(36)], 2)
RECIPES = {"mean": np.arange(6), "spread": np.arange(6, 12)}


def features(rng: np.random.Generator) -> np.ndarray:
    """Twelve dimensions; the clips of a patient are alike."""
    return np.repeat(rng.normal(size=(36, 12)), 2, axis=0) + 0.3 * rng.normal(size=(72, 12))


def labels(classes: int, rng: np.random.Generator) -> np.ndarray:
    """Drawn for each patient, of nothing that the features show."""
    return np.repeat(rng.normal(size=36) if not classes else rng.permutation(np.arange(36) % classes), 2)


def predicted(head: str, task: Task, classes: int, X: np.ndarray, truth: np.ndarray, *, leak: bool = False) -> Predictions:
    """Out of fold, or by heads that met the test side too."""
    folds = inner_folds(truth, PATIENTS, task=task, folds=4, seed=0)
    if leak:
        folds = [FoldRows(fold.index, 0, np.arange(len(truth)), fold.test) for fold in folds]
    own: Any = Ridge(10.0) if task == "regression" else LogisticRegression(C=0.1)
    columns = RECIPES if head == "auto" else None
    values = out_of_fold(
        lambda: make_head((own,) if head == "own" else (head,), task, columns=columns), lambda _: X, truth, PATIENTS, folds,
        task=task, class_count=classes,
    )  # fmt: skip
    names = tuple(f"class {k}" for k in range(classes))
    return Predictions(task, names, np.arange(len(truth)).astype(str), PATIENTS, truth, values)


def p_value(found: Predictions) -> float:
    looked = chance(found, exchanges=2000)
    assert isinstance(looked, Chance)
    return looked.p


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("head", [pytest.param(name, marks=pytest.mark.slow) if name == "auto" else name for name in HEADS])
def test_shuffled_labels__score_like_chance(head: str, kind: str) -> None:
    task, classes = TASKS[kind]
    rng = np.random.default_rng([HEADS.index(head), list(TASKS).index(kind), 1])
    X, truth = features(rng), labels(classes, rng)
    found = predicted(head, task, classes, X, truth)
    assert p_value(found) > 0.05 / CHECKS
    intervals = found.intervals(n=1000, level=1 - 0.05 / CHECKS)
    for name, floors in CHANCE.items():
        if classes in floors and name in intervals:
            assert intervals[name].low <= floors[classes]


@pytest.mark.parametrize("kind", TASKS)
def test_shuffled_labels__that_the_head_has_seen_are_found_out(kind: str) -> None:
    """The same look catches a leak, so that the test above can fail."""
    task, classes = TASKS[kind]
    rng = np.random.default_rng(7)
    X, truth = features(rng), labels(classes, rng)
    assert p_value(predicted("xgboost", task, classes, X, truth, leak=True)) < 0.05 / CHECKS


def test_shuffled_labels__of_several_labels_score_like_chance_on_average() -> None:
    rng = np.random.default_rng(3)
    X = features(rng)
    found = {name: predicted("linear", "classification", 2, X, labels(2, rng)) for name in ("a_lines", "b_lines", "effusion")}
    draws, people = macro_draws(found, n=1000)
    low = interval(draws["auroc"], people, 1 - 0.05 / CHECKS).low
    assert low <= 0.5
    seen = {name: predicted("xgboost", "classification", 2, X, one.truth, leak=True) for name, one in found.items()}
    assert interval(macro_draws(seen, n=1000)[0]["auroc"], people, 1 - 0.05 / CHECKS).low > 0.5
