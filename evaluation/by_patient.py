"""Clips of one patient read together: the mean of what was predicted for each of them.

A patient is who is treated, and a clip is what was scored. Averaging the probabilities (or values) of a patient's clips is the
plainest reading by patient; what it loses is when one clip shows what the others do not.
"""

import numpy as np

from .predictions import Predictions


def average_by_patient(predictions: Predictions) -> Predictions:
    """One row a patient, sorted by name: the mean over their clips, in each repeat.

    Patients whose clips differ in the label have no one truth and are left out.

    Args:
        predictions: One row a clip, values [R, N, K] or [R, N].

    Returns:
        ``clip_ids`` and ``patients`` are the patients' names, str [P]; values [R, P, K] or [R, P], to seven digits.
    """
    names, owner = np.unique(predictions.patients, return_inverse=True)
    owner = owner.reshape(-1)
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(len(names)))
    truth = predictions.truth[order]
    agree = np.minimum.reduceat(truth, starts) == np.maximum.reduceat(truth, starts)  # [P]
    counts = np.bincount(owner, minlength=len(names)).astype(np.float64)
    sums = np.add.reduceat(predictions.values[:, order], starts, axis=1)  # [R, P, K] or [R, P]
    means = np.round(sums / counts.reshape(1, -1, *[1] * (sums.ndim - 2)), 7)  # as predictions are kept
    everyone = Predictions(predictions.task, predictions.classes, names, names, truth[starts], means)
    return everyone.select(agree)
