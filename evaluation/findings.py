"""Yes-or-no questions within a label: what an operating point and a decision curve are about.

Two classes: is it the second? Several: is it this class, against all others? Ordered levels: is it this level or more,
because a clinician who acts from level 2 acts on level 3 too.
"""

from dataclasses import dataclass

import numpy as np

from .scores import Task


@dataclass(frozen=True)
class Finding:
    """One of these questions.

    Attributes:
        name: In words, such as ``covid19`` or ``severity 2 or more``.
        code: Of the class, or of the lowest level.
        or_more: Whether higher codes count as well.
    """

    name: str
    code: int
    or_more: bool = False

    def present(self, truth: np.ndarray) -> np.ndarray:
        """Whether each clip has it, bool [N], from class codes [N]."""
        return truth >= self.code if self.or_more else truth == self.code

    def probability(self, probabilities: np.ndarray) -> np.ndarray:
        """Of its being there, float [..., N], from class probabilities [..., N, K]."""
        return probabilities[..., self.code :].sum(axis=-1) if self.or_more else probabilities[..., self.code]


def findings(task: Task, classes: tuple[str, ...]) -> tuple[Finding, ...]:
    """Every question of a label with these classes, in the order of their codes; none for regression."""
    if task == "regression":
        return ()
    if len(classes) == 2:
        return (Finding(classes[1], 1),)
    if task == "ordinal":
        middle = tuple(Finding(f"{name} or more", code, or_more=True) for code, name in enumerate(classes[1:-1], start=1))
        return (*middle, Finding(classes[-1], len(classes) - 1))
    return tuple(Finding(name, code) for code, name in enumerate(classes))
