"""Calibrators: from the probabilities that a head gives to probabilities that mean what they say.

They are fitted to predictions of clips whose patients the head had not seen (:mod:`sonokit.evaluation.nested` makes such
predictions inside a training side), never to those of the clips that are scored.

- ``platt``: a slope and an intercept on the log-odds of each class against the rest (Platt 1999, with the targets of Lin, Lin
  and Weng 2007), then made to sum to one. The default: two numbers a class are what a few dozen patients can carry, and the
  intercept takes back what weighting the classes alike did to the probabilities.
- ``temperature``: one number for all classes (Guo et al. 2017). It changes no ranking of the classes, so it can mend a head
  that is too sure of itself but not one whose classes were weighted.
- ``isotonic``: any rising function of a class's probability (Zadrozny and Elkan 2002), made to sum to one. It wants a thousand
  clips or more; with fewer it follows chance.

Several classes are taken one against the rest, as scikit-learn does. Every calibrator is plain numbers: it is kept as JSON.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from scipy.optimize import brentq, minimize_scalar
from scipy.special import expit, log_softmax, logit
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from ..errors import SonokitError

Method = Literal["platt", "temperature", "isotonic", "none"]

_SMALLEST = 1e-7  # predictions are kept to seven digits: what is below it is written as 0
_FAR = 50.0  # a logit whose probability is 0 or 1 in all digits
_COLDEST, _HOTTEST = 0.05, 20.0  # temperatures: beyond them probabilities are 0 and 1, or all alike


@dataclass(frozen=True)
class PlattScaling:
    """calibrated = sigmoid(slope · logit + intercept), ``slope`` above 0."""

    slope: float
    intercept: float


@dataclass(frozen=True)
class Calibrator:
    """A fitted calibrator of K classes.

    Attributes:
        method: Which.
        temperature: Divides the logarithms of the probabilities; 1 unless ``method`` says temperature.
        scalings: By class, None where that class could not be calibrated; for two classes the second's alone.
        knots: By class the ends of its rising function's pieces, (from, to), or None; for two classes the second's alone.
    """

    method: Method
    temperature: float = 1.0
    scalings: tuple[PlattScaling | None, ...] = ()
    knots: tuple[tuple[tuple[float, ...], tuple[float, ...]] | None, ...] = ()

    def apply(self, probabilities: np.ndarray) -> np.ndarray:
        """Calibrated probabilities float64 [..., K] of raw ones [..., K]; they sum to one."""
        raw = np.asarray(probabilities, dtype=np.float64)
        if self.method == "none":
            return raw
        if self.method == "temperature":
            return np.exp(log_softmax(np.log(np.maximum(raw, _SMALLEST)) / self.temperature, axis=-1))
        parts = self.scalings or self.knots
        if len(parts) == 1:
            second = _apply_one(parts[0], raw[..., 1])
            return np.stack([1 - second, second], axis=-1)
        return _to_sum_one(np.stack([_apply_one(part, raw[..., k]) for k, part in enumerate(parts)], axis=-1))

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "method": self.method,
            "temperature": self.temperature,
            "scalings": [None if one is None else [one.slope, one.intercept] for one in self.scalings],
            "knots": [None if one is None else [list(one[0]), list(one[1])] for one in self.knots],
        }


def calibrator_from_dict(plain: Mapping[str, Any]) -> Calibrator:
    """What :meth:`Calibrator.as_dict` wrote.

    Raises:
        SonokitError: It is of a method that this version does not know.
    """
    _require_known(plain["method"])
    return Calibrator(
        plain["method"],
        float(plain["temperature"]),
        tuple(None if one is None else PlattScaling(float(one[0]), float(one[1])) for one in plain["scalings"]),
        tuple(None if one is None else (tuple(map(float, one[0])), tuple(map(float, one[1]))) for one in plain["knots"]),
    )


def fit_calibrator(
    probabilities: np.ndarray, truth: np.ndarray, *, method: Method = "platt", weights: np.ndarray | None = None
) -> Calibrator:
    """Fit a calibrator to predictions of clips that nothing was fitted on.

    A class that no clip has, or every clip, keeps its probabilities (before they are made to sum to one).

    Args:
        probabilities: float [N, K].
        truth: Class codes int [N].
        method: See the top of this file; ``none`` changes nothing.
        weights: How much each row counts, [N]; None: 1 each. With R repeats of the same clips, 1/R each.

    Raises:
        SonokitError: No such method, or there is nothing to fit to.
    """
    _require_known(method)
    raw = np.asarray(probabilities, dtype=np.float64)
    if not len(raw):
        raise SonokitError("there is no prediction to calibrate on: take more patients, or --calibration none")
    amounts = np.ones(len(raw)) if weights is None else np.asarray(weights, dtype=np.float64)
    if method == "none":
        return Calibrator("none")
    if method == "temperature":
        return Calibrator(method, temperature=_fit_temperature(raw, truth, amounts))
    classes = [1] if raw.shape[1] == 2 else list(range(raw.shape[1]))
    if method == "platt":
        return Calibrator(
            method, scalings=tuple(fit_platt(_log_odds(raw[:, k]), (truth == k).astype(float), amounts) for k in classes)
        )
    return Calibrator(method, knots=tuple(_fit_isotonic(raw[:, k], truth == k, amounts) for k in classes))


def fit_platt(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None) -> PlattScaling | None:
    """Fit the scaling of one yes-or-no question.

    Where the best slope is not above 0 (the logits rank worse than chance), the slope is 1 and the intercept alone is fitted:
    the mean probability is then that of the targets.

    Args:
        logits: Of clips that were not trained on, [N]; nan: left out.
        labels: 1, 0 or nan (left out), [N].
        weights: How much each clip counts, [N]; None: 1 each.

    Returns:
        None where yes or no is missing: nothing can be said then.
    """
    known = ~np.isnan(labels) & ~np.isnan(logits)
    scores, positive = logits[known].astype(np.float64), labels[known] == 1
    amounts = np.ones(len(scores)) if weights is None else np.asarray(weights, dtype=np.float64)[known]
    positives, negatives = float(amounts[positive].sum()), float(amounts[~positive].sum())
    if not positives or not negatives:
        return None
    # never 0 or 1: otherwise a few positives that are well apart would make the slope infinite
    targets = np.where(positive, (positives + 1) / (positives + 2), 1 / (negatives + 2))
    middle, spread = float(scores.mean()), float(scores.std()) or 1.0  # the solver works best on standard scores
    standard = (scores - middle) / spread
    both_ways = np.concatenate([standard, standard])[:, None]  # a soft target: the clip twice, weighed by its two sides
    sides = np.repeat([1, 0], len(scores))
    shares = np.concatenate([amounts * targets, amounts * (1 - targets)])
    fitted = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(both_ways, sides, sample_weight=shares)
    slope = float(fitted.coef_[0, 0]) / spread
    if slope > 0 and np.ptp(scores) > 0:
        return PlattScaling(slope, float(fitted.intercept_[0]) - slope * middle)
    ends = -scores.max() - _FAR, -scores.min() + _FAR
    return PlattScaling(1.0, float(brentq(lambda b: np.average(expit(scores + b) - targets, weights=amounts), *ends)))


def _fit_temperature(raw: np.ndarray, truth: np.ndarray, weights: np.ndarray) -> float:
    """The temperature of least log loss."""
    logarithms = np.log(np.maximum(raw, _SMALLEST))  # [N, K]
    rows = np.arange(len(raw))

    def loss(log_temperature: float) -> float:
        told = log_softmax(logarithms / np.exp(log_temperature), axis=1)[rows, truth]
        return -float(np.average(told, weights=weights))

    found = minimize_scalar(loss, bounds=(np.log(_COLDEST), np.log(_HOTTEST)), method="bounded", options={"xatol": 1e-7})
    return float(np.exp(found.x))


def _fit_isotonic(
    probability: np.ndarray, positive: np.ndarray, weights: np.ndarray
) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    if positive.all() or not positive.any():
        return None
    fitted = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(probability, positive, sample_weight=weights)
    return tuple(fitted.X_thresholds_.tolist()), tuple(fitted.y_thresholds_.tolist())


def _apply_one(part: Any, probability: np.ndarray) -> np.ndarray:
    """One class's probabilities [...], calibrated and not yet made to sum to one."""
    if part is None:
        return probability
    if isinstance(part, PlattScaling):
        return expit(part.slope * _log_odds(probability) + part.intercept)
    return np.interp(probability, part[0], part[1])


def _to_sum_one(values: np.ndarray) -> np.ndarray:
    """Rows that sum to one; where every class was given 0, all are alike."""
    total = values.sum(axis=-1, keepdims=True)
    return np.where(total > 0, values / np.where(total > 0, total, 1), 1 / values.shape[-1])


def _log_odds(probability: np.ndarray) -> np.ndarray:
    return logit(np.clip(probability, _SMALLEST, 1 - _SMALLEST))


def _require_known(method: str) -> None:
    if method not in get_args(Method):
        raise SonokitError(f"no calibration {method!r}: choose among {', '.join(get_args(Method))}")
