"""The linear head: standardise, then logistic or ridge regression, at one setting that nobody tuned.

Classes: L2-penalised logistic regression, C = 1, classes weighted alike. Regression: ridge whose penalty is a tenth of the
number of features, which on standardised features is kernel ridge on their mean product with λ = 0.1, however many they are.
With more features than rows both are fitted in the space that the rows span (:mod:`~sonokit.experts.heads.span`), which gives
the same weights.
"""

import json
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from ...atomic import write_json
from .span import spanned
from .targets import class_targets
from .trusted_files import dump, load_only

TRUSTED = (
    "numpy.float64",
    "numpy.ndarray",
    "sklearn.linear_model._logistic.LogisticRegression",
    "sklearn.linear_model._ridge.Ridge",
    "sklearn.pipeline.Pipeline",
    "sklearn.preprocessing._data.StandardScaler",
)
"""All that a linear head's file may hold besides plain values."""

NEWTON_WORK = 2e8
"""Rows × features² × classes² of one Newton step up to which its few steps are quicker than the many of L-BFGS."""


class LinearHead(BaseEstimator):
    """Logistic or ridge regression on standardised features; see :mod:`sonokit.experts.heads.by_name` for the interface.

    Args:
        task: Of class codes or numbers.
        C: Of the logistic regression: the inverse of its penalty.
        penalty: Of ridge regression, a feature.
        seed: Nothing here is drawn.
    """

    name = "linear"

    def __init__(
        self,
        task: Literal["classification", "regression"] = "classification",
        C: float = 1.0,
        penalty: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.task = task
        self.C = C
        self.penalty = penalty
        self.seed = seed

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "LinearHead":
        """Fit on X [N, F], y [N] or soft targets [N, K]; ``groups`` are not looked at."""
        scaler = StandardScaler()
        scaled = scaler.fit_transform(np.asarray(X, dtype=np.float64))
        reduced = spanned(scaled)
        coordinates = scaled if reduced is None else reduced[0]  # [N, F or D]
        model = self._ridge(coordinates, y, scaled.shape[1]) if self.task == "regression" else self._logistic(coordinates, y)
        if reduced is not None:
            model.coef_ = model.coef_ @ reduced[1].T  # [K or 1, F]
            model.n_features_in_ = scaled.shape[1]
        self.pipeline_ = Pipeline([("scale", scaler), ("model", model)])
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Class codes or values, [N]."""
        return self.pipeline_.predict(np.asarray(X, dtype=np.float64))

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """[N, len(classes_)]."""
        return self.pipeline_.predict_proba(np.asarray(X, dtype=np.float64))

    def save(self, folder: Path) -> None:
        """Write ``head.json`` and ``linear.skops``."""
        folder.mkdir(parents=True, exist_ok=True)
        dump(self.pipeline_, folder / "linear.skops")
        write_json(folder / "head.json", {"head": self.name, "settings": self.get_params()})

    @classmethod
    def load(cls, folder: Path) -> "LinearHead":
        """Read what :meth:`save` wrote.

        Raises:
            SonokitError: The file holds a type that is not among ``TRUSTED``.
        """
        head = cls(**json.loads((folder / "head.json").read_text(encoding="utf-8"))["settings"])
        head.pipeline_ = load_only(folder / "linear.skops", TRUSTED, "linear head")
        if head.task == "classification":
            head.classes_ = head.pipeline_.classes_
        return head

    def _ridge(self, coordinates: np.ndarray, y: np.ndarray, features: int) -> Any:
        return Ridge(alpha=self.penalty * features).fit(coordinates, y)

    def _logistic(self, coordinates: np.ndarray, y: np.ndarray) -> Any:
        targets = class_targets(y)
        rows, kinds, shares = targets.expanded()
        few = len(kinds) * (coordinates.shape[1] * len(targets.classes)) ** 2 <= NEWTON_WORK
        # both tolerances are of the mean gradient, tight enough for the bottom to be reached to six digits
        solver, tolerance = ("newton-cholesky", 1e-9) if few else ("lbfgs", 1e-6)
        model = LogisticRegression(C=self.C, solver=solver, tol=tolerance, max_iter=1000)
        with warnings.catch_warnings():  # where rounding leaves Newton no step to take, L-BFGS goes on from there by itself
            warnings.filterwarnings("ignore", message="Line search of Newton solver", category=ConvergenceWarning)
            model.fit(coordinates[rows], targets.classes[kinds], sample_weight=shares * targets.weights[kinds])
        self.classes_ = model.classes_
        return model
