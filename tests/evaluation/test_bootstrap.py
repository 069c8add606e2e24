import json
import math

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sonokit.evaluation.bootstrap import (
    Interval,
    draw_patients,
    interval,
    paired_difference,
    patient_bootstrap,
    score_draws,
)

PATIENTS = np.repeat([f"p{k}" for k in range(12)], 3)


def predictions(repeats: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, len(PATIENTS))
    values = np.clip(0.5 + 0.2 * (truth - 0.5) + rng.normal(0, 0.2, (repeats, len(truth))), 0, 1)
    return truth, np.stack([1 - values, values], axis=2)  # [R, N, 2]


def test_score_draws__is_the_mean_over_repeats_of_sklearns_score_on_the_same_resamples() -> None:
    truth, values = predictions()

    def balanced(rows: np.ndarray) -> float:
        return float(np.mean([balanced_accuracy_score(truth[rows], v[rows].argmax(axis=1)) for v in values]))

    def auroc(rows: np.ndarray) -> float:
        return float(np.mean([roc_auc_score(truth[rows], v[rows, 1]) for v in values]))

    found = score_draws("classification", truth, values, PATIENTS, n=60, seed=3)
    for name, statistic in (("balanced_accuracy", balanced), ("auroc", auroc)):
        plain = patient_bootstrap(statistic, PATIENTS, n=60, seed=3)
        fast = interval(found[name], PATIENTS)
        np.testing.assert_allclose([fast.value, fast.low, fast.high], [plain.value, plain.low, plain.high], atol=1e-12)


def test_score_draws__many_clips_go_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    truth, values = predictions()
    whole = score_draws("classification", truth, values, PATIENTS, n=50, seed=1)
    monkeypatch.setattr("sonokit.evaluation.weighted_draws._CELLS_AT_ONCE", 7 * len(truth))
    monkeypatch.setattr("sonokit.evaluation.weighted_draws._CELLS_KEPT", 0)  # drawn block by block
    parts = score_draws("classification", truth, values, PATIENTS, n=50, seed=1)
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)


def test_draw_patients__all_clips_of_a_patient_together_as_many_patients_as_there_are() -> None:
    counts, owner = draw_patients(PATIENTS, 20, seed=0)
    assert counts.shape == (21, 12)
    assert (counts[0] == 1).all()
    assert (counts.sum(axis=1) == 12).all()
    assert all(len(set(owner[PATIENTS == name])) == 1 for name in PATIENTS)


def test_patient_bootstrap__same_seed_same_interval() -> None:
    rows = np.random.default_rng(0).normal(size=len(PATIENTS))
    first, again, other = (patient_bootstrap(lambda r: rows[r].mean(), PATIENTS, n=100, seed=s) for s in (5, 5, 6))
    assert first == again
    assert first != other


def test_patient_bootstrap__covers_the_truth_at_about_its_level() -> None:
    """Clips of a patient share an effect, so clips alone would give far too narrow intervals."""
    rng = np.random.default_rng(0)
    patients = np.repeat(np.arange(40), 4)
    covered = clip_wise = 0
    for trial in range(150):
        values = rng.normal(size=40)[patients] + 0.3 * rng.normal(size=160)  # true mean 0
        for own in (True, False):
            found = patient_bootstrap(lambda r: values[r].mean(), patients if own else np.arange(160), n=200, seed=trial)  # noqa: B023
            hit = found.low <= 0 <= found.high
            covered, clip_wise = covered + (own and hit), clip_wise + (not own and hit)
    assert 0.88 <= covered / 150 <= 0.99
    assert clip_wise / 150 < 0.8


def test_paired_difference__of_the_same_is_nothing() -> None:
    rows = np.random.default_rng(0).normal(size=len(PATIENTS))
    found = paired_difference(lambda r: rows[r].mean(), lambda r: rows[r].mean(), PATIENTS, n=50)
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_paired_difference__is_narrower_than_two_intervals() -> None:
    rng = np.random.default_rng(0)
    shared = rng.normal(size=len(PATIENTS))
    better = shared + 0.1 + 0.01 * rng.normal(size=len(PATIENTS))
    found = paired_difference(lambda r: better[r].mean(), lambda r: shared[r].mean(), PATIENTS, n=200)
    assert 0.09 < found.low < found.value < found.high < 0.11


def test_patient_bootstrap__one_patient_has_no_interval_and_says_why() -> None:
    found = patient_bootstrap(lambda rows: 0.7, np.array(["p1", "p1", "p1"]), n=10)
    assert found.value == 0.7
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert "one patient" in str(found.reason)
    assert found.as_dict() == {"value": 0.7, "low": None, "high": None, "reason": found.reason}


def test_as_dict__infinite_figures_are_none_and_say_why() -> None:
    """The width of a conformal interval that too few patients leave without an end."""
    for figure in (interval(np.full(11, np.inf), PATIENTS), interval(np.array([2.0, *[1.0] * 5, *[np.inf] * 5]), PATIENTS)):
        plain = json.loads(json.dumps(figure.as_dict(), allow_nan=False))
        assert plain["value"] == (2.0 if np.isfinite(figure.value) else None)
        assert (plain["low"], plain["high"]) == (None, None)
        assert plain["reason"]


def test_interval__mostly_undefined_has_none_and_says_why() -> None:
    found = interval(np.array([0.5, *[np.nan] * 8, 0.4, 0.6]), PATIENTS)
    assert math.isnan(found.low)
    assert "undefined" in str(found.reason)


def test_interval__percentiles_of_the_defined_resamples() -> None:
    found = interval(np.array([0.5, *np.linspace(0, 1, 101), np.nan]), PATIENTS, level=0.9)
    assert found == Interval(0.5, pytest.approx(0.05), pytest.approx(0.95))
