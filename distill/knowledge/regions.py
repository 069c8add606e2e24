"""Regions that experts marked in images, whatever file they come from, with their sizes checked against the images.

A region that cannot be placed for sure is left out and counted; see :data:`KINDS`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from ..faults import Faults
from ..placement import Placement, place_image
from .drawing import Size, beyond
from .run_lengths import mask_of_runs, run_lengths

KINDS = {
    "unknown_image": "the image is not among those asked for: left out",
    "size_mismatch": "the region was drawn on an image of another size: left out",
    "outside_frame": "a part of it lies beyond the frame: that part is cut off",
    "empty_region": "it covers no pixel: left out",
    "unsupported_shape": "a line, a point, an ellipse, a skeleton …, no area that is understood: left out",
    "malformed_shape": "fewer than three corners, no numbers, a box turned round, or run lengths that do not fit: left out",
    "drawn_twice": "two regions of one name cover nearly the same pixels: both are kept",
    "unknown_label": "a value or number that no name is given for: left out",
    "box_differs": "the box beside the mask is not the mask's: the mask counts",
    "image_without_regions": "an image asked for in which nothing is marked",
}
"""What each fault of regions means, and what is done with the region."""


_NEARLY = 0.8  # intersection over union


@dataclass(frozen=True, eq=False)
class Region:
    """One marked area of one image, kept as run lengths because a mask of each would fill the memory.

    Attributes:
        name: What it is.
        size: (width, height) of the image.
        runs: Run lengths down the columns, background first, int64 [K].
    """

    name: str
    size: Size
    runs: np.ndarray

    @classmethod
    def of(cls, name: str, mask: np.ndarray) -> "Region":
        """From a mask, bool [H, W]."""
        return cls(name, (mask.shape[1], mask.shape[0]), run_lengths(mask.astype(bool)))

    @property
    def mask(self) -> np.ndarray:
        """Where it is, bool [H, W]."""
        return mask_of_runs(self.runs, self.size[1], self.size[0])

    @property
    def area(self) -> int:
        """How many pixels it covers."""
        return int(self.runs[1::2].sum())


@dataclass(frozen=True, eq=False)
class ImageRegions:
    """All regions of one image; several may be of one name.

    Attributes:
        size: (width, height).
        regions: In the order of the file.
    """

    size: Size
    regions: tuple[Region, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names that occur, each once, in the order of the file."""
        return tuple(dict.fromkeys(region.name for region in self.regions))

    def mask(self, *names: str) -> np.ndarray:
        """Where any region of these names (of any name, where none is given) is, bool [H, W]."""
        mask = np.zeros((self.size[1], self.size[0]), dtype=bool)
        for region in self.regions:
            if not names or region.name in names:
                mask |= region.mask
        return mask


@dataclass(frozen=True, eq=False)
class RegionSet:
    """The regions of many images.

    Attributes:
        images: Image -> its regions; an image without any is there with none.
        faults: What is wrong; ``checked`` counts the regions.
    """

    images: dict[str, ImageRegions]
    faults: Faults

    @property
    def names(self) -> tuple[str, ...]:
        """Names that occur, in alphabetical order."""
        return tuple(sorted({name for image in self.images.values() for name in image.names}))


@dataclass
class Gathering:
    """Regions on their way in from a file: every check is here, so that all formats are checked alike.

    Attributes:
        source: The file.
        sizes: Image -> (width, height) of the images asked for; None takes every image at the size that the file says.
    """

    source: str
    sizes: Mapping[str, Size] | None = None
    faults: Faults = field(init=False)
    _sizes: dict[str, Size] = field(init=False, default_factory=dict)
    _regions: dict[str, list[Region]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self.faults = Faults(self.source)

    def image(self, image: str, size: Size | None) -> Size | None:
        """Announce an image and the size that the file says of it (None: nothing); gives the size to draw at.

        None if the image is not asked for, is of another size, or of no known one; its regions are then left out and counted
        by :meth:`leave_out`.
        """
        if self.sizes is None:
            if size is not None:
                self._sizes[image] = size
            return size
        wanted = self.sizes.get(image)
        if wanted is None or (size is not None and tuple(size) != tuple(wanted)):
            return None
        self._sizes[image] = wanted
        return wanted

    def add(self, image: str, name: str, mask: np.ndarray, corners: np.ndarray | None = None) -> None:
        """Take in a region, bool [H, W]; ``corners`` [K, 2] where it was drawn as a shape."""
        self.faults.checked += 1
        if corners is not None and beyond(corners, self._sizes[image]):
            self.faults.add("outside_frame", 1, [f"{name} in {image}"])
        if not mask.any():
            self.faults.add("empty_region", 1, [f"{name} in {image}"])
            return
        self._regions.setdefault(image, []).append(Region.of(name, mask))

    def leave_out(self, image: str, name: str, kind: str) -> None:
        """Count a region that cannot be used."""
        self.faults.checked += 1
        self.faults.add(kind, 1, [f"{name} in {image}"])

    def why_not(self, image: str) -> str:
        """The kind of fault because of which :meth:`image` gave no size."""
        return "unknown_image" if self.sizes is not None and image not in self.sizes else "size_mismatch"

    def done(self) -> RegionSet:
        """Everything that was taken in."""
        sizes = self._sizes if self.sizes is None else {image: (size[0], size[1]) for image, size in self.sizes.items()}
        images = {image: ImageRegions(size, tuple(self._regions.get(image, ()))) for image, size in sizes.items()}
        for image, found in images.items():
            twice = [first.name for first, second in combinations(found.regions, 2) if _nearly_the_same(first, second)]
            self.faults.add("drawn_twice", len(twice), [f"{name} in {image}" for name in twice])
        empty = [image for image, found in images.items() if not found.regions]
        self.faults.add("image_without_regions", len(empty), empty)
        return RegionSet(images, self.faults)


def placed_mask(mask: np.ndarray, placement: Placement) -> np.ndarray:
    """A mask, bool [H, W], where its image lies in a network's input: float32, 0 to 1, the share of a pixel that is covered.

    Raises:
        SonokitError: The mask is of another size than the placement's images.
    """
    return place_image(mask.astype(np.uint8) * 255, placement).astype(np.float32) / 255


def _nearly_the_same(first: Region, second: Region) -> bool:
    if first.name != second.name or min(first.area, second.area) < _NEARLY * max(first.area, second.area):
        return False
    one, other = first.mask, second.mask
    return bool((one & other).sum() > _NEARLY * (one | other).sum())
