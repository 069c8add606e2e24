import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapie.classification import SplitConformalClassifier
from mapie.conformity_scores import APSConformityScore
from mapie.regression import SplitConformalRegressor
from scipy.stats import binomtest
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sonokit.errors import SonokitError
from sonokit.evaluation.conformal import (
    class_scores,
    coverage_report,
    fit_interval,
    fit_sets,
    interval_from_dict,
    patient_quantile,
    sets_from_dict,
)

REPEATS = 200


class Given(ClassifierMixin, BaseEstimator):
    """Its features are the probabilities."""

    classes_ = np.arange(3)

    def fit(self, X: np.ndarray, y: np.ndarray) -> "Given":
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return X

    def predict(self, X: np.ndarray) -> np.ndarray:
        return X.argmax(axis=1)


class GivenValue(RegressorMixin, BaseEstimator):
    """Its feature is the prediction."""

    is_fitted = True  # what MAPIE looks for

    def fit(self, X: np.ndarray, y: np.ndarray) -> "GivenValue":
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return X[:, 0]


def one_clip_each(seed: int, clips: int = 80) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.concatenate([np.arange(3), rng.integers(0, 3, clips - 3)])
    logits = rng.normal(size=(clips, 3)) + np.eye(3)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities, truth, np.arange(clips).astype(str)


def ward(rng: np.random.Generator, patients: int, hard: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patients of one class each whose clips are alike; those with many clips are easy (strength 4, not ``hard``)."""
    easy = rng.random(patients) < 0.5
    clips = np.where(easy, 20, 1)
    owner = np.repeat(np.arange(patients), clips)
    truth = rng.integers(0, 3, patients)
    place = np.eye(3)[truth] * np.where(easy, 4.0, hard)[:, None] + rng.normal(0, 1, (patients, 3))
    logits = place[owner] + rng.normal(0, 0.2, (len(owner), 3))
    return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True), truth[owner], owner


def a_clip_of(rng: np.random.Generator, of_class: int | None = None, hard: float = 0.5) -> tuple[np.ndarray, int]:
    """One clip, at random, of one new patient, of any class or the one asked for: whom the promise is made to."""
    while True:
        probabilities, truth, _ = ward(rng, 1, hard)
        if of_class is None or truth[0] == of_class:
            return probabilities[rng.integers(len(truth))], int(truth[0])


def kept(hits: int) -> bool:
    """Whether this many hits of 200 are within binomial error of nine in ten."""
    return bool(binomtest(hits, REPEATS, 0.9).pvalue > 0.01)


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9, 0.95])
def test_fit_sets__with_one_clip_a_patient_lac_is_mapies(level: float) -> None:
    probabilities, truth, patients = one_clip_each(0)
    elsewhere = one_clip_each(1)[0]
    theirs = SplitConformalClassifier(Given(), confidence_level=level, conformity_score="lac", prefit=True)
    _, sets = theirs.conformalize(probabilities, truth).predict_set(elsewhere)
    ours = fit_sets(probabilities, truth, patients, level=level).apply(elsewhere)
    assert np.array_equal(ours, sets[:, :, 0])


def test_class_scores__aps_is_mapies_before_its_random_part_is_taken_off() -> None:
    probabilities, truth, _ = one_clip_each(2)
    theirs = SplitConformalClassifier(
        Given(), confidence_level=0.9, conformity_score=APSConformityScore(), prefit=True, random_state=5
    ).conformalize(probabilities, truth)
    luck = np.random.RandomState(5).uniform(size=len(truth))
    rows = np.arange(len(truth))
    ours = class_scores(probabilities, "aps")[rows, truth] - luck * probabilities[rows, truth]
    np.testing.assert_allclose(ours, theirs.conformity_scores.ravel())


def test_class_scores__aps_by_hand() -> None:
    found = class_scores(np.array([[0.2, 0.5, 0.3], [0.4, 0.4, 0.2]]), "aps")
    np.testing.assert_allclose(found, [[1.0, 0.5, 0.8], [0.8, 0.8, 1.0]])


@pytest.mark.parametrize("level", [0.5, 0.8, 0.9])
def test_fit_interval__with_one_clip_a_patient_is_mapies(level: float) -> None:
    rng = np.random.default_rng(3)
    values, elsewhere = rng.normal(size=60), rng.normal(size=20)
    truth = values + rng.normal(size=60)
    theirs = SplitConformalRegressor(GivenValue(), confidence_level=level, prefit=True).conformalize(values[:, None], truth)
    _, ends = theirs.predict_interval(elsewhere[:, None])
    low, high = fit_interval(values, truth, np.arange(60), level=level).apply(elsewhere)
    np.testing.assert_allclose(np.stack([low, high], axis=1), ends[:, :, 0])


@settings(max_examples=60, deadline=None)
@given(
    scores=st.lists(st.integers(0, 9), min_size=1, max_size=25),
    owners=st.lists(st.integers(0, 6), min_size=25, max_size=25),
    level=st.sampled_from([0.3, 0.5, 0.75, 0.9]),
)
def test_patient_quantile__is_its_definition(scores: list[int], owners: list[int], level: float) -> None:
    values, patients = np.array(scores, dtype=float), np.array(owners[: len(scores)])
    people = sorted(set(patients.tolist()))

    def mass(limit: float) -> float:
        return sum(float(np.mean(values[patients == person] <= limit)) for person in people) / (len(people) + 1)

    enough = [value for value in sorted(set(values)) if mass(value) >= level - 1e-9]
    assert patient_quantile(values, patients, level) == (enough[0] if enough else math.inf)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), repeats=st.integers(2, 5))
def test_patient_quantile__is_blind_to_how_often_a_patient_was_filmed(seed: int, repeats: int) -> None:
    rng = np.random.default_rng(seed)
    scores, patients = rng.random(30), rng.integers(0, 12, 30)
    again = np.tile(np.flatnonzero(patients < 4), repeats)
    more = np.concatenate([scores, scores[again]]), np.concatenate([patients, patients[again]])
    assert patient_quantile(scores, patients, 0.8) == patient_quantile(*more, 0.8)


@pytest.mark.parametrize(("kind", "hard"), [("lac", 0.5), ("lac", 1.5), ("aps", 1.5)])
def test_fit_sets__keep_their_promise_over_200_repeats(kind: Any, hard: float) -> None:
    """Where the truth is too often the last class (``hard`` 0.5), aps lets all in and keeps more than its promise."""
    rng, hits = np.random.default_rng(10), 0
    for _ in range(REPEATS):
        sets = fit_sets(*ward(rng, 39, hard), level=0.9, kind=kind)
        probabilities, truth = a_clip_of(rng, hard=hard)
        hits += bool(sets.apply(probabilities)[truth])
    assert kept(hits), hits


def test_fit_sets__by_class_keep_it_for_the_class_that_is_asked_for() -> None:
    rng, hits = np.random.default_rng(12), 0
    for _ in range(REPEATS):
        sets = fit_sets(*ward(rng, 60), level=0.9, by_class=True)
        probabilities, truth = a_clip_of(rng, of_class=2)
        hits += bool(sets.apply(probabilities)[truth])
    assert kept(hits), hits


def test_fit_interval__keeps_its_promise_over_200_repeats() -> None:
    rng, hits = np.random.default_rng(13), 0
    for _ in range(REPEATS):
        probabilities, _, patients = ward(rng, 39)
        error = np.abs(probabilities[:, 0] - probabilities[:, 1])  # any number that patients' clips share
        found = fit_interval(np.zeros(len(error)), error, patients, level=0.9)
        probabilities, _, _ = ward(rng, 1)
        hits += bool(abs(probabilities[0, 0] - probabilities[0, 1]) <= found.half_width)
    assert kept(hits), hits


def test_fit_sets__calibrated_by_clip_the_promise_is_broken() -> None:
    """What the tests above are worth: with a weight a clip, the many clips of easy patients outvote the others."""
    rng, hits = np.random.default_rng(14), 0
    for _ in range(REPEATS):
        probabilities, truth, _ = ward(rng, 39)
        sets = fit_sets(probabilities, truth, np.arange(len(truth)), level=0.9)
        clip, code = a_clip_of(rng)
        hits += bool(sets.apply(clip)[code])
    assert not kept(hits)
    assert hits < 0.85 * REPEATS


@pytest.mark.parametrize("by_class", [False, True])
def test_fit_sets__too_few_patients_let_every_class_in(by_class: bool) -> None:
    probabilities, truth, _ = one_clip_each(4, clips=27)
    truth = np.arange(27) % 3
    patients = np.arange(27) // 3 if not by_class else np.arange(27)  # nine in all, or nine of each class
    enough = fit_sets(probabilities, truth, patients, level=0.9, by_class=by_class)
    assert np.isfinite(enough.thresholds).all()
    assert set(enough.patients) == {9}
    few = fit_sets(probabilities[3:], truth[3:], patients[3:], level=0.9, by_class=by_class)
    assert np.isinf(few.thresholds).all()
    assert few.apply(probabilities).all()


def test_fit_sets__a_class_without_clips_is_in_every_set() -> None:
    probabilities, truth, patients = one_clip_each(5)
    sets = fit_sets(probabilities, truth % 2, patients, by_class=True)
    assert sets.patients[2] == 0
    assert sets.apply(probabilities)[:, 2].all()


@pytest.mark.parametrize("kind", ["lac", "aps"])
def test_fit_sets__a_higher_promise_lets_no_class_out(kind: Any) -> None:
    probabilities, truth, patients = one_clip_each(6)
    low, high = (fit_sets(probabilities, truth, patients, level=level, kind=kind).apply(probabilities) for level in (0.6, 0.9))
    assert (low <= high).all()
    assert low.sum() < high.sum()


@pytest.mark.parametrize("patients", [4, 40])
def test_as_dict__comes_back_from_json_the_same(patients: int) -> None:
    probabilities, truth, owners = one_clip_each(7, clips=patients)
    sets = fit_sets(probabilities, truth, owners, kind="aps", by_class=True)
    found = fit_interval(probabilities[:, 0], truth, owners)
    assert sets_from_dict(json.loads(json.dumps(sets.as_dict(), allow_nan=False))) == sets
    assert interval_from_dict(json.loads(json.dumps(found.as_dict(), allow_nan=False))) == found


def test_coverage_report__by_hand() -> None:
    """Patient a: three clips of which two are in; b: one that is in; c: one that is not."""
    patients, truth = np.array(["a", "a", "a", "b", "c"]), np.array([0, 0, 0, 1, 1])
    inside = np.array([[True, True, False, True, False]])
    sizes = np.array([[1, 2, 0, 2, 1]])
    found = coverage_report(inside, patients, sizes=sizes, truth=truth, classes=("n", "c"), n=400)
    assert found["coverage"]["value"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert (found["coverage"]["low"], found["coverage"]["high"]) == pytest.approx((0, 1))
    assert found["coverage_of_clips"]["value"] == pytest.approx(3 / 5)
    assert found["size"]["value"] == pytest.approx(6 / 5)
    assert (found["empty"], found["single"], found["all"]) == pytest.approx((0.2, 0.4, 0.4))
    assert found["by_class"]["n"]["value"] == pytest.approx(2 / 3)
    assert found["by_class"]["n"]["low"] is None  # one patient: no interval
    assert found["by_class"]["c"]["value"] == pytest.approx(1 / 2)


def test_fit_sets__refusals_say_what_to_do() -> None:
    probabilities, truth, patients = one_clip_each(8)
    with pytest.raises(SonokitError, match="choose among lac, aps"):
        fit_sets(probabilities, truth, patients, kind="raps")  # type: ignore[arg-type]
    with pytest.raises(SonokitError, match=r"coverage of 1\.5.*0\.9"):
        fit_sets(probabilities, truth, patients, level=1.5)


def test_interval__ends_stay_within_what_the_label_can_be() -> None:
    patients = np.array([f"p{k}" for k in range(19)])
    found = fit_interval(np.zeros(19), np.linspace(-9, 9, 19), patients, bounds=(-4.0, 6.0))
    low, high = found.apply(np.array([0.0, 5.0]))
    np.testing.assert_array_equal(low, [-4.0, -4.0])
    np.testing.assert_array_equal(high, [6.0, 6.0])
    assert interval_from_dict(found.as_dict()) == found
    few = fit_interval(np.zeros(3), np.ones(3), np.array(["a", "b", "c"]), bounds=(0.0, 6.0))
    assert [float(end) for end in few.apply(np.float64(2.0))] == [0.0, 6.0]  # too few to promise anything: all that can be
