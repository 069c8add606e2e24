"""Frozen probe: how much of a label can be read from features that nobody fitted to it.

Two readers, both fitted on the training rows of a fold only and never tuned:

- ``LinearProbe``: standardise, then logistic regression (C = 1, classes weighted alike): the linear head of an expert, so that
  a probe's figure and an expert's mean the same;
- ``NearestNeighbours``: standardise, then a vote of the nearest training clips by cosine, weighted by exp(similarity / 0.07) as
  in instance discrimination (Wu et al. 2018) and DINO (Caron et al. 2021). They take 20 neighbours from a million pictures; the
  root of the number of training clips, 20 at most, keeps it a neighbourhood with a hundred clips.

:class:`QuickProbe` runs both on one patient-grouped division, cheaply enough to watch a pretraining run with.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.base import BaseEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tqdm import tqdm

from ..clips.splits import make_splits
from ..errors import SonokitError
from .out_of_fold import Estimator, FoldRows, fold_rows, out_of_fold, site_rows
from .predictions import Predictions
from .scores import score

Features = np.ndarray | Callable[[FoldRows], np.ndarray]
"""Features of all N clips, [N, F]; or, where each fold has a backbone of its own, what a fold may see of them."""


@dataclass(frozen=True)
class LabelledClips:
    """The N clips that are asked about.

    Attributes:
        clip_ids: str [N].
        patients: Whose each clip is, str [N].
        truth: Class codes, int64 [N].
        classes: Names of the K classes in the order of the codes.
        sites: str [N], empty where unknown.
    """

    clip_ids: np.ndarray
    patients: np.ndarray
    truth: np.ndarray
    classes: tuple[str, ...]
    sites: np.ndarray

    def __len__(self) -> int:
        return len(self.clip_ids)

    def predictions(self, values: np.ndarray) -> Predictions:
        """Of the clips that every repeat predicts; ``values`` [R, N, K] is nan elsewhere."""
        known = ~np.isnan(values).any(axis=(0, 2))
        everyone = Predictions("classification", self.classes, self.clip_ids, self.patients, self.truth, values)
        return everyone.select(known)


class _Standardised(BaseEstimator):
    """A reader of standardised features."""

    def fit(self, X: np.ndarray, y: np.ndarray, groups: np.ndarray | None = None) -> Any:
        """Fit on X [N, F], y [N]; ``groups`` are not looked at."""
        self.model_ = make_pipeline(StandardScaler(), self._reader(len(X))).fit(np.asarray(X, dtype=np.float64), y)
        self.classes_ = self.model_.classes_
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Class codes [N]."""
        return self.model_.predict(np.asarray(X, dtype=np.float64))

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """[N, len(classes_)]."""
        return self.model_.predict_proba(np.asarray(X, dtype=np.float64))

    def _reader(self, rows: int) -> BaseEstimator:
        """What reads the standardised features of ``rows`` training rows."""
        raise NotImplementedError


class LinearProbe(_Standardised):
    """Standardised features, L2-penalised logistic regression with classes weighted alike."""

    def _reader(self, rows: int) -> BaseEstimator:
        return LogisticRegression(C=1.0, class_weight="balanced", max_iter=1000)


class NearestNeighbours(_Standardised):
    """Cosine neighbours of standardised features, voting by similarity.

    Args:
        neighbours: None: the root of the number of training rows, 20 at most.
        temperature: Of the votes, exp(similarity / temperature).
    """

    def __init__(self, neighbours: int | None = None, temperature: float = 0.07) -> None:
        self.neighbours = neighbours
        self.temperature = temperature

    def _reader(self, rows: int) -> BaseEstimator:
        count = self.neighbours or min(20, int(rows**0.5))
        return KNeighborsClassifier(min(count, rows), metric="cosine", algorithm="brute", weights=self._votes)

    def _votes(self, distances: np.ndarray) -> np.ndarray:
        return np.exp((1 - distances) / self.temperature)


def linear_probe(
    clips: LabelledClips, features: Features, folds: Sequence[FoldRows], *, progress: str | None = None
) -> Predictions:
    """Out-of-fold predictions by a :class:`LinearProbe`; arguments as in :func:`probe`."""
    return probe(clips, features, folds, LinearProbe, progress=progress)


def knn_probe(
    clips: LabelledClips, features: Features, folds: Sequence[FoldRows], *, progress: str | None = None
) -> Predictions:
    """Out-of-fold predictions by :class:`NearestNeighbours`; arguments as in :func:`probe`."""
    return probe(clips, features, folds, NearestNeighbours, progress=progress)


def probe(
    clips: LabelledClips,
    features: Features,
    folds: Sequence[FoldRows],
    make: Callable[[], Estimator],
    *,
    progress: str | None = None,
) -> Predictions:
    """Out-of-fold predictions of every clip that a fold tests, for every repeat.

    Args:
        clips: Who is asked about.
        features: [N, F] in the clips' order, or one such matrix a fold.
        folds: From :func:`~sonokit.evaluation.out_of_fold.fold_rows`.
        make: A fresh reader of features.
        progress: What a progress bar on standard error calls this; None for no bar.

    Raises:
        SonokitError: A fold has nothing to train on, or there are not N rows of features.
    """
    shown: Iterable[FoldRows] = tqdm(folds, desc=progress, unit="fold", leave=False) if progress else folds
    values = out_of_fold(
        make,
        of_fold(features, len(clips)),
        clips.truth,
        clips.patients,
        folds,
        task="classification",
        class_count=len(clips.classes),
        shown=shown,
    )
    return clips.predictions(values)


def sites_left_out(
    clips: LabelledClips,
    features: Features,
    *,
    make: Callable[[], Estimator] = LinearProbe,
    usable: np.ndarray | None = None,
) -> Predictions | str:
    """Each site predicted from the others, pooled over the sites; or the reason why that cannot be done.

    Args:
        clips: Who is asked about.
        features: As for :func:`probe`. A callable is told the number of the site, in the sites' sorted order, as ``index``.
        make: A fresh reader of features.
        usable: False for clips that must take no part, bool [N].
    """
    usable = np.ones(len(clips), dtype=bool) if usable is None else usable
    known = set(clips.sites[usable]) - {""}
    if len(known) < 2:
        return "one site only" if known else "no site is known"
    folds = [fold for fold in site_rows(clips.sites, clips.patients, usable) if len(fold.train)]
    if not folds:
        return "every patient is at every site"
    return probe(clips, features, folds, make)


def of_fold(features: Features, count: int) -> Callable[[FoldRows], np.ndarray]:
    """``features`` as a function of the fold, made sure to give ``count`` rows."""

    def rows(fold: FoldRows) -> np.ndarray:
        found = features(fold) if callable(features) else features
        if len(found) != count:
            raise SonokitError(f"{len(found)} rows of features for {count} clips: give one a clip, in the clips' order")
        return found

    return rows


class QuickProbe:
    """Both readers on one patient-grouped division that is made once: what a pretraining run is watched with.

    Args:
        labels: Class names [N], empty or missing where unknown.
        patients: Whose each clip is, str [N].
        folds: Of the division.
        seed: Of the division.

    Attributes:
        clips: The clips that take part: those with a label whose class has as many patients as there are folds.
        left_out: Names of the other classes.

    Raises:
        SonokitError: Fewer than two classes of that many patients.
    """

    def __init__(self, labels: Any, patients: np.ndarray, *, folds: int = 5, seed: int = 0) -> None:
        names = pd.Series(np.asarray(labels, dtype=object)).astype("string")
        names = names.mask(names == "")
        people = pd.Series(np.asarray(patients).astype(str))
        counts = people.groupby(names).nunique()
        usable = sorted(counts.index[counts >= folds])
        if len(usable) < 2:
            listed = ", ".join(f"{name}: {count}" for name, count in counts.items()) or "none"
            raise SonokitError(
                f"a probe with {folds} folds needs two classes of {folds} patients; patients a class here: {listed}. "
                "Probe another label, or take fewer folds"
            )
        self.left_out = tuple(sorted(set(counts.index) - set(usable)))
        self._rows = np.flatnonzero(names.isin(usable).to_numpy(dtype=bool))
        ids = np.array([f"{row:09d}" for row in self._rows])
        kept, owner = names[self._rows].to_numpy(dtype=str), people[self._rows].to_numpy(dtype=str)
        self.clips = LabelledClips(ids, owner, np.searchsorted(usable, kept), tuple(usable), np.full(len(ids), ""))
        table = pd.DataFrame({"clip_id": ids, "label": kept})
        splits = make_splits(table, owner, label="label", patient_column="patient", folds=folds, seed=seed)
        self._folds = fold_rows(splits, ids, owner)

    def __call__(self, features: np.ndarray) -> dict[str, float]:
        """Scores of features [N, F] of all clips, in the order of the labels.

        Returns:
            knn_balanced_accuracy, linear_balanced_accuracy.
        """
        inputs = np.asarray(features)[self._rows]
        found = {"knn": knn_probe(self.clips, inputs, self._folds), "linear": linear_probe(self.clips, inputs, self._folds)}
        return {
            f"{name}_balanced_accuracy": score("classification", p.truth, p.values[0])["balanced_accuracy"]
            for name, p in found.items()
        }


def quick_probe(features: np.ndarray, labels: Any, patients: np.ndarray, *, folds: int = 5, seed: int = 0) -> dict[str, float]:
    """:class:`QuickProbe` once: features [N, F], labels [N], patients [N]."""
    return QuickProbe(labels, patients, folds=folds, seed=seed)(features)
