import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sonokit.errors import SonokitError
from sonokit.features.extractors.pooling import GatedAttention, even_odds, pool_logits

POOLINGS = ("mean", "lse", "attention", "noisy_or")
logit_lists = st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=16)


def pooled(values, pooling, scores=None):
    logits = torch.tensor(values)[None, :, None]
    scores = torch.zeros_like(logits) if scores is None else torch.tensor(scores)[None, :, None]
    return pool_logits(logits, None, pooling, scores).item()


def test_pool_logits__by_hand():
    logits = torch.tensor([[[0.0], [2.0], [100.0]]])
    scores = torch.tensor([[[0.0], [math.log(3)], [50.0]]])
    present = torch.tensor([[True, True, False]])
    found = {name: pool_logits(logits, present, name, scores).item() for name in POOLINGS}
    odds = 1 / (1 - 0.5) / (1 - 1 / (1 + math.exp(-2))) - 1
    assert found["mean"] == pytest.approx(1.0)
    assert found["lse"] == pytest.approx(math.log((1 + math.e**2) / 2))
    assert found["attention"] == pytest.approx((1 * 0 + 3 * 2) / 4)
    assert found["noisy_or"] == pytest.approx(math.log(odds))


@pytest.mark.parametrize("pooling", POOLINGS)
def test_pool_logits__padding_changes_nothing_and_gets_no_gradient(pooling):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 5, 2, generator=generator, requires_grad=True)
    scores = torch.randn(3, 5, 2, generator=generator, requires_grad=True)
    present = torch.tensor([[True] * 5, [True, True, False, False, False], [True] + [False] * 4])
    together = pool_logits(logits, present, pooling, scores)
    for row, count in enumerate((5, 2, 1)):
        alone = pool_logits(logits[row : row + 1, :count], None, pooling, scores[row : row + 1, :count])
        torch.testing.assert_close(together[row], alone[0])
    together.sum().backward()
    assert (logits.grad[~present] == 0).all()
    assert (logits.grad[present] != 0).all()
    assert scores.grad is None or (scores.grad[~present] == 0).all()


@pytest.mark.parametrize("pooling", POOLINGS)
@given(value=st.floats(-80, 80, width=32))
def test_pool_logits__one_segment_is_the_clip(pooling, value):
    assert pooled([value], pooling) == pytest.approx(value, rel=1e-5, abs=1e-5)


@given(logit_lists)
def test_pool_logits__lse_lies_between_mean_and_highest(values):
    assert np.mean(values) - 1e-4 <= pooled(values, "lse") <= max(values) + 1e-4


@given(logit_lists)
def test_pool_logits__noisy_or_is_the_chance_that_any_segment_is_positive(values):
    missed = [1 / (1 + math.exp(v)) for v in values]  # in double precision
    n = -math.fsum(map(math.log, missed))
    expected = n + math.log(-math.expm1(-n))  # log(exp(n) − 1)
    assert pooled(values, "noisy_or") == pytest.approx(expected, rel=1e-4, abs=1e-4)


@given(logit_lists, st.integers(0, 15))
def test_pool_logits__seen_once_makes_a_clip_positive(values, place):
    values[place % len(values)] = 20.0
    assert pooled(values, "noisy_or") >= 20 - 1e-4
    assert pooled(values, "lse") >= 20 - math.log(len(values)) - 1e-4


@pytest.mark.parametrize("value", [-200.0, -90.0, -10.0, -1.0, 0.0, 5.0, 60.0, 300.0])
def test_pool_logits__noisy_or_has_finite_gradients_everywhere(value):
    logits = torch.full((1, 4, 1), value, requires_grad=True)
    out = pool_logits(logits, torch.tensor([[True, True, True, False]]), "noisy_or")
    out.backward()
    assert out.isfinite().all()
    assert logits.grad.isfinite().all()
    assert (logits.grad[0, :3] > 0).all()


def test_pool_logits__noisy_or_gradient_is_that_of_the_formula():
    logits = torch.tensor([[[-14.0], [-9.0], [-2.0], [0.3], [3.0]]], dtype=torch.float64, requires_grad=True)
    pool_logits(logits, None, "noisy_or").backward()
    other = logits.detach().clone().requires_grad_()
    (1 - (1 - other.sigmoid()).prod(dim=1)).logit().backward()
    torch.testing.assert_close(logits.grad, other.grad, rtol=1e-4, atol=1e-9)


def test_pool_logits__faults_are_named():
    with pytest.raises(SonokitError, match="mean, lse, attention, noisy_or"):
        pool_logits(torch.zeros(1, 1, 1), None, "max")
    with pytest.raises(SonokitError, match="embedding"):
        pool_logits(torch.zeros(1, 1, 1), None, "attention")


def test_attention__begins_as_the_mean_and_learns_to_point():
    torch.manual_seed(0)
    attention = GatedAttention(3, 2, hidden=8)
    embedding = torch.randn(64, 4, 3)
    logits = torch.randn(64, 4, 2)
    torch.testing.assert_close(pool_logits(logits, None, "attention", attention(embedding)), logits.mean(dim=1))
    where = embedding[..., 0].argmax(dim=1)  # the first biomarker is told by the segment of the highest first number
    target = logits[torch.arange(64), where, 0]
    optimizer = torch.optim.Adam(attention.parameters(), lr=0.05)
    losses = []
    for _ in range(150):
        loss = (pool_logits(logits, None, "attention", attention(embedding))[:, 0] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


@pytest.mark.parametrize("segments", [1, 2, 4, 16, 1000])
def test_even_odds__by_the_definition(segments):
    p = 1 / (1 + math.exp(-even_odds(segments)))
    assert 1 - (1 - p) ** segments == pytest.approx(0.5, rel=1e-9)
