"""The students of ``pocus_distillation.py``: what they see, the arms by which they are taught, and the pilot that chose one.

All arms see the very views that the teacher was asked about: the training clips' frames as they are, and augmented looks at
them. Distilled arms may also see clips without label, of which only the teacher speaks; the arm of labels alone then takes as
many steps on the labelled views.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pocus_distillation_teachers import AUGMENT, Clips
from pocus_fine_tuned import FRAMES, SIZE
from sonokit.clips.cache import prepare
from sonokit.clips.cached_clips import CachedClips, CacheSettings
from sonokit.clips.manifest import read_manifest, write_manifest
from sonokit.clips.sampling import Sampling
from sonokit.clips.scan import clips_at
from sonokit.distill.signals.weighted import Signals, read_signals
from sonokit.distill.students.build import build_student
from sonokit.distill.training.augmented import augmented
from sonokit.distill.training.learners import Classifier, Learner
from sonokit.distill.training.loop import LoopSettings, train
from sonokit.distill.training.taught import Taught, ask
from sonokit.distill.training.views import Views, clip_views, joined_views
from sonokit.evaluation.out_of_fold import FoldRows

FRAMES_TESTED, FRAMES_TAUGHT, LOOKS, STRIDES = 16, 8, 2, (8, 16)


@dataclass(frozen=True)
class Arm:
    """How a student is taught.

    Attributes:
        alpha: Share of the response; the rest is the labels'.
        temperature: Of the response.
        features: Weight of feature sharing at strides 8 and 16; 0: none.
        unlabelled: Whether clips without label are among the views.
        views: How many views it is trained on in all, epochs together.
        learning_rate: Peak.
    """

    alpha: float = 0.0
    temperature: float = 4.0
    features: float = 0.0
    unlabelled: bool = False
    views: int = 40_000
    learning_rate: float = 2e-3

    def signals(self, student: Learner, teacher_channels: dict[int, int], weights: list[float]) -> Signals:
        """The terms of its loss."""
        settings: dict[str, dict[str, Any]] = {
            "labels": {"weight": 1 - self.alpha, "weights": weights},
            "response": {"weight": self.alpha, "temperature": self.temperature},
            "feature_sharing": {"weight": self.features, "strides": list(STRIDES)},
        }
        return read_signals(settings, student.map_channels, teacher_channels)

    @property
    def taught(self) -> bool:
        """Whether it has a teacher."""
        return bool(self.alpha or self.features)


ARMS = {
    "labels": Arm(),
    "response": Arm(alpha=0.7),
    "features": Arm(alpha=0.7, features=1.0),
}


@dataclass(frozen=True)
class Lesson:
    """What the students of a fold are trained on.

    Attributes:
        views: The labelled views, then the unlabelled.
        labelled: How many are labelled.
        taught: What the teacher said of all.
        channels: Of the teacher's maps.
        weights: Of the classes.
    """

    views: Views
    labelled: int
    taught: Taught
    channels: dict[int, int]
    weights: list[float]

    def part(self, unlabelled: bool) -> tuple[Views, Taught]:
        """All of them, or the labelled alone."""
        if unlabelled:
            return self.views, self.taught
        logits = self.taught.logits
        maps = {stride: values[: self.labelled] for stride, values in self.taught.maps.items()}
        return self.views.take(np.arange(self.labelled)), Taught(None if logits is None else logits[: self.labelled], maps=maps)


def lesson(
    clips: Clips,
    organs: CachedClips | None,
    fold: FoldRows,
    teacher: Learner,
    frames: int = FRAMES_TAUGHT,
    looks: int = LOOKS,
    folder: Path | None = None,
) -> Lesson:
    """The views of a fold's training side and what the teacher says of them.

    Args:
        clips: The clips.
        organs: Unlabelled clips of other organs; with them come those of the same set that are not of the task and whose
            patients are not in the test part. None: labelled clips only.
        fold: Nothing of its test patients takes part.
        teacher: Trained on the fold's training clips.
        frames: Of each clip.
        looks: Augmented looks at each frame, besides the frame itself.
        folder: Where the teacher's answers are kept.
    """
    plain = clips.views(fold.train, frames)
    known = joined_views([plain, augmented(plain, looks, AUGMENT, seed=1000 + fold.index)])
    apart = ~np.isin(clips.others, clips.labelled.patients[fold.test])
    extra = [] if organs is None else [_unlabelled(clips.other_frames.select(apart)), _unlabelled(organs)]
    views = joined_views([known, *extra])
    teacher.to(memory_format=torch.channels_last)
    taught = ask(teacher, views, STRIDES, folder=folder)
    return Lesson(views, len(known), taught, teacher.map_channels, clips.weights(fold.train))


def train_student(lesson: Lesson, network: str, arm: Arm, classes: tuple[str, ...], seed: int) -> tuple[Classifier, list[Any]]:
    """A student from random weights, and the losses of its epochs."""
    learner = Classifier(build_student(network, seed=seed), classes)
    learner.to(memory_format=torch.channels_last)
    views, taught = lesson.part(arm.unlabelled)
    settings = LoopSettings(epochs=round(arm.views / len(views)), batch=32, learning_rate=arm.learning_rate, seed=seed)
    history = train(
        learner, views, arm.signals(learner, lesson.channels, lesson.weights), taught if arm.taught else None, settings
    )
    return learner, history


def open_organs(folder: Path, out: Path) -> CachedClips:
    """The unlabelled clips of other organs."""
    out.mkdir(parents=True, exist_ok=True)
    write_manifest(clips_at(folder), out / "organs.csv")
    return prepare(read_manifest(out / "organs.csv"), out / "cache", CacheSettings(SIZE, Sampling(frames=FRAMES)))


def predict(learner: Learner, views: Views) -> np.ndarray:
    """Probabilities of clips, the mean over their frames, float64 [M, K] in the order of their rows."""
    logits = ask(learner, views).logits
    assert logits is not None
    each = torch.from_numpy(np.array(logits)).double().softmax(dim=1).numpy()
    return np.round([each[views.items == item].mean(axis=0) for item in np.unique(views.items)], 7)


def _unlabelled(frames: CachedClips) -> Views:
    rows = np.arange(len(frames))
    return clip_views(frames, rows, np.full(len(frames), -1), size=SIZE, frames_per_clip=FRAMES_TESTED)
