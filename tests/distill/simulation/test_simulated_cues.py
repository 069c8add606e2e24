import numpy as np
import pytest
from sonokit.distill.simulation.cues import simulate_cues
from sonokit.errors import SonokitError


@pytest.fixture(scope="module")
def cues():
    return simulate_cues(40, label_noise=0.25, seed=2)


def _grey(images, places, radius):
    """Mean grey around a place of each image, float [N]."""
    y, x = np.mgrid[: images.frames.shape[1], : images.frames.shape[2]]
    near = np.hypot(x - places[:, 0, None, None], y - places[:, 1, None, None]) <= radius
    return (images.frames * near).sum(axis=(1, 2)) / near.sum(axis=(1, 2))


def test_simulate_cues__classes_are_balanced_and_the_told_share_of_labels_is_wrong(cues):
    assert np.bincount(cues.classes).tolist() == [20, 20]
    assert (cues.given != cues.classes).sum() == 10
    assert (simulate_cues(10, seed=2).given == simulate_cues(10, seed=2).classes).all()


def test_simulate_cues__the_deciding_spot_tells_the_class_and_no_distractor_does(cues):
    at_spot = _grey(cues, cues.spots, 2)
    assert at_spot[cues.classes == 1].min() > at_spot[cues.classes == 0].max()  # a nodule is bright, fluid dark
    for nth in range(cues.distractors.shape[1]):
        there = np.isfinite(cues.distractors[:, nth]).all(axis=1)
        bright = _grey(cues, np.nan_to_num(cues.distractors[:, nth]), 2)[there] > 100
        assert 0.2 < bright.mean() < 0.8
        agree = np.mean(bright == (cues.classes[there] == 1))
        assert 0.25 < agree < 0.75


def test_simulate_cues__spots_are_apart_and_inside(cues):
    places = np.concatenate([cues.spots[:, None], cues.distractors], axis=1)
    for own in places:
        own = own[np.isfinite(own).all(axis=1)]
        gaps = np.linalg.norm(own[:, None] - own[None], axis=2)[~np.eye(len(own), dtype=bool)]
        assert gaps.min() >= 17
        assert own.min() >= 9
        assert own.max() <= 54


def test_simulate_cues__region_is_about_the_spot_and_gaze_mostly_in_it(cues):
    for n in range(len(cues)):
        rows, columns = np.nonzero(cues.regions[n])
        np.testing.assert_allclose([columns.mean(), rows.mean()], cues.spots[n], atol=0.5)
    y, x = np.mgrid[:64, :64]
    share, even = [], []
    for n in range(len(cues)):
        near = np.hypot(x - cues.spots[n, 0], y - cues.spots[n, 1]) < 10
        share.append(cues.gaze_maps[n][near].sum() / cues.gaze_maps[n].sum())
        even.append(near.mean())
    assert np.mean(share) > 0.4 > 4 * np.mean(even)


def test_simulate_cues__same_seed_same_images(cues):
    again = simulate_cues(40, label_noise=0.25, seed=2)
    for name in ("frames", "classes", "given", "spots", "distractors", "regions", "gaze_maps"):
        np.testing.assert_array_equal(getattr(cues, name), getattr(again, name))
    assert (simulate_cues(2, seed=3).frames != cues.frames[:2]).any()


def test_views__labels_given_true_and_hidden(cues):
    assert (cues.views().labels == cues.given).all()
    assert (cues.views(true=True).labels == cues.classes).all()
    some = cues.views(np.arange(20, 40), labelled=30)
    assert (some.labels[:10] == cues.given[20:30]).all()
    assert (some.labels[10:] == -1).all()
    assert some.gaze.shape == some.regions.shape == (20, 64, 64)


def test_simulate_cues__refuses_what_cannot_be():
    with pytest.raises(SonokitError, match=r"label_noise from 0 to 1"):
        simulate_cues(10, label_noise=1.5, seed=0)
