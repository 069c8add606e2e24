"""report.json: every figure of an expert with its interval, its floors, its out-of-fold predictions."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...clips.splits import Splits
from ...evaluation.bootstrap import Interval
from ...evaluation.by_group import UNKNOWN
from ...evaluation.chance import chance
from ...evaluation.nested import Reading
from ...evaluation.predictions import Predictions
from ...evaluation.scores import PRIMARY, weighted_confusion
from ...features.store import StoreHeader
from ..crossval import Measured
from ..floors import floor_entries
from ..question import Question
from ..settings import FitSettings
from .trust import trust_entries

SCHEMA_VERSION = 1

_MOST_IN_JSON = 20_000  # clips × repeats whose predictions are written into report.json itself


@dataclass(frozen=True)
class Evidence:
    """What was measured on the way to an expert.

    Attributes:
        question: Who took part.
        splits: The folds.
        splits_given: Whether they came from a file (else they were made from the store's rows).
        store: Header of the store that the expert reads.
        predictions: Out of fold.
        floors: Name -> predictions, or why there are none.
        held_out: The held-out part as the finished expert sees it; None where nothing is held out.
        head: Name of the kept head.
        chosen: With several heads to choose from: how many folds chose which.
        reading: What readouts that had not met the clips say of ``predictions``.
        held_out_reading: What the expert's own readout says of ``held_out``.
        groups: Column -> the group of each of the question's clips.
        recipe: The kept one, where several were to choose from.
        by_patient: ``patients`` and ``scores`` of the clips averaged by patient, plain values.
        search: What was tried and chosen inside the folds: ``trials``, ``chosen`` (name -> folds), ``seconds``.
        contributions: From :meth:`~sonokit.experts.report.contributions.ContributionsCollector.entries`.
        distilled: ``teacher``, ``unlabelled_clips``, ``plain`` (scores) and ``gain`` (scores) of a distilled head.
    """

    question: Question
    splits: Splits
    splits_given: bool
    store: StoreHeader
    predictions: Predictions
    floors: dict[str, Measured]
    held_out: Measured | None
    head: str
    chosen: dict[str, int]
    reading: Reading
    held_out_reading: Reading | None = None
    groups: dict[str, np.ndarray] = field(default_factory=dict)
    recipe: str | None = None
    by_patient: dict[str, Any] | None = None
    search: dict[str, Any] | None = None
    contributions: dict[str, Any] | None = None
    distilled: dict[str, Any] | None = None


def make_report(evidence: Evidence, settings: FitSettings) -> dict[str, Any]:
    """The content of report.json, plain values only."""
    question, found = evidence.question, evidence.predictions
    draws, seed, level = settings.draws, settings.seed, settings.level
    repeats = found.by_repeat()
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "label": question.label,
        "task": question.task,
        "classes": list(question.classes),
        "head": evidence.head,
        "heads": [head if isinstance(head, str) else type(head).__name__ for head in settings.heads],
        "chosen_in_folds": evidence.chosen,
        "recipe": evidence.recipe or settings.recipe,
        "unit": settings.unit,
        "where": dict(settings.where or {}),
        "primary": PRIMARY[question.task],
        "store": _store(evidence.store),
        "data": _data(evidence),
        "seed": seed,
        "draws": draws,
        "level": level,
        "scores": {name: figure.as_dict() for name, figure in found.intervals(draws, seed, level).items()},
        "by_repeat": {name: [_plain(scores[name]) for scores in repeats] for name in repeats[0]},
        "by_repeat_mean": {name: _plain(float(np.mean([scores[name] for scores in repeats]))) for name in repeats[0]},
        "chance": _chance(found, seed),
        "floors": floor_entries(found, evidence.floors, draws=draws, seed=seed, level=level),
        "trust": _trust(evidence, found, evidence.reading, draws, seed, level),
        "held_out": _held_out(evidence, draws, seed, level),
        "confusion": _confusion(found),
        "notes": _notes(evidence),
        "predictions": kept_predictions(found),
    }
    optional = {name: getattr(evidence, name) for name in ("by_patient", "search", "contributions", "distilled")}
    return report | {name: entry for name, entry in optional.items() if entry is not None}


def kept_predictions(found: Predictions) -> dict[str, Any]:
    """As :meth:`~sonokit.evaluation.predictions.Predictions.as_dict`; of very many, arrays instead of lists.

    :func:`~sonokit.experts.report.files.write_report` puts such arrays into a file of their own.
    """
    if found.values.shape[0] * found.values.shape[1] <= _MOST_IN_JSON:
        return found.as_dict()
    return {
        "task": found.task,
        "classes": list(found.classes),
        "clip_ids": found.clip_ids,
        "patients": found.patients,
        "truth": found.truth,
        "values": found.values,
    }


def _store(header: StoreHeader) -> dict[str, Any]:
    return {
        "fingerprint": header.fingerprint,
        "kind": header.kind,
        "model": header.model,
        "dimensions": header.dimensions,
        "fitted_on_labels": header.fitted_on_labels,
    }


def _data(evidence: Evidence) -> dict[str, Any]:
    question, found, splits = evidence.question, evidence.predictions, evidence.splits
    sites = question.sites[np.isin(question.clip_ids, found.clip_ids)]
    per_class = [
        {
            "name": name,
            "clips": int((found.truth == code).sum()),
            "patients": len(np.unique(found.patients[found.truth == code])),
        }
        for code, name in enumerate(question.classes)
    ]
    return {
        "clips": len(found.clip_ids),
        "patients": len(np.unique(found.patients)),
        "sites": len(set(sites) - {""}),
        "classes": per_class,
        "licences": _licences(question, found.clip_ids),
        "split_unit": question.patient_column,
        "folds": sum(fold.repeat == 0 for fold in splits.folds),
        "repeats": splits.repeats,
        "splits_seed": splits.seed,
        "splits_given": evidence.splits_given,
        "splits_fingerprint": splits.fingerprint(),
    }


def _licences(question: Question, clip_ids: np.ndarray) -> dict[str, int]:
    """Clips of each licence, by falling number; empty where the store has no such column."""
    column = next((name for name in ("licence", "license") if name in question.table), None)
    if column is None:
        return {}
    kept = question.table[column][np.isin(question.clip_ids, clip_ids)].astype("string").str.strip().fillna("")
    counts = kept.where(kept != "", UNKNOWN).value_counts()
    return {str(name): int(counts[name]) for name in sorted(counts.index, key=lambda name: (-counts[name], name))}


def _chance(found: Predictions, seed: int) -> dict[str, Any]:
    measured = chance(found, seed=seed)
    return {"reason": measured} if isinstance(measured, str) else measured.as_dict()


def _trust(evidence: Evidence, found: Predictions, reading: Reading, draws: int, seed: int, level: float) -> dict[str, Any]:
    rows = np.isin(evidence.question.clip_ids, found.clip_ids)  # both in the question's order
    groups = {column: names[rows] for column, names in evidence.groups.items()}
    return trust_entries(found, reading, groups, draws=draws, seed=seed, level=level)


def _held_out(evidence: Evidence, draws: int, seed: int, level: float) -> dict[str, Any] | None:
    measured = evidence.held_out
    if measured is None:
        return None
    if isinstance(measured, str):
        return {"reason": f"not measured: {measured}"}
    figures: dict[str, Interval] = measured.intervals(draws, seed, level)
    return {
        "clips": len(measured.clip_ids),
        "patients": len(np.unique(measured.patients)),
        "scores": {name: figure.as_dict() for name, figure in figures.items()},
        "predictions": kept_predictions(measured),
        "trust": (
            None
            if evidence.held_out_reading is None
            else _trust(evidence, measured, evidence.held_out_reading, draws, seed, level)
        ),
    }


def _confusion(found: Predictions) -> list[list[float]] | None:
    """Mean over the repeats, truth in rows; None for regression."""
    if found.task == "regression":
        return None
    ones, count = np.ones((1, len(found.truth))), len(found.classes)
    each = [weighted_confusion(found.truth, values.argmax(axis=1), count, ones)[0] for values in found.values]
    return np.mean(each, axis=0).tolist()


def _notes(evidence: Evidence) -> list[str]:
    notes = list(evidence.question.notes)
    if not evidence.splits_given:
        notes.append(
            "the folds were made from the store's rows; write them once with `sonokit split` to share them over a study"
        )
    if evidence.chosen:
        notes.append("the head was chosen inside each training fold, and for the kept expert on all clips")
    return notes


def _plain(figure: float) -> float | None:
    return None if np.isnan(figure) else figure
