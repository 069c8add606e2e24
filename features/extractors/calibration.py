"""Calibrating biomarkers: from a clip's logit to a probability that means what it says, on patients that were not trained on.

Class weights and label smoothing move logits, and a network that has met few positives is sure of too much. Platt's scaling
(1999; the improved targets of Lin, Lin and Weng 2007) fits two numbers a biomarker, a slope and an intercept, because a few
positives carry no more. They are fitted to logits of clips whose patients the network had not seen: within the training side
of a fold an inner division by patient gives them. Slopes stay above 0, so that no ranking changes.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold

from ...evaluation.calibration import PlattScaling, fit_platt

__all__ = ["PlattScaling", "fit_platt", "inner_logits", "reliability", "reliability_report"]

_BINS = 5


def inner_logits(
    labels: np.ndarray,
    patients: np.ndarray,
    rows: np.ndarray,
    folds: int,
    seed: int,
    fit_and_predict: Callable[[np.ndarray, np.ndarray, int], np.ndarray],
) -> np.ndarray | None:
    """Logits of training clips, each by a network that has not seen its patient.

    A biomarker's logits of an inner fold are left out (nan) where the rest of the training side lacks positives or negatives.

    Args:
        labels: 1, 0 or nan, shape [N, B].
        patients: Shape [N].
        rows: The training side, bool [N].
        folds: Inner folds, fewer where there are fewer patients.
        seed: Of the inner division.
        fit_and_predict: From a training mask [N], a test mask [N] and the inner fold's number to the test clips' logits [M, B].

    Returns:
        Shape [N, B], nan off the training side; None where there are fewer than two patients.
    """
    if len(set(patients[rows])) < 2:
        return None
    logits = np.full(labels.shape, np.nan)
    for number, test in enumerate(_inner_folds(labels, patients, rows, folds, seed)):
        train = rows & ~test
        taught = (labels[train] == 1).any(axis=0) & (labels[train] == 0).any(axis=0)  # [B]
        if taught.any():
            logits[test] = np.where(taught, fit_and_predict(train, test, number), np.nan)
    return logits


def reliability(probabilities: np.ndarray, labels: np.ndarray, bins: int = _BINS) -> dict[str, Any] | None:
    """How far probabilities can be taken at their word.

    Args:
        probabilities: In each of R repeats, shape [R, N]; nan: left out.
        labels: 1, 0 or nan (left out), shape [N].
        bins: Of equally many predictions each, in the order of the probabilities.

    Returns:
        ``brier`` (mean squared error), ``ece`` (expected calibration error: mean distance of a bin's share of positives from
        its mean probability, weighted by its predictions) and the ``curve``, a list of ``predicted``, ``observed``, ``count``.
        None where there is no prediction with a label.
    """
    known = ~np.isnan(probabilities) & ~np.isnan(labels)  # [R, N]
    predicted = probabilities[known].astype(np.float64)  # [P]
    observed = np.broadcast_to(labels == 1, probabilities.shape)[known].astype(np.float64)
    if not len(predicted):
        return None
    order = np.argsort(predicted, kind="stable")
    curve = [
        {"predicted": float(predicted[part].mean()), "observed": float(observed[part].mean()), "count": len(part)}
        for part in np.array_split(order, bins)
        if len(part)
    ]
    error = sum(point["count"] * abs(point["observed"] - point["predicted"]) for point in curve) / len(predicted)
    return {"brier": float(np.mean((predicted - observed) ** 2)), "ece": error, "curve": curve}


def reliability_report(
    raw: np.ndarray, calibrated: np.ndarray, labels: np.ndarray, biomarkers: tuple[str, ...]
) -> dict[str, Any]:
    """By biomarker the :func:`reliability` ``before`` and ``after`` calibration.

    Args:
        raw: Probabilities out of fold, [R, N, B]; nan where a clip was on no test side.
        calibrated: The same, calibrated; nan where the fold's extractor is not.
        labels: 1, 0 or nan, [N, B].
        biomarkers: B names.

    Returns:
        ``after`` is None unless every prediction was calibrated: otherwise the two would be of different clips.
    """
    report = {}
    for column, name in enumerate(biomarkers):
        before, truth = raw[:, :, column], labels[:, column]
        after = None
        if not np.isnan(calibrated[:, :, column][~np.isnan(before)]).any():
            after = reliability(calibrated[:, :, column], truth)
        report[name] = {"before": reliability(before, truth), "after": after}
    return report


def _inner_folds(labels: np.ndarray, patients: np.ndarray, rows: np.ndarray, folds: int, seed: int) -> Iterator[np.ndarray]:
    """Test masks, bool [N]; no patient is in two of them, and the rarest findings are spread best."""
    places = np.flatnonzero(rows)
    classes = _rarest_finding(labels[places])
    folds = min(folds, len(set(patients[places])))
    counts = np.bincount(classes)
    # a class of fewer clips than folds cannot be spread over them; scikit-learn warns of it, or refuses
    classes = np.where(counts[classes] < folds, counts.argmax(), classes)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for _, test in splitter.split(places, classes, patients[places]):
        if len(test):
            mask = np.zeros(len(labels), dtype=bool)
            mask[places[test]] = True
            yield mask


def _rarest_finding(labels: np.ndarray) -> np.ndarray:
    """Of each clip the number of its rarest positive biomarker, 0 for none, int [M]. labels [M, B]."""
    positive = labels == 1  # [M, B]
    order = np.argsort(positive.sum(axis=0), kind="stable")  # rarest first
    found = positive[:, order]
    return np.where(found.any(axis=1), 1 + found.argmax(axis=1), 0)
