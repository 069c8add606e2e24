"""Response distillation: the student learns the teacher's probabilities (Hinton, Vinyals and Dean 2015, 1503.02531).

Both sides' logits are divided by a temperature T, so that what the teacher says of the wrong classes is heard; the divergence
is multiplied by T², which keeps its gradient's size beside that of the hard labels when T changes.
"""

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from ...errors import SonokitError
from .terms import Batch, Outputs, Signal, needed, same_shape

Kind = Literal["classes", "several"]
"""Exactly one of K classes is true, or each of K findings may be."""


class Response(Signal):
    """T² · KL(teacher ‖ student) of the probabilities at temperature T, mean over the batch.

    Args:
        temperature: T, positive; 1 compares the probabilities themselves.
        kind: "classes": softmax over K. "several": each of K findings is a yes or no of its own, mean over K.

    Raises:
        SonokitError: The temperature is not positive, or no such kind.
    """

    def __init__(self, temperature: float = 4.0, kind: Kind = "classes") -> None:
        super().__init__()
        if not 0 < temperature < float("inf"):
            raise SonokitError(f"the temperature must be a positive number, it is {temperature}")
        require_kind(kind)
        self.temperature = float(temperature)
        self.kind = kind

    def compare(self, student: Outputs, teacher: Outputs, batch: Batch) -> Tensor:
        """See :class:`~sonokit.distill.signals.terms.Signal`."""
        own = needed(student.logits, self, "the student's logits") / self.temperature  # [B, K]
        taught = needed(teacher.logits, self, "the teacher's logits") / self.temperature
        same_shape(own, taught, self, "logits")
        if self.kind == "classes":
            divergence = F.kl_div(own.log_softmax(dim=1), taught.log_softmax(dim=1), reduction="batchmean", log_target=True)
        else:
            wanted = taught.sigmoid()
            entropy = F.binary_cross_entropy_with_logits(taught, wanted)
            divergence = F.binary_cross_entropy_with_logits(own, wanted) - entropy
        return self.temperature**2 * divergence


def require_kind(kind: str) -> None:
    """Refuse what is no :data:`Kind`."""
    if kind not in get_args(Kind):
        raise SonokitError(f"kind must be one of {', '.join(get_args(Kind))}, it is {kind!r}")
