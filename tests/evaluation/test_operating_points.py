import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_score, recall_score
from sonokit.errors import SonokitError
from sonokit.evaluation.findings import Finding, findings
from sonokit.evaluation.operating_points import call_intervals, fit_point, point_from_dict


def two(told: np.ndarray) -> np.ndarray:
    return np.stack([1 - told, told], axis=1)


def test_findings__of_each_kind_of_label() -> None:
    assert findings("classification", ("no", "yes")) == (Finding("yes", 1),)
    assert [finding.name for finding in findings("classification", ("a", "b", "c"))] == ["a", "b", "c"]
    ordered = findings("ordinal", ("0", "1", "2", "3"))
    assert [finding.name for finding in ordered] == ["1 or more", "2 or more", "3"]
    assert findings("regression", ()) == ()
    probabilities, truth = np.array([[0.1, 0.2, 0.3, 0.4]]), np.array([0, 1, 2, 3])
    assert [float(finding.probability(probabilities)[0]) for finding in ordered] == pytest.approx([0.9, 0.7, 0.4])
    assert ordered[1].present(truth).tolist() == [False, False, True, True]


def test_fit_point__by_hand() -> None:
    """Ten without the finding at .05, .15 … .95; four with it at .5, .7, .8, .9."""
    absent, present = np.arange(10) / 10 + 0.05, np.array([0.5, 0.7, 0.8, 0.9])
    told, truth = np.concatenate([absent, present]), np.repeat([0, 1], [10, 4])
    finding = Finding("yes", 1)
    nine_in_ten = fit_point(finding, two(told), truth, fixed="specificity", wanted=0.9)
    assert nine_in_ten.threshold == pytest.approx(0.9)  # .95 alone is called without it; at .85 two are
    three_in_four = fit_point(finding, two(told), truth, fixed="sensitivity", wanted=0.75)
    assert three_in_four.threshold == pytest.approx(0.7)
    all_of_them = fit_point(finding, two(told), truth, fixed="sensitivity", wanted=1)
    assert all_of_them.threshold == 0.5
    nobody = fit_point(finding, two(told), truth, fixed="specificity", wanted=1)
    assert nobody.apply(two(told)).sum() == 0
    assert three_in_four.apply(two(np.array([0.69, 0.7]))).tolist() == [0, 1]


@settings(max_examples=80, deadline=None)
@given(
    told=st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.9, 1.0]), min_size=2, max_size=20),
    seed=st.integers(0, 1000),
    fixed=st.sampled_from(["specificity", "sensitivity"]),
    wanted=st.sampled_from([0.1, 0.5, 0.9, 1.0]),
)
def test_fit_point__no_threshold_does_better(told: list[float], seed: int, fixed: Any, wanted: float) -> None:
    """Reaches what is wanted, and among all thresholds that do has the most of the other."""
    ranking = np.array(told)
    truth = np.random.default_rng(seed).permutation(np.arange(len(told)) % 2)
    found = fit_point(Finding("yes", 1), two(ranking), truth, fixed=fixed, wanted=wanted)
    assert found.threshold is not None

    def reached(threshold: float) -> dict[str, float]:
        called = ranking >= threshold
        return {"sensitivity": float(called[truth == 1].mean()), "specificity": float((~called)[truth == 0].mean())}

    other = "sensitivity" if fixed == "specificity" else "specificity"
    assert reached(found.threshold)[fixed] >= wanted - 1e-12
    for threshold in [*np.unique(ranking), 2.0]:
        if reached(threshold)[fixed] >= wanted - 1e-12:
            assert reached(threshold)[other] <= reached(found.threshold)[other]


@pytest.mark.parametrize("fixed", ["specificity", "sensitivity"])
def test_fit_point__whole_weights_are_repeated_rows(fixed: Any) -> None:
    rng = np.random.default_rng(0)
    told, truth, counts = rng.random(40), rng.integers(0, 2, 40), rng.integers(1, 4, 40)
    rows = np.repeat(np.arange(40), counts)
    weighted = fit_point(Finding("yes", 1), two(told), truth, fixed=fixed, wanted=0.8, weights=counts)
    repeated = fit_point(Finding("yes", 1), two(told[rows]), truth[rows], fixed=fixed, wanted=0.8)
    assert weighted.threshold == repeated.threshold


@pytest.mark.parametrize("only", [0, 1])
def test_fit_point__of_one_kind_of_clip_there_is_no_threshold(only: int) -> None:
    found = fit_point(Finding("yes", 1), two(np.array([0.2, 0.4])), np.full(2, only))
    assert found.threshold is None
    assert np.isnan(found.apply(two(np.array([0.3])))).all()
    assert point_from_dict(json.loads(json.dumps(found.as_dict()))) == found


def test_point__comes_back_from_json_the_same() -> None:
    finding = Finding("2 or more", 2, or_more=True)
    rng = np.random.default_rng(1)
    found = fit_point(finding, rng.dirichlet(np.ones(4), 30), np.arange(30) % 4, fixed="sensitivity", wanted=0.85)
    assert point_from_dict(json.loads(json.dumps(found.as_dict()))) == found
    assert found.name == "2 or more at sensitivity 0.85"


def test_call_intervals__are_sklearns_averaged_over_the_repeats() -> None:
    rng = np.random.default_rng(2)
    present, called = rng.random(50) < 0.4, (rng.random((3, 50)) < 0.5).astype(float)
    found = call_intervals(present, called, np.arange(50) // 2, n=200)
    for name, score, side in (
        ("sensitivity", recall_score, 1),
        ("specificity", recall_score, 0),
        ("ppv", precision_score, 1),
        ("npv", precision_score, 0),
    ):
        assert found[name].value == pytest.approx(np.mean([score(present, row == 1, pos_label=side) for row in called]))
        assert found[name].low < found[name].value < found[name].high


def test_call_intervals__what_is_undefined_is_nan() -> None:
    nobody = call_intervals(np.array([True, False, False]), np.zeros((1, 3)), np.arange(3), n=20)
    assert np.isnan(nobody["ppv"].value)
    assert nobody["npv"].value == pytest.approx(2 / 3)
    all_absent = call_intervals(np.zeros(3, dtype=bool), np.zeros((1, 3)), np.arange(3), n=20)
    assert np.isnan(all_absent["sensitivity"].value)
    assert all_absent["specificity"].value == 1


@pytest.mark.parametrize(("fixed", "wanted"), [("specificity", 0), ("sensitivity", 1.2), ("accuracy", 0.9)])
def test_fit_point__refusals_say_what_to_do(fixed: Any, wanted: float) -> None:
    with pytest.raises(SonokitError, match="give a specificity or sensitivity above 0, up to 1"):
        fit_point(Finding("yes", 1), two(np.array([0.2, 0.4])), np.array([0, 1]), fixed=fixed, wanted=wanted)
