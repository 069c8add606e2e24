"""Regions in CVAT's XML "for images 1.1": boxes (also turned ones), polygons and masks."""

from collections.abc import Mapping
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import numpy as np

from ...atomic import atomic_path
from ...errors import SonokitError
from .drawing import Size, box_corners, drawable, polygon_mask
from .regions import Gathering, ImageRegions, Region, RegionSet
from .run_lengths import mask_of_row_runs, row_runs

_NO_REGIONS = ("tag",)  # a word about the whole image


def read_cvat(source: Path, sizes: Mapping[str, Size] | None = None) -> RegionSet:
    """Read the shapes of a CVAT file; the name of a region is its label.

    Args:
        source: The file.
        sizes: Image (``name``) -> (width, height) as they really are; None believes the file.

    Raises:
        SonokitError: No such file, or it is no CVAT XML for images.
    """
    source = Path(source)
    root = _root(source)
    gathering = Gathering(str(source), sizes)
    try:
        for image in root.iter("image"):
            name = image.attrib["name"]
            size = gathering.image(name, (int(image.attrib["width"]), int(image.attrib["height"])))
            for shape in image:
                if shape.tag not in _NO_REGIONS:
                    _take_in(gathering, name, shape, size)
    except (KeyError, ValueError, OverflowError) as error:
        raise SonokitError(f"{source} is no CVAT XML for images: an attribute is absent or no number ({error})") from None
    return gathering.done()


def write_cvat(target: Path, images: Mapping[str, ImageRegions]) -> None:
    """Write regions as CVAT masks; what :func:`read_cvat` gives back is equal pixel by pixel."""
    root = Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    for number, (name, found) in enumerate(images.items()):
        width, height = found.size
        image = ElementTree.SubElement(root, "image", id=str(number), name=name, width=str(width), height=str(height))
        for region in found.regions:
            image.append(_mask_element(region))
    ElementTree.indent(root)
    with atomic_path(Path(target)) as temporary:
        ElementTree.ElementTree(root).write(temporary, encoding="utf-8", xml_declaration=True)


def _root(source: Path) -> Element:
    if not source.is_file():
        raise SonokitError(f"There is no CVAT file {source}.")
    data = source.read_bytes()
    if b"<!DOCTYPE" in data or b"<!ENTITY" in data:  # CVAT writes neither; entities can blow up to any size
        raise SonokitError(f"{source} declares a document type or entities, which CVAT does not. Export it anew.")
    try:
        root = ElementTree.fromstring(data)
    except ElementTree.ParseError as error:
        raise SonokitError(f"{source} is not readable as XML ({error}). Export it anew.") from None
    if root.tag != "annotations" or root.find("track") is not None:
        raise SonokitError(f"{source} is no 'CVAT for images 1.1' (root {root.tag!r}, tracks?). Export it in that format.")
    return root


def _take_in(gathering: Gathering, image: str, shape: Element, size: Size | None) -> None:
    name = shape.attrib["label"]
    if size is None:
        gathering.leave_out(image, name, gathering.why_not(image))
    elif shape.tag == "mask":
        _take_in_mask(gathering, image, shape, size)
    elif shape.tag in ("box", "polygon"):
        corners = _box(shape) if shape.tag == "box" else _points(shape)
        if len(corners) < 3 or not drawable(corners):
            gathering.leave_out(image, name, "malformed_shape")
        else:
            gathering.add(image, name, polygon_mask(corners, size), corners)
    else:
        gathering.leave_out(image, name, "unsupported_shape")


def _take_in_mask(gathering: Gathering, image: str, shape: Element, size: Size) -> None:
    left, top, width, height = (int(float(shape.attrib[key])) for key in ("left", "top", "width", "height"))
    try:
        part = mask_of_row_runs(np.array([int(run) for run in shape.attrib["rle"].split(",")]), height, width)
    except ValueError:
        gathering.leave_out(image, shape.attrib["label"], "malformed_shape")
        return
    mask = np.zeros((size[1], size[0]), dtype=bool)
    rows, columns = slice(max(top, 0), max(top + height, 0)), slice(max(left, 0), max(left + width, 0))
    inner = mask[rows, columns]
    skipped_rows, skipped_columns = max(-top, 0), max(-left, 0)
    inner[...] = part[skipped_rows : skipped_rows + inner.shape[0], skipped_columns : skipped_columns + inner.shape[1]]
    gathering.add(image, shape.attrib["label"], mask, box_corners(left, top, left + width, top + height))


def _box(shape: Element) -> np.ndarray:
    x0, y0, x1, y1 = (float(shape.attrib[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
    return box_corners(x0, y0, x1, y1, float(shape.attrib.get("rotation", 0)))


def _points(shape: Element) -> np.ndarray:
    pairs = [pair.split(",") for pair in shape.attrib["points"].split(";") if pair.strip()]
    return np.array([[float(x), float(y)] for x, y in pairs], dtype=np.float64).reshape(-1, 2)


def _mask_element(region: Region) -> Element:
    mask = region.mask
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return Element(
        "mask",
        label=region.name,
        source="manual",
        occluded="0",
        rle=", ".join(map(str, row_runs(part).tolist())),
        left=str(columns[0]),
        top=str(rows[0]),
        width=str(part.shape[1]),
        height=str(part.shape[0]),
        z_order="0",
    )
