"""What the answers rest on, out of fold: each clip is explained by a head that was fitted without its patient.

A biomarker's mean and maximum are summed into one contribution of the biomarker, and all dimensions of the embedding into one
of "embedding": nobody can read "dimension 12" (``sonokit explain`` shows where in the picture an embedding comes from). With
three classes or more a contribution is centred over the classes, so that it says what speaks for a class against the others.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy.stats import spearmanr

from ...evaluation.bootstrap import interval
from ...evaluation.out_of_fold import FoldRows, predicted_values
from ...evaluation.patient_weights import Weights
from ...evaluation.weighted_draws import Draws, ratio, weighted_draws
from ..heads import head_name
from ..heads.contributions import contributions
from ..question import Question
from .cases import chosen_cases
from .feature_groups import EMBEDDING, centred, group_of, output_names

_MOST_CLIPS = 4000  # that are explained; their mean moves little with more
_MOST_FEATURES = 20  # of single features in report.json
_MOST_PARTS = 8  # of a case


class _Features(Protocol):
    """As :class:`~sonokit.experts.crossval.QuestionFeatures` has it."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def of(self, fold: FoldRows) -> np.ndarray: ...


class ContributionsCollector:
    """Explains the test side of every fold of the first repeat; give :meth:`note` to ``cross_validate_read`` as ``fitted``.

    Args:
        question: Who takes part.
        features: What the heads see, with the features' names.
        seed: Of the choice of 4000 clips where there are more.
    """

    def __init__(self, question: Question, features: _Features, *, seed: int = 0) -> None:
        self.question, self.features = question, features
        self.outputs = output_names(question.label, question.task, question.classes)
        count = len(question.truth)
        self._looked_at = np.ones(count, dtype=bool)
        if count > _MOST_CLIPS:
            self._looked_at[:] = False
            self._looked_at[np.random.default_rng(seed).choice(count, _MOST_CLIPS, replace=False)] = True
        self._rows: list[np.ndarray] = []
        self._grouped: list[np.ndarray] = []  # [n, K, G + 1] each
        self._values: list[np.ndarray] = []  # of the features that are not of the embedding, [n, F'] each
        self._predicted: list[np.ndarray] = []
        self._sizes: np.ndarray | float = 0.0  # sums of |contribution|, [K, F]
        self._heads: Counter[str] = Counter()
        self._without: Counter[str] = Counter()

    def note(self, fold: FoldRows, head: Any) -> None:
        """Explain the clips that ``fold`` tests by the ``head`` that it fitted."""
        rows = fold.test[self._looked_at[fold.test]]
        if fold.repeat != 0 or not len(rows):
            return
        inputs = self.features.of(fold)[rows]
        found = contributions(head, inputs)
        if found is None or found.shape[1] != len(self.outputs):  # no such sum, or the fold's training side lacks a class
            self._without[_name(head)] += len(rows)
            return
        found = centred(found, self.question.task)
        self._heads[_name(head)] += len(rows)
        self._rows.append(rows)
        self._grouped.append(found @ self._membership())
        self._values.append(inputs[:, self._named_columns()])
        self._predicted.append(predicted_values(head, inputs, self.question.task, len(self.question.classes)))
        self._sizes = self._sizes + np.abs(found[:, :, :-1]).sum(axis=0)

    def entries(self, *, draws: int = 2000, seed: int = 0, level: float = 0.95) -> dict[str, Any] | None:
        """The contributions as a report keeps them, plain values only; None where no head could be explained.

        Args:
            draws: Resamples of the patients.
            seed: Of the resampling.
            level: Of the intervals.

        Returns:
            ``outputs``; ``groups``, by falling size, each with the mean |contribution| to each output, its interval and its
            direction (rank correlation of value and contribution); ``features``, the largest single ones; ``cases``.
        """
        if not self._rows:
            return None
        rows, grouped = np.concatenate(self._rows), np.concatenate(self._grouped)
        told = _Told(rows, grouped, np.concatenate(self._values), np.concatenate(self._predicted))
        named = [name for name in self._groups() if name != EMBEDDING]
        return {
            "label": self.question.label,
            "task": self.question.task,
            "unit": self.question.label if self.question.task == "regression" else "log-odds",
            "heads": dict(sorted(self._heads.items())),
            "without": dict(sorted(self._without.items())),
            "clips": len(rows),
            "patients": len(np.unique(self.question.patients[rows])),
            "of_clips": len(self.question.truth),
            "outputs": list(self.outputs),
            "biomarkers": len(named),
            "groups": self._group_entries(told, draws, seed, level),
            "features": self._feature_entries(len(rows)),
            "cases": self._case_entries(told),
        }

    def _groups(self) -> list[str]:
        return list(dict.fromkeys(group_of(name) for name in self.features.names))

    def _membership(self) -> np.ndarray:
        """1 where a feature belongs to a group, the constant in a column of its own, [F + 1, G + 1]."""
        groups, names = self._groups(), self.features.names
        member = np.zeros((len(names) + 1, len(groups) + 1))
        member[np.arange(len(names)), [groups.index(group_of(name)) for name in names]] = 1
        member[-1, -1] = 1
        return member

    def _named_columns(self) -> list[int]:
        return [place for place, name in enumerate(self.features.names) if group_of(name) != EMBEDDING]

    def _named_of(self, group: str) -> list[tuple[int, str]]:
        """Column among the kept values and short name (mean, maximum) of each feature of a group."""
        kept = [self.features.names[place] for place in self._named_columns()]
        return [
            (place, name.removesuffix(f" of {group}"))
            for place, name in enumerate(kept)
            if group_of(name) == group and group != EMBEDDING
        ]

    def _group_entries(self, told: "_Told", draws: int, seed: int, level: float) -> list[dict[str, Any]]:
        patients = self.question.patients[told.rows]
        sizes = np.abs(told.grouped[:, :, :-1])  # [n, K, G]

        def statistic(weights: Weights) -> Draws:
            means = ratio(weights @ sizes.reshape(len(sizes), -1), weights.sum(axis=1)[:, None])  # [B, K·G]
            return {str(place): means[:, place] for place in range(means.shape[1])}

        drawn = weighted_draws(statistic, patients, n=draws, seed=seed)
        entries, groups = [], self._groups()
        for place, group in enumerate(groups):
            columns = [column for column, _ in self._named_of(group)]
            value = told.values[:, columns].mean(axis=1) if columns else None
            outputs = {
                name: {
                    "size": interval(drawn[str(k * len(groups) + place)], patients, level).as_dict(),
                    "direction": _direction(value, told.grouped[:, k, place]),
                }
                for k, name in enumerate(self.outputs)
            }
            members = sum(group_of(name) == group for name in self.features.names)
            entries.append({"name": group, "features": members, "outputs": outputs})
        return sorted(entries, key=lambda entry: -sum(told["size"]["value"] for told in entry["outputs"].values()))

    def _feature_entries(self, count: int) -> list[dict[str, Any]]:
        sizes = np.asarray(self._sizes) / count  # [K, F]
        order = np.argsort(-sizes.mean(axis=0), kind="stable")[:_MOST_FEATURES]
        return [
            {"name": self.features.names[f], "sizes": {name: float(sizes[k, f]) for k, name in enumerate(self.outputs)}}
            for f in order
        ]

    def _case_entries(self, told: "_Told") -> list[dict[str, Any]]:
        question, groups = self.question, self._groups()
        truth, clip_ids = question.truth[told.rows], question.clip_ids[told.rows]
        entries = []
        for row, rule in chosen_cases(question.task, question.classes, truth, told.predicted, clip_ids):
            parts, output = self._case_output(told, row)
            order = np.argsort(-np.abs(parts[:-1]), kind="stable")
            shown = [
                {"name": groups[g], "value": self._value_in_words(told.values[row], groups[g]), "contribution": float(parts[g])}
                for g in order[:_MOST_PARTS]
            ]
            classes, value = question.classes, told.predicted[row]
            entries.append(
                {
                    "clip_id": str(clip_ids[row]),
                    "patient": str(question.patients[told.rows][row]),
                    "rule": rule,
                    "truth": classes[truth[row]] if classes else float(truth[row]),
                    "prediction": classes[int(value.argmax())] if classes else float(value),
                    "probability": float(value.max()) if classes else None,
                    "output": output,
                    "constant": float(parts[-1]),
                    "margin": float(parts.sum()),
                    "parts": shown,
                    "others": float(parts[order[_MOST_PARTS:]].sum()),
                }
            )
        return entries

    def _case_output(self, told: "_Told", row: int) -> tuple[np.ndarray, str]:
        """Contributions to what a case is explained for, [G + 1], and its name; of ordered classes their mean."""
        if self.question.task == "ordinal" and len(self.outputs) > 1:
            return told.grouped[row].mean(axis=0), f"a higher {self.question.label}"
        if len(self.outputs) == 1:
            return told.grouped[row, 0], self.outputs[0]
        code = int(told.predicted[row].argmax())
        return told.grouped[row, code], self.outputs[code]

    def _value_in_words(self, values: np.ndarray, group: str) -> str | None:
        named = self._named_of(group)
        return ", ".join(f"{short} {values[column]:.2f}" for column, short in named) or None


@dataclass(frozen=True)
class _Told:
    """The n explained clips of all folds: rows [n], grouped [n, K, G + 1], values [n, F'], predicted [n, classes] or [n]."""

    rows: np.ndarray
    grouped: np.ndarray
    values: np.ndarray
    predicted: np.ndarray


def _direction(value: np.ndarray | None, contribution: np.ndarray) -> float | None:
    """Rank correlation, None where either is constant or the group has no one value."""
    if value is None or np.ptp(value) == 0 or np.ptp(contribution) == 0:
        return None
    return float(spearmanr(value, contribution).statistic)


def _name(head: Any) -> str:
    try:
        return head_name(head)
    except AttributeError:  # the constant that stands in where a training side has one class
        return type(head).__name__.strip("_")
