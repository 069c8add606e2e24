"""Simulated lung ultrasound: patients, sites, labels and real video files, the data that sonokit has when it is given none.

The physics is in `phantom`, the people in `patients` and `signs`, the rules of the labels in
`findings`. Everything follows from the seed: the same settings draw the same frames, and patient k is the same
whatever the number of patients.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from ...atomic import atomic_path, write_json
from ...errors import SonokitError
from .findings import Findings, find
from .overlay import draw_overlay
from .patients import (
    Patient,
    Site,
    View,
    draw_patient,
    draw_site,
    draw_view,
    generator,
    probe_of,
    site_of,
)
from .phantom import Scan
from .scan_geometry import BeamGrid, ScanConverter
from .signs import Signs, draw_signs
from .video_writing import write_video

_SCHEMA = 1  # raise when the drawing changes: a folder of an older drawing is then not taken for finished
_COLUMNS = (
    "path", "clip_id", "patient_id", "site", "probe", "diagnosis", "severity", "a_lines", "b_lines", "consolidation",
    "effusion", "pleural_irregularity", "sf_ratio",
)  # fmt: skip


@dataclass(frozen=True)
class SimulationSettings:
    """All that the drawing depends on."""

    patients: int = 24
    clips_per_patient: int = 2
    sites: int = 3
    seconds: float = 2.0
    size: int = 160
    seed: int = 0
    shortcut: bool = False

    def __post_init__(self) -> None:
        for name, least in (("patients", 1), ("clips_per_patient", 1), ("sites", 1), ("seed", 0), ("size", 64)):
            if getattr(self, name) < least:
                raise SonokitError(f"simulate: {name} must be {least} or more, but is {getattr(self, name)}.")
        if not 0 < self.seconds < float("inf"):
            raise SonokitError(f"simulate: seconds must be more than 0, but is {self.seconds}.")


@dataclass(frozen=True)
class SimulatedClip:
    """One drawn clip: ``frames`` uint8 [T, H, W] before encoding, Hz, and the labels that follow from the drawing."""

    frames: np.ndarray
    frame_rate: int
    labels: dict[str, int]
    findings: Findings
    mask: np.ndarray


@dataclass(frozen=True)
class PlannedClip:
    """A clip before it is drawn: everything but the noise."""

    clip_id: str
    patient: Patient
    site: Site
    signs: Signs
    view: View
    texture_seed: int


def simulate(
    out: Path,
    *,
    patients: int = 24,
    clips_per_patient: int = 2,
    sites: int = 3,
    seconds: float = 2.0,
    size: int = 160,
    seed: int = 0,
    shortcut: bool = False,
    progress: bool = True,
) -> Path:
    """Draw labelled clips into ``out/clips`` and write ``out/manifest.csv``.

    A second run with the same settings draws only the clips that are missing; the manifest comes last, so a folder that has
    one is whole.

    Args:
        out: folder; its ``simulation.json`` holds the settings.
        patients: their number; diagnoses come in turn, in blocks of three patients.
        clips_per_patient: views of each patient, all at the patient's site.
        sites: number of sites: each has its own scanner, frame rate and file format.
        seconds: length of a clip; the number of frames follows from the site's frame rate.
        size: nominal height of a picture in pixels; sites differ by some 10 %.
        seed: of everything.
        shortcut: tie the site to the diagnosis, so that a model can cheat.
        progress: show a bar on standard error.

    Returns:
        The manifest's path.

    Raises:
        SonokitError: a setting makes no sense, or ``out`` holds clips of other settings.
    """
    settings = SimulationSettings(patients, clips_per_patient, sites, seconds, size, seed, shortcut)
    out = Path(out)
    _claim(out, settings)
    manifest = out / "manifest.csv"
    rows: list[dict[str, Any]] = []
    total = settings.patients * settings.clips_per_patient
    if manifest.exists() and _whole(out, manifest, total):
        return manifest
    with tqdm(total=total, desc="simulate", unit="clip", disable=not progress) as bar:
        for number in range(settings.patients):
            findings = []
            for clip in plan_patient(settings, number):
                row, found = _make(out, clip, settings)
                rows.append(row)
                findings.append(found)
                bar.update()
            ratio = _sf_ratio([f.severity() for f in findings], generator(settings.seed, "oxygen", number))
            for row in rows[-settings.clips_per_patient :]:
                row["sf_ratio"] = ratio
    with atomic_path(manifest) as temporary:
        pd.DataFrame(rows, columns=list(_COLUMNS)).to_csv(temporary, index=False, lineterminator="\n")
    return manifest


def plan_patient(settings: SimulationSettings, number: int) -> Iterator[PlannedClip]:
    """Plan the clips of patient ``number``."""
    patient = draw_patient(settings.seed, number)
    site = draw_site(settings.seed, site_of(settings.seed, number, patient.diagnosis, settings.sites, settings.shortcut))
    view_mm = float(np.ptp(BeamGrid(probe_of(patient, site), 2, 2).lateral_mm(patient.pleural_depth)))
    for clip in range(settings.clips_per_patient):
        rng = generator(settings.seed, "clip", number, clip)
        yield PlannedClip(
            clip_id=f"{patient.name}_clip-{clip + 1}",
            patient=patient,
            site=site,
            signs=draw_signs(patient, view_mm, rng),
            view=draw_view(rng),
            texture_seed=int(rng.integers(2**31)),
        )


def draw_clip(clip: PlannedClip, *, seconds: float = 2.0, size: int = 160) -> SimulatedClip:
    """Draw one clip, the same frames each time.

    Args:
        clip: what to draw; its ``texture_seed`` is the source of all noise.
        seconds: at least one frame is drawn.
        size: nominal picture height in pixels.
    """
    scan = scan_of(clip, seconds=seconds, size=size)
    height, width = (2 * round(size * factor / 2) for factor in (clip.site.height_factor, clip.site.width_factor))
    convert = ScanConverter(scan.grid, height, width, margin=max(3, size // 40), zoom=clip.site.zoom)
    frames = scan.frames_uint8(convert, np.random.default_rng([clip.texture_seed, 11]))
    draw_overlay(frames, clip.site, convert)
    found = find(scan)
    return SimulatedClip(frames, clip.site.frame_rate, found.labels(), found, convert.mask)


def scan_of(clip: PlannedClip, *, seconds: float = 2.0, size: int = 160) -> Scan:
    """Set a planned clip up without drawing its frames."""
    count = max(1, round(seconds * clip.site.frame_rate))
    return Scan(clip.patient, clip.site, clip.signs, clip.view, frames=count, size=size, seed=clip.texture_seed)


def _make(out: Path, clip: PlannedClip, settings: SimulationSettings) -> tuple[dict[str, Any], Findings]:
    """Write one clip unless it is there, and return its row of the manifest (without ``sf_ratio``)."""
    path = out / "clips" / f"{clip.clip_id}.{clip.site.container}"
    if path.exists():
        found = find(scan_of(clip, seconds=settings.seconds, size=settings.size))
    else:
        drawn = draw_clip(clip, seconds=settings.seconds, size=settings.size)
        write_video(path, drawn.frames, drawn.frame_rate)
        found = drawn.findings
    who = {
        "path": path.relative_to(out).as_posix(),
        "clip_id": clip.clip_id,
        "patient_id": clip.patient.name,
        "site": clip.site.name,
        "probe": clip.patient.probe,
        "diagnosis": clip.patient.diagnosis,
    }
    return {**who, **found.labels()}, found


def _sf_ratio(severities: list[int], rng: np.random.Generator) -> int:
    """Simulate SpO2 (%) / FiO2 (fraction) of a patient: from about 460 breathing air to about 130 with severe lungs."""
    expected = 455 - 105 * float(np.mean(severities))
    return round(float(np.clip(expected + rng.normal(0, 28), 100, 475)))


def _claim(out: Path, settings: SimulationSettings) -> None:
    """Leave the settings in the folder, or compare with those that are there."""
    file, wanted = out / "simulation.json", {"schema": _SCHEMA, **asdict(settings)}
    if not file.exists():
        if (out / "manifest.csv").exists():
            raise SonokitError(f"{out} holds a manifest.csv that was not simulated. Choose another folder.")
        write_json(file, wanted)
        return
    there = json.loads(file.read_text(encoding="utf-8"))
    differing = sorted(k for k in wanted.keys() | there.keys() if wanted.get(k) != there.get(k))
    if differing:
        changes = ", ".join(f"{k}: {there.get(k)} there, {wanted.get(k)} now" for k in differing)
        raise SonokitError(f"{out} holds clips of other settings ({changes}). Choose another folder, or remove it.")


def _whole(out: Path, manifest: Path, total: int) -> bool:
    """Tell whether every clip of a finished manifest is still there."""
    paths = pd.read_csv(manifest)["path"]
    return len(paths) == total and all((out / p).exists() for p in paths)
