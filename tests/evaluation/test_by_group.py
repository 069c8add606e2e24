from typing import Any

import numpy as np
import pandas as pd
import pytest
from sonokit.errors import SonokitError
from sonokit.evaluation.by_group import group_names, scores_by_group
from sonokit.evaluation.predictions import Predictions
from sonokit.evaluation.scores import Task, score
from sonokit.evaluation.value_names import value_names


def predicted(task: Task = "classification", seed: int = 0, wrong: np.ndarray | None = None) -> tuple[Predictions, np.ndarray]:
    """Sixty clips of thirty patients at three sites of 30, 20 and 10 clips, told rightly but where ``wrong``."""
    rng = np.random.default_rng(seed)
    patients = np.array([f"p{k // 2}" for k in range(60)])
    sites = np.repeat(["large", "middle", "small"], [30, 20, 10])
    clips = np.array([f"c{k}" for k in range(60)])
    if task == "regression":
        truth = rng.normal(size=60)
        return Predictions(task, (), clips, patients, truth, truth + rng.normal(0, 0.3, (2, 60))), sites
    truth = np.arange(60) // 2 % 3
    told = truth if wrong is None else np.where(wrong, (truth + 1) % 3, truth)
    values = 0.8 * np.eye(3)[told] + 0.2 * rng.dirichlet(np.ones(3), (2, 60))
    return Predictions(task, ("a", "b", "c"), clips, patients, truth, values), sites


@pytest.mark.parametrize("task", ["classification", "ordinal", "regression"])
def test_scores_by_group__are_the_scores_of_its_clips(task: Task) -> None:
    wrong = np.random.default_rng(1).random(60) < 0.4
    predictions, sites = predicted(task, wrong=wrong)
    found = scores_by_group(predictions, sites, n=20)
    assert [(entry["group"], entry["clips"], entry["patients"]) for entry in found] == [
        ("large", 30, 15), ("middle", 20, 10), ("small", 10, 5),
    ]  # fmt: skip
    for entry in found:
        rows = sites == entry["group"]
        each = [score(task, predictions.truth[rows], values[rows]) for values in predictions.values]
        for name, figure in entry["scores"].items():
            assert figure["value"] == pytest.approx(np.mean([one[name] for one in each]))
        primary = entry["minus_others"]["score"]
        others = [score(task, predictions.truth[~rows], values[~rows])[primary] for values in predictions.values]
        expected = np.mean([one[primary] for one in each]) - np.mean(others)
        assert entry["minus_others"]["value"] == pytest.approx(expected)
        if task != "regression":
            assert sum(entry["classes"].values()) == entry["clips"]


def test_scores_by_group__finds_the_site_that_gets_less() -> None:
    at_middle = np.repeat([False, True, False], [30, 20, 10])
    predictions, sites = predicted(wrong=at_middle & (np.arange(60) % 4 < 3))
    found = {entry["group"]: entry["minus_others"] for entry in scores_by_group(predictions, sites, n=300)}
    assert found["middle"]["high"] < -0.3
    assert found["large"]["low"] > 0


def test_scores_by_group__of_one_class_or_one_patient() -> None:
    predictions, _ = predicted()
    groups = np.where(predictions.truth == 0, "one class", "all others ")
    groups[4:6] = "one patient"  # of class c
    found = {entry["group"]: entry for entry in scores_by_group(predictions, groups, n=50)}
    assert set(found["one class"]["scores"]) == {"accuracy"}
    assert found["one class"]["minus_others"] is None
    assert found["one class"]["scores"]["accuracy"]["low"] is not None
    assert "one patient only" in found["one patient"]["scores"]["accuracy"]["reason"]


def test_scores_by_group__one_group_has_no_others() -> None:
    predictions, _ = predicted()
    (entry,) = scores_by_group(predictions, np.full(60, "all"), n=20)
    assert entry["minus_others"] is None


def test_group_names__missing_and_blank_are_one_group() -> None:
    found = group_names(pd.Series(["x", None, "", " ", "y"]), "site")
    assert found.tolist() == ["x", "(unknown)", "(unknown)", "(unknown)", "y"]


def test_group_names__a_number_of_many_values_is_cut_into_quarters() -> None:
    ages = pd.Series([*np.random.default_rng(0).permutation(40).astype(float), np.nan])
    found = group_names(ages, "age")
    names, counts = np.unique(found, return_counts=True)
    assert sorted(counts) == [1, 10, 10, 10, 10]
    assert "(unknown)" in names
    assert len(set(found[:40][ages[:40] < 10])) == 1
    assert sorted(set(group_names(pd.Series([25.0, 30.0] * 30), "frame_rate"))) == ["25", "30"]
    assert sorted(set(group_names(pd.Series([True, False] * 30), "flag"))) == ["False", "True"]


def test_group_names__a_name_a_clip_is_refused() -> None:
    with pytest.raises(SonokitError, match=r"file has 40 values.*30 values or fewer"):
        group_names(pd.Series([f"f{k}" for k in range(40)]), "file")


def test_group_names__of_long_numbers_stay_apart() -> None:
    assert group_names(pd.Series([1000001.0, 1000002.0, np.nan]), "study").tolist() == ["1000001", "1000002", "(unknown)"]


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (pd.Series([1234567.0, 1234568.0, 0.1, np.nan]), ["1234567", "1234568", "0.1", None]),
        (pd.Series([0.1, 16777216.0], dtype="float32"), ["0.1", "16777216"]),
        (pd.Series([7, None], dtype="Int64"), ["7", None]),
        (pd.Series([2**60 + 1]), ["1152921504606846977"]),
        (pd.Series([1e20, np.inf, -2.0]), ["1e+20", "inf", "-2"]),
        (pd.Series(["007", None]), ["007", None]),
    ],
)
def test_value_names__are_alike_only_where_the_values_are(values: pd.Series, names: list[Any]) -> None:
    assert [None if pd.isna(name) else name for name in value_names(values)] == names
