"""Attention transfer: the student looks where the teacher looks (Zagoruyko and Komodakis, ICLR 2017, 1612.03928).

A map's attention is the sum over channels of its squared values at each position, as a vector of length 1. Widths need not
agree, so nothing is projected. Of the paper's distance ‖Q_S − Q_T‖ we take the square, as its authors' code does: its gradient
exists where the two agree. Theirs is the mean over positions, ours the sum, so that the resolution does not weigh the term.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .feature_sharing import same_size
from .terms import Batch, Outputs, Signal, depth_pairs, needed_map


class AttentionTransfer(Signal):
    """Mean over depths and images of ‖Q(student's map) − Q(teacher's map)‖², between 0 and 2.

    Args:
        strides: Depths: strides, or pairs [student's stride, teacher's stride].

    Raises:
        SonokitError: The strides are none.
    """

    def __init__(self, strides: Sequence[int | Sequence[int]] = (8, 16, 32)) -> None:
        super().__init__()
        self.pairs = depth_pairs(strides)
        self.student_strides = tuple(own for own, _ in self.pairs)
        self.teacher_strides = tuple(taught for _, taught in self.pairs)

    def compare(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """See :class:`~sonokit.distill.signals.terms.Signal`."""
        distances = []
        for own, taught in self.pairs:
            seen, wanted = needed_map(student, own, self, "student"), needed_map(teacher, taught, self, "teacher")
            pair = same_size(_energy(seen), _energy(wanted))
            looks, should = (F.normalize(one.flatten(1), dim=1) for one in pair)  # [B, h w]
            distances.append((looks - should).square().sum(dim=1).mean())
        return torch.stack(distances).mean()


def _energy(one: Tensor) -> Tensor:
    """[B, C, h, w] → [B, 1, h, w]."""
    return one.square().sum(dim=1, keepdim=True)
