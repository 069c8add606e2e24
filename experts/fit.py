"""Fitting an expert: pose the question, cross-validate beside its floors, fit once more on everything, write it down."""

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import atomic_path, write_text
from ..clips.splits import Splits
from ..errors import SonokitError
from ..evaluation.calibration import Method
from ..evaluation.conformal import SetKind
from ..evaluation.scores import Task
from ..features.store import EmbeddingStore, StoreSet
from ..run_folder import append_metrics, require_same_config, write_config
from .fit_study import Fitted, fit_study
from .folder import Expert, save_expert
from .held_out import Opening, ask_to_open, opened_notes, write_opening
from .recipes import Unit
from .report.card import card
from .report.content import Evidence, make_report
from .report.files import write_report
from .report.page import page
from .settings import FitSettings
from .study import prepare

if TYPE_CHECKING:
    from .heads.search_settings import SearchSettings


def fit_expert(
    stores: EmbeddingStore | StoreSet,
    label: str | Sequence[str],
    out: str | Path,
    *,
    task: Task | None = None,
    heads: Sequence[Any] | Any = ("linear",),
    recipe: str | Sequence[str] = "mean_std",
    unit: Unit = "clip",
    search: "SearchSettings | None" = None,
    splits: Splits | None = None,
    where: Mapping[str, str] | None = None,
    classes: Sequence[str] | None = None,
    labels_csv: str | Path | None = None,
    patient: str | None = None,
    spo2: str | None = None,
    fio2: str | None = None,
    folds: int = 5,
    repeats: int = 10,
    draws: int = 2000,
    seed: int = 0,
    calibration: Method = "platt",
    coverage: float = 0.9,
    sets: SetKind = "lac",
    by_class: bool = False,
    columns: Sequence[str] = ("site", "probe"),
    teacher: Any = None,
    unlabelled: EmbeddingStore | StoreSet | str | Path | None = None,
    teacher_weight: float = 0.5,
    open_held_out: bool = False,
    config: dict[str, Any] | None = None,
    progress: bool = False,
) -> Path:
    """Fit, evaluate and write an expert; the same arguments give the same numbers, unless a search has seconds.

    Args:
        stores: A store, or a store set, which an extractor that was fitted on labels of these clips needs.
        label: A column of the store or of ``labels_csv``; several, or names joined by commas: one expert each, see
            :mod:`sonokit.experts.multi_label`. ``sf_ratio`` is made of two columns, see :mod:`sonokit.experts.oxygenation`.
        out: The expert folder; one of the same ``config`` is replaced once the new one is whole.
        task: None: from the label's values, see :func:`~sonokit.experts.labels.infer_task`.
        heads: One of linear, mlp, xgboost; several, or "auto" for all: one is chosen inside the training rows. An estimator
            with scikit-learn's interface is a head too.
        recipe: See :mod:`sonokit.experts.recipes`; several, or "auto": one is chosen inside the training rows.
        unit: "patient": one prediction for each patient, from all of their clips.
        search: Of heads' settings; its seconds are for the whole call. None: the heads' own defaults.
        splits: None: the store set's own, else made from the store's rows, whose column ``split`` is honoured.
        where: Only clips whose column has this value.
        classes: Only these classes, in this order.
        labels_csv: Labels keyed by clip_id or patient_id, which add to the store's and override them.
        patient: The column that says whose a clip is; None: that of the splits, else patient_id.
        spo2: The column of the oxygen saturation in per cent, for ``sf_ratio``.
        fio2: The column of the inspired oxygen fraction, for ``sf_ratio``.
        folds: Of the splits, where none are given.
        repeats: Of the splits, where none are given.
        draws: Resamples of the patients for the intervals.
        seed: Of the splits, the heads, the forest and the resamples.
        calibration: How probabilities are made to mean what they say, see :mod:`sonokit.evaluation.calibration`.
        coverage: How often a conformal set or interval is to hold the truth, over patients like these.
        sets: Kind of the conformal sets, see :mod:`sonokit.evaluation.conformal`.
        by_class: Promise the coverage for each class.
        columns: By which the scores are told apart, where the store has them.
        teacher: "ensemble", or the folder or file of a fine-tuned network's soft targets: the head learns from these too, and
            the gain is reported, see :mod:`sonokit.experts.distilled`.
        unlabelled: A store whose clips the teacher speaks of, too; None: those of the store itself.
        teacher_weight: How much the teacher counts beside a clip's own label, 0 to 1.
        open_held_out: Score the held-out part, which can be done once, see :mod:`sonokit.experts.held_out`.
        config: What is recorded in config.yaml; None: these arguments.
        progress: Whether to show bars on standard error.

    Returns:
        ``out``.

    Raises:
        SonokitError: The question cannot be asked, or not honestly; the message says why and what to do.
    """
    out, names = Path(out), heads if isinstance(heads, (list, tuple)) else (heads,)
    settings = FitSettings(
        task=task, heads=tuple(names), recipes=(recipe,) if isinstance(recipe, str) else tuple(recipe),
        where=dict(where or {}), classes=tuple(classes) if classes else None,
        patient=patient, folds=folds, repeats=repeats, draws=draws, seed=seed,
        calibration=calibration, coverage=coverage, sets=sets, by_class=by_class, columns=tuple(columns),
        unit=unit, search=search, spo2=spo2, fio2=fio2, open_held_out=open_held_out,
        teacher=teacher, unlabelled=unlabelled, teacher_weight=teacher_weight,
    )  # fmt: skip
    labels = [name.strip() for name in label.split(",")] if isinstance(label, str) else list(label)
    labels = [name for name in dict.fromkeys(labels) if name]
    config = _config(stores, labels, out, settings, labels_csv) if config is None else config
    _require_free(out, config)
    told: dict[str, Any] = {
        "splits": splits,
        "labels_csv": Path(labels_csv) if labels_csv else None,
        "progress": progress,
        "config": config,
    }
    if len(labels) > 1:
        from .multi_label import fit_multi_label

        return fit_multi_label(stores, labels, out, settings, **told)
    return fit_one(stores, labels[0] if labels else "", out, settings, **told)


def fit_one(
    stores: EmbeddingStore | StoreSet,
    label: str,
    out: Path,
    settings: FitSettings,
    *,
    splits: Splits | None,
    labels_csv: Path | None,
    config: dict[str, Any],
    progress: bool,
) -> Path:
    """One label of :func:`fit_expert`."""
    started = time.perf_counter()
    studies, _ = prepare(stores, [label], settings, splits=splits, labels_csv=labels_csv)
    opening = ask_to_open(studies[0], settings, out) if settings.open_held_out else None
    fitted = fit_study(studies[0], settings, labels_csv=labels_csv, progress=progress)
    with atomic_path(out) as folder:
        report = write_fitted(fitted, settings, folder, config, opening, started)
        record_opening(report, opening, folder)  # last: a score that nobody will see is not spent
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
    """The work of :func:`fit_expert` without any file, for one label.

    Raises:
        SonokitError: As for :func:`fit_expert`, or the held-out part is to be opened, which has to be written down.
    """
    if settings.open_held_out:
        raise SonokitError("open_held_out: what is opened once is written beside the store: take fit_expert, which does so")
    studies, _ = prepare(stores, [label], settings, splits=splits, labels_csv=labels_csv)
    fitted = fit_study(studies[0], settings, labels_csv=labels_csv, progress=progress)
    return fitted.evidence, fitted.expert


def write_fitted(
    fitted: Fitted, settings: FitSettings, folder: Path, config: dict[str, Any], opening: Opening | None, started: float
) -> dict[str, Any]:
    """Write the whole expert folder; the report is returned. :func:`record_opening` comes after all that can fail.

    Args:
        fitted: From :func:`fit_study`.
        settings: How it came about.
        folder: Where; not yet its final place.
        config: For config.yaml.
        opening: Of the held-out part; None where it stays closed.
        started: ``time.perf_counter()`` at the beginning.
    """
    report = make_report(fitted.evidence, settings)
    if opening is not None and _scores_held_out(report):
        report["notes"] += opened_notes(opening)
    folder.mkdir(parents=True, exist_ok=True)
    save_expert(fitted.expert, folder)
    write_report(report, folder)
    write_text(folder / "report.html", page(report))
    write_text(folder / "CARD.md", card(report))
    write_config(folder, config)
    measured = {"seconds": round(time.perf_counter() - started, 2), **report["by_repeat_mean"]}
    append_metrics(folder, measured | ({"search_seconds": round(fitted.search_seconds, 2)} if fitted.search_seconds else {}))
    return report


def record_opening(report: dict[str, Any], opening: Opening | None, folder: Path) -> None:
    """Write down that the held-out part was scored, where it was; ``folder`` is not yet in its final place.

    Raises:
        SonokitError: Another run opened the same part meanwhile.
    """
    if opening is not None and _scores_held_out(report):
        scores = {name: figure["value"] for name, figure in report["held_out"]["scores"].items()}
        write_opening(opening, folder, {"head": report["head"], "recipe": report["recipe"], "scores": scores})


def _scores_held_out(report: dict[str, Any]) -> bool:
    return "scores" in (report["held_out"] or {})


def _config(
    stores: EmbeddingStore | StoreSet, labels: list[str], out: Path, settings: FitSettings, labels_csv: str | Path | None
) -> dict[str, Any]:
    return {
        "store": str(stores.folder), "label": ",".join(labels), "out": str(out), "task": settings.task,
        "heads": list(settings.head_names), "recipe": ",".join(settings.recipes), "unit": settings.unit,
        "search": asdict(settings.search) if settings.search is not None else None,
        "where": dict(settings.where or {}), "classes": list(settings.classes) if settings.classes else None,
        "labels": str(labels_csv) if labels_csv else None, "patient": settings.patient, "spo2": settings.spo2,
        "fio2": settings.fio2, "folds": settings.folds, "repeats": settings.repeats, "draws": settings.draws,
        "seed": settings.seed, "open_held_out": settings.open_held_out, "calibration": settings.calibration,
        "coverage": settings.coverage, "sets": settings.sets, "by_class": settings.by_class, "columns": list(settings.columns),
        "teacher": settings.teacher if settings.teacher is None else str(settings.teacher),
        "unlabelled": _named(settings.unlabelled), "teacher_weight": settings.teacher_weight,
    }  # fmt: skip


def _named(store: Any) -> str | None:
    return None if store is None else str(getattr(store, "folder", store))


def _require_free(out: Path, config: dict[str, Any]) -> None:
    """Only an expert of the same settings may be replaced; opening the held-out part counts as the same."""
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / "expert.json").exists()):
        raise SonokitError(f"{out} is there already and is no expert folder: choose another --out")
    if config.get("open_held_out"):
        with suppress(SonokitError):  # it may be open there too
            require_same_config(out, {**config, "open_held_out": False})
            return
    require_same_config(out, config)
