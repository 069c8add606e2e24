"""Several labels at once: one expert each, on the same folds by patient, and the mean over the labels of every score.

A clip whose value of a label is unknown takes no part in that label. The macro scores are means over the labels, taken on the
same resampled patients for all of them: a patient who is drawn counts as often in every label that they take part in.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import atomic_path, write_json, write_text
from ..clips.splits import Splits
from ..errors import SonokitError
from ..evaluation.bootstrap import interval
from ..evaluation.floors import TITLES
from ..evaluation.patient_weights import PatientWeights
from ..evaluation.predictions import Predictions
from ..evaluation.scores import PRIMARY, weighted_scores
from ..evaluation.weighted_draws import Draws, mean_over_repeats, weighted_draws
from ..features.store import EmbeddingStore, StoreSet
from ..run_folder import append_metrics, write_config
from .crossval import Measured
from .fit import record_opening, write_fitted
from .fit_study import fit_study
from .folder import SCHEMA_VERSION
from .held_out import ask_to_open
from .report.summary import summary_card, summary_page
from .settings import FitSettings
from .study import prepare


def fit_multi_label(
    stores: EmbeddingStore | StoreSet,
    labels: Sequence[str],
    out: Path,
    settings: FitSettings,
    *,
    splits: Splits | None = None,
    labels_csv: Path | None = None,
    config: dict[str, Any],
    progress: bool = False,
) -> Path:
    """Fit an expert a label into ``out/labels/<label>``, and write their summary; see :func:`~sonokit.experts.fit.fit_expert`.

    The folder takes its place once everything in it is whole.

    Raises:
        SonokitError: None of the labels can be asked, or not honestly; or they are of different tasks.
    """
    started = time.perf_counter()
    _require_plain_names(labels)
    studies, left_out = prepare(stores, labels, settings, splits=splits, labels_csv=labels_csv)
    tasks = {study.question.task for study in studies}
    if len(tasks) > 1:
        named = ", ".join(f"{study.question.label}: {study.question.task}" for study in studies)
        raise SonokitError(f"the labels are of different tasks ({named}): say one with --task, or fit them apart")
    own = _share_of_seconds(settings, len(studies))
    opened = [
        ask_to_open(study, own, out / "labels" / study.question.label) if own.open_held_out else None for study in studies
    ]
    reports, predictions, floors = [], {}, []
    with atomic_path(out) as folder:
        for study, opening in zip(studies, opened, strict=True):
            begun, label = time.perf_counter(), study.question.label
            fitted = fit_study(study, own, labels_csv=labels_csv, progress=progress)
            told = {**config, "label": label, "out": str(out / "labels" / label)}
            reports.append(write_fitted(fitted, own, folder / "labels" / label, told, opening, begun))
            predictions[label] = fitted.evidence.predictions
            floors.append(fitted.evidence.floors)
        summary = summarise(reports, predictions, floors, left_out, settings)
        names = [str(report["label"]) for report in reports]
        write_json(folder / "expert.json", {"schema_version": SCHEMA_VERSION, "task": "multi_label", "labels": names})
        write_json(folder / "report.json", summary)
        write_text(folder / "report.html", summary_page(summary))
        write_text(folder / "CARD.md", summary_card(summary))
        write_config(folder, config)
        means = {name: figure["value"] for name, figure in summary["scores"].items()}
        append_metrics(folder, {"seconds": round(time.perf_counter() - started, 2), **means})
        for report, opening in zip(reports, opened, strict=True):  # last: scores that nobody will see are not spent
            record_opening(report, opening, folder / "labels" / report["label"])
    return out


def macro_draws(predictions: Mapping[str, Predictions], *, n: int = 2000, seed: int = 0) -> tuple[Draws, np.ndarray]:
    """The mean over labels of every score, on all clips and on each resample of the patients of all labels together.

    A resample gives every patient of any label a count, and each label is scored with the counts of its own patients. A label
    whose score is not defined in a resample (nobody of one class was drawn) is left out of that resample's mean.

    Args:
        predictions: Label -> its predictions, all of one task; their clips and patients may differ.
        n: Resamples.
        seed: Of the resampling; two calls over the same patients with the same seed see the same resamples.

    Returns:
        Score -> float [1 + n], the first on all clips; and the patients that were resampled, str [P], sorted.
    """
    people = np.unique(np.concatenate([found.patients for found in predictions.values()]).astype(str))
    owners = {label: np.searchsorted(people, found.patients.astype(str)) for label, found in predictions.items()}

    def statistic(weights: PatientWeights) -> Draws:
        each = []
        for label, found in predictions.items():
            drawn = PatientWeights(weights.dense(), owners[label], np.ones(len(found.truth)))
            each.append(mean_over_repeats([weighted_scores(found.task, found.truth, values, drawn) for values in found.values]))
        return {name: _mean_of_known([part[name] for part in each]) for name in each[0] if all(name in part for part in each)}

    most = max(len(found.truth) for found in predictions.values())
    return weighted_draws(statistic, people, n=n, seed=seed, cells_a_draw=min(most, 4096)), people


def summarise(
    reports: Sequence[dict[str, Any]],
    predictions: Mapping[str, Predictions],
    floors: Sequence[Mapping[str, Measured]],
    left_out: Sequence[str],
    settings: FitSettings,
) -> dict[str, Any]:
    """The summary report of several labels, plain values only.

    Args:
        reports: The labels' own.
        predictions: Label -> out of fold.
        floors: Of each label, as the reports' ones.
        left_out: A note on each label that could not be asked.
        settings: Draws, seed and level.
    """
    labels = list(predictions)
    draws, people = macro_draws(predictions, n=settings.draws, seed=settings.seed)
    task = predictions[labels[0]].task
    return {
        "schema_version": 1,
        "task": "multi_label",
        "task_of_labels": task,
        "label": ", ".join(labels),
        "primary": "auroc" if "auroc" in draws else PRIMARY[task],
        "store": reports[0]["store"],
        "unit": settings.unit,
        "where": dict(settings.where or {}),
        "data": _data(predictions, people, reports[0]),
        "seed": settings.seed,
        "draws": settings.draws,
        "level": settings.level,
        "scores": {name: interval(drawn, people, settings.level).as_dict() for name, drawn in draws.items()},
        "floors": [_floor_entry(name, predictions, dict(zip(labels, floors, strict=True)), settings) for name in TITLES],
        "labels": [_label_entry(report) for report in reports],
        "notes": [*left_out, *dict.fromkeys(note for report in reports for note in report["notes"] if "folds" in note)],
    }


def _mean_of_known(values: list[np.ndarray]) -> np.ndarray:
    """Mean over the labels where they are defined, nan where none is; each float [B]."""
    stacked = np.stack(values)  # [labels, B]
    known = ~np.isnan(stacked)
    total, count = np.where(known, stacked, 0).sum(axis=0), known.sum(axis=0)
    return np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)


def _floor_entry(
    name: str, predictions: Mapping[str, Predictions], floors: Mapping[str, Mapping[str, Measured]], settings: FitSettings
) -> dict[str, Any]:
    """A floor's mean over the labels that have it, and the experts' minus it on the same labels, clips and resamples."""
    found = {label: measured for label, those in floors.items() if not isinstance(measured := those[name], str)}
    entry: dict[str, Any] = {"name": name, "title": TITLES[name]}
    if not found:
        return entry | {"reason": f"not measured: {floors[next(iter(floors))][name]}"}
    same = {label: predictions[label].select(np.isin(predictions[label].clip_ids, found[label].clip_ids)) for label in found}
    theirs, people = macro_draws(found, n=settings.draws, seed=settings.seed)
    ours, _ = macro_draws(same, n=settings.draws, seed=settings.seed)
    if name == "most_frequent":
        ours.pop("spearman", None), theirs.pop("spearman", None)  # a constant ranks nothing
    figures = {score: interval(drawn, people, settings.level).as_dict() for score, drawn in theirs.items()}
    minus = {score: interval(ours[score] - drawn, people, settings.level).as_dict() for score, drawn in theirs.items()}
    return entry | {"labels": list(found), "scores": figures, "expert_minus_floor": minus}


def _label_entry(report: dict[str, Any]) -> dict[str, Any]:
    """What the summary says of one label; its own report says the rest."""
    kept = ("classes", "head", "recipe", "primary", "scores", "chance")
    floors = [
        {key: floor[key] for key in ("name", "title", "reason", "scores", "expert_minus_floor") if key in floor}
        for floor in report["floors"]
    ]
    data = {key: report["data"][key] for key in ("clips", "patients", "sites", "classes", "licences") if key in report["data"]}
    held_out = report["held_out"] or {}
    told = {"scores": held_out["scores"]} if "scores" in held_out else None
    return {
        "name": report["label"],
        "folder": f"labels/{report['label']}",
        "data": data,
        "floors": floors,
        "held_out": told,
    } | {key: report[key] for key in kept if key in report}


def _data(predictions: Mapping[str, Predictions], people: np.ndarray, report: dict[str, Any]) -> dict[str, Any]:
    clips = np.unique(np.concatenate([found.clip_ids for found in predictions.values()]))
    same = ("split_unit", "folds", "repeats", "splits_seed", "splits_given", "splits_fingerprint")
    return {"clips": len(clips), "patients": len(people)} | {key: report["data"][key] for key in same}


def _share_of_seconds(settings: FitSettings, labels: int) -> FitSettings:
    if settings.search is None or settings.search.seconds is None:
        return settings
    return replace(settings, search=replace(settings.search, seconds=settings.search.seconds / labels))


def _require_plain_names(labels: Sequence[str]) -> None:
    for label in labels:
        if Path(label).name != label:
            raise SonokitError(f"the label {label!r} cannot name a folder: rename the column")
