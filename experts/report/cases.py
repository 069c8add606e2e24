"""Which cases a report explains: by a rule that is fixed beforehand, so that nobody picks the ones that look best."""

from collections.abc import Iterator

import numpy as np

from ...evaluation.scores import Task

RIGHT, WRONG, UNSURE = "most confidently right", "most confidently wrong", "least certain"
NEAR, OVER, UNDER = "nearest to the truth", "most overestimated", "most underestimated"


def chosen_cases(
    task: Task, classes: tuple[str, ...], truth: np.ndarray, values: np.ndarray, clip_ids: np.ndarray
) -> Iterator[tuple[int, str]]:
    """The cases, each once: of each true class the surest right and wrong answers and the one with the narrowest lead.

    Args:
        task: What kind of label it is.
        classes: Names of the K classes; empty for regression.
        truth: Class codes int [N], or float [N].
        values: Probabilities [N, K], or values [N].
        clip_ids: Ties go to the first of these, str [N].

    Yields:
        Row of the case, and why it was chosen.
    """
    alphabetical = np.argsort(clip_ids, kind="stable")
    taken: set[int] = set()
    rules = _of_numbers(truth, values) if task == "regression" else _of_classes(len(classes), truth, values)
    for rule, eligible, wish in rules:
        for row in alphabetical[np.argsort(-wish[alphabetical], kind="stable")]:
            if eligible[row] and int(row) not in taken:
                taken.add(int(row))
                yield int(row), rule
                break


def _of_numbers(truth: np.ndarray, values: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    error = values - truth
    yield NEAR, np.ones(len(truth), dtype=bool), -np.abs(error)
    yield OVER, error > 0, error
    yield UNDER, error < 0, -error


def _of_classes(count: int, truth: np.ndarray, values: np.ndarray) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    predicted, ordered = values.argmax(axis=1), np.sort(values, axis=1)
    for code in range(count):
        of_class = truth == code
        yield RIGHT, of_class & (predicted == code), values[:, code]
        yield WRONG, of_class & (predicted != code), ordered[:, -1]
        yield UNSURE, of_class, ordered[:, -2] - ordered[:, -1]
