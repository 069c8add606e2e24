"""Figures of the landmark studies out of radial errors: by arm, and paired between arms."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sonokit.distill.landmarks.metrics import landmark_scores, paired_differences, score_intervals, scores_by_landmark

TEACHER = "teacher"
LABELS, OUTPUT, SHARING = STUDENTS = ("labels", "output", "sharing")


def figures_of_arm(errors: np.ndarray, units: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Scores with intervals over images, of each seed and each landmark, and the errors' distribution; errors [R, N, L]."""
    together = [landmark_scores(one).as_dict() for one in errors]
    return {
        "scores": {name: figure.as_dict() for name, figure in score_intervals(errors, units).items()},
        "by_seed": together,
        "by_landmark": scores_by_landmark(errors.reshape(-1, errors.shape[2]), names),
        "quantiles": {f"{q:g}": round(float(np.quantile(errors, q)), 4) for q in np.linspace(0.05, 0.95, 19).round(2)},
    }


def differences(errors: dict[str, np.ndarray], units: np.ndarray) -> dict[str, dict[str, Any]]:
    """Paired over the same resampled images, the mean over seeds; and of each seed by itself."""
    pairs = [(SHARING, OUTPUT), (SHARING, LABELS), (OUTPUT, LABELS), *((arm, TEACHER) for arm in (SHARING, OUTPUT, LABELS))]
    return {
        f"{first}_minus_{second}": {
            "scores": {
                name: figure.as_dict() for name, figure in paired_differences(errors[first], errors[second], units).items()
            },
            **_over_seeds(errors[first], errors[second]),
        }
        for first, second in pairs
    }


def _over_seeds(first: np.ndarray, second: np.ndarray) -> dict[str, Any]:
    """Difference of each seed by itself, where both have the same seeds: how far it depends on the initial weights."""
    if len(first) != len(second):
        return {}
    pairs = [(landmark_scores(a).as_dict(), landmark_scores(b).as_dict()) for a, b in zip(first, second, strict=True)]
    scores = ("mre", "sdr_2", "sdr_2.5", "sdr_3", "sdr_4")
    return {"by_seed": {name: [round(a[name] - b[name], 4) for a, b in pairs] for name in scores}}
