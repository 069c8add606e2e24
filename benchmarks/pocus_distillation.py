"""The primary task of the public POCUS clips by students a thousand times smaller than their teachers.

    OMP_NUM_THREADS=1 python benchmarks/pocus_distillation.py --data ../shared/pocus --unlabelled ../shared/clips-unlabelled \
        --weights ../shared/weights/FILE.safetensors

Diagnosis of convex clips, in the folds of the other studies' first two divisions. Each fold's teacher is an ensemble of four
EfficientNet-Lite0 fine-tuned on its training clips; students are micro networks from random weights, taught by labels alone,
by labels and the teacher's answers, and by its feature maps as well, on the same views. The pilot ran inside the training
side of the first fold (``--only pilot``); the arms stood fixed before any test fold was predicted by a student.

Everything finished lies below ``--out`` and is not made again. Writes docs/results/pocus_distillation.json, the picture
docs/pictures/distillation-pareto.png and docs/results.md.
"""

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import torch
from distillation_tables import draw_pareto
from pocus_data import data_fingerprint
from pocus_distillation_pilot import run_pilot
from pocus_distillation_students import (
    ARMS,
    FRAMES_TAUGHT,
    FRAMES_TESTED,
    LOOKS,
    Lesson,
    lesson,
    open_organs,
    predict,
    train_student,
)
from pocus_distillation_teachers import (
    AUGMENT,
    EPOCHS,
    LABEL,
    MEMBERS,
    TEACHER_LOOP,
    Clips,
    open_clips,
    open_ensemble,
    teacher_cost,
    train_member,
)
from pocus_fine_tuned import DIVISIONS, NETWORK, SEED, SIZE
from results_page import write_results_page
from sonokit.atomic import write_json
from sonokit.backbones.build import build_backbone
from sonokit.clips.cached_clips import CachedClips
from sonokit.clips.splits import read_splits
from sonokit.distill.students.build import build_student
from sonokit.distill.students.measure import measure_student
from sonokit.distill.students.profile import profile_student
from sonokit.distill.training.learners import Classifier, Ensemble, mean_logits
from sonokit.evaluation.bootstrap import Interval
from sonokit.evaluation.comparison import compare_predictions
from sonokit.evaluation.fine_tuned_folds import Watch
from sonokit.evaluation.out_of_fold import FoldRows
from sonokit.evaluation.predictions import Predictions
from sonokit.run_folder import environment

ROOT = Path(__file__).parents[1]
TEACHER, MEMBER = "teacher", "member"
MARGIN = 0.05
ROWS = [("micro-10k", arm, 0) for arm in ARMS]
"""Students: network, arm, seed."""
SCORE = "balanced_accuracy"


@dataclass(frozen=True)
class Study:
    """What the folds are made of, and where finished ones lie."""

    clips: Clips
    organs: CachedClips
    weights: str
    out: Path

    @property
    def folds(self) -> list[FoldRows]:
        """Of the divisions that have teachers."""
        return self.clips.folds(DIVISIONS)

    def teach(self) -> None:
        """Train what is missing of the teachers, one member of each fold after the other."""
        for member in range(MEMBERS):
            for fold in self.folds:
                train_member(self.clips, fold, member, self.weights, self.out / "teachers", SEED)

    def run(self, rows: list[tuple[str, str, int]]) -> None:
        """What is missing of these students (network, arm, seed), fold by fold."""
        for fold in self.folds:
            self.of_teacher(fold)
            if missing := [row for row in rows if not self._file(*row, fold).exists()]:
                given = self._lesson(fold)
                for row in missing:
                    self._learn(given, *row, fold)

    def of_teacher(self, fold: FoldRows) -> dict[str, Any]:
        """What a fold's ensemble, and its members alone, say of the test clips."""

        def compute() -> dict[str, Any]:
            ensemble, views = self._ensemble(fold), self.clips.views(fold.test, FRAMES_TESTED)
            alone = [predict(member, views).tolist() for member in ensemble.members]
            return {"values": predict(ensemble, views).tolist(), "members": alone}

        return self.kept(f"teacher-fold-{fold.index:03d}", compute)

    def kept(self, name: str, compute: Callable[[], Any]) -> Any:
        """What ``compute`` found, from the file where it was run before."""
        file = self.out / "students" / f"{name}.json"
        if not file.exists():
            print(name, file=sys.stderr, flush=True)
            write_json(file, compute())
        return json.loads(file.read_text(encoding="utf-8"))

    def _ensemble(self, fold: FoldRows) -> Ensemble:
        return open_ensemble(self.clips, fold, self.weights, self.out / "teachers")

    def _lesson(self, fold: FoldRows) -> Lesson:
        watch, folder = Watch(), self.out / "taught" / f"fold-{fold.index:03d}"
        given = lesson(self.clips, None, fold, self._ensemble(fold), folder=folder)
        self.kept(f"asking-fold-{fold.index:03d}", watch.lap)
        return given

    def _learn(self, given: Lesson, network: str, arm: str, seed: int, fold: FoldRows) -> None:
        watch = Watch()
        student, history = train_student(given, network, ARMS[arm], self.clips.labelled.classes, 100 * fold.index + seed)
        values = predict(student, self.clips.views(fold.test, FRAMES_TESTED)).tolist()
        file = self._file(network, arm, seed, fold)
        print(file.stem, history[-1], file=sys.stderr, flush=True)
        write_json(file, {"values": values, "losses": [history[0], history[-1]], "cost": watch.lap()})

    def _file(self, network: str, arm: str, seed: int, fold: FoldRows) -> Path:
        return self.out / "students" / f"{network}-{arm}-seed-{seed}-fold-{fold.index:03d}.json"

    def every_row(self, rows: list[tuple[str, str, int]]) -> dict[str, Predictions]:
        """Predictions of the teacher, its first member, and every student, ``NETWORK/ARM``, its seeds as further repeats."""
        found = {
            TEACHER: self._predictions([lambda fold: self.of_teacher(fold)["values"]]),
            MEMBER: self._predictions([lambda fold: self.of_teacher(fold)["members"][0]]),
        }
        for network, arm in dict.fromkeys(row[:2] for row in rows):
            seeds = [seed for row in rows if row[:2] == (network, arm) for seed in row[2:]]
            found[f"{network}/{arm}"] = self._predictions([self._reader(network, arm, seed) for seed in seeds])
        return found

    def cost(self, rows: list[tuple[str, str, int]]) -> dict[str, float]:
        """CPU seconds of a fold, mean over the folds."""
        spent = {
            "teacher": [sum(one["cpu_seconds"] for one in teacher_cost(fold, self.out / "teachers")) for fold in self.folds],
            "asking": [self.kept(f"asking-fold-{fold.index:03d}", dict)["cpu_seconds"] for fold in self.folds],
        }
        for network, arm, seed in rows:
            own = [self._learnt(network, arm, seed, fold)["cost"]["cpu_seconds"] for fold in self.folds]
            spent[f"{network}/{arm}"] = spent.get(f"{network}/{arm}", []) + own
        return {name: round(float(np.mean(values)), 1) for name, values in spent.items()}

    def _reader(self, network: str, arm: str, seed: int) -> Callable[[FoldRows], list[Any]]:
        return lambda fold: self._learnt(network, arm, seed, fold)["values"]

    def _learnt(self, network: str, arm: str, seed: int, fold: FoldRows) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._file(network, arm, seed, fold).read_text(encoding="utf-8"))
        return found

    def _predictions(self, of_fold: list[Callable[[FoldRows], list[Any]]]) -> Predictions:
        """Out-of-fold predictions of all clips: a repeat for each reader in each division."""
        labelled = self.clips.labelled
        values = np.full((len(of_fold), DIVISIONS, len(labelled), len(labelled.classes)), np.nan)
        for number, read in enumerate(of_fold):
            for fold in self.folds:
                values[number, fold.repeat, fold.test] = np.array(read(fold))
        return labelled.predictions(values.reshape(-1, *values.shape[2:]))


def main() -> None:
    """Run what is missing, then write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--unlabelled", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--road", type=Path, default=Path("runs/pocus_road"), help="the road study's folder, for its splits")
    parser.add_argument("--cache", type=Path, default=Path("runs/pocus_experts/cache"))
    parser.add_argument("--out", type=Path, default=Path("runs/pocus_distillation"))
    parser.add_argument("--only", choices=("teachers", "pilot", "students", "sizes"), help="run these, and write nothing")
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results")
    options = parser.parse_args()
    clips = open_clips(options.data, read_splits(options.road / "splits.json"), options.cache)
    study = Study(clips, open_organs(options.unlabelled, options.out), str(options.weights), options.out)
    steps: dict[str, Callable[[], Any]] = {
        "pilot": lambda: study.kept("pilot", lambda: run_pilot(clips, study.organs, study.folds[0], study.weights, study.out)),
        "teachers": study.teach,
        "students": lambda: [study.run(ROWS[:2]), study.run(ROWS)],
        "sizes": lambda: study.kept("sizes", lambda: measure_sizes([network for network, _, _ in ROWS], study.weights)),
    }
    for name, step in steps.items():
        if options.only in (None, name):
            step()
    if not options.only:
        found = measure(study, options.data, options.results)
        write_json(options.results / "pocus_distillation.json", found)
        draw_pareto(found, options.results.parent / "pictures" / "distillation-pareto.png")
        write_results_page(options.results)


class _AsOne(torch.nn.Module):
    """An ensemble as a plain network from frames to logits, to be weighed and timed like a student."""

    def __init__(self, members: list[Classifier]) -> None:
        super().__init__()
        self.members = torch.nn.ModuleList(members)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """[B, 1, S, S] → [B, K]."""
        logits = mean_logits([member(frames) for member in self.members], several=False)
        assert logits is not None
        return logits


def measure_sizes(networks: list[str], weights: str, rounds: int = 40) -> dict[str, dict[str, Any]]:
    """Size and latency of everything, timed in turns; the quickest round counts, since other work on the machine only slows."""
    classes, frames = ("a", "b", "c"), (1, SIZE, SIZE)
    made: dict[str, torch.nn.Module] = {
        TEACHER: _AsOne([Classifier(build_backbone(NETWORK, weights=weights), classes) for _ in range(MEMBERS)]),
        MEMBER: Classifier(build_backbone(NETWORK, weights=weights), classes),
        **{network: Classifier(build_student(network), classes) for network in networks},
    }
    times: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(rounds):
        for name, module in made.items():
            repeats = 1 if name in (TEACHER, MEMBER) else 20  # short enough not to be interrupted every time
            times[name].append(measure_student(module, frames, repeats=repeats, warm_up=1).latency_ms)
    return {
        name: {
            **asdict(profile_student(module, frames)),
            "latency_ms": min(times[name]),
            "latency_middle_round_ms": float(np.median(times[name])),
            "load": os.getloadavg()[0],
        }
        for name, module in made.items()
    }


def measure(study: Study, data: Path, results: Path) -> dict[str, Any]:
    """Every figure."""
    predictions = study.every_row(ROWS)
    sizes = study.kept("sizes", dict)
    labelled = study.clips.labelled
    return {
        "command": "OMP_NUM_THREADS=1 python benchmarks/pocus_distillation.py --data ../shared/pocus --unlabelled "
        "../shared/clips-unlabelled --weights WEIGHTS",
        "data": data_fingerprint(data),
        "splits": study.clips.splits.fingerprint(),
        "seed": SEED,
        "divisions": DIVISIONS,
        "threads": torch.get_num_threads(),
        "environment": environment(),
        "clips": len(labelled),
        "patients": len(np.unique(labelled.patients)),
        "classes": list(labelled.classes),
        "settings": {
            "teacher": {"network": NETWORK, "members": MEMBERS, "loop": asdict(TEACHER_LOOP), "epochs": list(EPOCHS)},
            "augment": asdict(AUGMENT),
            "views": {
                "size": SIZE,
                "frames_taught": FRAMES_TAUGHT,
                "frames_tested": FRAMES_TESTED,
                "looks": LOOKS,
            },
            "arms": {name: asdict(arm) for name, arm in ARMS.items()},
        },
        "pilot": study.kept("pilot", dict),
        "rows": {
            name: {
                "network": _network(name),
                "arm": _arm(name),
                "size": sizes[_network(name)],
                "scores": _plain(one.intervals()),
                "by_division": [round(scores[SCORE], 4) for scores in one.by_repeat()],
            }
            for name, one in predictions.items()
        },
        "differences": _differences(predictions),
        "agreement": {name: _agreement(one, predictions[TEACHER]) for name, one in predictions.items()},
        "ratios": {name: sizes[TEACHER]["parameters"] / sizes[name]["parameters"] for name in sizes},
        "margin": MARGIN,
        "floors": _floors(results),
        "cost": study.cost(ROWS),
    }


def _differences(predictions: dict[str, Predictions]) -> dict[str, Any]:
    """Paired: each student against the teacher, one of its members, and the student of labels alone of the same size."""
    found = {}
    for name, one in predictions.items():
        plain = f"{_network(name)}/labels"
        for other in (TEACHER, MEMBER, plain):
            if other in predictions and other != name and name != TEACHER:
                found[f"{name} - {other}"] = _plain(compare_predictions(one, predictions[other]))
    return found


def _agreement(one: Predictions, teacher: Predictions) -> float:
    """Share of the clips of which both say the same class, over all seeds and divisions."""
    said = one.values.argmax(axis=2).reshape(-1, *teacher.values.shape[:2])  # [seeds, divisions, N]
    return round(float((said == teacher.values.argmax(axis=2)).mean()), 4)


def _floors(results: Path) -> dict[str, Any]:
    """What the study of experts measured on these clips, over its own ten divisions."""
    task = json.loads((results / "pocus_experts.json").read_text(encoding="utf-8"))["tasks"][LABEL]
    row = task["rows"]["imagenet-linear"]
    floors = {
        floor["title"]: floor["scores"] for floor in row["floors"] if "scores" in floor and floor["name"] != "site_left_out"
    }
    return floors | {"frozen ImageNet backbone, linear": row["scores"]}


def _network(row: str) -> str:
    return row.partition("/")[0]


def _arm(row: str) -> str:
    return row.partition("/")[2] or row


def _plain(intervals: dict[str, Interval]) -> dict[str, Any]:
    return {name: figure.as_dict() for name, figure in intervals.items()}


if __name__ == "__main__":
    main()
