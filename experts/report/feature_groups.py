"""Names that a reader knows: which biomarker a feature belongs to, what an output of a head speaks for."""

import re

import numpy as np

from ...evaluation.findings import findings
from ...evaluation.scores import Task

EMBEDDING = "embedding"

_FEATURE = re.compile(r"(?P<how>\w+) of (?P<what>.+)")


def group_of(name: str) -> str:
    """What a feature belongs to: ``maximum of b_lines`` to b_lines, ``spread of dimension 12`` to the embedding."""
    found = _FEATURE.fullmatch(name)
    if found is None:
        return name
    return EMBEDDING if re.fullmatch(r"dimension \d+", found["what"]) else found["what"]


def output_names(label: str, task: Task, classes: tuple[str, ...]) -> tuple[str, ...]:
    """What each output of a head speaks for: a class, a threshold passed, or the number itself."""
    return tuple(finding.name for finding in findings(task, classes)) or (label,)


def centred(found: np.ndarray, task: Task) -> np.ndarray:
    """Contributions [N, K, ·] of three classes or more against the mean of all classes; others as they are."""
    return found - found.mean(axis=1, keepdims=True) if task == "classification" and found.shape[1] > 2 else found
