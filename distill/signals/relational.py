"""Relational distillation: the student learns how images lie to each other (Park et al., CVPR 2019, 1904.05068).

Distances between the pairs of a batch, over their mean, and the angles of its triplets, in the student's space as in the
teacher's; the two spaces need not have the same dimension. Means are over pairs and triplets of different images (the authors'
code also counts an image with itself, which is always 0).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import SonokitError
from .terms import Batch, Outputs, Signal, needed

_SMALLEST = 1e-12  # of a squared distance: the root's gradient is infinite at 0


class Relational(Signal):
    """distance · mean Huber(distances) + angle · mean Huber(cosines of angles), of the features.

    A batch of one image says nothing of distances, one of two nothing of angles: those parts are then 0. Angles take memory
    for B³ numbers.

    Args:
        distance: Weight of the distances (the paper: 25 for metric learning, beside an angle's 50).
        angle: Weight of the angles; 0 leaves them out.

    Raises:
        SonokitError: A weight is negative, or both are 0.
    """

    def __init__(self, distance: float = 1.0, angle: float = 2.0) -> None:
        super().__init__()
        if min(distance, angle) < 0 or distance + angle <= 0:
            raise SonokitError(f"relational: distance and angle must be 0 or more, one of them above; got {distance}, {angle}")
        self.distance = float(distance)
        self.angle = float(angle)

    def compare(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """See :class:`~sonokit.distill.signals.terms.Signal`."""
        own = needed(student.features, self, "the student's features")  # [B, D]
        taught = needed(teacher.features, self, "the teacher's features")  # [B, D']
        if len(own) != len(taught):
            raise SonokitError(f"Relational: the student has features of {len(own)} images, the teacher of {len(taught)}")
        total = (own * 0).sum()  # a function of the student even where nothing is compared
        if self.distance and len(own) > 1:
            total = total + self.distance * F.smooth_l1_loss(_distances(own), _distances(taught))
        if self.angle and len(own) > 2:
            total = total + self.angle * F.smooth_l1_loss(_angles(own), _angles(taught))
        return total


def _distances(features: Tensor) -> Tensor:
    """Of the pairs i < j, over their mean, [B (B - 1) / 2]."""
    first, second = torch.triu_indices(len(features), len(features), offset=1, device=features.device)
    lengths = (features[first] - features[second]).square().sum(dim=1).clamp(min=_SMALLEST).sqrt()
    return lengths / lengths.mean()


def _angles(features: Tensor) -> Tensor:
    """Cosines at j between i and k, for all i < k and j different from both, [B (B - 1) (B - 2) / 2]."""
    count = len(features)
    steps = features.unsqueeze(0) - features.unsqueeze(1)  # [j, i, D]: from j to i
    lengths = steps.square().sum(dim=2, keepdim=True).clamp(min=_SMALLEST).sqrt()
    directions = steps / lengths
    cosines = directions @ directions.transpose(1, 2)  # [j, i, k]
    at = torch.arange(count, device=features.device)
    j, i, k = at.view(-1, 1, 1), at.view(1, -1, 1), at.view(1, 1, -1)
    return cosines[(i < k) & (j != i) & (j != k)]
