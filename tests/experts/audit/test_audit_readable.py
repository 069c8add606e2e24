from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from sonokit.experts.audit.columns import patient_values
from sonokit.experts.audit.readable import Readable, _folds, read_column


def people(patients: int, per_patient: int, seed: int, dimensions: int = 6) -> tuple[np.ndarray, np.ndarray]:
    """Clips that resemble those of their own patient: features [N, F], owner [N]."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(patients), per_patient)
    return rng.normal(size=(patients, dimensions))[owner] + 0.1 * rng.normal(size=(len(owner), dimensions)), owner


def read(*words: Any, **settings: Any) -> Readable:
    found = read_column(*words, **settings)
    assert isinstance(found, Readable)
    return found


def plain_discriminant(inputs: np.ndarray, truth: np.ndarray, owner: np.ndarray, tested: np.ndarray) -> np.ndarray:
    """The same in the features' own space, with an inverted covariance: classes [M]."""
    train = ~tested
    mean, spread = inputs[train].mean(axis=0), inputs[train].std(axis=0)
    scaled = (inputs - mean) / spread
    inverse = np.linalg.inv(scaled[train].T @ scaled[train] / scaled.shape[1] + 0.1 * np.eye(scaled.shape[1]))
    nearness = []
    for value in np.unique(truth):
        own = [scaled[owner == patient].mean(axis=0) for patient in np.unique(owner[train & (truth == value)])]
        centre = np.mean(own, axis=0)
        nearness.append(scaled[tested] @ inverse @ centre - centre @ inverse @ centre / 2)
    return np.argmax(nearness, axis=0)


def test_read_column__is_the_discriminant_in_the_features_own_space() -> None:
    inputs, owner = people(20, 3, seed=0)
    rng = np.random.default_rng(5)
    code = rng.permutation(np.arange(20) % 3)
    inputs[:, :3] += 1.2 * np.eye(3)[code[owner]]
    patients = np.array([f"p{k:02d}" for k in owner])
    values = np.array(["a", "b", "c"])[code[owner]]
    found = read(inputs, values, patients, folds=4, repeats=1, permutations=9, draws=20, seed=3)
    predicted = np.empty(len(owner), dtype=int)
    for fold in _folds(inputs, patient_values(values, patients), 4, np.random.default_rng(3)):
        tested = ~fold.train[owner]
        predicted[tested] = plain_discriminant(inputs, code[owner], owner, tested)
    expected = balanced_accuracy_score(code[owner], predicted)
    assert 0.4 < expected < 1
    assert found.balanced_accuracy.value == pytest.approx(expected)


def test_read_column__planted_values_are_told() -> None:
    inputs, owner = people(30, 2, seed=1)
    code = np.arange(30) % 2
    inputs[:, 0] += 6 * code[owner]
    found = read(inputs, np.array(["a", "b"])[code[owner]], owner.astype(str), permutations=199, draws=200)
    assert found.p == 1 / 200
    assert found.balanced_accuracy.low > 0.8
    assert 0.35 < found.chance < 0.6
    assert (found.patients, found.clips, found.values) == (30, 60, ("a", "b"))


def test_read_column__knowing_the_patient_is_not_knowing_the_site() -> None:
    """Clips are all but equal to their patient's others, so folds or exchanges by clip would read any site at all."""
    small = 0
    for seed in range(100):
        inputs, owner = people(18, 4, seed)
        values = np.random.default_rng(1000 + seed).permutation(np.arange(18) % 2).astype(str)[owner]
        small += read(inputs, values, owner.astype(str), repeats=1, permutations=19, draws=5, seed=seed).p <= 0.05
    assert small <= 12  # binomial(100, .05): above 12 once in 700 times


def test_read_column__rare_and_unknown_values_take_no_part() -> None:
    inputs, owner = people(12, 2, seed=2)
    values = np.array(["a"] * 5 + ["b"] * 4 + ["c"] * 2 + [""])[owner]
    found = read(inputs, values, owner.astype(str), permutations=9, draws=5)
    assert (found.values, found.patients, found.clips) == (("a", "b"), 9, 18)
    few = np.array(["a"] * 10 + ["b"] * 2)[owner]
    assert "3 patients" in str(read_column(inputs, few, owner.astype(str)))
