"""Ask a store a clinical question: audit it, fit an expert, look at it elsewhere, predict."""

from pathlib import Path
from typing import Literal

from .command_inputs import extracted_store
from .command_options import pairs, plain_options, words
from .errors import SonokitError


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
        labels: A CSV keyed by clip_id or patient_id that adds or overrides labels.
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
    recipe: Literal["mean_std", "mean", "biomarkers", "mean_std+biomarkers"] = "mean_std",
    splits: Path | None = None,
    where: str | None = None,
    classes: str | None = None,
    labels: Path | None = None,
    patient: str | None = None,
    folds: int = 5,
    repeats: int = 10,
    calibration: Literal["platt", "temperature", "isotonic", "none"] = "platt",
    coverage: float = 0.9,
    sets: Literal["lac", "aps"] = "lac",
    by_class: bool = False,
    columns: str = "site,probe",
    seed: int = 0,
) -> None:
    """Fit and evaluate a head for one question on a store, in patient-grouped cross-validation, beside its floors.

    Args:
        store: A store, or a store set: fold k is then judged on fold k's store. A folder, or a URL.
        label: A column of the store or of --labels.
        out: The expert folder to make; report.html in it is the page to read.
        task: Default: text or two values are classes, few whole numbers ordinal, other numbers regression.
        head: linear, mlp or xgboost; several separated by commas, or auto: one is chosen inside the training folds.
        recipe: What is made of a clip's segments.
        splits: From sonokit split (default: the store set's own, or made from the rows).
        where: Only clips with these values, such as probe=convex,site=s2.
        classes: Only these classes, separated by commas. Without it, classes of fewer patients than folds are left out.
        labels: A CSV keyed by clip_id or patient_id that adds or overrides labels.
        patient: The column that stands for the patient, where it is not patient_id.
        folds: Where no splits are given.
        repeats: Where no splits are given.
        calibration: How probabilities are made to mean what they say; isotonic wants a thousand clips or more.
        coverage: How often a conformal set or interval is to hold the truth, over patients like these.
        sets: lac gives the smallest sets, aps gives the hard clips the larger ones.
        by_class: Promise the coverage for each class; it takes 9 patients of each for 0.9.
        columns: By which the scores are told apart, separated by commas.
        seed: The same seed gives the same figures.
    """
    config = plain_options(locals())
    import json

    from .clips.splits import read_splits
    from .experts.fit import fit_expert as fit
    from .experts.report import report_table
    from .features.store import open_stores

    folder = fit(
        open_stores(store),
        label,
        out,
        task=task,
        heads=words(head),
        recipe=recipe,
        splits=read_splits(splits) if splits else None,
        where=pairs(where),
        classes=words(classes) if classes else None,
        labels_csv=labels,
        patient=patient,
        folds=folds,
        repeats=repeats,
        calibration=calibration,
        coverage=coverage,
        sets=sets,
        by_class=by_class,
        columns=words(columns),
        seed=seed,
        config=config,
        progress=True,
    )
    print(report_table(json.loads((folder / "report.json").read_text(encoding="utf-8"))))
    print(f"\nexpert -> {folder} (read {folder / 'report.html'})")


def predict(
    expert: Path,
    out: Path,
    store: str | None = None,
    clips: Path | None = None,
    model: str | None = None,
    weights: str = "none",
    cache: Path = Path("sonokit-cache"),
) -> None:
    """Predict for every clip of a store, or for new clips.

    Args:
        expert: The expert folder.
        out: The predictions, CSV or JSON by its ending.
        store: A store of the extractor that the expert was fitted on.
        clips: Instead of a store: a manifest, a folder of clips or one clip; needs --model.
        model: The extractor or backbone that made the expert's store.
        weights: For a timm name: "none", "timm" (fetched), or a local .safetensors file.
        cache: The folder of decoded frames.
    """
    import tempfile

    from .atomic import atomic_path
    from .experts.folder import load_expert
    from .experts.predict import predict as predictions_of
    from .features.store import open_stores

    if (store is None) == (clips is None):
        raise SonokitError("give either --store (features that are there) or --clips with --model (clips to extract from).")
    if out.exists() and "prediction" not in out.read_text(encoding="utf-8", errors="replace")[:200]:
        raise SonokitError(f"{out} is there already and holds no predictions. Choose another --out.")
    head = load_expert(expert)
    if store is not None:
        table = predictions_of(head, open_stores(store))
    else:
        if model is None:
            raise SonokitError("--clips needs --model: the extractor or backbone folder that made the expert's store.")
        with tempfile.TemporaryDirectory() as folder:
            table = predictions_of(head, extracted_store(Path(clips or ""), model, weights, head.store, cache, Path(folder)))
    with atomic_path(out) as temporary:
        if out.suffix == ".json":
            table.to_json(temporary, orient="records", indent=2)
        else:
            table.to_csv(temporary, index=False)
    print(f"{len(table)} predictions -> {out}")
