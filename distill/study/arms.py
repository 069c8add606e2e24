"""What the arms of a study have in common: how a teacher and a student of one division are made, and what they say of a test.

An arm is one way to teach the same student: from the same beginning, on the same views, in the same order, by the same number
of steps; only what it is told differs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.special import softmax

from ...errors import SonokitError
from ..signals.labels import UNKNOWN
from ..signals.weighted import labels_and_response, read_signals
from ..students.build import build_student
from ..training.augmented import AugmentSettings, augmented
from ..training.learners import Classifier, Learner
from ..training.loop import LoopSettings, train
from ..training.taught import Taught, ask
from ..training.views import Views

Terms = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class ArmSettings:
    """How teachers and students of a study are trained; all arms alike.

    Attributes:
        teacher, student: Names of networks; see :func:`~sonokit.distill.students.build.build_student`.
        teacher_weights: "none", "timm" or a .safetensors file.
        alpha: Weight of the teacher's answers beside the labels, 0 to 1.
        temperature: Of the response.
        sharing: Weight of feature sharing in the arms that have it.
        sharing_strides: Depths that it compares.
        overlap: Weight of the region term in the arm that has it.
        balanced: Weigh classes by the inverse of how often their labels occur.
        looks: Augmented looks at each view; teachers and students are trained on the same ones.
        augment: How they differ.
        teacher_loop, student_loop: Epochs and rates; their seeds are replaced by ``seed``.
        seed: Of networks, order, looks and exchanged regions.
    """

    teacher: str = "micro-100k"
    student: str = "micro-10k"
    teacher_weights: str = "none"
    alpha: float = 0.7
    temperature: float = 4.0
    sharing: float = 1.0
    sharing_strides: tuple[int, ...] = (8, 16)
    overlap: float = 1.0
    balanced: bool = False
    looks: int = 4
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    teacher_loop: LoopSettings = field(default_factory=LoopSettings)
    student_loop: LoopSettings = field(default_factory=LoopSettings)
    seed: int = 0


def looks_at(views: Views, settings: ArmSettings) -> Views:
    """The augmented looks that teachers and students of a division are trained on, N · looks."""
    return augmented(views, settings.looks, settings.augment, seed=settings.seed)


def new_teacher(classes: Sequence[str], settings: ArmSettings) -> Classifier:
    """A teacher before training; every teacher of a division begins as this one."""
    made = build_student(settings.teacher, weights=settings.teacher_weights, seed=1000 + settings.seed)
    return Classifier(made, classes)


def trained_teacher(teacher: Learner, views: Views, settings: ArmSettings) -> Learner:
    """``teacher``, trained in place from the views that have labels."""
    signals = read_signals({"labels": label_options(views, settings)})
    assert views.labels is not None
    known = views.take(views.labels != UNKNOWN)
    train(teacher, known, signals, settings=replace(settings.teacher_loop, seed=settings.seed))
    return teacher


def trained_student(
    classes: Sequence[str],
    views: Views,
    settings: ArmSettings,
    *,
    teacher: Learner | None = None,
    taught: Taught | None = None,
    extra: Terms | None = None,
) -> Classifier:
    """A new student, trained from the labels alone or from labels and a teacher's answers.

    Args:
        classes: Names, K.
        views: What it learns from; gaze and regions of them do not reach it.
        settings: Of the study.
        teacher: Whose answers ``taught`` are; None for labels only.
        taught: What the teacher said of ``views``; None: the teacher is asked.
        extra: Further terms of the loss, as :func:`~sonokit.distill.signals.weighted.read_signals` reads them.
    """
    student = Classifier(build_student(settings.student, seed=settings.seed), classes)
    terms: dict[str, dict[str, Any]] = labels_and_response(settings.alpha if teacher else 0.0, settings.temperature)
    terms["labels"] |= label_options(views, settings)
    terms |= {name: dict(options) for name, options in (extra or {}).items()}
    channels = None if teacher is None else teacher.map_channels
    signals = read_signals(terms, student.map_channels, channels)
    if teacher is not None and taught is None:
        taught = ask(teacher, views, signals.teacher_strides)
    train(student, views, signals, taught, replace(settings.student_loop, seed=settings.seed))
    return student


def probabilities(learner: Learner, views: Views) -> np.ndarray:
    """What a learner says of views, float64 [N, K]; a teacher is shown the gaze or regions that they have."""
    logits = ask(learner, views).logits
    assert logits is not None
    return np.asarray(softmax(logits.astype(np.float64), axis=1))


def label_options(views: Views, settings: ArmSettings) -> dict[str, Any]:
    """Options of the labels term.

    Raises:
        SonokitError: There are no labels of classes, or a class that has none is to be weighed.
    """
    if views.labels is None or views.labels.ndim != 1:
        raise SonokitError("the arms of a study want one class a view: give labels, int64 [N], -1 where unknown")
    if not settings.balanced:
        return {}
    counts = np.bincount(views.labels[views.labels != UNKNOWN])
    if len(counts) < 2 or not counts.all():
        raise SonokitError(f"classes cannot be weighed, their views number {counts.tolist()}: take another division")
    return {"weights": [round(float(counts.sum() / (len(counts) * count)), 6) for count in counts]}
