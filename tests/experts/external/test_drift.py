import numpy as np
import pandas as pd
import pytest
from sonokit.experts.external.drift import (
    exchanged_share,
    feature_shift,
    label_shift,
    metadata_shift,
    out_of_distribution,
    prediction_shift,
    some_rows,
    tell_apart,
)
from sonokit.experts.external.reference import Reference, column_statistics, metadata_distribution

DRAWING = {"n": 200, "seed": 0, "level": 0.95}


def make_reference(features: np.ndarray, patients: int) -> Reference:
    table = pd.DataFrame({"site": ["a"] * 3 + ["b"], "probe": "convex", "container": "mp4", "frame_rate": [25.0, 25, 30, None]})
    return Reference(
        task="classification", classes=("no", "yes"), where={}, clips=len(features), patients=patients,
        label={"classes": {"no": {"clips": 30, "patients": 15}, "yes": {"clips": 10, "patients": 5}}},
        feature_names=tuple(f"f{k}" for k in range(features.shape[1])), features=column_statistics(features),
        embedding=column_statistics(features), predicted={"mean": [0.7, 0.3], "share": [0.8, 0.2], "top": [0.1] * 10},
        metadata=metadata_distribution(table), scores={}, nearness=None,
    )  # fmt: skip


def two_hospitals(patients: int, seed: int, shift: float = 0.0, features: int = 6) -> list[np.ndarray]:
    """Features and patients at home and here, three clips a patient that are much alike; half of the features shifted."""
    rng = np.random.default_rng(seed)
    sides = []
    for side in range(2):
        own = rng.normal(size=(patients, features)).repeat(3, axis=0)
        values = own + 0.3 * rng.normal(size=own.shape)
        values[:, : features // 2] += shift * side
        sides += [values, np.array([f"{side}-{k}" for k in range(patients)]).repeat(3)]
    return sides


def test_feature_shift__is_cohens_d_by_hand() -> None:
    home, _, here, owners = two_hospitals(20, seed=0, shift=1.5)
    found = feature_shift(make_reference(home, 20), here, owners)
    by_hand = (here.mean(axis=0) - home.mean(axis=0)) / np.sqrt((here.var(axis=0) + home.var(axis=0)) / 2)
    assert found["share"] == pytest.approx((np.abs(by_hand) > 0.5).mean())
    order = np.argsort(-np.abs(by_hand))
    assert [entry["name"] for entry in found["largest"]] == [f"f{k}" for k in order]
    np.testing.assert_allclose([entry["difference"] for entry in found["largest"]], by_hand[order])
    assert found["p"] < 0.05


def test_feature_shift__constant_features_do_not_differ() -> None:
    home = np.column_stack([np.random.default_rng(0).normal(size=40), np.full(40, 7.0)])
    found = feature_shift(make_reference(home, 20), home, np.arange(40).astype(str))
    assert [entry["difference"] for entry in found["largest"]] == pytest.approx([0, 0], abs=1e-6)


def test_feature_shift__what_chance_gives_is_no_more_than_told() -> None:
    rng = np.random.default_rng(1)
    home = rng.normal(size=(12, 20_000))  # one clip a patient, twenty thousand independent features
    found = feature_shift(make_reference(home, 12), rng.normal(size=(15, 20_000)), np.arange(15).astype(str))
    assert found["share"] == pytest.approx(found["expected"], rel=0.04)
    assert found["p"] > 0.01


def test_exchanged_share__real_share_by_hand_and_p() -> None:
    home, at_home, here, owners = two_hospitals(15, seed=2, shift=2.0)
    found = exchanged_share(home, at_home, here, owners)
    by_hand = np.abs(here.mean(axis=0) - home.mean(axis=0)) / np.sqrt((here.var(axis=0) + home.var(axis=0)) / 2)
    assert found["share"] == pytest.approx((by_hand > 0.5).mean())
    assert found["p"] == pytest.approx(1 / 500, abs=0.01)
    assert found == exchanged_share(home, at_home, here, owners)


def test_exchanged_share__p_below_a_tenth_in_a_tenth_of_null_hospitals_at_most() -> None:
    below = [exchanged_share(*two_hospitals(10, seed=seed))["p"] <= 0.1 for seed in range(60)]
    assert np.mean(below) <= 0.1 + 3 * np.sqrt(0.1 * 0.9 / 60)


def test_label_and_prediction_shift__by_hand() -> None:
    home, _, _, owners = two_hospitals(20, seed=0)
    reference, truth = make_reference(home, 20), np.repeat([0, 1], [15, 45])
    labels = label_shift(reference, truth, owners, **DRAWING)
    assert labels["home"] == {"no": 0.75, "yes": 0.25}
    assert labels["here"]["yes"]["value"] == pytest.approx(0.75)
    assert labels["here"]["yes"]["low"] < 0.75 < labels["here"]["yes"]["high"]
    assert labels["distance"] == pytest.approx(0.5)
    values = np.column_stack([np.linspace(0, 1, 60), np.linspace(1, 0, 60)])
    predicted = prediction_shift(reference, values, owners, **DRAWING)
    assert predicted["here"]["no"]["value"] == pytest.approx(0.5)
    assert sum(predicted["top"]["here"]) == pytest.approx(1)
    assert predicted["top"]["here"][:5] == [0] * 5  # of two classes the likelier one has half or more


def test_metadata_shift__by_hand() -> None:
    home, _, _, _ = two_hospitals(20, seed=0)
    table = pd.DataFrame({"site": ["b", "c"], "probe": "convex", "container": ["mp4", "avi"], "frame_rate": [50.0, 50.0]})
    found = metadata_shift(make_reference(home, 20), table)
    assert found["site"]["distance"] == pytest.approx((0.75 + 0.25 + 0.5) / 2)
    assert found["site"]["new"] == 0.5
    assert (found["probe"]["distance"], found["container"]["new"]) == (0, 0.5)
    assert found["frame_rate"]["home"]["unknown"] == 0.25


def test_out_of_distribution__each_patient_counts_once() -> None:
    beyond, owners = np.array([True, True, True, False, False]), np.array(["a", "a", "a", "b", "c"])
    assert out_of_distribution(beyond, 0.05, owners, **DRAWING)["share"]["value"] == pytest.approx(1 / 3)


def test_tell_apart__half_where_nothing_differs_and_nearly_one_where_it_does() -> None:
    same = [tell_apart(*two_hospitals(25, seed=seed), n=100) for seed in range(8)]
    assert 0.35 < np.mean([found.value for found in same]) < 0.6
    assert sum(found.low > 0.5 for found in same) <= 1
    apart = tell_apart(*two_hospitals(25, seed=0, shift=4.0), n=100)
    assert apart.value > 0.97
    assert apart.low > 0.9


def test_some_rows__whole_patients_in_order() -> None:
    owners = np.repeat(np.arange(900).astype(str), 3)
    rows = some_rows(owners, seed=0)
    assert len(rows) == 1500
    assert (np.unique(owners[rows], return_counts=True)[1] == 3).all()
    assert (np.diff(rows) > 0).all()
