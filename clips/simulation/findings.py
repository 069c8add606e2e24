"""The labels of a simulated clip: what can really be seen in it, not what was meant to be drawn.

A B-line behind a rib, an A-line wiped out by B-lines or below the picture, a consolidation outside the view do not count.

The severity score follows the signs that are visible:

- 3: effusion, large consolidation (15 mm deep or more), or B-lines over more than 80 % of the lung in view (white lung);
- 2: small consolidation, three or more B-lines, or B-lines that merge over more than 25 % of it;
- 1: one or two B-lines, or an irregular pleura;
- 0: none of these.
"""

from dataclasses import dataclass

import numpy as np

from .phantom import Scan

LARGE_CONSOLIDATION_MM = 15.0
_NONE_DB = -99.0


@dataclass(frozen=True)
class Findings:
    """Measures of what is in view; fractions are of the beams that no rib hides, averaged over the frames."""

    a_line_fraction: float
    a_line_contrast_db: float
    b_line_count: int
    b_line_fraction: float
    consolidation_mm: float
    effusion_mm: float
    irregularity: float

    def labels(self) -> dict[str, int]:
        """Biomarker flags (0 or 1) and severity 0 to 3, under the manifest's column names."""
        flags = {
            "a_lines": self.a_line_fraction >= 0.12 and self.a_line_contrast_db >= 2.5,
            "b_lines": self.b_line_count > 0,
            "consolidation": self.consolidation_mm > 0,
            "effusion": self.effusion_mm > 0,
            "pleural_irregularity": self.irregularity >= 0.25,
        }
        return {"severity": self.severity(), **{name: int(flag) for name, flag in flags.items()}}

    def severity(self) -> int:
        """Score by the rule of this module."""
        if self.effusion_mm > 0 or self.consolidation_mm >= LARGE_CONSOLIDATION_MM or self.b_line_fraction > 0.8:
            return 3
        if self.consolidation_mm > 0 or self.b_line_count >= 3 or self.b_line_fraction > 0.25:
            return 2
        return int(self.b_line_count > 0 or self.irregularity >= 0.25)


def find(scan: Scan) -> Findings:
    """Measure the signs of a scan from its noise-free drawing; no picture is made."""
    lung, signs = scan.lung, scan.signs
    clear = _clear_beams(scan)
    weight = clear / max(clear.sum(), 1e-6)  # [X]
    contrast = _a_line_contrast_db(scan)
    visible_a = (lung.aerated > 0.5) & (contrast[None, :] > 2.5)
    thick = np.where(clear > 0.5, lung.consolidated_mm, 0)  # [T, X]
    fluid = np.where(clear > 0.5, lung.fluid, 0)
    shown = contrast[clear > 0.5]
    return Findings(
        a_line_fraction=float((visible_a.mean(axis=0) * weight).sum()),
        a_line_contrast_db=float(np.percentile(shown, 80)) if len(shown) else _NONE_DB,
        b_line_count=_count_b_lines(scan, clear),
        b_line_fraction=float((_b_cover(scan).mean(axis=0) * weight).sum()),
        consolidation_mm=_extent(thick, weight, at_least_mm=2.5),
        effusion_mm=_extent(fluid, weight, at_least_mm=3.0),
        irregularity=signs.irregularity if clear.mean() > 0.15 else 0.0,
    )


def _clear_beams(scan: Scan) -> np.ndarray:
    """1 where a beam reaches the lung, 0 behind ribs and where the probe has no contact or the picture is cropped, [X]."""
    across = np.linspace(0, 1, scan.grid.beams)
    touching = (across > scan.view.lost_left + 0.04) & (across < 1 - scan.view.lost_right - 0.04)
    return (touching * (scan.wall.open_beams > 0.5)).astype(np.float32)


def _a_line_contrast_db(scan: Scan) -> np.ndarray:
    """How far the first A-line stands out of the haze at its depth, [X], in dB; very low where the picture has none."""
    patient, lung = scan.patient, scan.lung
    if scan.signs.a_lines <= 0:
        return np.full(scan.grid.beams, _NONE_DB)
    depth = 2 * lung.pleura.mean(axis=0)
    haze = lung.haze_db(depth - lung.pleura.mean(axis=0))
    line = lung.a_line_db(2) + 20 * np.log10(lung.facing + 1e-6)
    noise = scan.site.noise_db + patient.attenuation * depth  # before attenuation, to compare like with like
    contrast = line - 10 * np.log10(10 ** (haze / 10) + 10 ** (noise / 10))
    return np.where(depth < 0.97 * scan.grid.probe.depth_mm, contrast, _NONE_DB)


def _b_cover(scan: Scan) -> np.ndarray:
    """Where a B-line clearly outshines the haze deep down and nothing lies over it, bool [T, X]."""
    lung = scan.lung
    return (lung.b_profile > 0.2) & (lung.consolidated_mm < 2.0)


def _count_b_lines(scan: Scan, clear: np.ndarray) -> int:
    """B-lines whose middle is seen for a fifth of the clip at least."""
    lung, count = scan.lung, 0
    half = np.ptp(lung.lateral) / 2
    for line in scan.signs.b_lines:
        place = line.position + scan.motion.slide_mm  # [T]
        beam = np.rint((place / half + 1) / 2 * (scan.grid.beams - 1)).astype(int)
        inside = (beam >= 0) & (beam < scan.grid.beams)
        at = np.clip(beam, 0, scan.grid.beams - 1)
        seen = inside & (clear[at] > 0.5) & _b_cover(scan)[np.arange(len(at)), at]
        count += int(seen.mean() >= 0.2)
    return count


def _extent(thickness: np.ndarray, weight: np.ndarray, at_least_mm: float) -> float:
    """Thickness (mm, 95th percentile where present) of what covers 4 % of the clear lung or more; 0 if less."""
    present = thickness > at_least_mm  # [T, X]
    if (present.mean(axis=0) * weight).sum() < 0.04:
        return 0.0
    return float(np.percentile(thickness[present], 95))
