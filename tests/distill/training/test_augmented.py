from dataclasses import replace

import numpy as np
import pytest
from sonokit.distill.training.augmented import AugmentSettings, augmented
from sonokit.distill.training.views import Views
from sonokit.errors import SonokitError

MOVES = AugmentSettings(degrees=30, scale=0.3, shift=0.1, flip=0.5, brightness=0, contrast=0, gamma=0, noise=0)
STILL = AugmentSettings(degrees=0, scale=0, shift=0, brightness=0, contrast=0, gamma=0, noise=0)


def _blobs(points, size=(80, 60), sigma=3.0):
    columns, rows = np.meshgrid(np.arange(size[0]), np.arange(size[1]))
    squares = [(columns - x) ** 2 + (rows - y) ** 2 for x, y in points]
    return np.stack([np.round(255 * np.exp(-square / (2 * sigma**2))) for square in squares]).astype(np.uint8)


def _centres(maps):
    """Of the brightness of each map, [N, 2]."""
    maps = maps.astype(np.float64)
    rows, columns = np.mgrid[: maps.shape[1], : maps.shape[2]]
    total = maps.sum(axis=(1, 2))
    return np.stack([(maps * columns).sum(axis=(1, 2)), (maps * rows).sum(axis=(1, 2))], axis=1) / total[:, None]


@pytest.mark.parametrize("size", [(80, 60), (64, 64), (50, 72)])
def test_augmented__a_bright_spot_its_point_its_region_and_its_gaze_move_together(size):
    rng = np.random.default_rng(0)
    points = np.array(size) / 2 + rng.uniform(-10, 10, (12, 2))
    frames = _blobs(points, size)
    # at another resolution: the map's cell (i, j) covers pixels 2i and 2i + 1
    gaze = frames.reshape(12, size[1] // 2, 2, size[0] // 2, 2).mean(axis=(2, 4)).round().astype(np.uint8)
    views = Views(frames, np.arange(12), regions=frames, gaze=gaze, points=points[:, None].astype(np.float32))
    found = augmented(views, 40, MOVES, seed=1)
    moved = found.points[:, 0]
    inside = (np.abs(moved - np.array(size) / 2) < np.array(size) / 2 - 13).all(axis=1)
    assert inside.sum() > 100
    assert np.abs(moved - np.tile(points, (40, 1))).max() > 5
    assert np.abs(_centres(found.frames[inside]) - moved[inside]).max() < 0.1
    assert np.abs(_centres(found.regions[inside]) - moved[inside]).max() < 0.1
    assert np.abs(2 * _centres(found.gaze[inside]) + 0.5 - moved[inside]).max() < 0.2


def test_augmented__distances_are_scaled_and_flips_turn_left_into_right():
    points = np.array([[[40, 30], [50, 30], [40, 40]]], dtype=np.float32)
    views = Views(_blobs([(40, 30)]), np.array([0]), points=points)
    found = augmented(views, 500, MOVES, seed=3).points.astype(np.float64)
    along, across = found[:, 1] - found[:, 0], found[:, 2] - found[:, 0]
    scale = np.linalg.norm(along, axis=1) / 10
    np.testing.assert_allclose(np.linalg.norm(across, axis=1) / 10, scale, atol=1e-5)
    assert 0.7 <= scale.min() < 0.75
    assert 1.25 < scale.max() <= 1.3
    np.testing.assert_allclose((along * across).sum(axis=1), 0, atol=1e-3)
    flipped = along[:, 0] * across[:, 1] - along[:, 1] * across[:, 0] < 0
    assert 0.4 < flipped.mean() < 0.6
    angle = np.rad2deg(np.arctan2(along[~flipped, 1], along[~flipped, 0]))
    assert 27 < np.abs(angle).max() <= 30
    upright = augmented(views, 200, replace(MOVES, flip=0.0), seed=3).points
    along, across = upright[:, 1] - upright[:, 0], upright[:, 2] - upright[:, 0]
    assert (along[:, 0] * across[:, 1] - along[:, 1] * across[:, 0] > 0).all()


def test_augmented__nothing_drawn_leaves_everything_as_it_was_one_look_after_the_other():
    views = Views(_blobs([(20, 20), (50, 30)]), np.array([4, 9]), labels=np.array([1, 0]), regions=_blobs([(30, 30)] * 2))
    found = augmented(views, 2, STILL)
    assert found.items.tolist() == [4, 9, 4, 9]
    assert found.labels.tolist() == [1, 0, 1, 0]
    np.testing.assert_array_equal(found.frames, np.concatenate([views.frames] * 2))
    np.testing.assert_array_equal(found.regions, np.concatenate([views.regions] * 2))
    assert found.gaze is None


def test_augmented__points_that_leave_the_frame_are_still_where_they_are_and_absent_ones_absent():
    points = np.array([[[0, 0], [np.nan, np.nan]]], dtype=np.float32)
    views = Views(_blobs([(1, 1)]), np.array([0]), points=points)
    found = augmented(views, 100, MOVES, seed=0).points
    assert np.isfinite(found[:, 0]).all()
    assert (found[:, 0] < 0).any()  # not pulled back to the edge
    assert np.isnan(found[:, 1]).all()


def test_augmented__the_same_seed_draws_the_same():
    views = Views(_blobs([(20, 20), (50, 30)]), np.arange(2), points=np.ones((2, 1, 2), dtype=np.float32))
    first, again, other = (augmented(views, 3, seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.frames, again.frames)
    np.testing.assert_array_equal(first.points, again.points)
    assert not np.array_equal(first.frames, other.frames)
    assert not np.array_equal(first.frames[:2], first.frames[2:4])  # each look has a draw of its own


def test_augmented__tones_change_the_frame_and_nothing_else():
    points = np.array([[[40, 30]]], dtype=np.float32)
    regions = _blobs([(40, 30)])
    views = Views(np.full((1, 60, 80), 128, dtype=np.uint8), np.array([0]), regions=regions, points=points)
    found = augmented(views, 50, replace(STILL, brightness=0.1), seed=0)
    np.testing.assert_array_equal(found.regions, np.repeat(regions, 50, axis=0))
    np.testing.assert_allclose(found.points, np.repeat(points, 50, axis=0), atol=1e-5)
    levels = found.frames[:, 0, 0].astype(int)
    assert (found.frames == levels[:, None, None].astype(np.uint8)).all()
    assert 128 - 26 <= levels.min() < 128 - 18
    assert 128 + 18 < levels.max() <= 128 + 26


@pytest.mark.parametrize("recipe", ["ultrasound", "reference"])
def test_augmented__recipes_of_frames_alone_refuse_what_they_cannot_move(recipe):
    frames = _blobs([(20, 20), (40, 30)], size=(48, 48))
    settings = AugmentSettings(recipe)
    found = augmented(Views(frames, np.arange(2), labels=np.array([1, 0])), 2, settings, seed=0)
    assert found.frames.shape == (4, 48, 48)
    assert found.labels.tolist() == [1, 0, 1, 0]
    with pytest.raises(SonokitError, match="take affine"):
        augmented(Views(frames, np.arange(2), regions=frames), 2, settings)
    with pytest.raises(SonokitError, match="square"):
        augmented(Views(_blobs([(20, 20)]), np.arange(1)), 2, settings)


def test_augmented__none_repeats_the_frames():
    frames = _blobs([(20, 20), (40, 30)], size=(48, 48))
    found = augmented(Views(frames, np.arange(2)), 2, AugmentSettings("none"))
    np.testing.assert_array_equal(found.frames, np.concatenate([frames, frames]))


def test_augment_settings__faults_are_named():
    views = Views(_blobs([(20, 20)]), np.arange(1))
    with pytest.raises(SonokitError, match="one of affine"):
        AugmentSettings("warp")  # type: ignore[arg-type]
    with pytest.raises(SonokitError, match="scale must lie"):
        AugmentSettings(scale=1.0)
    with pytest.raises(SonokitError, match="once or more"):
        augmented(views, 0)
