import math

import pytest
import torch
import torch.nn.functional as F
from sonokit.backbones.build import build_backbone
from sonokit.pretrain.objectives.moco import MoCo, PatientQueue, queue_contrast
from sonokit.pretrain.objectives.objective import Views


class Flat(torch.nn.Module):
    """Stands in for a backbone: the pixels through a matrix are the features."""

    num_features = 4

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(4, 4, bias=False)

    def forward(self, frames):
        return self.layer(frames.flatten(1))


def build(queue: int = 6, **options) -> MoCo:
    torch.manual_seed(0)
    return MoCo(Flat(), queue=queue, projection=3, **options).train()


def batch(n: int, patients, seed: int = 0, weights=None) -> Views:
    first, second = torch.rand(2, n, 1, 2, 2, generator=torch.Generator().manual_seed(seed))
    weights = torch.ones(n) if weights is None else torch.tensor(weights)
    return Views(first, second, torch.full((n,), -1), torch.tensor(patients), weights)


def embed(views: Views, backbone, projector) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.no_grad():
        return tuple(F.normalize(projector(backbone(v)), dim=1) for v in (views.first, views.second))


def info_nce(query, key, patient, queue: list, temperature: float) -> float:
    positive = math.exp(float(query @ key) / temperature)
    others = sum(math.exp(float(query @ k) / temperature) for k, p in queue if p != patient)
    return -math.log(positive / (positive + others))


def test_moco__loss_equals_the_formula_over_several_steps():
    moco = build(queue=5, temperature=0.3, momentum=0.5)
    queue: list = []
    for step, patients in enumerate([[0, 1], [1, 2], [0, 3], [4, 4]]):
        views = batch(2, patients, seed=step, weights=[1.0, 0.5])
        q1, q2 = embed(views, moco.backbone, moco.projector)
        k1, k2 = embed(views, moco.momentum_backbone, moco.momentum_projector)
        expected = 0.0
        for i, weight in enumerate([1.0, 0.5]):
            expected += weight * info_nce(q1[i], k2[i], patients[i], queue, 0.3) / 4
            expected += weight * info_nce(q2[i], k1[i], patients[i], queue, 0.3) / 4
        assert moco(views).loss.item() == pytest.approx(expected, abs=1e-5)
        queue = [*queue, *zip([*k1, *k2], [*patients, *patients], strict=True)][-5:]
        with torch.no_grad():  # another network for the next step
            moco.backbone.layer.weight.add_(torch.randn(4, 4))
        moco.after_step(0.5)
    assert expected > 0


def test_moco__the_first_step_meets_an_empty_queue():
    moco = build()
    out = moco(batch(3, [0, 1, 2]))
    assert out.loss.item() == 0
    assert float(out.parts["queue_filled"]) == 0
    assert float(moco(batch(3, [0, 1, 2])).parts["queue_filled"]) == 1


def test_moco__nobody_but_the_own_patient_in_the_queue_is_nobody():
    moco = build()
    moco(batch(2, [7, 7]))
    assert moco(batch(2, [7, 7], seed=1)).loss.item() == 0
    assert moco(batch(2, [8, 8], seed=1)).loss.item() > 0


def test_moco__gradients_reach_the_network_and_not_the_copy():
    moco = MoCo(build_backbone("test_efficientnet"), queue=16).train()
    for seed in range(2):
        frames = torch.rand(2, 3, 1, 32, 32, generator=torch.Generator().manual_seed(seed))
        patients = torch.tensor([0, 1, 2])
        moco(Views(*frames, torch.full((3,), -1), patients, torch.ones(3))).loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in moco.backbone.parameters())
    copies = [*moco.momentum_backbone.parameters(), *moco.momentum_projector.parameters()]
    assert not any(p.requires_grad or p.grad is not None for p in copies)


def test_moco__after_step_moves_the_copy_by_the_formula():
    moco = build(momentum=0.9)
    before = moco.momentum_backbone.layer.weight.clone()
    with torch.no_grad():
        moco.backbone.layer.weight.add_(1)
        moco.projector.layers[0].weight.mul_(2)
    head = moco.momentum_projector.layers[0].weight.clone()
    moco.after_step(0.3)
    torch.testing.assert_close(moco.momentum_backbone.layer.weight, 0.9 * before + 0.1 * (before + 1))
    torch.testing.assert_close(moco.momentum_projector.layers[0].weight, 0.9 * head + 0.1 * 2 * head)


def test_moco__keys_come_back_in_order_from_their_groups():
    moco = build()
    images = torch.rand(33, 1, 2, 2)
    expected = moco.momentum_projector(moco.momentum_backbone(images))
    torch.testing.assert_close(moco._keys(images), expected)


def test_moco__keys_of_a_large_batch_have_statistics_of_their_group():
    moco = MoCo(build_backbone("test_resnet"), queue=16).train()
    images = torch.rand(20, 1, 32, 32)
    with torch.no_grad():
        together = moco.momentum_projector(moco.momentum_backbone(images))
        counted = moco.momentum_backbone.model.bn1.num_batches_tracked.clone()
        assert not torch.allclose(moco._keys(images), together, atol=1e-3)
    assert int(moco.momentum_backbone.model.bn1.num_batches_tracked - counted) == 2  # groups of 10


def test_moco__evaluation_leaves_the_queue_alone():
    moco = build()
    moco(batch(2, [0, 1]))
    before = {k: v.clone() for k, v in moco.queue.state_dict().items()}
    moco.eval()(batch(2, [2, 3], seed=1))
    assert all(torch.equal(v, before[k]) for k, v in moco.queue.state_dict().items())


def test_moco__a_resumed_queue_goes_on_exactly():
    first, resumed = build(), build()
    first(batch(2, [0, 1]))
    resumed.load_state_dict(first.state_dict())
    for seed in (1, 2, 3):
        views = batch(2, [seed, 0], seed)
        assert torch.equal(first(views).loss, resumed(views).loss)


@pytest.mark.parametrize("size", [1, 3, 4, 7])
def test_patient_queue__holds_the_last_keys(size):
    queue = PatientQueue(size, 2)
    seen: list[tuple[float, int]] = []
    for step in range(5):
        rows = torch.arange(3) + 3 * step
        queue.enqueue(rows[:, None].repeat(1, 2).float(), rows + 100)
        seen = [*seen, *[(float(r), int(r) + 100) for r in rows]][-size:]
        held = zip(queue.keys[queue.filled][:, 0].tolist(), queue.patients[queue.filled].tolist(), strict=True)
        assert sorted(held) == seen


def test_queue_contrast__float32_under_autocast():
    queue = PatientQueue(8, 64)
    torch.manual_seed(0)
    queue.enqueue(F.normalize(torch.randn(6, 64), dim=1), torch.arange(6))
    z, keys = torch.randn(2, 3, 64)
    arguments = (z, F.normalize(keys, dim=1), torch.tensor([0, 1, 9]), queue, 0.05)
    expected = queue_contrast(*arguments)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(queue_contrast(*arguments), expected)
