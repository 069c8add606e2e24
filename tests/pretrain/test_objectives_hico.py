import pytest
import torch
import torch.nn.functional as F
from sonokit.backbones.build import build_backbone
from sonokit.errors import SonokitError
from sonokit.pretrain.objectives.contrast import PatientNTXent
from sonokit.pretrain.objectives.hico import HiCo
from sonokit.pretrain.objectives.objective import Views


def build(name: str = "test_resnet", classes: int = 0, **options) -> HiCo:
    torch.manual_seed(0)
    return HiCo(build_backbone(name), classes, width=16, **options).train()


def batch(n: int, labels=None, weights=None, patients=None) -> Views:
    first, second = torch.rand(2, n, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    labels = torch.full((n,), -1) if labels is None else torch.tensor(labels)
    patients = torch.arange(n) if patients is None else torch.tensor(patients)
    return Views(first, second, labels, patients, torch.ones(n) if weights is None else torch.tensor(weights))


def test_hico__loss_is_the_papers_sum():
    hico = build(classes=3, label_weight=0.3, smoothing=0.2).eval()
    views = batch(5, labels=[0, -1, 2, 1, -1], weights=[1.0, 0.5, 1.0, 0.2, 1.0], patients=[0, 1, 1, 2, 3])
    contrast = PatientNTXent(0.5)
    z, logits = [], []
    for view in (views.first, views.second):
        features, maps = hico.backbone.forward_maps(view, (4, 8, 16))
        p2, p3, _, p5 = hico.pyramid(maps, features)
        z.append([head(p) for head, p in zip(hico.heads, (p2, p3, p5), strict=True)])
        logits.append(hico.classifier(features))

    def loss(a, b):
        return contrast(a, b, views.patients, views.weights)

    peer = sum(loss(a, b) for a, b in zip(*z, strict=True))
    cross = sum(loss(z5, z3) + loss(z5, z2) for z2, z3, z5 in z)
    known = views.labels >= 0
    entropy = sum(F.cross_entropy(out[known], views.labels[known], label_smoothing=0.2) for out in logits)
    out = hico(views)
    torch.testing.assert_close(out.loss, 0.5 * peer + 0.5 * cross + 0.3 * entropy)
    torch.testing.assert_close(out.projections, torch.cat([z[0][2], z[1][2]]).detach())


def test_hico__pyramid_of_means_is_the_mean_of_the_pyramid():
    hico = build("test_efficientnet").eval()
    frames = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        features, maps = hico.backbone.forward_maps(frames, (4, 8, 16))
        levels = hico.pyramid(maps, features)
        # a feature pyramid: 1×1 convolutions, and each level upsampled onto the next finer one
        level = hico.top(features)[:, :, None, None].expand(-1, -1, 2, 2)
        torch.testing.assert_close(levels[3], level.mean(dim=(2, 3)))
        for i in (2, 1, 0):
            weight = hico.laterals[i].weight[:, :, None, None]
            level = F.interpolate(level, scale_factor=2) + F.conv2d(maps[i], weight, hico.laterals[i].bias)
            torch.testing.assert_close(levels[i], level.mean(dim=(2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["test_efficientnet", "test_convnext"])
@pytest.mark.parametrize("classes", [0, 2])
def test_hico__gradients_reach_everything(name, classes):
    hico = build(name, classes)
    hico(batch(4, labels=[0, 1, -1, 0])).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in hico.parameters())
    without = [n for n, p in hico.backbone.named_parameters() if not p.grad.any()]
    assert without == []


def test_hico__one_forward_a_step_updates_batch_norm_once():
    hico = build()
    hico(batch(3))
    assert {int(m.num_batches_tracked) for m in hico.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {1}


def test_hico__no_label_known_is_no_labels():
    hico = build(classes=2)
    out = hico(batch(3))
    assert float(out.parts["classification"]) == 0
    torch.testing.assert_close(out.loss.detach(), 0.5 * (out.parts["peer"] + out.parts["cross"]))


def test_hico__heads_are_sane():
    torch.manual_seed(0)
    hico = HiCo(build_backbone("resnet18"), 12)
    heads = sum(p.numel() for n, p in hico.named_parameters() if not n.startswith("backbone."))
    assert heads < 1_000_000  # the reference: 273 million


def test_hico__a_vit_has_no_hierarchy():
    with pytest.raises(SonokitError, match=r"test_vit has maps at 16: choose"):
        HiCo(build_backbone("test_vit"))
