import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp, ttest_rel
from sonokit.distill.study.over_seeds import differences_over_seeds, over_seeds
from sonokit.errors import SonokitError


def test_over_seeds__is_the_t_interval_of_the_mean():
    values = [0.61, 0.70, 0.66, 0.72, 0.58]
    found = over_seeds(values)
    expected = ttest_1samp(values, 0).confidence_interval(0.95)
    assert found.value == pytest.approx(0.654)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.high - found.value == pytest.approx(2.7764 * np.std(values, ddof=1) / math.sqrt(5), rel=1e-4)


def test_over_seeds__undefined_values_are_left_out_and_one_alone_has_no_interval():
    assert over_seeds([1.0, math.nan, 3.0]) == over_seeds([1.0, 3.0])
    alone = over_seeds([2.0])
    assert alone.value == 2.0
    assert math.isnan(alone.low)
    assert alone.reason
    assert math.isnan(over_seeds([]).value)


def test_differences_over_seeds__are_paired():
    scores = {"a": [0.7, 0.8, 0.9], "b": [0.6, 0.75, 0.8]}
    found = differences_over_seeds(scores, [("a", "b")])
    expected = ttest_rel(scores["a"], scores["b"]).confidence_interval(0.95)
    assert list(found) == ["a - b"]
    assert (found["a - b"].low, found["a - b"].high) == pytest.approx((expected.low, expected.high))
    with pytest.raises(SonokitError, match="cannot be paired"):
        differences_over_seeds({"a": [1.0], "b": [1.0, 2.0]}, [("a", "b")])
