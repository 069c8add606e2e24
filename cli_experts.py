"""Ask a store a clinical question: audit it, fit an expert, look at it elsewhere, predict."""

import inspect
from pathlib import Path
from typing import Any, Literal

from .atomic import write_text
from .command_inputs import extracted_store
from .command_options import pairs, plain_options, words
from .errors import SonokitError

_REJECTED = ["clip_id", "reason"]


def audit(
    store: str,
    label: str,
    out: Path,
    task: Literal["classification", "ordinal", "regression"] | None = None,
    splits: Path | None = None,
    where: str | None = None,
    classes: str | None = None,
    labels: Path | None = None,
    patient: str | None = None,
    folds: int = 5,
    repeats: int = 3,
    permutations: int = 1999,
    seed: int = 0,
) -> None:
    """Say what a store and a label give away before anyone is proud of a score on them.

    Patients on both sides, one film twice, a site or a file format that tells the label, floors as good as the embedding,
    labels that may be wrong: each check is fine, to look at, or a stop, and a verdict sums them up: docs/audit.md.

    Args:
        store: A store, or a store set: fold k is then judged on fold k's store. A folder, or a URL.
        label: A column of the store or of --labels.
        out: The folder to make; audit.html in it is the page to read.
        task: Default: text or two values are classes, few whole numbers ordinal, other numbers regression.
        splits: From sonokit split, to be audited too (default: the store set's own, or made from the rows).
        where: Only clips with these values, such as probe=convex,site=s2.
        classes: Only these classes, separated by commas. Without it, classes of fewer patients than folds are left out.
        labels: A CSV keyed by clip_id, patient_id or the column of --patient, that adds or overrides labels.
        patient: The column that stands for the patient, where it is not patient_id.
        folds: Where no splits are given.
        repeats: Where no splits are given.
        permutations: How often patients exchange their values for a p-value.
        seed: The same seed gives the same figures.
    """
    config = plain_options(locals())
    import time

    from .clips.splits import read_splits
    from .experts.audit import audit as look
    from .experts.audit import require_free, write_audit
    from .features.store import open_stores

    require_free(out, config)
    started = time.perf_counter()
    report = look(
        open_stores(store),
        label,
        task=task,
        classes=words(classes) if classes else None,
        where=pairs(where),
        labels_csv=labels,
        splits=read_splits(splits) if splits else None,
        patient=patient,
        folds=folds,
        repeats=repeats,
        permutations=permutations,
        seed=seed,
    )
    write_audit(report, out, config, seconds=round(time.perf_counter() - started, 2))
    print(report.table())
    print(f"\naudit -> {out} (read {out / 'audit.html'})")


def fit_expert(
    store: str,
    label: str,
    out: Path,
    task: Literal["classification", "ordinal", "regression"] | None = None,
    head: str = "linear",
    recipe: str = "mean_std",
    unit: Literal["clip", "patient"] = "clip",
    splits: Path | None = None,
    where: str | None = None,
    classes: str | None = None,
    labels: Path | None = None,
    patient: str | None = None,
    spo2: str | None = None,
    fio2: str | None = None,
    folds: int = 5,
    repeats: int = 10,
    trials: int = 0,
    seconds: float | None = None,
    calibration: Literal["platt", "temperature", "isotonic", "none"] = "platt",
    coverage: float = 0.9,
    sets: Literal["lac", "aps"] = "lac",
    by_class: bool = False,
    columns: str = "site,probe",
    teacher: str | None = None,
    unlabelled: str | None = None,
    teacher_weight: float | None = None,
    open_held_out: bool = False,
    seed: int = 0,
) -> None:
    """Fit and evaluate a head for one question on a store, in patient-grouped cross-validation, beside its floors.

    Args:
        store: A store, or a store set: fold k is then judged on fold k's store. A folder, or a URL.
        label: A column of the store or of --labels; several separated by commas: one expert each, on the same folds. sf_ratio
            is made of SpO2 in per cent and FiO2 as a fraction.
        out: The expert folder to make; report.html in it is the page to read.
        task: Default: text or two values are classes, few whole numbers ordinal, other numbers regression.
        head: linear, mlp or xgboost, or package.module:Class of a scikit-learn estimator; several separated by commas, or auto
            for the three: one is chosen inside the training folds.
        recipe: What is made of a clip's segments: mean, spread, extremes, biomarkers, joined by +, or mean_std; several
            separated by commas, or auto: one is chosen inside the training folds.
        unit: Predict for clips, or for patients from all of their clips.
        splits: From sonokit split (default: the store set's own, or made from the rows).
        where: Only clips with these values, such as probe=convex,site=s2.
        classes: Only these classes, separated by commas. Without it, classes of fewer patients than folds are left out.
        labels: A CSV keyed by clip_id, patient_id or the column of --patient, that adds or overrides labels.
        patient: The column that stands for the patient, where it is not patient_id.
        spo2: For sf_ratio: the column of the oxygen saturation in per cent, where it is not spo2.
        fio2: For sf_ratio: the column of the inspired oxygen fraction, where it is not fio2.
        folds: Where no splits are given.
        repeats: Where no splits are given.
        trials: Search so many settings of the heads inside each training side; a search by trials repeats exactly.
        seconds: Search for so long in all; how far that comes depends on the machine.
        calibration: How probabilities are made to mean what they say; isotonic wants a thousand clips or more.
        coverage: How often a conformal set or interval is to hold the truth, over patients like these.
        sets: lac gives the smallest sets, aps gives the hard clips the larger ones.
        by_class: Promise the coverage for each class; it takes 9 patients of each for 0.9.
        columns: By which the scores are told apart, separated by commas.
        teacher: ensemble (all heads together), or the folder, CSV or Parquet file of a fine-tuned network's soft targets, a
            fold each: the head learns from these too, and the gain or loss is reported.
        unlabelled: A store of the same extractor whose clips the teacher speaks of, too (default: those of the store itself).
        teacher_weight: How much the teacher counts beside a clip's own label, 0 to 1 (default 0.5); choose it before looking.
        open_held_out: Score the held-out part, which can be done once for a label.
        seed: The same seed gives the same figures.
    """
    config = plain_options(locals())
    from .clips.splits import read_splits
    from .experts.fit import fit_expert as fit
    from .experts.heads.search_settings import SearchSettings
    from .experts.report import read_report, report_table
    from .features.store import open_stores

    if teacher is None and (unlabelled is not None or teacher_weight is not None):
        raise SonokitError("--unlabelled and --teacher_weight belong to --teacher: say which, such as --teacher ensemble.")
    folder = fit(
        open_stores(store),
        label,
        out,
        task=task,
        heads=words(head),
        recipe=words(recipe),
        unit=unit,
        search=SearchSettings(trials=trials, seconds=seconds) if trials or seconds is not None else None,
        splits=read_splits(splits) if splits else None,
        where=pairs(where),
        classes=words(classes) if classes else None,
        labels_csv=labels,
        patient=patient,
        spo2=spo2,
        fio2=fio2,
        folds=folds,
        repeats=repeats,
        calibration=calibration,
        coverage=coverage,
        sets=sets,
        by_class=by_class,
        columns=words(columns),
        teacher=teacher,
        unlabelled=unlabelled,
        teacher_weight=0.5 if teacher_weight is None else teacher_weight,
        open_held_out=open_held_out,
        seed=seed,
        config=config,
        progress=True,
    )
    print(report_table(read_report(folder)))
    print(f"\nexpert -> {folder} (read {folder / 'report.html'})")


def predict(
    expert: Path,
    out: Path,
    store: str | None = None,
    clips: Path | None = None,
    model: str | None = None,
    weights: str = "none",
    bank: str | None = None,
    nearest: int = 5,
    why: int = 0,
    trust: str = "",
    cache: Path = Path("sonokit-cache"),
) -> None:
    """Predict for every clip of a store, or for new clips.

    Probabilities, the conformal set, what the operating points call; on request the nearest training cases, whether a clip lies
    beyond them, and what the answer was made of.

    Args:
        expert: The expert folder; or a folder of sonokit export (of a student or an extractor), which takes --clips and no
            other option, and needs no torch; clips that cannot be used are listed beside --out, in a file .rejected.csv.
        out: The predictions, a file that ends in .csv or .json; an earlier call's is replaced.
        store: A store of the extractor that the expert was fitted on.
        clips: Instead of a store: a manifest, a folder of clips or one clip; needs --model, but for an exported folder.
        model: The extractor or backbone that made the expert's store.
        weights: For a timm name: "none", "timm" (fetched), or a local .safetensors file.
        bank: The store that the expert was fitted on: adds the nearest training cases and an out-of-distribution flag, which at
            most 5 % of new patients like those of the training get.
        nearest: How many training cases to name; needs --bank.
        why: Name so many contributions to each answer (linear and xgboost heads).
        trust: Types that your own head's file may hold (my_module.MyEstimator), separated by commas; naming one imports it.
        cache: The folder of decoded frames.
    """
    given = dict(locals())
    import tempfile

    from .distill.export.note import is_export

    if is_export(expert):
        plain = {name: option.default for name, option in inspect.signature(predict).parameters.items()}
        if clips is None:
            raise SonokitError(f"{expert} is an exported model: say with --clips what it shall look at.")
        if any(given[name] != plain[name] for name in plain.keys() - {"expert", "out", "clips"}):
            raise SonokitError(f"{expert} is an exported model: it takes --clips and --out, and no other option.")
        _predict_exported(expert, out, clips)
        return
    if (expert / "student.json").is_file():
        raise SonokitError(
            f"{expert} is a student of sonokit distill: export it first (sonokit export {expert} MANIFEST --out EXPORT), then "
            "sonokit predict EXPORT"
        )
    from .experts.folder import load_expert
    from .experts.predict import predict as predictions_of
    from .experts.prediction_file import require_replaceable, write_predictions
    from .features.store import open_stores

    if (store is None) == (clips is None):
        raise SonokitError("give either --store (features that are there) or --clips with --model (clips to extract from).")
    inputs = {"the expert": expert, "--store": store, "--clips": clips, "--model": model, "--weights": weights, "--bank": bank}
    require_replaceable(out, inputs)
    head = load_expert(expert, words(trust))
    compared: dict[str, Any] = {"bank": open_stores(bank) if bank else None, "nearest": nearest, "why": why}
    if store is not None:
        table = predictions_of(head, open_stores(store), **compared)
    else:
        if model is None:
            raise SonokitError("--clips needs --model: the extractor or backbone folder that made the expert's store.")
        with tempfile.TemporaryDirectory() as folder:
            made = extracted_store(Path(clips or ""), model, weights, head.store, cache, Path(folder))
            table = predictions_of(head, made, **compared)
    write_predictions(table, out)
    print(f"{len(table)} predictions -> {out}")


def _predict_exported(folder: Path, out: Path, clips: Path) -> None:
    """Clips through a folder of sonokit export: onnxruntime, and nothing that needs torch."""
    import pandas as pd

    from .clips.manifest import read_manifest
    from .clips.scan import clips_at
    from .distill.export.run import ExportedModel
    from .experts.prediction_file import require_replaceable, write_predictions

    require_replaceable(out, {"the exported model": folder, "--clips": clips})
    listing = _rejected_beside(out, clips)
    model = ExportedModel(folder)
    if model.kind in ("backbone", "landmarks"):
        ask = "landmarks(images)" if model.kind == "landmarks" else "predict_clips(clips)"
        raise SonokitError(
            f"{folder} is an exported {model.kind} model, which predicts nothing of a clip: ask it in Python, "
            f"sonokit.distill.export.run.ExportedModel({str(folder)!r}).{ask}"
        )
    if clips.suffix.lower() in (".csv", ".parquet"):
        manifest = read_manifest(clips)
        named = zip(manifest.table["clip_id"], manifest.locations(), strict=True)
    else:
        table = clips_at(clips)
        named = zip(table["clip_id"], table["path"], strict=True)
    rejected: list[tuple[str, str]] = []
    try:
        rows = model.predict_clips(((str(clip_id), str(path)) for clip_id, path in named), rejected=rejected)
    finally:
        listing.unlink(missing_ok=True)  # an earlier call's
        if rejected:
            write_text(listing, pd.DataFrame(rejected, columns=_REJECTED).to_csv(index=False, lineterminator="\n"))
    write_predictions(pd.DataFrame(rows), out)
    print(f"{len(rows)} predictions -> {out}" + (f"; {len(rejected)} clips left out -> {listing}" if rejected else ""))


def _rejected_beside(out: Path, clips: Path) -> Path:
    """Where the clips that are left out will be listed; nothing but an earlier list may be there."""
    listing = out.with_suffix(".rejected.csv")
    if listing.resolve() == clips.resolve() or (
        listing.exists() and not (listing.is_file() and listing.read_bytes().startswith(",".join(_REJECTED).encode() + b"\n"))
    ):
        raise SonokitError(f"{listing}, where clips that are left out are listed, is there already: choose another --out.")
    return listing


def evaluate(
    expert: Path,
    store: str,
    out: Path,
    label: str | None = None,
    labels: Path | None = None,
    where: str | None = None,
    against: str | None = None,
    patient: str | None = None,
    spo2: str | None = None,
    fio2: str | None = None,
    columns: str = "site,probe",
    trust: str = "",
    draws: int = 2000,
    seed: int = 0,
) -> None:
    """Score a finished expert on another hospital's labelled store, untouched.

    Scores beside those at home, floors, calibration, coverage, operating points and drift; nothing is fitted on these clips. A
    verdict of one or two sentences sums them up.

    Args:
        expert: The expert folder.
        store: The other hospital's store, made by the same extractor. A folder, or a URL.
        out: The folder to make; evaluation.html in it is the page to read.
        label: The column of the truth there (default: named as the expert's label); values are matched to classes by name.
        labels: A CSV keyed by clip_id, patient_id or the column of --patient, that adds or overrides labels.
        where: Only clips with these values, such as probe=convex.
        against: The store that the expert was fitted on: finds patients in both, clips beyond the training clips, more floors.
        patient: The column that stands for the patient there, where it is not the expert's. With clip_id intervals are too
            narrow for a verdict.
        spo2: For an S/F ratio: the column of the oxygen saturation.
        fio2: For an S/F ratio: the column of the inspired oxygen fraction.
        columns: By which the scores are told apart, separated by commas.
        trust: Types that your own head's file may hold (my_module.MyEstimator), separated by commas; naming one imports it.
        draws: Resamples of the patients for the intervals, at least 1.
        seed: The same seed gives the same figures.
    """
    config = plain_options(locals())
    import time

    from .experts.external.content import evaluation_table, require_free, write_evaluation
    from .experts.external.evaluate import evaluate as evaluated
    from .experts.folder import load_single_expert
    from .features.store import open_stores

    require_free(out, config)
    started = time.perf_counter()
    found = evaluated(
        load_single_expert(expert, words(trust)),
        open_stores(store),
        label=label,
        labels_csv=labels,
        where=pairs(where),
        against=open_stores(against) if against else None,
        patient=patient,
        spo2=spo2,
        fio2=fio2,
        columns=words(columns),
        draws=draws,
        seed=seed,
    )
    write_evaluation(found, out, config, seconds=round(time.perf_counter() - started, 2))
    print(evaluation_table(found.content))
    print(f"\nevaluation -> {out} (read {out / 'evaluation.html'})")


def compare(first: Path, second: Path, out: Path | None = None, common: bool = False, draws: int = 2000, seed: int = 0) -> None:
    """Compare two experts for the same label: both scores and their difference, on the same resampled patients.

    Both must have been judged on the same folds (give both the same --splits). Folders of several labels are compared by their
    mean and label by label.

    Args:
        first: An expert folder.
        second: Another.
        out: A JSON file for the figures.
        common: Compare on the clips (and labels) that both have, where they are not the same.
        draws: Resamples of the patients, at least 1.
        seed: Of the resampling.
    """
    from .atomic import write_json
    from .experts.comparison import compare_experts, comparison_table, require_free

    if out is not None:
        require_free(out)
    found = compare_experts(first, second, common=common, draws=draws, seed=seed)
    print(comparison_table(found))
    if out is not None:
        write_json(out, found)
        print(f"\nfigures -> {out}")
