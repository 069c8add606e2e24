import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sonokit.errors import SonokitError
from sonokit.features.extractors.biomarkers import (
    BiomarkerExtractor,
    BiomarkerHead,
    SegmentPlan,
    masked_loss,
    positive_weights,
    segment_features,
)

NAN = float("nan")


@pytest.mark.parametrize(
    ("plan", "frames", "expected"),
    [
        (SegmentPlan(4, 4), 16, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]),
        (SegmentPlan(16, 1), 3, [[0], [1], [2]]),
        (SegmentPlan(2, 1), 10, [[2], [7]]),
        (SegmentPlan(2, 4), 4, [[0, 0, 1, 1], [2, 2, 3, 3]]),
        (SegmentPlan(4, 2), 1, [[0, 0]]),
        (SegmentPlan(2, 2), 5, [[0, 1], [2, 4]]),
    ],
)
def test_segment_plan__cuts_by_hand(plan, frames, expected):
    assert plan.choose(frames).tolist() == expected


@given(st.integers(1, 20), st.integers(1, 6), st.integers(1, 200))
def test_segment_plan__every_segment_has_frames_of_its_own(segments, frames, count):
    chosen = SegmentPlan(segments, frames).choose(count)
    assert chosen.shape == (min(segments, count), frames)
    assert chosen.min() >= 0
    assert chosen.max() < count
    flat = chosen.flatten()
    assert (flat.diff() >= 0).all()
    assert not {*chosen[0].tolist()} & {*chosen[-1].tolist()} or len(chosen) == 1


def test_segment_plan__needs_a_frame():
    with pytest.raises(SonokitError, match="at least 1"):
        SegmentPlan(0, 1)


def test_masked_loss__by_hand():
    logits = torch.tensor([[0.0, 1.0], [1.0, 5.0]])
    labels = torch.tensor([[1.0, 0.0], [0.0, NAN]])
    weight = torch.tensor([3.0, 1.0])
    first = (3 * math.log(2) + math.log(1 + math.e)) / 2  # −3·log σ(0), −log(1 − σ(1))
    second = math.log(1 + math.e)
    assert masked_loss(logits, labels, weight).item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_masked_loss__smoothing_touches_negatives_alone():
    weight = torch.ones(1)
    logits = torch.tensor([[0.7]])
    positive = masked_loss(logits, torch.ones(1, 1), weight, 0.1)
    assert positive.item() == pytest.approx(math.log(1 + math.exp(-0.7)), rel=1e-6)
    negative = masked_loss(logits, torch.zeros(1, 1), weight, 0.1)
    by_hand = 0.1 * math.log(1 + math.exp(-0.7)) + 0.9 * math.log(1 + math.exp(0.7))
    assert negative.item() == pytest.approx(by_hand, rel=1e-6)


def test_masked_loss__unknowns_get_no_gradient_and_nothing_known_is_no_loss():
    logits = torch.zeros(2, 2, requires_grad=True)
    masked_loss(logits, torch.tensor([[1.0, NAN], [NAN, 0.0]]), torch.ones(2)).backward()
    assert (logits.grad == torch.tensor([[-0.25, 0.0], [0.0, 0.25]])).all()
    assert masked_loss(logits, torch.full((2, 2), NAN), torch.ones(2)).item() == 0


def test_positive_weights__negatives_a_positive_within_limits():
    labels = torch.full((100, 4), NAN)
    labels[:8, 0] = torch.tensor([1.0, 1, 0, 0, 0, 0, 0, 0])
    labels[:, 1] = 0
    labels[0, 1] = 1
    labels[:3, 2] = 0
    assert positive_weights(labels).tolist() == [3.0, 10.0, 1.0, 1.0]


def test_head__standardises_on_what_it_was_given():
    features = torch.from_numpy(np.random.default_rng(0).normal(5, 3, size=(50, 4)).astype(np.float32))
    head = BiomarkerHead(4, 2, embedding=6)
    head.standardise_on(features)
    standardised = (features - head.centre) / head.scale
    np.testing.assert_allclose(standardised.mean(dim=0), 0, atol=1e-5)
    np.testing.assert_allclose(standardised.std(dim=0, unbiased=False), 1, atol=1e-5)
    embedding, logits = head(features)
    assert embedding.shape == (50, 6)
    assert logits.shape == (50, 2)


def test_extractor__is_backbone_then_mean_then_head(backbone):
    extractor = BiomarkerExtractor(backbone, ("a", "b"), plan=SegmentPlan(2, 3), size=32).eval()
    frames = torch.rand(2, 2, 3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        embedding, logits = extractor(frames)
        one = torch.stack([backbone(frames[1, 0, f][None])[0] for f in range(3)]).mean(dim=0)
        expected_embedding, expected_logits = extractor.head(one)
    assert embedding.shape == (2, 2, 128)
    torch.testing.assert_close(embedding[1, 0], expected_embedding, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(logits[1, 0], expected_logits, atol=1e-5, rtol=1e-4)
    assert extractor.clip_logits(logits).shape == (2, 2)


def test_segment_features__temporal_shift_stays_within_a_segment():
    from sonokit.backbones.build import build_backbone

    shifting, unshifted = (build_backbone("resnet10t", temporal_shift=shift, seed=0).eval() for shift in (0.25, 0.0))
    for model in (shifting, unshifted):  # timm begins with residual branches that add nothing
        for norm in (m for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)):
            torch.nn.init.ones_(norm.weight)
    frames = torch.rand(2, 3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    other = frames.clone()
    other[1] = 0
    with torch.inference_mode():
        a, b = segment_features(shifting, frames), segment_features(shifting, other)
        still = segment_features(unshifted, frames)
    torch.testing.assert_close(a[0], b[0], atol=1e-5, rtol=1e-4)
    assert not torch.allclose(a[0], still[0], atol=1e-3)


def test_head__weights_saved_before_there_was_a_calibration_load_without_one():
    head = BiomarkerHead(4, 2, embedding=6)
    old = {key: value for key, value in head.state_dict().items() if not key.startswith("calibration")}
    other = BiomarkerHead(4, 2, embedding=6)
    other.load_state_dict(old)
    features = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    _, logits = other(features)
    assert torch.equal(logits, head(features)[1])
    assert torch.equal(other.probabilities(logits), logits.sigmoid())
    assert "calibration_slope" not in old  # the caller's weights stay as they were


def test_head__calibration_by_hand():
    head = BiomarkerHead(4, 2, embedding=6)
    head.calibrate([2.0, 1.0], [-1.0, 0.0])
    found = head.probabilities(torch.tensor([[[0.5, 0.5]]]))
    assert found.shape == (1, 1, 2)
    np.testing.assert_allclose(found[0, 0].numpy(), [0.5, 1 / (1 + math.exp(-0.5))], rtol=1e-6)


def test_head__attention_is_the_classifier_on_each_biomarkers_weighted_mean_embedding():
    torch.manual_seed(0)
    head = BiomarkerHead(4, 2, embedding=6, pooling="attention").eval()
    torch.nn.init.normal_(head.attention.score.weight)
    features, present = torch.randn(1, 3, 4), torch.tensor([[True, True, False]])
    with torch.inference_mode():
        embedding, logits = head(features)
        pooled = head.pool(logits, present, embedding)
        for biomarker in range(2):
            weights = head.attention(embedding)[0, :2, biomarker].softmax(dim=0)
            mean = (weights[:, None] * embedding[0, :2]).sum(dim=0)
            assert pooled[0, biomarker].item() == pytest.approx(head.classify(mean)[biomarker].item(), rel=1e-5)
    with pytest.raises(SonokitError, match="give clip_logits the embedding"):
        head.pool(logits, present)


def test_head__noisy_or_begins_at_even_odds_where_the_features_say_nothing():
    head = BiomarkerHead(4, 2, embedding=6, pooling="noisy_or", segments=16)
    torch.nn.init.zeros_(head.classify.weight)
    embedding, logits = head(torch.randn(1, 16, 4))
    assert head.pool(logits, None, embedding).sigmoid().tolist() == [[pytest.approx(0.5, abs=1e-5)] * 2]
