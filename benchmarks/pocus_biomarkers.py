"""The study behind the biomarker part of docs/results.md: extractors learned from clip labels against frozen ImageNet features.

    python benchmarks/pocus_biomarkers.py --data ../shared/pocus --weights ../shared/weights/FILE.safetensors

Out of fold over ten patient-grouped divisions. The main comparison: train-biomarkers with its default settings on the frozen
ImageNet backbone against a linear head on that same backbone's features of the same frames. The other rows change one thing
each. Rows that train a part of the backbone take the first division only. Finished rows are not done again (some 40 minutes on
one core in all, OMP_NUM_THREADS=1). ``--backbone`` names a backbone pretrained on these clips without labels (by
benchmarks/pocus_road.py); without it those rows are left out.

Writes docs/results/pocus_biomarkers.json, docs/pictures/reliability.png and the tables of docs/results.md.
"""

import argparse
import dataclasses
import json
import shutil
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import pandas as pd
import torch
from pocus_data import data_fingerprint
from results_page import write_results_page
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sonokit.atomic import write_json
from sonokit.backbones.build import Backbone, build_backbone
from sonokit.backbones.folder import load_backbone
from sonokit.clips.cache import CachedClips, CacheSettings, prepare
from sonokit.clips.manifest import read_manifest
from sonokit.clips.sampling import Sampling
from sonokit.clips.splits import Splits, read_splits
from sonokit.evaluation.biomarker_probe import biomarker_probe
from sonokit.evaluation.biomarker_scores import OutOfFold, compare_macro_auroc, score_biomarkers
from sonokit.evaluation.embedding import embed_clips
from sonokit.evaluation.out_of_fold import fold_rows
from sonokit.features.extraction.forward import FeaturePass
from sonokit.features.extractors.biomarkers import SegmentPlan
from sonokit.features.extractors.head_fitting import FrozenFeatures, frozen_features
from sonokit.features.extractors.settings import BiomarkerSettings
from sonokit.features.extractors.weak_training import train_biomarkers
from sonokit.run_folder import environment

ROOT = Path(__file__).parents[1]
BIOMARKERS = ("a_lines", "b_lines", "consolidation", "effusion", "pleural_irregularity")
NETWORK = "tf_efficientnet_lite0"
PENALTIES = (1.0, 0.1, 0.01, 0.001)  # scikit-learn's C: the smaller, the stronger the penalty


@dataclass(frozen=True)
class Row:
    """One way of telling biomarkers.

    Attributes:
        beginning: "imagenet", "uscl" (pretrained on these clips, all of them, without labels) or "random".
        head: "linear" (mean and spread of the frames' features, logistic regression) or "extractor".
        size, frames: Of the cached clips.
        settings: Of the extractor, where they are not the defaults.
        shift: Share of channels that the temporal shift moves each way.
        first: On the first division only.
        compare: The rows that this one is compared with, in pairs.
    """

    beginning: str
    head: str = "extractor"
    size: int = 224
    frames: int = 16
    settings: tuple[tuple[str, Any], ...] = ()
    shift: float = 0.0
    first: bool = False
    compare: tuple[str, ...] = ("linear",)


def _extractor(beginning: str = "imagenet", **choice: Any) -> Row:
    known = {field.name for field in dataclasses.fields(Row)}
    settings = {"calibration": "none", **{k: v for k, v in choice.items() if k not in known}}
    return Row(beginning, settings=tuple(settings.items()), **{k: v for k, v in choice.items() if k in known})


_SMALL = {"size": 112, "frames": 32}
ROWS = {
    "linear": Row("imagenet", "linear", compare=()),
    "lse": _extractor(calibration="inner"),
    "mean": _extractor(pooling="mean", compare=("linear", "lse")),
    "attention": _extractor(pooling="attention", compare=("linear", "lse")),
    "noisy_or": _extractor(pooling="noisy_or", compare=("linear", "lse")),
    "shift": _extractor(shift=0.125, compare=("linear", "lse")),
    "seed_1": _extractor(seed=1000, compare=("linear", "lse")),
    "seed_2": _extractor(seed=2000, compare=("linear", "lse")),
    "uscl_linear": Row("uscl", "linear"),
    "uscl": _extractor("uscl", compare=("linear", "uscl_linear")),
    "random_linear": Row("random", "linear"),
    "small_linear": Row("imagenet", "linear", **_SMALL),
    "small": _extractor(segment_frames=8, compare=("linear", "small_linear"), **_SMALL),
    "small_uscl": _extractor("uscl", segment_frames=8, compare=("linear", "small_linear"), **_SMALL),
    "part": _extractor(tune="part", first=True, compare=("small_linear", "small"), **_SMALL),
    "part_shift": _extractor(tune="part", shift=0.125, first=True, compare=("small_linear", "part"), **_SMALL),
}


class Study:
    """Clips, division and everything that rows share."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.data, self.weights, self.pretrained, self.out = options.data, options.weights, options.backbone, options.out
        self.splits = read_splits(options.splits)
        self._features: dict[tuple[Any, ...], FrozenFeatures] = {}

    def clips(self, row: Row) -> CachedClips:
        """The cached clips of a row's size."""
        settings = CacheSettings(size=row.size, sampling=Sampling(frames=row.frames))
        return prepare(self._manifest, self.out / "cache", settings)

    def backbone(self, row: Row) -> Backbone:
        """Where a row begins."""
        if row.beginning == "uscl":
            return load_backbone(self.pretrained)
        weights = self.weights if row.beginning == "imagenet" else "none"
        return build_backbone(NETWORK, weights=weights, temporal_shift=row.shift)

    def division(self, row: Row) -> Splits:
        """All ten, or the first one."""
        return first_division(self.splits) if row.first else self.splits

    def outcome(self, name: str, row: Row) -> OutOfFold:
        """Predictions out of fold; an extractor set is trained where it is not there."""
        clips, splits = self.clips(row), self.division(row)
        table = clips.table.assign(**{splits.patient_column: clips.manifest.patients()})
        if row.head == "linear":
            file = self.out / "linear" / f"{row.beginning}-{row.size}.npy"
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                np.save(file, embed_clips(self.backbone(row), clips, size=row.size, progress=name))
            return biomarker_probe(np.load(file), table, BIOMARKERS, splits)
        folder = self.out / "extractors" / name
        settings = BiomarkerSettings(BIOMARKERS, **dict(row.settings))
        if not (folder / "report.json").exists():
            config = {"row": json.loads(json.dumps(dataclasses.asdict(row)))}
            features = self._frozen(row, clips, settings) if settings.tune == "none" else None
            train_biomarkers(clips, self.backbone(row), folder, settings, splits=splits, config=config, features=features)
        return _read(folder / "out_of_fold.csv", table, splits)

    def penalties(self) -> dict[str, float]:
        """Mean AUROC of the linear head at other strengths of its penalty: is it a straw man?"""
        row = ROWS["linear"]
        clips = self.clips(row)
        features = np.load(self.out / "linear" / f"{row.beginning}-{row.size}.npy")
        patients = clips.manifest.patients()
        folds = fold_rows(self.splits, clips.table["clip_id"].to_numpy(dtype=str), patients)
        labels = clips.table[list(BIOMARKERS)].to_numpy(dtype=np.float64)
        found = {}
        for strength in PENALTIES:
            probabilities = np.full((self.splits.repeats, *labels.shape), np.nan)
            for fold in folds:
                for column in range(len(BIOMARKERS)):
                    head = make_pipeline(
                        StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=1000)
                    ).fit(features[fold.train], labels[fold.train, column])
                    probabilities[fold.repeat, fold.test, column] = head.predict_proba(features[fold.test])[:, 1]
            sides = [np.isin(np.arange(len(labels)), fold.train) for fold in folds]
            outcome = OutOfFold(probabilities, labels, patients, sides)
            found[f"{strength:g}"] = score_biomarkers(outcome, BIOMARKERS)["macro_auroc"]["value"]
        return found

    def _frozen(self, row: Row, clips: CachedClips, settings: BiomarkerSettings) -> FrozenFeatures:
        plan = SegmentPlan(settings.segments, settings.segment_frames)
        key = (row.beginning, row.size, row.shift, plan)
        if key not in self._features:
            self._features[key] = frozen_features(clips, FeaturePass(self.backbone(row), plan, torch.device("cpu")), plan)
        return self._features[key]

    @cached_property
    def _manifest(self) -> Any:
        return read_manifest(self.data / "manifest.csv", binary=BIOMARKERS, required=BIOMARKERS)


def main() -> None:
    """Run what is missing, then write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--splits", type=Path, default=Path("runs/pocus_road/splits.json"))
    parser.add_argument("--backbone", type=Path, default=Path("runs/pocus_road/backbone"))
    parser.add_argument("--out", type=Path, default=Path("runs/pocus_biomarkers"))
    parser.add_argument("--rows", default="", help="only these, separated by commas; the page is then not written")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results")
    options = parser.parse_args()
    study = Study(options)
    wanted = [name for name in options.rows.split(",") if name] or list(ROWS)
    if not options.backbone.is_dir():
        wanted = [name for name in wanted if ROWS[name].beginning != "uscl"]
    outcomes = {}
    for name in wanted:
        print(f"row {name}", file=sys.stderr, flush=True)
        outcomes[name] = study.outcome(name, ROWS[name])
    if options.rows:
        return
    write_json(options.results / "pocus_biomarkers.json", _figures(study, outcomes))
    pictures = options.results.parent / "pictures"
    pictures.mkdir(exist_ok=True)
    shutil.copyfile(options.out / "extractors" / "lse" / "reliability.png", pictures / "reliability.png")
    write_results_page(options.results)


def _figures(study: Study, outcomes: dict[str, OutOfFold]) -> dict[str, Any]:
    report = json.loads((study.out / "extractors" / "lse" / "report.json").read_text(encoding="utf-8"))
    first = {name: _only_first(outcome, study.splits) for name, outcome in outcomes.items()}
    differences: dict[str, Any] = {}
    for name in outcomes:
        ours = first if ROWS[name].first else outcomes
        differences[name] = {
            other: compare_macro_auroc(ours[name], ours[other]).as_dict() for other in ROWS[name].compare if other in outcomes
        }
    return {
        "command": "python benchmarks/pocus_biomarkers.py --data ../shared/pocus --weights WEIGHTS",
        "data": data_fingerprint(study.data),
        "splits": study.splits.fingerprint(),
        "seed": 0,
        "threads": torch.get_num_threads(),
        "environment": environment(),
        "rows": {name: dataclasses.asdict(ROWS[name]) for name in outcomes},
        "scores": {name: score_biomarkers(outcome, BIOMARKERS) for name, outcome in outcomes.items()},
        "first_division": {name: score_biomarkers(outcome, BIOMARKERS)["macro_auroc"] for name, outcome in first.items()},
        "differences": differences,
        "calibration": report["calibration"],
        "penalties": study.penalties(),
    }


def first_division(splits: Splits) -> Splits:
    """The same splits with their first division only."""
    return dataclasses.replace(splits, folds=tuple(fold for fold in splits.folds if fold.repeat == 0))


def _only_first(outcome: OutOfFold, splits: Splits) -> OutOfFold:
    folds = len(first_division(splits).folds)
    return dataclasses.replace(outcome, probabilities=outcome.probabilities[:1], training_sides=outcome.training_sides[:folds])


def _read(file: Path, table: pd.DataFrame, splits: Splits) -> OutOfFold:
    """An extractor set's predictions, in the clips' order."""
    predictions = pd.read_csv(file, dtype={"clip_id": str})
    ids = table["clip_id"].to_numpy(dtype=str)
    place = pd.Series(np.arange(len(ids)), index=ids)
    probabilities = np.full((splits.repeats, len(ids), len(BIOMARKERS)), np.nan)
    values = predictions[[f"p_{name}" for name in BIOMARKERS]].to_numpy()
    probabilities[predictions["repeat"].to_numpy(), place.loc[predictions["clip_id"]].to_numpy()] = values
    labels = table[list(BIOMARKERS)].to_numpy(dtype=np.float64)
    sides = [np.isin(ids, splits.train_ids(k)) for k in range(len(splits.folds))]
    return OutOfFold(probabilities, labels, table[splits.patient_column].to_numpy(dtype=str), sides)


if __name__ == "__main__":
    main()
