"""Simulated images as files in the package's own formats, so that everything can be tried from a command line.

    write_simulated(Path("planes"), simulate_planes(60, seed=0))

makes ``images/*.png``, ``manifest.csv`` (path, clip_id, patient_id, label, and split where it is told), and what else is known
of them: ``gaze.csv`` (fixations), ``regions/regions.csv`` with ``regions/masks``, ``regions.json`` (COCO), ``landmarks.csv``
with the pixel spacing. All of them name an image by its clip_id.
"""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ...atomic import atomic_path
from ...clips.manifest import write_manifest
from ...errors import SonokitError
from ..knowledge.coco import write_coco
from ..knowledge.gaze import Gaze
from ..knowledge.gaze_files import write_gaze_csv
from ..knowledge.region_tables import write_mask_files
from ..knowledge.regions import ImageRegions, Region
from ..landmarks.landmark_files import write_landmarks_csv
from .cues import CueImages
from .marked_signs import MarkedImages
from .planes import SimulatedImages

Simulated = SimulatedImages | CueImages | MarkedImages


def write_simulated(folder: Path, images: Simulated, *, split: str | None = None) -> Path:
    """Write images and all that is known of them; returns the path of the manifest.

    Labels are those that a reader would have: of cues the given ones, a share of which may be wrong.

    Args:
        folder: A new or an empty one.
        images: From any of the simulations.
        split: A column ``split`` with this word in every row; None: no such column.

    Raises:
        SonokitError: The folder is not empty.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SonokitError(f"{folder} is there already and not an empty folder: name another one, or empty it.")
    names = images.images
    for name, frame in zip(names, images.frames, strict=True):
        with atomic_path(folder / "images" / f"{name}.png") as temporary:
            Image.fromarray(frame).save(temporary, format="PNG")
    _write_regions(folder, images)
    if not isinstance(images, MarkedImages):
        write_gaze_csv(folder / "gaze.csv", dict(zip(names, _gaze(images), strict=True)))
    if isinstance(images, SimulatedImages):
        write_landmarks_csv(folder / "landmarks.csv", images.landmarks())
    labels = images.given if isinstance(images, CueImages) else images.classes
    table = pd.DataFrame(
        {
            "path": [f"images/{name}.png" for name in names],
            "clip_id": names,
            "patient_id": images.subjects,
            "label": [images.class_names[label] for label in labels],
        }
    )
    if split is not None:
        table["split"] = split
    write_manifest(table, folder / "manifest.csv")
    return folder / "manifest.csv"


def image_regions(images: Simulated) -> dict[str, ImageRegions]:
    """What is marked in each image, under one name: the plane, or ``sign``; nothing in images that were not annotated."""
    masks = images.structures if isinstance(images, SimulatedImages) else images.regions
    size = images.frames.shape[2], images.frames.shape[1]
    marked: dict[str, ImageRegions] = {}
    for number, (name, mask) in enumerate(zip(images.images, masks, strict=True)):
        what = images.class_names[images.classes[number]] if isinstance(images, SimulatedImages) else "sign"
        marked[name] = ImageRegions(size, (Region.of(what, mask > 0),) if np.any(mask) else ())
    return marked


def _write_regions(folder: Path, images: Simulated) -> None:
    marked = image_regions(images)
    write_coco(folder / "regions.json", marked)
    write_mask_files(folder / "regions", marked)


def _gaze(images: SimulatedImages | CueImages) -> list[Gaze]:
    return images.gaze() if isinstance(images, SimulatedImages) else images.gaze
