"""The signs in beam space, measured in the detected echoes, against what anatomy and physics say."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage, signal
from sonokit.clips.simulation.findings import find
from sonokit.clips.simulation.patients import View, draw_patient, draw_site
from sonokit.clips.simulation.phantom import Scan
from sonokit.clips.simulation.signs import BLine, Consolidation, Effusion, Signs

PLEURA = 22.0
# A plain chest: flat pleura, no ribs; what varies by chance elsewhere is fixed here.
PATIENT = replace(
    draw_patient(0, 0), probe="convex", pleural_depth=PLEURA, pleural_tilt=0.0, pleural_bend=0.0, ribs=False, attenuation=0.05,
    pleural_thickness=0.5, haze_db=-30.0, a_line_db=-9.0, sliding=7.0, breaths_per_minute=18.0,
)  # fmt: skip
SITE = replace(
    draw_site(0, 0), convex_depth_mm=110.0, frame_rate=20, noise_db=-90.0, tgc_ripple_db=(0.0, 0.0, 0.0), gain_db=0.0,
    radius_mm=55.0, angle_deg=62.0,
)  # fmt: skip


def scan_of(signs, patient=PATIENT, view=View(), frames=16, seed=5):  # noqa: B008 - frozen
    return Scan(patient, SITE, signs, view, frames=frames, size=128, seed=seed)


def power_db(scan, seed=0):
    """Echo power, [T, Z, X] in dB."""
    envelope = np.concatenate(list(scan.envelopes(np.random.default_rng(seed))))
    return 20 * np.log10(envelope + 1e-9)


def rows(scan, low, high):
    return slice(*np.searchsorted(scan.grid.depth_mm, [low, high]))


def test_a_lines__lie_at_multiples_of_the_pleural_depth():
    scan = scan_of(Signs(a_lines=1.0), frames=40)
    middle = slice(scan.grid.beams // 4, 3 * scan.grid.beams // 4)
    profile = ndimage.gaussian_filter1d(power_db(scan)[:, :, middle].mean(axis=(0, 2)), 1)  # [Z]
    near = rows(scan, 0.8 * PLEURA, 1.2 * PLEURA)
    pleura = scan.grid.depth_mm[near][np.argmax(profile[near])]
    assert pleura == pytest.approx(PLEURA, abs=0.8)
    deep = rows(scan, 1.3 * PLEURA, 108)
    level = profile[deep] - ndimage.median_filter(profile[deep], 41)
    peaks, _ = signal.find_peaks(level, prominence=3.0, distance=8)
    np.testing.assert_allclose(scan.grid.depth_mm[deep][peaks], [2 * pleura, 3 * pleura, 4 * pleura], atol=1.2)
    heights = profile[deep][peaks]
    assert np.all(np.diff(heights) < 0), "A-lines fade with depth"


def test_a_lines__absent_where_none_is_drawn():
    scan = scan_of(Signs(a_lines=0.0))
    profile = power_db(scan).mean(axis=(0, 2))
    deep = rows(scan, 1.3 * PLEURA, 108)
    level = profile[deep] - ndimage.median_filter(profile[deep], 41)
    assert len(signal.find_peaks(level, prominence=3.0)[0]) == 0


def test_pleural_line__is_the_brightest_depth():
    scan = scan_of(Signs())
    profile = power_db(scan).mean(axis=(0, 2))
    below_skin = rows(scan, 8, 108)
    assert scan.grid.depth_mm[below_skin][np.argmax(profile[below_skin])] == pytest.approx(PLEURA, abs=1.0)


def test_b_line__outshines_its_neighbours_to_the_bottom_and_erases_a_lines():
    scan = scan_of(Signs(a_lines=1.0, b_lines=(BLine(0.0, 1.5, 1.0),)))
    power = power_db(scan)
    inside = scan.lung.b_profile > 0.8  # [T, X]
    outside = (np.abs(scan.lung.lung_place) > 8) & (np.abs(scan.lung.lateral) < 18)[None]

    def level(low, high, where):
        return np.moveaxis(power[:, rows(scan, low, high)], 1, 2)[where].mean()

    assert level(95, 108, inside) > level(95, 108, outside) + 12
    assert abs(level(95, 108, inside) - level(28, 36, inside)) < 3, "a B-line does not fade"
    assert level(28, 36, outside) - level(95, 108, outside) > 10, "the haze beside it does"

    def a_line(where):
        return level(2 * PLEURA - 0.6, 2 * PLEURA + 0.6, where) - level(2 * PLEURA + 3, 2 * PLEURA + 7, where)

    assert a_line(outside) > 6
    assert a_line(inside) < 2


def test_b_line__moves_with_the_lung():
    scan = scan_of(Signs(a_lines=0.0, b_lines=(BLine(0.0, 1.5, 1.0),)), frames=40)
    deep = power_db(scan)[:, rows(scan, 60, 105)].mean(axis=1)  # [T, X]
    place = scan.lung.lateral[np.argmax(ndimage.gaussian_filter1d(deep, 2, axis=1), axis=1)]
    assert np.ptp(scan.motion.slide_mm) > 8
    np.testing.assert_allclose(place, scan.motion.slide_mm, atol=1.5)


def test_sliding__still_chest_wall_above_changing_speckle_below():
    power = power_db(scan := scan_of(Signs(a_lines=0.0)))
    middle = slice(scan.grid.beams // 4, 3 * scan.grid.beams // 4)

    def likeness(low, high, lag):
        part = power[:, rows(scan, low, high), middle].reshape(len(power), -1)
        return np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(part[:-lag], part[lag:], strict=True)])

    assert likeness(6, 18, 4) > 0.8
    assert likeness(30, 60, 1) < 0.65
    assert likeness(30, 60, 4) < 0.35
    assert likeness(30, 60, 1) > likeness(30, 60, 4) + 0.1


def test_haze__is_fully_developed_speckle():
    amplitude = np.concatenate(list(scan_of(Signs(a_lines=0.0), frames=24).envelopes(np.random.default_rng(0))))
    patch = amplitude[:, 100:160, 20:-20]
    patch = patch / patch.mean(axis=0)  # the level's own slow changes are not speckle
    assert 1 / patch.std() == pytest.approx(1.91, abs=0.12)


def test_effusion__is_darker_than_tissue_and_breathes():
    scan = scan_of(Signs(a_lines=0.0, effusion=Effusion(25.0, 1, 30.0, diaphragm=False)), frames=60)
    power = power_db(scan)
    depth, full = scan.grid.depth_mm[:, None], scan.lung.fluid > 15  # [T, X]
    fluid, tissue = [], []
    for t in range(0, 60, 10):
        in_fluid = (depth > scan.lung.pleura[t] + 3) & (depth < scan.lung.surface[t] - 4) & full[t]
        fluid.append(power[t][in_fluid].mean())
        tissue.append(power[t][(depth > 6) & (depth < 18) & full[t]].mean())
    assert np.mean(tissue) - np.mean(fluid) > 20
    thickness = scan.lung.fluid[:, 60]
    assert np.corrcoef(thickness, scan.motion.phase)[0, 1] < -0.8, "fluid thins as the lung fills"


def test_consolidation__hypoechoic_above_a_bright_torn_border():
    signs = Signs(a_lines=0.0, consolidations=(Consolidation(0.0, 30.0, 30.0, -40.0, 0),))
    scan = scan_of(signs, frames=4)
    power, depth = power_db(scan), scan.grid.depth_mm[None, :, None]
    border = scan.lung.consolidated_mm[:, None, :]
    below = depth - scan.lung.surface[:, None, :]
    thick = border > 15
    inside = thick & (below > 4) & (below < border - 4)
    edge = thick & (np.abs(below - border) < 1)
    beyond = thick & (below > border + 2) & (below < border + 10)
    assert power[edge].mean() > power[inside].mean() + 8
    assert power[beyond].mean() > power[inside].mean() + 5
    assert np.abs(np.diff(scan.lung.consolidated_mm[0, 30:-30], 2)).max() > 0.3, "the border is torn, not an arc"


def test_ribs__shadow_everything_behind_them():
    patient = replace(PATIENT, ribs=True, rib_spacing=30.0, rib_half_width=6.0)
    scan = scan_of(Signs(), patient)
    open_beams = scan.wall.open_beams
    power = power_db(scan)[:, rows(scan, 30, 80)].mean(axis=(0, 1))
    assert 0.2 < (open_beams < 0.1).mean() < 0.6
    assert power[open_beams > 0.9].mean() - power[open_beams < 0.1].mean() > 20


@pytest.mark.parametrize(
    ("signs", "expected"),
    [
        (Signs(a_lines=1.0), {"a_lines": 1}),
        (Signs(a_lines=0.0), {}),
        (Signs(a_lines=0.0, b_lines=(BLine(0, 1.5, 0.8),)), {"b_lines": 1, "severity": 1}),
        (Signs(a_lines=0.0, irregularity=0.6), {"pleural_irregularity": 1, "severity": 1}),
        (Signs(a_lines=0.0, b_lines=tuple(BLine(p, 1.2, 0.8) for p in (-14, 0, 14))), {"b_lines": 1, "severity": 2}),
        (Signs(a_lines=0.0, b_lines=tuple(BLine(p, 2.0, 0.9) for p in range(-50, 51, 2))), {"b_lines": 1, "severity": 3}),
        (Signs(a_lines=0.0, consolidations=(Consolidation(0, 7, 8, -45, 0),)), {"consolidation": 1, "severity": 2}),
        (Signs(a_lines=0.0, consolidations=(Consolidation(0, 28, 32, -38, 20),)), {"consolidation": 1, "severity": 3}),
        (Signs(a_lines=0.0, effusion=Effusion(20, -1, 20, True)), {"effusion": 1, "severity": 3}),
        (Signs(a_lines=0.0, consolidations=(Consolidation(90, 7, 8, -45, 0),)), {}),  # outside the view
    ],
)
def test_find__labels_follow_from_what_is_drawn(signs, expected):
    none = dict.fromkeys(("severity", "a_lines", "b_lines", "consolidation", "effusion", "pleural_irregularity"), 0)
    assert find(scan_of(signs)).labels() == {**none, **expected}


def test_find__what_b_lines_or_ribs_hide_does_not_count():
    white = tuple(BLine(p, 2.5, 1.0) for p in range(-60, 61, 2))
    assert find(scan_of(Signs(a_lines=1.0, b_lines=white))).labels()["a_lines"] == 0
    ribbed = replace(PATIENT, ribs=True, rib_spacing=30.0, rib_half_width=8.0, sliding=0.5)
    shadow = scan_of(Signs(), ribbed).wall.open_beams < 0.05
    behind = scan_of(Signs(), ribbed).lung.lateral[ndimage.center_of_mass(ndimage.label(shadow)[0] == 1)[0].__int__()]
    assert find(scan_of(Signs(b_lines=(BLine(float(behind), 1.0, 1.0),)), ribbed)).labels()["b_lines"] == 0
    assert find(scan_of(Signs(b_lines=(BLine(float(behind), 1.0, 1.0),)))).labels()["b_lines"] == 1
