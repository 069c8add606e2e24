import numpy as np
import pytest
from PIL import Image
from sonokit.clips.letterbox import letterbox
from sonokit.distill.placement import fitted, place_image
from sonokit.errors import SonokitError


@pytest.mark.parametrize("keep_shape", [True, False])
@pytest.mark.parametrize("stride", [1, 4])
def test_placement__is_undone_exactly(keep_shape: bool, stride: int) -> None:
    placement = fitted((387, 480), (256, 224), keep_shape=keep_shape).at_stride(stride)
    points = np.random.default_rng(0).uniform(0, 400, (7, 19, 2))
    np.testing.assert_allclose(placement.to_original(placement.to_input(points)), points, atol=1e-9)


def test_placement__edges_and_centres_by_hand() -> None:
    half = fitted((100, 60), (50, 50))
    assert (half.inner, half.offset) == ((50, 30), (0, 10))
    # the centre of pixel 0 of 2 that become one is a quarter of the new pixel from its edge: -0.25
    np.testing.assert_allclose(
        half.to_input(np.array([[0.0, 0.0], [99.5, 59.5], [-0.5, -0.5]])), [[-0.25, 9.75], [49.5, 39.5], [-0.5, 9.5]]
    )
    cells = half.at_stride(2)
    np.testing.assert_allclose(cells.to_input(np.array([-0.5, -0.5])), [-0.5, 4.5])  # edges stay edges
    np.testing.assert_allclose(cells.scale, [0.25, 0.25])
    np.testing.assert_allclose(fitted((100, 60), (50, 50), keep_shape=False).scale, [0.5, 50 / 60])


@pytest.mark.parametrize("shape", [(53, 97), (97, 53), (64, 64), (1, 200)])
def test_place_image__in_a_square_is_the_letterbox(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(place_image(image, fitted(shape[::-1], (64, 64))), letterbox(image, 64))


@pytest.mark.parametrize("keep_shape", [True, False])
def test_place_image__a_spot_lies_where_its_point_does(keep_shape: bool) -> None:
    rows, columns = np.mgrid[:240, :320]
    spot = np.array([181.3, 77.8])
    image = (200 * np.exp(-((columns - spot[0]) ** 2 + (rows - spot[1]) ** 2) / (2 * 9.0**2))).round().astype(np.uint8)
    placement = fitted((320, 240), (128, 112), keep_shape=keep_shape)
    placed = place_image(image, placement).astype(np.float64)
    assert placed.shape == (112, 128)
    rows, columns = np.mgrid[:112, :128]
    centre = [(placed * columns).sum() / placed.sum(), (placed * rows).sum() / placed.sum()]
    np.testing.assert_allclose(centre, placement.to_input(spot), atol=0.03)


def test_placement__refusals() -> None:
    with pytest.raises(SonokitError, match="at least 1"):
        fitted((0, 5), (4, 4))
    with pytest.raises(SonokitError, match="the image is 4 × 3"):
        place_image(np.asarray(Image.new("L", (4, 3))), fitted((3, 4), (8, 8)))
