import numpy as np
import pytest
import torch
from sonokit.distill.students.build import build_student
from sonokit.distill.study.arms import ArmSettings
from sonokit.distill.study.region_arms import REGION_ARMS, energies, region_arms
from sonokit.distill.training.augmented import AugmentSettings
from sonokit.distill.training.learners import Classifier
from sonokit.distill.training.loop import LoopSettings
from sonokit.distill.training.views import Views
from sonokit.errors import SonokitError

CLASSES = ("a", "b")
QUICK = ArmSettings(
    teacher="micro-25k",
    looks=2,
    augment=AugmentSettings("affine", degrees=0, scale=0, shift=0),
    teacher_loop=LoopSettings(epochs=1, batch=8),
    student_loop=LoopSettings(epochs=1, batch=8),
)


def _views(count, seed, whole=False):
    rng = np.random.default_rng(seed)
    frames = rng.integers(0, 256, (count, 64, 64)).astype(np.uint8)
    regions = np.zeros((count, 64, 64), dtype=np.uint8)
    for row in range(count):
        x, y = rng.integers(0, 40, 2)
        regions[row, y : y + 24, x : x + 24] = 255
    regions[:] = 255 if whole else regions
    return Views(frames, np.arange(count), labels=np.arange(count) % 2, regions=regions, annotated=np.ones(count, dtype=bool))


def test_region_arms__every_arm_says_probabilities_and_every_student_has_an_energy():
    train, test = _views(20, 0), _views(10, 1)
    test.annotated[3] = False
    found = region_arms(train, test, CLASSES, QUICK)
    assert set(found.probabilities) == set(REGION_ARMS)
    assert len({said.tobytes() for said in found.probabilities.values()}) == len(REGION_ARMS)
    for said in found.probabilities.values():
        np.testing.assert_allclose(said.sum(axis=1), 1)
    assert set(found.energy) == {"labels", "raw", "masked", "shuffled", "masked_overlap"}
    for energy in found.energy.values():
        assert np.isnan(energy[3])
        assert ((energy >= 0) & (energy <= 1) | np.isnan(energy)).all()
    np.testing.assert_allclose(np.delete(found.area, 3), (24 / 64) ** 2)
    assert np.isnan(found.area[3])


def test_region_arms__with_whole_frames_as_regions_all_teachers_and_their_students_are_one():
    found = region_arms(_views(20, 0, whole=True), _views(10, 1, whole=True), CLASSES, QUICK).probabilities
    for name in ("masked_teacher", "shuffled_teacher"):
        np.testing.assert_array_equal(found[name], found["raw_teacher"])
    for name in ("masked", "shuffled", "masked_overlap"):
        np.testing.assert_array_equal(found[name], found["raw"])


def test_region_arms__students_are_never_shown_a_test_region():
    test, other = _views(10, 1), _views(10, 1)
    other.regions[:] = np.roll(other.regions, 20, axis=2)
    first = region_arms(_views(20, 0), test, CLASSES, QUICK, students=("labels", "masked"))
    second = region_arms(_views(20, 0), other, CLASSES, QUICK, students=("labels", "masked"))
    for name in ("raw_teacher", "labels", "masked"):
        np.testing.assert_array_equal(first.probabilities[name], second.probabilities[name])
    assert not np.array_equal(first.probabilities["masked_teacher"], second.probabilities["masked_teacher"])


def test_region_arms__faults_are_named():
    views = _views(8, 0)
    with pytest.raises(SonokitError, match="no arm 'heat'"):
        region_arms(views, views, CLASSES, QUICK, students=("heat",))
    with pytest.raises(SonokitError, match="need regions"):
        region_arms(Views(views.frames, views.items, labels=views.labels), views, CLASSES, QUICK)


def test_energies__are_of_the_true_class_and_equal_the_share_counted_by_hand():
    test = _views(6, 2)
    test.labels[5] = -1
    student = Classifier(build_student("micro-10k", seed=3), CLASSES).eval()
    torch.nn.init.normal_(student.classify.weight, generator=torch.Generator().manual_seed(0))
    found = energies(student, test, batch=4)
    with torch.inference_mode():
        maps = student.see(test.batch(slice(None)), class_maps=True).class_maps.numpy()  # [6, 2, 2, 2]
    share = test.regions.reshape(6, 2, 32, 2, 32).mean(axis=(2, 4)) / 255
    for row in range(5):
        positive = np.maximum(maps[row, test.labels[row]], 0)
        expected = (positive * share[row]).sum() / positive.sum() if positive.sum() else np.nan
        np.testing.assert_allclose(found[row], expected, rtol=1e-4)
    assert np.isnan(found[5])
