"""report.json of a probe: every figure with its interval, its floors and its out-of-fold predictions; and the table of it.

Two such reports on the same splits are compared by :func:`~sonokit.evaluation.comparison.compare_reports`, which reads the
linear probe's predictions.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..clips.splits import Splits
from .bootstrap import Interval
from .comparison import compare_predictions
from .floors import TITLES
from .predictions import Predictions
from .probe import LabelledClips
from .scores import PRIMARY

SCHEMA_VERSION = 1

_SCORE_TITLES = {"balanced_accuracy": "balanced accuracy", "accuracy": "accuracy", "auroc": "AUROC"}
_READER_TITLES = {"linear": "linear probe, frozen", "knn": "kNN probe, frozen", "fine_tuned": "fine-tuned end to end"}


@dataclass(frozen=True)
class Measurements:
    """What was measured of one backbone.

    Attributes:
        linear, knn: Of its frozen features, out of fold.
        fine_tuned: Out of fold; None where that was not asked for.
        floors: Name → predictions of a linear probe (or of the floor itself), or why there are none.
        biomarkers: From :func:`~sonokit.evaluation.biomarker_probe.macro_auroc`, None where none were asked for.
    """

    linear: Predictions
    knn: Predictions
    fine_tuned: Predictions | None
    floors: dict[str, Predictions | str]
    biomarkers: dict[str, Any] | None

    def readers(self) -> dict[str, Predictions]:
        """Name → predictions, of those that were measured."""
        found = {"linear": self.linear, "knn": self.knn, "fine_tuned": self.fine_tuned}
        return {name: predictions for name, predictions in found.items() if predictions is not None}


def make_report(
    measured: Measurements,
    labelled: LabelledClips,
    splits: Splits,
    about: dict[str, Any],
    *,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Any]:
    """The content of report.json, plain values only.

    Args:
        measured: What was measured.
        labelled: Of which clips.
        splits: On which folds.
        about: ``label``, ``where``, ``backbone``, ``size``, ``frames``, ``patient``, ``splits_given`` and ``notes``, as
            :func:`~sonokit.evaluation.probe_run.run_probe` gives them.
        draws: Resamples of the patients.
        seed: Of the resamples.
        level: Of the intervals.
    """
    how: dict[str, Any] = {"n": draws, "seed": seed, "level": level}
    readers = measured.readers()
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "probe",
        **about,
        "task": "classification",
        "classes": list(labelled.classes),
        "primary": PRIMARY["classification"],
        "data": _data(measured.linear, labelled, splits),
        "seed": seed,
        "draws": draws,
        "level": level,
        "scores": _plain(measured.linear.intervals(**how)),
        "readers": {name: _reader(name, found, measured.linear, how) for name, found in readers.items()},
        "floors": [_floor(name, found, readers, how) for name, found in measured.floors.items()],
        "biomarkers": measured.biomarkers,
        "predictions": measured.linear.as_dict(),
    }


def report_table(report: dict[str, Any]) -> str:
    """The report's scores and floors as lines of text."""
    primary = report["primary"]
    names = [primary, *(name for name in report["scores"] if name != primary)]
    rows = [["", *(_SCORE_TITLES[name] for name in names)]]
    rows += [[entry["title"], *(_show(entry["scores"][name]) for name in names)] for entry in report["readers"].values()]
    for floor in report["floors"]:
        cells = [_show(floor["scores"][name]) for name in names] if "scores" in floor else [floor["reason"]]
        rows.append([f"  {floor['title']}", *cells])
    lines = [*_headline(report), "", *_aligned(rows), "", f"differences in {_SCORE_TITLES[primary]}, on the same patients:"]
    for name, reader in report["readers"].items():
        if name != "linear":
            lines.append(f"  {reader['title']} minus linear probe: {_show(reader['minus_linear'][primary], signed=True)}")
        for floor in report["floors"]:
            if name in floor.get("reader_minus_floor", {}):
                difference = _show(floor["reader_minus_floor"][name][primary], signed=True)
                lines.append(f"  {reader['title']} minus {floor['title']}: {difference}")
    return "\n".join([*lines, *_biomarker_lines(report["biomarkers"]), "", *(f"note: {n}" for n in report["notes"])]).rstrip()


def _plain(intervals: dict[str, Interval]) -> dict[str, Any]:
    return {name: figure.as_dict() for name, figure in intervals.items()}


def _reader(name: str, found: Predictions, linear: Predictions, how: dict[str, Any]) -> dict[str, Any]:
    repeats = found.by_repeat()
    return {
        "title": _READER_TITLES[name],
        "repeats": len(repeats),
        "scores": _plain(found.intervals(**how)),
        "by_repeat": {score: [None if np.isnan(each[score]) else each[score] for each in repeats] for score in repeats[0]},
        "minus_linear": _difference(found, linear, how),
        "predictions": found.as_dict(),
    }


def _floor(name: str, found: Predictions | str, readers: dict[str, Predictions], how: dict[str, Any]) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": name, "title": TITLES[name]}
    if isinstance(found, str):
        return entry | {"reason": f"not measured: {found}"}
    # the site's figure is a linear probe's too: only that one is set against it
    compared = {r: p for r, p in readers.items() if r == "linear" or (r == "fine_tuned" and name != "site_left_out")}
    return entry | {
        "clips": len(found.clip_ids),
        "scores": _plain(found.intervals(**how)),
        "reader_minus_floor": {reader: _difference(predictions, found, how) for reader, predictions in compared.items()},
        "predictions": found.as_dict(),
    }


def _difference(first: Predictions, second: Predictions, how: dict[str, Any]) -> dict[str, Any]:
    """First − second on the clips that both predict."""
    ours = first.select(np.isin(first.clip_ids, second.clip_ids))
    theirs = second.select(np.isin(second.clip_ids, first.clip_ids))
    return _plain(compare_predictions(ours, theirs, **how))


def _data(found: Predictions, labelled: LabelledClips, splits: Splits) -> dict[str, Any]:
    there = np.isin(labelled.clip_ids, found.clip_ids)
    per_class = [
        {
            "name": name,
            "clips": int((found.truth == code).sum()),
            "patients": len(np.unique(found.patients[found.truth == code])),
        }
        for code, name in enumerate(labelled.classes)
    ]
    return {
        "clips": len(found.clip_ids),
        "patients": len(np.unique(found.patients)),
        "sites": len(set(labelled.sites[there]) - {""}),
        "classes": per_class,
        "split_unit": splits.patient_column,
        "folds": sum(fold.repeat == 0 for fold in splits.folds),
        "repeats": splits.repeats,
        "splits_seed": splits.seed,
        "splits_fingerprint": splits.fingerprint(),
    }


def _headline(report: dict[str, Any]) -> list[str]:
    data, backbone = report["data"], report["backbone"]
    where = "".join(f", {column}={value}" for column, value in report["where"].items())
    sites = f" at {data['sites']} sites" if data["sites"] else ""
    return [
        f"{report['label']} ({', '.join(report['classes'])}){where}: {data['clips']} clips of {data['patients']} patients"
        f"{sites}; {backbone['model']} ({backbone['setting']}) at {report['size']} pixels",
        f"out of fold, {data['repeats']} × {data['folds']} folds by {data['split_unit']}, mean over the repeats "
        f"[{report['level']:.0%} interval over {report['draws']} resamples of the patients]",
    ]


def _biomarker_lines(found: dict[str, Any] | None) -> list[str]:
    if found is None:
        return []
    each = []
    for name, entry in found["biomarkers"].items():
        auroc = _show(entry["auroc"]) if entry["auroc"] else entry["reason"]
        each.append(f"  {name} ({entry['positive_patients']} patients have it): {auroc}")
    macro = _show(found["macro_auroc"]) if found["macro_auroc"] else "none is measurable"
    return ["", f"biomarkers, AUROC of a linear probe; mean {macro}", *each]


def _show(figure: dict[str, Any], *, signed: bool = False) -> str:
    """``0.744 [0.620, 0.871]``, or a dash where the figure is not defined."""
    if figure["value"] is None:
        return "–"
    form = "+.3f" if signed else ".3f"
    between = "" if figure["low"] is None else f" [{figure['low']:{form}}, {figure['high']:{form}}]"
    return f"{figure['value']:{form}}{between}"


def _aligned(rows: list[list[str]]) -> list[str]:
    """Columns of equal width; a row of two cells (a reason) does not count for the second column's."""
    full = [row for row in rows if len(row) == len(rows[0])]
    widths = [max(len(row[0]) for row in rows), *(max(len(row[k]) for row in full) for k in range(1, len(rows[0])))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]
