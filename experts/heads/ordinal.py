"""Ordered classes by Frank and Hall (2001): one binary model a threshold, "is the level above k?".

The K − 1 answers are made to fall with k before they are subtracted, because models that were fitted apart may contradict each
other; so the K probabilities are never negative and sum to one.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone

from ...atomic import write_json


class OrdinalHead(BaseEstimator):
    """Any classifying head, once a threshold; see :mod:`sonokit.experts.heads` for the interface."""

    name = "ordinal"

    def __init__(self, base: Any) -> None:
        self.base = base

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "OrdinalHead":
        """Fit on X [N, F], y level codes [N]; levels that do not occur are not among ``classes_``."""
        self.classes_ = np.unique(y)
        above = [(y > level).astype(np.int64) for level in self.classes_[:-1]]
        self.models_ = [clone(self.base).fit(X, answer, groups=groups) for answer in above]
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """The most probable level, [N]."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """[N, len(classes_)]."""
        above = np.stack([model.predict_proba(X)[:, 1] for model in self.models_], axis=1)  # [N, K-1]
        above = np.minimum.accumulate(above.astype(np.float64), axis=1)
        edges = np.ones((len(above), 1)), np.zeros((len(above), 1))
        return -np.diff(np.concatenate([edges[0], above, edges[1]], axis=1), axis=1)  # [N, K]

    def save(self, folder: Path) -> None:
        """Write ``head.json`` and a folder a threshold."""
        folder.mkdir(parents=True, exist_ok=True)
        for k, model in enumerate(self.models_):
            model.save(folder / f"above-{k}")
        write_json(folder / "head.json", {"head": self.name, "classes": self.classes_.tolist()})

    @classmethod
    def load(cls, folder: Path, load_head: Callable[[Path], Any]) -> "OrdinalHead":
        """Read what :meth:`save` wrote; ``load_head`` reads the heads inside."""
        classes = json.loads((folder / "head.json").read_text(encoding="utf-8"))["classes"]
        models = [load_head(folder / f"above-{k}") for k in range(len(classes) - 1)]
        head = cls(models[0])
        head.models_, head.classes_ = models, np.asarray(classes, dtype=np.int64)
        return head
