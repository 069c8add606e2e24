"""Landmarks as people have them: CSV with a column an axis, JSON, and DeepLabCut's CSV of three header rows."""

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...atomic import atomic_path, write_json
from ...errors import SonokitError
from ..faults import Faults
from ..tables import Table
from .landmarks import Landmarks, assemble

_IMAGE = ("image", "file_name", "path", "clip_id")
_PATIENT = ("patient_id", "patient")
_SPACING = ("mm_per_px", "mm_per_pixel", "pixel_spacing", "pixel_spacing_mm", "spacing_mm")
_PAIR = re.compile(r"(?:(?P<before>.*)_)?(?P<axis>[xy])_?(?P<after>[^_].*)?")


def read_landmarks_csv(source: Path, spacing: float | tuple[float, float] | None = None) -> tuple[Landmarks, Faults]:
    """Read a row an image: ``image``, and two columns a landmark.

    The pair of a landmark is ``NAME_x``, ``NAME_y``, or ``x0``, ``y0``, or ``NAME_x1``, ``NAME_y1``. Further columns that are
    known: ``width`` and ``height``, ``patient_id``, ``mm_per_px`` (both axes) or ``mm_per_px_x`` and ``mm_per_px_y``.

    Args:
        source: The file.
        spacing: Millimetres a pixel where the file does not say, of both axes or (x, y).

    Raises:
        SonokitError: No such file, no landmark's pair of columns, a cell that is no number, or a spacing said twice.
    """
    table = Table(source)
    images = table.texts(table.require(*_IMAGE))
    pairs = _pairs(table)
    if not pairs:
        raise SonokitError(f"{source}: no pair of columns such as sella_x, sella_y or x0, y0 among {', '.join(table.columns)}.")
    points = np.stack([np.stack([table.numbers(x), table.numbers(y)], axis=1) for x, y in pairs.values()], axis=1)  # [N, L, 2]
    spacings = _spacing_of_rows(table, spacing)
    sizes = _two_columns(table, "width", "height")
    column = table.find(_PATIENT)
    patients = table.texts(column) if column else [""] * len(images)
    rows = [
        {"image": image, "points": points[k], "spacing": spacings[k], "size": sizes[k], "patient": patients[k]}
        for k, image in enumerate(images)
    ]
    return assemble(rows, tuple(pairs), str(source))


def write_landmarks_csv(target: Path, landmarks: Landmarks) -> None:
    """Write so that :func:`read_landmarks_csv` gives back the same numbers; names are read back in lower case."""
    head = ["image", "patient_id", "width", "height", "mm_per_px_x", "mm_per_px_y"]
    head += [f"{name}_{axis}" for name in landmarks.names for axis in "xy"]
    unknown = np.full((len(landmarks), 2), np.nan)
    figures = np.concatenate(
        [
            landmarks.sizes,
            unknown if landmarks.spacing is None else landmarks.spacing,
            landmarks.points.reshape(len(landmarks), -1),
        ],
        axis=1,
    )
    with atomic_path(Path(target)) as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
        rows = csv.writer(handle)
        rows.writerow(head)
        for image, patient, row in zip(landmarks.images, landmarks.patients, figures, strict=True):
            rows.writerow([image, patient, *("" if np.isnan(figure) else repr(float(figure)) for figure in row)])


def read_landmarks_json(source: Path, spacing: float | tuple[float, float] | None = None) -> tuple[Landmarks, Faults]:
    """Read ``{"names": [...], "images": [{"image", "points": {name: [x, y] or null}, …}]}``.

    An image may have "width", "height", "patient_id" and "mm_per_px", one number or [x, y].

    Args:
        source: The file.
        spacing: Millimetres a pixel where the file does not say, of both axes or (x, y).

    Raises:
        SonokitError: No such file, or it is of another form.
    """
    source = Path(source)
    if not source.is_file():
        raise SonokitError(f"There is no file {source}.")
    try:
        content = json.loads(source.read_text(encoding="utf-8-sig"))
    except ValueError as error:
        raise SonokitError(f"{source} is not readable as JSON ({error}). Write it anew.") from None
    try:
        names = tuple(str(name) for name in content["names"])
        rows = [_row(entry, names, spacing) for entry in content["images"]]
    except (KeyError, TypeError, ValueError) as error:
        raise SonokitError(f"{source}: names, and images with image and points, are needed ({error!r}).") from None
    return assemble(rows, names, str(source))


def write_landmarks_json(target: Path, landmarks: Landmarks) -> None:
    """Write so that :func:`read_landmarks_json` gives back the same numbers."""
    images: list[dict[str, Any]] = []
    for k, image in enumerate(landmarks.images):
        entry: dict[str, Any] = {"image": image, "patient_id": str(landmarks.patients[k])}
        if np.isfinite(landmarks.sizes[k]).all():
            entry |= {"width": int(landmarks.sizes[k, 0]), "height": int(landmarks.sizes[k, 1])}
        if landmarks.spacing is not None and np.isfinite(landmarks.spacing[k]).all():
            entry["mm_per_px"] = landmarks.spacing[k].tolist()
        points = zip(landmarks.names, landmarks.points[k], strict=True)
        entry["points"] = {name: point.tolist() if np.isfinite(point).all() else None for name, point in points}
        images.append(entry)
    write_json(Path(target), {"names": list(landmarks.names), "images": images})


def read_deeplabcut_csv(source: Path) -> tuple[Landmarks, Faults]:
    """Read DeepLabCut's ``CollectedData_*.csv``: three header rows (scorer, bodyparts, coords); empty cells are not visible.

    The name of an image is that of its file alone, without the folder.

    Raises:
        SonokitError: No such file, or it is of another form.
    """
    source = Path(source)
    if not source.is_file():
        raise SonokitError(f"There is no file {source}.")
    with open(source, newline="", encoding="utf-8-sig") as handle:
        cells = [row for row in csv.reader(handle) if any(row)]
    if len(cells) < 3 or [row[0] for row in cells[:3]] != ["scorer", "bodyparts", "coords"]:
        raise SonokitError(f"{source}: the header rows scorer, bodyparts and coords are needed.")
    names = tuple(cells[1][1::2])
    if tuple(cells[1][2::2]) != names or cells[2][1:] != ["x", "y"] * len(names):
        raise SonokitError(f"{source}: each body part needs two columns, x and y.")
    rows = []
    for line, row in enumerate(cells[3:], 4):
        try:
            figures = np.array([float(cell) if cell.strip() else np.nan for cell in row[1:]]).reshape(len(names), 2)
        except ValueError:
            raise SonokitError(f"{source}, line {line}: {2 * len(names)} numbers or empty cells are needed.") from None
        rows.append({"image": row[0].replace("\\", "/").rsplit("/", 1)[-1], "points": figures})
    return assemble(rows, names, str(source))


def _pairs(table: Table) -> dict[str, tuple[str, str]]:
    """Landmark -> its columns x and y, in the order of the file."""
    pairs = {}
    for column in table.columns:
        match = _PAIR.fullmatch(column)
        if match is None or match["axis"] != "x" or column.startswith(_SPACING):
            continue
        start = match.start("axis")
        partner = f"{column[:start]}y{column[start + 1 :]}"
        name = "_".join(part for part in (match["before"], match["after"]) if part)
        if name and partner in table.columns:
            pairs[name] = (column, partner)
    return pairs


def _two_columns(table: Table, first: str, second: str) -> list[tuple[float, float] | None]:
    if table.find((first,)) is None or table.find((second,)) is None:
        return [None] * len(table)
    return [(float(a), float(b)) for a, b in zip(table.numbers(first), table.numbers(second), strict=True)]


def _spacing_of_rows(table: Table, given: float | tuple[float, float] | None) -> Sequence[tuple[float, float] | None]:
    both = table.find(_SPACING)
    along_x = table.find([f"{name}_x" for name in _SPACING])
    if both is None and along_x is None:
        return [_both_axes(given)] * len(table)
    if given is not None:
        raise SonokitError(f"{table.source}: column {both or along_x} says the spacing already; do not say it again.")
    if along_x is not None:
        return _two_columns(table, along_x, f"{along_x[:-1]}y")
    return [(float(value), float(value)) for value in table.numbers(both or "")]


def _both_axes(given: Any) -> tuple[float, float] | None:
    if given is None:
        return None
    x, y = given if isinstance(given, list | tuple) else (given, given)
    return float(x), float(y)


def _row(entry: dict[str, Any], names: tuple[str, ...], spacing: float | tuple[float, float] | None) -> dict[str, Any]:
    points = [entry["points"].get(name) for name in names]
    sized = "width" in entry and "height" in entry
    return {
        "image": str(entry["image"]),
        "points": np.array([_point(point) for point in points], dtype=np.float64).reshape(-1, 2),
        "spacing": _both_axes(entry.get("mm_per_px", spacing)),
        "size": (float(entry["width"]), float(entry["height"])) if sized else None,
        "patient": str(entry.get("patient_id", "")),
    }


def _point(point: Any) -> tuple[float, float]:
    if point is None:
        return np.nan, np.nan
    x, y = point
    return (np.nan if x is None else float(x)), (np.nan if y is None else float(y))
