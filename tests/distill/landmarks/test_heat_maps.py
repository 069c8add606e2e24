import numpy as np
import pytest
import torch
from sonokit.distill.landmarks.heat_maps import decode, target_maps
from sonokit.distill.placement import fitted
from sonokit.errors import SonokitError


def test_target_maps__equal_the_formula_and_are_zero_where_absent() -> None:
    points = torch.tensor([[[3.25, 4.5], [float("nan"), 2.0]]])
    maps = target_maps(points, (9, 7), 1.5)
    assert (maps.shape, maps.dtype) == ((1, 2, 7, 9), torch.float32)
    rows, columns = np.mgrid[:7, :9]
    expected = np.exp(-((columns - 3.25) ** 2 + (rows - 4.5) ** 2) / (2 * 1.5**2))
    np.testing.assert_allclose(maps[0, 0].numpy(), expected, rtol=1e-5)
    assert not maps[0, 1].any()
    on_a_cell = target_maps(torch.tensor([[[4.0, 3.0]]]), (9, 7), 1.5)
    assert on_a_cell.max() == on_a_cell[0, 0, 3, 4] == 1


def test_target_maps__centre_of_mass_is_the_point() -> None:
    points = torch.tensor([[[20.3, 15.8]]])
    one = target_maps(points, (41, 33), 2.0)[0, 0].double().numpy()
    rows, columns = np.mgrid[:33, :41]
    np.testing.assert_allclose([(one * columns).sum() / one.sum(), (one * rows).sum() / one.sum()], [20.3, 15.8], atol=1e-4)


@pytest.mark.parametrize(("method", "within"), [("taylor", 1e-3), ("soft_argmax", 0.02), ("argmax", 0.5)])
def test_decode__finds_points_between_the_cells(method: str, within: float) -> None:
    points = torch.rand(4, 30, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([40.0, 28.0]) + 8
    found, confidence = decode(target_maps(points, (56, 44), 2.0), method, radius=6)  # type: ignore[arg-type]
    assert (found - points).abs().max() <= within
    assert ((confidence > 0.9) & (confidence <= 1)).all()


@pytest.mark.parametrize("smooth", [0.0, 1.5])
def test_decode__taylor_reaches_the_edge(smooth: float) -> None:
    points = torch.tensor([[[-0.4, 0.3], [19.3, 14.4], [0.0, 7.2], [10.0, -0.2]]])
    found, _ = decode(target_maps(points, (20, 15), 1.5), "taylor", smooth=smooth)
    assert (found - points).abs().max() < (1e-3 if smooth == 0 else 1)
    far = torch.tensor([[[9.3, 7.6]]])
    assert (decode(target_maps(far, (20, 15), 1.5), "taylor", smooth=smooth)[0] - far).abs().max() < 1e-2


def test_decode__taylor_of_a_slanted_gaussian() -> None:
    rows, columns = torch.meshgrid(torch.arange(24.0), torch.arange(30.0), indexing="ij")
    dx, dy = columns - 14.37, rows - 11.81
    slanted = torch.exp(-(0.11 * dx**2 + 0.16 * dx * dy + 0.1 * dy**2))[None, None] * 0.3
    found, confidence = decode(slanted, "taylor")
    np.testing.assert_allclose(found[0, 0].numpy(), [14.37, 11.81], atol=1e-3)
    assert confidence.item() == pytest.approx(slanted.max().item())


@pytest.mark.parametrize("method", ["taylor", "soft_argmax", "argmax"])
def test_decode__a_map_without_a_hill_gives_its_highest_cell(method: str) -> None:
    empty = torch.full((1, 2, 6, 8), -1.0)
    empty[0, 1, 4, 5] = -0.5
    found, confidence = decode(empty, method)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found[0].numpy(), [[0, 0], [5, 4]])
    np.testing.assert_array_equal(confidence[0].numpy(), [-1.0, -0.5])


def test_decode__smoothing_prefers_a_hill_to_a_spike() -> None:
    maps = target_maps(torch.tensor([[[10.2, 9.7]]]), (40, 30), 2.0) * 0.8
    maps[0, 0, 20, 30] = 1.0
    np.testing.assert_array_equal(decode(maps, "argmax")[0][0, 0].numpy(), [30, 20])
    np.testing.assert_allclose(decode(maps, "taylor", smooth=2.0)[0][0, 0].numpy(), [10.2, 9.7], atol=1e-2)


@pytest.mark.parametrize("method", ["taylor", "soft_argmax"])
@pytest.mark.parametrize("keep_shape", [True, False])
def test_points__come_back_through_input_and_map(method: str, keep_shape: bool) -> None:
    placement = fitted((387, 480), (224, 256), keep_shape=keep_shape).at_stride(4)
    points = np.random.default_rng(0).uniform((60, 60), (320, 420), (5, 19, 2))
    cells = torch.from_numpy(placement.to_input(points))
    maps = target_maps(cells, (56, 64), 2.0)
    found = placement.to_original(decode(maps, method, radius=8)[0].double().numpy())  # type: ignore[arg-type]
    assert np.abs(found - points).max() < 0.05


def test_heat_maps__refusals() -> None:
    with pytest.raises(SonokitError, match="sigma must be"):
        target_maps(torch.zeros(1, 1, 2), (8, 8), 0)
    with pytest.raises(SonokitError, match="at least 3"):
        decode(torch.zeros(1, 1, 2, 8))
    with pytest.raises(SonokitError, match="decoding must be one of"):
        decode(torch.zeros(1, 1, 8, 8), "mean")  # type: ignore[arg-type]
