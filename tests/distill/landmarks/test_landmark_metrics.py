import numpy as np
import pytest
from sonokit.distill.landmarks.metrics import (
    landmark_scores,
    paired_differences,
    radial_errors,
    score_intervals,
    scores_by_landmark,
)
from sonokit.errors import SonokitError
from sonokit.evaluation.bootstrap import paired_difference

TRUTH = np.array([[[10.0, 10], [20, 30]], [[0, 0], [5, 5]]])
SPACING = np.array([[0.5, 0.25], [0.1, 0.2]])  # mm a pixel along x, along y


def test_radial_errors__anisotropic_by_hand() -> None:
    predicted = TRUTH + np.array([[[6.0, 16], [0, -8]], [[-30, 0], [3, 2]]])
    # (3, 4) mm -> 5; (0, -2) -> 2; (-3, 0) -> 3; (.3, .4) -> .5
    errors = radial_errors(predicted, TRUTH, SPACING)
    np.testing.assert_allclose(errors, [[5, 2], [3, 0.5]])
    scores = landmark_scores(errors)
    assert scores.mre == pytest.approx(10.5 / 4)
    assert scores.sd == pytest.approx(np.sqrt(((5 - 2.625) ** 2 + 0.625**2 + 0.375**2 + 2.125**2) / 3))
    # the boundary rule: an error of exactly 2 is no detection within 2, one of exactly 3 none within 3
    assert scores.sdr == {2.0: 25.0, 2.5: 50.0, 3.0: 50.0, 4.0: 75.0}
    assert (scores.landmarks, scores.missed, scores.absent) == (4, 0, 0)
    np.testing.assert_allclose(radial_errors(predicted, TRUTH, None)[1], [30, np.sqrt(13)])
    np.testing.assert_allclose(radial_errors(predicted, TRUTH, (0.5, 0.25))[0], [5, 2])


@pytest.mark.parametrize(
    ("steps", "spacing"), [((12, 16), 0.1), ((3, 4), 0.4), ((20, 0), 0.1), ((1.2, 1.6), 1.0), ((0, 6), 1 / 3)]
)
def test_landmark_scores__the_boundary_is_the_same_for_every_spacing(steps: tuple[float, float], spacing: float) -> None:
    truth = np.full((1, 1, 2), 100.7)
    errors = radial_errors(truth + np.array(steps), truth, (spacing, spacing))  # each exactly 2 mm, but for rounding
    assert landmark_scores(errors).sdr == {2.0: 0.0, 2.5: 100.0, 3.0: 100.0, 4.0: 100.0}
    closer = radial_errors(truth + np.array(steps) * 0.9999, truth, (spacing, spacing))
    assert landmark_scores(closer).sdr[2.0] == 100.0


def test_radial_errors__absent_and_missed() -> None:
    truth, predicted = TRUTH.copy(), TRUTH + np.array([2.0, 0])
    truth[0, 0] = np.nan
    predicted[1, 1] = np.nan
    errors = radial_errors(predicted, truth, SPACING)
    np.testing.assert_array_equal(errors, [[np.nan, 1.0], [0.2, np.inf]])
    scores = landmark_scores(errors)
    assert scores.mre == pytest.approx(0.6)
    assert scores.sdr[4.0] == pytest.approx(200 / 3)  # the missed one is a miss, the absent one does not count
    assert (scores.landmarks, scores.missed, scores.absent) == (3, 1, 1)
    first, second = scores_by_landmark(errors, ("tip", "root"))
    assert (first["landmark"], first["mre"], first["sd"], first["sdr_2.5"]) == ("tip", pytest.approx(0.2), None, 100.0)
    assert (second["landmark"], second["missed"], second["sdr_4"]) == ("root", 1, 50.0)


@pytest.mark.parametrize("spacing", [np.array([[0.5, 0.5], [np.nan, 0.5]]), (0.0, 1.0), np.ones((3, 2))])
def test_radial_errors__spacing_that_is_none(spacing: np.ndarray) -> None:
    with pytest.raises(SonokitError, match="spacing must be positive"):
        radial_errors(TRUTH, TRUTH, spacing)


def test_radial_errors__other_shapes() -> None:
    with pytest.raises(SonokitError, match="images, landmarks, 2"):
        radial_errors(TRUTH[:1], TRUTH, None)


def some_errors(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    errors = rng.gamma(2, 1.2, (24, 5))
    errors[3, 1] = np.nan
    errors[7, 2] = np.inf
    return errors


def test_paired_differences__equal_resampling_row_by_row() -> None:
    a, b = some_errors(0), some_errors(1)
    patients = np.array([f"p{k // 2}" for k in range(24)])
    found = paired_differences(a, b, patients, n=200, seed=4)
    for name, read in (("mre", lambda scores: scores.mre), ("sdr_2.5", lambda scores: scores.sdr[2.5])):
        expected = paired_difference(
            lambda rows, read=read: read(landmark_scores(a[rows])),
            lambda rows, read=read: read(landmark_scores(b[rows])),
            patients,
            n=200,
            seed=4,
        )
        assert (found[name].value, found[name].low, found[name].high) == pytest.approx(
            (expected.value, expected.low, expected.high)
        )


def test_paired_differences__of_itself_and_of_other_images() -> None:
    a = some_errors(0)
    images = np.arange(24)
    assert all((figure.low, figure.high) == (0, 0) for figure in paired_differences(a, a, images, n=50).values())
    with pytest.raises(SonokitError, match="cannot be compared"):
        paired_differences(a, np.abs(np.random.default_rng(0).normal(size=(24, 5))), images)


def test_score_intervals__mean_over_seeds() -> None:
    several = np.stack([some_errors(0), some_errors(1), some_errors(2)])
    found = score_intervals(several, np.arange(24), n=100)
    assert found["mre"].value == pytest.approx(np.mean([landmark_scores(errors).mre for errors in several]))
    assert found["sdr_2"].value == pytest.approx(np.mean([landmark_scores(errors).sdr[2.0] for errors in several]))
    assert found["mre"].low < found["mre"].value < found["mre"].high
