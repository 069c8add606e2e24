import numpy as np
import pytest
from sonokit.distill.knowledge.gaze import gaze_faults
from sonokit.distill.knowledge.scanpaths import RADIOLOGISTS, ScanpathStatistics
from sonokit.distill.simulation.gaze import Looking, gaze_maps, simulate_gaze

SIZE = (200, 160)
TARGET = np.array([50.0, 120.0])
EXACT = Looking(noise=0.0, offset=0.0, dropout=0.0)


def _many(looking, n=600, rate=None):
    return [simulate_gaze(TARGET, SIZE, np.random.default_rng([9, k]), looking=looking, rate=rate) for k in range(n)]


def test_simulate_gaze__durations_have_the_quantiles_of_the_real_ones():
    lasting = np.concatenate([gaze.durations for gaze in _many(EXACT)])
    at = np.array([0.1, 0.25, 0.5, 0.75, 0.9])
    wanted = np.interp(at, np.linspace(0, 1, 21), RADIOLOGISTS.durations)
    np.testing.assert_allclose(np.quantile(lasting, at), wanted, rtol=0.04)


def test_simulate_gaze__counts_have_the_frequencies_of_the_given():
    half = ScanpathStatistics((1, 0, 3), RADIOLOGISTS.durations, RADIOLOGISTS.steps)
    counts = np.array([len(gaze) for gaze in _many(Looking(dropout=0.0, statistics=half))])
    assert set(counts.tolist()) == {1, 3}
    assert np.mean(counts == 1) == pytest.approx(0.25, abs=0.06)


def test_simulate_gaze__steps_elsewhere_have_the_real_lengths():
    looks = _many(Looking(on_target=0.0, noise=0.0, offset=0.0, dropout=0.0))
    steps = np.concatenate([np.linalg.norm(np.diff(gaze.points, axis=0), axis=1) for gaze in looks]) / SIZE[0]
    wanted = np.interp([0.25, 0.5], np.linspace(0, 1, 21), RADIOLOGISTS.steps)
    np.testing.assert_allclose(np.quantile(steps, [0.25, 0.5]), wanted, rtol=0.06)  # long ones that leave the frame are redrawn


def test_simulate_gaze__share_on_target():
    looks = _many(Looking(on_target=0.8, spread=0.001, noise=0.0, offset=0.0, dropout=0.0))
    on = [np.linalg.norm(gaze.points - TARGET, axis=1) < 2 for gaze in looks if len(gaze) > 1]
    assert np.mean([hit[0] for hit in on]) == pytest.approx(0.4, abs=0.06)
    assert np.mean(np.concatenate([hit[1:] for hit in on])) == pytest.approx(0.8, abs=0.03)


def test_simulate_gaze__dropouts_lose_fixations_and_leave_gaps_in_samples():
    whole = sum(len(gaze) for gaze in _many(EXACT))
    kept = sum(len(gaze) for gaze in _many(Looking(dropout=0.3)))
    assert kept / whole == pytest.approx(0.7, abs=0.03)
    raw = _many(Looking(dropout=0.3), n=40, rate=120)
    missing = np.concatenate([~gaze.valid for gaze in raw])
    assert missing.mean() == pytest.approx(0.3, abs=0.03)
    assert all(gaze.durations is None and gaze.valid.any() for gaze in raw)


def test_simulate_gaze__raw_samples_stand_still_in_fixations_and_move_in_saccades():
    looking = Looking(on_target=0.5, noise=0.0, offset=0.0, dropout=0.0)
    for k in range(10):
        fixations = simulate_gaze(TARGET, SIZE, np.random.default_rng(k), looking=looking)
        samples = simulate_gaze(TARGET, SIZE, np.random.default_rng(k), looking=looking, rate=500)
        np.testing.assert_allclose(np.diff(samples.times), 1 / 500)
        during = [
            (samples.times >= t) & (samples.times <= t + d) for t, d in zip(fixations.times, fixations.durations, strict=True)
        ]
        for inside, point in zip(during, fixations.points, strict=True):
            np.testing.assert_allclose(samples.points[inside], np.broadcast_to(point, (inside.sum(), 2)), atol=1e-9)
        assert (~np.any(during, axis=0)).any()  # samples of saccades are there


def test_simulate_gaze__nothing_is_wrong_with_the_recording():
    for looks in (_many(Looking(), 60), _many(Looking(dropout=0.0), 20, rate=60)):
        for gaze in looks:
            assert not {kind: number for kind, number in gaze_faults(gaze).counts.items() if number}


def test_simulate_gaze__same_generator_same_gaze():
    first, again = (simulate_gaze(TARGET, SIZE, np.random.default_rng(4)) for _ in range(2))
    np.testing.assert_array_equal(first.points, again.points)


def test_gaze_maps__peak_where_it_was_looked_at_and_cells_are_means():
    looks = _many(Looking(on_target=1.0, spread=0.0, noise=0.0, offset=0.0, dropout=0.0), n=3)
    maps = gaze_maps(looks, sigma=8.0)
    assert maps.shape == (3, 160, 200)
    assert maps.dtype == np.uint8
    for one in maps:
        assert one.max() == 255
        weighed = one.astype(float)
        row, column = np.unravel_index(one.argmax(), one.shape)
        assert weighed[110:131, 40:61].mean() > weighed.mean()
        assert one[row, column] == 255
    assert gaze_maps(looks, sigma=8.0, stride=8).shape == (3, 20, 25)
