"""Human knowledge distillation and what it is compared with, for one division (after Schaudt et al., Sci Rep 2023).

Three teachers of one size from one beginning: one sees raw frames, one frames whose outside of the experts' regions is dimmed,
one the same with the regions of other images. Students see raw frames. Only a student of the second that is ahead of the
students of both others shows that the regions helped, not the distillation and not the dimming.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ...errors import SonokitError
from ..signals.region_overlap import energy_inside
from ..training.learners import Classifier, Learner, RegionClassifier
from ..training.taught import ask
from ..training.views import Views
from .arms import ArmSettings, looks_at, new_teacher, probabilities, trained_student, trained_teacher
from .shuffled import shuffled_regions

REGION_STUDENTS = ("labels", "raw", "masked", "shuffled", "masked_overlap")
REGION_ARMS = {
    "raw_teacher": "teacher, raw frames",
    "masked_teacher": "teacher, regions shown",
    "shuffled_teacher": "teacher, others' regions shown",
    "labels": "student from labels",
    "raw": "student of the raw teacher",
    "masked": "student of the teacher that saw the regions",
    "shuffled": "student of the teacher that saw others' regions",
    "masked_overlap": "student of the teacher that saw the regions, overlap term",
}
"""Arm -> what it is."""


@dataclass(frozen=True)
class Dimming:
    """How a teacher sees what lies outside a region; see :class:`~sonokit.distill.signals.teacher_inputs.RegionTeacherInput`.

    Attributes:
        dimmed: Brightness that is left, 0 to 1.
        edge: Softness of the edge, in pixels.
    """

    dimmed: float = 0.1
    edge: float = 3.0


@dataclass(frozen=True, eq=False)
class RegionArms:
    """What the arms said of N test views.

    Attributes:
        probabilities: Arm -> float64 [N, K].
        energy: Student -> share of the activation for the view's true class that lies inside the region, float64 [N]; nan where
            nothing is activated, or nobody marked a region.
        area: Share of the frame that is region, float64 [N]: the energy of an activation that is the same everywhere.
    """

    probabilities: dict[str, np.ndarray]
    energy: dict[str, np.ndarray]
    area: np.ndarray


def region_arms(
    train: Views,
    test: Views,
    classes: Sequence[str],
    settings: ArmSettings | None = None,
    *,
    dimming: Dimming | None = None,
    units: np.ndarray | None = None,
    students: Sequence[str] = REGION_STUDENTS,
) -> RegionArms:
    """Train all arms and let them say the test's classes.

    Args:
        train: With labels and regions.
        test: With labels (for the energy) and regions, which only the masked teacher is shown.
        classes: Names, K.
        settings: None: the defaults.
        dimming: None: the defaults.
        units: Patients of the training views, between whose own views no regions are exchanged, [N]; None: each view is one.
        students: Which of :data:`REGION_STUDENTS`.

    Raises:
        SonokitError: There are no regions, or no such arm.
    """
    settings, dimming = settings or ArmSettings(), dimming or Dimming()
    unknown = [name for name in students if name not in REGION_STUDENTS]
    if unknown:
        raise SonokitError(f"there is no arm {unknown[0]!r}; there are: {', '.join(REGION_STUDENTS)}")
    if train.regions is None or test.regions is None:
        raise SonokitError("the region arms need regions of training and test views")
    looks = {
        "masked": looks_at(train, settings),
        "shuffled": looks_at(shuffled_regions(train, units=units, seed=settings.seed), settings),
    }
    looks["raw"] = _bare(looks["masked"])
    teachers: dict[str, Learner] = {}
    for name in ("raw", "masked", "shuffled"):
        plain = new_teacher(classes, settings)
        teacher = plain if name == "raw" else RegionClassifier(plain, dimming.dimmed, dimming.edge)
        teachers[name] = trained_teacher(teacher, looks[name], settings)
    exams = {"raw": _bare(test), "masked": test, "shuffled": shuffled_regions(test, seed=settings.seed)}
    said = {f"{name}_teacher": probabilities(teacher, exams[name]) for name, teacher in teachers.items()}
    answers = {name: ask(teacher, looks[name]) for name, teacher in teachers.items()}
    energy = {}
    for name in students:
        source = name.removesuffix("_overlap")
        overlap = name.endswith("_overlap")
        student = trained_student(
            classes,
            looks["masked"] if overlap else looks["raw"],
            settings,
            teacher=teachers.get(source),
            taught=answers.get(source),
            extra={"region_overlap": {"weight": settings.overlap}} if overlap else None,
        )
        said[name] = probabilities(student, exams["raw"])
        energy[name] = energies(student, test)
    return RegionArms(said, energy, _area(test))


def energies(student: Classifier, test: Views, *, batch: int = 64) -> np.ndarray:
    """Share of the true class's positive activation that lies inside the region, float64 [N]; nan where it is not defined."""
    assert test.labels is not None
    found = np.full(len(test), np.nan)
    with torch.inference_mode():
        for start in range(0, len(test), batch):
            seen = test.batch(slice(start, start + batch))
            maps = student.see(seen, class_maps=True).class_maps
            assert maps is not None
            assert seen.known.regions is not None
            inside = energy_inside(maps, seen.known.regions).numpy()  # [B, K]
            truth = test.labels[start : start + batch]
            found[start : start + batch] = inside[np.arange(len(truth)), truth]
    known = test.labels >= 0
    return np.where(known if test.annotated is None else known & test.annotated, found, np.nan)


def _area(test: Views) -> np.ndarray:
    assert test.regions is not None
    area = test.regions.astype(np.float64).mean(axis=(1, 2)) / 255
    return area if test.annotated is None else np.where(test.annotated, area, np.nan)


def _bare(views: Views) -> Views:
    """As a student or a plain teacher has them."""
    return replace(views, regions=None, annotated=None)
