import math

import pytest
import torch
import torch.nn.functional as F
from sonokit.backbones.build import build_backbone
from sonokit.pretrain.objectives.classification import masked_cross_entropy
from sonokit.pretrain.objectives.objective import Views
from sonokit.pretrain.objectives.simclr import SimCLR
from sonokit.pretrain.objectives.uscl import USCL


class Flat(torch.nn.Module):
    """Stands in for a backbone: the pixels are the features."""

    num_features = 4

    def forward(self, frames):
        return frames.flatten(1)


def objective(classes: int = 0, **options) -> USCL:
    torch.manual_seed(0)
    return USCL(Flat(), classes, hidden=8, projection=3, **options)


def batch(first, second, labels=None, patients=None, weights=None) -> Views:
    n = len(first)
    labels = torch.full((n,), -1) if labels is None else torch.tensor(labels)
    patients = torch.arange(n) if patients is None else torch.tensor(patients)
    return Views(first, second, labels, patients, torch.ones(n) if weights is None else torch.tensor(weights))


def nt_xent(z1: torch.Tensor, z2: torch.Tensor, temperature: float) -> float:
    """Term by term, after the formula."""
    z = torch.cat([z1, z2]).double()
    n = len(z)
    total = 0.0
    for i in range(n):
        similar = [math.exp(F.cosine_similarity(z[i], z[k], dim=0).item() / temperature) for k in range(n)]
        total -= math.log(similar[(i + n // 2) % n] / (sum(similar) - similar[i]))
    return total / n


@pytest.mark.parametrize("temperature", [0.5, 0.1])
def test_uscl__contrast_equals_the_formula(temperature):
    uscl = objective(temperature=temperature)
    v1, v2 = torch.rand(2, 5, 1, 2, 2)
    expected = nt_xent(uscl.projector(v1.flatten(1)), uscl.projector(v2.flatten(1)), temperature)
    assert uscl(batch(v1, v2)).loss.item() == pytest.approx(expected, abs=1e-5)


def test_uscl__contrast_of_orthogonal_pairs_by_hand():
    uscl = objective(temperature=0.5)
    uscl.projector = torch.nn.Identity()
    views = torch.eye(4)[:2].view(2, 1, 2, 2)  # 2 clips, each pair identical, the two clips orthogonal
    # every anchor: positive e^2, two negatives e^0
    expected = -math.log(math.exp(2) / (math.exp(2) + 2))
    assert uscl(batch(views, views)).loss.item() == pytest.approx(expected, abs=1e-6)
    # a third clip, of the first one's patient, is a negative of the second clip only
    views = torch.eye(4)[:3].view(3, 1, 2, 2)
    expected = -(2 * math.log(math.exp(2) / (math.exp(2) + 2)) + math.log(math.exp(2) / (math.exp(2) + 4))) / 3
    assert uscl(batch(views, views, patients=[5, 6, 5])).loss.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("n", [2, 7])
def test_uscl__identical_embeddings_give_ln_2n_minus_1(n):
    views = torch.rand(1, 1, 2, 2).repeat(n, 1, 1, 1)
    assert objective()(batch(views, views)).loss.item() == pytest.approx(math.log(2 * n - 1), abs=1e-5)


def test_uscl__labels_add_the_cross_entropy_of_both_views():
    uscl = objective(3, label_weight=0.2)
    v1, v2 = torch.rand(2, 4, 1, 2, 2)
    labels = torch.tensor([2, -1, 0, -1])
    known = labels >= 0
    expected = sum(F.cross_entropy(uscl.classifier(uscl.projector(v.flatten(1)))[known], labels[known]) for v in (v1, v2))
    out = uscl(batch(v1, v2, labels.tolist()))
    torch.testing.assert_close(out.parts["classification"], expected.detach())
    torch.testing.assert_close(out.loss, out.parts["contrastive"] + 0.2 * expected)


def test_uscl__weights_scale_the_contrast_and_leave_the_labels():
    uscl = objective(3)
    v1, v2 = torch.rand(2, 4, 1, 2, 2)
    full = uscl(batch(v1, v2, [2, -1, 0, -1]))
    half = uscl(batch(v1, v2, [2, -1, 0, -1], weights=[0.5] * 4))
    torch.testing.assert_close(half.parts["contrastive"], 0.5 * full.parts["contrastive"])
    assert torch.equal(half.parts["classification"], full.parts["classification"])


@pytest.mark.parametrize(("classify", "width"), [("projection", 3), ("features", 4)])
def test_uscl__classifier_sits_where_told(classify, width):
    uscl = objective(2, classify=classify)
    assert uscl.classifier.in_features == width
    uscl(batch(*torch.rand(2, 3, 1, 2, 2), [0, 1, 1])).loss.backward()
    assert uscl.classifier.weight.grad.abs().sum() > 0


def test_uscl__label_weight_0_gives_no_gradient_to_the_classifier():
    uscl = objective(2, label_weight=0.0)
    out = uscl(batch(*torch.rand(2, 3, 1, 2, 2), [0, 1, 1]))
    out.loss.backward()
    assert uscl.classifier.weight.grad is None
    assert float(out.parts["classification"]) > 0
    assert torch.equal(out.loss.detach(), out.parts["contrastive"])


def test_uscl__features_and_projections_are_those_of_the_first_then_the_second_views():
    uscl = objective()
    v1, v2 = torch.rand(2, 3, 1, 2, 2)
    out = uscl(batch(v1, v2))
    assert torch.equal(out.features, torch.cat([v1, v2]).flatten(1))
    torch.testing.assert_close(out.projections, uscl.projector(out.features).detach())
    assert not out.features.requires_grad
    assert not out.projections.requires_grad


@pytest.mark.parametrize("classes", [0, 3])
def test_uscl__weights_are_drawn_in_the_order_of_the_published_runs(classes):
    """Projector (D → 512 → 256), then classifier, from the global generator; names as in earlier checkpoints."""
    backbone = build_backbone("test_resnet", seed=1)
    torch.manual_seed(3)
    uscl = USCL(backbone, classes)
    torch.manual_seed(3)
    layers = {"projector.layers.0": torch.nn.Linear(96, 512), "projector.layers.2": torch.nn.Linear(512, 256)}
    if classes:
        layers["classifier"] = torch.nn.Linear(256, classes)
    own = {k: v for k, v in uscl.state_dict().items() if not k.startswith("backbone.")}
    expected = {f"{k}.{part}": getattr(layer, part) for k, layer in layers.items() for part in ("weight", "bias")}
    assert list(own) == list(expected)
    for key, value in expected.items():
        assert torch.equal(own[key], value)


def test_simclr__is_uscl_without_labels():
    torch.manual_seed(0)
    simclr = SimCLR(Flat(), hidden=8, projection=3)
    v1, v2 = torch.rand(2, 4, 1, 2, 2)
    patients = [0, 1, 1, 2]
    expected = objective()(batch(v1, v2, patients=patients)).loss
    assert torch.equal(simclr(batch(v1, v2, labels=[0, 1, 0, 1], patients=patients)).loss, expected)


def test_masked_cross_entropy__no_label_known():
    logits = torch.rand(3, 2, requires_grad=True)
    loss = masked_cross_entropy(logits, torch.full((3,), -1))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


def test_masked_cross_entropy__smoothing_spreads_over_the_classes():
    logits = torch.tensor([[1.0, -1.0, 0.5], [9.0, 9.0, 9.0], [0.0, 2.0, 0.0]])
    targets = torch.tensor([[0.8 + 0.2 / 3, 0.2 / 3, 0.2 / 3], [0.2 / 3, 0.2 / 3, 0.8 + 0.2 / 3]])  # by hand
    expected = -(targets * logits[[0, 2]].log_softmax(1)).sum() / 2
    torch.testing.assert_close(masked_cross_entropy(logits, torch.tensor([0, -1, 2]), 0.2), expected)


def test_uscl__one_forward_a_step_updates_batch_norm_once():
    uscl = USCL(build_backbone("test_resnet")).train()
    uscl(batch(*torch.rand(2, 3, 1, 32, 32)))
    counts = {int(m.num_batches_tracked) for m in uscl.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert counts == {1}
