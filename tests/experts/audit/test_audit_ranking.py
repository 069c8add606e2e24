import itertools

import numpy as np
import pytest
from sonokit.evaluation.predictions import Predictions
from sonokit.evaluation.scores import Task, weighted_auroc
from sonokit.experts.audit.label_noise import label_noise
from sonokit.experts.audit.ranking import Ranking, rank_within


def predictions(task: Task, truth: np.ndarray, values: np.ndarray, patients: np.ndarray | None = None) -> Predictions:
    classes = () if task == "regression" else tuple("abc"[: values.shape[2]])
    names = np.arange(len(truth)).astype(str)
    return Predictions(task, classes, names, names if patients is None else patients, truth, values)


def by_hand(found: Predictions, sites: np.ndarray, same: bool) -> float:
    """Every pair by itself."""
    shares = []
    for i, j in itertools.combinations(range(len(sites)), 2):
        if found.truth[i] == found.truth[j] or found.patients[i] == found.patients[j] or (same and sites[i] != sites[j]):
            continue
        for values in found.values:
            a, b = found.truth[i], found.truth[j]
            if found.task == "classification":
                lead = (values[i, a] - values[i, b]) - (values[j, a] - values[j, b])
            else:
                heights = values if values.ndim == 1 else values @ np.arange(values.shape[1])
                lead = (heights[i] - heights[j]) * np.sign(a - b)
            shares.append(0.5 if abs(lead) < 1e-9 else float(lead > 0))
    return float(np.mean(shares))


@pytest.mark.parametrize("task", ["classification", "ordinal", "regression"])
def test_rank_within__every_pair_by_itself(task: Task) -> None:
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 3, 25)
    values = rng.dirichlet(np.ones(3), (2, 25)).round(1)  # rounded, so that there are ties
    if task == "regression":
        truth, values = truth.astype(float), values[:, :, 0]
    found = predictions(task, truth, values, rng.integers(0, 12, 25).astype(str))
    sites = rng.choice(["s", "t"], 25)
    ranked = rank_within(found, sites, draws=50)
    assert isinstance(ranked, Ranking)
    assert ranked.within.value == pytest.approx(by_hand(found, sites, same=True))
    assert ranked.everywhere.value == pytest.approx(by_hand(found, sites, same=False))
    assert ranked.within.low <= ranked.within.value <= ranked.within.high


def test_rank_within__two_classes_is_the_auroc() -> None:
    rng = np.random.default_rng(1)
    truth, high = rng.integers(0, 2, 30), rng.random(30)
    found = rank_within(
        predictions("classification", truth, np.stack([1 - high, high], axis=1)[None]), np.full(30, "s"), draws=5
    )
    assert isinstance(found, Ranking)
    assert found.everywhere.value == pytest.approx(weighted_auroc(truth == 1, high, np.ones((1, 30)))[0])


def test_rank_within__a_predictor_of_the_site_guesses_within_it() -> None:
    rng = np.random.default_rng(2)
    site = rng.integers(0, 2, 200)
    truth = np.where(rng.random(200) < 0.9, site, 1 - site)
    high = np.where(site == 1, 0.9, 0.1)
    found = predictions("classification", truth, np.stack([1 - high, high], axis=1)[None])
    ranked = rank_within(found, site.astype(str), draws=50)
    assert isinstance(ranked, Ranking)
    assert ranked.within.value == 0.5
    assert ranked.everywhere.value > 0.85


def test_rank_within__too_few_pairs() -> None:
    found = predictions("regression", np.arange(4.0), np.zeros((1, 4)))
    assert "only 0 pairs" in str(rank_within(found, np.array(["a", "b", "c", ""])))


def test_label_noise__planted_flips_are_found_and_nothing_is_removed() -> None:
    rng = np.random.default_rng(3)
    real = np.arange(90) % 3
    given = real.copy()
    given[[4, 50]] = (given[[4, 50]] + 1) % 3
    values = np.stack([0.05 + 0.85 * np.eye(3)[real] + 0.02 * rng.random((90, 3)) for _ in range(2)])
    found = label_noise(predictions("classification", given, values / values.sum(axis=2, keepdims=True)))
    assert not isinstance(found, str)
    assert {one.clip_id for one in found} == {"4", "50"}
    assert all(one.predicted == "abc"[real[int(one.clip_id)]] for one in found)
    assert all(one.given == "abc"[given[int(one.clip_id)]] for one in found)
    assert found[0].probability <= found[1].probability


def test_label_noise__numbers_have_none() -> None:
    assert label_noise(predictions("regression", np.arange(4.0), np.zeros((1, 4)))) == "the label is a number"
