import math

import pytest
import torch
from lightly.loss import NTXentLoss
from sonokit.pretrain.objectives.contrast import PatientNTXent, weighted_mean


def brute_force(z1, z2, patients, temperature, weights=None) -> torch.Tensor:
    """Anchor by anchor, after the formula, in double precision."""
    z = torch.cat([z1, z2]).double()
    who = [*patients.tolist(), *patients.tolist()]
    n = len(z1)
    weight = [1.0] * n if weights is None else weights.tolist()
    total = torch.zeros((), dtype=torch.float64)
    for i in range(2 * n):
        similar = [(z[i] @ z[k] / z[i].norm() / z[k].norm() / temperature).exp() for k in range(2 * n)]
        positive = similar[(i + n) % (2 * n)]
        others = sum(similar[k] for k in range(2 * n) if who[k] != who[i])
        total = total - weight[i % n] * (positive / (positive + others)).log()
    return total / (2 * n)


def draw(n: int, dimensions: int = 6, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, dimensions, generator=generator)


@pytest.mark.parametrize("temperature", [0.5, 0.1])
def test_patient_ntxent__all_patients_distinct_is_ntxent(temperature):
    z1, z2 = draw(7)
    ours = PatientNTXent(temperature)(z1, z2, torch.arange(7))
    torch.testing.assert_close(ours, NTXentLoss(temperature=temperature)(z1, z2), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("patients", [[0, 1, 2, 3, 4], [3, 3, 7, 7, 7], [5, -1, 5, -1, 2]])
def test_patient_ntxent__equals_the_formula_with_masks_and_weights(patients):
    z1, z2 = draw(5)
    patients, weights = torch.tensor(patients), torch.tensor([1.0, 0.5, 0.0, 2.0, 0.25])
    contrast = PatientNTXent(0.3)
    assert float(contrast(z1, z2, patients)) == pytest.approx(float(brute_force(z1, z2, patients, 0.3)), abs=1e-6)
    weighted = float(brute_force(z1, z2, patients, 0.3, weights))
    assert float(contrast(z1, z2, patients, weights)) == pytest.approx(weighted, abs=1e-6)


@pytest.mark.parametrize("n", [2, 7])
def test_patient_ntxent__identical_embeddings_give_ln_2n_minus_1(n):
    z = torch.ones(n, 4)
    assert float(PatientNTXent()(z, z, torch.arange(n))) == pytest.approx(math.log(2 * n - 1), abs=1e-6)


def test_patient_ntxent__clips_of_one_patient_only_have_nothing_to_learn():
    z = draw(4).requires_grad_()
    loss = PatientNTXent()(*z, torch.full((4,), 9))
    (gradient,) = torch.autograd.grad(loss, z)
    assert float(loss.detach()) == 0
    assert not gradient.any()


def test_patient_ntxent__gradients_are_those_of_the_formula():
    z = draw(5).requires_grad_()
    patients, weights = torch.tensor([0, 1, 1, 2, 0]), torch.tensor([1.0, 2.0, 0.5, 1.0, 0.0])
    (ours,) = torch.autograd.grad(PatientNTXent(0.3)(*z, patients, weights), z)
    (formula,) = torch.autograd.grad(brute_force(*z, patients, 0.3, weights), z)
    torch.testing.assert_close(ours, formula, rtol=1e-5, atol=1e-6)


def test_patient_ntxent__a_clip_of_the_same_patient_feels_no_push():
    z1, z2 = draw(3)
    patients = torch.tensor([0, 0, 1])
    moved = z1.clone()
    moved[1] = -z1[0]  # wherever the patient's other clip lies …
    contrast = PatientNTXent()
    first_anchor = torch.tensor([1.0, 0.0, 0.0])
    # … the terms of the first clip's two views do not see it
    assert torch.equal(contrast(z1, z2, patients, first_anchor), contrast(moved, z2, patients, first_anchor))
    strangers = torch.tensor([0, 2, 1])
    assert not torch.equal(contrast(z1, z2, strangers, first_anchor), contrast(moved, z2, strangers, first_anchor))


def test_patient_ntxent__float32_under_autocast():
    z1, z2 = draw(6, dimensions=64)
    expected = PatientNTXent(0.05)(z1, z2, torch.arange(6))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = PatientNTXent(0.05)(z1, z2, torch.arange(6))
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


def test_weighted_mean__divides_by_the_number():
    assert float(weighted_mean(torch.tensor([2.0, 4.0]), torch.tensor([0.5, 0.0]))) == 0.5
    assert float(weighted_mean(torch.tensor([2.0, 4.0]), None)) == 3.0
