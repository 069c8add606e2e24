import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.calibration import _sigmoid_calibration
from sklearn.metrics import brier_score_loss, roc_auc_score
from sonokit.features.extractors.calibration import fit_platt, inner_logits, reliability, reliability_report
from sonokit.features.extractors.calibration_plot import write_reliability

NAN = float("nan")


def overconfident(count=400, seed=0):
    """Logits three times as far out as their probabilities, and too high."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(-1, 1.5, size=count)
    return 3 * truth + 2, (rng.random(count) < expit(truth)).astype(float)


def test_fit_platt__is_scikit_learns():
    logits, labels = overconfident(80)
    slope, offset = _sigmoid_calibration(logits, labels)  # theirs: 1 / (1 + exp(A f + B))
    found = fit_platt(logits, labels)
    assert found.slope == pytest.approx(-slope, rel=1e-3)
    assert found.intercept == pytest.approx(-offset, rel=1e-3)


def test_fit_platt__finds_the_truth_that_was_drawn_from():
    found = fit_platt(*overconfident(20000))
    assert found.slope == pytest.approx(1 / 3, rel=0.05)
    assert found.intercept == pytest.approx(-2 / 3, abs=0.05)


def test_fit_platt__does_not_depend_on_where_the_logits_lie():
    logits, labels = overconfident(60)
    near, far = fit_platt(logits, labels), fit_platt(1000 * logits + 5e5, labels)
    np.testing.assert_allclose(
        expit(far.slope * (1000 * logits + 5e5) + far.intercept), expit(near.slope * logits + near.intercept), atol=1e-4
    )


def test_fit_platt__unknown_labels_and_missing_logits_are_left_out():
    logits, labels = overconfident(50)
    more = fit_platt(np.append(logits, [5.0, NAN]), np.append(labels, [NAN, 1.0]))
    assert more == fit_platt(logits, labels)


def test_fit_platt__logits_that_rank_the_wrong_way_keep_their_order():
    labels = np.array([1.0, 1, 0, 0, 0, 0])
    found = fit_platt(np.array([-3.0, -2, 1, 2, 3, 4]), labels)
    assert found.slope == 1
    targets = np.where(labels == 1, 3 / 4, 1 / 6)
    assert expit(np.array([-3.0, -2, 1, 2, 3, 4]) + found.intercept).mean() == pytest.approx(targets.mean(), abs=1e-6)


def test_fit_platt__few_positives_well_apart_stay_finite():
    found = fit_platt(np.array([10.0, 9, -8, -9, -10, -11]), np.array([1.0, 1, 0, 0, 0, 0]))
    probability = expit(found.slope * np.array([10.0, -11]) + found.intercept)
    assert probability[0] < 0.85  # the targets are 3/4 and 1/6
    assert probability[1] > 0.1


def test_fit_platt__nothing_where_a_class_is_missing():
    assert fit_platt(np.array([1.0, 2.0]), np.array([0.0, 0.0])) is None
    assert fit_platt(np.array([1.0, NAN]), np.array([0.0, 1.0])) is None


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.floats(-20, 20), st.booleans()), min_size=2, max_size=40))
def test_fit_platt__never_turns_a_ranking_round(pairs):
    logits, labels = np.array([p[0] for p in pairs]), np.array([float(p[1]) for p in pairs])
    found = fit_platt(logits, labels)
    assert (found is None) == (len(set(labels)) < 2)
    if found is not None:
        assert found.slope > 0
        assert np.isfinite([found.slope, found.intercept]).all()


def test_reliability__by_hand():
    probabilities = np.array([[0.1, 0.2, 0.6, 0.9]])
    labels = np.array([0.0, 1, 1, 1])
    found = reliability(probabilities, labels, bins=2)
    assert [point["count"] for point in found["curve"]] == [2, 2]
    assert found["curve"][0] == {"predicted": pytest.approx(0.15), "observed": 0.5, "count": 2}
    assert found["curve"][1] == {"predicted": pytest.approx(0.75), "observed": 1.0, "count": 2}
    assert found["ece"] == pytest.approx((2 * 0.35 + 2 * 0.25) / 4)
    assert found["brier"] == pytest.approx((0.1**2 + 0.8**2 + 0.4**2 + 0.1**2) / 4)


def test_reliability__brier_is_scikit_learns_and_unknowns_are_left_out():
    logits, labels = overconfident(100)
    both = np.stack([expit(logits), expit(logits)[::-1]])
    labels[::7] = NAN
    both[1, 3] = NAN
    found = reliability(both, labels)
    known = ~np.isnan(labels)
    second = known & ~np.isnan(both[1])
    truth, predicted = np.append(labels[known], labels[second]), np.append(both[0, known], both[1, second])
    assert found["brier"] == pytest.approx(brier_score_loss(truth, predicted))
    counts = [point["count"] for point in found["curve"]]
    assert sum(counts) == len(truth)
    assert max(counts) - min(counts) <= 1
    assert reliability(both, np.full(100, NAN)) is None


def test_reliability_report__calibration_mends_what_is_overconfident():
    fitted, tested = overconfident(seed=1), overconfident(seed=2)
    scaling = fit_platt(*fitted)
    raw = expit(tested[0])[None, :, None]
    calibrated = expit(scaling.slope * tested[0] + scaling.intercept)[None, :, None]
    report = reliability_report(raw, calibrated, tested[1][:, None], ("a",))["a"]
    assert report["after"]["ece"] < 0.5 * report["before"]["ece"]
    assert report["after"]["brier"] < report["before"]["brier"]
    assert roc_auc_score(tested[1], calibrated[0, :, 0]) == pytest.approx(roc_auc_score(tested[1], raw[0, :, 0]))
    calibrated[0, 5] = NAN
    assert reliability_report(raw, calibrated, tested[1][:, None], ("a",))["a"]["after"] is None


def study(patients=12, clips=3):
    """Two findings, the second in two patients only."""
    owner = np.repeat([f"p{i:02d}" for i in range(patients)], clips)
    number = np.repeat(np.arange(patients), clips)
    return np.stack([number % 2, number < 2], axis=1).astype(float), owner


def test_inner_logits__every_clip_by_a_network_that_has_not_seen_its_patient():
    labels, patients = study()
    rows = patients != "p05"
    seen = []

    def fit_and_predict(train, test, number):
        assert not set(patients[train]) & set(patients[test])
        assert not (train & ~rows).any()
        seen.append(test)
        return np.full((test.sum(), 2), float(number))

    logits = inner_logits(labels, patients, rows, 4, 0, fit_and_predict)
    assert (np.sum(seen, axis=0) == rows).all()
    assert np.isnan(logits[~rows]).all()
    assert not np.isnan(logits[rows]).any()  # its two patients are never tested together
    assert len(seen) == 4


def test_inner_logits__a_fold_without_positives_to_learn_from_teaches_nothing():
    labels, patients = study()
    labels[:, 1] = patients == "p00"
    logits = inner_logits(labels, patients, np.ones(36, dtype=bool), 4, 0, lambda train, test, _: np.ones((test.sum(), 2)))
    assert not np.isnan(logits[:, 0]).any()
    assert np.isnan(logits[patients == "p00", 1]).all()


def test_inner_logits__one_patient_cannot_be_divided_and_two_give_two_folds():
    labels, patients = study(patients=2, clips=4)
    calls = []

    def fit_and_predict(train, test, number):
        calls.append(number)
        return np.zeros((test.sum(), 2))

    assert inner_logits(labels, patients, patients == "p00", 4, 0, fit_and_predict) is None
    labels[::2] = 1 - labels[::2]
    inner_logits(labels, patients, np.ones(8, dtype=bool), 4, 0, fit_and_predict)
    assert len(calls) == 2


def test_write_reliability__draws_each_curve(tmp_path):
    logits, labels = overconfident()
    report = reliability_report(expit(logits)[None, :, None], expit(logits / 3)[None, :, None], labels[:, None], ("a",))
    report["b"] = {"before": None, "after": None}
    file = write_reliability(report, ("a", "b"), tmp_path / "reliability.png")
    from matplotlib.image import imread

    pixels = imread(file)[:, :, :3]
    left, right = np.split(pixels, [pixels.shape[1] // 2], axis=1)
    blue = [(part[:, :, 2] - part[:, :, 0] > 0.3).sum() for part in (left, right)]
    assert blue[0] > 200
    assert blue[1] < blue[0] / 2  # "b" has only the legend's
