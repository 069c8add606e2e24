"""report.json: every figure of an expert with its interval, its floors, its out-of-fold predictions; and the table of it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...clips.splits import Splits
from ...evaluation.bootstrap import Interval
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

SCORE_TITLES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "auroc": "AUROC",
    "quadratic_kappa": "quadratic kappa",
    "mae": "mean absolute error",
    "rmse": "root mean squared error",
    "r2": "R²",
    "spearman": "Spearman's ρ",
}


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
        "heads": list(settings.heads),
        "chosen_in_folds": evidence.chosen,
        "recipe": settings.recipe,
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
        "floors": floor_entries(found, evidence.floors, draws=draws, seed=seed, level=level),
        "trust": _trust(evidence, found, evidence.reading, draws, seed, level),
        "held_out": _held_out(evidence, draws, seed, level),
        "confusion": _confusion(found),
        "notes": _notes(evidence),
        "predictions": found.as_dict(),
    }
    return report


def report_table(report: dict[str, Any]) -> str:
    """The report's scores and floors as lines of text."""
    names = [report["primary"], *(name for name in report["scores"] if name != report["primary"])]
    rows = [["", *(SCORE_TITLES[name] for name in names)], _row("this expert", report["scores"], names)]
    for floor in report["floors"]:
        title = f"  {floor['title']}"
        rows.append(_row(title, floor["scores"], names) if "scores" in floor else [title, floor["reason"]])
    held_out = report["held_out"]
    if held_out is not None:
        rows.append(
            _row("held-out part", held_out["scores"], names) if "scores" in held_out else ["held-out part", held_out["reason"]]
        )
    lines = [headline(report), how_measured(report), "", *_aligned(rows), ""]
    lines += [f"expert minus floor, {SCORE_TITLES[names[0]]}, on the same resampled patients:"]
    for floor in report["floors"]:
        if "scores" in floor:
            lines.append(f"  {floor['title']}: {show(floor['expert_minus_floor'][names[0]], signed=True)}")
    lines += ["", *_trust_lines(report["trust"])]
    return "\n".join([*lines, "", *(f"note: {note}" for note in report["notes"])]).rstrip()


def headline(report: dict[str, Any]) -> str:
    """One line: what is predicted, for whom, by what."""
    data = report["data"]
    classes = f" ({', '.join(report['classes'])})" if report["classes"] else ""
    where = "".join(f", {column}={value}" for column, value in report["where"].items())
    sites = f" at {data['sites']} sites" if data["sites"] else ""
    return (
        f"{report['label']}{classes}{where}: {data['clips']} clips of {data['patients']} patients{sites}; "
        f"{report['head']} head on {report['recipe']} of {report['store']['model']}"
    )


def how_measured(report: dict[str, Any]) -> str:
    """One line: folds, unit, interval."""
    data = report["data"]
    return (
        f"out of fold, {data['repeats']} × {data['folds']} folds by {data['split_unit']}, mean over the repeats "
        f"[{report['level']:.0%} interval over {report['draws']} resamples of the patients]"
    )


def show(figure: dict[str, Any] | None, *, signed: bool = False) -> str:
    """A figure with its interval: ``0.744 [0.620, 0.871]``, or a dash where it is not defined."""
    if figure is None or figure["value"] is None:
        return "–"
    digits = 1 if abs(figure["value"]) >= 20 else 3
    form = f"{'+' if signed else ''}.{digits}f"
    between = "" if figure["low"] is None else f" [{figure['low']:{form}}, {figure['high']:{form}}]"
    return f"{figure['value']:{form}}{between}"


def _trust_lines(trust: dict[str, Any]) -> list[str]:
    conformal = trust["conformal"]
    lines = [
        f"conformal {'sets' if 'kind' in conformal else 'intervals'}: promised {conformal['promised']:.0%}, measured "
        f"{show(conformal['coverage'])}, mean size {show(conformal['size'])}"
    ]
    if "calibration" not in trust:
        return lines
    calibration = trust["calibration"]
    errors = " -> ".join(f"{calibration[side]['ece']['value']:.3f}" for side in ("raw", "calibrated"))
    lines.append(
        f"calibration ({calibration['method']}): Brier score {show(calibration['calibrated']['brier'])}, "
        f"calibrated minus raw {show(calibration['gain']['brier'], signed=True)}; calibration error {errors}, "
        f"by chance alone up to {calibration['error_by_chance']['calibrated']:.3f}"
    )
    for point in trust["operating_points"]:
        lines.append(f"{point['name']}: sensitivity {show(point['sensitivity'])}, specificity {show(point['specificity'])}")
    return lines


def _row(title: str, scores: dict[str, Any], names: list[str]) -> list[str]:
    return [title, *(show(scores.get(name)) for name in names)]


def _aligned(rows: list[list[str]]) -> list[str]:
    """Columns of equal width; a row of two cells (a reason) does not count for the second column's."""
    columns = max(len(row) for row in rows)
    full = [row for row in rows if len(row) == columns]
    widths = [max(len(row[0]) for row in rows), *(max(len(row[k]) for row in full) for k in range(1, columns))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]


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
        "split_unit": question.patient_column,
        "folds": sum(fold.repeat == 0 for fold in splits.folds),
        "repeats": splits.repeats,
        "splits_seed": splits.seed,
        "splits_given": evidence.splits_given,
        "splits_fingerprint": splits.fingerprint(),
    }


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
        "predictions": measured.as_dict(),
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
