import numpy as np
import pytest
import torch
from sonokit.backbones.build import build_backbone
from sonokit.distill.signals.weighted import labels_and_response, read_signals
from sonokit.distill.students.build import build_student
from sonokit.distill.training.learners import Classifier
from sonokit.distill.training.loop import LoopSettings, train
from sonokit.distill.training.taught import ask
from sonokit.distill.training.views import Views
from sonokit.errors import SonokitError

CLASSES = ("dark", "bright")
LABELS = {"labels": {}}


def _views(count=32, seed=0, size=32):
    """Noise, and in half of them a bright square."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 2
    frames = rng.integers(0, 80, (count, size, size)).astype(np.uint8)
    frames[labels == 1, 8:20, 8:20] += 100
    return Views(frames, np.arange(count), labels=labels)


def _student(seed=0, name="micro-10k"):
    return Classifier(build_student(name, seed=seed), CLASSES)


def _state(learner):
    return {name: value.clone() for name, value in learner.state_dict().items()}


def _same(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_train__learns_what_can_be_seen_and_ends_in_evaluation_mode():
    student = _student()
    history = train(student, _views(), read_signals(LABELS), settings=LoopSettings(epochs=8, batch=8, learning_rate=5e-3))
    assert len(history) == 8
    assert history[0]["loss"] == history[0]["labels"]
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert not student.training
    fresh = _views(64, seed=9)
    with torch.inference_mode():
        assert (student(fresh.batch(slice(None)).frames).argmax(dim=1).numpy() == fresh.labels).mean() > 0.9


def test_train__the_same_call_gives_the_same_numbers_and_the_global_generator_is_left():
    found = []
    for noise in (1, 2, 3):
        torch.manual_seed(noise)  # what happened before does not matter
        student = _student()
        before = torch.random.get_rng_state()
        settings = LoopSettings(epochs=2, batch=8, seed=7 if noise == 3 else 0)
        history = train(student, _views(), read_signals(LABELS), settings=settings)
        assert torch.equal(before, torch.random.get_rng_state())
        found.append((history, _state(student)))
    assert found[0][0] == found[1][0]
    assert _same(found[0][1], found[1][1])
    assert not _same(found[0][1], found[2][1])  # another seed: another order


def test_train__every_view_is_seen_once_an_epoch():
    views, seen = _views(30), []

    class Watching(Classifier):
        def see_frames(self, frames, *args, **options):
            seen.extend(frames.flatten(1).sum(dim=1).tolist())
            return super().see_frames(frames, *args, **options)

    train(Watching(build_student("micro-10k"), CLASSES), views, read_signals(LABELS), settings=LoopSettings(epochs=2, batch=7))
    expected = np.sort(views.frames.sum(axis=(1, 2)) / 255)
    for epoch in (seen[:30], seen[30:]):
        np.testing.assert_allclose(np.sort(epoch), expected, rtol=1e-5)
    assert not np.allclose(seen[:30], seen[30:])


def test_train__distillation_lowers_the_distance_to_the_teacher_and_logs_each_term():
    views, teacher = _views(), _student(3, "micro-25k")
    train(teacher, views, read_signals(LABELS), settings=LoopSettings(epochs=8, batch=8, learning_rate=5e-3))
    student = _student()
    signals = read_signals(labels_and_response(0.7, 2.0))
    history = train(student, views, signals, ask(teacher, views), LoopSettings(epochs=8, batch=8, learning_rate=5e-3))
    for row in history:
        assert row["loss"] == pytest.approx(0.3 * row["labels"] + 0.7 * row["response"], abs=1e-5)
    assert history[-1]["response"] < 0.5 * history[0]["response"]


def test_train__projections_of_a_signal_are_trained_and_stay_behind():
    views, teacher, student = _views(), _student(3, "micro-25k"), _student()
    names = set(student.state_dict())
    signals = read_signals({"feature_sharing": {"strides": [8, 16]}}, student.map_channels, teacher.map_channels)
    before = [parameter.detach().clone() for parameter in signals.parameters()]
    assert len(before) == 2
    history = train(student, views, signals, ask(teacher, views, (8, 16)), LoopSettings(epochs=4, batch=8))
    assert all(not torch.equal(old, new) for old, new in zip(before, signals.parameters(), strict=True))
    assert history[-1]["feature_sharing"] < history[0]["feature_sharing"]
    assert set(student.state_dict()) == names


def test_train__frozen_statistics_of_the_backbone_stay_while_its_weights_learn():
    views = _views()
    for mode, stays in (("frozen", True), ("batch", False)):
        learner = Classifier(build_backbone("test_resnet", seed=1), CLASSES)
        before = _state(learner)
        train(learner, views, read_signals(LABELS), settings=LoopSettings(epochs=1, batch=8, batch_norm=mode))
        after = learner.state_dict()
        own = [name for name in before if name.startswith("backbone") and name.endswith(("running_mean", "running_var"))]
        assert own
        assert all(torch.equal(before[name], after[name]) for name in own) is stays
        assert not torch.equal(before["normalise.running_mean"], after["normalise.running_mean"])
        weights = [name for name in before if name.startswith("backbone") and name.endswith("weight")]
        assert any(not torch.equal(before[name], after[name]) for name in weights)


def test_train__a_rate_of_its_own_for_the_backbone():
    views = _views()
    learner = _student()
    before = _state(learner)
    settings = LoopSettings(epochs=1, batch=8, backbone_learning_rate=1e-12, weight_decay=0.0)
    train(learner, views, read_signals(LABELS), settings=settings)
    after = learner.state_dict()
    torch.testing.assert_close(after["backbone.model.stem.0.weight"], before["backbone.model.stem.0.weight"])
    assert after["classify.weight"].abs().max() > 1e-4


def test_train__fresh_views_each_epoch_come_with_their_own_answers():
    asked, teacher = [], _student(3, "micro-25k")

    def fresh(epoch):
        views = _views(16, seed=epoch)
        asked.append(epoch)
        return views, ask(teacher, views)

    student, again = _student(), _student()
    train(student, _views(16), read_signals(labels_and_response()), settings=LoopSettings(epochs=3, batch=8), fresh=fresh)
    assert asked == [0, 1, 2]
    views = _views(16, seed=0)
    train(again, views, read_signals(labels_and_response()), ask(teacher, views), LoopSettings(epochs=3, batch=8))
    assert not _same(_state(student), _state(again))


def test_train__unlabelled_views_change_nothing_of_the_labels_term():
    views = _views(8)
    unknown = Views(views.frames, views.items, labels=np.full(8, -1))
    student = _student()
    before = _state(student)
    history = train(student, unknown, read_signals(LABELS), settings=LoopSettings(epochs=1, batch=8, weight_decay=0.0))
    assert history == [{"labels": 0.0, "loss": 0.0}]
    assert torch.equal(student.classify.weight, before["classify.weight"])


def test_train__faults_are_named():
    views, student = _views(8), _student()
    with pytest.raises(SonokitError, match="ask one first"):
        train(student, views, read_signals(labels_and_response()))
    with pytest.raises(SonokitError, match="at least two"):
        train(student, views.take(np.array([0])), read_signals(LABELS))
    with pytest.raises(SonokitError, match="lower the learning rate"):
        student.classify.weight.data.fill_(float("nan"))
        train(student, views, read_signals(LABELS), settings=LoopSettings(epochs=1))
    for options, match in (
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"batch_norm": "x"}, "batch"),
    ):
        with pytest.raises(SonokitError, match=match):
            LoopSettings(**options)
