"""The training loop of students and teachers: views, what a teacher said of them, a weighted sum of signals, AdamW.

The number of epochs is fixed beforehand; nothing is chosen by a score. The optimiser gets the learner's parameters and the
signals' own (projections), which are left behind at the end. What the teacher said is read, never computed here: no gradient
can reach it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from tqdm import tqdm

from ...errors import SonokitError
from ...evaluation.learning_rate import WarmupCosine
from ..signals.weighted import Signals
from .learners import Learner
from .taught import Taught
from .views import HeatMapTarget, Views


@dataclass(frozen=True)
class LoopSettings:
    """How a learner is trained.

    Attributes:
        epochs: Passes over the views.
        batch: Views in a step.
        learning_rate: Peak, of what is new.
        backbone_learning_rate: Peak, of what came with the backbone; None: the same. A pretrained one wants a tenth.
        weight_decay: Of AdamW.
        warmup: Share of the steps in which the rates rise.
        batch_norm: "batch" learns the statistics; "frozen" keeps those that the backbone came with, which a hundred clips could
            only blur.
        heat_map: Of what size heat maps of landmarks are.
        seed: Of the order of the views and of dropout.
    """

    epochs: int = 20
    batch: int = 32
    learning_rate: float = 1e-3
    backbone_learning_rate: float | None = None
    weight_decay: float = 0.05
    warmup: float = 0.1
    batch_norm: Literal["batch", "frozen"] = "batch"
    heat_map: HeatMapTarget = field(default_factory=HeatMapTarget)
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise SonokitError(f"{name} must be at least {least}, it is {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise SonokitError(f"learning_rate must be positive, it is {self.learning_rate}")
        if self.batch_norm not in ("batch", "frozen"):
            raise SonokitError(f"batch_norm must be batch or frozen, it is {self.batch_norm!r}")


def train(
    learner: Learner,
    views: Views,
    signals: Signals,
    taught: Taught | None = None,
    settings: LoopSettings | None = None,
    *,
    device: torch.device | str = "cpu",
    progress: str | None = None,
    fresh: Callable[[int], tuple[Views, Taught | None]] | None = None,
) -> list[dict[str, float]]:
    """Train ``learner`` in place; it ends in evaluation mode. On one machine's CPU the same numbers every time.

    Args:
        learner: A student, or a teacher in the making.
        views: What it learns from.
        signals: The terms of the loss; their own parameters are trained with it.
        taught: What the teacher said of these views; None where no signal uses a teacher.
        settings: None: the defaults.
        device: Where to work.
        progress: Name of a progress bar on standard error; None for none.
        fresh: Epoch number -> other views, and what the teacher says of them, for that epoch; for augmentation anew each time.
            None: ``views`` every time.

    Returns:
        Of each epoch, the mean of the loss and of each of its terms, unweighted.

    Raises:
        SonokitError: A signal needs a teacher and nobody was asked, there are fewer than two views, or the loss is not finite.
    """
    settings = settings or LoopSettings()
    if signals.uses_teacher and taught is None and fresh is None:
        raise SonokitError("a signal needs a teacher: ask one first, or set its weight to 0")
    if len(views) < 2:
        raise SonokitError(f"there are {len(views)} views to train on: give at least two")
    learner.to(device)
    signals.to(device)
    optimizer = torch.optim.AdamW(_groups(learner, signals, settings), weight_decay=settings.weight_decay, fused=True)
    steps = settings.epochs * _batches(len(views), settings.batch)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, WarmupCosine(steps, settings.warmup))
    rng = np.random.default_rng([settings.seed, len(views)])
    history = []
    bar = tqdm(total=settings.epochs, desc=progress, unit="epoch", leave=False, disable=progress is None)
    with bar, torch.random.fork_rng():  # dropout draws from the global generator
        torch.manual_seed(settings.seed)
        for epoch in range(settings.epochs):
            _train_mode(learner, settings)
            if fresh is not None:
                views, taught = fresh(epoch)
            order = np.array_split(rng.permutation(len(views)), _batches(len(views), settings.batch))
            sums: dict[str, float] = {}
            for rows in order:
                parts = _step(learner, signals, views, taught, rows, settings, device)
                optimizer.zero_grad(set_to_none=True)
                parts["loss"].backward()
                optimizer.step()
                schedule.step()
                for name, value in parts.items():
                    sums[name] = sums.get(name, 0.0) + float(value.detach()) * len(rows) / len(views)
            if not np.isfinite(sums["loss"]):
                raise SonokitError(f"the loss of epoch {epoch + 1} is {sums['loss']}: lower the learning rate")
            history.append({name: round(value, 6) for name, value in sums.items()})
            bar.set_postfix(loss=f"{sums['loss']:.4f}")
            bar.update()
    learner.eval()
    return history


def _step(
    learner: Learner,
    signals: Signals,
    views: Views,
    taught: Taught | None,
    rows: np.ndarray,
    settings: LoopSettings,
    device: torch.device | str,
) -> dict[str, torch.Tensor]:
    rows = np.sort(rows)  # a memory map is read forward
    seen = views.batch(rows, settings.heat_map, device)
    said = learner.see(seen, signals.student_strides, class_maps=signals.uses_class_maps)
    teacher = taught.batch(rows, device) if signals.uses_teacher and taught is not None else None
    parts = signals.parts(said, teacher, seen.known)
    return {**parts, "loss": signals.total(parts)}


def _groups(learner: Learner, signals: Signals, settings: LoopSettings) -> list[dict[str, Any]]:
    old, new = learner.groups()
    rate = settings.learning_rate if settings.backbone_learning_rate is None else settings.backbone_learning_rate
    groups = [
        {"params": old, "lr": rate},
        {"params": [*new, *signals.parameters()], "lr": settings.learning_rate},
    ]
    return [group for group in groups if group["params"]]


def _batches(views: int, batch: int) -> int:
    """In an epoch, of about equal size and never of one view, which batch normalisation could not take."""
    return max(1, min(round(views / batch), views // 2))


def _train_mode(learner: Learner, settings: LoopSettings) -> None:
    learner.train()
    if settings.batch_norm == "frozen":
        for module in learner.modules():
            # the statistics of a head's own normalisation say nothing yet: those of backbones only
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
                module.eval()
