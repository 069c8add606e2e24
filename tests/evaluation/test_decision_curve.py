import numpy as np
import pytest
from sklearn.metrics import confusion_matrix
from sonokit.evaluation.decision_curve import THRESHOLDS, decision_curve, net_benefit
from sonokit.evaluation.findings import Finding
from sonokit.evaluation.predictions import Predictions

YES = Finding("yes", 1)


def predicted(told: np.ndarray, truth: np.ndarray) -> Predictions:
    """``told`` [R, N]; each two clips are of one patient."""
    clips = np.array([f"c{k}" for k in range(len(truth))])
    patients = np.array([f"p{k // 2}" for k in range(len(truth))])
    return Predictions("classification", ("no", "yes"), clips, patients, truth, np.stack([1 - told, told], axis=2))


def test_net_benefit__by_hand() -> None:
    """Of a thousand clips two hundred have it; 150 of these and 80 others are acted on from one in five on."""
    present = np.arange(1000) < 200
    acted_on = np.concatenate([np.arange(200) < 150, np.arange(800) < 80])
    assert net_benefit(present, acted_on, 0.2)[0] == pytest.approx(0.15 - 0.08 * 0.25)
    assert net_benefit(present, np.ones(1000, dtype=bool), 0.2)[0] == pytest.approx(0)  # at the share of the finding: no use
    assert net_benefit(present, np.zeros(1000, dtype=bool), 0.2)[0] == 0


def test_decision_curve__is_the_formula_on_sklearns_confusion() -> None:
    rng = np.random.default_rng(0)
    truth, told = rng.integers(0, 2, 60), np.round(rng.random((2, 60)), 2)
    for point in decision_curve(predicted(told, truth), YES, n=10):
        odds = point["threshold"] / (1 - point["threshold"])
        expected = []
        for row in told:
            cells = confusion_matrix(truth, row >= point["threshold"])
            expected.append((cells[1, 1] - cells[0, 1] * odds) / 60)
        assert point["expert"]["value"] == pytest.approx(np.mean(expected))
        assert point["everybody"]["value"] == pytest.approx(truth.mean() - (1 - truth.mean()) * odds)
        best = max(point["everybody"]["value"], 0)
        assert point["expert_minus_best"]["value"] == pytest.approx(np.mean(expected) - best)


def test_decision_curve__who_knows_everything_gains_the_share_of_the_finding() -> None:
    truth = np.array([0, 0, 0, 1] * 10)
    points = decision_curve(predicted(truth[None].astype(float), truth), YES, n=50)
    assert [point["threshold"] for point in points] == list(THRESHOLDS)
    assert all(point["expert"]["value"] == pytest.approx(0.25) for point in points)
    assert all(point["expert_minus_best"]["value"] > 0 for point in points)


def test_decision_curve__who_always_acts_is_everybody_and_the_difference_has_no_width() -> None:
    truth = np.array([1, 1, 1, 0] * 10)
    point = decision_curve(predicted(np.full((1, 40), 0.99), truth), YES, thresholds=[0.3], n=200)[0]
    assert point["expert"] == point["everybody"]
    assert point["expert_minus_best"]["low"] == point["expert_minus_best"]["high"] == 0
    assert point["expert"]["low"] < point["expert"]["high"]


def test_decision_curve__ordered_levels_act_from_a_level_on() -> None:
    truth = np.array([0, 1, 2, 2])
    values = np.array([[0.8, 0.1, 0.1], [0.1, 0.6, 0.3], [0.1, 0.3, 0.6], [0.6, 0.2, 0.2]])[None]
    found = Predictions("ordinal", ("0", "1", "2"), np.arange(4).astype(str), np.arange(4).astype(str), truth, values)
    point = decision_curve(found, Finding("1 or more", 1, or_more=True), thresholds=[0.5], n=10)[0]
    assert point["expert"]["value"] == pytest.approx(2 / 4)  # the second and third clip, nobody else
