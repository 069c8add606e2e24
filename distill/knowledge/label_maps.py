"""Regions in label maps: one PNG an image, in which each pixel's value says what it shows; 0 is the background."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ...atomic import atomic_path, write_json
from ...errors import SonokitError
from .drawing import Size
from .regions import Gathering, ImageRegions, RegionSet

LABELS = "labels.json"
"""Beside the maps: value -> name."""


def read_label_maps(
    folder: Path, labels: Mapping[int, str] | None = None, sizes: Mapping[str, Size] | None = None
) -> RegionSet:
    """Read a folder of label maps; ``a.png`` is of the image ``a``, else of the image ``a.*`` where there is but one.

    Args:
        folder: Where the maps are, at any depth.
        labels: Value -> name; None reads them from ``labels.json`` in the folder.
        sizes: Image -> (width, height) as they really are; None believes the maps.

    Raises:
        SonokitError: No map, no names, or a map in colours (its values are then no labels).
    """
    folder = Path(folder)
    maps = sorted(path for path in folder.rglob("*") if path.suffix.lower() == ".png")
    if not maps:
        raise SonokitError(f"There is no label map (.png) in {folder}.")
    names = {int(value): str(name) for value, name in labels.items()} if labels is not None else _labels(folder)
    image_of = _by_stem(sizes or ())
    gathering = Gathering(str(folder), sizes)
    for path in maps:
        values = _values(path)
        stem = path.relative_to(folder).with_suffix("").as_posix()
        image = image_of.get(stem, stem)
        size = gathering.image(image, (values.shape[1], values.shape[0]))
        for value in np.unique(values[values != 0]).tolist():
            if size is None:
                gathering.leave_out(image, names.get(value, str(value)), gathering.why_not(image))
            elif value not in names:
                gathering.leave_out(image, f"value {value}", "unknown_label")
            else:
                gathering.add(image, names[value], values == value)
    return gathering.done()


def write_label_maps(folder: Path, images: Mapping[str, ImageRegions]) -> dict[int, str]:
    """Write maps and ``labels.json``; gives value -> name, in alphabetical order from 1.

    Raises:
        SonokitError: Two regions of different names overlap, two images share a name but for the ending, or there are more
            than 255 names.
    """
    folder = Path(folder)
    names = sorted({name for image in images.values() for name in image.names})
    if len(names) > 255:
        raise SonokitError(f"a label map has 255 values, there are {len(names)} names; write COCO instead")
    stems = [Path(image).with_suffix("").as_posix() for image in images]
    if len(set(stems)) < len(stems):
        twice = next(stem for stem in stems if stems.count(stem) > 1)
        raise SonokitError(f"two images would share the label map {twice}.png; write COCO instead")
    for stem, (image, found) in zip(stems, images.items(), strict=True):
        values = np.zeros((found.size[1], found.size[0]), dtype=np.uint8)
        for value, name in enumerate(names, 1):
            mask = found.mask(name)
            if (values[mask] != 0).any():
                raise SonokitError(
                    f"{image}: {name} overlaps another region, which a label map cannot hold; write COCO instead"
                )
            values[mask] = value
        target = folder / f"{stem}.png"
        with atomic_path(target) as temporary:
            Image.fromarray(values).save(temporary, format="PNG")
    labels = dict(enumerate(names, 1))
    write_json(folder / LABELS, {str(value): name for value, name in labels.items()})
    return labels


def _by_stem(images: Iterable[str]) -> dict[str, str]:
    """Which image a map of this name is of: the one of the very name, else the only one of it but for the ending.

    Names such as 1.2.840.1 and 1.2.840.2 end in what looks like an ending: a map of "1.2.840" would be of either, so of none.
    """
    stems = [(Path(image).with_suffix("").as_posix(), image) for image in images]
    counts = Counter(stem for stem, _ in stems)
    return {stem: image for stem, image in stems if counts[stem] == 1} | {image: image for _, image in stems}


def _labels(folder: Path) -> dict[int, str]:
    source = folder / LABELS
    if not source.is_file():
        raise SonokitError(f"There is no {source}: say what the values mean, as {{'1': 'pleura', '2': …}}.")
    try:
        return {int(value): str(name) for value, name in json.loads(source.read_text(encoding="utf-8-sig")).items()}
    except (ValueError, AttributeError) as error:
        raise SonokitError(f"{source}: numbers as keys and names as values are needed ({error})") from None


def _values(path: Path) -> np.ndarray:
    """The values of a map, int64 [H, W]; of a palette image the numbers of its colours."""
    try:
        with Image.open(path) as image:
            if image.mode not in ("1", "L", "P", "I", "I;16"):
                raise SonokitError(
                    f"{path} is in colours (mode {image.mode}): save it with one value a pixel (grey or palette)"
                )
            return np.asarray(image).astype(np.int64)
    except (UnidentifiedImageError, OSError) as error:
        raise SonokitError(f"{path} is not readable as an image ({error}). Save it anew.") from None
