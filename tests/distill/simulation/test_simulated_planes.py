import numpy as np
import pytest
from scipy import ndimage
from sonokit.distill.simulation.anatomy import Bar, Fetus
from sonokit.distill.simulation.canvas import Ellipse
from sonokit.distill.simulation.planes import Pose, simulate_planes
from sonokit.errors import SonokitError

SIZE = (150, 110)


@pytest.fixture(scope="module")
def planes():
    return {plane: simulate_planes(8, plane=plane, size=SIZE, seed=3) for plane in ("head", "abdomen", "femur")}


def _outline_mm(images, n):
    """Middles of the pixels of what was drawn, in mm, and one pixel's diagonal."""
    rows, columns = np.nonzero(images.structures[n])
    return np.stack([columns, rows], axis=1) * images.spacing[n], float(np.linalg.norm(images.spacing[n]))


def _widest(mask, spacing):
    """Brute force: the greatest distance between any two pixels on the edge of a mask, mm."""
    edge = mask & ~ndimage.binary_erosion(mask)
    points = np.argwhere(edge)[:, ::-1] * spacing
    return np.linalg.norm(points[:, None] - points[None], axis=2).max()


@pytest.mark.parametrize(("plane", "pair"), [("head", ("ofd_left", "ofd_right")), ("femur", ("femur_left", "femur_right"))])
def test_landmarks__are_the_farthest_points_of_the_drawn_mask(planes, plane, pair):
    images = planes[plane]
    ends = [images.names.index(name) for name in pair]
    for n in range(len(images)):
        points, pixel = _outline_mm(images, n)
        first, second = (images.points[n, k] * images.spacing[n] for k in ends)
        assert np.linalg.norm(first - second) == pytest.approx(
            _widest(images.structures[n] > 0, images.spacing[n]), abs=1.5 * pixel
        )
        for end in (first, second):
            assert np.linalg.norm(points - end, axis=1).min() < pixel


@pytest.mark.parametrize(("plane", "pair"), [("head", ("bpd_near", "bpd_far")), ("abdomen", ("tad_stomach", "tad_other"))])
def test_landmarks__of_the_other_axis_halve_the_mask(planes, plane, pair):
    images = planes[plane]
    ends = [images.names.index(name) for name in pair]
    for n in range(len(images)):
        points, pixel = _outline_mm(images, n)
        first, second = (images.points[n, k] * images.spacing[n] for k in ends)
        np.testing.assert_allclose((first + second) / 2, points.mean(axis=0), atol=0.7 * pixel)
        along = (second - first) / np.linalg.norm(second - first)
        assert np.ptp(points @ along) == pytest.approx(np.linalg.norm(second - first), abs=1.5 * pixel)


def test_spacing__gives_back_the_lengths_in_mm(planes):
    for plane, pair, wanted in (
        ("head", ("bpd_near", "bpd_far"), lambda fetus: fetus.head[0]),
        ("head", ("ofd_left", "ofd_right"), lambda fetus: fetus.head[1]),
        ("abdomen", ("apad_spine", "apad_front"), lambda fetus: fetus.abdomen[0]),
        ("abdomen", ("tad_stomach", "tad_other"), lambda fetus: fetus.abdomen[1]),
        ("femur", ("femur_left", "femur_right"), lambda fetus: fetus.femur),
    ):
        images = planes[plane]
        ends = images.points[:, [images.names.index(name) for name in pair]]
        lengths = np.linalg.norm((ends[:, 1] - ends[:, 0]) * images.spacing, axis=1)
        fetuses = [Fetus.drawn(np.random.default_rng([3, n // 3, 0])) for n in range(8)]
        np.testing.assert_allclose(lengths, [wanted(fetus) for fetus in fetuses], rtol=1e-9)


def test_spacing__is_anisotropic_where_pixels_are_stretched():
    images = simulate_planes(6, plane="head", size=(96, 96), seed=1, pose=Pose(stretch=(1.5, 1.5)))
    np.testing.assert_allclose(images.spacing[:, 0] / images.spacing[:, 1], 1.5, rtol=0.01)


def test_pictures__show_what_is_said(planes):
    head, femur, abdomen = (planes[plane] for plane in ("head", "femur", "abdomen"))
    for images, brighter in ((femur, True), (abdomen, False)):  # a shaft is bright, the first target of an abdomen a bubble
        for n in range(len(images)):
            column, row = np.rint(images.targets[n, 0]).astype(int)
            inside = images.frames[n][images.structures[n] > 0].mean() if not brighter else images.frames[n].mean()
            seen = images.frames[n, row - 1 : row + 2, column - 1 : column + 2].mean()
            assert (seen > inside + 40) if brighter else (seen < inside)
    for n in range(len(head)):  # the skull near the probe shines
        column, row = np.rint(head.points[n, head.names.index("bpd_near")]).astype(int)
        ring = head.frames[n, max(row - 2, 0) : row + 3, column - 2 : column + 3].max()
        assert ring > np.percentile(head.frames[n], 75)


def test_simulate_planes__all_landmarks_in_the_frame_and_absent_ones_nan():
    images = simulate_planes(6, size=(96, 128), seed=0)
    present = np.isfinite(images.points).all(axis=2)
    assert images.frames.shape == (6, 128, 96)
    assert images.frames.dtype == np.uint8
    assert images.classes.tolist() == [0, 1, 2, 0, 1, 2]
    assert present.sum(axis=1).tolist() == [5, 4, 2, 5, 4, 2]
    inside = (images.points >= -0.5) & (images.points <= np.array([95.5, 127.5]))
    assert inside[present].all()
    faults = images.landmarks().faults()
    assert faults["outside_frame"] == 0
    assert faults["absent_landmark"] == 6 * 11 - 22
    assert images.subjects.tolist() == ["fetus-0-0000"] * 3 + ["fetus-0-0001"] * 3


def test_simulate_planes__same_seed_same_images_and_other_seed_others():
    first, again, other = (simulate_planes(3, plane="head", size=(64, 64), seed=seed) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.frames, again.frames)
    np.testing.assert_array_equal(first.points, again.points)
    assert (first.frames != other.frames).any()
    assert not np.allclose(first.points, other.points)
    more = simulate_planes(6, plane="head", size=(64, 64), seed=5)  # more of them: the first ones stay
    np.testing.assert_array_equal(more.frames[:3], first.frames)


def test_views__carry_landmarks_regions_and_gaze(planes):
    images = planes["femur"]
    views = images.views(np.array([1, 4]), gaze=True)
    assert views.items.tolist() == [1, 4]
    assert views.size == SIZE
    assert views.gaze.shape == (2, SIZE[1], SIZE[0])
    assert (views.gaze.max(axis=(1, 2)) == 255).all()
    np.testing.assert_allclose(views.points, images.points[[1, 4]], atol=1e-4)
    assert images.views().gaze is None


def test_simulate_planes__refuses_what_cannot_be():
    with pytest.raises(SonokitError, match="head, abdomen, femur or all, not 'heart'"):
        simulate_planes(2, plane="heart", seed=0)
    with pytest.raises(SonokitError, match="at least 1 image"):
        simulate_planes(0, seed=0)


def test_ellipse__ends_lie_on_the_outline_and_distance_is_right_on_the_axes():
    ellipse = Ellipse((4.0, -2.0), (10.0, 6.0), 0.7)
    for u, v in ((1, 0), (-1, 0), (0, 1), (0, -1), (0.6, 0.8)):
        assert ellipse.distance(*ellipse.at(u, v)) == pytest.approx(0, abs=1e-9)
    assert ellipse.distance(*ellipse.at(1.2, 0)) == pytest.approx(2.0)  # 0.2 of a radius of 10
    assert ellipse.distance(*ellipse.at(0, 0.5)) == pytest.approx(-3.0)


def test_bar__distance_against_sampled_outline():
    bar = Bar((0.0, 0.0), (12.0, 5.0), 2.0)
    axis = np.linspace(2 / 13, 11 / 13, 4001)[:, None] * np.array([12.0, 5.0])  # where the round ends have their middles
    rng = np.random.default_rng(0)
    for x, y in rng.uniform(-6, 18, (40, 2)):
        assert bar.distance(x, y) == pytest.approx(np.hypot(*(axis - [x, y]).T).min() - 2.0, abs=1e-4)
