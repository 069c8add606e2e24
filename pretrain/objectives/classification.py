"""Cross-entropy where some labels are known: what makes an objective semi-supervised."""

import torch.nn.functional as F
from torch import Tensor

from .objective import UNLABELLED


def masked_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy over the labelled rows; 0 where no row has a label.

    Args:
        logits: Shape [N, K].
        labels: int64 [N], ``UNLABELLED`` (-1) where unknown.
        smoothing: Share of a target that is spread evenly over the K classes.
    """
    known = (labels != UNLABELLED).sum().clamp(min=1)
    return F.cross_entropy(logits, labels, ignore_index=UNLABELLED, reduction="sum", label_smoothing=smoothing) / known
