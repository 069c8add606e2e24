"""Signals for landmarks: heat maps of the true points, and the teacher's.

Supervised by both, as fast pose distillation has it (Zhang, Zhu and Ye, CVPR 2019, 1811.05419). The squared errors are summed
over a map's cells and averaged over maps: a Gaussian covers as many cells in a large map as in a small one, and a mean over the
cells would make the term vanish in large ones.
"""

import torch
from torch import Tensor

from ...errors import SonokitError
from .terms import Batch, Outputs, Signal, needed, same_shape


class HeatMapTargets(Signal):
    """‖student's map − true map‖², mean over the landmarks that are there; a batch without any gives 0."""

    uses_teacher = False

    def compare(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """See :class:`~sonokit.distill.signals.terms.Signal`."""
        own = needed(student.heat_maps, self, "the student's heat maps")  # [B, L, h, w]
        wanted = needed(batch.heat_maps, self, "heat maps of the true landmarks")
        return _mean_over_maps(own, wanted, batch.present, self)


class HeatMapResponse(Signal):
    """‖student's map − teacher's map‖², mean over landmarks.

    Args:
        only_present: Leave out landmarks that the truth does not have; otherwise the teacher is followed there too.
    """

    def __init__(self, only_present: bool = False) -> None:
        super().__init__()
        self.only_present = only_present

    def compare(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """See :class:`~sonokit.distill.signals.terms.Signal`."""
        own = needed(student.heat_maps, self, "the student's heat maps")
        wanted = needed(teacher.heat_maps, self, "the teacher's heat maps")
        present = needed(batch.present, self, "marks of the landmarks that are there") if self.only_present else None
        return _mean_over_maps(own, wanted, present, self)


def _mean_over_maps(own: Tensor, wanted: Tensor, present: Tensor | None, signal: Signal) -> Tensor:
    same_shape(own, wanted, signal, "heat maps")
    errors = (own - wanted).square().sum(dim=(2, 3))  # [B, L]
    if present is None:
        return errors.mean()
    if present.shape != errors.shape:
        raise SonokitError(f"{type(signal).__name__}: present must be {tuple(errors.shape)}, it is {tuple(present.shape)}")
    return torch.where(present, errors, torch.zeros_like(errors)).sum() / present.sum().clamp(min=1)
