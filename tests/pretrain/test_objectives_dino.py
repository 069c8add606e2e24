import math

import pytest
import torch
from lightly.loss import DINOLoss
from sonokit.backbones.build import build_backbone
from sonokit.pretrain.objectives.dino import DINO
from sonokit.pretrain.objectives.objective import Views


def build(name: str = "test_resnet", **options) -> DINO:
    torch.manual_seed(0)
    return DINO(build_backbone(name), outputs=12, hidden=16, bottleneck=8, **options).train()


def batch(n: int, seed: int = 1, weights=None) -> Views:
    first, second = torch.rand(2, n, 1, 32, 32, generator=torch.Generator().manual_seed(seed))
    weights = torch.ones(n) if weights is None else torch.tensor(weights)
    return Views(first, second, torch.full((n,), -1), torch.arange(n), weights)


def frozen_statistics(dino: DINO) -> DINO:
    """In training as far as the centre goes, but with outputs that do not depend on the rest of the batch."""
    for module in dino.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    return dino


@pytest.mark.parametrize(("progress", "teacher_temperature"), [(0.0, 0.04), (0.15, 0.055), (0.3, 0.07), (0.9, 0.07)])
def test_dino__loss_and_centre_are_lightlys(progress, teacher_temperature):
    dino = frozen_statistics(build(temperature=0.2))
    theirs = DINOLoss(12, student_temp=0.2)
    dino.progress.fill_(progress)
    for seed in (1, 2, 3):
        views = batch(4, seed)
        teacher = [dino.teacher_head(dino.teacher_backbone(v)) for v in (views.first, views.second)]
        student = [dino.head(dino.backbone(v)) for v in (views.first, views.second)]
        torch.testing.assert_close(dino(views).loss, theirs(teacher, student, teacher_temp=teacher_temperature))
        torch.testing.assert_close(dino.center.value, theirs.center)
    assert theirs.center.abs().sum() > 0


def test_dino__weights_count_the_pairs():
    dino = build().eval()
    alone = [dino(Views(*(v[i : i + 1] for v in vars(batch(3)).values()))).loss.item() for i in range(3)]
    weighted = dino(batch(3, weights=[1.0, 0.5, 0.0])).loss.item()
    assert weighted == pytest.approx((alone[0] + 0.5 * alone[1]) / 3, abs=1e-5)


def test_dino__entropy_of_a_teacher_without_opinion():
    dino = build().eval()
    with torch.no_grad():
        dino.teacher_head.last_layer.weight_g.zero_()
    assert float(dino(batch(3)).parts["teacher_entropy"]) == pytest.approx(math.log(12), abs=1e-5)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_vit"])
def test_dino__gradients_reach_the_student_and_not_the_teacher(name):
    dino = build(name)
    dino.progress.fill_(0.5)
    dino(batch(4)).loss.backward()
    reached = [n for n, p in dino.backbone.named_parameters() if p.grad is not None and p.grad.any()]
    assert len(reached) == len(list(dino.backbone.parameters()))
    assert dino.head.last_layer.weight_v.grad.any()
    teacher = [*dino.teacher_backbone.parameters(), *dino.teacher_head.parameters()]
    assert not any(p.requires_grad or p.grad is not None for p in teacher)


def test_dino__last_layer_keeps_still_at_first():
    dino = build()
    dino(batch(4)).loss.backward()
    assert not dino.head.last_layer.weight_v.grad.any()
    assert dino.head.layers[0].weight.grad.any()
    dino.zero_grad()
    dino.after_step(0.01)
    dino(batch(4)).loss.backward()
    assert dino.head.last_layer.weight_v.grad.any()


def test_dino__after_step_moves_the_teacher_by_the_formula():
    dino = build(momentum=0.9)
    before = [p.clone() for p in (*dino.teacher_backbone.parameters(), *dino.teacher_head.parameters())]
    with torch.no_grad():
        for p in (*dino.backbone.parameters(), *dino.head.parameters()):
            p.add_(1)
    dino.after_step(0.5)
    after = [*dino.teacher_backbone.parameters(), *dino.teacher_head.parameters()]
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, 0.95 * old + 0.05 * (old + 1))
    assert float(dino.progress) == 0.5


def test_dino__result_is_the_teacher_which_began_as_the_student():
    dino = build()
    assert dino.result is dino.teacher_backbone
    assert dino.result is not dino.backbone
    views = batch(3)
    torch.testing.assert_close(dino.head(dino.backbone(views.first)), dino.teacher_head(dino.result(views.first)))


def test_dino__a_resumed_run_goes_on_exactly():
    first, resumed = build(), build()
    first(batch(4))
    first.after_step(0.2)
    resumed.load_state_dict(first.state_dict())
    for seed in (2, 3):
        assert torch.equal(first(batch(4, seed)).loss, resumed(batch(4, seed)).loss)
    assert resumed.center.value.abs().sum() > 0


def test_dino__evaluation_leaves_the_centre_alone():
    dino = build().eval()
    dino(batch(4))
    assert not dino.center.value.any()


def test_dino__loss_falls_towards_a_teacher_that_stands_still():
    torch.manual_seed(0)
    dino = DINO(build_backbone("test_resnet", seed=1), outputs=64, hidden=64, bottleneck=32).train()
    dino.center.momentum = 1.0
    dino.after_step(0.5)  # past the first steps, in which the last layer rests
    optimizer = torch.optim.AdamW([p for p in dino.parameters() if p.requires_grad], 1e-3)
    frames = torch.nn.functional.interpolate(torch.rand(8, 1, 4, 4), size=(32, 32), mode="bicubic").clamp(0, 1)
    losses = []
    for _ in range(15):
        first, second = (frames + 0.05 * torch.randn(2, 8, 1, 32, 32)).clamp(0, 1)
        outcome = dino(Views(first, second, torch.full((8,), -1), torch.arange(8), torch.ones(8)))
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
        losses.append(float(outcome.loss.detach() - outcome.parts["teacher_entropy"]))  # what the student can mend
    assert min(losses) > 0  # Gibbs' inequality
    assert sum(losses[-3:]) < 0.85 * sum(losses[:3])
