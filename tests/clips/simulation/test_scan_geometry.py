import numpy as np
import pytest
from sonokit.clips.simulation.scan_geometry import BeamGrid, Probe, ScanConverter

CONVEX = BeamGrid(Probe("convex", 100.0, radius_mm=50.0, angle_deg=60.0), rows=201, beams=121)
LINEAR = BeamGrid(Probe("linear", 50.0, width_mm=40.0), rows=101, beams=81)


@pytest.mark.parametrize("grid", [CONVEX, LINEAR])
def test_scan_converter__black_outside_and_white_inside(grid):
    convert = ScanConverter(grid, 160, 200)
    picture = convert(np.ones((2, grid.rows, grid.beams)))
    assert picture.shape == (2, 160, 200)
    assert not picture[:, ~convert.mask].any()
    np.testing.assert_allclose(picture[:, convert.mask], 1, atol=1e-5)


def test_mask__convex_is_the_ring_segment_of_the_formula():
    convert = ScanConverter(CONVEX, 160, 200)
    rows, columns = np.mgrid[:160, :200]
    x = (columns - 99.5) * convert.mm_per_pixel
    y = (rows - convert.skin_row) * convert.mm_per_pixel
    radius, angle = np.hypot(x, y + 50), np.degrees(np.arctan2(x, y + 50))
    inside = (radius > 50.3) & (radius < 149.7) & (np.abs(angle) < 29.8)
    outside = (radius < 49.7) | (radius > 150.3) | (np.abs(angle) > 30.2)
    assert convert.mask[inside].all()
    assert not convert.mask[outside].any()


def test_mask__linear_is_a_rectangle_of_the_right_shape():
    mask = ScanConverter(LINEAR, 160, 200).mask
    tall, wide = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    assert mask[np.ix_(tall, wide)].all()
    assert len(tall) / len(wide) == pytest.approx(50 / 40, rel=0.03)


@pytest.mark.parametrize("grid", [CONVEX, LINEAR])
def test_scan_converter__a_depth_lands_where_millimetres_say(grid):
    beams = np.zeros((1, grid.rows, grid.beams))
    row = grid.rows // 2
    beams[0, row] = 1
    convert = ScanConverter(grid, 300, 300)
    middle = convert(beams)[0, :, 149:151].mean(axis=1)
    assert abs(np.argmax(middle) - (convert.skin_row + grid.depth_mm[row] / convert.mm_per_pixel)) <= 1


def test_lateral_mm__convex_arc_length_linear_width():
    assert np.ptp(CONVEX.lateral_mm(20.0)) == pytest.approx(np.pi / 3 * 70, rel=1e-5)
    assert np.ptp(LINEAR.lateral_mm(20.0)) == pytest.approx(40)


def test_scan_converter__zoom_crops_the_sides_only():
    whole, cropped = ScanConverter(CONVEX, 160, 160), ScanConverter(CONVEX, 160, 160, zoom=1.3)
    assert cropped.mm_per_pixel < whole.mm_per_pixel
    assert not whole.mask[:, 0].any()
    assert cropped.mask[:, 0].any()
