import numpy as np
import pytest
from matplotlib.path import Path as Outline
from sonokit.distill.knowledge.drawing import beyond, box_corners, polygon_mask


def test_polygon_mask__equals_asking_for_every_centre() -> None:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:30, :40]
    centres = np.column_stack([columns.ravel(), rows.ravel()]) + 0.5
    for _ in range(30):
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 9)))  # star-shaped: every rule of filling agrees
        corners = rng.uniform(3, 25, len(angles))[:, None] * np.column_stack([np.cos(angles), np.sin(angles)]) + (20, 15)
        found = polygon_mask(corners, (40, 30))
        expected = Outline(np.vstack([corners, corners[:1]]), closed=True).contains_points(centres).reshape(30, 40)
        np.testing.assert_array_equal(found, expected)


def test_polygon_mask__a_whole_box_and_two_that_touch() -> None:
    left, right = polygon_mask(box_corners(1, 1, 4.5, 3), (8, 4)), polygon_mask(box_corners(4.5, 1, 7, 3), (8, 4))
    assert left.sum() + right.sum() == 6 * 2
    assert not (left & right).any()
    expected = np.zeros((4, 8), dtype=bool)
    expected[1:3, 1:7] = True
    np.testing.assert_array_equal(left | right, expected)


def test_polygon_mask__a_hole_is_left_by_the_even_odd_rule_and_what_is_beyond_is_cut() -> None:
    star = np.array([[5, 0], [8, 9], [0, 3], [10, 3], [2, 9]], dtype=float)
    assert not polygon_mask(star, (10, 10))[5, 5]
    wide = polygon_mask(box_corners(-5, -5, 50, 2), (8, 4))
    np.testing.assert_array_equal(wide, np.array([[True] * 8] * 2 + [[False] * 8] * 2))
    assert not polygon_mask(box_corners(20, 0, 30, 4), (8, 4)).any()


def test_box_corners__turn_clockwise() -> None:
    # 4 wide and 2 high about (3, 4); a quarter turn clockwise brings the upper left corner to the upper right
    turned = box_corners(1, 3, 5, 5, degrees=90)
    np.testing.assert_allclose(turned, [[4, 2], [4, 6], [2, 6], [2, 2]], atol=1e-12)
    slight = box_corners(1, 3, 5, 5, degrees=10)
    assert slight[1, 1] > 3  # the right end goes down, which is where y grows


@pytest.mark.parametrize(("corner", "out"), [((8.4, 4), False), ((8.6, 4), True), ((-0.4, 0), False), ((0, -0.6), True)])
def test_beyond(corner: tuple[float, float], out: bool) -> None:
    assert beyond(np.array([corner, (1, 1)]), (8, 4)) == out
