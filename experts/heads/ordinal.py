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
from .targets import class_targets


class OrdinalHead(BaseEstimator):
    """Any classifying head, once a threshold; see :mod:`sonokit.experts.heads.by_name` for the interface."""

    name = "ordinal"

    def __init__(self, base: Any) -> None:
        self.base = base

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "OrdinalHead":
        """Fit on X [N, F], y level codes [N] or soft targets [N, K]; levels that do not occur are not among ``classes_``."""
        answers = self._answers(y)
        self.models_ = [clone(self.base).fit(X, answer, groups=groups) for answer in answers]
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """The most probable level, [N]."""
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """[N, len(classes_)]."""
        return _levels(np.stack([model.predict_proba(X)[:, 1] for model in self.models_], axis=-1))

    def stages(self) -> tuple[dict[str, Any], ...]:
        """Those of the head inside, the same for every threshold; none where it has none."""
        inside = self.base.stages() if hasattr(self.base, "stages") else ()
        return tuple({f"base__{name}": value for name, value in stage.items()} for stage in inside)

    def fit_staged(self, X: np.ndarray, y: np.ndarray, tested: np.ndarray) -> np.ndarray:
        """As that of the head inside: what each stage says of ``tested`` [M, F], [S, M, classes]."""
        answers = self._answers(y)
        self.models_ = [clone(self.base) for _ in answers]
        above = [model.fit_staged(X, answer, tested)[..., 1] for model, answer in zip(self.models_, answers, strict=True)]
        return _levels(np.stack(above, axis=-1))

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

    def _answers(self, y: np.ndarray) -> list[np.ndarray]:
        """A threshold's codes [N], or soft targets [N, 2]."""
        y = np.asarray(y)
        if y.ndim == 1:
            self.classes_ = np.unique(y)
            return [(y > level).astype(np.int64) for level in self.classes_[:-1]]
        targets = class_targets(y)
        self.classes_ = targets.classes
        above = np.cumsum(targets.shares[:, ::-1], axis=1)[:, ::-1].clip(0, 1)  # [N, K]: of this level or above
        return [np.stack([1 - above[:, k], above[:, k]], axis=1) for k in range(1, above.shape[1])]


def _levels(above: np.ndarray) -> np.ndarray:
    """Probabilities [..., K] of the levels, of being above each but the last [..., K-1]."""
    above = np.minimum.accumulate(above.astype(np.float64), axis=-1)
    ones, zeros = np.ones((*above.shape[:-1], 1)), np.zeros((*above.shape[:-1], 1))
    return -np.diff(np.concatenate([ones, above, zeros], axis=-1), axis=-1)
