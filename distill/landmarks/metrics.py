"""Errors of landmarks: the mean radial error (MRE) and the successful detection rate (SDR) of the ISBI 2015 challenge.

The radial error is the distance between the predicted and the true point, each axis multiplied by its own pixel spacing. The
boundary rule: a landmark is detected within r millimetres if its error is *less than* r, as the evaluation code that is public
for the challenge's images has it; an error of exactly r is a miss. Errors are rounded to a millionth of a millimetre first, so
that floating-point noise does not decide.

A landmark that is there and was not predicted has an infinite error: a miss in every SDR, left out of the MRE, and counted.
One that is not there has none (nan) and counts nowhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import SonokitError
from ...evaluation.bootstrap import Interval, interval
from ...evaluation.patient_weights import PatientWeights
from ...evaluation.weighted_draws import Draws, ratio, weighted_draws

RADII_MM = (2.0, 2.5, 3.0, 4.0)
"""The radii at which SDR is reported."""

_DECIMALS = 6


def radial_errors(predicted: np.ndarray, truth: np.ndarray, spacing: np.ndarray | Sequence[float] | None) -> np.ndarray:
    """Distances in millimetres (in pixels where ``spacing`` is None), float64 [N, L].

    nan where the truth is absent, inf where it is there and the prediction is not.

    Args:
        predicted: (x, y) in pixels of the original images, [N, L, 2]; nan where nothing was predicted.
        truth: As ``predicted``.
        spacing: Millimetres a pixel (along x, along y), [N, 2] or one pair for all images.

    Raises:
        SonokitError: The shapes differ, or a spacing is unknown or not positive.
    """
    predicted, truth = np.asarray(predicted, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if predicted.shape != truth.shape or truth.ndim != 3 or truth.shape[2] != 2:
        raise SonokitError(f"points must be [images, landmarks, 2], got {predicted.shape} predicted and {truth.shape} true")
    scale = np.ones((1, 2)) if spacing is None else np.atleast_2d(np.asarray(spacing, dtype=np.float64))
    if scale.shape not in ((1, 2), (len(truth), 2)) or not (scale > 0).all():
        raise SonokitError(
            "the spacing must be positive, one pair (x, y) or one for each image; leave images without it out, or report pixels"
        )
    difference = (predicted - truth) * scale[:, None]
    errors = np.round(np.hypot(difference[..., 0], difference[..., 1]), _DECIMALS)
    there = np.isfinite(truth).all(axis=2)
    return np.where(there, np.where(np.isfinite(predicted).all(axis=2), errors, np.inf), np.nan)


@dataclass(frozen=True)
class LandmarkScores:
    """What a set of radial errors amounts to.

    Attributes:
        mre: Mean radial error over all images and landmarks.
        sd: Standard deviation of the radial errors (of a sample: n - 1).
        sdr: Radius -> per cent of the landmarks whose error is less.
        landmarks: How many landmarks are there in truth.
        missed: How many of them were not predicted.
        absent: How many are not there in truth.
    """

    mre: float
    sd: float
    sdr: dict[float, float]
    landmarks: int
    missed: int
    absent: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, None for nan."""
        plain = {name: None if np.isnan(value) else value for name, value in (("mre", self.mre), ("sd", self.sd))}
        rates = {_rate(radius): None if np.isnan(value) else value for radius, value in self.sdr.items()}
        return plain | rates | {"landmarks": self.landmarks, "missed": self.missed, "absent": self.absent}


def landmark_scores(errors: np.ndarray, radii: Sequence[float] = RADII_MM) -> LandmarkScores:
    """MRE, its spread, and SDR of radial errors of any shape.

    Args:
        errors: From :func:`radial_errors`.
        radii: In the unit of the errors.
    """
    errors = np.asarray(errors, dtype=np.float64)
    there = errors[~np.isnan(errors)]
    finite = there[np.isfinite(there)]
    return LandmarkScores(
        float(finite.mean()) if len(finite) else np.nan,
        float(finite.std(ddof=1)) if len(finite) > 1 else np.nan,
        {float(radius): float(np.mean(there < radius) * 100) if len(there) else np.nan for radius in radii},
        len(there),
        int(np.isinf(there).sum()),
        int(np.isnan(errors).sum()),
    )


def scores_by_landmark(errors: np.ndarray, names: Sequence[str], radii: Sequence[float] = RADII_MM) -> list[dict[str, Any]]:
    """One row a landmark: ``landmark`` and what :meth:`LandmarkScores.as_dict` gives.

    Args:
        errors: float [N, L].
        names: Of the landmarks, L.
        radii: In the unit of the errors.
    """
    return [{"landmark": name} | landmark_scores(errors[:, k], radii).as_dict() for k, name in enumerate(names)]


def score_intervals(
    errors: np.ndarray, units: np.ndarray, *, radii: Sequence[float] = RADII_MM, n: int = 2000, seed: int = 0
) -> dict[str, Interval]:
    """``mre``, ``sdr_2`` … with intervals by resampling images or patients.

    Args:
        errors: float [N, L]; several students' or seeds' errors may be averaged over, [R, N, L]: the score is then the mean
            over R, on the same resamples.
        units: What is drawn together, [N]: the patient of each image, or the image itself.
        radii: In the unit of the errors.
        n: Resamples.
        seed: Of the resampling.
    """
    draws = _draws(errors, units, radii, n, seed)
    return {name: interval(values, units) for name, values in draws.items()}


def paired_differences(
    first: np.ndarray,
    second: np.ndarray,
    units: np.ndarray,
    *,
    radii: Sequence[float] = RADII_MM,
    n: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Every score of ``first`` minus that of ``second`` on the same resamples; arguments as in :func:`score_intervals`.

    Raises:
        SonokitError: They are not errors of the same landmarks in the same images.
    """
    a, b = _with_repeats(first), _with_repeats(second)
    if a.shape[1:] != b.shape[1:] or not np.array_equal(np.isnan(a[0]), np.isnan(b[0])):
        raise SonokitError("these cannot be compared: they are not errors of the same landmarks in the same images")
    draws_a, draws_b = _draws(first, units, radii, n, seed), _draws(second, units, radii, n, seed)
    return {name: interval(draws_a[name] - draws_b[name], units) for name in draws_a}


def _rate(radius: float) -> str:
    return f"sdr_{radius:g}"


def _with_repeats(errors: np.ndarray) -> np.ndarray:
    errors = np.asarray(errors, dtype=np.float64)
    return errors[None] if errors.ndim == 2 else errors


def _draws(errors: np.ndarray, units: np.ndarray, radii: Sequence[float], n: int, seed: int) -> Draws:
    repeats = _with_repeats(errors)  # [R, N, L]
    there, finite = ~np.isnan(repeats), np.isfinite(repeats)
    counted = there.sum(axis=2).T.astype(np.float64)  # [N, R]
    measured = finite.sum(axis=2).T.astype(np.float64)
    total = np.where(finite, repeats, 0.0).sum(axis=2).T
    hits = {_rate(radius): (repeats < radius).sum(axis=2).T * 100.0 for radius in radii}  # nan is not less

    def statistic(weights: PatientWeights) -> Draws:
        rates = {name: ratio(weights @ hit, weights @ counted).mean(axis=1) for name, hit in hits.items()}
        return {"mre": ratio(weights @ total, weights @ measured).mean(axis=1)} | rates

    return weighted_draws(statistic, units, n=n, seed=seed, cells_a_draw=counted.size)
