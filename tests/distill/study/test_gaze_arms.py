import numpy as np
import pytest
from sonokit.distill.study.arms import (
    ArmSettings,
    label_options,
    looks_at,
    new_teacher,
    probabilities,
    trained_student,
    trained_teacher,
)
from sonokit.distill.study.gaze_arms import GAZE_ARMS, GAZE_STUDENTS, GazeEntrance, gaze_arms
from sonokit.distill.training.augmented import AugmentSettings
from sonokit.distill.training.loop import LoopSettings
from sonokit.distill.training.views import Views, joined_views
from sonokit.errors import SonokitError

CLASSES = ("dark", "bright")
QUICK = ArmSettings(
    teacher="micro-25k",
    student="micro-10k",
    looks=2,
    sharing_strides=(8,),
    augment=AugmentSettings(degrees=5),
    teacher_loop=LoopSettings(epochs=1, batch=8),
    student_loop=LoopSettings(epochs=1, batch=8),
)


def _views(count, seed, gaze=True):
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (count, 32, 32)).astype(np.uint8)
    maps = rng.integers(0, 256, (count, 16, 16)).astype(np.uint8)
    return Views(frames, np.arange(count), labels=np.arange(count) % 2, gaze=maps if gaze else np.zeros_like(maps))


def test_gaze_arms__every_arm_says_probabilities_of_every_test_view_and_the_same_ones_again():
    found = gaze_arms(_views(20, 0), _views(10, 1), CLASSES, QUICK)
    assert set(found) == set(GAZE_ARMS)
    for said in found.values():
        assert said.shape == (10, 2)
        np.testing.assert_allclose(said.sum(axis=1), 1)
    again = gaze_arms(_views(20, 0), _views(10, 1), CLASSES, QUICK)
    assert all(np.array_equal(found[name], again[name]) for name in found)
    assert len({said.tobytes() for said in found.values()}) == len(found)  # no two arms are one


def test_gaze_arms__with_zero_gaze_the_gaze_arms_are_the_plain_ones():
    found = gaze_arms(_views(20, 0, gaze=False), _views(10, 1, gaze=False), CLASSES, QUICK)
    for plain, gaze in (("plain_teacher", "gaze_teacher"), ("plain", "gaze"), ("plain_sharing", "gaze_sharing")):
        np.testing.assert_array_equal(found[plain], found[gaze])


def test_gaze_arms__test_gaze_reaches_the_gaze_teacher_alone_and_test_labels_nobody():
    seen = _views(10, 1)
    hidden = Views(seen.frames, seen.items, labels=None, gaze=np.zeros_like(seen.gaze))
    entrance = GazeEntrance("features", 8)
    first = gaze_arms(_views(20, 0), seen, CLASSES, QUICK, entrance=entrance, students=("labels", "gaze"))
    second = gaze_arms(_views(20, 0), hidden, CLASSES, QUICK, entrance=entrance, students=("labels", "gaze"))
    assert list(first) == ["plain_teacher", "gaze_teacher", "labels", "gaze"]
    for name in first:
        assert np.array_equal(first[name], second[name]) is (name != "gaze_teacher")


def test_gaze_arms__faults_are_named():
    views = _views(20, 0)
    with pytest.raises(SonokitError, match="no arm 'eyes'"):
        gaze_arms(views, views, CLASSES, QUICK, students=("eyes",))
    with pytest.raises(SonokitError, match="need gaze"):
        gaze_arms(views, Views(views.frames, views.items), CLASSES, QUICK)
    assert set(GAZE_STUDENTS) < set(GAZE_ARMS)


def test_trained_student__begins_and_steps_alike_whatever_it_is_told():
    views = looks_at(_views(20, 0), QUICK)
    assert len(views) == 40
    with_none = trained_student(CLASSES, views, QUICK)
    undecided = new_teacher(CLASSES, QUICK)  # its last layer is zero: all it says is "both alike"
    settings = ArmSettings(**{**vars(QUICK), "alpha": 0.0})
    deaf = trained_student(CLASSES, views, settings, teacher=undecided)
    np.testing.assert_array_equal(probabilities(with_none, views), probabilities(deaf, views))
    told = trained_student(CLASSES, views, QUICK, teacher=undecided)
    assert np.abs(probabilities(told, views) - 0.5).mean() < np.abs(probabilities(with_none, views) - 0.5).mean()


def test_trained_teacher__learns_from_labelled_views_alone():
    known, unknown = _views(20, 0), _views(12, 3)
    unknown.labels[:] = -1
    alone = trained_teacher(new_teacher(CLASSES, QUICK), known, QUICK)
    beside = trained_teacher(new_teacher(CLASSES, QUICK), joined_views([known, unknown]), QUICK)
    np.testing.assert_array_equal(probabilities(alone, known), probabilities(beside, known))


def test_label_options__weigh_classes_by_how_rare_they_are():
    labels = np.array([0, 0, 0, 1, -1, -1])
    views = Views(np.zeros((6, 8, 8), dtype=np.uint8), np.arange(6), labels=labels)
    assert label_options(views, ArmSettings()) == {}
    weights = label_options(views, ArmSettings(balanced=True))["weights"]
    np.testing.assert_allclose(weights, [4 / 6, 4 / 2], atol=1e-6)
    np.testing.assert_allclose(np.dot(weights, [3, 1]), 4, atol=1e-5)
    with pytest.raises(SonokitError, match="cannot be weighed"):
        label_options(views.take(labels == 0), ArmSettings(balanced=True))
    with pytest.raises(SonokitError, match="one class a view"):
        label_options(Views(views.frames, views.items), ArmSettings())
