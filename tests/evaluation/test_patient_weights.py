import numpy as np
import pytest
from sonokit.evaluation.patient_weights import PatientWeights, dense, sum_into
from sonokit.evaluation.scores import PRIMARY, Task, weighted_auroc, weighted_primary, weighted_scores

RNG = np.random.default_rng(0)
OWNER = RNG.integers(0, 9, 60)
COUNTS = RNG.multinomial(9, np.full(9, 1 / 9), size=7).astype(np.float64)
AMOUNTS = RNG.random(60)
WEIGHTS = PatientWeights(COUNTS, OWNER, AMOUNTS)
MATRIX = np.stack([[COUNTS[b, OWNER[n]] * AMOUNTS[n] for n in range(60)] for b in range(7)])


def test_patient_weights__do_what_the_whole_matrix_does() -> None:
    cells = RNG.normal(size=(60, 3))
    mask = RNG.random(60) < 0.5
    assert WEIGHTS.shape == MATRIX.shape
    np.testing.assert_allclose(WEIGHTS @ cells, MATRIX @ cells)
    np.testing.assert_allclose(WEIGHTS @ cells[:, 0], MATRIX @ cells[:, 0])
    np.testing.assert_allclose((WEIGHTS * mask) @ cells, (MATRIX * mask) @ cells)
    np.testing.assert_allclose(WEIGHTS.sum(axis=1, keepdims=True), MATRIX.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(dense(WEIGHTS), MATRIX)
    with pytest.raises(ValueError, match="clips"):
        WEIGHTS.sum(axis=0)


def test_sum_into__adds_up_each_place() -> None:
    places, amounts = RNG.integers(0, 5, 60), RNG.random(60)
    wanted = np.stack([(MATRIX * amounts)[:, places == k].sum(axis=1) for k in range(6)], axis=1)  # nobody is in the sixth
    np.testing.assert_allclose(sum_into(WEIGHTS, places, 6, amounts), wanted)
    np.testing.assert_allclose(sum_into(MATRIX, places, 6, amounts), wanted)


@pytest.mark.parametrize("task", ["classification", "ordinal", "regression"])
def test_weighted_scores__are_the_same_of_either_and_the_primary_alone_is_among_them(task: Task) -> None:
    truth = RNG.normal(size=60) if task == "regression" else RNG.integers(0, 3, 60)
    told = RNG.normal(size=60) if task == "regression" else RNG.dirichlet(np.ones(3), 60)
    plain = weighted_scores(task, truth, told, MATRIX)
    ours = weighted_scores(task, truth, told, WEIGHTS)
    for name in plain:
        np.testing.assert_allclose(ours[name], plain[name], err_msg=name)
    np.testing.assert_allclose(weighted_primary(task, truth, told, WEIGHTS), plain[PRIMARY[task]])


def test_weighted_auroc__in_steps_is_that_of_every_ranking_to_a_hair() -> None:
    rng = np.random.default_rng(1)
    positive = rng.random(20_000) < 0.3
    ranking = rng.normal(size=20_000) + positive
    weights = np.repeat(rng.integers(0, 3, (3, 2_000)), 10, axis=1).astype(np.float64)
    whole = [weighted_auroc(positive, ranking, row[None])[0] for row in weights]  # one weighting: every ranking by itself
    steps = weighted_auroc(positive, ranking, weights)
    assert (steps != whole).any()
    np.testing.assert_allclose(steps, whole, atol=2e-4)
