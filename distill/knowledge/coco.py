"""Regions in COCO's JSON: polygons, run lengths as numbers or compressed, boxes where there is no segmentation."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...atomic import write_text
from ...errors import SonokitError
from .drawing import Size, box_corners, drawable, polygon_mask
from .regions import Gathering, ImageRegions, RegionSet
from .run_lengths import decode_text, mask_of_runs


def read_coco(source: Path, sizes: Mapping[str, Size] | None = None) -> RegionSet:
    """Read the annotations of a COCO file; the name of a region is its category's.

    Args:
        source: The file.
        sizes: Image (``file_name``) -> (width, height) as they really are; None believes the file.

    Raises:
        SonokitError: No such file, or it is no COCO JSON.
    """
    source = Path(source)
    content = _content(source)
    gathering = Gathering(str(source), sizes)
    try:
        images = {int(image["id"]): image for image in content["images"]}
        categories = {int(category["id"]): str(category["name"]) for category in content["categories"]}
        names = {number: str(image["file_name"]) for number, image in images.items()}
        drawn = {number: gathering.image(names[number], _size(image)) for number, image in images.items()}
        for annotation in content["annotations"]:
            number, category = int(annotation["image_id"]), int(annotation["category_id"])
            image, name = names.get(number, f"image {number}"), categories.get(category, f"category {category}")
            if number not in images:
                gathering.leave_out(image, name, "unknown_image")
            elif category not in categories:
                gathering.leave_out(image, name, "unknown_label")
            else:
                _take_in(gathering, image, name, annotation, drawn[number])
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise SonokitError(
            f"{source} is no COCO file: images, categories and annotations with their ids are needed ({error!r})"
        ) from None
    return gathering.done()


def write_coco(target: Path, images: Mapping[str, ImageRegions]) -> None:
    """Write regions as run lengths, ids from 1; what :func:`read_coco` gives back is equal pixel by pixel."""
    names = sorted({region.name for image in images.values() for region in image.regions})
    category = {name: number for number, name in enumerate(names, 1)}
    entries: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, (image, found) in enumerate(images.items(), 1):
        entries.append({"id": number, "file_name": image, "width": found.size[0], "height": found.size[1]})
        for region in found.regions:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": category[region.name],
                    "segmentation": {"size": [found.size[1], found.size[0]], "counts": region.runs.tolist()},
                    "bbox": _box(region.mask),
                    "area": region.area,
                    "iscrowd": 1,  # COCO's word for "given as run lengths"
                }
            )
    content = {
        "images": entries,
        "categories": [{"id": number, "name": name} for name, number in category.items()],
        "annotations": annotations,
    }
    write_text(target, json.dumps(content) + "\n")


def _content(source: Path) -> Any:
    if not source.is_file():
        raise SonokitError(f"There is no COCO file {source}.")
    try:
        return json.loads(source.read_text(encoding="utf-8-sig"))
    except ValueError as error:  # of JSON and of UTF-8
        raise SonokitError(f"{source} is not readable as JSON ({error}). Export it anew.") from None


def _size(image: dict[str, Any]) -> Size | None:
    return (int(image["width"]), int(image["height"])) if "width" in image and "height" in image else None


def _take_in(gathering: Gathering, image: str, name: str, annotation: dict[str, Any], size: Size | None) -> None:
    if size is None:
        gathering.leave_out(image, name, gathering.why_not(image))
        return
    segmentation = annotation.get("segmentation")
    if isinstance(segmentation, dict):
        _take_in_runs(gathering, image, name, segmentation, size)
        return
    if not segmentation and not annotation.get("bbox"):
        gathering.leave_out(image, name, "unsupported_shape")
        return
    shapes = _polygons(segmentation) if segmentation else _box_shape(annotation["bbox"])
    if not shapes or not all(map(drawable, shapes)):
        gathering.leave_out(image, name, "malformed_shape")
        return
    mask = np.logical_or.reduce([polygon_mask(shape, size) for shape in shapes])
    gathering.add(image, name, mask, np.concatenate(shapes))


def _polygons(segmentation: list[Any]) -> list[np.ndarray]:
    """Corners of each part, float64 [K, 2]; none where a part has no three."""
    parts = [np.asarray(part, dtype=np.float64) for part in segmentation]
    return [] if any(part.size < 6 or part.size % 2 for part in parts) else [part.reshape(-1, 2) for part in parts]


def _box_shape(box: list[Any]) -> list[np.ndarray]:
    sides = np.asarray(box, dtype=np.float64)
    if sides.shape != (4,):
        return []
    x, y, width, height = sides.tolist()
    return [box_corners(x, y, x + width, y + height)]


def _take_in_runs(gathering: Gathering, image: str, name: str, segmentation: dict[str, Any], size: Size) -> None:
    height, width = (int(value) for value in segmentation["size"])
    if (width, height) != tuple(size):
        gathering.leave_out(image, name, "size_mismatch")
        return
    try:
        counts = segmentation["counts"]
        mask = mask_of_runs(decode_text(counts) if isinstance(counts, str) else np.asarray(counts), height, width)
    except ValueError:
        gathering.leave_out(image, name, "malformed_shape")
        return
    gathering.add(image, name, mask)


def _box(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [int(columns[0]), int(rows[0]), int(columns[-1] - columns[0] + 1), int(rows[-1] - rows[0] + 1)]
