import itertools

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from scipy.stats import entropy
from sonokit.distill.signals.attention import AttentionTransfer
from sonokit.distill.signals.feature_sharing import FeatureSharing
from sonokit.distill.signals.heat_maps import HeatMapResponse, HeatMapTargets
from sonokit.distill.signals.labels import HardLabels
from sonokit.distill.signals.region_overlap import RegionOverlap, class_activation_maps, energy_inside
from sonokit.distill.signals.relational import Relational
from sonokit.distill.signals.response import Response
from sonokit.distill.signals.terms import Batch, Outputs
from sonokit.distill.signals.weighted import SIGNALS, labels_and_response, read_signals
from sonokit.distill.students.build import build_student
from sonokit.errors import SonokitError
from torch.nn import functional as F


def _draw(*shape, seed=0, grad=False):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).requires_grad_(grad)


def _maps(seed, widths, sizes=(6, 3), grad=False):
    return {
        stride: _draw(4, width, size, size + 1, seed=seed + stride, grad=grad)
        for stride, width, size in zip((8, 16), widths, sizes, strict=True)
    }


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_response__equals_scipys_divergence(temperature):
    own, taught = _draw(5, 3), 3 * _draw(5, 3, seed=1)
    found = Response(temperature)(Outputs(own), Outputs(taught), Batch())
    p, q = (softmax(logits.numpy() / temperature, axis=1) for logits in (taught, own))
    assert found.item() == pytest.approx(temperature**2 * entropy(p, q, axis=1).mean())


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_response__of_several_findings_equals_the_divergence_of_each(temperature):
    own, taught = _draw(5, 3), 3 * _draw(5, 3, seed=1)
    found = Response(temperature, "several")(Outputs(own), Outputs(taught), Batch())
    p, q = (expit(logits.numpy() / temperature) for logits in (taught, own))
    each = entropy(np.stack([p, 1 - p]), np.stack([q, 1 - q]), axis=0)
    assert found.item() == pytest.approx(temperature**2 * each.mean())


@pytest.mark.parametrize("kind", ["classes", "several"])
def test_response__by_hand_and_zero_with_a_zero_gradient_where_both_agree(kind):
    own = torch.zeros(1, 2, dtype=torch.float64)
    taught = torch.tensor([[np.log(3.0), 0.0]])  # softmax: 3/4, 1/4; sigmoid: 3/4, 1/2
    by_hand = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    found = Response(1.0, kind)(Outputs(own), Outputs(taught), Batch()).item()
    assert found == pytest.approx(by_hand if kind == "classes" else by_hand / 2)
    same = _draw(4, 3, grad=True)
    value = Response(3.0, kind)(Outputs(same), Outputs(same.detach()), Batch())
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert same.grad.abs().max() < 1e-12


def test_response__gradient_tends_to_that_of_the_logits_difference_at_high_temperature():
    """Hinton et al., section 2.1: for zero-mean logits the gradient of T² KL tends to (z − v) / K."""
    own, taught = _draw(1, 4, grad=True), _draw(1, 4, seed=1)
    Response(1e4)(Outputs(own), Outputs(taught), Batch()).backward()
    centred = (own - own.mean()) - (taught - taught.mean())
    np.testing.assert_allclose(own.grad.numpy(), (centred / 4).detach().numpy(), atol=1e-3)


def test_hard_labels__classes_by_hand_and_unknown_left_out():
    logits = torch.tensor([[0.0, np.log(3.0)], [5.0, -2.0], [0.0, 0.0]], requires_grad=True)
    labels = torch.tensor([1, -1, 0])
    value = HardLabels()(Outputs(logits), None, Batch(labels))
    assert value.item() == pytest.approx((np.log(4 / 3) + np.log(2)) / 2)
    weighted = HardLabels(weights=[1.0, 3.0])(Outputs(logits), None, Batch(labels))
    assert weighted.item() == pytest.approx((3 * np.log(4 / 3) + np.log(2)) / 4)
    value.backward()
    assert not logits.grad[1].any()


def test_hard_labels__several_findings_by_hand_and_unknown_left_out():
    logits = torch.tensor([[np.log(3.0), 9.0], [0.0, -np.log(3.0)]], requires_grad=True)
    labels = torch.tensor([[1.0, float("nan")], [0.0, 1.0]])
    value = HardLabels("several")(Outputs(logits), None, Batch(labels))
    assert value.item() == pytest.approx((np.log(4 / 3) + np.log(2) + np.log(4)) / 3)
    value.backward()
    assert logits.grad[0, 1] == 0
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad != 0).sum() == 3


def test_labels__a_batch_of_classes_without_weight_teaches_nothing():
    logits = _draw(4, 3, grad=True)
    value = HardLabels(weights=[0.0, 1.0, 1.0])(Outputs(logits), None, Batch(torch.tensor([0, 0, -1, 0])))
    value.backward()
    assert value.item() == 0
    assert not logits.grad.any()


@pytest.mark.parametrize(("kind", "labels"), [("classes", torch.full((2,), -1)), ("several", torch.full((2, 3), float("nan")))])
def test_hard_labels__a_batch_without_any_gives_nothing(kind, labels):
    logits = _draw(2, 3, grad=True)
    value = HardLabels(kind)(Outputs(logits), None, Batch(labels))
    value.backward()
    assert value.item() == 0
    assert not logits.grad.any()


def _average(one, height, width):
    """Adaptive average pooling, by loops: cell i of n spans floor(i S / n) to ceil((i + 1) S / n)."""
    size = one.shape[2:]
    out = np.zeros((*one.shape[:2], height, width))
    for i, j in np.ndindex(height, width):
        rows, columns = (
            slice(place * side // cells, -(-(place + 1) * side // cells))
            for place, side, cells in ((i, size[0], height), (j, size[1], width))
        )
        out[:, :, i, j] = one[:, :, rows, columns].mean(axis=(2, 3))
    return out


@pytest.mark.parametrize("norm", ["image", "position", "none"])
def test_feature_sharing__equals_the_formula(norm):
    student, teacher = _maps(0, (3, 5)), _maps(100, (7, 6), sizes=(4, 5))
    signal = FeatureSharing({8: 3, 16: 5}, {8: 7, 16: 6}, [8, [16, 16]], norm).double()
    expected = []
    for stride, project in zip((8, 16), signal.projections, strict=True):
        kernel = project.weight.detach().numpy()[:, :, 0, 0]
        seen, wanted = np.einsum("oc,bchw->bohw", kernel, student[stride].numpy()), teacher[stride].numpy()
        height, width = np.minimum(seen.shape[2:], wanted.shape[2:])
        pair = [_average(one, height, width) for one in (seen, wanted)]
        if norm == "none":
            expected.append(np.square(pair[0] - pair[1]).mean())
            continue
        axes = (1, 2, 3) if norm == "image" else (1,)
        seen, wanted = (one / np.sqrt(np.square(one).sum(axis=axes, keepdims=True)) for one in pair)
        expected.append(np.square(seen - wanted).sum(axis=axes).mean())
    found = signal(Outputs(maps=student), Outputs(maps=teacher), Batch())
    assert found.item() == pytest.approx(np.mean(expected))


def test_feature_sharing__is_zero_where_the_projection_makes_both_equal():
    teacher = _maps(0, (3, 5))
    signal = FeatureSharing({8: 6}, {8: 3}, [8]).double()
    with torch.no_grad():
        signal.projections[0].weight.zero_()
        signal.projections[0].weight[range(3), range(3)] = 2.0
    student = torch.cat([teacher[8], _draw(4, 3, 6, 7, seed=9)], dim=1)
    assert signal(Outputs(maps={8: student}), Outputs(maps=teacher), Batch()).item() == pytest.approx(0, abs=1e-12)


def test_attention_transfer__equals_the_formula():
    student, teacher = _maps(0, (3, 5)), _maps(100, (7, 6), sizes=(4, 3))
    found = AttentionTransfer([8, 16])(Outputs(maps=student), Outputs(maps=teacher), Batch())
    expected = []
    for stride in (8, 16):
        looks = [np.square(one[stride].numpy()).sum(axis=1, keepdims=True) for one in (student, teacher)]
        height, width = np.minimum(looks[0].shape[2:], looks[1].shape[2:])
        seen, wanted = (_average(one, height, width).reshape(4, -1) for one in looks)
        seen, wanted = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (seen, wanted))
        expected.append((np.linalg.norm(seen - wanted, axis=1) ** 2).mean())
    assert found.item() == pytest.approx(np.mean(expected))


def test_attention_transfer__neither_width_nor_scale_matters():
    student = _maps(0, (3, 5))
    doubled = {stride: -4 * torch.cat([one, one], dim=1) for stride, one in student.items()}
    assert AttentionTransfer([8, 16])(Outputs(maps=student), Outputs(maps=doubled), Batch()).item() == pytest.approx(
        0, abs=1e-12
    )


def _huber(difference):
    size = abs(difference)
    return 0.5 * size**2 if size < 1 else size - 0.5


@pytest.mark.parametrize(("distance", "angle"), [(1.0, 0.0), (0.0, 2.0), (0.5, 3.0)])
def test_relational__equals_brute_force(distance, angle):
    own, taught = 3 * _draw(5, 4), _draw(5, 7, seed=1)

    def lengths(points):
        found = [np.linalg.norm(points[i] - points[j]) for i, j in itertools.combinations(range(5), 2)]
        return np.array(found) / np.mean(found)

    def cosine(points, i, j, k):
        a, b = points[i] - points[j], points[k] - points[j]
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    spaces = own.numpy(), taught.numpy()
    distances = [_huber(a - b) for a, b in zip(*map(lengths, spaces), strict=True)]
    triplets = list(itertools.permutations(range(5), 3))
    angles = [_huber(cosine(spaces[0], *t) - cosine(spaces[1], *t)) for t in triplets]
    found = Relational(distance, angle)(Outputs(features=own), Outputs(features=taught), Batch())
    assert found.item() == pytest.approx(distance * np.mean(distances) + angle * np.mean(angles))


def test_relational__turned_moved_and_scaled_is_the_same_and_coinciding_points_have_a_gradient():
    own = _draw(6, 4)
    turn, _ = np.linalg.qr(_draw(4, 4, seed=1).numpy())
    moved = 3 * own @ torch.from_numpy(turn) + 5
    assert Relational()(Outputs(features=own), Outputs(features=moved), Batch()).item() == pytest.approx(0, abs=1e-12)
    twice = _draw(3, 4)[[0, 0, 1, 2]].requires_grad_()
    Relational()(Outputs(features=twice), Outputs(features=_draw(4, 4, seed=1)), Batch()).backward()
    assert torch.isfinite(twice.grad).all()


def test_relational__small_batches():
    distances_only = Relational(1.0, 0.0)
    for count in (1, 2):
        pair = Outputs(features=_draw(count, 4, grad=True)), Outputs(features=_draw(count, 4, seed=1))
        value = Relational(1.0, 5.0)(*pair, Batch())
        value.backward()
        assert value.item() == distances_only(*pair, Batch()).item()


def test_class_activation_maps__their_mean_is_the_linear_classifiers_logit():
    maps, weight = _draw(2, 5, 3, 4), _draw(3, 5, seed=1)
    found = class_activation_maps(maps, weight)
    np.testing.assert_allclose(found.mean(dim=(2, 3)).numpy(), F.linear(maps.mean(dim=(2, 3)), weight).numpy())


def test_region_overlap__equals_the_formula_and_leaves_out_what_is_not_known():
    activation = _draw(4, 3, 4, 4, grad=True)
    regions = (_draw(4, 1, 8, 8, seed=1) > 0).double()
    batch = Batch(torch.tensor([2, 0, -1, 1]), regions, torch.tensor([True, True, True, False]))
    value = RegionOverlap()(Outputs(class_maps=activation), None, batch)
    cells = regions.numpy().reshape(4, 4, 2, 4, 2).mean(axis=(2, 4))
    expected = []
    for image, label in ((0, 2), (1, 0)):
        positive = np.log1p(np.exp(activation.detach().numpy()[image, label]))
        expected.append(1 - (positive * cells[image]).sum() / positive.sum())
    assert value.item() == pytest.approx(np.mean(expected))
    value.backward()
    assert not activation.grad[2:].any()
    several = torch.tensor([[0.0, float("nan"), 1.0], [1.0, 0.0, 0.0], [0.0] * 3, [1.0] * 3])
    again = RegionOverlap()(Outputs(class_maps=activation), None, Batch(several, regions, batch.annotated))
    assert again.item() == pytest.approx(np.mean(expected))


def test_energy_inside__by_hand():
    activation = torch.tensor([[[[3.0, 1.0], [-5.0, 0.0]]]])
    region = torch.tensor([[[[1.0, 0.0], [1.0, 1.0]]]])
    assert energy_inside(activation, region).item() == pytest.approx(0.75)
    assert energy_inside(-activation.abs(), region).isnan().all()


def test_heat_map_terms__sums_over_cells_means_over_the_landmarks_there():
    own = torch.zeros(2, 2, 3, 3, requires_grad=True)
    wanted = torch.zeros(2, 2, 3, 3)
    wanted[0, 0, 1, 1], wanted[0, 1, 0, 0], wanted[1, 0, 2, 2] = 1.0, 2.0, 3.0
    present = torch.tensor([[True, False], [True, True]])
    batch = Batch(heat_maps=wanted, present=present)
    value = HeatMapTargets()(Outputs(heat_maps=own), None, batch)
    assert value.item() == pytest.approx((1 + 9 + 0) / 3)
    value.backward()
    assert not own.grad[0, 1].any()
    teacher = Outputs(heat_maps=wanted)
    assert HeatMapResponse()(Outputs(heat_maps=own), teacher, batch).item() == pytest.approx((1 + 4 + 9 + 0) / 4)
    assert HeatMapResponse(only_present=True)(Outputs(heat_maps=own), teacher, batch).item() == pytest.approx(10 / 3)
    nothing = Batch(heat_maps=wanted, present=torch.zeros(2, 2, dtype=torch.bool))
    assert HeatMapTargets()(Outputs(heat_maps=own), None, nothing).item() == 0


def _everything(grad=True):
    """A student, a teacher and a batch that every term can be applied to."""

    def network(seed, widths):
        return Outputs(
            _draw(4, 3, seed=seed, grad=grad),
            _draw(4, 6, seed=seed + 1, grad=grad),
            _maps(seed + 2, widths, grad=grad),
            _draw(4, 3, 3, 3, seed=seed + 3, grad=grad),
            _draw(4, 2, 5, 5, seed=seed + 4, grad=grad),
        )

    regions = (_draw(4, 1, 9, 9, seed=50) > 0).double()
    batch = Batch(torch.tensor([0, 1, 2, 0]), regions, heat_maps=_draw(4, 2, 5, 5, seed=51))
    return network(0, (3, 5)), network(200, (7, 6)), batch


_STRIDES = {"feature_sharing": {"strides": [8, 16]}, "attention": {"strides": [8, 16]}}
_CHANNELS = {8: 3, 16: 5}, {8: 7, 16: 6}


def _leaves(outputs):
    plain = outputs.logits, outputs.features, outputs.class_maps, outputs.heat_maps
    return [*plain, *outputs.maps.values()]


@pytest.mark.parametrize("name", SIGNALS)
def test_every_signal__alone_teaches_the_student_and_not_the_teacher(name):
    student, teacher, batch = _everything()
    signals = read_signals({name: _STRIDES.get(name, {})}, *_CHANNELS).double()
    loss = signals(student, teacher, batch)
    assert loss.shape == ()
    assert loss.item() > 0
    loss.backward()
    assert all(leaf.grad is None for leaf in _leaves(teacher))
    reached = [leaf.grad for leaf in _leaves(student) if leaf.grad is not None]
    assert any(grad.abs().max() > 0 for grad in reached)


def test_signals__together_are_the_weighted_sum_of_each_alone():
    student, teacher, batch = _everything(grad=False)
    settings = {name: {"weight": 0.1 * (place + 1), **_STRIDES.get(name, {})} for place, name in enumerate(SIGNALS)}
    alone = {
        name: read_signals({name: {**options, "weight": 1}}, *_CHANNELS).double()(student, teacher, batch).item()
        for name, options in settings.items()
    }
    signals = read_signals(settings, *_CHANNELS).double()
    expected = sum(settings[name]["weight"] * value for name, value in alone.items())
    assert signals(student, teacher, batch).item() == pytest.approx(expected)
    assert {name: value.item() for name, value in signals.parts(student, teacher, batch).items()} == pytest.approx(alone)
    assert signals.student_strides == signals.teacher_strides == (8, 16)
    again = read_signals(signals.settings, *_CHANNELS).double()
    assert again.settings == signals.settings
    assert again(student, teacher, batch).item() == signals(student, teacher, batch).item()


def test_labels_and_response__alpha_between_labels_only_and_teacher_only():
    student, teacher, batch = _everything(grad=False)
    labels = HardLabels()(student, None, batch).item()
    response = Response(2.0)(student, teacher, batch).item()
    for alpha in (0.0, 0.3, 1.0):
        signals = read_signals(labels_and_response(alpha, 2.0))
        assert signals(student, teacher, batch).item() == pytest.approx((1 - alpha) * labels + alpha * response)
    only_labels = read_signals(labels_and_response(0.0))
    assert not only_labels.uses_teacher
    assert only_labels(student, None, batch).item() == pytest.approx(labels)
    assert read_signals(labels_and_response(1.0))(student, teacher, Batch()).item() > 0  # and needs no labels
    with pytest.raises(SonokitError, match="alpha"):
        labels_and_response(1.1)


def test_signals__projections_are_theirs_and_not_the_students():
    student, teacher = build_student("micro-10k"), build_student("test_resnet", seed=1)
    keys = set(student.state_dict())
    signals = read_signals({"feature_sharing": {"strides": [8, [16, 16]]}}, student.map_channels, teacher.map_channels)
    own = dict(signals.named_parameters())
    assert sum(p.numel() for p in own.values()) == 24 * 48 + 48 * teacher.map_channels[16]
    assert set(student.state_dict()) == keys
    assert not {id(p) for p in own.values()} & {id(p) for p in (*student.parameters(), *teacher.parameters())}
    frames = torch.rand(2, 1, 32, 32)
    outputs = [
        Outputs(maps=dict(zip((8, 16), net.forward_maps(frames, (8, 16))[1], strict=True))) for net in (student, teacher)
    ]
    signals(*outputs, Batch()).backward()
    assert all(p.grad is None for p in teacher.parameters())
    assert student.model.stem[0].weight.grad.abs().max() > 0
    assert all(p.grad.abs().max() > 0 for p in own.values())
    exported = torch.export.export(student.eval(), (frames,))
    assert len(exported.graph_signature.user_inputs) == 1
    assert set(exported.graph_signature.parameters) == {name for name, _ in student.named_parameters()}


def test_signals__a_student_follows_its_teacher_within_a_few_steps():
    student, teacher = build_student("micro-10k"), build_student("test_resnet", seed=1).eval()
    judge, classify = torch.nn.Linear(teacher.num_features, 3), torch.nn.Linear(64, 3)
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    settings = {
        **labels_and_response(),
        "feature_sharing": {"strides": [8, 16]},
        "attention": {"strides": [8]},
        "relational": {},
    }
    signals = read_signals(settings, student.map_channels, teacher.map_channels)
    frames, batch = torch.rand(8, 1, 32, 32, generator=torch.Generator().manual_seed(0)), Batch(torch.arange(8) % 3)

    def says(network, head, strides):
        features, maps = network.forward_maps(frames, strides)
        return Outputs(head(features), features, dict(zip(strides, maps, strict=True)))

    taught = says(teacher, judge, signals.teacher_strides)
    learnt = [*student.parameters(), *classify.parameters(), *signals.parameters()]
    optimiser = torch.optim.AdamW(learnt, lr=1e-2)
    losses = []
    for _ in range(12):
        loss = signals(says(student, classify, signals.student_strides), taught, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert all(p.grad is None for p in (*teacher.parameters(), *judge.parameters()))
    assert all(torch.equal(before[key], value) for key, value in teacher.state_dict().items())


def test_feature_sharing__seed_decides_and_the_global_generator_stays():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    first, again, other = (FeatureSharing({8: 3}, {8: 7}, [8], seed=seed).projections[0].weight for seed in (1, 1, 2))
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"responce": {}}, "did you mean response"),
        ({"response": {"temprature": 3}}, "it has: weight, temperature, kind"),
        ({"response": {"temperature": 0}}, "temperature must be"),
        ({"region_overlap": {"args": 1}}, "no option 'args'"),
        ({"response": {"weight": -1}}, "weight of response"),
        ({"response": {"weight": float("nan")}}, "weight of response"),
        ({"response": {"weight": 0}}, "no signal has a weight"),
        ({"labels": {"kind": "one"}}, "kind must be one of"),
        ({"feature_sharing": {"strides": [4]}}, "student has no map at stride 4; it has: 8, 16"),
        ({"attention": {"strides": []}}, "at least one stride"),
        ({"attention": {"strides": [[8, 8, 8]]}}, "pairs"),
        ({"relational": {"distance": 0, "angle": 0}}, "one of them above"),
        ({"response": {"temperature": "hot"}}, "signal response: its option temperature cannot be 'hot'"),
        ({"feature_sharing": {"norm": "image", "strides": 8}}, "signal feature_sharing: its option strides cannot be 8"),
        ({"labels": {"weights": ["a"]}}, "signal labels: its option weights cannot be"),
        ({"relational": {"angle": None}}, "signal relational: its option angle cannot be None"),
    ],
)
def test_read_signals__faults_are_named(settings, said):
    with pytest.raises(SonokitError, match=said):
        read_signals(settings, *_CHANNELS)


@pytest.mark.parametrize(
    ("signal", "student", "teacher", "batch", "said"),
    [
        (Response(), Outputs(_draw(2, 3)), None, Batch(), "needs a teacher"),
        (Response(), Outputs(_draw(2, 3)), Outputs(), Batch(), "the teacher's logits"),
        (Response(), Outputs(_draw(2, 3)), Outputs(_draw(2, 1)), Batch(), r"\(2, 3\), the other's \(2, 1\)"),
        (HardLabels(), Outputs(_draw(2, 3)), None, Batch(), "needs labels"),
        (HardLabels(), Outputs(_draw(2, 3)), None, Batch(torch.ones(2)), "whole numbers"),
        (HardLabels(weights=[1, 2]), Outputs(_draw(2, 3)), None, Batch(torch.tensor([0, 1])), "2 weights for 3"),
        (AttentionTransfer([8]), Outputs(maps={4: _draw(1, 1, 2, 2)}), Outputs(), Batch(), "there are: 4"),
        (HeatMapTargets(), Outputs(heat_maps=_draw(1, 2, 4, 4)), None, Batch(heat_maps=_draw(1, 2, 8, 8)), "heat maps are"),
        (RegionOverlap(), Outputs(class_maps=_draw(1, 2, 4, 4)), None, Batch(torch.tensor([0]), _draw(1, 4, 4)), "one mask"),
    ],
)
def test_signal__what_is_missing_or_does_not_fit_is_named(signal, student, teacher, batch, said):
    with pytest.raises(SonokitError, match=said):
        signal(student, teacher, batch)
