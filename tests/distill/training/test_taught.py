import json

import numpy as np
import pytest
import torch
from sonokit.distill.signals.terms import Outputs
from sonokit.distill.students.build import build_student
from sonokit.distill.training import taught as taught_module
from sonokit.distill.training.learners import Classifier, GazeClassifier, Learner, RegionClassifier
from sonokit.distill.training.taught import Taught, ask, target_of
from sonokit.distill.training.teacher_networks import AsAsked
from sonokit.distill.training.views import HeatMapTarget, Views
from torch import nn


class _Teacher(Learner):
    """Says the mean brightness; counts how often it is asked, and in what mode."""

    def __init__(self, weight=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight]))
        self.calls = []

    @property
    def map_channels(self):
        return {8: 1}

    def see(self, seen, strides=(), *, class_maps=False):
        self.calls.append((len(seen.frames), self.training, torch.is_inference_mode_enabled()))
        mean = self.weight * seen.frames.mean(dim=(2, 3))
        maps = {stride: nn.functional.avg_pool2d(seen.frames, stride) for stride in strides}
        return Outputs(logits=torch.cat([mean, -mean], dim=1), features=mean, maps=maps)

    def groups(self):
        return [], [self.weight]


def _views(count=10, **parts):
    frames = np.random.default_rng(0).integers(0, 256, (count, 16, 16)).astype(np.uint8)
    return Views(frames, np.arange(count), **parts)


def test_ask__answers_row_by_row_in_batches_without_training():
    teacher, views = _Teacher().train(), _views()
    taught = ask(teacher, views, (8,), batch=4)
    assert teacher.calls == [(4, False, True), (4, False, True), (2, False, True)]
    assert teacher.training  # as it was before
    mean = views.frames.mean(axis=(1, 2)) / 255
    np.testing.assert_allclose(taught.logits, np.stack([mean, -mean], axis=1), atol=1e-6)
    cells = views.frames.reshape(10, 2, 8, 2, 8).mean(axis=(2, 4)) / 255
    np.testing.assert_allclose(taught.maps[8][:, 0], cells, atol=1e-3)  # float16
    assert taught.heat_maps is None
    found = taught.batch(np.array([7, 2]))
    np.testing.assert_allclose(found.logits[:, 0].numpy(), mean[[7, 2]], atol=1e-6)
    assert found.maps[8].dtype == torch.float32


def test_ask__a_learner_in_evaluation_mode_stays_in_it():
    teacher = Classifier(build_student("micro-10k"), ("a", "b")).eval()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    ask(teacher, _views(4))
    assert not teacher.training
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_ask__what_lies_in_the_folder_is_read_and_the_teacher_not_run(tmp_path):
    first = ask(_Teacher(), _views(), (8,), folder=tmp_path / "taught")
    again = _Teacher()
    second = ask(again, _views(), (8,), folder=tmp_path / "taught")
    assert not again.calls
    np.testing.assert_array_equal(first.logits, second.logits)
    np.testing.assert_array_equal(first.maps[8], second.maps[8])
    assert isinstance(second.maps[8], np.memmap)


@pytest.mark.parametrize("change", ["weights", "frames", "strides", "gaze", "views"])
def test_ask__another_teacher_other_views_or_other_maps_are_asked_anew(tmp_path, change):
    views, gaze = _views(), np.zeros((10, 8, 8), dtype=np.uint8)
    ask(_Teacher(), views, (8,), folder=tmp_path / "taught")
    if change == "frames":
        views.frames[3, 0, 0] += 1
    teacher = _Teacher(2.0 if change == "weights" else 1.0)
    other = {"gaze": _views(gaze=gaze), "views": _views(9)}.get(change, views)
    found = ask(teacher, other, (4,) if change == "strides" else (8,), folder=tmp_path / "taught")
    assert teacher.calls
    assert list(found.maps) == [4 if change == "strides" else 8]
    assert len(found.logits) == len(other)
    if change == "weights":
        np.testing.assert_allclose(found.features[:, 0], 2 * views.frames.mean(axis=(1, 2)) / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (lambda plain: RegionClassifier(plain, 0.1), lambda plain: RegionClassifier(plain, 0.5)),
        (lambda plain: RegionClassifier(plain, edge=1.0), lambda plain: RegionClassifier(plain, edge=3.0)),
        (lambda plain: GazeClassifier(plain, "features", 4), lambda plain: GazeClassifier(plain, "features", 8)),
        (lambda plain: AsAsked(plain, 16, [0, 1]), lambda plain: AsAsked(plain, 16, [1, 0])),
    ],
)
def test_ask__teachers_of_the_same_weights_that_look_otherwise_are_asked_anew(tmp_path, one, other):
    plain = Classifier(build_student("micro-10k"), ("a", "b"))
    nn.init.normal_(plain.classify.weight)
    marks = np.zeros((4, 16, 16), dtype=np.uint8)
    marks[:, 4:9, 4:9] = 255
    views = _views(4, regions=marks, gaze=marks)
    first = ask(one(plain), views, folder=tmp_path / "taught").logits.copy()
    second = ask(other(plain), views, folder=tmp_path / "taught").logits
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(second, ask(other(plain), views).logits)


def test_ask__the_mode_of_a_teacher_is_no_part_of_the_question(tmp_path):
    teacher = _Teacher().train()
    ask(teacher, _views(), folder=tmp_path / "taught")
    asked = len(teacher.calls)
    ask(teacher.eval(), _views(), folder=tmp_path / "taught")
    assert len(teacher.calls) == asked


def test_ask__labels_are_no_part_of_the_question(tmp_path):
    ask(_Teacher(), _views(), folder=tmp_path / "taught")
    teacher = _Teacher()
    ask(teacher, _views(labels=np.zeros(10, dtype=np.int64)), folder=tmp_path / "taught")
    assert not teacher.calls


def test_ask__a_folder_that_was_not_finished_is_not_taken(tmp_path):
    folder = tmp_path / "taught"
    whole = ask(_Teacher(), _views(), (8,), folder=folder).logits.copy()
    (folder / "taught.json").unlink()  # it is written last
    np.save(folder / "logits.npy", np.zeros((3, 2), dtype=np.float32))
    teacher = _Teacher()
    np.testing.assert_array_equal(ask(teacher, _views(), (8,), folder=folder).logits, whole)
    assert teacher.calls


def test_ask__nothing_in_the_folder_is_unpickled(tmp_path):
    folder = tmp_path / "taught"
    ask(_Teacher(), _views(), folder=folder)
    whole = np.load(folder / "logits.npy")
    np.save(folder / "logits.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    teacher = _Teacher()
    np.testing.assert_array_equal(ask(teacher, _views(), folder=folder).logits, whole)
    assert teacher.calls


@pytest.mark.parametrize("left", ["{", "[]", "{}", ""])
def test_ask__a_damaged_record_counts_as_none(tmp_path, left):
    folder = tmp_path / "taught"
    whole = ask(_Teacher(), _views(), folder=folder).logits.copy()
    (folder / "taught.json").write_text(left)
    teacher = _Teacher()
    np.testing.assert_array_equal(ask(teacher, _views(), folder=folder).logits, whole)
    assert teacher.calls


def test_ask__a_shelf_keeps_the_answers_to_several_questions(tmp_path):
    first = ask(_Teacher(), _views(), (8,), shelf=tmp_path)
    ask(_Teacher(), _views(), (4,), shelf=tmp_path)
    ask(_Teacher(2.0), _views(), (8,), shelf=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3
    teacher = _Teacher()
    np.testing.assert_array_equal(ask(teacher, _views(), (8,), shelf=tmp_path).maps[8], first.maps[8])
    assert not teacher.calls


def test_ask__another_process_may_be_first_to_write(tmp_path, monkeypatch):
    whole = ask(_Teacher(), _views(), folder=tmp_path / "taught").logits.copy()
    real, tries = taught_module._read, []

    def late(folder, identity):
        tries.append(folder)
        return None if len(tries) == 1 else real(folder, identity)  # the other one finishes while this one asks

    def taken(path):
        raise OSError("Directory not empty")

    monkeypatch.setattr(taught_module, "_read", late)
    monkeypatch.setattr(taught_module, "atomic_path", taken)
    np.testing.assert_array_equal(ask(_Teacher(), _views(), folder=tmp_path / "taught").logits, whole)
    with pytest.raises(OSError, match="not empty"):
        ask(_Teacher(), _views(), folder=tmp_path / "nowhere")


def test_ask__gaze_reaches_the_teacher():
    teacher = GazeClassifier(Classifier(build_student("micro-10k"), ("a", "b")))
    nn.init.normal_(teacher.gaze_input.gaze_stem.weight)
    nn.init.normal_(teacher.classifier.classify.weight)
    gaze = np.random.default_rng(1).integers(0, 256, (4, 8, 8)).astype(np.uint8)
    assert not np.allclose(ask(teacher, _views(4)).logits, ask(teacher, _views(4, gaze=gaze)).logits)


def test_target_of__follows_the_teachers_heat_maps():
    like = HeatMapTarget(stride=4, sigma=1.2)
    assert target_of(None, _views(), like) == like
    assert target_of(Taught(), _views(), like) == like
    assert target_of(Taught(heat_maps=np.zeros((10, 3, 8, 8))), _views(), like) == HeatMapTarget(2, 1.2)


def test_ask__the_record_names_what_is_there(tmp_path):
    ask(_Teacher(), _views(), (8,), folder=tmp_path / "taught")
    said = json.loads((tmp_path / "taught" / "taught.json").read_text())
    assert said["arrays"] == ["features", "logits", "map_8"]
    assert sorted(file.name for file in (tmp_path / "taught").iterdir()) == [
        "features.npy",
        "logits.npy",
        "map_8.npy",
        "taught.json",
    ]
