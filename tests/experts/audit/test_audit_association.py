import numpy as np
import pytest
from scipy.stats.contingency import association as scipy_association
from sonokit.experts.audit.association import Association, associate, corrected_v, plain_v
from sonokit.experts.audit.columns import column_values, number_groups, patient_values
from sonokit.experts.audit.many_checks import holm


def associated(*words: object, **settings: int) -> Association:
    found = associate(*words, **settings)
    assert isinstance(found, Association)
    return found


def test_plain_v__is_scipys() -> None:
    table = np.random.default_rng(0).integers(1, 20, (4, 3))
    assert plain_v(table) == pytest.approx(scipy_association(table, method="cramer"))


def test_corrected_v__by_hand() -> None:
    table = np.array([[10.0, 2.0], [3.0, 9.0]])  # n = 24, chi² = 24 (10·9 − 2·3)² / (12·12·13·11)
    phi_squared = (10 * 9 - 2 * 3) ** 2 / (12 * 12 * 13 * 11)
    expected = np.sqrt((phi_squared - 1 / 23) / (2 - 1 / 23 - 1))
    assert corrected_v(table) == pytest.approx(expected)
    assert corrected_v(np.full((2, 2), 5.0)) == 0
    assert corrected_v(np.diag([8.0, 8.0, 8.0])) == pytest.approx(1)


def test_associate__each_patient_counts_once() -> None:
    rng = np.random.default_rng(1)
    sites, codes, patients = rng.choice(["a", "b", "c"], 20), rng.integers(0, 2, 20), np.arange(20).astype(str)
    many = np.repeat(np.arange(20), rng.integers(1, 6, 20))
    once = associated(sites, codes, patients, permutations=99)
    again = associated(sites[many], codes[many], patients[many], permutations=99)
    assert (once.v, once.patients) == (pytest.approx(again.v), 20)
    np.testing.assert_allclose(once.table, again.table)


def test_associate__smallest_p_for_a_site_that_is_the_label() -> None:
    codes = np.arange(30) % 3
    found = associated(np.array(["x", "y", "z"])[codes], codes, np.arange(30).astype(str), permutations=199)
    assert found.p == 1 / 200
    assert (found.v, found.w) == (pytest.approx(1), pytest.approx(np.sqrt(2)))
    np.testing.assert_array_equal(found.table, 10 * np.eye(3))


def test_associate__p_is_not_too_often_small_when_patients_are_alike_in_themselves() -> None:
    """Clip-wise exchanges would call two thirds of these significant: five clips of a patient share label and site."""
    small = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        owner = np.repeat(np.arange(16), 5)
        sites, codes = rng.choice(["a", "b"], 16), rng.integers(0, 2, 16)
        found = associate(sites[owner], codes[owner], owner.astype(str), permutations=39, seed=seed)
        small += isinstance(found, Association) and found.p <= 0.05
    assert small <= 20  # binomial(200, .05): above 20 once in 500 times


def test_associate__why_there_is_none() -> None:
    codes, patients = np.array([0, 1, 0, 1]), np.array(["p", "q", "r", "s"])
    assert associate(np.full(4, ""), codes, patients) == "unknown for every clip"
    assert "the same for all patients (x)" in str(associate(np.array(["x", "x", "", "x"]), codes, patients))
    assert "one class" in str(associate(np.array(["x", "", "y", ""]), codes, patients))


def test_patient_values__most_frequent_and_enough_patients() -> None:
    values = np.array(["b", "a", "b", "a", "a", "", "c"])
    patients = np.array(["p", "p", "p", "q", "r", "q", "s"])
    found = patient_values(values, patients)
    assert found.names == ("a", "b", "c")
    assert dict(zip(["p", "q", "r", "s"], found.code, strict=True)) == {"p": 1, "q": 0, "r": 0, "s": 2}
    kept = patient_values(values, patients, fewest_patients=2)
    assert kept.names == ("a",)
    assert patients[kept.clips].tolist() == ["q", "r"]
    assert (kept.owner.tolist(), kept.code.tolist()) == ([0, 1], [0, 0])


def test_number_groups__few_stay_themselves_many_become_ranges() -> None:
    assert number_groups(np.array([25.0, np.nan, 30.0]), 4).tolist() == ["25", "", "30"]
    assert number_groups(np.arange(8.0), 4).tolist() == ["0–1", "0–1", "2–3", "2–3", "4–5", "4–5", "6–7", "6–7"]


def test_column_values__frame_rates_are_rounded(clips) -> None:
    table = clips.head(4).assign(frame_rate=[29.97, 30.0, np.nan, 24.6])
    assert column_values(table, "frame_rate").tolist() == ["30", "30", "", "25"]
    assert column_values(table.drop(columns="site"), "site").tolist() == ["", "", "", ""]


def test_holm__by_hand() -> None:
    corrected = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005})
    assert corrected == pytest.approx({"d": 0.02, "a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}
