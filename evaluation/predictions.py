"""Predictions of clips by something that had not seen them, in the form in which a report keeps and compares them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from .bootstrap import Interval, interval, score_draws
from .scores import Task, score


@dataclass(frozen=True)
class Predictions:
    """Out-of-fold predictions of N clips over R repeats of the folds.

    Attributes:
        task: What kind of label it is.
        classes: Names of the K classes, in the order of the codes; empty for regression.
        clip_ids: str [N].
        patients: str [N].
        truth: Class codes int64 [N], or float64 [N].
        values: Probabilities float64 [R, N, K], or values [R, N]; no nan.
    """

    task: Task
    classes: tuple[str, ...]
    clip_ids: np.ndarray
    patients: np.ndarray
    truth: np.ndarray
    values: np.ndarray

    def select(self, keep: np.ndarray) -> "Predictions":
        """Some of the clips; ``keep`` is a mask or row numbers [N]."""
        return Predictions(
            self.task, self.classes, self.clip_ids[keep], self.patients[keep], self.truth[keep], self.values[:, keep]
        )

    def draws(self, n: int = 2000, seed: int = 0) -> dict[str, np.ndarray]:
        """Every score with its resamples, [1 + n] each: see :func:`~sonokit.evaluation.bootstrap.score_draws`."""
        return score_draws(self.task, self.truth, self.values, self.patients, n=n, seed=seed)

    def intervals(self, n: int = 2000, seed: int = 0, level: float = 0.95) -> dict[str, Interval]:
        """Every score, mean over the repeats, with its patient-bootstrap interval."""
        return {name: interval(draws, self.patients, level) for name, draws in self.draws(n, seed).items()}

    def by_repeat(self) -> list[dict[str, float]]:
        """Every score of each repeat."""
        return [score(self.task, self.truth, values) for values in self.values]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "task": self.task,
            "classes": list(self.classes),
            "clip_ids": self.clip_ids.tolist(),
            "patients": self.patients.tolist(),
            "truth": self.truth.tolist(),
            "values": self.values.tolist(),
        }


def predictions_from_dict(plain: dict[str, Any]) -> Predictions:
    """What :meth:`Predictions.as_dict` wrote."""
    clip_ids, patients = (np.asarray(text, dtype=str) for text in (plain["clip_ids"], plain["patients"]))
    truth = np.asarray(plain["truth"], dtype=np.float64 if plain["task"] == "regression" else np.int64)
    values = np.asarray(plain["values"], dtype=np.float64)
    return Predictions(plain["task"], tuple(plain["classes"]), clip_ids, patients, truth, values)
