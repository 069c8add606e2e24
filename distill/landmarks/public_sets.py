"""Public sets of landmarks, as their folders lie beside the project: cephalograms, fetal heads, tongues, hands."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from ...errors import SonokitError
from ..faults import Faults
from .landmark_files import read_deeplabcut_csv, read_landmarks_csv
from .landmarks import Landmarks, with_sizes

CEPHALOMETRIC_NAMES = (
    "sella",
    "nasion",
    "orbitale",
    "porion",
    "subspinale",
    "supramentale",
    "pogonion",
    "menton",
    "gnathion",
    "gonion",
    "lower incisal incision",
    "upper incisal incision",
    "upper lip",
    "lower lip",
    "subnasale",
    "soft tissue pogonion",
    "posterior nasal spine",
    "anterior nasal spine",
    "articulare",
)
"""The 19 landmarks of the ISBI 2015 challenge in its order (Wang et al., Medical Image Analysis 31, 2016)."""

_TRAINING_IMAGES = 150


def read_cephalometric(folder: Path) -> tuple[Landmarks, Faults]:
    """Lateral cephalograms of the ISBI 2015 challenge: ``points.csv`` with the spacing beside ``images/``.

    Raises:
        SonokitError: A file is not there, or it does not hold 19 landmarks.
    """
    landmarks, faults = _with_images(*read_landmarks_csv(folder / "points.csv"), folder / "images")
    if len(landmarks.names) != len(CEPHALOMETRIC_NAMES):
        raise SonokitError(f"{folder / 'points.csv'} has {len(landmarks.names)} landmarks, the challenge has 19")
    return replace(landmarks, names=CEPHALOMETRIC_NAMES), faults


def cephalometric_split(landmarks: Landmarks) -> tuple[Landmarks, Landmarks]:
    """The challenge's training set (001 to 150) and its first test set (151 to 300).

    Raises:
        SonokitError: An image's name is no number.
    """
    try:
        numbers = np.array([int(Path(image).stem) for image in landmarks.images])
    except ValueError:
        raise SonokitError("the cephalograms are told apart by their numbers, 001 to 300; do not rename them") from None
    test = (numbers > _TRAINING_IMAGES) & (numbers <= 2 * _TRAINING_IMAGES)
    return landmarks.select(numbers <= _TRAINING_IMAGES), landmarks.select(test)


def read_fetal_head(folder: Path) -> tuple[Landmarks, Faults]:
    """Fetal heads of HC18: the ends of the head's length (ofd_1, ofd_2) and width (bpd_1, bpd_2); no spacing.

    The ends are in the order of the file, the upper one first, which jumps where a head lies level: see
    :func:`with_ordered_ends`. ``017_HC`` and ``017_2HC`` are of one patient.

    Raises:
        SonokitError: A file is not there.
    """
    landmarks, faults = _with_images(*read_landmarks_csv(folder / "calipers.csv"), folder / "images")
    return replace(landmarks, patients=np.array([image.split("_")[0] for image in landmarks.images])), faults


def with_ordered_ends(landmarks: Landmarks) -> tuple[Landmarks, int]:
    """Fetal heads with the length's ends from left to right, and in how many images they changed places.

    The ellipse does not tell one end from the other. Most heads lie level, so that "the upper end" is the left or the right
    one by chance, and a model of the points would learn the mean of both; "the left end" jumps only where one stands upright.
    """
    first, second = (landmarks.names.index(name) for name in ("ofd_1", "ofd_2"))
    swapped = landmarks.points[:, first, 0] > landmarks.points[:, second, 0]
    points = landmarks.points.copy()
    points[swapped, first], points[swapped, second] = landmarks.points[swapped, second], landmarks.points[swapped, first]
    return replace(landmarks, points=points), int(swapped.sum())


def read_hand(folder: Path) -> tuple[Landmarks, Faults]:
    """Hand radiographs: 37 landmarks, the spacing of each image beside them.

    Raises:
        SonokitError: A file is not there.
    """
    return _with_images(*read_landmarks_csv(folder / "points.csv"), folder)


def read_tongue(folder: Path) -> tuple[Landmarks, Faults]:
    """Frames of several clips of the tongue, a folder each; the clip stands for the patient; no spacing.

    Raises:
        SonokitError: There is no clip, or two have other landmarks.
    """
    tables = sorted(folder.glob("*/CollectedData_*.csv"))
    if not tables:
        raise SonokitError(f"There is no CollectedData_*.csv in a folder of {folder}.")
    parts, faults = [], Faults(str(folder))
    for table in tables:
        part, found = _with_images(*read_deeplabcut_csv(table), table.parent)
        clip = table.parent.name
        parts.append(replace(part, images=tuple(f"{clip}/{image}" for image in part.images), patients=np.full(len(part), clip)))
        faults.merge(found)
    return joined(parts), faults


def joined(parts: list[Landmarks]) -> Landmarks:
    """Several sets as one.

    Raises:
        SonokitError: They have other landmarks, or only some have a spacing.
    """
    if len({part.names for part in parts}) != 1 or len({part.spacing is None for part in parts}) != 1:
        raise SonokitError("sets of landmarks can be joined if all have the same names, and all or none a spacing")
    spacings = [part.spacing for part in parts if part.spacing is not None]
    return Landmarks(
        tuple(image for part in parts for image in part.images),
        parts[0].names,
        np.concatenate([part.points for part in parts]),
        np.concatenate(spacings) if spacings else None,
        np.concatenate([part.sizes for part in parts]),
        np.concatenate([part.patients for part in parts]),
    )


def _with_images(landmarks: Landmarks, faults: Faults, folder: Path) -> tuple[Landmarks, Faults]:
    sizes = {}
    for image in landmarks.images:
        if (folder / image).is_file():
            with Image.open(folder / image) as opened:  # the header alone is read
                sizes[image] = opened.size
    return with_sizes(landmarks, sizes, faults), faults
