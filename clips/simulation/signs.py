"""What is wrong with the lung: the signs, and how often and how strongly a diagnosis brings each.

COVID-19 brings B-lines (few, many, merging to a white lung as it worsens), an irregular pleura and small consolidations
under it; bacterial pneumonia one large consolidation with air bronchograms, and effusion. No sign belongs to one diagnosis
alone. The frequencies are of our choosing: enough overlap that a classifier has to work, not any hospital's epidemiology.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from .patients import Patient


@dataclass(frozen=True)
class BLine:
    """A vertical reverberation: place along the pleura, half width (mm), strength 0 to 1."""

    position: float
    width: float
    strength: float


@dataclass(frozen=True)
class Consolidation:
    """Airless lung under the pleura: centre, half width, depth (mm), echo level (dB), air bronchograms (a number of them)."""

    centre: float
    half_width: float
    depth: float
    level_db: float
    bronchograms: int


@dataclass(frozen=True)
class Effusion:
    """Fluid between the pleural leaves: greatest thickness (mm), the side it opens to (-1, 1), where it ends (mm)."""

    thickness: float
    side: int
    edge: float
    diaphragm: bool


@dataclass(frozen=True)
class Signs:
    """What is wrong with the lung under one clip. ``a_lines`` and ``irregularity`` are strengths, 0 (absent) to 1."""

    a_lines: float = 1.0
    b_lines: tuple[BLine, ...] = ()
    consolidations: tuple[Consolidation, ...] = ()
    effusion: Effusion | None = None
    irregularity: float = 0.0


def draw_signs(patient: Patient, view_mm: float, rng: np.random.Generator) -> Signs:
    """Draw the signs of one clip, by the patient's diagnosis and how ill the patient is.

    Args:
        patient: ``diagnosis`` says which signs, ``disease`` (0 to 1) how many and how strong.
        view_mm: width of the view at the pleura: signs lie within it.
        rng: this clip's random numbers.
    """
    # Regions of one lung differ, around the patient's own state.
    ill = float(np.clip(patient.disease + rng.normal(0, 0.15), 0.02, 1))
    if patient.diagnosis == "covid19":
        return _covid_signs(patient, ill, view_mm, rng)
    if patient.diagnosis == "bacterial_pneumonia":
        return _bacterial_signs(patient, ill, view_mm, rng)
    stray = rng.random() < 0.2  # a lone B-line is found in healthy lungs too
    return Signs(
        a_lines=_strength(rng) if rng.random() < 0.82 else 0.0,
        b_lines=_separate_b_lines(1, view_mm, patient, rng) if stray else (),
        irregularity=0.3 if rng.random() < 0.05 else 0.0,
    )


def _covid_signs(patient: Patient, ill: float, view_mm: float, rng: np.random.Generator) -> Signs:
    b_lines: tuple[BLine, ...] = ()
    if rng.random() < 0.92:
        if ill > 0.78:
            b_lines = _coalescent_b_lines(0.95, view_mm, patient, rng)
        elif ill > 0.45:
            b_lines = _coalescent_b_lines(0.25 + 0.5 * (ill - 0.45), view_mm, patient, rng)
            b_lines += _separate_b_lines(1, view_mm, patient, rng)
        else:
            b_lines = _separate_b_lines(1 + int(3 * ill + rng.random()), view_mm, patient, rng)
    small = ill > 0.3 and rng.random() < 0.5
    large = ill > 0.85 and rng.random() < 0.3
    count = int(rng.integers(1, 4)) if small else 0
    consolidations = tuple(_small_consolidation(patient, view_mm, rng) for _ in range(count))
    if large:
        consolidations = (_large_consolidation(patient, view_mm, rng),)
    return Signs(
        a_lines=_strength(rng) * (1 - ill) if ill < 0.5 and rng.random() < 0.6 else 0.0,
        b_lines=b_lines,
        consolidations=consolidations,
        effusion=_effusion(patient, view_mm, rng) if ill > 0.7 and rng.random() < 0.1 else None,
        irregularity=_strength(rng) if rng.random() < 0.8 else 0.0,
    )


def _bacterial_signs(patient: Patient, ill: float, view_mm: float, rng: np.random.Generator) -> Signs:
    large = rng.random() < 0.3 + 0.6 * ill
    effusion = rng.random() < 0.15 + 0.55 * ill
    consolidations: tuple[Consolidation, ...] = ()
    if large:
        consolidations = (_large_consolidation(patient, view_mm, rng),)
    elif rng.random() < 0.5:
        consolidations = (_small_consolidation(patient, view_mm, rng),)
    few = int(rng.integers(1, 4)) if rng.random() < 0.5 else 0
    return Signs(
        a_lines=_strength(rng) if ill < 0.4 and not effusion and rng.random() < 0.5 else 0.0,
        b_lines=_separate_b_lines(few, view_mm, patient, rng),
        consolidations=consolidations,
        effusion=_effusion(patient, view_mm, rng) if effusion else None,
        irregularity=_strength(rng) if rng.random() < 0.2 else 0.0,
    )


def _strength(rng: np.random.Generator) -> float:
    """A visible sign's strength; about one in five is subtle."""
    return float(0.3 + 0.7 * rng.beta(2.0, 1.2))


def _separate_b_lines(count: int, view_mm: float, patient: Patient, rng: np.random.Generator) -> tuple[BLine, ...]:
    scale = 0.55 if patient.probe == "linear" else 1.0
    edges = np.linspace(-0.42, 0.42, count + 1) * view_mm
    places = [rng.uniform(0.8 * a + 0.2 * b, 0.2 * a + 0.8 * b) for a, b in pairwise(edges)]
    return tuple(BLine(float(p), float(rng.uniform(0.7, 1.7)) * scale, _strength(rng)) for p in places)


def _coalescent_b_lines(share: float, view_mm: float, patient: Patient, rng: np.random.Generator) -> tuple[BLine, ...]:
    """Lines so close that they merge, over ``share`` of the view."""
    scale = 0.55 if patient.probe == "linear" else 1.0
    share = min(share, 0.95)
    middle = rng.uniform(-0.5 + share / 2, 0.5 - share / 2) * view_mm
    places = np.arange(middle - share / 2 * view_mm, middle + share / 2 * view_mm, 2.6 * scale)
    base = _strength(rng)
    wobble = rng.uniform(-0.8, 0.8, len(places)) * scale
    strengths = np.clip(base + rng.normal(0, 0.15, len(places)), 0.25, 1)
    widths = rng.uniform(1.0, 2.4, len(places)) * scale
    return tuple(BLine(float(p), float(w), float(s)) for p, w, s in zip(places + wobble, widths, strengths, strict=True))


def _small_consolidation(patient: Patient, view_mm: float, rng: np.random.Generator) -> Consolidation:
    scale = 0.6 if patient.probe == "linear" else 1.0
    return Consolidation(
        centre=float(rng.uniform(-0.36, 0.36) * view_mm),
        half_width=float(rng.uniform(4, 9)) * scale,
        depth=float(rng.uniform(5, 11)) * scale,
        level_db=float(rng.uniform(-50, -42)),
        bronchograms=int(rng.integers(0, 3)),
    )


def _large_consolidation(patient: Patient, view_mm: float, rng: np.random.Generator) -> Consolidation:
    linear = patient.probe == "linear"
    return Consolidation(
        centre=float(rng.uniform(-0.2, 0.2) * view_mm),
        half_width=float(rng.uniform(0.28, 0.5) * view_mm),
        depth=float(rng.uniform(16, 24) if linear else rng.uniform(20, 45)),
        level_db=float(rng.uniform(-41, -33)),
        bronchograms=int(rng.integers(4, 16) if linear else rng.integers(8, 45)),
    )


def _effusion(patient: Patient, view_mm: float, rng: np.random.Generator) -> Effusion:
    linear = patient.probe == "linear"
    return Effusion(
        thickness=float(rng.uniform(5, 14) if linear else rng.uniform(7, 32)),
        side=int(rng.choice([-1, 1])),
        edge=float(rng.uniform(0.0, 0.45) * view_mm),
        diaphragm=bool(not linear and rng.random() < 0.55),
    )
