"""Hard labels: what a student learns without a teacher, and what stays beside one."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import SonokitError
from .response import Kind, require_kind
from .terms import Batch, Outputs, Signal, needed, same_shape

UNKNOWN = -1
"""The label of an image of which no class is known."""


class HardLabels(Signal):
    """Cross-entropy with the known labels; unknown ones count nothing, and a batch without any, or of weight 0, gives 0.

    Args:
        kind: "classes": ``labels`` int64 [B], -1 where unknown. "several": float [B, K] of 0, 1 and nan where unknown; the
            mean is over what is known.
        weights: Of each class (of its cross-entropy, whose mean is then weighted; Python floats [K]), or of the yes of each
            finding (``pos_weight``). None weighs all alike.

    Raises:
        SonokitError: No such kind, or a weight is negative.
    """

    uses_teacher = False

    def __init__(self, kind: Kind = "classes", weights: Sequence[float] | None = None) -> None:
        super().__init__()
        require_kind(kind)
        if weights is not None and not all(0 <= weight < float("inf") for weight in weights):
            raise SonokitError(f"weights of labels must be 0 or more, they are {list(weights)}")
        self.kind = kind
        self.weights: Tensor | None
        self.register_buffer("weights", None if weights is None else torch.tensor(weights, dtype=torch.float32))

    def compare(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """See :class:`~sonokit.distill.signals.terms.Signal`."""
        logits = needed(student.logits, self, "the student's logits")  # [B, K]
        labels = needed(batch.labels, self, "labels")
        if self.weights is not None and len(self.weights) != logits.shape[1]:
            raise SonokitError(f"labels: {len(self.weights)} weights for {logits.shape[1]} classes; give one for each")
        weights = None if self.weights is None else self.weights.to(logits.dtype)
        if self.kind == "several":
            same_shape(logits, labels, self, "logits (labels of several findings are [images, findings])")
            return _several(logits, labels, weights)
        if labels.shape != logits.shape[:1] or labels.is_floating_point():
            raise SonokitError(f"labels of classes are whole numbers [images], got {labels.dtype} {tuple(labels.shape)}")
        known = labels[labels != UNKNOWN]
        if not len(known) or (weights is not None and not weights[known].any()):
            return _nothing(logits)  # else a mean over nothing: 0 / 0
        return F.cross_entropy(logits, labels, weight=weights, ignore_index=UNKNOWN)


def _several(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    known = ~labels.isnan()
    if not known.any():
        return _nothing(logits)
    target = torch.where(known, labels, torch.zeros_like(labels)).to(logits.dtype)
    each = F.binary_cross_entropy_with_logits(logits, target, pos_weight=weights, reduction="none")
    return torch.where(known, each, torch.zeros_like(each)).sum() / known.sum()


def _nothing(logits: Tensor) -> Tensor:
    """Zero, still a function of the student, so that ``backward`` works."""
    return (logits * 0).sum()
