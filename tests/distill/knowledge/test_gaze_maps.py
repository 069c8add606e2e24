import numpy as np
import pytest
from sonokit.distill.knowledge.gaze import Gaze
from sonokit.distill.knowledge.gaze_maps import frame_maps, heat_map, pixels_per_degree, sigma_pixels, still_map
from sonokit.errors import SonokitError


def test_pixels_per_degree__by_hand() -> None:
    # 2 · 600 mm · tan(0.5°) = 10.4722 mm a degree; 1920 px on 520 mm = 3.692308 px/mm; 1080 px on 300 mm = 3.6 px/mm
    across, down = pixels_per_degree(600, (520, 300), (1920, 1080))
    assert across == pytest.approx(38.6667, abs=1e-3)
    assert down == pytest.approx(37.7000, abs=1e-3)
    assert pixels_per_degree(600, (520, 300), (1920, 1080), magnification=2)[0] == pytest.approx(across / 2)
    assert sigma_pixels(0.5, (across, down)) == pytest.approx((19.3333, 18.85), abs=1e-3)
    assert sigma_pixels(2, 30.0) == (60.0, 60.0)
    with pytest.raises(SonokitError, match="must be positive"):
        pixels_per_degree(0, (520, 300), (1920, 1080))


def test_heat_map__equals_the_sum_written_out() -> None:
    points, weights = np.array([[3.2, 4.7], [9.0, 1.0], [-2.0, 3.0]]), np.array([0.3, 0.1, 0.6])
    found = heat_map(points, weights, (12, 8), (1.5, 2.5))
    expected = np.zeros((8, 12))
    for (x, y), weight in zip(points, weights, strict=True):
        for row in range(8):
            for column in range(12):
                expected[row, column] += weight * np.exp(-((column - x) ** 2) / (2 * 1.5**2) - (row - y) ** 2 / (2 * 2.5**2))
    np.testing.assert_allclose(found, expected / expected.sum(), rtol=1e-12)
    assert found.sum() == pytest.approx(1)


def test_heat_map__centre_of_mass_and_width_are_those_of_the_points() -> None:
    points, weights = np.array([[40.25, 30.5], [60.0, 50.75]]), np.array([3.0, 1.0])
    found = heat_map(points, weights, (100, 90), 4.0)
    rows, columns = np.mgrid[:90, :100]
    centre = np.average(points, axis=0, weights=weights)
    assert (found * columns).sum() == pytest.approx(centre[0], abs=1e-6)
    assert (found * rows).sum() == pytest.approx(centre[1], abs=1e-6)
    one = heat_map(points[:1], np.ones(1), (100, 90), (4.0, 6.0))
    assert (one * (columns - 40.25) ** 2).sum() == pytest.approx(16, rel=1e-4)
    assert (one * (rows - 30.5) ** 2).sum() == pytest.approx(36, rel=1e-3)


def test_still_map__without_gaze_is_zero() -> None:
    nobody = Gaze(np.zeros(2), np.full((2, 2), np.nan), np.ones(2), (12, 8))
    assert still_map(nobody, 2.0).shape == (8, 12)
    assert not still_map(nobody, 2.0).any()
    looked = Gaze(np.zeros(3), np.array([[3.0, 3], [9, 3], [5, 5]]), np.array([0.2, 0.0, np.nan]), (12, 8))
    np.testing.assert_allclose(still_map(looked, 2.0), heat_map(np.array([[3.0, 3]]), np.ones(1), (12, 8), 2.0), rtol=1e-6)


def test_frame_maps__a_fixation_counts_while_the_frame_is_shown() -> None:
    gaze = Gaze(np.array([0.05, 0.30]), np.array([[2.0, 2], [9, 5]]), np.array([0.20, 0.02]), (12, 8))
    found = frame_maps(gaze, np.arange(5) / 10, 0.1, 1.0)
    np.testing.assert_allclose(found.seconds, [0.05, 0.1, 0.05, 0.02, 0], atol=1e-12)
    assert found.faults.counts == {"frame_without_gaze": 1}
    assert found.faults.checked == 5
    np.testing.assert_allclose(found.maps.sum(axis=(1, 2)), [1, 1, 1, 1, 0], rtol=1e-5)
    assert np.unravel_index(found.maps[3].argmax(), (8, 12)) == (5, 9)
    wider = frame_maps(gaze, np.array([0.4]), 0.1, 1.0, window_s=0.1)
    np.testing.assert_allclose(wider.seconds, [0.02], atol=1e-12)  # from 0.3 s on


def test_frame_maps__a_sample_belongs_to_one_frame() -> None:
    times = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
    gaze = Gaze(times, np.array([[1.0, 1], [1, 1], [8, 6], [np.nan, 1], [8, 6]]), None, (12, 8))
    found = frame_maps(gaze, np.array([0.0, 0.5, 1.0]), 0.5, 1.0)
    np.testing.assert_array_equal(found.seconds, [2, 1, 1])  # one of the five is missing
    with pytest.raises(SonokitError, match="a frame must last"):
        frame_maps(gaze, times, 0.0, 1.0)
