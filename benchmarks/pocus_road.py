"""The study behind docs/results.md: the whole road on the public POCUS clips, its baselines, and what pretraining is worth.

    python benchmarks/pocus_road.py --data ../shared/pocus --weights ../shared/weights/FILE.safetensors --out runs/pocus_road

Some 40 minutes on one core (OMP_NUM_THREADS=1); every step that is finished is not done again. It drives the demo's road, where
pretraining is *transductive* (all clips, without labels), then adds

- the random-weight network at five seeds, because one seed's floor is itself a draw;
- the *inductive* setting: one backbone a fold, pretrained on that fold's training clips only.

Writes docs/results/pocus_road.json and the tables of docs/results.md.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "examples")]

import torch
from demo import Road, drive
from demo_page import write_page
from pocus_data import data_fingerprint
from results_page import write_results_page
from sonokit import cli, cli_experts
from sonokit.atomic import write_json
from sonokit.clips.splits import read_splits
from sonokit.evaluation.comparison import compare_reports
from sonokit.experts.fit import fit_expert
from sonokit.features.store import EmbeddingStore, StoreSet
from sonokit.run_folder import environment

RESULTS = Path(__file__).parents[1] / "docs" / "results"
RANDOM_SEEDS = 5
INDUCTIVE_REPEATS = 1
QUESTION = {"label": "diagnosis", "where": {"probe": "convex"}}


def main() -> None:
    """Run what is missing, then write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/pocus_road"))
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    road = Road(options.out, options.data / "manifest.csv", str(options.weights), "tf_efficientnet_lite0", options.epochs)
    study = drive(road)
    write_page(study, options.out / "report.html")
    figures = json.loads((options.out / "results.json").read_text(encoding="utf-8"))
    splits = options.out / "splits.json"
    pretrained, imagenet = (_report(options.out / "experts" / f"diagnosis-{name}") for name in ("pretrained", "imagenet"))
    biomarkers = _report(options.out / "experts" / "diagnosis-biomarkers")
    write_json(
        RESULTS / "pocus_road.json",
        {
            "command": "python benchmarks/pocus_road.py --data ../shared/pocus --weights WEIGHTS",
            "data": data_fingerprint(options.data),
            "seed": 0,
            "epochs": options.epochs,
            "threads": torch.get_num_threads(),
            "environment": environment(),
            "experts": figures["experts"],
            "biomarkers": figures["biomarkers"],
            "signs": figures["signs"],
            "random_seeds": [_random_weights(road, seed, splits) for seed in range(RANDOM_SEEDS)],
            "transductive_minus_imagenet": _difference(pretrained, imagenet),
            "biomarkers_minus_pretrained": _difference(biomarkers, pretrained),
            "inductive": _inductive(road),
        },
    )
    write_results_page(RESULTS)


def _random_weights(road: Road, seed: int, splits: Path) -> dict[str, Any]:
    """Scores of the frozen network with the random weights of a seed."""
    store = road.out / "stores" / f"random-{seed}"
    road.run(cli.extract_features, manifest=road.manifest, model=road.backbone, out=store, seed=seed, cache=road.out / "cache")
    expert = road.out / "experts" / f"diagnosis-random-{seed}"
    road.run(cli_experts.fit_expert, store=store, label="diagnosis", out=expert, splits=splits, where=road.where)
    return _report(expert)["scores"]


def _inductive(road: Road) -> dict[str, Any]:
    """One backbone a fold, pretrained on the fold's training clips: its expert, ImageNet on the same folds, the difference."""
    folder = road.out / "inductive"
    splits, cache = folder / "splits.json", {"cache": road.out / "cache"}
    road.run(cli.split, manifest=road.manifest, label="diagnosis", out=splits, repeats=INDUCTIVE_REPEATS)
    stores = []
    for fold in range(len(read_splits(splits).folds)):
        backbone, store = folder / f"backbone-{fold}", folder / f"store-{fold}"
        road.run(cli.pretrain, manifest=road.manifest, out=backbone, backbone=road.backbone, weights=road.weights,
                 epochs=road.epochs, temperature=0.2, splits=splits, fold=fold, **cache)  # fmt: skip
        road.run(cli.extract_features, manifest=road.manifest, model=str(backbone), out=store, **cache)
        stores.append(EmbeddingStore.open(store))
    final = EmbeddingStore.open(road.out / "stores" / "pretrained")
    bank = StoreSet(folder, read_splits(splits), stores, final, floor=None)
    fair = _report(fit_expert(bank, out=folder / "expert", **QUESTION))
    before = EmbeddingStore.open(road.out / "stores" / "imagenet")
    imagenet = _report(fit_expert(before, out=folder / "expert-imagenet", splits=read_splits(splits), **QUESTION))
    seen = _report(fit_expert(final, out=folder / "expert-transductive", splits=read_splits(splits), **QUESTION))
    return {
        "repeats": INDUCTIVE_REPEATS,
        "inductive": fair["scores"],
        "transductive": seen["scores"],
        "imagenet": imagenet["scores"],
        "inductive_minus_imagenet": _difference(fair, imagenet),
        "transductive_minus_inductive": _difference(seen, fair),
    }


def _difference(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return {name: figure.as_dict() for name, figure in compare_reports(first, second).items()}


def _report(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
