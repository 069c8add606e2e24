"""A small landmark network taught by a large one: labels alone, its heat maps, and its feature maps too (FSF-LD).

    OMP_NUM_THREADS=1 python benchmarks/landmark_distillation.py --set cephalometric --data ../shared/landmarks/cephalometric \
        --weights ../shared/weights/FILE.safetensors
    OMP_NUM_THREADS=1 python benchmarks/landmark_distillation.py --set simulated

``cephalometric``: the real cephalograms of the ISBI 2015 challenge, 001 to 150 to train and 151 to 300 to test, at 0.5 mm a
pixel. ``simulated``: simulated planes of the fetal head with known landmarks. All arms of a seed have the same initial weights,
see the same augmented looks in the same order, and are trained for the same number of epochs; the teacher answers each look
once. What could be chosen was chosen on images 121 to 150 with 001 to 120 to train (or on simulated fetuses that no study
contains), before a student was scored on a test image; ``landmark_choices.py`` says what. Each arm and seed is a folder below
``--out`` and is not run again. Writes ``docs/results/cephalometric.json`` or ``docs/results/simulated_landmarks.json``.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from landmark_choices import CEPHALOMETRIC_CHOICES, LONG_CHOICES, SIMULATED_CHOICES
from landmark_figures import LABELS, OUTPUT, SHARING, STUDENTS, TEACHER, differences, figures_of_arm
from landmark_sets import LandmarkData, cephalometric_data, simulated_data
from landmark_tables import draw_landmarks
from safetensors.torch import load_file, save_file
from sonokit.atomic import atomic_path, write_json
from sonokit.distill.landmarks.distilling import (
    LandmarkSettings,
    landmark_student,
    landmark_teacher,
    student_looks,
    train_landmark_student,
    train_landmark_teacher,
)
from sonokit.distill.landmarks.metrics import landmark_scores, radial_errors
from sonokit.distill.landmarks.network import LandmarkNetwork
from sonokit.distill.landmarks.predict import never_found, predicted_points
from sonokit.distill.students.measure import measure_student
from sonokit.distill.students.profile import profile_student
from sonokit.distill.training.taught import Taught, ask
from sonokit.distill.training.views import Views
from sonokit.run_folder import environment

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Plan:
    """All that a study on one set fixes.

    Attributes:
        settings: Of teacher and student.
        seeds: Of the students.
        teacher_seeds: Of the teacher; the first one teaches.
        choices: What was chosen, how, and on what.
    """

    settings: LandmarkSettings
    seeds: tuple[int, ...]
    teacher_seeds: tuple[int, ...] = (0,)
    choices: dict[str, Any] = field(default_factory=dict)

    def arm(self, name: str, seed: int) -> LandmarkSettings:
        """Settings of one student."""
        own = replace(self.settings, seed=seed)
        return {LABELS: replace(own, alpha=0.0, sharing=0.0), OUTPUT: replace(own, sharing=0.0), SHARING: own}[name]


PLANS = {
    "cephalometric": Plan(
        LandmarkSettings(epochs=60, sharing=5.0, norm="position"), seeds=(0, 1, 2), choices=CEPHALOMETRIC_CHOICES
    ),
    "cephalometric_long": Plan(LandmarkSettings(epochs=180, sharing=2.0, norm="image"), seeds=(0, 1, 2), choices=LONG_CHOICES),
    "simulated": Plan(
        LandmarkSettings(
            size=(96, 96),
            teacher="micro_100k",
            teacher_widths={4: 48, 8: 64, 16: 64, 32: 64},
            teacher_epochs=40,
            teacher_batch=8,
            teacher_rate=5e-3,
            student="micro_10k",
            student_widths={4: 12, 8: 12, 16: 16, 32: 16},
            epochs=30,
            looks=10,
            sharing=2.0,
            norm="image",
        ),
        seeds=(0, 1, 2, 3, 4, 5),
        choices=SIMULATED_CHOICES,
    ),
}


@dataclass(frozen=True)
class Study:
    """A plan at work: data, and where finished parts lie."""

    plan: Plan
    data: LandmarkData
    out: Path

    def teacher(self, seed: int) -> LandmarkNetwork:
        """The teacher of a seed, trained where it is not there yet."""
        names, own = self.data.test.names, replace(self.plan.settings, seed=seed)
        learn = partial(train_landmark_teacher, self.data.train_views, names, own)
        return self._kept(f"{TEACHER}-{seed}", lambda: landmark_teacher(names, own), learn)

    def student(self, arm: str, seed: int) -> LandmarkNetwork:
        """A student, trained where it is not there yet."""
        names, own = self.data.test.names, self.plan.arm(arm, seed)

        def learn() -> LandmarkNetwork:
            channels = self.teacher(self.plan.teacher_seeds[0]).map_channels
            taught = None if arm == LABELS else self.taught
            started = time.process_time()  # of the student alone: what is asked once serves all
            network = train_landmark_student(self.looks, taught, channels, names, own)
            spent.append(time.process_time() - started)
            return network

        spent: list[float] = []
        return self._kept(f"{arm}-{seed}", lambda: landmark_student(names, own), learn, spent)

    def errors(self, arm: str, seeds: Sequence[int]) -> np.ndarray:
        """Radial errors on the test images in the set's unit, [R, N, L], of the points that were kept with each network."""
        truth = self.data.test
        return np.stack([radial_errors(self.points(arm, seed), truth.points, truth.spacing) for seed in seeds])

    def points(self, arm: str, seed: int) -> np.ndarray:
        """What an arm's network said of the test images, [N, L, 2] in their pixels."""
        return np.load(self.out / f"{arm}-{seed}" / "points.npy", allow_pickle=False)

    def blank(self, arm: str, seeds: Sequence[int]) -> list[list[str]]:
        """Of each seed, the landmarks whose heat maps stayed blank; no truth is needed to see it."""
        heights = [np.load(self.out / f"{arm}-{seed}" / "heights.npy", allow_pickle=False) for seed in seeds]
        return [never_found(one, self.data.test.names) for one in heights]

    def record(self, arm: str, seed: int) -> dict[str, Any]:
        """What was written of a training."""
        return json.loads((self.out / f"{arm}-{seed}" / "record.json").read_text(encoding="utf-8"))

    @cached_property
    def looks(self) -> Views:
        """What all students see, the same for all arms and seeds."""
        return student_looks(self.data.train_views, self.plan.settings)

    @cached_property
    def taught(self) -> Taught:
        """What the teacher says of them."""
        teacher = self.teacher(self.plan.teacher_seeds[0])
        return ask(teacher, self.looks, self.plan.settings.strides, folder=self.out / "taught")

    def _kept(
        self,
        name: str,
        blank: Callable[[], LandmarkNetwork],
        learn: Callable[[], LandmarkNetwork],
        spent: list[float] | None = None,
    ) -> LandmarkNetwork:
        folder = self.out / name
        if (folder / "record.json").is_file():
            network = blank()
            network.load_state_dict(load_file(folder / "network.safetensors"))
            return network.eval()
        started = time.process_time()
        network = learn()
        seconds = spent[0] if spent else time.process_time() - started
        points, heights = predicted_points(
            network, self.data.test_views, self.data.test_places, decoding=self.plan.settings.decoding
        )
        folder.mkdir(parents=True, exist_ok=True)
        save_file({key: value.contiguous() for key, value in network.state_dict().items()}, folder / "network.safetensors")
        for file, values in (("points", points), ("heights", heights)):
            with atomic_path(folder / f"{file}.npy") as place, open(place, "wb") as handle:
                np.save(handle, values)
        write_json(folder / "record.json", {"cpu_seconds": round(seconds, 1)})
        scores = landmark_scores(radial_errors(points, self.data.test.points, self.data.test.spacing))
        print(time.strftime("%H:%M:%S"), name, f"{seconds:.0f} s", json.dumps(scores.as_dict()), flush=True)
        return network


def main() -> None:
    """Train what is missing, then write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", choices=tuple(PLANS), required=True)
    parser.add_argument("--data", type=Path, default=Path("../shared/landmarks/cephalometric"))
    parser.add_argument("--weights", default="none", help="of the teacher's backbone: a .safetensors file")
    parser.add_argument("--out", type=Path, default=Path("runs/landmarks"))
    parser.add_argument("--results", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--seeds", type=int, help="only the first so many; 0 trains the teacher alone, and writes nothing")
    parser.add_argument("--picture", type=Path, help="a .png to draw of what was measured")
    options = parser.parse_args()
    torch.set_num_threads(1)
    plan = PLANS[options.set]
    seeds = plan.seeds if options.seeds is None else plan.seeds[: options.seeds]
    plan = replace(plan, settings=replace(plan.settings, teacher_weights=options.weights), seeds=seeds)
    size = plan.settings.size
    data = simulated_data(size) if options.set == "simulated" else cephalometric_data(options.data, size)
    study = Study(plan, data, options.out / options.set)
    for seed in plan.teacher_seeds[:1]:
        study.teacher(seed)
    for seed in plan.seeds:
        for arm in STUDENTS:
            study.student(arm, seed)
    for seed in plan.teacher_seeds[1:]:
        study.teacher(seed)
    if seeds:
        name = "simulated_landmarks" if options.set == "simulated" else options.set
        found = measure(study, options.set)
        write_json(options.results / f"{name}.json", found)
        if options.picture:
            _draw(study, found, options.picture)


def measure(study: Study, name: str) -> dict[str, Any]:
    """Every figure."""
    plan, data = study.plan, study.data
    units = data.test.patients
    errors = {arm: study.errors(arm, plan.seeds) for arm in STUDENTS}
    errors[TEACHER] = study.errors(TEACHER, plan.teacher_seeds)
    blank = {arm: study.blank(arm, plan.seeds) for arm in STUDENTS}
    whole = [k for k in range(len(plan.seeds)) if not any(own[k] for own in blank.values())]
    intact = {arm: own if arm == TEACHER else own[whole] for arm, own in errors.items()}
    return {
        "command": f"OMP_NUM_THREADS=1 python benchmarks/landmark_distillation.py --set {name}",
        "data": data.fingerprint,
        "described": data.described,
        "seeds": {"students": list(plan.seeds), TEACHER: list(plan.teacher_seeds)},
        "threads": torch.get_num_threads(),
        "environment": environment(),
        "settings": plan.settings.as_dict() | {"teacher_weights": Path(plan.settings.teacher_weights).name},
        "choices": plan.choices,
        "images": {"train": len(data.train_views), "test": len(data.test)},
        "unit": data.unit,
        "arms": {arm: figures_of_arm(own, units, data.test.names) for arm, own in errors.items()},
        "differences": differences(errors, units),
        "blank": blank,
        "without_blank": {
            "seeds": [plan.seeds[k] for k in whole],
            "arms": {arm: figures_of_arm(own, units, data.test.names)["scores"] for arm, own in intact.items()},
            "differences": differences(intact, units),
        }
        if 0 < len(whole) < len(plan.seeds)
        else None,
        "networks": _networks(study),
        "cpu_seconds": {arm: [study.record(arm, s)["cpu_seconds"] for s in plan.seeds] for arm in STUDENTS}
        | {TEACHER: [study.record(TEACHER, s)["cpu_seconds"] for s in plan.teacher_seeds]},
    }


def _networks(study: Study) -> dict[str, dict[str, Any]]:
    width, height = study.plan.settings.size
    found = {}
    for name, network in (
        (TEACHER, study.teacher(study.plan.teacher_seeds[0])),
        ("student", study.student(SHARING, study.plan.seeds[0])),
    ):
        speed = measure_student(network, (1, height, width), repeats=20)
        found[name] = asdict(profile_student(network, (1, height, width))) | {"speed": asdict(speed)}
    return found


def _draw(study: Study, found: dict[str, Any], target: Path) -> None:
    """The test image on which the student that shares features does as well as on most."""
    data, seed = study.data, study.plan.seeds[0]
    errors = study.errors(SHARING, [seed])[0].mean(axis=1)
    k = int(np.argsort(errors)[len(errors) // 2])
    place = data.test_places[k]
    points = {"true": data.test.points[k], TEACHER: study.points(TEACHER, study.plan.teacher_seeds[0])[k]}
    points[SHARING] = study.points(SHARING, seed)[k]
    own = {name: place.to_input(one) for name, one in points.items()}
    title = f"{data.test.images[k]}: the student's median image, {errors[k]:.1f} {data.unit} off"
    draw_landmarks(target, found, data.test_views.frames[k], own, title)


if __name__ == "__main__":
    main()
