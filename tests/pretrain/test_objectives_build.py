import numpy as np
import pytest
import torch
from sonokit.backbones.build import build_backbone
from sonokit.clips.simulation.simulate import SimulationSettings, draw_clip, plan_patient
from sonokit.errors import SonokitError
from sonokit.pretrain.objectives.build import OBJECTIVES, USES_LABELS, ObjectiveSettings, build_objective
from sonokit.pretrain.objectives.objective import Views


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    """One frame each of 8 simulated patients, [8, 1, 48, 48] in [0, 1]."""
    settings = SimulationSettings(patients=8, clips_per_patient=1, size=64)
    drawn = [draw_clip(next(plan_patient(settings, i)), seconds=0.01, size=64).frames[0] for i in range(8)]
    grey = [torch.from_numpy(np.asarray(f)).float()[None, None] / 255 for f in drawn]
    return torch.cat([torch.nn.functional.interpolate(g, size=(48, 48), mode="area") for g in grey])


def build(name: str, backbone: str = "test_resnet", classes: int = 0, **options):
    torch.manual_seed(0)
    return build_objective(ObjectiveSettings(name=name, **options), build_backbone(backbone, seed=1), classes)


def train(objective, frames: torch.Tensor, steps: int) -> list[float]:
    """The losses of some steps on two noisy views of the frames."""
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW([p for p in objective.parameters() if p.requires_grad], 1e-3)
    losses = []
    for step in range(steps):
        noise = torch.randn(2, *frames.shape, generator=generator)
        first, second = (frames + 0.05 * noise).clamp(0, 1)
        outcome = objective(Views(first, second, torch.arange(8) % 2, torch.arange(8), torch.ones(8)))
        optimizer.zero_grad()
        outcome.loss.backward()
        optimizer.step()
        objective.after_step((step + 1) / steps)
        losses.append(float(outcome.loss.detach()))
    return losses


@pytest.mark.parametrize("name", ["uscl", "simclr", "moco", "byol", "hico"])
def test_build_objective__loss_falls_on_simulated_frames(frames, name):
    options = {"queue": 16} if name == "moco" else {}
    losses = train(build(name, classes=2 if name in USES_LABELS else 0, **options).train(), frames, 15)
    start = losses[1:4] if name == "moco" else losses[:3]  # moco's first batch meets an empty queue
    assert sum(losses[-3:]) < sum(start) - 0.1


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_build_objective__is_deterministic(frames, name):
    assert train(build(name).train(), frames, 2) == train(build(name).train(), frames, 2)


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_build_objective__outcome_as_documented(frames, name):
    objective = build(name).eval()
    views = Views(frames, frames.flip(-1), torch.full((8,), -1), torch.arange(8), torch.ones(8))
    outcome = objective(views)
    with torch.no_grad():
        expected = objective.backbone(torch.cat([views.first, views.second]))
    torch.testing.assert_close(outcome.features, expected)
    assert outcome.projections.shape[0] == 16
    assert outcome.loss.shape == ()
    assert outcome.loss.requires_grad
    assert not any(x.requires_grad for x in (outcome.features, outcome.projections, *outcome.parts.values()))
    assert all(part.shape == () for part in outcome.parts.values())
    assert objective.result is (objective.teacher_backbone if name == "dino" else objective.backbone)
    assert objective.negatives == (name not in ("byol", "dino"))


@pytest.mark.parametrize("name", list(OBJECTIVES))
def test_build_objective__weightless_pairs_teach_nothing(frames, name):
    objective = build(name).train()
    views = Views(frames, frames.flip(-1), torch.full((8,), -1), torch.arange(8), torch.zeros(8))
    objective(views)
    outcome = objective(views)  # moco's queue holds keys now
    outcome.loss.backward()
    assert outcome.loss.item() == 0
    assert not any(p.grad.any() for p in objective.backbone.parameters() if p.grad is not None)


def test_build_objective__settings_arrive():
    assert build("uscl", temperature=0.07).contrast.temperature == 0.07
    assert build("hico", temperature=0.07).contrast.temperature == 0.07
    assert build("uscl", classes=3, classify="features", label_weight=0.4).classifier.in_features == 96
    assert build("hico", classes=3, label_weight=0.4).label_weight == 0.4
    moco = build("moco", queue=77, momentum=0.5, temperature=0.3)
    assert (len(moco.queue.keys), moco.momentum, moco.temperature) == (77, 0.5, 0.3)
    assert build("byol", momentum=0.5).momentum == 0.5
    assert (build("dino", momentum=0.5).momentum, build("dino", temperature=0.2).temperature) == (0.5, 0.2)


@pytest.mark.parametrize(
    ("options", "classes", "message"),
    [
        ({"name": "clip"}, 0, r"unknown objective 'clip'; choose one of uscl, simclr, moco, byol, dino, hico"),
        ({"name": "simclr"}, 2, r"simclr has no use for labels; .* uscl or hico"),
        ({"name": "dino"}, 2, r"dino has no use for labels"),
        ({"name": "uscl", "temperature": 0.0}, 0, r"temperature must be above 0, it is 0.0"),
        ({"name": "uscl", "temperature": float("nan")}, 0, r"temperature must be above 0, it is nan"),
        ({"name": "byol", "temperature": 0.1}, 0, r"byol has no temperature"),
        ({"name": "moco", "momentum": 1.0}, 0, r"momentum must lie in \[0, 1\), it is 1.0"),
        ({"name": "moco", "momentum": -0.1}, 0, r"momentum must lie in \[0, 1\)"),
        ({"name": "simclr", "momentum": 0.9}, 0, r"simclr has no momentum copy"),
        ({"name": "moco", "queue": 0}, 0, r"queue must be at least 1, it is 0"),
        ({"name": "uscl", "label_weight": -1.0}, 2, r"label_weight must be at least 0, it is -1.0"),
        ({"name": "uscl", "classify": "pixels"}, 2, r"classify must be .* it is 'pixels'"),
    ],
)
def test_build_objective__refuses(options, classes, message):
    with pytest.raises(SonokitError, match=message):
        build_objective(ObjectiveSettings(**options), build_backbone("test_resnet"), classes)


def test_build_objective__refuses_hico_without_hierarchy():
    with pytest.raises(SonokitError, match="hierarchy"):
        build("hico", "test_vit")


def test_build_objective__all_faults_at_once():
    with pytest.raises(SonokitError, match=r"temperature must be above 0.*; simclr has no use for labels"):
        build("simclr", classes=2, temperature=-1.0)
