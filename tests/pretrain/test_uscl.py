import math

import pytest
import torch
import torch.nn.functional as F
from sonokit.backbones.build import build_backbone
from sonokit.pretrain.objectives.uscl import USCL, masked_cross_entropy


class Flat(torch.nn.Module):
    """Stands in for a backbone: the pixels are the features."""

    num_features = 4

    def forward(self, frames):
        return frames.flatten(1)


def objective(classes: int = 0, **options) -> USCL:
    torch.manual_seed(0)
    return USCL(Flat(), classes, hidden=8, projection=3, **options)


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
    assert uscl(v1, v2)["loss"].item() == pytest.approx(expected, abs=1e-5)


def test_uscl__contrast_of_orthogonal_pairs_by_hand():
    uscl = objective(temperature=0.5)
    uscl.projector = torch.nn.Identity()
    views = torch.eye(4)[:2].view(2, 1, 2, 2)  # 2 clips, each pair identical, the two clips orthogonal
    # every anchor: positive e^2, two negatives e^0
    assert float(uscl(views, views)["loss"]) == pytest.approx(-math.log(math.exp(2) / (math.exp(2) + 2)), abs=1e-6)


@pytest.mark.parametrize("n", [2, 7])
def test_uscl__identical_embeddings_give_ln_2n_minus_1(n):
    views = torch.rand(1, 1, 2, 2).repeat(n, 1, 1, 1)
    assert float(objective()(views, views)["loss"]) == pytest.approx(math.log(2 * n - 1), abs=1e-5)


def test_uscl__labels_add_the_cross_entropy_of_both_views():
    uscl = objective(3, label_weight=0.2)
    v1, v2 = torch.rand(2, 4, 1, 2, 2)
    labels = torch.tensor([2, -1, 0, -1])
    known = labels >= 0
    expected = sum(F.cross_entropy(uscl.classifier(uscl.projector(v.flatten(1)))[known], labels[known]) for v in (v1, v2))
    out = uscl(v1, v2, labels)
    torch.testing.assert_close(out["classification"], expected.detach())
    torch.testing.assert_close(out["loss"], out["contrastive"] + 0.2 * expected)


@pytest.mark.parametrize(("classify", "width"), [("projection", 3), ("features", 4)])
def test_uscl__classifier_sits_where_told(classify, width):
    uscl = objective(2, classify=classify)
    assert uscl.classifier.in_features == width
    uscl(*torch.rand(2, 3, 1, 2, 2), torch.tensor([0, 1, 1]))["loss"].backward()
    assert uscl.classifier.weight.grad.abs().sum() > 0


def test_uscl__label_weight_0_gives_no_gradient_to_the_classifier():
    uscl = objective(2, label_weight=0.0)
    out = uscl(*torch.rand(2, 3, 1, 2, 2), torch.tensor([0, 1, 1]))
    out["loss"].backward()
    assert uscl.classifier.weight.grad is None
    assert float(out["classification"]) > 0
    assert torch.equal(out["loss"].detach(), out["contrastive"])


def test_masked_cross_entropy__no_label_known():
    logits = torch.rand(3, 2, requires_grad=True)
    loss = masked_cross_entropy(logits, torch.full((3,), -1))
    loss.backward()
    assert float(loss) == 0
    assert not logits.grad.any()


def test_uscl__one_forward_a_step_updates_batch_norm_once():
    uscl = USCL(build_backbone("test_resnet")).train()
    uscl(*torch.rand(2, 3, 1, 32, 32))
    counts = {int(m.num_batches_tracked) for m in uscl.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    assert counts == {1}


def test_uscl__loss_falls_on_a_tiny_problem():
    torch.manual_seed(0)
    uscl = USCL(build_backbone("test_resnet", seed=1), 2, label_weight=0.2).train()
    clips = torch.rand(8, 1, 32, 32)
    labels = torch.arange(8) % 2
    optimizer = torch.optim.AdamW(uscl.parameters(), 3e-3)
    losses = []
    for _ in range(25):
        v1, v2 = (clips + 0.05 * torch.randn(2, 8, 1, 32, 32)).clamp(0, 1)
        loss = uscl(v1, v2, labels)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert sum(losses[-3:]) / 3 < 0.7 * losses[0]
