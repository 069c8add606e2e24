"""The user's own scikit-learn estimator as a head.

It is taken as it stands: who wants the features standardised gives a ``Pipeline``, who wants the classes to weigh alike gives
``class_weight="balanced"``. On the command line it is named: ``sklearn.ensemble:RandomForestClassifier`` or, with settings that
are plain Python values, ``sklearn.ensemble:RandomForestClassifier(n_estimators=300)``.
"""

import ast
import importlib
import inspect
import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, clone
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import has_fit_parameter

from ...atomic import write_json
from ...errors import SonokitError
from .targets import class_targets
from .trusted_files import dump, load_estimator


class OwnHead(BaseEstimator):
    """Any scikit-learn classifier or regressor; see :mod:`sonokit.experts.heads.by_name` for the interface.

    Args:
        estimator: Not fitted; it is cloned. Where its ``random_state`` is None, it is set from ``seed``.
        task: Of class codes or numbers.
        name: What reports call it; None: its class.
        seed: Of what it draws.
    """

    def __init__(
        self,
        estimator: Any,
        task: Literal["classification", "regression"] = "classification",
        name: str | None = None,
        seed: int = 0,
    ) -> None:
        self.estimator = estimator
        self.task = task
        self.name = name or type(estimator).__name__
        self.seed = seed

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "OwnHead":
        """Fit on X [N, F], y [N] or soft targets [N, K]; ``groups`` go to an estimator that takes them (a grouped search).

        Raises:
            SonokitError: It cannot do what the task asks, or soft targets are given and it takes no weights, or it refuses
                its settings or the data.
        """
        self.require_fit_for_task()
        with self._told():
            return self._fitted(X, y, groups)

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Class codes or values, [N]."""
        if self.task == "regression":
            with self._told():
                return np.asarray(self.model_.predict(X), dtype=np.float64).reshape(len(X))
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """[N, len(classes_)]."""
        with self._told():
            return np.asarray(self.model_.predict_proba(X), dtype=np.float64)

    def require_fit_for_task(self) -> None:
        """Refuse what cannot do the task, before anything is fitted.

        Raises:
            SonokitError: It says what is missing and what to do.
        """
        if not hasattr(self.estimator, "get_params") or not hasattr(self.estimator, "fit"):
            raise SonokitError(f"{self.name} is no scikit-learn estimator (fit, predict, get_params): give one")
        classifies = hasattr(self.estimator, "predict_proba")
        if self.task == "classification" and not classifies:
            raise SonokitError(
                f"{self.name} gives no probabilities (predict_proba), which the label needs: take a classifier that does, or "
                "wrap this one in sklearn.calibration.CalibratedClassifierCV"
            )
        if self.task == "regression" and (classifies or not hasattr(self.estimator, "predict")):
            raise SonokitError(f"{self.name} predicts no number, and the label is one: take a regressor")

    def save(self, folder: Path) -> None:
        """Write ``head.json`` and ``own.skops``."""
        folder.mkdir(parents=True, exist_ok=True)
        dump(self.model_, folder / "own.skops")
        classes = self.classes_.tolist() if self.task == "classification" else None
        plain = {"head": "own", "name": self.name, "task": self.task, "seed": self.seed, "classes": classes}
        write_json(folder / "head.json", plain)

    @classmethod
    def load(cls, folder: Path, trusted: Collection[str] = ()) -> "OwnHead":
        """Read what :meth:`save` wrote.

        Raises:
            SonokitError: The file holds a type that neither skops trusts nor ``trusted`` names.
        """
        plain = json.loads((folder / "head.json").read_text(encoding="utf-8"))
        model = load_estimator(folder / "own.skops", trusted)
        head = cls(model, plain["task"], plain["name"], plain["seed"])
        head.model_ = model
        if head.task == "classification":
            head.classes_ = np.asarray(plain["classes"], dtype=np.int64)
        return head

    def _fitted(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None) -> "OwnHead":
        self.model_ = _seeded(clone(self.estimator), self.seed)
        wanted = {"groups": groups} if groups is not None and _takes_groups(self.model_) else {}
        if self.task == "regression":
            self.model_.fit(X, y, **wanted)
            return self
        targets = class_targets(y)
        self.classes_ = targets.classes
        rows, kinds, shares = targets.expanded()
        if np.ndim(y) == 2:
            wanted = {name: np.asarray(groups)[rows] for name in wanted} | {self._weight_name(): shares}
        self.model_.fit(X[rows], kinds, **wanted)
        return self

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What the estimator says of its settings or of the data, as a fault that its owner can mend."""
        try:
            yield
        except (ValueError, TypeError) as fault:
            raise SonokitError(f"--head {self.name}: {' '.join(str(fault).split())}") from fault

    def _weight_name(self) -> str:
        """What ``fit`` calls the weights of the rows."""
        model, prefix = self.model_, ""
        while isinstance(model, Pipeline):
            prefix, model = f"{prefix}{model.steps[-1][0]}__", model.steps[-1][1]
        if not has_fit_parameter(model, "sample_weight"):
            raise SonokitError(f"{self.name} takes no sample_weight, so it cannot learn from soft targets: take another head")
        return f"{prefix}sample_weight"


def estimator_from_name(text: str) -> Any:
    """The estimator that a text names: ``package.module:Class`` or ``package.module:Class(setting=value)``.

    Raises:
        SonokitError: There is none of that name, or a setting is no plain value.
    """
    place, _, call = text.partition(":")
    try:
        tree = ast.parse(call.strip(), mode="eval").body
        found = tree.func if isinstance(tree, ast.Call) else tree
        if not isinstance(found, ast.Name) or (isinstance(tree, ast.Call) and tree.args):
            raise ValueError("write Class or Class(setting=value)")
        given = tree.keywords if isinstance(tree, ast.Call) else []
        settings = {str(one.arg): ast.literal_eval(one.value) for one in given}
        return getattr(importlib.import_module(place), found.id)(**settings)
    except (ImportError, AttributeError, SyntaxError, ValueError, TypeError) as fault:
        raise SonokitError(
            f"--head {text}: {fault}; write package.module:Class or package.module:Class(setting=value), a scikit-learn "
            "estimator that Python can import here"
        ) from fault


def _seeded(model: Any, seed: int) -> Any:
    names = [name for name, value in model.get_params().items() if name.split("__")[-1] == "random_state" and value is None]
    return model.set_params(**dict.fromkeys(names, seed)) if names else model


def _takes_groups(model: Any) -> bool:
    """Whether ``fit`` has a place for groups: by name, or as scikit-learn's searches hand them to their splitter."""
    return isinstance(model, (GridSearchCV, RandomizedSearchCV)) or "groups" in inspect.signature(model.fit).parameters
