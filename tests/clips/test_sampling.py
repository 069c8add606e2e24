import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sonokit.clips.sampling import Sampling, at_rate, evenly_spaced
from sonokit.errors import SonokitError


def test_evenly_spaced__hand_values():
    assert evenly_spaced(8, 4).tolist() == [1, 3, 5, 7]
    assert evenly_spaced(10, 3).tolist() == [1, 5, 8]
    assert evenly_spaced(5, 1).tolist() == [2]
    assert evenly_spaced(3, 16).tolist() == [0, 1, 2]
    assert evenly_spaced(1, 16).tolist() == [0]


@given(st.integers(1, 10_000), st.integers(1, 200))
def test_evenly_spaced__distinct_and_at_the_centres(frame_count: int, count: int):
    chosen = evenly_spaced(frame_count, count)
    assert chosen.dtype == np.int64
    assert len(chosen) == min(count, frame_count)
    assert (np.diff(chosen) > 0).all()
    assert chosen[0] >= 0
    assert chosen[-1] < frame_count
    if frame_count > count:
        assert chosen.tolist() == [math.floor((i + Fraction(1, 2)) * frame_count / count) for i in range(count)]


def test_at_rate__hand_values():
    assert at_rate(10, 30.0, 10.0).tolist() == [0, 3, 6, 9]
    assert at_rate(9, 25.0, 10.0).tolist() == [0, 3, 5, 8]  # 0, 2.5, 5, 7.5
    assert at_rate(2, 30.0, 1.0).tolist() == [0]


@pytest.mark.parametrize("frame_rate", [math.nan, math.inf, 0.0, -1.0, 5.0, 10.0])
def test_at_rate__every_frame_of_a_slow_or_unknown_clip(frame_rate: float):
    assert at_rate(4, frame_rate, 10.0).tolist() == [0, 1, 2, 3]


@given(st.integers(1, 3000), st.floats(0.5, 200), st.floats(0.05, 100))
def test_at_rate__distinct_and_nearest(frame_count: int, frame_rate: float, rate_hz: float):
    chosen = at_rate(frame_count, frame_rate, rate_hz)
    assert len(chosen) >= 1
    assert (np.diff(chosen) > 0).all()
    assert 0 <= chosen[0] <= chosen[-1] < frame_count
    if frame_rate > rate_hz:
        wanted = np.arange(len(chosen)) / rate_hz
        assert (np.abs(chosen / frame_rate - wanted) <= 0.5 / frame_rate + 1e-9).all()
        assert frame_count / frame_rate - chosen[-1] / frame_rate <= 1 / rate_hz + 1 / frame_rate + 1e-9  # reaches the end


def test_sampling__dispatches():
    assert Sampling().choose(100, 25.0).tolist() == evenly_spaced(100, 16).tolist()
    assert Sampling(frames=None, rate_hz=5.0).choose(100, 25.0).tolist() == list(range(0, 100, 5))


@pytest.mark.parametrize(
    ("frames", "rate_hz"), [(None, None), (16, 5.0), (0, None), (-3, None), (None, 0.0), (None, math.nan), (None, math.inf)]
)
def test_sampling__refuses(frames, rate_hz):
    with pytest.raises(SonokitError):
        Sampling(frames=frames, rate_hz=rate_hz)
