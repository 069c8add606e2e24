import math

import pytest
import torch
from lightly.loss import NegativeCosineSimilarity
from sonokit.backbones.build import build_backbone
from sonokit.pretrain.objectives.byol import BYOL
from sonokit.pretrain.objectives.momentum import rising_momentum
from sonokit.pretrain.objectives.objective import Views


def build(**options) -> BYOL:
    torch.manual_seed(0)
    return BYOL(build_backbone("test_efficientnet"), hidden=16, projection=8, **options).train()


def batch(n: int, weights=None) -> Views:
    first, second = torch.rand(2, n, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    weights = torch.ones(n) if weights is None else torch.tensor(weights)
    return Views(first, second, torch.full((n,), -1), torch.arange(n), weights)


def test_byol__loss_is_lightlys():
    byol = build().eval()
    views = batch(4)
    p1, p2 = (byol.predictor(byol.projector(byol.backbone(v))) for v in (views.first, views.second))
    t1, t2 = (byol.momentum_projector(byol.momentum_backbone(v)) for v in (views.first, views.second))
    similarity = NegativeCosineSimilarity()
    torch.testing.assert_close(byol(views).loss, 0.5 * (similarity(p1, t2) + similarity(p2, t1)))


def test_byol__a_perfect_prediction_gives_minus_1():
    byol = build().eval()
    byol.predictor = torch.nn.Identity()
    views = batch(3)
    same = Views(views.first, views.first, views.labels, views.patients, views.weights)
    assert byol(same).loss.item() == pytest.approx(-1, abs=1e-6)


def test_byol__weights_count_the_pairs():
    byol = build().eval()
    alone = [byol(Views(*(v[i : i + 1] for v in vars(batch(3)).values()))).loss.item() for i in range(3)]
    weighted = byol(batch(3, [1.0, 0.5, 0.0])).loss.item()
    assert weighted == pytest.approx((alone[0] + 0.5 * alone[1]) / 3, abs=1e-6)


def test_byol__gradients_reach_the_network_and_not_the_copy():
    byol = build()
    byol(batch(4)).loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in byol.backbone.parameters())
    assert all(p.grad is not None for p in (*byol.projector.parameters(), *byol.predictor.parameters()))
    copies = [*byol.momentum_backbone.parameters(), *byol.momentum_projector.parameters()]
    assert not any(p.requires_grad or p.grad is not None for p in copies)


def test_byol__after_step_moves_the_copy_by_the_formula():
    byol = build(momentum=0.9)
    before = [p.clone() for p in (*byol.momentum_backbone.parameters(), *byol.momentum_projector.parameters())]
    with torch.no_grad():
        for p in byol.parameters():
            if p.requires_grad:
                p.add_(1)
    byol.after_step(0.25)
    momentum = 1 - 0.1 * (math.cos(math.pi / 4) + 1) / 2
    after = [*byol.momentum_backbone.parameters(), *byol.momentum_projector.parameters()]
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, momentum * old + (1 - momentum) * (old + 1))


def test_rising_momentum__from_the_start_to_1():
    assert rising_momentum(0.99, 0.0) == pytest.approx(0.99)
    assert rising_momentum(0.99, 0.5) == pytest.approx(0.995)
    assert rising_momentum(0.99, 1.0) == 1.0


def test_byol__needs_no_patients():
    byol = build().eval()
    views = batch(4)
    other = Views(views.first, views.second, views.labels, torch.zeros(4, dtype=torch.int64), views.weights)
    assert not byol.negatives
    assert torch.equal(byol(views).loss, byol(other).loss)
