"""Scores of predictions, each computed for many weightings of the same clips at once.

A patient bootstrap asks for one score under thousands of resamples. Resampling a patient twice is the same as giving that
patient's clips weight 2, so every score here is written for a matrix of weights; the plain score is the case of all ones. Whole
weights give exactly what scikit-learn or SciPy give on the repeated clips (the tests hold them to it).
"""

from typing import Literal

import numpy as np

from .patient_weights import PatientWeights, Weights, dense, sum_into

Task = Literal["classification", "ordinal", "regression"]

PRIMARY: dict[Task, str] = {"classification": "balanced_accuracy", "ordinal": "quadratic_kappa", "regression": "mae"}
"""The score that a choice is made by and that a report shows first."""

LOWER_IS_BETTER = frozenset({"mae", "rmse"})

_MOST_STEPS = 4096  # of a ranking under several weightings at once


def score(task: Task, y_true: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    """Every score of a task.

    Classification: accuracy, balanced_accuracy, auroc. Ordinal: these and quadratic_kappa, mae (in levels). Regression: mae,
    rmse, r2, spearman. A score that is not defined (AUROC with one class, r2 of a constant truth) is nan.

    Args:
        task: What kind of label it is.
        y_true: Class codes 0..K-1, int [N]; regression: float [N].
        prediction: Class probabilities, float [N, K], or of class 1 alone, float [N]; regression: float [N].

    Returns:
        Name of the score -> its value.
    """
    weights = np.ones((1, len(y_true)))
    return {name: float(values[0]) for name, values in weighted_scores(task, y_true, prediction, weights).items()}


def weighted_scores(task: Task, y_true: np.ndarray, prediction: np.ndarray, weights: Weights) -> dict[str, np.ndarray]:
    """The scores of :func:`score` under each of B weightings of the clips.

    Args:
        task: What kind of label it is.
        y_true: As in :func:`score`, [N].
        prediction: As in :func:`score`, [N, K] or [N].
        weights: How often each clip counts, [B, N], not negative.

    Returns:
        Name of the score -> float [B].
    """
    y_true, prediction = np.asarray(y_true), np.asarray(prediction, dtype=np.float64)
    if not isinstance(weights, PatientWeights):
        weights = np.asarray(weights, dtype=np.float64)
    if len(y_true) != len(prediction) or weights.shape[1] != len(y_true):
        raise ValueError(f"{len(y_true)} truths, {len(prediction)} predictions, weights for {weights.shape[1]} clips")
    if task == "regression":
        return _regression_scores(y_true.astype(np.float64), prediction, dense(weights))
    probabilities = np.stack([1 - prediction, prediction], axis=1) if prediction.ndim == 1 else prediction  # [N, K]
    return _class_scores(task, y_true.astype(np.int64), probabilities, weights)


def weighted_primary(task: Task, y_true: np.ndarray, prediction: np.ndarray, weights: Weights) -> np.ndarray:
    """The task's primary score alone, [B], which needs no ranking and is cheaper; arguments as in :func:`weighted_scores`."""
    if task == "regression":
        return _divide(weights @ np.abs(prediction - y_true), weights.sum(axis=1))
    confusion = weighted_confusion(y_true, prediction.argmax(axis=1), prediction.shape[1], weights)
    if task == "classification":
        return _mean_recall(confusion)
    levels = np.arange(prediction.shape[1])
    return _quadratic_kappa(confusion, (levels[:, None] - levels[None, :]) ** 2)


def cells_a_draw(task: Task, clips: int) -> int:
    """How many numbers :func:`weighted_scores` holds at once for one weighting of so many clips."""
    return clips if task == "regression" else min(clips, _MOST_STEPS)


def weighted_confusion(y_true: np.ndarray, predicted: np.ndarray, class_count: int, weights: Weights) -> np.ndarray:
    """Confusion matrices [B, K, K]: truth in rows, prediction in columns. Codes int [N], weights [B, N]."""
    cells = np.zeros((len(y_true), class_count**2))  # [N, K²]
    cells[np.arange(len(y_true)), y_true * class_count + predicted] = 1
    return (weights @ cells).reshape(-1, class_count, class_count)


def weighted_auroc(positive: np.ndarray, ranking: np.ndarray, weights: Weights) -> np.ndarray:
    """Area under the ROC curve, ties counted half; nan where only one class has weight.

    Under several resamples at once, more than 4,096 different rankings are put into as many steps of about equally many clips,
    whose clips count as ties; that moves an area by less than 0.0002.

    Args:
        positive: bool [N].
        ranking: Higher means more likely positive, float [N].
        weights: [B, N].
    """
    ranks = np.unique(ranking, return_inverse=True)[1].reshape(-1)
    count = int(ranks.max()) + 1
    if count > _MOST_STEPS and weights.shape[0] > 1:
        below = np.concatenate([[0], np.cumsum(np.bincount(ranks))[:-1]])  # clips ranked lower, by rank
        ranks, count = (below * _MOST_STEPS // len(ranks))[ranks], _MOST_STEPS
    hits = sum_into(weights, ranks, count, positive.astype(np.float64))  # [B, distinct rankings]
    misses = sum_into(weights, ranks, count, (~positive).astype(np.float64))
    won = (hits * (np.cumsum(misses, axis=1) - misses / 2)).sum(axis=1)  # [B]
    return _divide(won, hits.sum(axis=1) * misses.sum(axis=1))


def _class_scores(task: Task, y_true: np.ndarray, probabilities: np.ndarray, weights: Weights) -> dict[str, np.ndarray]:
    class_count = probabilities.shape[1]
    confusion = weighted_confusion(y_true, probabilities.argmax(axis=1), class_count, weights)  # [B, K, K]
    total, hits = confusion.sum(axis=(1, 2)), np.trace(confusion, axis1=1, axis2=2)
    scores = {"accuracy": _divide(hits, total), "balanced_accuracy": _mean_recall(confusion)}
    if task == "ordinal":
        levels = np.arange(class_count)
        distance = np.abs(levels[:, None] - levels[None, :])
        scores["quadratic_kappa"] = _quadratic_kappa(confusion, distance**2)
        scores["mae"] = _divide((confusion * distance).sum(axis=(1, 2)), total)
    scores["auroc"] = _macro_auroc(y_true, probabilities, weights)
    return scores


def _mean_recall(confusion: np.ndarray) -> np.ndarray:
    """Mean of the recalls of the classes that occur in the truth, as scikit-learn's balanced accuracy."""
    support = confusion.sum(axis=2)  # [B, K]
    recalls = _divide(np.diagonal(confusion, axis1=1, axis2=2), support)
    return _divide(np.nansum(recalls, axis=1), (support > 0).sum(axis=1))


def _quadratic_kappa(confusion: np.ndarray, cost: np.ndarray) -> np.ndarray:
    total = confusion.sum(axis=(1, 2))
    chance = confusion.sum(axis=2)[:, :, None] * confusion.sum(axis=1)[:, None, :]  # [B, K, K]
    expected = _divide((chance * cost).sum(axis=(1, 2)), total)
    return 1 - _divide((confusion * cost).sum(axis=(1, 2)), expected)


def _macro_auroc(y_true: np.ndarray, probabilities: np.ndarray, weights: Weights) -> np.ndarray:
    """AUROC of class 1 for two classes; else each class against the rest, averaged over the classes where it is defined."""
    class_count = probabilities.shape[1]
    if class_count == 2:
        return weighted_auroc(y_true == 1, probabilities[:, 1], weights)
    each = np.stack([weighted_auroc(y_true == k, probabilities[:, k], weights) for k in range(class_count)])  # [K, B]
    return _divide(np.nansum(each, axis=0), (~np.isnan(each)).sum(axis=0))


def _regression_scores(y_true: np.ndarray, prediction: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    total = weights.sum(axis=1)
    error = prediction - y_true
    squared = weights @ error**2  # [B]
    mean = _divide(weights @ y_true, total)
    spread = (weights * (y_true[None, :] - mean[:, None]) ** 2).sum(axis=1)
    return {
        "mae": _divide(weights @ np.abs(error), total),
        "rmse": np.sqrt(_divide(squared, total)),
        "r2": 1 - _divide(squared, spread),
        "spearman": _weighted_pearson(_weighted_ranks(y_true, weights), _weighted_ranks(prediction, weights), weights),
    }


def _weighted_ranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Middle ranks [B, N] that the values would have if each were there as often as its weight says."""
    order = np.argsort(values, kind="stable")
    starts = _tie_starts(values[order])
    tied = np.add.reduceat(weights[:, order], starts, axis=1)  # [B, distinct values]
    middle = np.cumsum(tied, axis=1) - tied / 2
    group = np.zeros(len(values), dtype=np.int64)
    group[starts[1:]] = 1
    ranks = np.empty_like(weights)
    ranks[:, order] = middle[:, np.cumsum(group)]
    return ranks


def _weighted_pearson(first: np.ndarray, second: np.ndarray, weights: np.ndarray) -> np.ndarray:
    total = weights.sum(axis=1, keepdims=True)
    first = first - (weights * first).sum(axis=1, keepdims=True) / total
    second = second - (weights * second).sum(axis=1, keepdims=True) / total
    covariance = (weights * first * second).sum(axis=1)
    return _divide(covariance, np.sqrt((weights * first**2).sum(axis=1) * (weights * second**2).sum(axis=1)))


def _tie_starts(ordered: np.ndarray) -> np.ndarray:
    return np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Quotient, nan where the denominator is 0."""
    result = np.full(np.shape(numerator), np.nan)
    np.divide(numerator, denominator, out=result, where=denominator > 0)
    return result
