"""The region term: a student that decides by what the experts marked (after Schaudt et al., Sci Rep 2023; the form is ours).

The map of where a class is seen (class activation map, Zhou et al., CVPR 2016, 1512.04150) is made into shares that sum to 1
over the image; the term is the share that lies outside the region: 1 minus the overlap. With a region that is the whole image
it is exactly 0, and distillation is what it was without.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import SonokitError
from .labels import UNKNOWN
from .terms import Batch, Outputs, Signal, needed


def class_activation_maps(maps: Tensor, weight: Tensor) -> Tensor:
    """Where each class is seen, [B, K, h, w], of a linear classifier on the mean of the last map.

    Args:
        maps: The last feature map, float [B, D, h, w].
        weight: Of the classifier, float [K, D].
    """
    return torch.einsum("bdhw,kd->bkhw", maps, weight)


class RegionOverlap(Signal):
    """1 − the share of the true classes' activation that lies in the region; mean over images and classes.

    Shares are of softplus(activation), not of relu(activation): a map that is nowhere positive, as at the beginning of
    training, still has a gradient. An image without regions or without a known label, and of several findings those that are
    not there, count nothing; a batch without any gives 0.
    """

    uses_teacher = False
    uses_class_maps = True

    def compare(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """See :class:`~sonokit.distill.signals.terms.Signal`."""
        activation = needed(student.class_maps, self, "the student's class activation maps")  # [B, K, h, w]
        regions = needed(batch.regions, self, "regions")  # [B, 1, H, W]
        labels = needed(batch.labels, self, "labels")
        outside = 1 - shrunk(regions, activation.shape[2:], len(activation))  # [B, 1, h, w]
        positive = F.softplus(activation)
        share = (positive * outside).sum(dim=(2, 3)) / positive.sum(dim=(2, 3)).clamp(min=torch.finfo(positive.dtype).tiny)
        counted = _true_classes(labels, share)  # [B, K]
        if batch.annotated is not None:
            counted = counted & batch.annotated.unsqueeze(1)
        return torch.where(counted, share, torch.zeros_like(share)).sum() / counted.sum().clamp(min=1)


def energy_inside(activation: Tensor, regions: Tensor) -> Tensor:
    """For reports: the share of each map's positive activation that lies in the region, [B, K]; nan where none is positive.

    Args:
        activation: Class activation maps, float [B, K, h, w].
        regions: float [B, 1, H, W] from 0 to 1.
    """
    positive = activation.clamp(min=0)
    inside = shrunk(regions, activation.shape[2:], len(activation))
    return (positive * inside).sum(dim=(2, 3)) / positive.sum(dim=(2, 3))


def shrunk(regions: Tensor, size: torch.Size | tuple[int, int], images: int) -> Tensor:
    """Regions as a map of ``size`` whose cells say how much of them is region, [B, 1, h, w]."""
    if regions.ndim != 4 or regions.shape[:2] != (images, 1):
        raise SonokitError(f"regions must be [{images}, 1, height, width], one mask an image, got {tuple(regions.shape)}")
    return F.adaptive_avg_pool2d(regions.float(), (int(size[0]), int(size[1])))


def _true_classes(labels: Tensor, like: Tensor) -> Tensor:
    """Which classes are known to be there, bool [B, K]."""
    if labels.ndim == 2:
        return labels == 1  # nan is not
    known = labels != UNKNOWN
    return F.one_hot(labels.clamp(min=0), like.shape[1]).bool() & known.unsqueeze(1)
