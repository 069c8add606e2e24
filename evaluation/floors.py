"""What a score must be read against: predictors that have seen no picture, or learnt nothing from one.

- ``most_frequent``: the most frequent class of all clips that take part (regression: their mean). One constant for all folds:
  the most frequent class of a stratified training side is often not that of its test side, and a guess that changes from fold
  to fold then scores below any constant one.
- ``metadata``: a random forest on the container and the frame rate of the file, no pixels. On public ultrasound these alone
  give much of the label away, because each class came from its own sources.
- ``random_init``: the same head on the features of the same network with random weights.
- ``site_left_out``: not a floor but a ceiling to believe in: the same head, tested on sites it never met, pooled.

All but the last are run on the same folds as what they stand beside, and all on the same patients.
"""

from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.dummy import DummyClassifier, DummyRegressor
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor

from .scores import Task

TITLES = {
    "most_frequent": "most frequent class, or mean",
    "metadata": "file metadata only (container, frame rate)",
    "random_init": "random-initialised network",
    "site_left_out": "whole sites left out",
}


class MostFrequent(BaseEstimator):
    """The most frequent class with probability 1, or the mean.

    Args:
        task: What kind of label it is.
        of: The labels whose most frequent one is said, whatever it is fitted on, [M]; None: those of the training rows.
    """

    def __init__(self, task: Task = "classification", of: np.ndarray | None = None) -> None:
        self.task = task
        self.of = of

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "MostFrequent":
        """Fit; X [N, F] is looked at for its length only, y [N]."""
        self.model_: Any = DummyRegressor() if self.task == "regression" else DummyClassifier(strategy="most_frequent")
        labels = y if self.of is None else self.of
        self.model_.fit(np.zeros((len(labels), 1)), labels)
        self.classes_ = getattr(self.model_, "classes_", None)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """[N]."""
        return self.model_.predict(X)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """[N, classes]."""
        return self.model_.predict_proba(X)


class MetadataForest(BaseEstimator):
    """A random forest of scikit-learn's default size on :func:`metadata_features`; classes weighted alike."""

    def __init__(self, task: Task = "classification", seed: int = 0) -> None:
        self.task = task
        self.seed = seed

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> "MetadataForest":
        """Fit on X [N, F], y [N]."""
        self.model_: Any = (
            RandomForestRegressor(random_state=self.seed)
            if self.task == "regression"
            else RandomForestClassifier(class_weight="balanced", random_state=self.seed)
        )
        self.model_.fit(X, y)
        self.classes_ = getattr(self.model_, "classes_", None)
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """[N]."""
        return self.model_.predict(X)

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """[N, classes]."""
        return self.model_.predict_proba(X)


def metadata_features(table: pd.DataFrame) -> np.ndarray:
    """One column a container (0 or 1), the frame rate in Hz (−1 where unknown): float64 [N, containers + 1].

    Nothing is fitted here: the list of containers is all that is taken from rows outside a fold, and one that the training
    rows lack is a column of zeros to them.
    """
    containers = table["container"].astype("string").fillna("").to_numpy(dtype=str)
    one_hot = containers[:, None] == np.unique(containers)[None, :]  # [N, containers]
    rate = pd.to_numeric(table["frame_rate"], errors="coerce").fillna(-1.0).to_numpy(dtype=np.float64)
    return np.concatenate([one_hot.astype(np.float64), rate[:, None]], axis=1)
