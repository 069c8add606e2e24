"""What pretraining is worth on the public POCUS clips: one table over methods, beginnings and settings.

    OMP_NUM_THREADS=1 python benchmarks/pocus_pretraining.py --data ../shared/pocus --weights ../shared/weights/FILE.safetensors

Hours on two cores, so leave it in the background; every cell (one backbone) that is finished is not trained again, and a cell
that was killed goes on at its last checkpoint. ``--rows`` chooses rows, ``--list`` shows them; two processes may work on
different rows. Without anything left to train it measures and writes docs/results/pocus_pretraining.json and docs/results.md;
rows whose cells are missing are left out of the table and named.

Two settings: *transductive* (all clips, without labels) and *inductive* (one backbone a fold, from the fold's training clips
only). What differs between rows is what their names say, and the rest is fixed below; only which two rows are fine-tuned
follows from the frozen figures, and the page says so.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from pocus_data import data_fingerprint
from results_page import write_results_page
from sonokit import cli
from sonokit.atomic import atomic_path, write_json
from sonokit.backbones.build import Backbone, build_backbone
from sonokit.backbones.folder import backbone_fingerprint, load_backbone
from sonokit.clips.cache import prepare
from sonokit.clips.cached_clips import CachedClips, CacheSettings
from sonokit.clips.manifest import read_manifest
from sonokit.clips.sampling import Sampling
from sonokit.clips.splits import Splits, read_splits
from sonokit.evaluation.biomarker_probe import biomarker_probe
from sonokit.evaluation.biomarker_scores import OutOfFold, score_biomarkers
from sonokit.evaluation.bootstrap import Interval
from sonokit.evaluation.comparison import compare_predictions
from sonokit.evaluation.embedding import embed_clips
from sonokit.evaluation.fine_tune import FineTuneSettings, fine_tune
from sonokit.evaluation.out_of_fold import FoldRows, fold_rows
from sonokit.evaluation.predictions import Predictions
from sonokit.evaluation.probe import LabelledClips, linear_probe, sites_left_out
from sonokit.experts.question import pose
from sonokit.pretrain.run import pretrain
from sonokit.pretrain.settings import PretrainSettings
from sonokit.run_folder import environment

RESULTS = Path(__file__).parents[1] / "docs" / "results"
LABEL, WHERE = "diagnosis", {"probe": "convex"}
BIOMARKERS = ("a_lines", "b_lines", "consolidation", "effusion", "pleural_irregularity")
SIZE, FRAMES, SEED = 112, 32, 0
FOLDS = 5  # of the first division: what has a backbone for each fold is measured on these
PRIMARY = "balanced_accuracy"

_COMMON = PretrainSettings(size=SIZE, temperature=0.2, seed=SEED)
BEGINNINGS = {
    "imagenet": replace(_COMMON, backbone="tf_efficientnet_lite0", epochs=60),  # its weights are given on the command line
    "random": replace(_COMMON, backbone="resnet18", epochs=150, learning_rate=1e-3, precision="bf16"),
    "random_lite0": replace(_COMMON, backbone="tf_efficientnet_lite0", epochs=120),
}
METHODS: dict[str, dict[str, Any]] = {
    "uscl": {},
    "simclr": {"objective": "simclr"},
    "uscl_labels": {"label": LABEL},
    "hico": {"objective": "hico"},
    "ivpp": {"objective": "simclr", "pairs": "nearby_frames"},
    "moco": {"objective": "moco", "queue": 256},
    "byol": {"objective": "byol", "temperature": None},
    "dino": {"objective": "dino", "temperature": None, "clip_norm": 3.0},
}


@dataclass(frozen=True)
class Row:
    """A line of the table; ``method`` None is the beginning itself, frozen."""

    beginning: str
    method: str | None = None
    setting: str = "frozen"

    @property
    def name(self) -> str:
        """Of the row in the files and on the command line."""
        return "-".join(filter(None, (self.beginning, self.method, self.setting)))

    @property
    def cells(self) -> list[str]:
        """What is trained: one backbone on all clips, or one a fold."""
        if self.method is None:
            return []
        parts = ["all"] if self.setting == "transductive" else [str(fold) for fold in range(FOLDS)]
        return [f"{self.beginning}-{self.method}-{part}" for part in parts]


MANDATORY = (
    Row("imagenet"),
    Row("random"),
    *(Row(begin, method, "transductive") for begin in ("imagenet", "random") for method in ("uscl", "simclr")),
    *(Row(begin, method, "inductive") for method in ("uscl", "simclr", "uscl_labels") for begin in ("imagenet", "random")),
)
MORE = (
    Row("random_lite0"),
    Row("random_lite0", "uscl", "transductive"),
    *(
        Row(begin, method, "transductive")
        for begin in ("imagenet", "random")
        for method in ("hico", "ivpp", "moco", "byol", "dino")
    ),
)


@dataclass(frozen=True)
class Study:
    """The clips, their division, and where everything goes."""

    out: Path
    weights: str
    clips: CachedClips
    asked: CachedClips
    labelled: LabelledClips
    splits: Splits

    def train(self, cell: str) -> Path:
        """The cell's backbone folder, trained unless it is there."""
        beginning, method, part = cell.split("-")
        settings = replace(BEGINNINGS[beginning], **METHODS[method])
        if beginning == "imagenet":
            settings = replace(settings, weights=self.weights)
        own = self.clips
        if part != "all":
            test = self.splits.folds[int(part)].test
            own = self.clips.select(~np.isin(self.clips.table["clip_id"].to_numpy(dtype=str), test))
        return pretrain(own, self.out / "backbones" / cell, settings, config=named(settings, part))

    def features(self, name: str, make: Callable[[], Backbone]) -> np.ndarray:
        """Of all clips, float32 [N, 2·D], kept in a file that these weights have for themselves."""
        backbone = make()
        file = self.out / "features" / f"{name}-{backbone_fingerprint(backbone)[:12]}.npy"
        if not file.exists():
            found = embed_clips(backbone, self.clips, size=SIZE, progress=name)
            with atomic_path(file) as temporary, open(temporary, "wb") as handle:
                np.save(handle, found)
        return np.load(file)

    def beginning(self, name: str) -> Backbone:
        """The network that a beginning names."""
        weights = self.weights if name == "imagenet" else "none"
        return build_backbone(BEGINNINGS[name].backbone, weights=weights, seed=SEED)

    def of_row(self, row: Row) -> Callable[[FoldRows], np.ndarray]:
        """The row's features of all clips as a fold may see them."""
        if row.method is None:
            start = self.features(row.beginning, lambda: self.beginning(row.beginning))
            return lambda _: start
        folders = [self.out / "backbones" / cell for cell in row.cells]
        matrices = [self.features(folder.name, lambda folder=folder: load_backbone(folder)) for folder in folders]  # type: ignore[misc]
        return lambda fold: matrices[fold.index if len(matrices) > 1 else 0]

    def is_trained(self, row: Row) -> bool:
        """Whether all its cells are finished."""
        return all((self.out / "backbones" / cell / "config.json").exists() for cell in row.cells)


def main() -> None:
    """Train what is missing of the chosen rows, then measure what is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/pocus_pretraining"))
    parser.add_argument("--rows", help="names of rows, separated by commas (default: the mandatory ones)")
    parser.add_argument("--list", action="store_true", help="show the rows and what is trained of them")
    parser.add_argument("--measure", choices=("yes", "no"), default="yes", help="no: train only")
    options = parser.parse_args()
    study = open_study(options.out, options.data, str(options.weights))
    every = {row.name: row for row in (*MANDATORY, *MORE)}
    rows = [every[name] for name in options.rows.split(",")] if options.rows else list(MANDATORY)
    if options.list:
        for row in every.values():
            print(f"{row.name:32} {'trained' if study.is_trained(row) else '-'}")
        return
    for row in rows:
        for cell in row.cells:
            study.train(cell)
    if options.measure == "yes":
        write_json(RESULTS / "pocus_pretraining.json", measure(study, list(every.values()), options.data))
        write_results_page(RESULTS)


def open_study(out: Path, data: Path, weights: str) -> Study:
    """Decode the clips and divide the patients."""
    manifest, splits = data / "manifest.csv", out / "splits.json"
    clips = prepare(read_manifest(manifest), out / "cache", CacheSettings(SIZE, Sampling(frames=FRAMES)))
    if not splits.exists():
        cli.split(manifest, LABEL, splits)
    question = pose(clips.table, LABEL, task="classification", patient=clips.manifest.patient_column, where=WHERE)
    asked = clips.select(np.isin(clips.table["clip_id"].to_numpy(dtype=str), question.clip_ids))
    labelled = LabelledClips(question.clip_ids, question.patients, question.truth, question.classes, question.sites)
    return Study(out, weights, clips, asked, labelled, read_splits(splits))


def named(settings: PretrainSettings, part: str) -> dict[str, Any]:
    """All that decides a cell, so that none is taken for one of other settings or weights."""
    weights = settings.weights
    if weights != "none":
        weights = hashlib.sha256(Path(weights).read_bytes()).hexdigest()[:16]
    return asdict(settings) | {"weights": weights, "part": part}


def measure(study: Study, rows: list[Row], data: Path) -> dict[str, Any]:
    """Every figure of the rows that are trained."""
    there = [row for row in rows if study.is_trained(row)]
    found = {row.name: _frozen(study, row) for row in there}
    once = {name: figures.pop("predictions") for name, figures in found.items()}
    over = {name: figures.pop("predictions_repeated") for name, figures in found.items() if "predictions_repeated" in figures}
    tuned = _fine_tuned(study, there, found)
    return {
        "command": "python benchmarks/pocus_pretraining.py --data ../shared/pocus --weights WEIGHTS",
        "data": data_fingerprint(data),
        "seed": SEED,
        "settings": {name: _settings(beginning) for name, beginning in BEGINNINGS.items()},
        "environment": environment(),
        "rows": {row.name: {"beginning": row.beginning, "method": row.method, "setting": row.setting} for row in there},
        "missing": [row.name for row in rows if row not in there],
        "frozen": found,
        "curves": {cell: _curve(study.out / "backbones" / cell) for row in there for cell in row.cells[:1]},
        "differences": {
            f"{row.name} minus {row.beginning}-frozen": _difference(once[row.name], once[f"{row.beginning}-frozen"])
            for row in there
            if row.method is not None
        },
        "differences_repeated": {
            f"{name} minus {row.beginning}-frozen": _difference(over[name], over[f"{row.beginning}-frozen"])
            for name, row in ((row.name, row) for row in there)
            if row.method is not None and name in over
        },
        "between": {
            f"{a} minus {b}": _difference(once[a], once[b])
            for a, b in (
                ("imagenet-uscl-transductive", "imagenet-simclr-transductive"),
                ("imagenet-uscl-inductive", "imagenet-simclr-inductive"),
                ("imagenet-uscl_labels-inductive", "imagenet-uscl-inductive"),
                ("imagenet-uscl-transductive", "imagenet-uscl-inductive"),
                ("random-uscl-transductive", "random-simclr-transductive"),
                ("random-uscl-inductive", "random-simclr-inductive"),
                ("random-uscl_labels-inductive", "random-uscl-inductive"),
                ("random-uscl-transductive", "random-uscl-inductive"),
            )
            if a in once and b in once
        },
        "fine_tuned": tuned,
    }


def _frozen(study: Study, row: Row) -> dict[str, Any]:
    """Linear probe and biomarkers; over all divisions and with sites left out where one backbone serves all folds."""
    features = study.of_row(row)
    keep = np.isin(study.clips.table["clip_id"].to_numpy(dtype=str), study.labelled.clip_ids)
    folds = fold_rows(study.splits, study.labelled.clip_ids, study.labelled.patients)
    first = [fold for fold in folds if fold.repeat == 0]
    once = linear_probe(study.labelled, lambda fold: features(fold)[keep], first)
    found: dict[str, Any] = {"predictions": once, "once": _plain(once.intervals())}
    found["biomarkers_once"] = _macro(biomarker_probe(features, study.clips.table, BIOMARKERS, first_division(study.splits)))
    if row.setting != "inductive":
        only = features(folds[0])
        over = linear_probe(study.labelled, only[keep], folds)
        found |= {"predictions_repeated": over, "repeated": _plain(over.intervals())}
        sites = sites_left_out(study.labelled, only[keep])
        found["sites_left_out"] = _plain(sites.intervals()) if isinstance(sites, Predictions) else sites
        found["biomarkers"] = _macro(biomarker_probe(only, study.clips.table, BIOMARKERS, study.splits))
    return found


def first_division(splits: Splits) -> Splits:
    """The same splits with their first division only."""
    return replace(splits, folds=tuple(fold for fold in splits.folds if fold.repeat == 0))


def _fine_tuned(study: Study, rows: list[Row], found: dict[str, Any]) -> dict[str, Any]:
    """ImageNet's weights and the two rows whose frozen inductive figures are best, end to end, on the first division."""
    inductive = [row for row in rows if row.setting == "inductive"]
    best = sorted(inductive, key=lambda row: -found[row.name]["once"][PRIMARY]["value"])[:2]
    folds = [f for f in fold_rows(study.splits, study.labelled.clip_ids, study.labelled.patients) if f.repeat == 0]
    outcome = {}
    for row in [Row("imagenet"), *best]:

        def backbone_of(fold: FoldRows, row: Row = row) -> Backbone:
            cells = row.cells
            return load_backbone(study.out / "backbones" / cells[fold.index]) if cells else study.beginning(row.beginning)

        folder = study.out / "fine-tuned" / row.name
        settings = FineTuneSettings(size=SIZE, seed=SEED)
        outcome[row.name] = fine_tune(backbone_of, study.asked, study.labelled, folds, settings, folder=folder, progress=True)
    return {
        "rows": {name: _plain(predictions.intervals()) for name, predictions in outcome.items()},
        "differences": {
            f"{name} minus imagenet-frozen": _difference(predictions, outcome["imagenet-frozen"])
            for name, predictions in outcome.items()
            if name != "imagenet-frozen"
        },
    }


def _macro(outcome: OutOfFold) -> dict[str, Any]:
    scores = score_biomarkers(outcome, BIOMARKERS)
    each = {name: figures.get("auroc") for name, figures in scores["biomarkers"].items()}
    return {"macro_auroc": scores["macro_auroc"], "biomarkers": each}


def _difference(first: Predictions, second: Predictions) -> dict[str, Any]:
    return _plain(compare_predictions(first, second))


def _plain(intervals: dict[str, Interval]) -> dict[str, Any]:
    return {name: figure.as_dict() for name, figure in intervals.items()}


def _settings(settings: PretrainSettings) -> dict[str, Any]:
    names = ("backbone", "epochs", "learning_rate", "temperature", "size", "precision", "augment", "augment_strength")
    return {name: getattr(settings, name) for name in names}


def _curve(folder: Path) -> dict[str, list[float]]:
    """The loss at some twenty epochs."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    chosen = [*lines[: -1 : max(1, len(lines) // 20)], lines[-1]]
    return {"epoch": [line["epoch"] for line in chosen], "loss": [round(line["loss"], 4) for line in chosen]}


if __name__ == "__main__":
    main()
