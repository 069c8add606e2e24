"""The boosted head: gradient-boosted trees (Chen and Guestrin 2016), set for tens to hundreds of clips.

Shallow trees, a small step, half of the rows a tree, and of F features about 2√F a tree (a twentieth of them at least), so that
on thousands of embedding dimensions a round costs what it does on some hundred. Trees are blind to any rescaling of a feature:
standardising changes nothing.
"""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.class_weight import compute_sample_weight
from xgboost import XGBClassifier, XGBRegressor

from ...atomic import write_json


class BoostedHead(BaseEstimator):
    """XGBoost on the raw features, classes weighted alike; see :mod:`sonokit.experts.heads` for the interface."""

    name = "xgboost"

    def __init__(
        self,
        task: Literal["classification", "regression"] = "classification",
        rounds: int = 100,
        depth: int = 3,
        learning_rate: float = 0.1,
        seed: int = 0,
        n_jobs: int = 1,
    ) -> None:
        self.task = task
        self.rounds = rounds
        self.depth = depth
        self.learning_rate = learning_rate
        self.seed = seed
        self.n_jobs = n_jobs

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "BoostedHead":
        """Fit on X [N, F], y [N]; ``groups`` are not looked at."""
        self.model_ = self._model(X.shape[1])
        if self.task == "regression":
            self.model_.fit(X, y)
            return self
        self.classes_, codes = np.unique(y, return_inverse=True)  # XGBoost wants 0..k-1 without a gap
        self.model_.fit(X, codes, sample_weight=compute_sample_weight("balanced", codes))
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Class codes or values, [N]."""
        if self.task == "regression":
            return self.model_.predict(X)
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """[N, len(classes_)]."""
        return self.model_.predict_proba(X)

    def save(self, folder: Path) -> None:
        """Write ``head.json`` and ``xgboost.ubj`` (XGBoost's own format, which its makers keep readable)."""
        folder.mkdir(parents=True, exist_ok=True)
        self.model_.save_model(folder / "xgboost.ubj")
        classes = self.classes_.tolist() if self.task == "classification" else None
        write_json(folder / "head.json", {"head": self.name, "settings": self.get_params(), "classes": classes})

    @classmethod
    def load(cls, folder: Path) -> "BoostedHead":
        """Read what :meth:`save` wrote."""
        plain = json.loads((folder / "head.json").read_text(encoding="utf-8"))
        head = cls(**plain["settings"])
        head.model_ = XGBRegressor() if head.task == "regression" else XGBClassifier()
        head.model_.load_model(folder / "xgboost.ubj")
        if head.task == "classification":
            head.classes_ = np.asarray(plain["classes"], dtype=np.int64)
        return head

    def _model(self, features: int) -> Any:
        kind = XGBRegressor if self.task == "regression" else XGBClassifier
        return kind(
            n_estimators=self.rounds,
            max_depth=self.depth,
            learning_rate=self.learning_rate,
            subsample=0.5,
            # by tree, so that what is not drawn is not even binned into histograms
            colsample_bytree=min(1.0, max(0.05, 2 * features**-0.5)),
            tree_method="hist",
            random_state=self.seed,
            n_jobs=self.n_jobs,
        )
