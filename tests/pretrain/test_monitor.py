import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss
from sonokit.errors import SonokitError
from sonokit.pretrain.monitor import CollapseGuard, EmbeddingMonitor, alignment, effective_rank, spread, uniformity
from sonokit.pretrain.objectives.objective import Outcome
from torch import Tensor, nn


def rows(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def outcome(features: Tensor, projections: Tensor) -> Outcome:
    return Outcome(torch.zeros(()), {}, features, projections)


def test_alignment__by_hand():
    z1 = torch.tensor([[3.0, 0.0], [0.0, 5.0], [1.0, 0.0]])
    z2 = torch.tensor([[1.0, 0.0], [0.0, -1.0], [0.0, 2.0]])  # the same, opposite, at right angles
    assert alignment(z1, z2).item() == pytest.approx((0 + 4 + 2) / 3)


def test_uniformity__of_pairs_by_loops():
    z = rows(7, 3)
    unit = (z / z.norm(dim=1, keepdim=True)).tolist()
    pairs = [math.exp(-2 * math.dist(unit[i], unit[j]) ** 2) for i in range(7) for j in range(i)]
    assert uniformity(z).item() == pytest.approx(math.log(sum(pairs) / len(pairs)), rel=1e-5)
    assert uniformity(torch.ones(5, 3)).item() == 0
    assert uniformity(rows(400, 512)).item() == pytest.approx(-4, abs=0.1)  # nearly all at right angles: distance² 2


@pytest.mark.parametrize("dimensions", [1, 2, 5])
def test_effective_rank__of_equally_used_dimensions_is_their_number(dimensions):
    axes = torch.linalg.qr(rows(20, 20))[0][:dimensions]  # orthonormal
    z = torch.cat([axes, -axes]) + 3.0  # the mean is taken off
    assert effective_rank(z).item() == pytest.approx(dimensions, rel=1e-3)


def test_effective_rank__against_the_covariance():
    z = rows(50, 8) * torch.tensor([5.0, 3, 2, 1, 1, 0.5, 0.1, 0.01])
    values = np.sqrt(np.linalg.eigvalsh(np.cov(z.double().numpy().T)))
    share = values / values.sum()
    assert effective_rank(z).item() == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-4)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e6, 1 / 3])
def test_effective_rank__of_one_point_is_1(value):
    assert effective_rank(torch.full((30, 16), value)).item() == 1


def test_spread__limits():
    assert spread(rows(2000, 64)).item() == pytest.approx(1, abs=0.02)
    assert spread(torch.ones(9, 4)).item() == pytest.approx(0, abs=1e-6)
    # all but one in one place: by hand, two rows at right angles in two dimensions
    assert spread(torch.eye(2)).item() == pytest.approx(math.sqrt(0.5) * math.sqrt(2))


def test_embedding_monitor__figures_are_those_of_the_last_rows():
    batches = [(rows(8, 6, seed), rows(8, 4, 100 + seed)) for seed in range(5)]  # four pairs each
    monitor = EmbeddingMonitor(rows=20)
    assert monitor.figures() == {}
    for features, projections in batches:
        monitor.add(outcome(features, projections))
    last = [(f, z) for f, z in batches[2:]]
    z1 = torch.cat([z[:4] for _, z in last])[-10:]  # 10 of 12 pairs
    z2 = torch.cat([z[4:] for _, z in last])[-10:]
    h = torch.cat([torch.cat([f[:4] for f, _ in last])[-10:], torch.cat([f[4:] for f, _ in last])[-10:]])
    z = torch.cat([z1, z2])
    assert monitor.figures() == pytest.approx(
        {
            "alignment": alignment(z1, z2).item(),
            "uniformity": (uniformity(z1).item() + uniformity(z2).item()) / 2,
            "projection_rank": effective_rank(z).item(),
            "projection_spread": spread(z).item(),
            "feature_rank": effective_rank(h).item(),
            "feature_spread": spread(h).item(),
        }
    )
    assert monitor.images == 40
    monitor.reset()
    assert monitor.images == 0
    assert monitor.figures() == {}
    once = EmbeddingMonitor()
    once.add(outcome(*batches[0]))
    assert monitor.first_figures() == once.figures()  # of before the reset


def test_embedding_monitor__holds_no_more_than_it_needs():
    monitor = EmbeddingMonitor(rows=20)
    for seed in range(50):
        monitor.add(outcome(rows(8, 6, seed), rows(8, 4, seed)))
    assert len(monitor._batches) == 3  # 24 rows


def test_embedding_monitor__half_precision_and_no_numbers():
    half = EmbeddingMonitor()
    half.add(outcome(rows(8, 6).bfloat16(), rows(8, 4).bfloat16()))
    assert half.figures()["feature_spread"] == pytest.approx(spread(rows(8, 6)).item(), rel=0.01)
    broken = EmbeddingMonitor()
    broken.add(outcome(rows(8, 6), torch.full((8, 4), torch.nan)))
    assert set(map(math.isnan, broken.figures().values())) == {True}


FINE = {"projection_spread": 0.8, "feature_spread": 0.5, "projection_rank": 20.0, "feature_rank": 30.0}
GONE = {**FINE, "projection_spread": 0.001}


def first_refusal(figures, *, steps: int = 100, first=FINE, **options) -> int | None:
    """The epoch in which a guard stops a run with these figures, one an epoch."""
    guard = CollapseGuard(**options)
    for epoch, own in enumerate(figures):
        try:
            guard.check(epoch, own, step=(epoch + 1) * steps, first=first)
        except SonokitError:
            return epoch
    return None


def test_collapse_guard__patience_and_explanation():
    assert first_refusal([FINE] * 4 + [GONE] * 9) == 6
    assert first_refusal([FINE] * 4 + [GONE] * 9, patience=5) == 8
    assert first_refusal([GONE, GONE, FINE] * 20) is None  # it comes back each time
    guard = CollapseGuard("byol", patience=1)
    guard.check(0, GONE, step=10, first=FINE)  # 100 steps must have gone by, too
    with pytest.raises(SonokitError, match=r"projection_spread is 0.001 .*since epoch 0, 0.8 at the start.*momentum"):
        guard.check(1, GONE, step=110)


@pytest.mark.parametrize("name", ["projection_spread", "feature_spread", "projection_rank", "feature_rank"])
def test_collapse_guard__each_figure(name):
    assert first_refusal([{**FINE, name: 1.01 if name.endswith("rank") else 0.01}] * 5) == 2


def test_collapse_guard__an_untrained_network_is_no_collapse():
    untrained = {**FINE, "projection_spread": 0.03, "feature_spread": 0.02}
    assert first_refusal([untrained] * 9, first=untrained) is None  # in warm-up
    rising = [{**untrained, "projection_spread": 0.03 * 1.1**e, "feature_spread": 0.02 * 1.1**e} for e in range(40)]
    assert first_refusal(rising, first=untrained) is None
    assert first_refusal([untrained] * 40, first=untrained) == 11  # from the tenth epoch on, three of them
    assert first_refusal([untrained] * 40, first=untrained, steps=3) is None  # 120 steps are no training
    assert first_refusal([untrained] * 40, first=FINE) == 2  # what is not where it began has fallen


def test_collapse_guard__state_survives_as_json():
    whole, parted = CollapseGuard(), CollapseGuard()
    for epoch in range(2):
        for guard in (whole, parted):
            guard.check(epoch, GONE, step=100 * epoch, first=FINE)
    resumed = CollapseGuard()
    resumed.restore(json.loads(json.dumps(parted.state())))
    for guard in (whole, resumed):
        with pytest.raises(SonokitError, match=r"since epoch 0, 0.8 at the start"):
            guard.check(2, GONE, step=200, first=GONE)  # the beginning is known already


def test_collapse_guard__no_numbers_are_not_its_affair():
    assert first_refusal([dict.fromkeys(FINE, math.nan)] * 20) is None


class Tiny(nn.Module):
    """Sixteen clips' pictures → features → projections, with BatchNorm, as all of the methods' networks have it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()
        )
        self.head = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 32))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(x).mean(dim=(2, 3))
        return features, self.head(features)


def train(loss_of, *, epochs: int = 12, steps: int = 40, learning_rate: float = 3e-3, guard: CollapseGuard):
    """Two noisy views of sixteen fixed pictures a step; the guard looks at each epoch's end. Gives the last figures."""
    torch.manual_seed(0)
    net, monitor = Tiny(), EmbeddingMonitor(256)
    optimizer = torch.optim.AdamW(net.parameters(), lr=learning_rate)
    pictures = F.interpolate(torch.rand(16, 1, 4, 4), size=16)
    for epoch in range(epochs):
        monitor.reset()
        for _ in range(steps):
            features, z = net(pictures.repeat(2, 1, 1, 1) + 0.1 * torch.randn(32, 1, 16, 16))
            loss = loss_of(*z.chunk(2))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            monitor.add(outcome(features.detach(), z.detach()))
        guard.check(epoch, monitor.figures(), step=(epoch + 1) * steps, first=monitor.first_figures())
    return monitor.figures()


def test_collapse_guard__stops_a_run_that_only_aligns():
    with pytest.raises(SonokitError, match="have collapsed: projection_spread"):
        train(alignment, guard=CollapseGuard("byol"))


def test_collapse_guard__stops_a_run_whose_learning_rate_kills_it():
    with pytest.raises(SonokitError, match="have collapsed"):
        train(NTXentLoss(0.5), learning_rate=30.0, guard=CollapseGuard("simclr"))


def test_collapse_guard__lets_contrast_go_on():
    figures = train(NTXentLoss(0.2), guard=CollapseGuard("simclr"))
    assert figures["projection_spread"] > 0.5
    assert figures["uniformity"] < -2
    assert figures["alignment"] < 0.5
