"""How a learning rate goes over a training: up in a line, down in a cosine (Loshchilov and Hutter 2017, 1608.03983)."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class WarmupCosine:
    """Factor of the learning rates at a step, for torch's ``LambdaLR``.

    Attributes:
        steps: Of the whole training.
        warmup: Share of them in which the factor rises to 1.
    """

    steps: int
    warmup: float

    def __call__(self, step: int) -> float:
        """The factor, in [0, 1], of step number ``step`` from 0."""
        rising = max(1, round(self.steps * self.warmup))
        if step < rising:
            return (step + 1) / rising
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, self.steps - rising)))
