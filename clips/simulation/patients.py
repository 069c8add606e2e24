"""Who is scanned and where: simulated patients, sites, and how the probe is held.

Everything is drawn from seeds of its own (`generator`), so patient 7 is the same person whatever the number of patients.
Diagnoses come in blocks of three patients, one of each; sites go round in a Latin square, so that site and diagnosis are
independent, or, with ``shortcut``, nine patients in ten come from "their" diagnosis' site.
"""

import zlib
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .scan_geometry import Probe

DIAGNOSES = ("normal", "covid19", "bacterial_pneumonia")
_CONTAINERS: tuple[tuple[str, tuple[int, ...]], ...] = (("mp4", (24, 25, 30)), ("avi", (15, 18, 22)), ("gif", (20, 25)))
_SHORTCUT_PROBABILITY = 0.9


@dataclass(frozen=True)
class Site:
    """A hospital and its scanner: all that a classifier could learn instead of the disease."""

    name: str
    container: str
    frame_rate: int
    width_factor: float
    height_factor: float
    zoom: float
    radius_mm: float
    angle_deg: float
    convex_depth_mm: float
    linear_depth_mm: float
    gain_db: float
    dynamic_range_db: float
    gamma: float
    smoothing: float
    tgc_ripple_db: tuple[float, float, float]
    noise_db: float
    ticks: Literal["left", "right", "none"]
    text: str
    grey_bar: bool


@dataclass(frozen=True)
class Patient:
    """One person's chest: what all clips of the patient share. Lengths in mm, ``attenuation`` in dB/mm left after TGC."""

    name: str
    diagnosis: str
    probe: Literal["convex", "linear"]
    texture_seed: int
    pleural_depth: float
    pleural_thickness: float
    pleural_tilt: float
    pleural_bend: float
    skin: float
    fat_fraction: float
    fat_db: float
    muscle_db: float
    striation_db: float
    ribs: bool
    rib_spacing: float
    rib_half_width: float
    rib_cover: float
    attenuation: float
    breaths_per_minute: float
    sliding: float
    a_line_db: float
    haze_db: float
    disease: float


@dataclass(frozen=True)
class View:
    """How the probe was held for one clip: place on the skin (mm), phase of breathing, gain, contact lost at the sides."""

    offset: float = 0.0
    breath_phase: float = 0.0
    heart_phase: float = 0.0
    gain_db: float = 0.0
    lost_left: float = 0.0
    lost_right: float = 0.0


def generator(seed: int, *path: int | str) -> np.random.Generator:
    """Random numbers of their own for one purpose: the same (seed, path) always gives the same stream."""
    words = [zlib.crc32(p.encode()) if isinstance(p, str) else p for p in path]
    return np.random.default_rng([seed, *words])


def draw_site(seed: int, number: int) -> Site:
    """Draw site ``number``; the first three differ in container, and so on in turn."""
    rng = generator(seed, "site", number)
    container, rates = _CONTAINERS[number % len(_CONTAINERS)]
    return Site(
        name=f"site-{number + 1}",
        container=container,
        frame_rate=int(rng.choice(rates)),
        width_factor=float(rng.choice([1.0, 1.1, 1.25])),
        height_factor=float(rng.choice([0.9, 1.0, 1.05])),
        zoom=float(rng.choice([1.2, 1.35, 1.5])),
        radius_mm=float(rng.uniform(45, 60)),
        angle_deg=float(rng.uniform(56, 70)),
        convex_depth_mm=float(rng.choice([85, 100, 115])),
        linear_depth_mm=float(rng.choice([42, 50])),
        gain_db=float(rng.uniform(-4, 4)),
        dynamic_range_db=float(rng.uniform(50, 66)),
        gamma=float(rng.uniform(1.0, 1.5)),
        smoothing=float(rng.uniform(0.4, 0.9)),
        tgc_ripple_db=(float(rng.uniform(-2, 2)), float(rng.uniform(-2, 2)), float(rng.uniform(-1.5, 1.5))),
        noise_db=float(rng.uniform(-72, -60)),
        ticks=("right", "left", "none")[int(rng.integers(3))],
        text="".join(rng.choice(list("0123456789"), 4)),
        grey_bar=bool(rng.random() < 0.5),
    )


def draw_patient(seed: int, number: int) -> Patient:
    """Draw patient ``number``: a thin or a heavy chest wall, ribs in view or not, a healthy or a sick lung."""
    rng = generator(seed, "patient", number)
    linear = bool(rng.random() < 0.22)
    habitus = float(rng.beta(2, 2.5))  # 0 thin, 1 heavy
    depth = (9 + 8 * habitus if linear else 13 + 17 * habitus) + float(rng.uniform(-1, 1))
    return Patient(
        name=f"patient-{number + 1:04d}",
        diagnosis=_diagnosis(seed, number),
        probe="linear" if linear else "convex",
        texture_seed=int(rng.integers(2**31)),
        pleural_depth=depth,
        pleural_thickness=float(rng.uniform(0.35, 0.6)) * (0.65 if linear else 1.0),
        pleural_tilt=float(rng.normal(0, 0.05)),
        # A convex probe's arc is not the chest's: 0.006 per mm draws the pleura as a straight line across the fan.
        pleural_bend=float(rng.normal(0, 0.0015) if linear else rng.uniform(-0.0005, 0.0055)),
        skin=float(rng.uniform(1.3, 2.4)),
        fat_fraction=float(0.2 + 0.45 * habitus + rng.uniform(-0.08, 0.08)),
        fat_db=float(rng.uniform(-36, -28)),
        muscle_db=float(rng.uniform(-31, -24)),
        striation_db=float(rng.uniform(4, 9)),
        ribs=bool(rng.random() < 0.6),
        rib_spacing=float(rng.uniform(27, 38)),
        rib_half_width=float(rng.uniform(5.0, 8.0)),
        rib_cover=float(rng.uniform(4.5, 8)) * (0.6 if linear else 1.0),
        attenuation=float(0.04 + 0.10 * habitus + rng.uniform(0, 0.05)) * (1.6 if linear else 1.0),
        breaths_per_minute=float(rng.uniform(13, 24)),
        sliding=float(rng.uniform(4, 9)) * (0.6 if linear else 1.0),
        a_line_db=float(rng.uniform(-15, -7)),
        haze_db=float(rng.uniform(-32, -25)),
        disease=float(rng.beta(1.6, 1.6)),
    )


def site_of(seed: int, patient: int, diagnosis: str, sites: int, shortcut: bool) -> int:
    """Choose the number of a patient's site. Without ``shortcut`` each diagnosis visits all sites in turn."""
    wanted = DIAGNOSES.index(diagnosis)
    rng = generator(seed, "patient site", patient)
    if shortcut:
        return wanted % sites if rng.random() < _SHORTCUT_PROBABILITY else int(rng.integers(sites))
    block = patient // len(DIAGNOSES)
    turn = generator(seed, "turn", block // sites).integers(sites)
    return int((wanted + block + turn) % sites)


def probe_of(patient: Patient, site: Site) -> Probe:
    """Set the patient's probe as the site sets it, deep enough to hold the second A-line of a heavy patient."""
    if patient.probe == "linear":
        return Probe("linear", max(site.linear_depth_mm, 2.6 * patient.pleural_depth), width_mm=38.0)
    depth = max(site.convex_depth_mm, 3.3 * patient.pleural_depth)
    return Probe("convex", depth, radius_mm=site.radius_mm, angle_deg=site.angle_deg)


def draw_view(rng: np.random.Generator) -> View:
    """Draw one placement of the probe."""
    lost = rng.uniform(0.05, 0.3, 2) * (rng.random(2) < 0.15)
    return View(
        offset=float(rng.uniform(-14, 14)),
        breath_phase=float(rng.uniform(0, 2 * np.pi)),
        heart_phase=float(rng.uniform(0, 2 * np.pi)),
        gain_db=float(rng.normal(0, 1.2)),
        lost_left=float(lost[0]),
        lost_right=float(lost[1]),
    )


def _diagnosis(seed: int, number: int) -> str:
    block, place = divmod(number, len(DIAGNOSES))
    return DIAGNOSES[int(generator(seed, "block", block).permutation(len(DIAGNOSES))[place])]
