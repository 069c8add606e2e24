"""A landmark student out of images and points: a large teacher trained on two tasks, then feature-sharing distillation.

Both are trained on the training side only. The student's loss is (1 − alpha) · its error on the true heat maps + alpha · its
error on the teacher's + sharing · the distance of its maps from the teacher's; sharing 0 is output-only distillation, and alpha
0 besides it is a student without teacher (Huang et al., Electronics 2022, 11:2337; layers and weights are ours).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...backbones.build import Backbone
from ...errors import SonokitError
from ..placement import Size
from ..signals.feature_sharing import Norm
from ..signals.weighted import read_signals
from ..students.build import build_student
from ..training.augmented import AugmentSettings, augmented
from ..training.loop import LoopSettings, train
from ..training.taught import Taught, ask
from ..training.views import HeatMapTarget, Views
from .auxiliary import teacher_signals
from .folder import LandmarkModel
from .heat_maps import Decoding
from .network import LandmarkNetwork

_WEIGHT_DECAY = 0.01


@dataclass(frozen=True)
class LandmarkSettings:
    """How teacher and student are made; the defaults are those of the longer study on cephalograms.

    Attributes:
        size: (width, height) of the input.
        target: Of the heat maps.
        decoding: Of the heat maps.
        teacher: A timm name.
        teacher_weights: "none", "timm" or a .safetensors file.
        teacher_widths, student_widths: Of the decoders, by stride.
        teacher_epochs: Passes over the training images, each augmented anew.
        teacher_batch, teacher_rate: Images in a step; peak learning rate of what is new.
        teacher_backbone_rate: Of a pretrained backbone; one without weights learns as fast as the rest.
        student: A micro network's or timm's name.
        epochs: The student's passes, over ``looks`` augmented looks at each image.
        looks: The teacher answers each of them once.
        batch, rate: Of the student.
        auxiliary: Weight of the teacher's second task.
        alpha: Share of the teacher's heat maps beside the true ones.
        sharing: Weight of feature sharing.
        strides: Depths at which the decoders' maps are shared.
        norm: See :class:`~sonokit.distill.signals.feature_sharing.FeatureSharing`.
        augment: How looks are made; never mirrored where a landmark has a side.
        seed: The same seed gives the same networks.
    """

    size: Size = (192, 240)
    target: HeatMapTarget = field(default_factory=HeatMapTarget)
    decoding: Decoding = "soft_argmax"
    teacher: str = "tf_efficientnet_lite0"
    teacher_weights: str = "none"
    teacher_widths: dict[int, int] = field(default_factory=lambda: {4: 64, 8: 64, 16: 96, 32: 128})
    teacher_epochs: int = 36
    teacher_batch: int = 10
    teacher_rate: float = 2e-3
    teacher_backbone_rate: float = 5e-4
    student: str = "micro-25k"
    student_widths: dict[int, int] = field(default_factory=lambda: {4: 24, 8: 24, 16: 24, 32: 16})
    epochs: int = 180
    looks: int = 20
    batch: int = 8
    rate: float = 1e-2
    auxiliary: float = 1.0
    alpha: float = 0.5
    sharing: float = 2.0
    strides: tuple[int, ...] = (8, 16, 32)
    norm: Norm = "image"
    augment: AugmentSettings = field(default_factory=lambda: AugmentSettings(degrees=8.0))
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise SonokitError(f"alpha must lie between 0 (true points only) and 1 (teacher only), it is {self.alpha}")
        if min(self.teacher_epochs, self.epochs, self.looks) < 1:
            raise SonokitError("teacher_epochs, epochs and looks must be at least 1")

    @property
    def signals(self) -> dict[str, dict[str, Any]]:
        """Of the student, for :func:`~sonokit.distill.signals.weighted.read_signals`."""
        return {
            "heat_map_targets": {"weight": 1 - self.alpha},
            "heat_map_response": {"weight": self.alpha},
            "feature_sharing": {"weight": self.sharing, "strides": list(self.strides), "norm": self.norm},
        }

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a record."""
        found = asdict(self)
        for name in ("teacher_widths", "student_widths"):
            found[name] = {str(stride): width for stride, width in found[name].items()}
        return {**found, "size": list(self.size), "strides": list(self.strides)}


def landmark_teacher(names: Sequence[str], settings: LandmarkSettings) -> LandmarkNetwork:
    """The teacher before its training."""
    backbone = build_student(settings.teacher, weights=settings.teacher_weights, seed=settings.seed)
    return _network(backbone, names, settings.teacher_widths, settings)


def landmark_student(names: Sequence[str], settings: LandmarkSettings) -> LandmarkNetwork:
    """The student before its training: the same weights whatever it is then told."""
    return _network(build_student(settings.student, seed=settings.seed), names, settings.student_widths, settings)


def train_landmark_teacher(
    views: Views, names: Sequence[str], settings: LandmarkSettings, *, progress: str | None = None
) -> LandmarkNetwork:
    """Train a teacher on heat maps and coordinates; the second task's head is gone when it is returned.

    Args:
        views: N views with points.
        names: Of the landmarks.
        settings: The teacher's part of them.
        progress: Name of a progress bar on standard error.
    """
    network = landmark_teacher(names, settings)
    network.to(memory_format=torch.channels_last)  # the same network, faster on a CPU
    signals = teacher_signals(network.map_channels, len(names), auxiliary=settings.auxiliary, seed=settings.seed)
    looks = augmented(views, settings.teacher_epochs, settings.augment, seed=1000 + settings.seed)
    loop = LoopSettings(
        epochs=1,
        batch=settings.teacher_batch,
        learning_rate=settings.teacher_rate,
        backbone_learning_rate=None if settings.teacher_weights == "none" else settings.teacher_backbone_rate,
        weight_decay=_WEIGHT_DECAY,
        heat_map=settings.target,
        seed=settings.seed,
    )
    train(network, looks, signals, settings=loop, progress=progress)
    return network.to(memory_format=torch.contiguous_format)


def student_looks(views: Views, settings: LandmarkSettings) -> Views:
    """What a student sees. It does not depend on the seed: the teacher's answers serve students of many seeds."""
    return augmented(views, settings.looks, settings.augment, seed=2000)


def train_landmark_student(
    looks: Views,
    taught: Taught | None,
    channels: Mapping[int, int],
    names: Sequence[str],
    settings: LandmarkSettings,
    *,
    progress: str | None = None,
) -> LandmarkNetwork:
    """Train a student on true points and on what a teacher said.

    Args:
        looks: From :func:`student_looks`.
        taught: What the teacher says of these looks, with its maps at ``settings.strides``; None is enough where alpha and
            sharing are 0.
        channels: Of the teacher's maps.
        names: Of the landmarks.
        settings: The student's part of them.
        progress: Name of a progress bar on standard error.
    """
    network = landmark_student(names, settings)
    network.to(memory_format=torch.channels_last)
    signals = read_signals(settings.signals, network.map_channels, channels)
    loop = LoopSettings(
        epochs=max(1, round(settings.epochs / settings.looks)),
        batch=settings.batch,
        learning_rate=settings.rate,
        weight_decay=_WEIGHT_DECAY,
        heat_map=settings.target,
        seed=settings.seed,
    )
    train(network, looks, signals, taught, loop, progress=progress)
    return network.to(memory_format=torch.contiguous_format)


def distil_from(
    teacher: LandmarkNetwork,
    views: Views,
    settings: LandmarkSettings,
    *,
    folder: Path | None = None,
    progress: str | None = None,
) -> LandmarkNetwork:
    """Make looks, ask the teacher, train the student.

    Args:
        teacher: Trained; it is only asked.
        views: N views with points.
        settings: The student's part of them.
        folder: Where the teacher's answers are kept; None keeps them in memory.
        progress: Name of a progress bar on standard error.

    Raises:
        SonokitError: The teacher's heat maps have another stride.
    """
    if teacher.stride != settings.target.stride:
        raise SonokitError(f"the teacher's heat maps have stride {teacher.stride}, the student's {settings.target.stride}")
    looks = student_looks(views, settings)
    strides = settings.strides if settings.sharing else ()
    taught = ask(teacher, looks, strides, folder=folder, progress=progress and f"{progress}: asking the teacher")
    return train_landmark_student(looks, taught, teacher.map_channels, teacher.names, settings, progress=progress)


def as_model(network: LandmarkNetwork, settings: LandmarkSettings, trained_on: dict[str, str]) -> LandmarkModel:
    """A trained network with all that its use needs.

    Args:
        network: It.
        settings: It was trained with.
        trained_on: Image -> fingerprint, :func:`image_fingerprints`.
    """
    provenance = {"training_images": trained_on, "settings": settings.as_dict()}
    return LandmarkModel(network, settings.size, settings.target.sigma, settings.decoding, provenance)


def image_fingerprints(names: Sequence[str], images: Sequence[np.ndarray]) -> dict[str, str]:
    """Image -> 16 hex digits of its pixels."""
    return {name: hashlib.sha256(image.tobytes()).hexdigest()[:16] for name, image in zip(names, images, strict=True)}


def _network(backbone: Backbone, names: Sequence[str], widths: dict[int, int], settings: LandmarkSettings) -> LandmarkNetwork:
    return LandmarkNetwork(backbone, names, stride=settings.target.stride, widths=widths, seed=settings.seed)
