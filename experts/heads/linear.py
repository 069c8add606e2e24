"""The linear head: standardise, then logistic or ridge regression, at one setting that nobody tuned.

Classes: L2-penalised logistic regression, C = 1, classes weighted alike. Regression: ridge whose penalty is a tenth of the
number of features, which on standardised features is kernel ridge on their mean product with λ = 0.1, however many they are.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from ...atomic import write_json
from ...errors import SonokitError

TRUSTED = (
    "numpy.float64",
    "numpy.ndarray",
    "sklearn.linear_model._logistic.LogisticRegression",
    "sklearn.linear_model._ridge.Ridge",
    "sklearn.pipeline.Pipeline",
    "sklearn.preprocessing._data.StandardScaler",
)
"""All that a linear head's file may hold besides plain values."""


class LinearHead(BaseEstimator):
    """Logistic or ridge regression on standardised features; see :mod:`sonokit.experts.heads` for the interface."""

    name = "linear"

    def __init__(self, task: Literal["classification", "regression"] = "classification", C: float = 1.0, seed: int = 0) -> None:
        self.task = task
        self.C = C
        self.seed = seed

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "LinearHead":
        """Fit on X [N, F], y [N]; ``groups`` are not looked at."""
        model: Any
        if self.task == "regression":
            model = Ridge(alpha=0.1 * X.shape[1])
        else:
            model = LogisticRegression(C=self.C, class_weight="balanced", max_iter=1000)
        self.pipeline_ = Pipeline([("scale", StandardScaler()), ("model", model)])
        self.pipeline_.fit(np.asarray(X, dtype=np.float64), y)
        if self.task == "classification":
            self.classes_ = self.pipeline_.classes_
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
        with _skops() as skops:
            skops.dump(self.pipeline_, folder / "linear.skops")
        write_json(folder / "head.json", {"head": self.name, "settings": self.get_params()})

    @classmethod
    def load(cls, folder: Path) -> "LinearHead":
        """Read what :meth:`save` wrote.

        Raises:
            SonokitError: The file holds a type that is not among ``TRUSTED``.
        """
        head = cls(**json.loads((folder / "head.json").read_text(encoding="utf-8"))["settings"])
        file = folder / "linear.skops"
        with _skops() as skops:
            # skops itself trusts far more than a linear head needs, so its list is looked at by our own.
            strange = sorted(set(_types_in(file)) - set(TRUSTED)) or skops.get_untrusted_types(file=file)
            if strange:
                raise SonokitError(f"{file} holds types that no linear head has ({', '.join(strange)}): it is not loaded")
            head.pipeline_ = skops.load(file, trusted=[])
        if head.task == "classification":
            head.classes_ = head.pipeline_.classes_
        return head


def _types_in(file: Path) -> list[str]:
    """Every type that a skops file would construct, read from its schema without constructing any."""
    import zipfile

    try:
        with zipfile.ZipFile(file) as archive:
            schema = json.loads(archive.read("schema.json"))
    except (OSError, KeyError, zipfile.BadZipFile, json.JSONDecodeError) as fault:
        raise SonokitError(f"{file} is missing or not a skops file: fit the expert again") from fault
    return [name for name in _walk(schema) if not name.startswith("builtins.")]


def _walk(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "__class__" in node and "__module__" in node:
            yield f"{node['__module__']}.{node['__class__']}"
        for child in node.values():
            yield from _walk(child)
    elif isinstance(node, list):
        for child in node:
            yield from _walk(child)


@contextmanager
def _skops() -> Iterator[ModuleType]:
    """``skops.io``, imported without torch.

    To list scikit-learn's estimators skops imports every module of it, one of which would pull torch in (several seconds,
    and torch need not be there for a linear head); that module alone is skipped while torch looks absent.
    """
    hide = "torch" not in sys.modules and "skops.io" not in sys.modules
    if hide:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import skops.io

        yield skops.io
    finally:
        if hide:
            del sys.modules["torch"]
