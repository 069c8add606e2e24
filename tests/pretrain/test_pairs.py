import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sonokit.errors import SonokitError
from sonokit.pretrain.pairs import (
    NearbyFrames,
    SamplePairs,
    TwoViews,
    draw_frames,
    pair_policy_named,
    sample_pair_generation,
)


def times(frames: int) -> np.ndarray:
    """Seconds of frames at 10 Hz."""
    return np.arange(frames) / 10


@given(frame_count=st.integers(1, 40), n=st.integers(1, 5), seed=st.integers(0, 1000))
def test_draw_frames__distinct_and_in_range(frame_count, n, seed):
    chosen = draw_frames(frame_count, n, np.random.default_rng(seed))
    assert len(chosen) == len(set(chosen.tolist())) == min(n, frame_count)
    assert set(chosen.tolist()) <= set(range(frame_count))


def test_draw_frames__every_order_occurs():
    orders = {tuple(draw_frames(3, 3, np.random.default_rng(s)).tolist()) for s in range(100)}
    assert len(orders) == 6


def test_sample_pair_generation__lam_1_and_0_return_frames():
    anchor, first, second = torch.rand(3, 4, 1, 5, 5)
    one, zero = torch.ones(4), torch.zeros(4)
    v1, v2 = sample_pair_generation(anchor, first, second, one)
    assert torch.equal(v1, first)
    assert torch.equal(v2, second)
    v1, v2 = sample_pair_generation(anchor, first, second, zero)
    assert torch.equal(v1, anchor)
    assert torch.equal(v2, anchor)
    v1, v2 = sample_pair_generation(anchor, first, second, (one, zero))
    assert torch.equal(v1, first)
    assert torch.equal(v2, anchor)


def test_sample_pair_generation__hand_value():
    anchor, first, second = (torch.full((2, 1, 1, 1), v) for v in (0.0, 1.0, 0.5))
    v1, v2 = sample_pair_generation(anchor, first, second, torch.tensor([0.25, 0.5]))
    assert v1.flatten().tolist() == [0.25, 0.5]
    assert v2.flatten().tolist() == [0.125, 0.25]


@pytest.mark.parametrize("independent", [False, True])
def test_sample_pairs__lam_shared_or_independent(independent):
    policy = SamplePairs(independent=independent)
    draws = np.array([policy.draw(times(9), 10.0, np.random.default_rng(s)).lam for s in range(2000)])
    assert np.array_equal(draws[:, 0], draws[:, 1]) != independent
    # Beta(½, ½): mean ½, variance 1/8
    np.testing.assert_allclose(draws[:, 0].mean(), 0.5, atol=0.03)
    np.testing.assert_allclose(draws[:, 0].var(), 0.125, atol=0.01)


def test_sample_pairs__short_clips_are_not_mixed():
    for frame_count, distinct in ((1, 1), (2, 2)):
        for seed in range(20):
            draw = SamplePairs(independent=True).draw(times(frame_count), 10.0, np.random.default_rng(seed))
            assert draw.lam.tolist() == [1.0, 1.0]
            assert draw.frames.shape == (3,)
            assert len({draw.frames[0], draw.frames[2]}) == distinct


def test_sample_pairs__views_are_first_and_second_where_not_mixed():
    frames = torch.rand(2, 3, 1, 4, 4)
    v1, v2 = SamplePairs().views(frames, torch.ones(2, 2))
    assert torch.equal(v1, frames[:, 0])
    assert torch.equal(v2, frames[:, 2])


def test_two_views__one_frame_twice():
    draw = TwoViews().draw(times(7), 10.0, np.random.default_rng(0))
    assert draw.frames[0] == draw.frames[1]
    frames = torch.rand(2, 2, 1, 4, 4)
    v1, v2 = TwoViews().views(frames, torch.ones(2, 2))
    assert torch.equal(v1, frames[:, 0])
    assert torch.equal(v2, frames[:, 1])


def test_pair_policy_named__faults():
    with pytest.raises(SonokitError, match="two_views"):
        pair_policy_named("moco")
    with pytest.raises(SonokitError, match="alpha"):
        pair_policy_named("sample_pairs", alpha=0)


def test_nearby_frames__weight_by_hand_and_never_beyond_reach():
    policy = NearbyFrames(seconds=0.5)  # D = 5 frames at 10 Hz
    seen = {}
    for seed in range(400):
        draw = policy.draw(times(30), 10.0, np.random.default_rng(seed))
        first, second = draw.frames
        seen.setdefault(abs(int(first - second)), set()).add(round(draw.weight, 9))
        assert draw.lam.tolist() == [1, 1]
    assert set(seen) == set(range(6))
    assert seen == {distance: {round((5 - distance + 1) / 6, 9)} for distance in range(6)}


def test_nearby_frames__reach_is_in_seconds_whatever_frames_were_kept():
    every_eighth = times(80)[::8]  # cached frames lie 0.8 s apart, so only the frame itself is within half a second
    for seed in range(30):
        draw = NearbyFrames(seconds=0.5).draw(every_eighth, 10.0, np.random.default_rng(seed))
        assert draw.frames[0] == draw.frames[1]
        assert draw.weight == 1


def test_nearby_frames__all_second_frames_within_reach_are_equally_likely():
    policy = NearbyFrames(seconds=0.2)
    distances = [np.diff(policy.draw(times(3), 10.0, np.random.default_rng(s)).frames)[0] for s in range(6000)]
    # first and second are independent and uniform over three frames: distance 0 in 3 of 9 cases, ±1 in 2 of 9, ±2 in 1 of 9
    share = {d: np.mean(np.array(distances) == d) for d in range(-2, 3)}
    for distance, expected in {-2: 1 / 9, -1: 2 / 9, 0: 3 / 9, 1: 2 / 9, 2: 1 / 9}.items():
        assert share[distance] == pytest.approx(expected, abs=0.025)


@pytest.mark.parametrize("frames", [1, 7])
def test_nearby_frames__unknown_frame_rate_gives_one_frame_twice(frames):
    unknown = np.where(np.arange(frames) == 0, 0.0, np.nan)
    draw = NearbyFrames().draw(unknown, float("nan"), np.random.default_rng(0))
    assert draw.frames[0] == draw.frames[1]
    assert draw.weight == 1


def test_pair_policy_named__refuses_negative_seconds():
    with pytest.raises(SonokitError, match="pair_seconds must be 0 or more"):
        pair_policy_named("nearby_frames", seconds=-1)
