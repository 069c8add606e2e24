"""Feature sharing: the student's maps, through a 1 × 1 projection, are drawn towards the teacher's at several depths.

FitNets' hints (Romero et al. 2015, 1412.6550) at more than one depth, as feature-sharing distillation of landmark models has it
(Huang et al., Electronics 2022, 11:2337); which layers and weights that paper took is not known to us. The projections bridge
the widths in training only: they are parameters of this term, and the student is deployed without them.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import SonokitError
from .terms import Batch, Outputs, Signal, depth_pairs, needed_map

Norm = Literal["image", "position", "none"]


class FeatureSharing(Signal):
    """Mean over depths and images of ‖n(φ(student's map)) − n(teacher's map)‖².

    Where the two maps' sizes differ, both are averaged (adaptive pooling) down to the smaller height and the smaller width.

    Args:
        student_channels: Stride -> channels of the student's maps, as ``Backbone.map_channels`` gives them.
        teacher_channels: The same of the teacher.
        strides: Depths: strides, or pairs [student's stride, teacher's stride].
        norm: n. "image": the map of an image, as one vector, has length 1 (the term lies between 0 and 4 whatever the widths).
            "position": each position's vector over the channels has; mean over the positions. "none": the maps as they are;
            mean over their numbers.
        seed: Of the projections' random beginning; the global generator is left undisturbed.

    Raises:
        SonokitError: No such norm, or a depth that one of the networks does not have.
    """

    def __init__(
        self,
        student_channels: Mapping[int, int],
        teacher_channels: Mapping[int, int],
        strides: Sequence[int | Sequence[int]] = (8, 16, 32),
        norm: Norm = "image",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if norm not in get_args(Norm):
            raise SonokitError(f"norm must be one of {', '.join(get_args(Norm))}, it is {norm!r}")
        self.pairs = depth_pairs(strides)
        self.norm = norm
        self.student_strides = tuple(own for own, _ in self.pairs)
        self.teacher_strides = tuple(taught for _, taught in self.pairs)
        for whose, channels, wanted in (
            ("student", student_channels, self.student_strides),
            ("teacher", teacher_channels, self.teacher_strides),
        ):
            absent = [stride for stride in wanted if stride not in channels]
            if absent:
                there = ", ".join(map(str, sorted(channels))) or "none"
                raise SonokitError(f"feature sharing: the {whose} has no map at stride {absent[0]}; it has: {there}")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.projections = nn.ModuleList(
                nn.Conv2d(student_channels[own], teacher_channels[taught], 1, bias=False) for own, taught in self.pairs
            )

    def compare(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """See :class:`~sonokit.distill.signals.terms.Signal`."""
        distances = []
        for (own, taught), project in zip(self.pairs, self.projections, strict=True):
            seen = project(needed_map(student, own, self, "student"))  # [B, C_teacher, h, w]
            wanted = needed_map(teacher, taught, self, "teacher")
            distances.append(self._distance(*same_size(seen, wanted)))
        return torch.stack(distances).mean()

    def _distance(self, seen: Tensor, wanted: Tensor) -> Tensor:
        if self.norm == "none":
            return F.mse_loss(seen, wanted)
        if self.norm == "image":
            seen, wanted = seen.flatten(1), wanted.flatten(1)  # [B, C h w]
        return (F.normalize(seen, dim=1) - F.normalize(wanted, dim=1)).square().sum(dim=1).mean()


def same_size(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both maps averaged down to the smaller of their heights and of their widths; untouched where they agree."""
    height, width = (min(one.shape[axis], other.shape[axis]) for axis in (2, 3))
    small = [m if m.shape[2:] == (height, width) else F.adaptive_avg_pool2d(m, (height, width)) for m in (one, other)]
    return small[0], small[1]
