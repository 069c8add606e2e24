from dataclasses import dataclass

import numpy as np
import pytest
import torch
from sonokit.distill.training.views import HeatMapTarget, Views, clip_views, joined_views


def _views(count=4, height=8, width=12, **parts):
    rng = np.random.default_rng(0)
    return Views(rng.integers(0, 256, (count, height, width)).astype(np.uint8), np.arange(count), **parts)


def test_views__parts_of_different_lengths_and_other_frames_are_refused():
    with pytest.raises(ValueError, match="one length"):
        _views(labels=np.zeros(3, dtype=np.int64))
    with pytest.raises(ValueError, match="uint8"):
        Views(np.zeros((2, 8, 8), dtype=np.float32), np.arange(2))
    assert _views().size == (12, 8)


def test_take__moves_every_part_alike_and_leaves_what_is_unknown_unknown():
    views = _views(labels=np.array([0, 1, 2, -1]), points=np.arange(8, dtype=np.float32).reshape(4, 1, 2))
    rows = np.array([3, 0, 3])
    taken = views.take(rows)
    assert taken.items.tolist() == [3, 0, 3]
    assert taken.labels.tolist() == [-1, 0, -1]
    np.testing.assert_array_equal(taken.frames, views.frames[[3, 0, 3]])
    np.testing.assert_array_equal(taken.points[:, 0], [[6, 7], [0, 1], [6, 7]])
    assert taken.gaze is None
    assert views.take(np.array([True, False, False, True])).items.tolist() == [0, 3]


def test_batch__is_what_was_put_in_as_shares_of_white():
    regions = np.zeros((4, 8, 12), dtype=np.uint8)
    regions[:, 2:4] = 255
    gaze = np.full((4, 4, 6), 51, dtype=np.uint8)
    views = _views(labels=np.arange(4), regions=regions, annotated=np.array([True, True, False, True]), gaze=gaze)
    seen = views.batch(np.array([2, 1]))
    np.testing.assert_allclose(seen.frames.numpy()[:, 0], views.frames[[2, 1]] / 255, atol=1e-6)
    np.testing.assert_array_equal(seen.known.regions.numpy()[:, 0], regions[[2, 1]] / 255)
    assert seen.known.labels.tolist() == [2, 1]
    assert seen.known.annotated.tolist() == [False, True]
    assert seen.gaze.shape == (2, 1, 4, 6)
    torch.testing.assert_close(seen.gaze, torch.full((2, 1, 4, 6), 0.2))
    assert seen.known.heat_maps is None
    seen.frames.zero_()
    assert views.frames.any()  # a batch is a copy


def test_batch__heat_maps_are_gaussians_in_cells_and_absent_landmarks_are_told():
    points = np.array([[[5.0, 3.0], [np.nan, np.nan]]], dtype=np.float32)
    views = _views(1, 16, 24, points=points)
    known = views.batch(slice(0, 1), HeatMapTarget(stride=4, sigma=1.5)).known
    assert known.heat_maps.shape == (1, 2, 4, 6)
    assert known.present.tolist() == [[True, False]]
    x, y = (5.0 + 0.5) / 4 - 0.5, (3.0 + 0.5) / 4 - 0.5  # a cell's centre is at a whole number
    rows, columns = np.mgrid[:4, :6]
    expected = np.exp(-((columns - x) ** 2 + (rows - y) ** 2) / (2 * 1.5**2))
    np.testing.assert_allclose(known.heat_maps[0, 0].numpy(), expected, atol=1e-5)


def test_joined_views__puts_them_one_after_the_other():
    first, second = _views(2, labels=np.array([0, 1])), _views(3, labels=np.array([2, 3, -1]))
    joined = joined_views([first, second])
    assert joined.labels.tolist() == [0, 1, 2, 3, -1]
    np.testing.assert_array_equal(joined.frames[2:], second.frames)
    with pytest.raises(ValueError, match="some of the views have labels"):
        joined_views([first, _views(2)])


@dataclass
class _Clip:
    frames: np.ndarray


def _clips(*lengths):
    return [_Clip(np.stack([np.full((16, 16), 10 * k, dtype=np.uint8) for k in range(count)])) for count in lengths]


def test_clip_views__takes_the_middle_frame_of_each_equal_part():
    labels = np.array([7, 8, 9])
    views = clip_views(_clips(6, 5, 1), np.array([2, 0]), labels, size=8, frames_per_clip=3)
    assert views.items.tolist() == [2, 0, 0, 0]  # a clip of one frame gives what it has
    assert views.labels.tolist() == [9, 7, 7, 7]
    assert views.frames.shape == (4, 8, 8)
    assert views.frames[:, 0, 0].tolist() == [0, 10, 30, 50]  # the middles of frames 0-1, 2-3, 4-5


def test_clip_views__all_frames_and_no_labels_and_no_clips():
    views = clip_views(_clips(6, 5), np.array([1]), None, size=16)
    assert views.frames[:, 3, 3].tolist() == [0, 10, 20, 30, 40]
    assert views.labels is None
    assert len(clip_views(_clips(2), np.array([], dtype=np.int64), None, size=8)) == 0
