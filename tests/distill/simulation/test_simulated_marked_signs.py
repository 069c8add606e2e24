import numpy as np
import pytest
from scipy import ndimage
from sonokit.distill.simulation.marked_signs import simulate_marked_signs
from sonokit.errors import SonokitError


@pytest.fixture(scope="module")
def marked():
    return simulate_marked_signs(40, shortcut=0.8, seed=1)


@pytest.mark.parametrize("shortcut", [0.0, 0.5, 0.8, 1.0])
def test_simulate_marked_signs__correlation_of_cross_and_class(shortcut):
    images = simulate_marked_signs(40, shortcut=shortcut, size=(32, 32), seed=4)
    if shortcut in (0.0, 1.0):
        assert np.mean(images.marked == images.classes) == (1 + shortcut) / 2
    assert np.corrcoef(images.marked, images.classes)[0, 1] == pytest.approx(shortcut, abs=1e-9)


def test_simulate_marked_signs__the_cross_is_there_where_it_is_said_and_never_in_a_region(marked):
    plain = simulate_marked_signs(40, shortcut=0.8, cross=0, seed=1)  # the same with a black cross
    changed = marked.frames != plain.frames
    np.testing.assert_array_equal(changed.any(axis=(1, 2)), marked.marked)
    assert (marked.frames[changed] == 200).all()
    assert not (changed & (marked.regions > 0)).any()


def test_simulate_marked_signs__the_sign_is_in_the_lesion(marked):
    brightest = np.array([np.percentile(frame[sign > 0], 95) for frame, sign in zip(marked.frames, marked.signs, strict=True)])
    assert brightest[marked.classes == 1].min() > np.percentile(brightest[marked.classes == 0], 90)
    assert brightest[marked.classes == 1].mean() > brightest[marked.classes == 0].mean() + 50


def test_simulate_marked_signs__outside_the_region_and_without_the_cross_nothing_tells_the_class(marked):
    many = simulate_marked_signs(100, shortcut=0.0, size=(48, 48), seed=6)
    outside = np.array([frame[region == 0].mean() for frame, region in zip(many.frames, many.regions, strict=True)])
    spread = outside.std() * np.sqrt(4 / len(many))  # standard error of the difference of two means
    assert abs(outside[many.classes == 1].mean() - outside[many.classes == 0].mean()) < 4 * spread


def test_regions__hold_the_lesion_loosely(marked):
    region, sign = marked.regions > 0, marked.signs > 0
    assert (region | ~sign).all()
    ratio = region.sum(axis=(1, 2)) / sign.sum(axis=(1, 2))
    assert ratio.min() > 1.2
    assert ratio.max() < 4
    assert ratio.std() > 0.05  # not the same outline every time
    assert all(ndimage.label(one)[1] == 1 for one in region)


def test_annotated__only_the_told_share_has_regions():
    images = simulate_marked_signs(20, shortcut=0.0, annotated=0.25, seed=0)
    assert images.annotated.sum() == 5
    np.testing.assert_array_equal(images.regions.any(axis=(1, 2)), images.annotated)
    views = images.views(images.annotated)
    assert len(views) == 5
    assert views.annotated.all()
    assert (views.labels == images.classes[views.items]).all()


def test_simulate_marked_signs__same_seed_same_images(marked):
    again = simulate_marked_signs(40, shortcut=0.8, seed=1)
    for name in ("frames", "classes", "marked", "regions", "signs"):
        np.testing.assert_array_equal(getattr(marked, name), getattr(again, name))


def test_simulate_marked_signs__refuses_what_cannot_be():
    with pytest.raises(SonokitError, match=r"shortcut 1\.2"):
        simulate_marked_signs(10, shortcut=1.2, seed=0)
