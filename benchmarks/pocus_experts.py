"""Experts on the public POCUS clips, and what they cost beside end-to-end fine-tuning.

    OMP_NUM_THREADS=1 python benchmarks/pocus_experts.py --data ../shared/pocus --weights ../shared/weights/FILE.safetensors

Diagnosis (three classes) and severity (four ordered levels) of convex clips, from frozen backbones, from a biomarker extractor
trained inside the folds and from its probabilities alone; the five signs; distilled experts; shuffled labels as a control; the
audit. Every expert is a folder below ``--out`` and is not fitted again (after a change of the code remove ``experts`` and
``parts`` there); networks are fine-tuned fold by fold (minutes each, ``--only fine-tuned`` does just that). Stores come from
the road study's folder, which is made where it is missing.

Fixed before any figure was seen: the linear head on mean and spread (``linear``) is each store's expert. Everything else is
shown as it comes, and nothing is chosen by what is reported. Writes docs/results/pocus_experts.json and docs/results.md.
"""

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import torch
from pocus_data import data_fingerprint
from pocus_expert_controls import distilled, few_labels, five_signs, oracle, shuffled
from pocus_expert_costs import costs
from pocus_expert_stores import Stores, open_expert_stores
from pocus_fine_tuned import DIVISIONS, SEED, TASKS, WHERE, FineTuning, open_fine_tuning
from results_page import write_results_page
from sonokit.atomic import write_json
from sonokit.clips.splits import read_splits
from sonokit.evaluation.bootstrap import Interval
from sonokit.evaluation.comparison import compare_predictions
from sonokit.evaluation.fine_tuned_folds import Watch
from sonokit.evaluation.predictions import Predictions, predictions_from_dict
from sonokit.experts.audit import audit
from sonokit.experts.fit import fit_expert
from sonokit.run_folder import environment

ROOT = Path(__file__).parents[1]
REFERENCE = "imagenet-linear"


@dataclass(frozen=True)
class Row:
    """One expert of each task.

    Attributes:
        store: See ``pocus_expert_stores.py``.
        heads, recipe: Of ``fit_expert``; "auto" chooses inside the training rows of each fold.
        divisions: None: all that the store's splits have.
    """

    store: str
    heads: tuple[str, ...] = ("linear",)
    recipe: str = "mean_std"
    divisions: int | None = None


ROWS = {
    REFERENCE: Row("imagenet"),
    "transductive-linear": Row("transductive"),
    "inductive-linear": Row("inductive"),
    "extractor-linear": Row("extractor"),
    "biomarkers-linear": Row("extractor", recipe="biomarkers"),
    "biomarkers-xgboost": Row("extractor", ("xgboost",), "biomarkers"),
    "imagenet-auto": Row("imagenet", ("auto",), "auto", DIVISIONS),
    "transductive-auto": Row("transductive", ("auto",), "auto", DIVISIONS),
    "inductive-auto": Row("inductive", ("auto",), "auto"),
    "extractor-auto": Row("extractor", ("auto",), "auto"),
}
AUDITED = ("imagenet", "transductive", "extractor")


@dataclass(frozen=True)
class Study:
    """Stores, fine-tuned folds, and where finished parts lie."""

    out: Path
    stores: Stores
    tuning: FineTuning

    def expert(self, label: str, name: str) -> dict[str, Any]:
        """The report of a row's expert, and what fitting it cost."""
        row, folder = ROWS[name], self.out / "experts" / f"{label}-{name}"

        def fit() -> dict[str, Any]:
            watch = Watch()
            fit_expert(
                self.stores.open(row.store), label, folder, task=TASKS[label], where=WHERE, heads=row.heads, recipe=row.recipe,
                splits=self.stores.divided(row.store, row.divisions), seed=SEED, progress=True,
            )  # fmt: skip
            return watch.lap()

        cost = _kept(folder / "cost.json", fit)
        return json.loads((folder / "report.json").read_text(encoding="utf-8")) | {"cost": cost}

    def kept(self, name: str, compute: Callable[[], Any]) -> Any:
        """What ``compute`` found, from ``parts/<name>.json`` where it was run before."""
        return _kept(self.out / "parts" / f"{name}.json", compute)


def main() -> None:
    """Run what is missing, then write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--road", type=Path, default=Path("runs/pocus_road"), help="the road study's folder")
    parser.add_argument("--out", type=Path, default=Path("runs/pocus_experts"))
    parser.add_argument("--only", choices=("fine-tuned", "experts"), help="run these, and write nothing")
    parser.add_argument("--rows", help="names of rows, separated by commas (default: all)")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results")
    options = parser.parse_args()
    stores = open_expert_stores(options.data, str(options.weights), options.road, options.out / "stores")
    tuning = open_fine_tuning(options.data, str(options.weights), read_splits(options.road / "splits.json"), options.out)
    study = Study(options.out, stores, tuning)
    rows = options.rows.split(",") if options.rows else list(ROWS)
    if options.only != "fine-tuned":
        for name in rows:
            for label in TASKS:
                study.expert(label, name)
    if options.only != "experts":
        for divisions in range(1, DIVISIONS + 1):
            for label in TASKS:
                tuning.run(label, divisions)
    if not options.only:
        write_json(options.results / "pocus_experts.json", measure(study, rows, options.data))
        write_results_page(options.results)


def measure(study: Study, rows: list[str], data: Path) -> dict[str, Any]:
    """Every figure."""
    return {
        "command": "OMP_NUM_THREADS=1 python benchmarks/pocus_experts.py --data ../shared/pocus --weights WEIGHTS",
        "data": data_fingerprint(data),
        "splits": study.stores.splits.fingerprint(),
        "seed": SEED,
        "threads": torch.get_num_threads(),
        "divisions": {"all": study.stores.splits.repeats, "fine_tuned": DIVISIONS},
        "environment": environment(),
        "rows": {name: asdict(ROWS[name]) for name in rows},
        "tasks": {label: _of_task(study, label, rows) for label in TASKS},
        "signs": study.kept("signs", lambda: five_signs(study.stores.open("imagenet"), study.stores.splits, study.out)),
        "distilled": study.kept(
            "distilled", lambda: distilled(study.stores.open("imagenet"), study.stores.splits, study.tuning.folder, study.out)
        ),
        "few_labels": study.kept("few_labels", lambda: few_labels(study.stores.open("imagenet"), study.stores.splits)),
        "cost": study.kept("cost", lambda: costs(study.stores, study.tuning, study.out)),
    }


def _of_task(study: Study, label: str, rows: list[str]) -> dict[str, Any]:
    reports = {name: study.expert(label, name) for name in rows}
    predictions = {name: predictions_from_dict(report["predictions"]) for name, report in reports.items()}
    tuned = study.tuning.run(label)
    reference = predictions[REFERENCE]
    return {
        "task": TASKS[label],
        "primary": reports[REFERENCE]["primary"],
        "data": reports[REFERENCE]["data"],
        "rows": {
            name: {
                "scores": report["scores"],
                "divisions": report["data"]["repeats"],
                "floors": report["floors"],
                "chosen": report.get("search", {}).get("chosen", report.get("chosen_in_folds", {})),
                "trust": _trust(report["trust"]),
                "cost": report["cost"],
                "minus_reference": _difference(predictions[name], reference),
                "minus_fine_tuned": _difference(predictions[name], tuned),
            }
            for name, report in reports.items()
        },
        "fine_tuned": {
            "scores": _plain(tuned.intervals()),
            "divisions": len(tuned.values),
            "reference_on_these": _plain(_divisions(reference, len(tuned.values)).intervals()),
        },
        "oracle": study.kept(f"oracle-{label}", lambda: oracle(study.stores.open("imagenet"), label, study.stores.splits)),
        "shuffled": study.kept(
            f"shuffled-{label}", lambda: shuffled(study.stores.open("imagenet"), label, study.stores.splits, study.out)
        ),
        "audit": {name: study.kept(f"audit-{label}-{name}", lambda name=name: _audit(study, label, name)) for name in AUDITED},
    }


def _trust(trust: dict[str, Any]) -> dict[str, Any]:
    """Coverage and calibration errors; curves and thresholds stay in the expert's own report."""
    sides = ("raw", "calibrated")
    return {
        "conformal": {name: trust["conformal"][name] for name in ("promised", "coverage", "size")},
        "calibration": {side: {"ece": trust["calibration"][side]["ece"]} for side in sides},
    }


def _difference(first: Predictions, second: Predictions) -> dict[str, Any]:
    """First minus second on the divisions that both have: the same folds, the same clips, the same resampled patients."""
    both = min(len(first.values), len(second.values))
    return _plain(compare_predictions(_divisions(first, both), _divisions(second, both))) | {"divisions": both}


def _divisions(predictions: Predictions, count: int) -> Predictions:
    return replace(predictions, values=predictions.values[:count])


def _audit(study: Study, label: str, name: str) -> dict[str, Any]:
    """The verdict and every check, without the lists of clips."""
    splits = study.stores.divided(name, None)
    found = audit(study.stores.open(name), label, task=TASKS[label], where=WHERE, splits=splits, seed=SEED)
    checks = [{"name": f.name, "title": f.title, "level": f.level, "reason": f.reason} for f in found.findings]
    return {"level": found.level, "sentence": found.sentence, "checks": checks}


def _kept(file: Path, compute: Callable[[], Any]) -> Any:
    if not file.exists():
        print(file.relative_to(file.parents[1]), file=sys.stderr, flush=True)
        write_json(file, compute())
    return json.loads(file.read_text(encoding="utf-8"))


def _plain(intervals: dict[str, Interval]) -> dict[str, Any]:
    return {name: figure.as_dict() for name, figure in intervals.items()}


if __name__ == "__main__":
    main()
