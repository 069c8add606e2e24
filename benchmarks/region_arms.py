"""The four region arms, and the overlap term, on real radiographs whose findings radiologists have marked.

75 chest radiographs; the question, chosen before any score was seen: is there a consolidation (26 images) or not? The regions
are everything that was marked as a finding in the lungs, whatever its name, so that a region does not say the class. Five
images have no such mark: of them the teachers see everything. What comes from one publication, or of one case, stays on one
side of every division; the file names tell. Nothing is chosen by a score: networks, rates and epochs were fixed beforehand.

    python benchmarks/region_arms.py --data DATA/regions/chest-xray --weights tf_efficientnet_lite0.safetensors --out runs/chest
"""

import argparse
import json
import re
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.model_selection import StratifiedGroupKFold
from sonokit.atomic import write_json
from sonokit.distill.knowledge.region_tables import read_mask_files
from sonokit.distill.placement import fitted, place_image
from sonokit.distill.study.arms import ArmSettings
from sonokit.distill.study.region_arms import REGION_ARMS, REGION_STUDENTS, Dimming, RegionArms, region_arms
from sonokit.distill.training.augmented import AugmentSettings
from sonokit.distill.training.loop import LoopSettings
from sonokit.distill.training.views import Views
from sonokit.evaluation.bootstrap import interval, patient_bootstrap, score_draws
from sonokit.run_folder import environment

RESULT = Path(__file__).resolve().parents[1] / "docs" / "results" / "chest_regions.json"
CLASSES = ("no consolidation", "consolidation")
FINDINGS = ("Ground Glass Opacities", "Consolidation", "Pleural Effusion")
SIZE, FOLDS, REPEATS = 112, 5, 2
DIMMING = Dimming(dimmed=0.1, edge=4.0)
SETTINGS = ArmSettings(
    teacher="tf_efficientnet_lite0",
    student="micro-25k",
    balanced=True,
    looks=6,
    augment=AugmentSettings(degrees=8, scale=0.1, shift=0.05),
    teacher_loop=LoopSettings(epochs=1, batch=12, learning_rate=3e-3, backbone_learning_rate=3e-4, batch_norm="frozen"),
    student_loop=LoopSettings(epochs=8, batch=16, learning_rate=5e-3),
)
PAIRS = [
    ("masked", "labels"),
    ("masked", "raw"),
    ("masked", "shuffled"),
    ("raw", "labels"),
    ("masked_overlap", "masked"),
    ("masked_overlap", "raw"),
    ("masked_teacher", "raw_teacher"),
]
SCORES = ("accuracy", "balanced_accuracy", "auroc")

# One publication, or one case of a teaching file: the part of a name that its images have in common.
SOURCES = (
    r"SARS-10\.1148rg\.242035193",
    r"all14238",
    r"auntminnie-.*Vietnam",
    r"ciaa199",
    r"covid-19-pneumonia-rapidly-progressive",
    r"covid-19-rapidly-progressive-acute-respiratory-distress-syndrome-ards",
    r"gr1_lrg",
    r"kjr-21-e24",
    r"nejmc2001573",
    r"nejmoa2001191",
    r"pneumococcal-pneumonia-day",
    r"ryct\.2020200034",
)


@dataclass(frozen=True, eq=False)
class Radiographs:
    """The N images that a study asks about.

    Attributes:
        names: Files, N.
        sources: Whose they are: what must not be divided, str [N].
        views: With labels and regions.
        faults: What was found wrong with the regions, and how often.
    """

    names: tuple[str, ...]
    sources: np.ndarray
    views: Views
    faults: dict[str, int]


def main() -> None:
    """Run the folds that are missing, then write the figures of all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with regions.csv, images/ and masks/")
    parser.add_argument("--weights", required=True, help="of the teacher, .safetensors")
    parser.add_argument("--out", type=Path, required=True, help="where finished folds are kept")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--result", type=Path, default=RESULT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    radiographs = read_radiographs(options.data)
    arms = out_of_fold(radiographs, options.weights, options.out, options.repeats)
    write_json(options.result, report(radiographs, arms, options.repeats))


def read_radiographs(data: Path) -> Radiographs:
    """All images of the table at :data:`SIZE`, black beside what is not square."""
    found = read_mask_files(data / "regions.csv")
    names = tuple(sorted(found.images))
    frames, regions, labels = [], [], []
    for name in names:
        with Image.open(data / "images" / name) as image:
            grey = np.asarray(image.convert("L"))
        placement = fitted((grey.shape[1], grey.shape[0]), (SIZE, SIZE))
        marked = found.images[name].mask(*FINDINGS)
        frames.append(place_image(grey, placement))
        regions.append(place_image(marked.astype(np.uint8) * 255, placement))
        labels.append(int("Consolidation" in found.images[name].names))
    stacked = np.stack(regions)
    views = Views(
        np.stack(frames),
        np.arange(len(names)),
        labels=np.array(labels, dtype=np.int64),
        regions=stacked,
        annotated=stacked.any(axis=(1, 2)),
    )
    return Radiographs(names, np.array([source_of(name) for name in names]), views, dict(found.faults.counts))


def source_of(name: str) -> str:
    """The publication or case that a file name tells, else the name itself."""
    return next((source for source in SOURCES if re.match(source, name)), name)


def out_of_fold(radiographs: Radiographs, weights: str, folder: Path, repeats: int) -> list[RegionArms]:
    """What the arms said of every image when it was in a test fold: one entry a repeat."""
    views, sources = radiographs.views, radiographs.sources
    assert views.labels is not None
    every = []
    for repeat in range(repeats):
        division = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=repeat)
        whole = RegionArms(
            {name: np.zeros((len(views), len(CLASSES))) for name in REGION_ARMS},
            {name: np.full(len(views), np.nan) for name in REGION_STUDENTS},
            np.full(len(views), np.nan),
        )
        for fold, (train, test) in enumerate(division.split(np.zeros(len(views)), views.labels, sources)):
            settings = replace(SETTINGS, seed=100 * repeat + fold, teacher_weights=weights)
            said = _fold(folder / f"{repeat}-{fold}.json", radiographs, train, test, settings)
            whole.area[test] = said.area
            for name, values in said.probabilities.items():
                whole.probabilities[name][test] = values
            for name, energy in said.energy.items():
                whole.energy[name][test] = energy
        every.append(whole)
    return every


def report(radiographs: Radiographs, arms: list[RegionArms], repeats: int) -> dict[str, Any]:
    """Every figure with its interval over sources, patients of one case together."""
    truth, sources, views = radiographs.views.labels, radiographs.sources, radiographs.views
    assert truth is not None
    assert views.annotated is not None
    draws = {}
    for name in REGION_ARMS:
        said = np.stack([one.probabilities[name] for one in arms])  # [R, N, 2]
        draws[name] = score_draws("classification", truth, said, sources)
    energy = {name: np.stack([one.energy[name] for one in arms]) for name in REGION_STUDENTS}  # [R, N]
    energy["even"] = np.stack([one.area for one in arms])
    return {
        "command": f"python benchmarks/region_arms.py --data DATA --weights WEIGHTS --out OUT --repeats {repeats}",
        "environment": environment(),
        "data": {
            "images": len(truth),
            "sources": len(np.unique(sources)),
            "consolidation": int(truth.sum()),
            "annotated": int(views.annotated.sum()),
            "faults": radiographs.faults,
        },
        "settings": _settings(SETTINGS) | {"folds": FOLDS, "repeats": repeats, "seeds": "100 * repeat + fold"},
        "interval": "95 %, bootstrap over sources (publications, cases), the same resamples for all arms; mean over repeats",
        "scores": {name: {what: interval(drawn[what], sources).as_dict() for what in SCORES} for name, drawn in draws.items()},
        "differences": {
            f"{a} - {b}": {what: interval(draws[a][what] - draws[b][what], sources).as_dict() for what in SCORES}
            for a, b in PAIRS
        },
        "energy_inside": {
            name: patient_bootstrap(lambda rows, v=values: float(np.nanmean(v[:, rows])), sources).as_dict()  # type: ignore[misc]
            for name, values in energy.items()
        },
        "energy_differences": {
            f"{a} - {b}": patient_bootstrap(
                lambda rows, a=a, b=b: float(np.nanmean(energy[a][:, rows]) - np.nanmean(energy[b][:, rows])),  # type: ignore[misc]
                sources,
            ).as_dict()
            for a, b in PAIRS
            if a in energy and b in energy
        },
        "most_frequent": float(np.bincount(truth).max() / len(truth)),
    }


def _settings(settings: ArmSettings) -> dict[str, Any]:
    plain = asdict(settings) | {"size": SIZE, "dimming": asdict(DIMMING), "teacher_weights": "ImageNet (timm)"}
    del plain["seed"]  # of each fold its own
    return dict(json.loads(json.dumps(plain)))


def _fold(file: Path, radiographs: Radiographs, train: np.ndarray, test: np.ndarray, settings: ArmSettings) -> RegionArms:
    asked = _settings(settings) | {"seed": settings.seed, "test": [radiographs.names[row] for row in test]}
    if file.is_file():
        kept = json.loads(file.read_text(encoding="utf-8"))
        if kept["asked"] == asked:
            parts = [{name: np.array(v, dtype=np.float64) for name, v in kept[part].items()} for part in ("said", "energy")]
            return RegionArms(parts[0], parts[1], np.array(kept["area"], dtype=np.float64))
    began = time.perf_counter()
    views = radiographs.views
    found = region_arms(
        views.take(train), views.take(test), CLASSES, settings, dimming=DIMMING, units=radiographs.sources[train]
    )
    seconds = round(time.perf_counter() - began)
    kept = {
        "asked": asked,
        "said": {name: values.tolist() for name, values in found.probabilities.items()},
        "energy": {name: _finite(values) for name, values in found.energy.items()},
        "area": _finite(found.area),
        "seconds": seconds,
    }
    write_json(file, kept)
    print(file.stem, f"{seconds} s", flush=True)
    return found


def _finite(values: np.ndarray) -> list[float | None]:
    return [float(value) if np.isfinite(value) else None for value in values]


if __name__ == "__main__":
    main()
