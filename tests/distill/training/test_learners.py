import inspect
from itertools import chain

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from sonokit.backbones.build import build_backbone
from sonokit.distill.signals.region_overlap import energy_inside
from sonokit.distill.signals.terms import Batch
from sonokit.distill.signals.weighted import labels_and_response, read_signals
from sonokit.distill.students.build import build_student
from sonokit.distill.training.learners import Classifier, Ensemble, GazeClassifier, RegionClassifier, mean_logits
from sonokit.distill.training.loop import LoopSettings, train
from sonokit.distill.training.taught import ask
from sonokit.distill.training.views import SeenBatch, Views
from sonokit.errors import SonokitError
from torch import nn

CLASSES = ("a", "b", "c")


def _rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _classifier(name="micro-10k", seed=0, **options):
    """With a last layer that is not zero."""
    made = Classifier(build_student(name, seed=seed), CLASSES, **options).eval()
    nn.init.normal_(made.classify.weight, generator=torch.Generator().manual_seed(seed))
    return made


def _seen(count=4, size=64, **known):
    return SeenBatch(_rand(count, 1, size, size), Batch(**known))


def _views(count=24, size=32, **parts):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (count, size, size)).astype(np.uint8)
    return Views(frames, np.arange(count), labels=np.arange(count) % 3, **parts)


def _same(first, second):
    one, other = first.state_dict(), second.state_dict()
    return list(one) == list(other) and all(torch.equal(value, other[name]) for name, value in one.items())


def test_classifier__begins_undecided_and_its_forward_is_what_it_sees():
    new = Classifier(build_student("micro-10k"), CLASSES).eval()
    seen = _seen()
    with torch.inference_mode():
        assert not new(seen.frames).any()
        learner = _classifier()
        said = learner.see(seen, (8, 16), class_maps=True)
        torch.testing.assert_close(said.logits, learner(seen.frames))
        torch.testing.assert_close(learner.see(seen).logits, learner(seen.frames))
    assert said.logits.shape == (4, 3)
    assert {stride: one.shape[1:] for stride, one in said.maps.items()} == {8: (24, 8, 8), 16: (48, 4, 4)}
    assert said.class_maps.shape == (4, 3, 2, 2)


@pytest.mark.parametrize("name", ["micro-10k", "test_resnet", "test_efficientnet"])
def test_classifier__class_maps_average_to_the_logits_but_for_a_constant(name):
    learner = _classifier(name)
    learner.normalise.running_mean.normal_()
    learner.normalise.running_var.uniform_(0.5, 2)
    with torch.inference_mode():
        said = learner.see(_seen(6), class_maps=True)
        offsets = said.logits - said.class_maps.mean(dim=(2, 3))
    torch.testing.assert_close(offsets, offsets[:1].expand_as(offsets), atol=1e-4, rtol=1e-4)
    assert said.logits.std() > 0.1


def test_classifier__grey_frames_reach_a_backbone_in_colours_as_three_equal_channels():
    learner = Classifier(build_backbone("test_resnet", in_chans=3, seed=1), CLASSES).eval()
    frames = _rand(2, 1, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(learner.see_frames(frames).features, learner.backbone(frames.repeat(1, 3, 1, 1)))


def test_classifier__class_maps_of_a_network_that_does_not_average_a_map_are_refused():
    learner = Classifier(build_backbone("test_vit"), CLASSES).eval()
    with pytest.raises(SonokitError, match="class maps cannot be had"):
        learner.see_frames(_rand(1, 1, 160, 160), class_maps=True)


@pytest.mark.parametrize("wrap", [GazeClassifier, RegionClassifier])
def test_groups__every_parameter_is_trained_once(wrap):
    learner = wrap(_classifier())
    old, new = learner.groups()
    assert sorted(map(id, [*old, *new])) == sorted(map(id, learner.parameters()))
    ensemble = Ensemble([learner, _classifier()])
    assert sorted(map(id, chain(*ensemble.groups()))) == sorted(map(id, ensemble.parameters()))


@pytest.mark.parametrize("entry", ["channel", "features"])
def test_gaze_classifier__with_zero_gaze_says_exactly_what_the_plain_one_says(entry):
    plain = _classifier()
    teacher = GazeClassifier(plain, entry).eval()
    if entry == "channel":
        nn.init.normal_(teacher.gaze_input.gaze_stem.weight, generator=torch.Generator().manual_seed(2))
    frames = _rand(2, 1, 64, 64)
    with torch.inference_mode():
        expected = plain.see_frames(frames, (8,))
        zero = teacher.see(SeenBatch(frames, Batch(), torch.zeros(2, 1, 32, 32)), (8,))
        none = teacher.see(SeenBatch(frames, Batch()), (8,))
        looked = teacher.see(SeenBatch(frames, Batch(), _rand(2, 1, 32, 32, seed=3)), (8,))
    for said in (zero, none):
        assert torch.equal(said.logits, expected.logits)
        assert torch.equal(said.maps[8], expected.maps[8])
    assert not torch.allclose(looked.logits, expected.logits)


def test_region_classifier__with_the_whole_frame_or_no_region_says_exactly_what_the_plain_one_says():
    plain = _classifier()
    teacher = RegionClassifier(plain).eval()
    frames = _rand(2, 1, 64, 64)
    half = torch.zeros(2, 1, 64, 64)
    half[..., :32] = 1
    with torch.inference_mode():
        expected = plain(frames)
        assert torch.equal(teacher.see(SeenBatch(frames, Batch(regions=torch.ones(2, 1, 64, 64)))).logits, expected)
        assert torch.equal(teacher.see(SeenBatch(frames, Batch())).logits, expected)
        nobody = Batch(regions=half, annotated=torch.tensor([False, True]))
        found = teacher.see(SeenBatch(frames, nobody)).logits
    torch.testing.assert_close(found[0], expected[0])
    assert not torch.allclose(found[1], expected[1])


def _taught_student(learner, views):
    """The learner and what it teaches, each trained from the same beginning."""
    settings = LoopSettings(epochs=2, batch=8)
    train(learner, views, read_signals({"labels": {}}), settings=settings)
    student = Classifier(build_student("micro-10k", seed=5), CLASSES)
    train(student, views, read_signals(labels_and_response()), ask(learner, views), settings)
    return student


def _teacher():
    return Classifier(build_student("micro-25k", seed=4), CLASSES)


def test_training__with_zero_gaze_or_whole_regions_gives_the_student_of_plain_distillation_bit_for_bit():
    plain_teacher, gaze_teacher, region_teacher = _teacher(), _teacher(), _teacher()
    plain = _taught_student(plain_teacher, _views())
    with_gaze = _taught_student(GazeClassifier(gaze_teacher), _views(gaze=np.zeros((24, 16, 16), dtype=np.uint8)))
    with_regions = _taught_student(RegionClassifier(region_teacher), _views(regions=np.full((24, 32, 32), 255, np.uint8)))
    assert _same(plain_teacher, gaze_teacher)
    assert _same(plain_teacher, region_teacher)
    assert _same(plain, with_gaze)
    assert _same(plain, with_regions)


def test_training__with_gaze_or_regions_gives_another_student():
    rng = np.random.default_rng(1)
    marks = rng.integers(0, 256, (24, 32, 32)).astype(np.uint8)
    plain = _taught_student(_teacher(), _views())
    assert not _same(plain, _taught_student(GazeClassifier(_teacher()), _views(gaze=marks)))
    assert not _same(plain, _taught_student(RegionClassifier(_teacher()), _views(regions=marks)))


def test_training__a_student_is_a_function_of_frames_alone_and_the_teacher_gets_no_gradient():
    gaze = np.random.default_rng(1).integers(0, 256, (24, 32, 32)).astype(np.uint8)
    views = _views(gaze=gaze)
    teacher = GazeClassifier(_teacher())
    taught = ask(teacher, views)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = Classifier(build_student("micro-10k", seed=5), CLASSES)
    train(student, views, read_signals(labels_and_response()), taught, LoopSettings(epochs=1, batch=8))
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert list(inspect.signature(student.forward).parameters) == ["frames"]
    assert "gaze" not in " ".join(student.state_dict())
    exported = torch.export.export(student, (_rand(2, 1, 32, 32),))
    assert len(exported.graph_signature.user_inputs) == 1
    with torch.inference_mode():  # neither does ``see`` read it
        blind = student.see(SeenBatch(_rand(2, 1, 32, 32), Batch())).logits
        seeing = student.see(SeenBatch(_rand(2, 1, 32, 32), Batch(), _rand(2, 1, 32, 32, seed=9))).logits
    assert torch.equal(blind, seeing)


def test_mean_logits__are_those_of_the_mean_probability():
    members = [_rand(5, 3, seed=k) * 8 - 4 for k in range(3)]
    each = [one.double().numpy() for one in members]
    found = mean_logits(members, several=False).numpy()
    np.testing.assert_allclose(softmax(found, axis=1), np.mean([softmax(one, axis=1) for one in each], axis=0), atol=1e-6)
    found = mean_logits(members, several=True).numpy()
    np.testing.assert_allclose(expit(found), np.mean([expit(one) for one in each], axis=0), atol=1e-6)
    extreme = mean_logits([torch.tensor([[200.0, -200.0]]), torch.tensor([[300.0, -300.0]])], several=True)
    assert extreme.isfinite().all()
    assert mean_logits([members[0], None], several=False) is None


def test_ensemble__of_one_is_that_one_and_of_two_lies_between():
    one, other, seen = _classifier(seed=0), _classifier(seed=1), _seen()
    with torch.inference_mode():
        alone = Ensemble([one]).see(seen, (8,), class_maps=True)
        said = one.see(seen, (8,), class_maps=True)
        torch.testing.assert_close(alone.logits.softmax(1), said.logits.softmax(1))
        both = Ensemble([one, other]).eval().see(seen, (8,), class_maps=True)
        second = other.see(seen, class_maps=True)
    expected = (said.logits.softmax(1) + second.logits.softmax(1)) / 2
    torch.testing.assert_close(both.logits.softmax(1), expected)
    torch.testing.assert_close(both.class_maps, (said.class_maps + second.class_maps) / 2)
    torch.testing.assert_close(both.maps[8], said.maps[8])  # of the first
    assert both.heat_maps is None
    with pytest.raises(SonokitError, match="at least one member"):
        Ensemble([])


def test_energy_inside__counts_positive_activation_by_the_share_of_a_cell_that_is_region():
    activation = torch.tensor([[[[3.0, -5.0], [1.0, 0.0]]]])
    regions = torch.zeros(1, 1, 4, 4)
    regions[..., :2, :1] = 1  # half of the first cell
    assert energy_inside(activation, regions).item() == pytest.approx(0.5 * 3 / 4)
    assert energy_inside(-activation.abs(), regions).isnan().all()
