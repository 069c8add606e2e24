import numpy as np
import pytest
from sonokit.distill.study.shuffled import exchanged, shuffled_regions
from sonokit.distill.training.views import Views
from sonokit.errors import SonokitError


@pytest.mark.parametrize("seed", range(20))
def test_exchanged__every_row_is_given_once_and_none_within_a_unit(seed):
    units = np.random.default_rng(seed).permutation(np.repeat(list("abcde"), [1, 2, 3, 3, 9]))  # e has half of the rows
    given = exchanged(units, seed=seed)
    assert sorted(given.tolist()) == list(range(len(units)))
    assert (units[given] != units).all()


def test_exchanged__draws_by_its_seed_and_reaches_every_other_row():
    units = np.array(["a", "b", "c", "d"])
    np.testing.assert_array_equal(exchanged(units, seed=3), exchanged(units, seed=3))
    drawn = {tuple(exchanged(units, seed=seed).tolist()) for seed in range(200)}
    assert len(drawn) == 6  # all cyclic orders of four
    assert len(exchanged(np.array([]))) == 0


def test_exchanged__two_of_one_patient_and_two_others_go_crosswise():
    for seed in range(20):
        given = exchanged(np.array(["a", "b", "a", "c"]), seed=seed)
        assert set(given[[0, 2]]) == {1, 3}


def test_exchanged__a_patient_with_most_of_the_rows_is_refused():
    with pytest.raises(SonokitError, match="3 of 5 regions are of one patient"):
        exchanged(np.array([1, 1, 1, 2, 3]))


def _views(count=9):
    regions = np.zeros((count, 8, 8), dtype=np.uint8)
    for row in range(count):
        regions[row, : row % 7 + 1] = 10 + row  # each its own
    frames = np.random.default_rng(0).integers(0, 256, (count, 8, 8)).astype(np.uint8)
    return Views(frames, np.arange(count), labels=np.arange(count) % 2, regions=regions)


def test_shuffled_regions__frames_and_labels_stay_and_regions_are_the_same_ones():
    views = _views()
    found = shuffled_regions(views, seed=1)
    np.testing.assert_array_equal(found.frames, views.frames)
    np.testing.assert_array_equal(found.labels, views.labels)
    own, given = views.regions.max(axis=(1, 2)), found.regions.max(axis=(1, 2))
    assert sorted(given) == sorted(own)
    assert (given != own).all()
    for row, value in enumerate(given):
        np.testing.assert_array_equal(found.regions[row], views.regions[value - 10])


def test_shuffled_regions__what_nobody_marked_keeps_its_nothing():
    views = _views()
    annotated = np.arange(9) % 3 != 0
    views.regions[~annotated] = 0
    found = shuffled_regions(Views(**{**vars(views), "annotated": annotated}), seed=1)
    assert not found.regions[~annotated].any()
    np.testing.assert_array_equal(found.annotated, annotated)
    assert (found.regions[annotated].max(axis=(1, 2)) != views.regions[annotated].max(axis=(1, 2))).all()


def test_shuffled_regions__not_among_the_views_of_one_patient():
    views, units = _views(), np.array([0, 0, 0, 1, 1, 1, 2, 2, 2])
    given = shuffled_regions(views, units=units, seed=2).regions.max(axis=(1, 2)) - 10
    assert (units[given] != units).all()
    with pytest.raises(SonokitError, match="no regions"):
        shuffled_regions(Views(views.frames, views.items))
