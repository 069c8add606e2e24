import pytest
import torch
from sonokit.backbones.folder import load_backbone, save_backbone
from sonokit.distill.students.build import build_student
from sonokit.distill.students.measure import measure_student, peak_bytes
from sonokit.distill.students.profile import profile_student
from sonokit.errors import SonokitError
from torch import nn


def _by_hand(stem: int, widths: tuple[int, ...], depths: tuple[int, ...], in_chans: int) -> int:
    """Stem and blocks, each convolution without bias and each normalisation with two numbers a channel."""
    total, inputs = 9 * in_chans * stem + 2 * stem, stem
    for width, depth in zip(widths, depths, strict=True):
        for _ in range(depth):
            total += 9 * inputs + 2 * inputs + inputs * width + 2 * width
            inputs = width
    return total


@pytest.mark.parametrize(
    ("name", "parameters", "stem", "widths", "depths"),
    [
        ("micro-10k", 10_000, 8, (16, 24, 48, 64), (1, 2, 2, 1)),
        ("micro-25k", 24_760, 12, (24, 40, 72, 128), (2, 2, 2, 1)),
        ("micro-50k", 49_104, 16, (24, 48, 96, 160), (2, 2, 3, 1)),
        ("micro_100k", 94_688, 16, (32, 64, 128, 256), (2, 3, 3, 1)),
    ],
)
def test_build_student__micro_networks_have_the_parameters_worked_by_hand(name, parameters, stem, widths, depths):
    student = build_student(name)
    assert sum(p.numel() for p in student.parameters()) == parameters == _by_hand(stem, widths, depths, 1)
    rgb = build_student(name, in_chans=3)
    assert sum(p.numel() for p in rgb.parameters()) == _by_hand(stem, widths, depths, 3)
    assert student.num_features == widths[-1]
    assert student.map_channels == dict(zip((2, 4, 8, 16, 32), (stem, *widths), strict=True))


@pytest.mark.parametrize("name", ["micro-10k", "test_resnet"])
def test_build_student__has_the_interface_of_a_backbone(name):
    student = build_student(name).eval()
    frames = torch.rand(2, 1, 64, 96)
    with torch.inference_mode():
        features, maps = student.forward_maps(frames, (4, 8, 32))
        assert torch.equal(features, student(frames))
        torch.testing.assert_close(student(frames.unsqueeze(0)), features.unsqueeze(0))
    channels = student.map_channels
    assert features.shape == (2, student.num_features)
    assert [tuple(m.shape) for m in maps] == [(2, channels[s], 64 // s, 96 // s) for s in (4, 8, 32)]


def test_build_student__seed_decides_and_the_global_generator_stays():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, again, other = (build_student("micro-10k", seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["model.stem.0.weight"], other["model.stem.0.weight"])


def test_build_student__a_micro_network_is_saved_and_opened_like_any_backbone(tmp_path):
    student = build_student("micro-10k", seed=5).eval()
    save_backbone(student, tmp_path, provenance={})
    opened = load_backbone(tmp_path)
    frames = torch.rand(2, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(opened(frames), student(frames))


def test_build_student__names_and_weights_that_are_not_there():
    with pytest.raises(SonokitError, match="micro_10k"):
        build_student("micro-11k")
    with pytest.raises(SonokitError, match="no pretrained weights"):
        build_student("micro-10k", weights="timm")
    with pytest.raises(SonokitError, match="timm has no model"):
        build_student("no_such_model")


def test_profile_student__plain_layers_by_hand():
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 30, 5)
    )
    profile = profile_student(module, (3, 10, 12))
    convolution, linear = 8 * 3 * 9, 5 * 240
    assert profile.parameters == convolution + 8 + 16 + linear + 5
    assert profile.multiply_adds == convolution * 5 * 6 + linear
    assert profile.bytes_fp32 == 4 * (profile.parameters + 16)  # and the running mean and variance
    assert profile.bytes_int8 == (convolution + 4 * 8) + (linear + 4 * 5) + 4 * (8 + 5 + 4 * 8)


def test_profile_student__depthwise_and_grouped_convolutions_by_hand():
    depthwise = nn.Conv2d(6, 6, 3, padding=1, groups=6, bias=False)
    assert profile_student(depthwise, (6, 7, 9)).multiply_adds == 6 * 9 * 7 * 9
    grouped = nn.Conv2d(8, 4, 1, groups=2, bias=False)
    assert profile_student(grouped, (8, 5, 5)).multiply_adds == 4 * 4 * 25


def test_profile_student__micro_10k_by_hand_and_left_as_it_was():
    student = build_student("micro-10k")
    student.model.stages[0].eval()
    before = {key: value.clone() for key, value in student.state_dict().items()}
    work, inputs, side = 9 * 8 * 16 * 16, 8, 16
    for width, depth in zip((16, 24, 48, 64), (1, 2, 2, 1), strict=True):
        side //= 2
        for _ in range(depth):
            work += (9 * inputs + inputs * width) * side**2
            inputs = width
    assert profile_student(student, (1, 32, 32)).multiply_adds == work
    assert student.training
    assert not student.model.stages[0].training
    assert all(torch.equal(before[key], value) for key, value in student.state_dict().items())


def test_profile_student__attention_is_counted():
    """One head of width 4 over 5 tokens: four projections of 4 × 4 and two products of 5 × 5 × 4."""

    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.project = nn.Linear(4, 12, bias=False)
            self.out = nn.Linear(4, 4, bias=False)

        def forward(self, x):
            query, key, value = self.project(x).unsqueeze(1).chunk(3, dim=-1)
            return self.out(nn.functional.scaled_dot_product_attention(query, key, value).squeeze(1))

    assert profile_student(Attention(), (5, 4)).multiply_adds == 5 * 4 * 16 + 2 * 5 * 5 * 4


def test_profile_student__a_shared_layer_is_stored_once_and_works_twice():
    layer = nn.Linear(4, 4, bias=False)
    profile = profile_student(nn.Sequential(layer, nn.ReLU(), layer), (4,))
    assert (profile.parameters, profile.bytes_fp32, profile.bytes_int8, profile.multiply_adds) == (16, 64, 32, 32)


def test_peak_bytes__of_a_chain_is_parameters_input_and_the_two_largest_neighbours():
    chain = nn.Sequential(nn.Linear(4, 100, bias=False), nn.Linear(100, 50, bias=False), nn.Linear(50, 2, bias=False))
    weights = 4 * (400 + 5000 + 100)
    # the input is held by the caller; the 100 must live until the 50 is there
    assert peak_bytes(chain, (4,)) == weights + 4 * (4 + 100 + 50)
    assert peak_bytes(chain, (4,), batch=3) == weights + 3 * 4 * (4 + 100 + 50)
    in_place = nn.Sequential(nn.Linear(4, 100, bias=False), nn.ReLU(inplace=True))
    assert peak_bytes(in_place, (4,)) == 4 * (400 + 4 + 100)


def test_measure_student__gives_times_and_puts_everything_back():
    student, threads = build_student("micro-10k"), torch.get_num_threads()
    speed = measure_student(student, (1, 32, 32), batch=2, repeats=3, warm_up=1)
    low, high = speed.latency_quartiles_ms
    assert 0 < low <= speed.latency_ms <= high
    assert (speed.batch, speed.threads) == (2, 1)
    assert student.training
    assert torch.get_num_threads() == threads
    with pytest.raises(SonokitError, match="repeats"):
        measure_student(student, (1, 32, 32), repeats=0)
