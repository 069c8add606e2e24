import numpy as np
import pytest
from scipy import stats
from sonokit.clips.simulation import speckle

SPREAD = speckle.PointSpread(axial=1.1, focus=1.7, far=3.0, focal_row=40)


@pytest.fixture(scope="module")
def field():
    white = speckle.scatterers((6, 160, 200), np.random.default_rng(0))
    return speckle.blur(white, SPREAD)


def test_envelope__of_blurred_scatterers_is_rayleigh(field):
    envelope = speckle.envelope(field)[:, 10:-10, 10:-10]
    theory = stats.rayleigh.mean() / stats.rayleigh.std()  # 1.913
    assert envelope.mean() / envelope.std() == pytest.approx(theory, abs=0.05)
    scale = np.sqrt((envelope**2).mean() / 2)
    # Samples far apart are independent: the whole distribution is Rayleigh, not just two moments.
    sparse = envelope[:, ::12, ::16].ravel()
    assert stats.kstest(sparse, stats.rayleigh(scale=scale).cdf).pvalue > 0.01


def test_blur__keeps_the_power_at_every_depth(field):
    power = (np.abs(field) ** 2).mean(axis=(0, 2))  # [Z]
    bands = power.reshape(8, 20).mean(axis=1)
    assert bands == pytest.approx(np.ones(8), abs=0.12)


def test_blur__correlates_as_two_gaussians_would(field):
    # A Gaussian of standard deviation s gives white noise the autocorrelation exp(-lag**2 / 4 s**2).
    focus = field[:, 38:43]
    for lag in (1, 2, 4):
        measured = np.vdot(focus[..., :-lag], focus[..., lag:]).real / np.vdot(focus[..., lag:], focus[..., lag:]).real
        assert measured == pytest.approx(np.exp(-(lag**2) / (4 * SPREAD.focus**2)), abs=0.06)
    axial = np.vdot(field[:, :-2], field[:, 2:]).real / np.vdot(field[:, 2:], field[:, 2:]).real
    assert axial == pytest.approx(np.exp(-(2**2) / (4 * SPREAD.axial**2)), abs=0.06)


def test_blur__matches_a_convolution_written_out():
    point = np.zeros((41, 41), dtype=np.complex64)
    point[20, 20] = 2j
    spread = speckle.PointSpread(axial=1.5, focus=2.0, far=2.0, focal_row=20)
    lag = np.arange(41) - 20

    def kernel(sigma):
        k = np.where(np.abs(lag) <= int(3 * sigma + 0.5), np.exp(-0.5 * (lag / sigma) ** 2), 0)
        return k / np.sqrt((k**2).sum())

    np.testing.assert_allclose(speckle.blur(point, spread), 2j * np.outer(kernel(1.5), kernel(2.0)), atol=1e-5)


def test_moving_scatterers__shift_whole_beams_and_keep_power():
    moving = speckle.MovingScatterers(50, 60, 6, 1.0, np.random.default_rng(1))
    still, moved, half = moving.take(np.array([0.0, 3.0, 0.5]))
    np.testing.assert_array_equal(moved[:, 3:], still[:, :-3])
    assert (np.abs(half) ** 2).mean() == pytest.approx(1, abs=0.08)


def test_moving_scatterers__forget_as_memory_says():
    moving = speckle.MovingScatterers(100, 100, 1, 0.8, np.random.default_rng(2))
    frames = moving.take(np.zeros(4))
    for lag in (1, 2, 3):
        correlation = np.vdot(frames[0], frames[lag]).real / frames[0].size
        assert correlation == pytest.approx(0.8**lag, abs=0.04)


def test_log_compress__known_levels():
    amplitude = np.array([1.0, 0.1, 1e-3, 10.0, 0.0])
    np.testing.assert_allclose(speckle.log_compress(amplitude, 0.0, 40.0), [1, 0.5, 0, 1, 0], atol=1e-6)
    np.testing.assert_allclose(speckle.log_compress(amplitude, -20.0, 40.0), [0.5, 0, 0, 1, 0], atol=1e-6)
