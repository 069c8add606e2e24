import inspect

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from sonokit.backbones.build import build_backbone
from sonokit.distill.signals.region_overlap import RegionOverlap, class_activation_maps
from sonokit.distill.signals.teacher_inputs import GazeTeacherInput, RegionTeacherInput, peak_scaled
from sonokit.distill.signals.terms import Batch, Outputs
from sonokit.distill.signals.weighted import labels_and_response, read_signals
from sonokit.distill.students.build import build_student
from sonokit.errors import SonokitError
from torch import nn
from torch.nn import functional as F


def _rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def _teacher(entry, name="test_resnet"):
    teacher = GazeTeacherInput(build_backbone(name, seed=1).eval(), entry)
    if teacher.gaze_stem is not None:
        nn.init.normal_(teacher.gaze_stem.weight, generator=torch.Generator().manual_seed(2))
    return teacher.eval()


@pytest.mark.parametrize("name", ["test_resnet", "micro_10k", "test_efficientnet", "tf_efficientnet_lite0"])
@pytest.mark.parametrize("entry", ["channel", "features"])
def test_gaze_teacher_input__zero_gaze_is_exactly_the_plain_teacher(entry, name):
    teacher, frames = _teacher(entry, name), _rand(2, 1, 32, 32)
    with torch.inference_mode():
        plain = teacher.backbone(frames)
        assert torch.equal(teacher(frames, torch.zeros(2, 1, 32, 32)), plain)
        looked = teacher(frames, _rand(2, 1, 32, 32, seed=3))
        assert not torch.allclose(looked, plain)
        assert torch.equal(teacher.backbone(frames), plain)  # the backbone itself stays as it was
        again, _ = teacher.forward_maps(frames, (8,), _rand(2, 1, 32, 32, seed=3))
    assert torch.equal(again, looked)


def test_gaze_teacher_input__a_frame_that_nobody_looked_at_is_plain_beside_one_that_was():
    teacher, frames = _teacher("channel"), _rand(2, 1, 32, 32)
    gaze = torch.cat([torch.zeros(1, 1, 32, 32), _rand(1, 1, 32, 32, seed=3)])
    with torch.inference_mode():
        found, plain = teacher(frames, gaze), teacher.backbone(frames)
    torch.testing.assert_close(found[0], plain[0])
    assert not torch.allclose(found[1], plain[1])


def test_gaze_teacher_input__a_new_channel_begins_without_effect_and_learns():
    teacher = GazeTeacherInput(build_backbone("test_resnet", seed=1).eval(), "channel")
    frames, gaze = _rand(2, 1, 32, 32), _rand(2, 1, 32, 32, seed=3)
    assert torch.equal(teacher(frames, gaze), teacher.backbone(frames))
    teacher(frames, gaze).square().sum().backward()
    assert teacher.gaze_stem.weight.grad.abs().max() > 0


def test_gaze_teacher_input__the_channel_equals_one_convolution_over_frame_and_gaze():
    teacher, frames, gaze = _teacher("channel"), _rand(2, 1, 32, 32), _rand(2, 1, 32, 32, seed=3)
    stem, seen = teacher.backbone.model.get_submodule("conv1.0"), {}
    with torch.inference_mode():
        # registered once the teacher's own hook is there: a module's hooks run in their order
        with teacher.shown(frames, gaze):
            handle = stem.register_forward_hook(lambda _, __, out: seen.update(out=out))
            teacher.backbone(frames)
            handle.remove()
        wide = torch.cat([stem.weight, teacher.gaze_stem.weight], dim=1)
        shown = torch.cat(
            [(frames - teacher.backbone.mean) / teacher.backbone.std, gaze / gaze.amax(dim=(2, 3), keepdim=True)], dim=1
        )
        expected = F.conv2d(shown, wide, stem.bias, stem.stride, stem.padding)
    torch.testing.assert_close(seen["out"], expected)


def test_gaze_teacher_input__features_are_multiplied_by_one_plus_gaze():
    backbone = build_backbone("test_resnet", seed=1).eval()
    teacher = GazeTeacherInput(backbone, "features", stride=8).eval()
    frames, gaze = _rand(2, 1, 32, 32), _rand(2, 1, 32, 32, seed=3)
    with torch.inference_mode():
        _, (plain,) = backbone.forward_maps(frames, (8,))
        _, (shown,) = teacher.forward_maps(frames, (8,), gaze)
    scaled = (gaze / gaze.amax(dim=(2, 3), keepdim=True)).numpy().reshape(2, 1, 4, 8, 4, 8).mean(axis=(3, 5))
    np.testing.assert_allclose(shown.numpy(), plain.numpy() * (1 + scaled), rtol=1e-5, atol=1e-6)


def test_gaze_teacher_input__how_long_somebody_looked_does_not_matter():
    gaze = _rand(2, 1, 8, 8)
    torch.testing.assert_close(peak_scaled(gaze * 1e-4), peak_scaled(gaze))
    assert peak_scaled(gaze).amax(dim=(1, 2, 3)).tolist() == [1, 1]
    assert not peak_scaled(torch.zeros(1, 1, 4, 4)).any()


def test_gaze_teacher_input__faults_are_named():
    backbone = build_backbone("test_resnet")
    with pytest.raises(SonokitError, match="no map at stride 64"):
        GazeTeacherInput(backbone, "features", stride=64)
    with pytest.raises(SonokitError, match="gaze enters by"):
        GazeTeacherInput(backbone, "eyes")  # type: ignore[arg-type]
    with pytest.raises(SonokitError, match="are no images"):
        GazeTeacherInput(build_backbone("test_vit"), "features")(_rand(1, 1, 160, 160), _rand(1, 1, 160, 160))
    with pytest.raises(SonokitError, match="one map a frame"):
        GazeTeacherInput(backbone)(_rand(2, 1, 32, 32), _rand(1, 1, 32, 32))


def _loss(signals, student, classify, taught, frames, batch):
    features, (last,) = student.forward_maps(frames, (32,))
    own = Outputs(classify(features), features, class_maps=class_activation_maps(last, classify.weight))
    loss = signals(own, Outputs(taught), batch)
    return loss, torch.autograd.grad(loss, [*student.parameters(), *classify.parameters()], allow_unused=True)


@pytest.mark.parametrize("entry", ["channel", "features"])
def test_gaze_distillation__with_zero_gaze_is_exactly_plain_distillation_and_students_see_frames_only(entry):
    teacher, frames = _teacher(entry), _rand(4, 1, 64, 64)
    student, judge, classify = build_student("micro-10k").eval(), nn.Linear(teacher.num_features, 3), nn.Linear(64, 3)
    signals, batch = read_signals(labels_and_response()), Batch(torch.tensor([0, 1, 2, 0]))
    plain = _loss(signals, student, classify, judge(teacher.backbone(frames)), frames, batch)
    zero = _loss(signals, student, classify, judge(teacher(frames, torch.zeros(4, 1, 64, 64))), frames, batch)
    assert torch.equal(plain[0], zero[0])
    assert all(torch.equal(a, b) for a, b in zip(plain[1], zero[1], strict=True))
    gaze = _rand(4, 1, 64, 64, seed=3).requires_grad_()
    loss, _ = _loss(signals, student, classify, judge(teacher(frames, gaze)), frames, batch)
    assert not torch.equal(loss, plain[0])
    loss, _ = signals(Outputs(classify(student(frames))), Outputs(judge(teacher(frames, gaze))), batch), None
    loss.backward()
    assert gaze.grad is None  # the teacher's side is cut off, and the student's has no gaze in it
    assert all(p.grad is None for p in (*teacher.parameters(), *judge.parameters()))
    assert list(inspect.signature(student.forward).parameters) == ["frames"]


def test_region_distillation__with_a_full_mask_is_exactly_plain_distillation():
    frames, full = _rand(4, 1, 64, 64), torch.ones(4, 1, 64, 64)
    show, backbone = RegionTeacherInput(), build_backbone("test_resnet", seed=1).eval()
    assert torch.equal(show(frames, full), frames)
    student, judge, classify = build_student("micro-10k").eval(), nn.Linear(backbone.num_features, 3), nn.Linear(64, 3)
    settings, batch = labels_and_response(), Batch(torch.tensor([0, 1, 2, 0]), full)
    plain = _loss(read_signals(settings), student, classify, judge(backbone(frames)), frames, batch)
    regions = read_signals({**settings, "region_overlap": {"weight": 5.0}})
    masked = _loss(regions, student, classify, judge(backbone(show(frames, full))), frames, batch)
    assert torch.equal(plain[0], masked[0])
    assert all(torch.equal(a, b) for a, b in zip(plain[1], masked[1], strict=True))
    half = full.clone()
    half[..., :32] = 0
    part = _loss(regions, student, classify, judge(backbone(show(frames, half))), frames, Batch(batch.labels, half))
    assert not torch.equal(part[0], plain[0])


def test_region_teacher_input__equals_the_formula():
    frames, regions = _rand(2, 1, 24, 20), torch.zeros(2, 1, 24, 20)
    regions[:, :, 6:15, 5:14] = 1
    sharp = RegionTeacherInput(0.2, edge=0)(frames, regions)
    torch.testing.assert_close(sharp, frames * (regions + 0.2 * (1 - regions)))
    soft = RegionTeacherInput(0.2, edge=1.5)(frames, regions)
    mask = np.stack([gaussian_filter(one.double().numpy(), 1.5, mode="nearest", radius=5) for one in regions[:, 0]])[:, None]
    np.testing.assert_allclose(soft.numpy(), frames.numpy() * (mask + 0.2 * (1 - mask)), atol=1e-5)


def test_region_teacher_input__an_image_that_nobody_marked_stays_as_it_is():
    frames = _rand(2, 1, 24, 20)
    found = RegionTeacherInput()(frames, torch.zeros(2, 1, 24, 20), torch.tensor([False, True]))
    assert torch.equal(found[0], frames[0])
    torch.testing.assert_close(found[1], 0.1 * frames[1])
    with pytest.raises(SonokitError, match="dimmed"):
        RegionTeacherInput(1.5)
    with pytest.raises(SonokitError, match="regions must be"):
        RegionTeacherInput()(frames, torch.ones(2, 1, 20, 24))


def test_region_overlap__a_step_moves_the_activation_into_the_region():
    maps = torch.zeros(1, 2, 4, 4, requires_grad=True)
    regions = torch.zeros(1, 1, 4, 4)
    regions[..., 1:3, 1:3] = 1
    loss = RegionOverlap()(Outputs(class_maps=maps), None, Batch(torch.tensor([1]), regions))
    assert loss.item() == pytest.approx(0.75)  # nothing is decided yet: the share of the area outside
    loss.backward()
    assert (maps.grad[0, 1][regions[0, 0] == 1] < 0).all()
    assert (maps.grad[0, 1][regions[0, 0] == 0] > 0).all()
    assert not maps.grad[0, 0].any()
