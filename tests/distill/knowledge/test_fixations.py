import numpy as np
import pytest
from sonokit.distill.knowledge.fixations import fixations_by_dispersion, fixations_by_velocity
from sonokit.distill.knowledge.gaze import Gaze
from sonokit.errors import SonokitError


def trace() -> Gaze:
    """50 Hz: six samples at (10, 10) ± 1, two of a saccade, seven at (60, 40)."""
    still = [[10, 10], [11, 10], [10, 11], [9, 10], [10, 9], [10, 10]]
    points = np.array([*still, [25, 20], [45, 32], *([[60, 40]] * 7)], dtype=np.float64)
    return Gaze(np.arange(15) * 0.02, points, None, (100, 80))


def test_fixations_by_dispersion__of_a_hand_made_trace() -> None:
    found = fixations_by_dispersion(trace(), dispersion=5, shortest_s=0.1)
    np.testing.assert_allclose(found.points, [[10, 10], [60, 40]])
    np.testing.assert_allclose(found.times, [0.0, 0.16])
    np.testing.assert_allclose(found.durations, [0.1, 0.12])


def test_fixations_by_dispersion__the_sum_of_both_spreads_decides() -> None:
    # the first six spread over 2 + 2 = 4: a limit just below makes them no fixation as a whole
    found = fixations_by_dispersion(trace(), dispersion=3.9, shortest_s=0.1)
    np.testing.assert_allclose(found.points, [[60, 40]])
    assert len(fixations_by_dispersion(trace(), dispersion=4, shortest_s=0.1)) == 2


def test_fixations_by_dispersion__too_short_is_none() -> None:
    assert len(fixations_by_dispersion(trace(), dispersion=5, shortest_s=0.121)) == 0
    np.testing.assert_allclose(fixations_by_dispersion(trace(), dispersion=5, shortest_s=0.11).times, [0.16])


@pytest.mark.parametrize("method", ["dispersion", "velocity"])
def test_fixations__a_gap_ends_them_and_a_short_blink_does_not(method: str) -> None:
    times = np.arange(40) * 0.02
    points = np.full((40, 2), 30.0)
    points[10:12] = np.nan  # 0.06 s between neighbours: within 0.075
    points[25:30] = np.nan  # 0.12 s: beyond
    gaze = Gaze(times, points, None, (100, 80))
    find = fixations_by_dispersion if method == "dispersion" else fixations_by_velocity
    found = find(gaze, **{method: 5.0}, shortest_s=0.1)  # type: ignore[operator]
    np.testing.assert_allclose(found.times, [0.0, 0.6])
    np.testing.assert_allclose(found.durations, [0.48, 0.18])


def test_fixations_by_velocity__of_a_hand_made_trace() -> None:
    # steps within the first part are at most √2 px in 20 ms = 71 px/s, those of the saccade above 900 px/s
    found = fixations_by_velocity(trace(), velocity=100, shortest_s=0.1)
    np.testing.assert_allclose(found.points, [[10, 10], [60, 40]])
    np.testing.assert_allclose(found.times, [0.0, 0.16])
    np.testing.assert_allclose(found.durations, [0.1, 0.12])


def test_fixations_by_dispersion__equals_the_published_steps() -> None:
    rng = np.random.default_rng(3)
    points = np.cumsum(rng.normal(0, 1.5, (120, 2)), axis=0) + 40
    times = np.arange(120) * 0.01
    found = fixations_by_dispersion(Gaze(times, points, None, (80, 80)), dispersion=8, shortest_s=0.05)

    expected, start = [], 0  # Salvucci and Goldberg's pseudocode, point by point
    while start + 5 < 120:
        stop = start + 6  # 6 samples last 0.05 s
        if sum(np.ptp(points[start:stop], axis=0)) <= 8:
            while stop < 120 and sum(np.ptp(points[start : stop + 1], axis=0)) <= 8:
                stop += 1
            expected.append((times[start], *points[start:stop].mean(axis=0), times[stop - 1] - times[start]))
            start = stop
        else:
            start += 1
    assert len(expected) > 3
    assert found.durations is not None
    np.testing.assert_allclose(np.column_stack([found.times, found.points, found.durations]), expected)


def test_fixations__refusals() -> None:
    gaze = trace()
    backward = gaze.select(np.arange(15)[::-1])
    with pytest.raises(SonokitError, match="14 times go backward"):
        fixations_by_dispersion(backward, dispersion=5)
    with pytest.raises(SonokitError, match="these are fixations already"):
        fixations_by_velocity(Gaze(gaze.times, gaze.points, np.ones(15), gaze.size), velocity=5)
    with pytest.raises(SonokitError, match="dispersion must be a positive number"):
        fixations_by_dispersion(gaze, dispersion=0)
    nobody = gaze.select(np.zeros(15, dtype=bool))
    assert len(fixations_by_dispersion(nobody, dispersion=5)) == len(fixations_by_velocity(nobody, velocity=5)) == 0
