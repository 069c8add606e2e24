import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV, calibration_curve
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import brier_score_loss, log_loss
from sonokit.errors import SonokitError
from sonokit.evaluation.calibration import Calibrator, calibrator_from_dict, fit_calibrator, fit_platt
from sonokit.evaluation.calibration_scores import (
    calibration_draws,
    calibration_gain,
    calibration_intervals,
    chance_error,
    equal_count_bins,
    expected_calibration_error,
    reliability_curve,
)
from sonokit.evaluation.findings import Finding
from sonokit.evaluation.predictions import Predictions

METHODS = ("platt", "temperature", "isotonic")


class Given(ClassifierMixin, BaseEstimator):
    """Its features are the probabilities."""

    classes_ = np.arange(3)

    def fit(self, X: np.ndarray, y: np.ndarray) -> "Given":
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return X

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, X: np.ndarray) -> np.ndarray:
        return X.argmax(axis=1)


class GivenLogOdds(ClassifierMixin, BaseEstimator):
    """Its feature is the log-odds of the second class."""

    classes_ = np.arange(2)

    def fit(self, X: np.ndarray, y: np.ndarray) -> "GivenLogOdds":
        return self

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        return X[:, 0]

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def predict(self, X: np.ndarray) -> np.ndarray:
        return (X[:, 0] > 0).astype(int)


def overconfident(seed: int, clips: int = 300, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are sure of too much, and what was true."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, clips)
    logits = rng.normal(size=(clips, classes)) + 1.2 * np.eye(classes)[truth]
    sure = np.exp(2 * logits)
    return sure / sure.sum(axis=1, keepdims=True), truth


def predicted(values: np.ndarray, truth: np.ndarray, patients: np.ndarray | None = None) -> Predictions:
    """Of one repeat, each clip its own patient unless told whose."""
    owners = np.arange(len(truth)).astype(str) if patients is None else patients
    names = tuple(f"c{k}" for k in range(values.shape[-1]))
    return Predictions("classification", names, owners, owners, truth, values if values.ndim == 3 else values[None])


def test_fit_calibrator__binary_platt_is_sklearns() -> None:
    probabilities, truth = overconfident(0, classes=2)
    log_odds = np.log(probabilities[:, 1:] / probabilities[:, :1])
    theirs = CalibratedClassifierCV(FrozenEstimator(GivenLogOdds()), method="sigmoid").fit(log_odds, truth)
    ours = fit_calibrator(probabilities, truth, method="platt").apply(probabilities)
    np.testing.assert_allclose(ours, theirs.predict_proba(log_odds), atol=2e-3)


@pytest.mark.parametrize(("method", "tolerance"), [("isotonic", 1e-6), ("temperature", 1e-4)])
def test_fit_calibrator__of_three_classes_is_sklearns(method: Any, tolerance: float) -> None:
    probabilities, truth = overconfident(1)
    theirs = CalibratedClassifierCV(FrozenEstimator(Given()), method=method).fit(probabilities, truth)
    ours = fit_calibrator(probabilities, truth, method=method).apply(probabilities)
    np.testing.assert_allclose(ours, theirs.predict_proba(probabilities), atol=tolerance)


def test_fit_platt__without_one_of_the_answers__is_none() -> None:
    assert fit_platt(np.arange(6.0), np.ones(6)) is None


def test_fit_calibrator__takes_back_what_was_put_in() -> None:
    """Log-odds that were stretched threefold and moved by one: a third, and a third back."""
    rng = np.random.default_rng(3)
    right = rng.normal(0, 1.2, 40_000)
    truth = (rng.random(40_000) < 1 / (1 + np.exp(-right))).astype(np.int64)
    told = 1 / (1 + np.exp(-(3 * right + 1)))
    found = fit_calibrator(np.stack([1 - told, told], axis=1), truth, method="platt").scalings[0]
    assert found is not None
    assert (found.slope, found.intercept) == pytest.approx((1 / 3, -1 / 3), abs=0.04)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("classes", [2, 3])
def test_fit_calibrator__whole_weights_are_repeated_rows(method: Any, classes: int) -> None:
    probabilities, truth = overconfident(4, clips=60, classes=classes)
    counts = np.random.default_rng(4).integers(1, 4, 60)
    rows = np.repeat(np.arange(60), counts)
    weighted = fit_calibrator(probabilities, truth, method=method, weights=counts)
    repeated = fit_calibrator(probabilities[rows], truth[rows], method=method)
    np.testing.assert_allclose(weighted.apply(probabilities), repeated.apply(probabilities), atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(method=st.sampled_from(METHODS), classes=st.integers(2, 4), seed=st.integers(0, 10_000))
def test_apply__probabilities_sum_to_one_and_two_classes_keep_their_order(method: Any, classes: int, seed: int) -> None:
    probabilities, truth = overconfident(seed, clips=30, classes=classes)
    elsewhere = np.random.default_rng(seed).dirichlet(np.full(classes, 0.3), 50)
    elsewhere[0] = np.eye(classes)[0]
    found = fit_calibrator(probabilities, truth, method=method).apply(elsewhere)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(axis=1), 1)
    if classes == 2:
        order = np.argsort(elsewhere[:, 1], kind="stable")
        assert (np.diff(found[order, 1]) >= -1e-9).all()


@pytest.mark.parametrize("method", [*METHODS, "none"])
@pytest.mark.parametrize("classes", [2, 3])
def test_calibrator__comes_back_from_json_the_same(method: Any, classes: int) -> None:
    probabilities, truth = overconfident(5, classes=classes)
    found = fit_calibrator(probabilities, truth, method=method)
    back = calibrator_from_dict(json.loads(json.dumps(found.as_dict())))
    assert back == found
    assert np.array_equal(back.apply(probabilities), found.apply(probabilities))


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_fit_calibrator__a_class_that_no_clip_has_is_let_alone(method: Any) -> None:
    probabilities, truth = overconfident(6)
    found = fit_calibrator(probabilities, truth % 2, method=method)
    assert (found.scalings or found.knots)[2] is None
    assert np.isfinite(found.apply(probabilities)).all()


def test_apply__where_every_class_is_given_nothing_all_are_alike() -> None:
    nothing = ((0.0, 1.0), (0.0, 0.0))
    np.testing.assert_allclose(Calibrator("isotonic", knots=(nothing,) * 3).apply(np.eye(3)), 1 / 3)


def test_fit_calibrator__refusals_say_what_to_do() -> None:
    with pytest.raises(SonokitError, match="choose among platt, temperature, isotonic, none"):
        fit_calibrator(np.ones((2, 2)) / 2, np.array([0, 1]), method="beta")  # type: ignore[arg-type]
    with pytest.raises(SonokitError, match="take more patients"):
        fit_calibrator(np.empty((0, 2)), np.empty(0, dtype=int))


@pytest.mark.parametrize("classes", [2, 3])
def test_calibration_scores__are_sklearns(classes: int) -> None:
    probabilities, truth = overconfident(7, classes=classes)
    found = calibration_intervals(predicted(probabilities, truth), n=20)
    theirs = probabilities[:, 1] if classes == 2 else probabilities
    assert found["brier"].value == pytest.approx(brier_score_loss(truth, theirs))
    assert found["log_loss"].value == pytest.approx(log_loss(truth, np.clip(probabilities, 1e-7, 1)), rel=1e-6)
    assert found["brier"].low < found["brier"].value < found["brier"].high
    assert np.isnan(found["ece"].low)
    assert found["ece"].reason is not None


@pytest.mark.parametrize("classes", [2, 3])
def test_expected_calibration_error__is_the_weighted_gap_of_sklearns_curve(classes: int) -> None:
    """On bins of equal width, which are theirs."""
    probabilities, truth = overconfident(8, classes=classes)
    confidence, happened = probabilities[:, 1], truth == 1
    if classes == 3:
        confidence, happened = probabilities.max(axis=1), probabilities.argmax(axis=1) == truth
    seen, told = calibration_curve(happened, confidence, n_bins=10, strategy="uniform")
    counts = np.histogram(confidence, bins=np.linspace(0, 1, 11))[0]
    expected = np.average(np.abs(seen - told), weights=counts[counts > 0])
    places = np.minimum((confidence * 10).astype(int), 9)
    assert expected_calibration_error(confidence, happened, places) == pytest.approx(expected)


def test_calibration_draws__error_by_hand() -> None:
    """Three bins of two: told .1 and .1, .5 and .5, .9 and .9; seen 0 of 2, 1 of 2, 1 of 2."""
    told = np.array([0.1, 0.1, 0.5, 0.5, 0.9, 0.9])
    values, truth = np.stack([1 - told, told], axis=1), np.array([0, 0, 0, 1, 0, 1])
    found = calibration_draws(predicted(values, truth), n=5, bins=3)
    assert found["ece"][0] == pytest.approx((0.1 + 0 + 0.4) / 3)
    assert found["brier"][0] == pytest.approx((0.01 * 2 + 0.25 * 2 + 0.81 + 0.01) / 6)


def test_calibration_draws__resamples_are_repeated_clips_and_repeats_are_averaged() -> None:
    probabilities, truth = overconfident(9, clips=24)
    other, _ = overconfident(10, clips=24)
    patients = np.array([f"p{k // 3}" for k in range(24)])
    both = calibration_draws(predicted(np.stack([probabilities, other]), truth, patients), n=4, seed=1)
    each = [calibration_draws(predicted(one, truth, patients), n=4, seed=1) for one in (probabilities, other)]
    for name, drawn in both.items():
        np.testing.assert_allclose(drawn, (each[0][name] + each[1][name]) / 2)
    drawn_patients = np.random.default_rng(1).multinomial(8, np.full(8, 1 / 8), size=4)  # as draw_patients draws
    for resample, counts in enumerate(drawn_patients, start=1):
        rows = np.repeat(np.arange(24), counts[np.arange(24) // 3])
        expected = brier_score_loss(truth[rows], probabilities[rows], labels=[0, 1, 2])
        assert each[0]["brier"][resample] == pytest.approx(expected)


def test_calibration_gain__is_seen_on_other_clips() -> None:
    (learnt, known), (raw, truth) = overconfident(11, clips=400), overconfident(12, clips=400)
    calibrated = fit_calibrator(learnt, known).apply(raw)
    found = calibration_gain(predicted(raw, truth), predicted(calibrated, truth), n=200)
    assert found["brier"].high < 0
    assert found["log_loss"].high < 0
    assert found["ece"].value < -0.02


@settings(max_examples=25, deadline=None)
@given(values=st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.7, 1.0]), min_size=1, max_size=30), bins=st.integers(1, 6))
def test_equal_count_bins__ties_stay_together_in_rising_order(values: list[float], bins: int) -> None:
    told = np.array(values)
    places = equal_count_bins(told, bins)
    assert places.min() >= 0
    assert places.max() < bins
    for value in set(values):
        assert len(set(places[told == value])) == 1
    assert (np.diff(places[np.argsort(told, kind="stable")]) >= 0).all()


def test_equal_count_bins__without_ties_are_equal() -> None:
    assert np.bincount(equal_count_bins(np.random.default_rng(0).permutation(40) / 40, 4)).tolist() == [10, 10, 10, 10]


def test_chance_error__by_hand() -> None:
    """One patient of whom everything is told to be even: all clips have it or none, each time half away from what was told."""
    even, sure = np.full((6, 2), 0.5), np.eye(2)[[0, 1, 0, 1, 0, 1]]
    truth = np.array([0, 1, 0, 1, 0, 1])
    assert chance_error(predicted(even, truth, np.full(6, "p")), draws=20) == pytest.approx(0.5)
    assert chance_error(predicted(sure, truth), draws=20) == 0


def test_chance_error__falls_with_patients() -> None:
    few, many = (chance_error(predicted(*overconfident(13, clips=clips)), draws=50) for clips in (40, 4000))
    assert many < few / 3


def test_reliability_curve__by_hand() -> None:
    """Four patients of two clips, two bins; the upper one holds three clips that have it and one that has not."""
    told = np.array([0.1, 0.2, 0.1, 0.2, 0.8, 0.9, 0.8, 0.9])
    truth = np.array([0, 0, 0, 0, 1, 1, 0, 1])
    patients = np.repeat(["a", "b", "c", "d"], 2)
    values = np.stack([1 - told, told], axis=1)
    low, high = reliability_curve(predicted(values, truth, patients), Finding("c1", 1), n=500, bins=2)
    assert (low["predicted"], low["observed"], low["clips"], low["patients"]) == pytest.approx((0.15, 0, 4, 2))
    assert (high["predicted"], high["observed"]) == pytest.approx((0.85, 0.75))
    assert (high["low"], high["high"]) == pytest.approx((0.5, 1))  # patient d alone, patient c alone
