"""Fitting an expert: pose the question, cross-validate beside its floors, fit once more on everything, write it down."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import atomic_path, write_json, write_text
from ..clips.splits import Splits, make_splits
from ..errors import SonokitError
from ..evaluation.by_group import group_names
from ..evaluation.calibration import Method
from ..evaluation.conformal import SetKind
from ..evaluation.nested import read_values
from ..evaluation.out_of_fold import FoldRows, fold_rows
from ..evaluation.readout import readout_of
from ..evaluation.scores import Task
from ..features.store import EmbeddingStore, StoreSet
from ..run_folder import append_metrics, require_same_config, write_config
from .crossval import QuestionFeatures, cross_validate_read, fit_final, predict_held_out
from .floors import measure_floors
from .folder import Expert, save_expert
from .heads import head_name, make_head
from .question import Question, pose
from .recipes import clip_table
from .report.card import card
from .report.content import Evidence, make_report
from .report.page import page
from .settings import FitSettings


def fit_expert(
    stores: EmbeddingStore | StoreSet,
    label: str,
    out: str | Path,
    *,
    task: Task | None = None,
    heads: Sequence[str] | str = ("linear",),
    recipe: str = "mean_std",
    splits: Splits | None = None,
    where: Mapping[str, str] | None = None,
    classes: Sequence[str] | None = None,
    labels_csv: str | Path | None = None,
    patient: str | None = None,
    folds: int = 5,
    repeats: int = 10,
    draws: int = 2000,
    seed: int = 0,
    calibration: Method = "platt",
    coverage: float = 0.9,
    sets: SetKind = "lac",
    by_class: bool = False,
    columns: Sequence[str] = ("site", "probe"),
    config: dict[str, Any] | None = None,
    progress: bool = False,
) -> Path:
    """Fit, evaluate and write an expert; the same arguments give the same numbers.

    Args:
        stores: A store, or a store set, which an extractor that was fitted on labels of these clips needs.
        label: A column of the store or of ``labels_csv``.
        out: The expert folder; one of the same ``config`` is replaced once the new one is whole.
        task: None: from the label's values, see :func:`~sonokit.experts.labels.infer_task`.
        heads: One of linear, mlp, xgboost; several, or "auto" for all: one is chosen inside the training rows.
        recipe: See :mod:`sonokit.experts.recipes`.
        splits: None: the store set's own, else made from the store's rows.
        where: Only clips whose column has this value.
        classes: Only these classes, in this order.
        labels_csv: Labels keyed by clip_id or patient_id, which add to the store's and override them.
        patient: The column that says whose a clip is; None: that of the splits, else patient_id.
        folds: Of the splits, where none are given.
        repeats: Of the splits, where none are given.
        draws: Resamples of the patients for the intervals.
        seed: Of the splits, the heads, the forest and the resamples.
        calibration: How probabilities are made to mean what they say, see :mod:`sonokit.evaluation.calibration`.
        coverage: How often a conformal set or interval is to hold the truth, over patients like these.
        sets: Kind of the conformal sets, see :mod:`sonokit.evaluation.conformal`.
        by_class: Promise the coverage for each class.
        columns: By which the scores are told apart, where the store has them.
        config: What is recorded in config.yaml; None: these arguments.
        progress: Whether to show bars on standard error.

    Returns:
        ``out``.

    Raises:
        SonokitError: The question cannot be asked, or not honestly; the message says why and what to do.
    """
    out, names = Path(out), (heads,) if isinstance(heads, str) else tuple(heads)
    settings = FitSettings(
        task=task, heads=names, recipe=recipe, where=dict(where or {}), classes=tuple(classes) if classes else None,
        patient=patient, folds=folds, repeats=repeats, draws=draws, seed=seed,
        calibration=calibration, coverage=coverage, sets=sets, by_class=by_class, columns=tuple(columns),
    )  # fmt: skip
    config = _config(stores, label, out, settings, labels_csv) if config is None else config
    _require_free(out, config)
    started = time.perf_counter()
    evidence, expert = evaluate_and_fit(
        stores, label, settings, splits=splits, labels_csv=Path(labels_csv) if labels_csv else None, progress=progress
    )
    report = make_report(evidence, settings)
    with atomic_path(out) as folder:
        save_expert(expert, folder)
        write_json(folder / "report.json", report)
        write_text(folder / "report.html", page(report))
        write_text(folder / "CARD.md", card(report))
        write_config(folder, config)
        append_metrics(folder, {"seconds": round(time.perf_counter() - started, 2), **report["by_repeat_mean"]})
    return out


def evaluate_and_fit(
    stores: EmbeddingStore | StoreSet,
    label: str,
    settings: FitSettings,
    *,
    splits: Splits | None = None,
    labels_csv: Path | None = None,
    progress: bool = False,
) -> tuple[Evidence, Expert]:
    """The work of :func:`fit_expert` without any file."""
    final = stores.final if isinstance(stores, StoreSet) else stores
    given = stores.splits if isinstance(stores, StoreSet) and splits is None else splits
    question = pose(
        clip_table(final), label, task=settings.task, classes=settings.classes, where=settings.where, labels_csv=labels_csv,
        patient=settings.patient or (given.patient_column if given else "patient_id"),
        fewest_patients=_fold_count(given) if given else settings.folds,
    )  # fmt: skip
    used = given or _make_splits(question, settings)
    features = QuestionFeatures(stores, question, settings.recipe, used)
    folds = fold_rows(used, question.clip_ids, question.patients)
    held_out = np.flatnonzero(np.isin(question.clip_ids, np.asarray(used.held_out, dtype=str)))
    usable = np.ones(len(question.truth), dtype=bool)
    usable[held_out] = False

    def make() -> Any:
        return make_head(settings.heads, question.task, settings.seed)

    chosen: Counter[str] = Counter()

    def note_choice(_: FoldRows, head: Any) -> None:
        if hasattr(head, "chosen_"):
            chosen[head.chosen_] += 1

    predictions, reading = cross_validate_read(
        question, features, make, folds, settings.readout(), fitted=note_choice, progress="expert" if progress else None
    )
    readout = readout_of(predictions, settings.readout())
    floors = measure_floors(question, features, make, folds, usable, seed=settings.seed, progress=progress)
    head = fit_final(question, features, make, np.flatnonzero(usable))
    tested = predict_held_out(question, features, head, held_out, fitted_rows=np.flatnonzero(usable))
    expert = Expert(label, question.task, question.classes, settings.recipe, final.header, head, readout)
    tested_reading = None
    if tested is not None and not isinstance(tested, str):
        tested_reading = read_values(readout, question.task, question.classes, tested.values)
    evidence = Evidence(
        question, used, splits_given=given is not None, store=final.header, predictions=predictions, floors=floors,
        held_out=tested, head=head_name(head), chosen=dict(sorted(chosen.items())), reading=reading,
        held_out_reading=tested_reading,
        groups={column: group_names(question.table[column], column) for column in settings.columns if column in question.table},
    )  # fmt: skip
    return evidence, expert


def _fold_count(splits: Splits) -> int:
    return sum(fold.repeat == 0 for fold in splits.folds)


def _make_splits(question: Question, settings: FitSettings) -> Splits:
    """Folds by patient, stratified by class; a number is not stratified."""
    table, stratify = question.table.copy(), None
    if question.task != "regression":
        stratify = question.label
        table[stratify] = np.asarray(question.classes, dtype=object)[question.truth]
    return make_splits(
        table, question.patients, label=stratify, patient_column=question.patient_column,
        folds=settings.folds, repeats=settings.repeats, seed=settings.seed,
    )  # fmt: skip


def _config(
    stores: EmbeddingStore | StoreSet, label: str, out: Path, settings: FitSettings, labels_csv: str | Path | None
) -> dict[str, Any]:
    return {
        "store": str(stores.folder), "label": label, "out": str(out), "task": settings.task, "heads": list(settings.heads),
        "recipe": settings.recipe, "where": dict(settings.where or {}),
        "classes": list(settings.classes) if settings.classes else None,
        "labels": str(labels_csv) if labels_csv else None, "patient": settings.patient, "folds": settings.folds,
        "repeats": settings.repeats, "draws": settings.draws, "seed": settings.seed,
    }  # fmt: skip


def _require_free(out: Path, config: dict[str, Any]) -> None:
    """Only an expert of the same settings may be replaced."""
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / "expert.json").exists()):
        raise SonokitError(f"{out} is there already and is no expert folder: choose another --out")
    require_same_config(out, config)
