import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sonokit.errors import SonokitError
from sonokit.experts.external.bank import measure_nearness, open_bank, read_units
from sonokit.experts.folder import Expert, MultiExpert
from sonokit.experts.predict import predict, set_names
from sonokit.experts.recipes import clip_table
from sonokit.features.store import EmbeddingStore

Hospital = Callable[..., EmbeddingStore]


def by_brute_force(store: EmbeddingStore, bank: EmbeddingStore, k: int) -> tuple[list[list[str]], np.ndarray]:
    """Names and distances of the k nearest banked clips of other patients, without any index."""

    def rows(one: EmbeddingStore) -> pd.DataFrame:
        table = one.table(["clip_id", "patient_id", "embedding"]).to_pandas()
        unit = np.stack(table["embedding"].to_list()).astype(np.float64)
        return table.assign(unit=list(unit / np.linalg.norm(unit, axis=1, keepdims=True)))

    banked, names, distances = rows(bank), [], []
    for clip, own in rows(store).groupby("clip_id", sort=False):
        direction = np.mean(own["unit"].to_list(), axis=0)
        cosine = np.stack(banked["unit"].to_list()) @ (direction / np.linalg.norm(direction))
        others = (banked["clip_id"] != clip) & (banked["patient_id"] != own["patient_id"].iloc[0])
        best = pd.Series(cosine, index=banked["clip_id"])[others.to_numpy()].groupby(level=0).max().nlargest(k)
        names.append(best.index.tolist())
        distances.append(1 - best.to_numpy())
    return names, np.array(distances)


def test_predict__nearest_cases_are_those_of_brute_force(expert: Expert, home: EmbeddingStore, hospital: Hospital) -> None:
    for store in (home, hospital("nearby", patients=10, seed=3)):
        found = predict(expert, store, bank=home)
        names, distances = by_brute_force(store, home, 5)
        assert found[[f"nearest_{place}" for place in range(1, 6)]].to_numpy().tolist() == names
        np.testing.assert_allclose(found[[f"nearest_{k}_distance" for k in range(1, 6)]], distances, atol=1e-6)
        np.testing.assert_allclose(found["distance"], distances[:, 4], atol=1e-6)
        label_of = clip_table(home).set_index("clip_id")["finding"]
        assert found["nearest_2_label"].tolist() == label_of[found["nearest_2"]].tolist()


def test_predict__without_a_bank_no_such_columns(expert: Expert, home: EmbeddingStore) -> None:
    assert not [name for name in predict(expert, home) if "nearest" in name or "dist" in name]


def test_predict__bank_of_another_extractor_is_refused(expert: Expert, home: EmbeddingStore, hospital: Hospital) -> None:
    other = hospital("other", patients=4, fingerprint="fedcba9876543210")
    with pytest.raises(SonokitError, match=r"0123456789abcdef.*fedcba9876543210"):
        predict(expert, home, bank=other)
    with pytest.raises(SonokitError, match="at least one"):
        predict(expert, home, bank=home, nearest=0)


def test_predict__only_clips_that_could_be_learnt_from_answer(
    hospital: Hospital, fit_here: Callable[..., Expert], home: EmbeddingStore
) -> None:
    mixed = hospital("mixed", patients=30, seed=2)
    expert, table = fit_here(mixed, where={"probe": "convex"}), clip_table(mixed)
    for column, value, rows in (("finding", None, slice(0, 20)), ("finding", "unclear", slice(20, 30))):
        part = mixed.table().to_pandas()
        part = part[part["clip_id"].isin(table["clip_id"].iloc[rows])]
        part = part.assign(clip_id="new-" + part["clip_id"], content_hash="f" + part["content_hash"])
        part[column] = value
        _append(mixed, part)
    found = predict(expert, home, bank=mixed)
    answers = set(found[[f"nearest_{place}" for place in range(1, 6)]].to_numpy().ravel())
    allowed = clip_table(mixed).query("finding in ['ill', 'well'] and probe == 'convex'")["clip_id"]
    assert answers <= set(allowed)
    assert 0 < len(allowed) < len(clip_table(mixed))


def test_predict__a_bank_that_is_not_the_training_store_is_refused(
    expert: Expert, home: EmbeddingStore, hospital: Hospital
) -> None:
    with pytest.raises(SonokitError, match="120 of its 120 training clips are not in it"):
        predict(expert, home, bank=hospital("elsewhere", patients=70, seed=3))
    assert expert.reference is not None
    none: Any = np.empty(0, dtype=np.uint64)
    unnumbered = dataclasses.replace(expert, reference=dataclasses.replace(expert.reference, training_contents=none))
    with pytest.raises(SonokitError, match=r"is not what the expert was fitted on: it learnt from 120 clips.*at most 60"):
        predict(unnumbered, home, bank=hospital("smaller", patients=30, seed=3))
    assert "nearest_1" in predict(dataclasses.replace(expert, reference=None), home, bank=hospital("any", patients=9, seed=3))


def test_predict__probabilities_are_never_minus_zero(expert: Expert, home: EmbeddingStore) -> None:
    class Certain:
        """Probabilities a hair beyond 0, as rounding in a head leaves them."""

        classes_ = np.array([0, 1])

        def predict_proba(self, X: np.ndarray) -> np.ndarray:
            return np.tile([-1e-12, 1.0], (len(X), 1))

    for readout in (None, expert.readout and dataclasses.replace(expert.readout, calibrator=None)):
        found = predict(dataclasses.replace(expert, head=Certain(), readout=readout), home)
        assert not np.signbit(found[["p_ill", "p_well"]].to_numpy()).any()


def _append(store: EmbeddingStore, part: pd.DataFrame) -> None:
    from sonokit.features.store import make_rows

    rows = part.drop(columns=["embedding", "row_id"]).reset_index(drop=True)
    store.append(make_rows(store.header, rows, np.stack(part["embedding"].to_list())))


def test_open_bank__another_patient_column_is_that_of_the_bank(hospital: Hospital) -> None:
    store = hospital("families", patients=12, family=["a", "b"] * 12)
    names = clip_table(store)["clip_id"].to_numpy(dtype=str)
    bank = open_bank(store, None, patient="family")
    cases = bank.nearest(read_units(store, names, patient="family"), 3)
    family = clip_table(store).set_index("clip_id")["family"]
    assert all(family[answer] != family[name] for name, row in zip(names, cases.clip_ids, strict=True) for answer in row)


def test_read_units__patients_are_the_mean_over_all_of_their_segments(home: EmbeddingStore) -> None:
    units = read_units(home, np.array(["home-p003", "home-p001"]), unit="patient")
    table = home.table(["patient_id", "embedding"]).to_pandas()
    rows = np.stack(table["embedding"][table["patient_id"] == "home-p003"].to_list()).astype(np.float64)
    by_hand = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(axis=0)
    np.testing.assert_allclose(units.directions[0], by_hand, atol=1e-6)
    assert units.patients.tolist() == ["home-p003", "home-p001"]


def test_out_of_distribution__one_false_alarm_in_twenty_new_patients_and_all_of_shifted_ones(hospital: Hospital) -> None:
    alarms, detected = [], []
    for seed in range(12):
        store = hospital(f"h{seed}", patients=60, per_patient=1, segments=1, seed=seed, base=2.0)
        names = clip_table(store)["clip_id"].to_numpy(dtype=str)
        nearness, bank = measure_nearness(store, names, names), open_bank(store, copy=True)
        assert nearness is not None
        for shift, found in ((0.0, alarms), (-12.0, detected)):
            new = hospital(f"n{seed}", patients=100, per_patient=1, segments=1, seed=100 + seed, base=2.0, shift=shift)
            units = read_units(new, clip_table(new)["clip_id"].to_numpy(dtype=str))
            found.append(nearness.beyond(bank.nearest(units, nearness.neighbour).distances[:, -1]).mean())
    # what a threshold of 60 patients lets through varies with these, and 100 are counted: both are in the standard error
    error = np.sqrt(0.05 * 0.95 / 12 * (1 / 60 + 1 / 100))
    assert np.mean(alarms) == pytest.approx(0.05, abs=3 * error)
    assert np.mean(detected) > 0.95


def test_measure_nearness__too_few_patients_for_the_promise(hospital: Hospital, fit_here: Callable[..., Expert]) -> None:
    store = hospital("small", patients=18)
    expert = fit_here(store, draws=10)
    assert expert.reference is not None
    assert expert.reference.nearness is not None
    assert expert.reference.nearness.threshold is None
    found = predict(expert, store, bank=store)
    assert "distance" in found
    assert "out_of_distribution" not in found
    names = clip_table(store)["clip_id"].to_numpy(dtype=str)[:2]
    assert measure_nearness(store, names, names) is None  # one patient: nobody else to be near to


def test_predict__several_labels_side_by_side(expert: Expert, home: EmbeddingStore) -> None:
    single = predict(expert, home)
    found = predict(MultiExpert({"one": expert, "two": expert}), home, bank=home)
    assert list(found)[:6] == ["clip_id", "one", "p_one", "set_one", "one at specificity 0.9", "one at sensitivity 0.9"]
    assert "nearest_1" in found
    assert "nearest_1_label" not in found
    for label in ("one", "two"):
        np.testing.assert_array_equal(found[f"p_{label}"], single["p_well"])
        assert found[label].tolist() == single["prediction"].tolist()
        assert found[f"set_{label}"].tolist() == single["set"].tolist()
    with pytest.raises(SonokitError, match="one label"):
        predict(MultiExpert({"one": expert}), home, why=1)


def test_predict__several_labels_of_other_tasks(
    home: EmbeddingStore, hospital: Hospital, fit_here: Callable[..., Expert]
) -> None:
    three = fit_here(hospital("three", finding=["a", "a", "b", "b", "c", "c"] * 20), draws=10)
    found = predict(MultiExpert({"kind": three, "amount": fit_here(home, "amount", draws=10)}), home)
    points = [f"kind {name} at {fixed} 0.9" for name in "abc" for fixed in ("specificity", "sensitivity")]
    kind = ["kind", "p_kind_a", "p_kind_b", "p_kind_c", "set_kind", *points]
    assert list(found) == ["clip_id", *kind, "amount", "low_amount", "high_amount"]
    np.testing.assert_array_equal(found["p_kind_c"], predict(three, home)["p_c"])


def test_predict__patients_as_rows(expert: Expert, home: EmbeddingStore) -> None:
    found = predict(dataclasses.replace(expert, unit="patient"), home, bank=home)
    assert next(iter(found)) == "patient_id"
    assert found["patient_id"].tolist() == sorted(clip_table(home)["patient_id"].unique())
    owner = clip_table(home).set_index("clip_id")["patient_id"]
    assert (owner[found["nearest_1"]].to_numpy() != found["patient_id"].to_numpy()).all()


def test_predict__why_adds_its_columns(expert: Expert, home: EmbeddingStore) -> None:
    assert list(predict(expert, home, why=2))[-2:] == ["why_1", "why_2"]


@pytest.mark.parametrize("count", [2, 8, 9, 70])
def test_set_names__as_joined_one_by_one(count: int) -> None:
    rng: Any = np.random.default_rng(0)
    inside, classes = rng.random((50, count)) < 0.3, tuple(f"c{k}" for k in range(count))
    naive = ["|".join(name for name, there in zip(classes, row, strict=True) if there) for row in inside]
    assert set_names(inside, classes).tolist() == naive
