"""Real clips divided for an export: some to calibrate with, some to choose a form by, some to report on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...clips.cached_clips import CachedClips
from ...errors import SonokitError
from ..placement import fitted, place_image


@dataclass(frozen=True)
class Checks:
    """Clips that no form was calibrated on, letterboxed frames uint8 [T, L, L] each.

    Attributes:
        choosing: By which a form is chosen.
        reporting: Of other patients, on which the chosen one is then compared with torch; empty where there are too few.
    """

    choosing: list[np.ndarray]
    reporting: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.choosing) + len(self.reporting)


def parted(clips: CachedClips, *, most: int = 64, checks: int = 256, seed: int = 0) -> tuple[list[np.ndarray], Checks]:
    """Clips to calibrate with and clips to check with, no patient on two sides.

    Half of the patients calibrate. The other half is divided again, into those that choose a form and those that report on it,
    where there are two patients or more for each.

    Args:
        clips: Cached at the size that the source wants.
        most: Clips to calibrate with, at most.
        checks: Clips to check with, at most, evenly spaced over those that there are.
        seed: Of the division.

    Raises:
        SonokitError: All clips are of one patient, or a number is out of its range.
    """
    require_numbers(most, checks, seed)
    patients = clips.manifest.group_codes()
    order = np.random.default_rng(seed).permutation(patients.max() + 1)
    if len(order) < 2:
        raise SonokitError("the clips are all of one patient: export wants one to calibrate with and another to check with")
    parts = [np.flatnonzero(np.isin(patients, part)) for part in _divided(order)]
    chosen = [_spread(part, count) for part, count in zip(parts, _shares(parts, most, checks), strict=True)]
    calibration, choosing, reporting = ([clips[i].frames for i in part.tolist()] for part in chosen)
    return calibration, Checks(choosing, reporting)


def parted_images(
    folder: Path, size: tuple[int, int], *, most: int = 64, checks: int = 256, seed: int = 0
) -> tuple[list[np.ndarray], Checks]:
    """The same for a landmark model: the images in a folder, each in its place in an input of ``size`` (width, height).

    Raises:
        SonokitError: There are fewer than two images, or a number is out of its range.
    """
    require_numbers(most, checks, seed)
    images = []
    for file in sorted(Path(folder).glob("*")):
        try:
            with Image.open(file) as opened:
                grey = np.asarray(opened.convert("L"))
        except OSError:  # whatever else lies there
            continue
        images.append(place_image(grey, fitted((grey.shape[1], grey.shape[0]), size))[None])
    if len(images) < 2:
        raise SonokitError(f"{folder} holds {len(images)} images: export wants one to calibrate with and another to check with")
    parts = _divided(np.random.default_rng(seed).permutation(len(images)))
    chosen = [_spread(part, count) for part, count in zip(parts, _shares(parts, most, checks), strict=True)]
    calibration, choosing, reporting = ([images[i] for i in part.tolist()] for part in chosen)
    return calibration, Checks(choosing, reporting)


def require_numbers(most: int, checks: int, seed: int) -> None:
    """Refuse numbers by which clips cannot be divided; to be asked before the work.

    Raises:
        SonokitError: One is out of its range.
    """
    if most < 1 or checks < 2 or seed < 0:
        raise SonokitError(
            f"calibration clips must be 1 or more, check clips 2 or more, a seed 0 or more; they are {most}, {checks}, {seed}"
        )


def _divided(order: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patients, shuffled, to calibrate with, to choose by and to report on: the last none where there are fewer than four."""
    half = len(order) // 2
    left = order[half:]
    quarter = (len(left) + 1) // 2 if len(left) >= 4 else len(left)
    return order[:half], left[:quarter], left[quarter:]


def _shares(parts: Sequence[np.ndarray], most: int, checks: int) -> tuple[int, int, int]:
    """How many of each part, at most."""
    return (most, checks - checks // 2, checks // 2) if len(parts[2]) else (most, checks, 0)


def _spread(places: np.ndarray, most: int) -> np.ndarray:
    return places[np.linspace(0, len(places) - 1, min(most, len(places))).astype(np.int64)]
