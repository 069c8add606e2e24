"""What each feature adds to a head's answer for each clip: exact sums of the margin, not a fit to it.

Boosted trees: SHAP values by TreeSHAP (Lundberg et al. 2020, path-dependent), as XGBoost computes them itself. Linear heads:
coefficient times standardised value, which is the SHAP value of a linear model whose features vary apart, against the mean
training clip. Other heads have no such exact sum and are not explained.
"""

from typing import Any

import numpy as np
from xgboost import DMatrix

from .boosted import BoostedHead
from .linear import LinearHead
from .ordinal import OrdinalHead

_ROWS_AT_ONCE = 8192


def contributions(head: Any, X: np.ndarray) -> np.ndarray | None:
    """Contributions of features to the margins of N clips.

    Args:
        head: Fitted; of a chosen head the kept one is explained, and features that it does not read contribute 0.
        X: float [N, F].

    Returns:
        float64 [N, K, F + 1], the constant last; the last axis sums to the margin. K is the number of classes that the head
        knows (each class's score before the softmax), 1 for two classes (log-odds of the second), 1 for a number (its
        units), and for ordered classes the number of thresholds (log-odds of being above each, as that threshold's own model
        gives it, before the thresholds' probabilities are put in order). None for a head without.
    """
    if isinstance(head, OrdinalHead):
        return _of_thresholds(head, X)
    if hasattr(head, "chosen_"):
        return _of_chosen(head, X)
    if isinstance(head, BoostedHead):
        return _of_trees(head, X)
    if isinstance(head, LinearHead):
        return _of_line(head, X)
    return None


def _of_chosen(head: Any, X: np.ndarray) -> np.ndarray | None:
    columns = getattr(head, "columns_", None)
    if columns is None:
        return contributions(head.head_, X)
    inner = contributions(head.head_, X[:, columns])
    if inner is None:
        return None
    whole = np.zeros((*inner.shape[:2], X.shape[1] + 1))
    whole[:, :, [*columns, X.shape[1]]] = inner
    return whole


def _of_thresholds(head: OrdinalHead, X: np.ndarray) -> np.ndarray | None:
    parts = []
    for model in head.models_:
        part = contributions(model, X)
        if part is None or part.shape[1] != 1:
            return None
        parts.append(part)
    return np.concatenate(parts, axis=1) if parts else None


def _of_trees(head: BoostedHead, X: np.ndarray) -> np.ndarray:
    booster = head.model_.get_booster()
    last = booster.attr("best_iteration")  # of early stopping: the trees after it are not used in predictions either
    rounds = (0, 0 if last is None else int(last) + 1)
    blocks = []
    for start in range(0, max(1, len(X)), _ROWS_AT_ONCE):
        found = booster.predict(DMatrix(X[start : start + _ROWS_AT_ONCE]), pred_contribs=True, iteration_range=rounds)
        blocks.append(found[:, None, :] if found.ndim == 2 else found)  # [n, F + 1] for one margin, else [n, K, F + 1]
    return np.concatenate(blocks).astype(np.float64)


def _of_line(head: LinearHead, X: np.ndarray) -> np.ndarray:
    scaled = head.pipeline_[:-1].transform(np.asarray(X, dtype=np.float64))  # [N, F]
    model = head.pipeline_[-1]
    slopes = np.atleast_2d(model.coef_)  # [K, F]
    constants = np.broadcast_to(np.atleast_1d(model.intercept_), len(slopes))
    each = scaled[:, None, :] * slopes  # [N, K, F]
    return np.concatenate([each, np.broadcast_to(constants[None, :, None], (*each.shape[:2], 1))], axis=2)
