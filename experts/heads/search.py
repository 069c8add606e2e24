"""Which candidates a choice looks at, in which order, and when a candidate may be given up.

The order is fixed by the seed: every head at its defaults on every recipe, then the heads in turn, each with settings and
recipe drawn without replacement from the grid below (random search: Bergstra and Bengio 2012). A candidate that after some
inner folds is clearly worse than the best so far on the same patients is given up (racing: Maron and Moore 1994), so that
hopeless ones cost a fraction.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.model_selection import ParameterGrid

from ...evaluation.scores import Task

GRIDS: dict[tuple[str, str], dict[str, list[Any]]] = {
    ("linear", "classification"): {"C": np.logspace(-4, 2, 13).tolist()},
    ("linear", "regression"): {"penalty": np.logspace(-4, 2, 13).tolist()},
    ("xgboost", "any"): {
        "depth": [2, 3, 4, 6, 8],
        "learning_rate": [0.03, 0.1, 0.3],
        "min_child_weight": [1.0, 3.0, 10.0, 30.0],
        "subsample": [0.5, 0.75, 1.0],
        "colsample_bytree": [None, 0.3, 0.6, 1.0],
    },
    ("mlp", "any"): {
        "hidden": [8, 16, 32, 64, 128],
        "dropout": [0.0, 0.1, 0.3, 0.5],
        "weight_decay": [1e-4, 1e-3, 1e-2, 1e-1, 1.0],
        "learning_rate": [1e-3, 3e-3, 1e-2],
    },
}
"""What is drawn from, a head and task. How long to train is not: each candidate's inner folds say it (``fit_staged``)."""

FEWEST_PATIENTS = 5
"""That must have been tested before a candidate can be given up."""


@dataclass(frozen=True)
class Candidate:
    """A head by name, the recipe that it reads (None: the features as they are), and settings besides its own."""

    head: str
    recipe: str | None
    settings: Mapping[str, Any]


def candidates(heads: Mapping[str, Any], recipes: Sequence[str | None], seed: int) -> Iterator[tuple[Candidate, bool]]:
    """Every candidate in its order, and whether it was drawn (False: a default).

    Args:
        heads: Name -> estimator.
        recipes: At least one.
        seed: Of the draws.
    """
    for recipe in recipes:
        for name in heads:
            yield Candidate(name, recipe, {}), False
    draws = [_drawn(name, head, recipes, seed) for name, head in heads.items()]
    while draws:
        for draw in list(draws):
            candidate = next(draw, None)
            if candidate is None:
                draws.remove(draw)
            else:
                yield candidate, True


def grid_of(head: Any) -> dict[str, list[Any]]:
    """What may be drawn for a head, under its parameters' names; empty for an estimator that is not ours."""
    if getattr(head, "name", None) == "ordinal":
        return {f"base__{name}": values for name, values in grid_of(head.base).items()}
    name, task = getattr(head, "name", ""), getattr(head, "task", "any")
    return GRIDS.get((name, task), GRIDS.get((name, "any"), {}))


def row_losses(task: Task, truth: np.ndarray, values: np.ndarray) -> np.ndarray:
    """What each row adds to the task's primary score, the other way round: lower is better.

    Args:
        task: What kind of label it is.
        truth: Class codes int [M], or float [M].
        values: Probabilities [M, K], or values [M].

    Returns:
        float [M]: 1 where the class is wrong, over its class's number of rows; the squared distance in levels; the distance.
    """
    if task == "regression":
        return np.abs(values - truth)
    said = values.argmax(axis=1)
    if task == "ordinal":
        return (said - truth).astype(np.float64) ** 2
    return (said != truth) / np.bincount(truth)[truth]


def stage_losses(task: Task, truth: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The smooth loss by which a length of training is chosen, [S]: squared error, or log loss with classes that weigh alike.

    Args:
        task: What kind of label it is.
        truth: Class codes int [M], or float [M].
        values: What each stage says, [S, M, K] or [S, M].
    """
    if task == "regression":
        return ((values - truth) ** 2).mean(axis=1)
    surprise = -np.log(values[:, np.arange(len(truth)), truth].clip(1e-7, 1))  # [S, M]
    return (surprise / np.bincount(truth)[truth]).sum(axis=1)


def hopeless(losses: np.ndarray, best: np.ndarray, patients: np.ndarray) -> bool:
    """Whether a candidate is worse than the best so far by two standard errors over patients.

    Args:
        losses: Of the candidate, float [M].
        best: Of the best one, on the same rows.
        patients: Whose each row is, int [M].
    """
    each = np.bincount(patients, losses - best)[np.unique(patients)]
    if len(each) < FEWEST_PATIENTS or each.mean() <= 0:
        return False
    return bool(each.mean() > 2 * each.std(ddof=1) / np.sqrt(len(each)))


def _drawn(name: str, head: Any, recipes: Sequence[str | None], seed: int) -> Iterator[Candidate]:
    grid = grid_of(head)
    if not grid:
        return
    space = {"recipe": list(recipes), **grid}
    default = {key: head.get_params()[key] for key in grid}
    listed = ParameterGrid(space)
    # not by ParameterSampler: without replacement it gives a large part of a grid in the grid's own order
    for place in np.random.default_rng(seed).permutation(len(listed)):
        drawn = listed[int(place)]
        settings = {key: value for key, value in drawn.items() if key != "recipe"}
        if settings != default:
            yield Candidate(name, drawn["recipe"], settings)
