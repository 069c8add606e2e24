import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sonokit.backbones.build import Backbone, build_backbone
from sonokit.errors import SonokitError
from sonokit.features.explain.checks import check_maps, random_head, random_network
from sonokit.features.explain.maps import last_map, make_maps
from sonokit.features.extraction.forward import to_input
from sonokit.features.extractors.biomarkers import BiomarkerExtractor, SegmentPlan
from torch import nn

SIZE = 32


class Linear(nn.Module):
    """A linear network that a hand can compute: a map of K channels of 4 x 4 pixels a cell, then their mean.

    ``seen`` (bool [h, w]) blinds the map outside of it.
    """

    def __init__(self, kernels, seen):
        super().__init__()
        self.num_features = len(kernels)
        self.map = nn.Sequential(nn.Conv2d(1, len(kernels), 4, stride=4, bias=False), Seen(seen))
        self.map[0].weight = nn.Parameter(kernels[:, None])

    def forward_features(self, x):
        return self.map(x)

    def forward_head(self, x):
        return x.mean(dim=(2, 3))

    def forward(self, x):
        return self.forward_head(self.forward_features(x))


class Seen(nn.Module):
    def __init__(self, seen):
        super().__init__()
        self.seen = seen.float()

    def forward(self, x):
        return x * self.seen


class LinearHead(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.weight = weight  # [B, K]

    def forward(self, features):
        return features, features @ self.weight.T


def linear_extractor(kernels, weight, seen=None, size=SIZE):
    cells = size // 4
    network = Linear(kernels, torch.ones(cells, cells) if seen is None else seen)
    names = [f"sign-{i}" for i in range(len(weight))]
    extractor = BiomarkerExtractor(Backbone("linear", network, (0.0,), (1.0,)), names, plan=SegmentPlan(2, 3), size=size)
    extractor.head = LinearHead(weight)
    return extractor.eval()


def draw(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def random_frames(count, seed=0, size=SIZE):
    return torch.randint(0, 256, (count, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_gradcam__of_a_linear_network_by_hand():
    kernels, weight = draw(3, 4, 4) - 0.5, draw(2, 3, seed=1) - 0.5
    frames = random_frames(6)
    chosen = torch.tensor([[0, 1, 2], [3, 4, 5], [0, 0, 5]])
    maps = make_maps(linear_extractor(kernels, weight), frames, "gradcam").maps(chosen, 1, [0, 1])
    pixels = frames.float().div(255).view(6, 8, 4, 8, 4)
    activation = torch.einsum("tyixj,kij->tkyx", pixels, kernels)  # [T, K, 8, 8], a convolution without overlap
    for m, shown in enumerate([1, 4, 0]):
        for b in range(2):
            # the logit is Σ_k w_k · mean over 3 frames and 64 cells: every gradient is w_k / 192
            by_hand = (weight[b, :, None, None] / 192 * activation[shown]).sum(dim=0).clamp_min(0)
            torch.testing.assert_close(maps[m, b], by_hand, atol=1e-6, rtol=1e-4)


def test_gradcam__of_a_real_network_equals_autograd(backbone):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        names = [f"sign-{i}" for i in range(8)]  # some have a map that is not empty
        extractor = BiomarkerExtractor(backbone, names, plan=SegmentPlan(1, 2), size=64, embedding=8).eval()
    frames = random_frames(2, size=64)
    maps = make_maps(extractor, frames, "gradcam").maps(torch.tensor([[0, 1]]), 0, list(range(8)))
    batch = (to_input(frames, 1) - backbone.mean) / backbone.std
    activation = backbone.model.forward_features(batch).detach().requires_grad_()  # [2, K, h, w]
    logits = extractor.head(backbone.model.forward_head(activation).mean(dim=0))[1]
    by_hand = []
    for logit in logits:
        (gradient,) = torch.autograd.grad(logit, activation, retain_graph=True)
        by_hand.append((gradient[0].mean(dim=(1, 2), keepdim=True) * activation[0].detach()).sum(dim=0).relu())
    assert torch.stack(by_hand).max() > 0
    torch.testing.assert_close(maps[0], torch.stack(by_hand), atol=1e-6, rtol=1e-3)


@pytest.mark.parametrize("method", ["gradcam", "integrated_gradients", "occlusion"])
def test_maps__a_network_that_sees_one_corner_gives_a_map_there(method):
    seen = torch.zeros(8, 8)
    seen[:2, 6:] = 1  # upper right, 8 of 32 pixels a side
    extractor = linear_extractor(torch.ones(1, 4, 4), torch.tensor([[1.0]]), seen)
    frames = random_frames(3).clamp(min=40)
    maps = make_maps(extractor, frames, method).maps(torch.tensor([[0, 1, 2]]), 1, [0])[0, 0]
    reach = math.ceil(maps.shape[0] * (2 if method == "gradcam" else 3) / 8)  # a patch of 8 pixels reaches 4 further
    inside = maps[:reach, -reach:].sum()
    assert inside > 0
    assert inside == pytest.approx(float(maps.sum()), rel=1e-4)


def test_integrated_gradients__add_up_to_the_logit():
    size = 56  # a multiple of the map's 28 cells
    extractor = linear_extractor(torch.full((1, 4, 4), 2.0), torch.tensor([[0.5]]), size=size)
    frames = random_frames(1, size=size).expand(3, -1, -1)
    maker = make_maps(extractor, frames, "integrated_gradients")
    chosen = torch.tensor([[0, 1, 2]])
    logit = float(maker.outputs(chosen)[1])
    maps = maker.maps(chosen, 1, [0])
    # every attribution is positive here: the mean over cells, times all pixels, times the three equal frames
    assert float(maps.mean()) * size**2 * 3 == pytest.approx(logit, rel=1e-3)


def test_occlusion__by_hand_on_a_network_that_adds_up_pixels():
    extractor = linear_extractor(torch.ones(1, 4, 4), torch.tensor([[1.0]]))
    frames = torch.zeros(1, SIZE, SIZE, dtype=torch.uint8)
    frames[0, 12:16, 20:24] = 255  # one cell: the logit is 16 / 64
    maps = make_maps(extractor, frames, "occlusion").maps(torch.zeros(1, 3, dtype=torch.int64), 0, [0])[0, 0]  # [8, 8]
    # patches are two cells wide: four of them take the lit one away, each to the last bit; every cell shows the mean of
    # the patches that cover it (four inside)
    expected = np.zeros((8, 8))
    for top in (2, 3):
        for left in (4, 5):
            expected[top : top + 2, left : left + 2] += 0.25 / 4
    np.testing.assert_allclose(maps, expected, atol=1e-6)


@pytest.mark.parametrize("shift", [0.0, 0.25])
@pytest.mark.parametrize("method", ["gradcam", "occlusion"])
def test_outputs__are_the_extractors_own(shift, method):
    network = build_backbone("test_resnet" if not shift else "resnet10t", temporal_shift=shift, seed=0).eval()
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.ones_(norm.weight)  # timm begins with residual branches that add nothing, where no shift would show
    extractor = BiomarkerExtractor(network, ("a", "b"), plan=SegmentPlan(4, 3), size=64, embedding=8).eval()
    frames = random_frames(12, size=64)
    chosen = extractor.plan.choose(12)
    with torch.inference_mode():
        expected = extractor(to_input(frames[chosen], 1)[None])
    for mine, own in zip(make_maps(extractor, frames, method).outputs(chosen), expected, strict=True):
        torch.testing.assert_close(mine, own[0], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "mobilenetv3_small_050"])
def test_last_map__is_found_in_convolutional_networks(name):
    network = build_backbone(name, seed=0).eval()
    layer, kept = last_map(network, 64), []
    layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
    frame = draw(1, 1, 64, 64)
    with torch.inference_mode():
        features = network(frame)
        torch.testing.assert_close(network.model.forward_head(kept[0]), features, atol=1e-5, rtol=1e-4)
    assert kept[0].shape[-1] > 1


def test_gradcam__is_refused_for_a_transformer_where_occlusion_works():
    network = build_backbone("test_vit", seed=0).eval()
    extractor = BiomarkerExtractor(network, ("a", "b"), plan=SegmentPlan(1, 1), size=SIZE, embedding=8).eval()
    frames, chosen = random_frames(1), torch.zeros(1, 1, dtype=torch.int64)
    with pytest.raises(SonokitError, match="test_vit at 32 pixels does not: choose --method occlusion"):
        make_maps(extractor, frames, "gradcam")
    maps = make_maps(extractor, frames, "occlusion").maps(chosen, 0, [0, 1])
    assert maps.shape == (1, 2, 8, 8)
    assert maps.max() > 0


def test_make_maps__refuses_an_unknown_method(backbone):
    extractor = BiomarkerExtractor(backbone, ("a",), plan=SegmentPlan(1, 1), size=SIZE)
    with pytest.raises(SonokitError, match="gradcam, integrated_gradients, occlusion, it is 'lime'"):
        make_maps(extractor, random_frames(1), "lime")


def checked(maps, frames, heads=(), networks=(), box=None):
    box = torch.ones(frames.shape[-2:], dtype=torch.bool) if box is None else box
    return check_maps(maps, frames, box, list(heads), list(networks))


def test_check_maps__mass_in_a_sector():
    frames = torch.zeros(4, 112, 112, dtype=torch.uint8)
    frames[:, 14:98, 14:56] = random_frames(4, size=112)[:, 14:98, 14:56].clamp(min=30)  # a lit, changing left half
    left, right = torch.zeros(4, 1, 8, 8), torch.zeros(4, 1, 8, 8)
    left[:, :, 3:5, 2] = 1
    right[:, :, 3:5, 6] = 1
    inside, outside = checked(torch.cat([left, right], dim=1), frames)
    assert inside.in_sector > 0.95
    assert outside.in_sector < 0.05
    assert inside.sector_area == pytest.approx(84 * 42 / 112**2, rel=0.25)
    assert checked(left, torch.zeros(4, 112, 112, dtype=torch.uint8))[0].in_sector is None  # no sector, no share of it


def test_check_maps__correlations_are_spearmans():
    maps, other = draw(3, 2, 4, 4).round(decimals=1), draw(3, 2, 4, 4, seed=1).round(decimals=1)  # with ties
    checks = checked(maps, random_frames(3), heads=[other, maps], networks=[other])
    for b in range(2):
        expected = np.mean([spearmanr(maps[m, b].flatten(), other[m, b].flatten()).statistic for m in range(3)])
        assert checks[b].random_network == pytest.approx(expected)
        assert checks[b].random_head == pytest.approx((expected + 1) / 2)


def test_check_maps__brightness_and_emptiness_and_cells_within_the_picture():
    frames = random_frames(2)
    bright = torch.nn.functional.avg_pool2d(frames[:, None].float(), 8)  # [2, 1, 4, 4]
    box = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    box[8:24] = True
    spoilt = bright.clone()
    spoilt[:, :, [0, 3]] = bright.max() - bright[:, :, [0, 3]]  # outside of the picture
    same, opposite, empty = checked(torch.cat([spoilt, bright.max() - bright, bright * 0], dim=1), frames, box=box)
    assert same.brightness == pytest.approx(1)
    assert opposite.brightness == pytest.approx(-1)
    assert (empty.empty, empty.brightness, empty.random_head) == (1, None, None)
    assert same.empty == 0


def test_random_controls__differ_are_repeatable_and_leave_the_extractor_and_the_generator(backbone):
    extractor = BiomarkerExtractor(backbone, ("a", "b"), plan=SegmentPlan(1, 1), size=SIZE, embedding=8).eval()
    extractor.head.standardise_on(draw(9, backbone.num_features))
    before = {name: value.clone() for name, value in extractor.state_dict().items()}
    state = torch.random.get_rng_state()
    heads = [random_head(extractor, seed) for seed in (0, 0, 1)]
    other = random_network(extractor, 5)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in extractor.state_dict().items())
    assert torch.equal(heads[0].classify.weight, heads[1].classify.weight)
    for head in (heads[2], extractor.head):
        assert not torch.equal(heads[0].classify.weight, head.classify.weight)
    assert torch.equal(heads[0].centre, extractor.head.centre)
    mine, theirs = (next(e.backbone.model.parameters()) for e in (extractor, other))
    assert not torch.equal(mine, theirs)
