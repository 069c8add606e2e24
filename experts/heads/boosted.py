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
from xgboost import XGBClassifier, XGBRegressor

from ...atomic import write_json
from .targets import class_targets

ROUNDS = (10, 20, 30, 50, 75, 100, 150, 200, 300)
"""After how many rounds a search looks at the inner folds."""

FEW_ROWS = 256
"""Up to which every value of a feature is tried as it stands, without making histograms of what they have no use for."""

MANY_VALUES = 20_000_000
"""Rows × features from which several threads are taken. They halve the wait on two idle cores, but on busy ones they wait for
each other: 80 000 × 128 took six times the processor time of one thread, and four times as long."""


class BoostedHead(BaseEstimator):
    """XGBoost on the raw features, classes weighted alike; see :mod:`sonokit.experts.heads.by_name` for the interface.

    Args:
        task: Of class codes or numbers.
        rounds: Trees a class.
        depth: Of a tree.
        learning_rate: Of a round.
        min_child_weight: Least weight (of rows that are not sure yet) in a leaf.
        subsample: Share of the rows a tree.
        colsample_bytree: Share of the features a tree; None: as the top of this file says.
        seed: Of the rows and features that are drawn.
        n_jobs: Threads; None: one, on many values all there are. The numbers are the same.
    """

    name = "xgboost"

    def __init__(
        self,
        task: Literal["classification", "regression"] = "classification",
        rounds: int = 100,
        depth: int = 3,
        learning_rate: float = 0.1,
        min_child_weight: float = 1.0,
        subsample: float = 0.5,
        colsample_bytree: float | None = None,
        seed: int = 0,
        n_jobs: int | None = None,
    ) -> None:
        self.task = task
        self.rounds = rounds
        self.depth = depth
        self.learning_rate = learning_rate
        self.min_child_weight = min_child_weight
        self.subsample = subsample
        self.colsample_bytree = colsample_bytree
        self.seed = seed
        self.n_jobs = n_jobs

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "BoostedHead":
        """Fit on X [N, F], y [N] or soft targets [N, K]; ``groups`` are not looked at."""
        self.model_ = self._model(*X.shape)
        if self.task == "regression":
            self.model_.fit(X, y)
            return self
        targets = class_targets(y)
        rows, kinds, shares = targets.expanded()
        self.classes_ = targets.classes
        self.model_.fit(X[rows], kinds, sample_weight=shares * targets.weights[kinds])
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Class codes or values, [N]."""
        if self.task == "regression":
            return self.model_.predict(X)
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """[N, len(classes_)]."""
        return self.model_.predict_proba(X)

    def stages(self) -> tuple[dict[str, Any], ...]:
        """Settings of the same head after fewer or more rounds, in their order."""
        return tuple({"rounds": rounds} for rounds in ROUNDS)

    def fit_staged(self, X: np.ndarray, y: np.ndarray, tested: np.ndarray) -> np.ndarray:
        """Fit on X, y as far as the last stage; what each stage says of ``tested`` [M, F], [S, M, classes] or [S, M]."""
        self.set_params(**self.stages()[-1]).fit(X, y)
        predict = self.model_.predict if self.task == "regression" else self.model_.predict_proba
        return np.stack([predict(tested, iteration_range=(0, stage["rounds"])) for stage in self.stages()])

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

    def _model(self, rows: int, features: int) -> Any:
        kind = XGBRegressor if self.task == "regression" else XGBClassifier
        # by tree, so that what is not drawn is not even binned into histograms
        share = min(1.0, max(0.05, 2 * features**-0.5)) if self.colsample_bytree is None else self.colsample_bytree
        return kind(
            n_estimators=self.rounds,
            max_depth=self.depth,
            learning_rate=self.learning_rate,
            min_child_weight=self.min_child_weight,
            subsample=self.subsample,
            colsample_bytree=share,
            tree_method="exact" if rows <= FEW_ROWS else "hist",
            random_state=self.seed,
            n_jobs=1 if self.n_jobs is None and rows * features < MANY_VALUES else self.n_jobs,
        )
