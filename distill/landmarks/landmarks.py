"""Landmarks of many images, and what is wrong with them.

A point (x, y) is in pixels of its own image, with (0, 0) the centre of the pixel at the upper left. Annotation tools differ by
half a pixel in this; the offset is the same in training and test, so a model learns it, and no error changes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...errors import SonokitError
from ..faults import Faults

KINDS = {
    "absent_landmark": "no point is given: not visible, or not set",
    "half_a_point": "x without y or y without x: taken as absent",
    "outside_frame": "the point lies beyond the edges of the image: kept",
    "repeated_image": "the image was there before: the first counts",
    "missing_file": "there is no such image in the folder",
    "size_mismatch": "the table says another size than the image has: the image's counts",
    "no_spacing": "the pixel spacing of this image is not known, or not positive: its errors have no millimetres",
}
"""What each fault of landmarks means."""


@dataclass(frozen=True, eq=False)
class Landmarks:
    """L landmarks in each of N images.

    Attributes:
        images: Names of the images, N.
        names: Names of the landmarks, L.
        points: (x, y) in pixels, float64 [N, L, 2]; nan where absent.
        spacing: Millimetres a pixel (along x, along y), float64 [N, 2], nan where unknown; None where nothing is known.
        sizes: (width, height) in pixels, float64 [N, 2], nan where unknown.
        patients: Whose image each is, str [N]; the image's own name where nothing is known.
    """

    images: tuple[str, ...]
    names: tuple[str, ...]
    points: np.ndarray
    spacing: np.ndarray | None
    sizes: np.ndarray
    patients: np.ndarray

    def __post_init__(self) -> None:
        expected = {"points": (len(self.images), len(self.names), 2), "sizes": (len(self.images), 2)}
        expected |= {"patients": (len(self.images),)} | ({} if self.spacing is None else {"spacing": (len(self.images), 2)})
        for name, shape in expected.items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} must be {list(shape)}, it is {list(getattr(self, name).shape)}")

    def __len__(self) -> int:
        return len(self.images)

    @property
    def present(self) -> np.ndarray:
        """Which landmarks have a point, bool [N, L]."""
        return np.isfinite(self.points).all(axis=2)

    def select(self, rows: np.ndarray) -> "Landmarks":
        """Some of the images; ``rows`` is a mask [N] or row numbers."""
        numbers = np.arange(len(self))[rows]
        return replace(
            self,
            images=tuple(self.images[k] for k in numbers),
            points=self.points[numbers],
            spacing=None if self.spacing is None else self.spacing[numbers],
            sizes=self.sizes[numbers],
            patients=self.patients[numbers],
        )

    def only(self, *names: str) -> "Landmarks":
        """Some of the landmarks, in this order.

        Raises:
            SonokitError: One is not there.
        """
        for name in names:
            if name not in self.names:
                raise SonokitError(f"there is no landmark {name!r}; there are {', '.join(self.names)}")
        return replace(self, names=names, points=self.points[:, [self.names.index(name) for name in names]])

    def faults(self, source: str = "") -> Faults:
        """Count what can be seen in the points alone; ``checked`` counts the points.

        ``no_spacing`` is counted by image, and only where some image has a spacing.
        """
        found = Faults(source, int(self.present.size))
        half = np.isfinite(self.points).any(axis=2) & ~self.present
        with np.errstate(invalid="ignore"):
            beyond = ((self.points < -0.5) | (self.points > self.sizes[:, None] - 0.5)).any(axis=2) & self.present
        for kind, met in (("absent_landmark", ~self.present & ~half), ("half_a_point", half), ("outside_frame", beyond)):
            places = [f"{self.names[k]} in {self.images[n]}" for n, k in np.argwhere(met)[:3]]
            found.add(kind, int(met.sum()), places)
        if self.spacing is not None:
            unknown = ~(self.spacing > 0).all(axis=1)
            found.add("no_spacing", int(unknown.sum()), [self.images[n] for n in np.flatnonzero(unknown)[:3]])
        return found


def assemble(rows: list[dict[str, Any]], names: tuple[str, ...], source: str) -> tuple[Landmarks, Faults]:
    """Landmarks of what a reader found, with repeated images dropped and half points made absent, both counted.

    Args:
        rows: For each image: "image", "points" (float [L, 2]) and, where known, "spacing" and "size" (two numbers each) and
            "patient".
        names: Of the landmarks.
        source: The file, for messages.

    Raises:
        SonokitError: There is no image, or no landmark.
    """
    first = {row["image"]: row for row in reversed(rows)}
    kept = [row for row in rows if first[row["image"]] is row]
    if not kept or not names:
        raise SonokitError(f"{source}: not one {'image' if not kept else 'landmark'} is there")
    nothing = (np.nan, np.nan)
    spacing = np.array([row.get("spacing") or nothing for row in kept], dtype=np.float64)
    read = Landmarks(
        tuple(row["image"] for row in kept),
        tuple(names),
        np.stack([np.asarray(row["points"], dtype=np.float64) for row in kept]),
        None if np.isnan(spacing).all() else np.where(spacing > 0, spacing, np.nan),
        np.array([row.get("size") or nothing for row in kept], dtype=np.float64),
        np.array([row.get("patient") or row["image"] for row in kept]).astype(str),
    )
    found = read.faults(source)
    found.add("repeated_image", len(rows) - len(kept), [row["image"] for row in rows if first[row["image"]] is not row])
    return replace(read, points=np.where(read.present[..., None], read.points, np.nan)), found


def with_sizes(landmarks: Landmarks, sizes: Mapping[str, tuple[int, int]], faults: Faults) -> Landmarks:
    """The same with the sizes that the images really have; counts ``missing_file`` and ``size_mismatch``.

    Points beyond the frame are counted anew against these sizes.
    """
    told = landmarks.sizes
    true = np.array([sizes.get(image, (np.nan, np.nan)) for image in landmarks.images], dtype=np.float64)
    absent = np.isnan(true[:, 0])
    other = ~absent & np.isfinite(told).all(axis=1) & np.not_equal(true, told).any(axis=1)
    for kind, met in (("missing_file", absent), ("size_mismatch", other)):
        faults.add(kind, int(met.sum()), [landmarks.images[k] for k in np.flatnonzero(met)[:3]])
    sized = replace(landmarks, sizes=np.where(absent[:, None], told, true))
    again = sized.faults()
    faults.counts.pop("outside_frame", None)
    faults.examples.pop("outside_frame", None)
    faults.add("outside_frame", again["outside_frame"], again.examples.get("outside_frame", ()))
    return sized
