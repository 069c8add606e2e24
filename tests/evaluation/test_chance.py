import itertools

import numpy as np
import pytest
from sonokit.evaluation.chance import Chance, _blocks, _exchanged, chance
from sonokit.evaluation.predictions import Predictions
from sonokit.evaluation.scores import LOWER_IS_BETTER, PRIMARY, Task, score


def predicted(
    task: Task, patients: np.ndarray, truth: np.ndarray, signal: float, repeats: int = 2, seed: int = 0
) -> Predictions:
    rng = np.random.default_rng(seed)
    if task == "regression":
        values = signal * truth + rng.normal(size=(repeats, len(truth)))
        return Predictions(task, (), np.arange(len(truth)).astype(str), patients.astype(str), truth, values)
    logits = signal * np.eye(3)[truth] + rng.normal(size=(repeats, len(truth), 3))
    values = np.exp(logits) / np.exp(logits).sum(axis=2, keepdims=True)
    return Predictions(task, ("a", "b", "c"), np.arange(len(truth)).astype(str), patients.astype(str), truth, values)


def primary(found: Predictions, truth: np.ndarray) -> float:
    return float(np.mean([score(found.task, truth, values)[PRIMARY[found.task]] for values in found.values]))


def by_hand(found: Predictions) -> tuple[float, int]:
    """Every arrangement of the patients' labels, one clip at a time: the p-value, and how many there are."""
    rows = [np.flatnonzero(found.patients == patient) for patient in np.unique(found.patients)]
    sign = -1 if PRIMARY[found.task] in LOWER_IS_BETTER else 1
    real, scores = primary(found, found.truth), []
    for givers in itertools.permutations(rows):
        truth = found.truth.copy()
        for own, given in zip(rows, givers, strict=True):
            for k, row in enumerate(own):
                middle = (k + 0.5) / len(own)
                truth[row] = found.truth[given[int(middle * len(given))]]
        scores.append(primary(found, truth))
    return float(np.mean([sign * value >= sign * real - 1e-9 for value in scores])), len(scores)


@pytest.mark.parametrize("task", ["classification", "ordinal", "regression"])
def test_chance__all_arrangements_of_few_patients_as_by_hand(task: Task) -> None:
    patients = np.array([0, 0, 1, 2, 2, 2, 3, 4, 4])
    truth = np.array([0, 1, 0, 0, 0, 0, 2, 1, 2])  # 0 and 4 have two labels, the others one
    found = predicted(task, patients, truth.astype(float) if task == "regression" else truth, 0.7)
    told = chance(found)
    p, count = by_hand(found)
    assert isinstance(told, Chance)
    assert (told.p, told.exchanges, told.exhaustive) == (pytest.approx(p), count - 1, True)
    assert (told.patients, told.several_labels) == (5, 2)
    assert told.score == pytest.approx(primary(found, truth))


@pytest.mark.parametrize("task", ["classification", "ordinal", "regression"])
def test_chance__drawn_exchanges_come_near_all_of_them(task: Task) -> None:
    patients = np.repeat(np.arange(6), [1, 2, 1, 3, 1, 2])
    truth = np.array([0, 1, 2, 0, 1, 1])[patients]
    found = predicted(task, patients, truth * 1.0 if task == "regression" else truth, 1.0)
    everything, drawn = chance(found, exchanges=719), chance(found, exchanges=600)
    assert isinstance(everything, Chance)
    assert isinstance(drawn, Chance)
    assert (everything.exhaustive, drawn.exhaustive) == (True, False)
    assert everything.p == pytest.approx(by_hand(found)[0])
    assert abs(drawn.p - everything.p) < 4 * np.sqrt(everything.p * (1 - everything.p) / 600) + 1 / 600
    assert drawn.null_mean == pytest.approx(everything.null_mean, abs=0.05)


@pytest.mark.parametrize("task", ["classification", "ordinal", "regression"])
def test_chance__what_is_there_is_found(task: Task) -> None:
    patients = np.repeat(np.arange(40), 2)
    truth = patients % 3
    found = chance(predicted(task, patients, truth * 1.0 if task == "regression" else truth, 2.0), exchanges=300)
    assert isinstance(found, Chance)
    assert found.p == pytest.approx(1 / 301)
    better = found.score < found.null_high if task == "regression" else found.score > found.null_high
    assert better
    if task != "regression":
        assert found.null_mean == pytest.approx(1 / 3 if task == "classification" else 0, abs=0.03)


def test_chance__predictions_of_nothing_reach_it_as_often_as_promised() -> None:
    patients = np.repeat(np.arange(12), 2)
    ps = []
    for seed in range(200):
        found = chance(predicted("classification", patients, patients % 3, 0.0, repeats=1, seed=seed), exchanges=99, seed=seed)
        assert isinstance(found, Chance)
        ps.append(found.p)
    assert 0.03 < np.mean(np.array(ps) <= 0.1) < 0.17  # 20 of 200 are promised


def test_chance__labels_are_stretched_to_the_other_patients_clips() -> None:
    patients = np.array([0, 0, 1, 2, 2, 2, 1, 1, 1])
    found = predicted("classification", patients, np.array([0, 1, 2, 1, 0, 2, 0, 0, 1]), 1.0)  # patient 1: 2, 0, 0, 1
    labels = _exchanged(_blocks(found), np.array([[0, 1, 2], [1, 2, 0]]))
    np.testing.assert_array_equal(labels[0], found.truth)
    assert labels[1].tolist() == [0, 1, 1, 0, 1, 1, 0, 0, 2]


def test_chance__nothing_to_exchange() -> None:
    for patients, truth in ((np.arange(4), np.zeros(4, dtype=int)), (np.zeros(3, dtype=int), np.array([0, 1, 2]))):
        assert chance(predicted("classification", patients, truth, 1.0)) == "no two patients can exchange different labels"


def test_chance__many_clips_get_fewer_exchanges_and_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    found = predicted("classification", np.arange(300), np.arange(300) % 3, 0.0, repeats=1)
    for cells, count in ((10**9, 1000), (300 * 3 * 250, 250), (1, 199)):
        monkeypatch.setattr("sonokit.evaluation.chance._MOST_CELLS", cells)
        told = chance(found)
        assert isinstance(told, Chance)
        assert told.exchanges == count
