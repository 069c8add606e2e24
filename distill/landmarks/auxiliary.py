"""The second task of a landmark teacher: the coordinates themselves, told from its coarsest map.

Feature-sharing distillation trains its teacher on several tasks first (Huang et al., Electronics 2022, 11:2337); which ones the
paper took is not known to us, so this one is our own design. A heat map asks of every cell whether the landmark is here, which
local texture often answers; coordinates out of a coarse map ask where all landmarks lie in the whole image. The head is a
parameter of this term, as a projection of feature sharing is: it is trained with the teacher, and when training ends it is
gone.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import SonokitError
from ..signals.terms import Batch, Outputs, Signal, needed, needed_map
from ..signals.weighted import Signals, read_signals
from .heat_maps import decode

AUXILIARY = "coordinates"
"""The term's name beside those of :data:`~sonokit.distill.signals.weighted.SIGNALS`."""


class Coordinates(Signal):
    """Smooth L1 distance of coordinates, in parts of the map's sides; mean over the landmarks that are there.

    Args:
        channels: Stride -> channels of the learner's maps.
        landmarks: How many, L.
        stride: Of the map that is read; None: the coarsest.
        width: Channels that it is narrowed to.
        grid: Its side after averaging, so that any image's size will do.
        seed: Of the head's random beginning.

    Raises:
        SonokitError: No map of this stride.
    """

    uses_teacher = False

    def __init__(
        self,
        channels: Mapping[int, int],
        landmarks: int,
        *,
        stride: int | None = None,
        width: int = 32,
        grid: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        stride = max(channels, default=0) if stride is None else stride
        if stride not in channels:
            raise SonokitError(f"coordinates: there is no map at stride {stride}; there are: {', '.join(map(str, channels))}")
        self.student_strides = (stride,)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.head = nn.Sequential(
                nn.Conv2d(channels[stride], width, 1),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(grid),
                nn.Flatten(),
                nn.Linear(width * grid**2, 2 * landmarks),
            )

    def compare(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """See :class:`~sonokit.distill.signals.terms.Signal`."""
        maps = needed(batch.heat_maps, self, "heat maps of the true landmarks")  # [B, L, h, w]
        size = torch.tensor([maps.shape[3], maps.shape[2]], device=maps.device)
        points, peak = decode(maps)  # exact: they are Gaussians
        told = self.head(needed_map(student, self.student_strides[0], self, "learner")).unflatten(1, (-1, 2))  # [B, L, 2]
        there = peak > 0  # absent, or so far outside that nothing of it is seen: no target
        if batch.present is not None:
            there = there & batch.present
        errors = F.smooth_l1_loss(told, points / size - 0.5, reduction="none", beta=0.05).sum(dim=2)
        return torch.where(there, errors, torch.zeros_like(errors)).sum() / there.sum().clamp(min=1)


def teacher_signals(channels: Mapping[int, int], landmarks: int, *, auxiliary: float = 1.0, seed: int = 0) -> Signals:
    """What a landmark teacher is trained by: heat maps of the true points, and the coordinates beside them.

    Args:
        channels: Of the teacher's maps, ``map_channels``.
        landmarks: How many.
        auxiliary: Weight of the coordinates; 0 leaves them out.
        seed: Of the coordinates' head.

    Raises:
        SonokitError: The weight is negative.
    """
    plain = read_signals({"heat_map_targets": {}})
    if auxiliary < 0:
        raise SonokitError(f"the weight of the auxiliary task must be 0 or more, it is {auxiliary}")
    if auxiliary == 0:
        return plain
    terms = {"heat_map_targets": plain.terms["heat_map_targets"], AUXILIARY: Coordinates(channels, landmarks, seed=seed)}
    weights = {**plain.weights, AUXILIARY: float(auxiliary)}
    return Signals(terms, weights, {**plain.settings, AUXILIARY: {"weight": float(auxiliary)}})  # type: ignore[arg-type]
