"""Do gaze and regions teach, where it is known that they should? The arms of both on simulated images, seed by seed.

Every seed draws its own training images, test images and networks; nothing is chosen by a test. The settings were found on
seeds from 100 on and are fixed here. Finished seeds lie in the folder ``--out`` and are not run again. The figures go into
docs/results/simulated_knowledge.json.

    python benchmarks/simulated_knowledge.py --out runs/simulated_knowledge
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sonokit.atomic import write_json
from sonokit.distill.signals.labels import UNKNOWN
from sonokit.distill.simulation.cues import simulate_cues
from sonokit.distill.simulation.marked_signs import simulate_marked_signs
from sonokit.distill.study.arms import ArmSettings
from sonokit.distill.study.gaze_arms import GAZE_ARMS, GazeEntrance, gaze_arms
from sonokit.distill.study.over_seeds import differences_over_seeds, over_seeds
from sonokit.distill.study.region_arms import REGION_ARMS, Dimming, region_arms
from sonokit.distill.training.augmented import AugmentSettings
from sonokit.distill.training.loop import LoopSettings
from sonokit.evaluation.scores import score
from sonokit.run_folder import environment

Run = Callable[[int], dict[str, Any]]
RESULT = Path(__file__).resolve().parents[1] / "docs" / "results" / "simulated_knowledge.json"
TEST_SEED = 10_000  # added to a seed for its test images

GAZE_TASK: dict[str, Any] = {"distractors": 3, "contrast_db": 12.0, "size": (64, 64)}
GAZE_TRAIN: dict[str, Any] = {"n": 800, "label_noise": 0.2}
GAZE_LABELLED = 400  # of them; of the others there are gaze and the teachers' answers
GAZE_ENTRANCE = GazeEntrance("features", 4)
GAZE_SETTINGS = ArmSettings(
    teacher="micro-25k",
    student="micro-10k",
    looks=2,
    augment=AugmentSettings(flip=0.5),
    teacher_loop=LoopSettings(epochs=10, batch=16, learning_rate=1e-2),
    student_loop=LoopSettings(epochs=10, batch=16, learning_rate=1e-2),
)
GAZE_PAIRS = [
    ("gaze_teacher", "plain_teacher"),
    ("gaze", "plain"),
    ("gaze", "labels"),
    ("plain", "labels"),
    ("gaze_sharing", "plain_sharing"),
    ("gaze_sharing", "gaze"),
]

REGION_TASK: dict[str, Any] = {"distractors": 2, "speck_db": 32.0, "size": (64, 64)}
REGION_TRAIN: dict[str, Any] = {"n": 600, "shortcut": 0.6}
REGION_LABELLED = 200
REGION_DIMMING = Dimming(dimmed=0.1, edge=2.0)
REGION_SETTINGS = ArmSettings(
    teacher="micro-25k",
    student="micro-10k",
    looks=2,
    augment=AugmentSettings(flip=0.5),
    teacher_loop=LoopSettings(epochs=20, batch=16, learning_rate=1e-2),
    student_loop=LoopSettings(epochs=8, batch=16, learning_rate=1e-2),
)
REGION_PAIRS = [
    ("masked", "raw"),
    ("masked", "shuffled"),
    ("masked", "labels"),
    ("masked_overlap", "masked"),
    ("masked_overlap", "raw"),
    ("raw", "labels"),
    ("shuffled", "raw"),
]
TESTED = 400


def main() -> None:
    """Run the seeds that are missing, then write the figures of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="where finished seeds are kept")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)))
    parser.add_argument("--study", choices=("gaze", "regions"), nargs="+", default=["gaze", "regions"])
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    every: dict[str, tuple[Run, dict[str, Any], list[tuple[str, str]]]] = {
        "gaze": (gaze_seed, gaze_settings(), GAZE_PAIRS),
        "regions": (region_seed, region_settings(), REGION_PAIRS),
    }
    studies = {name: _study(options, name, *every[name]) for name in options.study}
    write_json(
        options.result,
        {
            "command": "python benchmarks/simulated_knowledge.py --out OUT",
            "seeds": options.seeds,
            "interval": "Student's t over seeds, 95 %; each seed has its own training images, test images and networks; "
            "differences within a seed",
            "environment": environment(),
            **studies,
        },
    )


def gaze_settings() -> dict[str, Any]:
    """All that decides the figures of the gaze study."""
    return {
        "task": GAZE_TASK,
        "train": GAZE_TRAIN | {"labelled": GAZE_LABELLED},
        "tested": TESTED,
        "entrance": asdict(GAZE_ENTRANCE),
        "arms": asdict(GAZE_SETTINGS),
    }


def region_settings() -> dict[str, Any]:
    """All that decides the figures of the region study."""
    return {
        "task": REGION_TASK,
        "train": REGION_TRAIN | {"labelled": REGION_LABELLED},
        "tested": TESTED,
        "dimming": asdict(REGION_DIMMING),
        "arms": asdict(REGION_SETTINGS),
    }


def gaze_seed(seed: int) -> dict[str, Any]:
    """Arm -> scores on this seed's test images."""
    train = simulate_cues(**GAZE_TRAIN, **GAZE_TASK, seed=seed)
    test = simulate_cues(TESTED, **GAZE_TASK, seed=seed + TEST_SEED)
    settings = ArmSettings(**{**vars(GAZE_SETTINGS), "seed": seed})
    said = gaze_arms(
        train.views(labelled=GAZE_LABELLED), test.views(true=True), train.class_names, settings, entrance=GAZE_ENTRANCE
    )
    return {name: _scores(test.classes, said[name]) for name in GAZE_ARMS}


def region_seed(seed: int) -> dict[str, Any]:
    """Arm -> scores on this seed's test images, and of students the energy inside the region."""
    train = simulate_marked_signs(**REGION_TRAIN, **REGION_TASK, seed=seed)
    test = simulate_marked_signs(TESTED, shortcut=0.0, **REGION_TASK, seed=seed + TEST_SEED)
    settings = ArmSettings(**{**vars(REGION_SETTINGS), "seed": seed})
    given = np.where(np.arange(len(train)) < REGION_LABELLED, train.classes, UNKNOWN)
    found = region_arms(replace(train.views(), labels=given), test.views(), train.class_names, settings, dimming=REGION_DIMMING)
    rows = {name: _scores(test.classes, found.probabilities[name]) for name in REGION_ARMS}
    for name, energy in found.energy.items():
        rows[name] |= {"energy_inside": float(np.nanmean(energy)), "energy_undefined": float(np.isnan(energy).mean())}
    rows["even"] = {"energy_inside": float(np.nanmean(found.area))}
    return rows


def _scores(truth: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    return {name: round(value, 6) for name, value in score("classification", truth, probabilities).items()}


def _study(
    options: argparse.Namespace,
    name: str,
    run: Run,
    settings: dict[str, Any],
    pairs: list[tuple[str, str]],
) -> dict[str, Any]:
    """Settings, every seed's scores, means and paired differences of each score."""
    plain = json.loads(json.dumps(settings))
    seeds = {str(seed): _seed(options.out / f"{name}-{seed}.json", seed, run, plain) for seed in options.seeds}
    scores: dict[str, dict[str, list[float]]] = {}  # of a score: arm -> one value a seed
    for rows in seeds.values():
        for arm, values in rows.items():
            for what, value in values.items():
                scores.setdefault(what, {}).setdefault(arm, []).append(value)
    return {
        "settings": plain,
        "per_seed": seeds,
        "scores": {what: {arm: over_seeds(v).as_dict() for arm, v in arms.items()} for what, arms in scores.items()},
        "differences": {
            what: {pair: found.as_dict() for pair, found in differences_over_seeds(arms, _there(pairs, arms)).items()}
            for what, arms in scores.items()
        },
    }


def _there(pairs: list[tuple[str, str]], arms: dict[str, list[float]]) -> list[tuple[str, str]]:
    return [pair for pair in pairs if pair[0] in arms and pair[1] in arms]


def _seed(file: Path, seed: int, run: Run, settings: dict[str, Any]) -> dict[str, Any]:
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["settings"] == settings:
            return dict(kept["arms"])
    began = time.perf_counter()
    arms = run(seed)
    seconds = round(time.perf_counter() - began)
    write_json(file, {"settings": settings, "arms": arms, "seconds": seconds})
    print(file.stem, {arm: values.get("accuracy") for arm, values in arms.items()}, f"{seconds} s", flush=True)
    return arms


if __name__ == "__main__":
    main()
