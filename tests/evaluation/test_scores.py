import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn import metrics
from sonokit.evaluation.scores import score, weighted_auroc, weighted_scores


def drawn(task: str, seed: int, clips: int = 40, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    if task == "regression":
        return rng.integers(0, 12, clips).astype(float), np.round(rng.normal(5, 4, clips))
    truth = np.concatenate([np.arange(classes), rng.integers(0, classes, clips - classes)])
    return truth, np.round(rng.dirichlet(np.ones(classes), clips), 1)  # rounded: ties occur


def test_score__classification_is_sklearns() -> None:
    truth, probabilities = drawn("classification", 0)
    found, predicted = score("classification", truth, probabilities), probabilities.argmax(axis=1)
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(truth, predicted))
    assert found["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(truth, predicted))
    one_hot = np.eye(3)[truth]
    assert found["auroc"] == pytest.approx(metrics.roc_auc_score(one_hot, probabilities, average="macro"))


def test_score__binary_auroc_is_of_class_one_from_one_or_two_columns() -> None:
    truth, ranking = np.array([0, 0, 1, 1]), np.array([0.1, 0.4, 0.35, 0.8])
    assert score("classification", truth, ranking)["auroc"] == 0.75  # scikit-learn's own example
    assert score("classification", truth, np.stack([1 - ranking, ranking], axis=1))["auroc"] == 0.75


def test_score__ordinal_is_sklearns() -> None:
    truth, probabilities = drawn("ordinal", 1, classes=4)
    found, predicted = score("ordinal", truth, probabilities), probabilities.argmax(axis=1)
    assert found["quadratic_kappa"] == pytest.approx(metrics.cohen_kappa_score(truth, predicted, weights="quadratic"))
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(truth, predicted))


def test_score__regression_is_sklearns_and_scipys() -> None:
    truth, predicted = drawn("regression", 2)
    found = score("regression", truth, predicted)
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(truth, predicted))
    assert found["rmse"] == pytest.approx(metrics.root_mean_squared_error(truth, predicted))
    assert found["r2"] == pytest.approx(metrics.r2_score(truth, predicted))
    assert found["spearman"] == pytest.approx(spearmanr(truth, predicted).statistic)


@settings(max_examples=30, deadline=None)
@given(task=st.sampled_from(["classification", "ordinal", "regression"]), seed=st.integers(0, 10_000))
def test_weighted_scores__whole_weights_are_repeated_clips(task: str, seed: int) -> None:
    truth, prediction = drawn(task, seed, clips=15)
    weights = np.random.default_rng(seed).integers(0, 4, (3, len(truth)))
    weights[:, 0] += 1
    found = weighted_scores(task, truth, prediction, weights)
    for row, counts in enumerate(weights):
        rows = np.repeat(np.arange(len(truth)), counts)
        for name, value in score(task, truth[rows], prediction[rows]).items():
            np.testing.assert_allclose(found[name][row], value, rtol=1e-9, atol=1e-12)


def test_score__absent_class_does_not_count() -> None:
    truth, probabilities = np.array([0, 0, 2]), np.eye(3)[[0, 1, 2]]
    found = score("classification", truth, probabilities)
    assert found["balanced_accuracy"] == pytest.approx(0.75)  # recalls .5 and 1; class 1 has none
    assert found["auroc"] == pytest.approx((0.75 + 1.0) / 2)  # class 0: won, tied; class 2: perfect


@pytest.mark.parametrize("only", [0, 1])
def test_score__auroc_of_one_class_is_nan(only: int) -> None:
    assert np.isnan(score("classification", np.full(4, only), np.linspace(0, 1, 4))["auroc"])


def test_score__constant_truth_has_no_r2_and_no_rank_correlation() -> None:
    found = score("regression", np.ones(5), np.arange(5.0))
    assert np.isnan(found["r2"])
    assert np.isnan(found["spearman"])
    assert found["mae"] == pytest.approx(1.4)


def test_weighted_auroc__all_tied_is_a_half() -> None:
    assert weighted_auroc(np.array([True, False, True]), np.zeros(3), np.ones((1, 3)))[0] == 0.5


def test_score__different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="3 truths, 2 predictions"):
        score("regression", np.ones(3), np.ones(2))
