"""Regions in a CSV: a box a row, or a mask file a row."""

import csv
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ...atomic import atomic_path
from ...errors import SonokitError
from ..tables import Table
from .drawing import Size, box_corners, drawable, polygon_mask
from .regions import Gathering, ImageRegions, RegionSet

_IMAGE = ("image", "file_name", "path", "clip_id")
_NAME = ("class", "label", "name", "region")
_EDGES = (("x0", "x_min", "xmin", "left"), ("y0", "y_min", "ymin", "top"), ("x1", "x_max", "xmax", "right"))
_LOWER = ("y1", "y_max", "ymax", "bottom")


def read_boxes_csv(source: Path, sizes: Mapping[str, Size] | None = None, *, last_pixel_inside: bool = False) -> RegionSet:
    """Read boxes: columns image, class, x0, y0, x1, y1 and, where ``sizes`` is None, width and height of the image.

    Args:
        source: The file.
        sizes: Image -> (width, height) as they really are.
        last_pixel_inside: The box's x1 and y1 are its last column and row, not the edges behind them.

    Raises:
        SonokitError: No such file, a column is not there, or a cell is no number.
    """
    table = Table(source)
    images, names = table.texts(table.require(*_IMAGE)), table.texts(table.require(*_NAME))
    edges = np.stack([table.numbers(table.require(*names)) for names in (*_EDGES, _LOWER)], axis=1)  # [M, 4]
    edges[:, 2:] += 1 if last_pixel_inside else 0
    told = _told_sizes(table, required=sizes is None)
    gathering = Gathering(str(source), sizes)
    for image, name, box, size_told in zip(images, names, edges, told, strict=True):
        size = gathering.image(image, size_told)
        if size is None:
            gathering.leave_out(image, name, gathering.why_not(image))
        elif not drawable(box) or box[2] < box[0] or box[3] < box[1]:
            gathering.leave_out(image, name, "malformed_shape")
        else:
            corners = box_corners(*box)
            gathering.add(image, name, polygon_mask(corners, size), corners)
    return gathering.done()


def write_boxes_csv(target: Path, images: Mapping[str, ImageRegions]) -> None:
    """Write the box round each region, x1 and y1 behind its last column and row."""
    with atomic_path(Path(target)) as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
        rows = csv.writer(handle)
        rows.writerow(["image", "class", "x0", "y0", "x1", "y1", "width", "height"])
        for image, found in images.items():
            for region in found.regions:
                rows.writerow([image, region.name, *_bounds(region.mask), *found.size])


def read_mask_files(source: Path, masks: Path | None = None, sizes: Mapping[str, Size] | None = None) -> RegionSet:
    """Read a table of mask files: columns image, mask, class and, if there are any, x0, y0, x1, y1, width, height.

    A mask is an image of the frame's size in which everything but 0 is the region. A box beside it is compared: x1 and y1 may
    be the last column and row or the edges behind them.

    Args:
        source: The table.
        masks: The folder of the masks; None takes ``masks`` beside the table, or the table's own folder.
        sizes: Image -> (width, height) as they really are; None believes the table's width and height, else the mask's.

    Raises:
        SonokitError: No such file, a column or a mask is not there.
    """
    table = Table(source)
    images, names = table.texts(table.require(*_IMAGE)), table.texts(table.require(*_NAME))
    files = table.texts(table.require("mask"))
    beside = Path(source).parent
    folder = Path(masks) if masks is not None else (beside / "masks" if (beside / "masks").is_dir() else beside)
    boxes = _boxes_beside(table)
    gathering = Gathering(str(source), sizes)
    told = _told_sizes(table, required=False)
    for row, (image, name, file) in enumerate(zip(images, names, files, strict=True)):
        mask = _mask(folder / file, f"{source}, {table.place(row)}")
        drawn = (mask.shape[1], mask.shape[0])
        size = gathering.image(image, told[row] or drawn)
        if size is None or tuple(size) != drawn:
            gathering.leave_out(image, name, gathering.why_not(image))
            continue
        gathering.add(image, name, mask)
        if boxes is not None and mask.any() and _differs(boxes[row], mask):
            gathering.faults.add("box_differs", 1, [f"{name} in {image}"])
    return gathering.done()


def write_mask_files(folder: Path, images: Mapping[str, ImageRegions]) -> None:
    """Write ``regions.csv`` and ``masks/``, as :func:`read_mask_files` reads them."""
    folder = Path(folder)
    rows: list[list[object]] = []
    for image, found in images.items():
        for region in found.regions:
            file = f"{len(rows):06d}.png"
            with atomic_path(folder / "masks" / file) as temporary:
                Image.fromarray(region.mask).save(temporary, format="PNG")
            rows.append([image, file, region.name, *_bounds(region.mask), *found.size])
    with atomic_path(folder / "regions.csv") as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
        table = csv.writer(handle)
        table.writerow(["image", "mask", "class", "x0", "y0", "x1", "y1", "width", "height"])
        table.writerows(rows)


def _told_sizes(table: Table, *, required: bool) -> list[Size | None]:
    if not required and table.find(("width",)) is None:
        return [None] * len(table)
    width, height = (table.numbers(table.require(side)) for side in ("width", "height"))
    known = np.isfinite(width) & np.isfinite(height)
    return [(int(w), int(h)) if fine else None for w, h, fine in zip(width, height, known, strict=True)]


def _boxes_beside(table: Table) -> np.ndarray | None:
    columns = [table.find(names) for names in (*_EDGES, _LOWER)]
    return np.stack([table.numbers(column) for column in columns if column], axis=1) if all(columns) else None


def _mask(path: Path, place: str) -> np.ndarray:
    try:
        with Image.open(path) as image:
            values = np.asarray(image)
    except (UnidentifiedImageError, OSError) as error:
        raise SonokitError(f"{place}: the mask {path} is not readable as an image ({error}).") from None
    if values.ndim != 2:
        raise SonokitError(f"{place}: the mask {path} is in colours; save it with one value a pixel.")
    return values != 0


def _bounds(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _differs(box: np.ndarray, mask: np.ndarray) -> bool:
    x0, y0, x1, y1 = _bounds(mask)
    return not (np.array_equal(box, [x0, y0, x1, y1]) or np.array_equal(box, [x0, y0, x1 - 1, y1 - 1]))
