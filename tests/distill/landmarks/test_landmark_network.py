import copy

import numpy as np
import pytest
import torch
from sonokit.distill.landmarks.auxiliary import AUXILIARY, Coordinates, teacher_signals
from sonokit.distill.landmarks.heat_maps import target_maps
from sonokit.distill.landmarks.metrics import radial_errors
from sonokit.distill.landmarks.network import LandmarkNetwork
from sonokit.distill.landmarks.predict import landmark_views, never_found, predicted_points
from sonokit.distill.signals.terms import Batch, Outputs
from sonokit.distill.signals.weighted import read_signals
from sonokit.distill.students.build import build_student
from sonokit.distill.training.loop import LoopSettings, train
from sonokit.distill.training.taught import ask
from sonokit.distill.training.views import HeatMapTarget, Views
from sonokit.errors import SonokitError

WIDTHS = {4: 8, 8: 12, 16: 12}


def _network(seed: int = 0, name: str = "micro-10k", **options: object) -> LandmarkNetwork:
    return LandmarkNetwork(build_student(name, seed=seed), ("a", "b"), **{"widths": WIDTHS, "seed": seed, **options})


def _crosses(n: int = 6, size: tuple[int, int] = (48, 40), seed: int = 0) -> tuple[list[np.ndarray], np.ndarray]:
    """Images with a bright disc at the first landmark and a dark one at the second."""
    rng = np.random.default_rng(seed)
    points = np.stack([rng.uniform([8, 8], [20, 30], (n, 2)), rng.uniform([28, 8], [40, 30], (n, 2))], axis=1)
    columns, rows = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    images = []
    for (x0, y0), (x1, y1) in points:
        bright = np.exp(-((columns - x0) ** 2 + (rows - y0) ** 2) / 18)
        dark = np.exp(-((columns - x1) ** 2 + (rows - y1) ** 2) / 18)
        images.append(np.round(120 + 120 * bright - 110 * dark).astype(np.uint8))
    return images, points


@pytest.mark.parametrize(("height", "width"), [(40, 48), (41, 50), (67, 37)])
@pytest.mark.parametrize("stride", [2, 4])
@pytest.mark.parametrize("shared", ["encoder", "decoder"])
def test_network__has_the_cells_that_targets_have_at_any_size(height: int, width: int, stride: int, shared: str) -> None:
    widths = {2: 4, **WIDTHS} if stride == 2 else WIDTHS
    network = _network(stride=stride, widths=widths, shared=shared)
    views = Views(np.zeros((3, height, width), np.uint8), np.arange(3), points=np.full((3, 2, 2), 10, np.float32))
    seen = views.batch(slice(None), HeatMapTarget(stride))
    said = network.see(seen, (8, 16))
    assert said.heat_maps is not None
    assert seen.known.heat_maps is not None
    assert said.heat_maps.shape == seen.known.heat_maps.shape == (3, 2, height // stride, width // stride)
    assert {s: m.shape[1] for s, m in said.maps.items()} == {s: network.map_channels[s] for s in (8, 16)}
    torch.testing.assert_close(network.eval()(seen.frames), network.see(seen).heat_maps)


def test_network__takes_one_width_for_all_levels_and_refuses_gaps() -> None:
    network = _network(widths=6)
    assert network.widths == {4: 6, 8: 6, 16: 6, 32: 6}
    with pytest.raises(SonokitError, match="without a gap"):
        _network(widths={4: 8, 16: 8})
    with pytest.raises(SonokitError, match="at least one landmark"):
        LandmarkNetwork(build_student("micro-10k"), ())


def test_predicted_points__of_a_network_that_says_the_truth_are_the_truth() -> None:
    images, points = _crosses(3, size=(97, 81))
    points = points * 2
    network = _network()
    views, places = landmark_views(images, points, (64, 60))
    batch = views.batch(slice(None), HeatMapTarget(4, 1.5))
    network.forward = lambda frames: batch.known.heat_maps  # type: ignore[method-assign, assignment, return-value]
    found, heights = predicted_points(network, views, places)
    np.testing.assert_allclose(found, points, atol=0.02)
    assert ((heights > 0.8) & (heights <= 1)).all()
    network.forward = lambda frames: target_maps(torch.tensor([[[3.0, 5.0], [0.0, 0.0]]]), (16, 15), 1.5)  # type: ignore[method-assign, assignment]
    one, _ = predicted_points(network, views.take(np.array([0])), places[:1])
    # cell (3, 5) of stride 4 has its middle at input pixel (13.5, 21.5); the image is 64/97 as large and lies 3 pixels down
    scale = np.array([64 / 97, 53 / 81])
    np.testing.assert_allclose(one[0, 0], (np.array([14.0, 22.0 - 3]) / scale) - 0.5, atol=1e-3)


def test_never_found__names_what_is_blank_in_most_images() -> None:
    peaks = np.array([[0.9, 0.01, 0.02], [0.8, 0.03, 0.9], [0.7, 0.9, 0.8]])
    assert never_found(peaks, ("a", "b", "c")) == ["b"]


def test_coordinates__equal_the_formula_and_skip_what_is_absent() -> None:
    term = Coordinates({8: 3}, 2, grid=1)
    points = torch.tensor([[[3.0, 4.0], [6.0, 2.5]], [[5.0, 5.0], [float("nan"), 1.0]]])
    known = Batch(heat_maps=target_maps(points, (12, 10), 1.5), present=points.isfinite().all(-1))
    linear = term.head[-1]
    torch.nn.init.zeros_(linear.weight)
    with torch.no_grad():
        linear.bias.copy_(torch.tensor([0.1, 0.0, -0.2, 0.3]))
    value = term(Outputs(maps={8: torch.rand(2, 3, 5, 6)}), None, known)
    told = np.array([[0.1, 0.0], [-0.2, 0.3]])
    true = points.numpy() / [12, 10] - 0.5
    distance = np.abs(told - true)
    each = np.where(distance < 0.05, distance**2 / 0.1, distance - 0.025).sum(axis=2)
    assert value.item() == pytest.approx(np.nanmean(each), abs=1e-4)


def test_auxiliary__is_trained_and_no_part_of_the_network() -> None:
    images, points = _crosses()
    views, _ = landmark_views(images, points, (48, 40))
    network = _network()
    before = set(network.state_dict())
    signals = teacher_signals(network.map_channels, 2)
    head = copy.deepcopy(signals.terms[AUXILIARY].state_dict())
    train(network, views, signals, settings=LoopSettings(epochs=2, batch=3, heat_map=HeatMapTarget(4, 1.5)))
    assert set(network.state_dict()) == before
    assert all(not torch.equal(head[key], value) for key, value in signals.terms[AUXILIARY].state_dict().items())
    assert list(teacher_signals(network.map_channels, 2, auxiliary=0).terms) == ["heat_map_targets"]


def _taught_student(settings: dict[str, dict[str, object]]) -> tuple[LandmarkNetwork, LandmarkNetwork]:
    images, points = _crosses()
    views, _ = landmark_views(images, points, (48, 40))
    teacher, student = _network(1, "micro-25k"), _network(0)
    teacher.requires_grad_(True)
    signals = read_signals(settings, student.map_channels, teacher.map_channels)
    taught = ask(teacher, views, (8, 16))
    train(student, views, signals, taught, LoopSettings(epochs=2, batch=3, heat_map=HeatMapTarget(4, 1.5)))
    return teacher, student


def test_feature_sharing__of_weight_zero_is_output_only_to_the_bit() -> None:
    both = {"heat_map_targets": {"weight": 0.5}, "heat_map_response": {"weight": 0.5}}
    _, plain = _taught_student(both)
    _, zero = _taught_student({**both, "feature_sharing": {"weight": 0, "strides": [8, 16]}})
    teacher, shared = _taught_student({**both, "feature_sharing": {"weight": 1, "strides": [8, 16]}})
    states = [network.state_dict() for network in (plain, zero, shared)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert any(not torch.equal(states[0][key], states[2][key]) for key in states[0])
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_network__learns_a_few_images_by_heart() -> None:
    images, points = _crosses(4)
    views, places = landmark_views(images, points, (48, 40))
    network = _network(stride=2, widths={2: 8, 4: 12, 8: 12, 16: 16})
    many = views.take(np.tile(np.arange(4), 10))
    settings = LoopSettings(epochs=12, batch=8, learning_rate=1e-2, weight_decay=0, heat_map=HeatMapTarget(2, 1.5))
    history = train(network, many, read_signals({"heat_map_targets": {}}), settings=settings)
    assert history[-1]["loss"] < history[0]["loss"] / 3
    found, _ = predicted_points(network, views, places)
    assert radial_errors(found, points, None).mean() < 1
