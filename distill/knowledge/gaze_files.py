"""Gaze as people have it: a CSV of time, x and y, with a duration where it holds fixations, of one clip or of many.

Columns, in any case: ``clip_id`` (or ``clip``, ``image``, ``path``; none where the file is of one clip), ``time`` (or
``time_s``, ``time_ms``, ``timestamp`` …), ``x``, ``y``, and for fixations ``duration`` (``duration_s``, ``duration_ms``).
An empty cell, ``nan``, ``NA`` or a single dot is a missing sample.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from ...atomic import atomic_path
from ...errors import SonokitError
from ..faults import Faults
from ..tables import Table
from .gaze import Gaze, gaze_faults

Units = Literal["auto", "pixels", "normalised"]
TimeUnit = Literal["auto", "s", "ms"]

_CLIP = ("clip_id", "clip", "image", "path")
_TIME = ("time", "timestamp", "t", "start", "start_time")
_DURATION = ("duration", "fixation_duration", "dur")
_SECONDS = {"s": 1.0, "ms": 1e-3}


@dataclass(frozen=True)
class Screen:
    """What gaze is measured on: how large and how long a clip is.

    Attributes:
        size: (width, height) in pixels.
        length_s: Seconds; None for a still, or where that is not known.
    """

    size: tuple[int, int]
    length_s: float | None = None


def read_gaze_csv(
    source: Path, screens: Mapping[str, Screen] | Screen, *, units: Units = "auto", time_unit: TimeUnit = "auto"
) -> tuple[dict[str, Gaze], Faults]:
    """Read the gaze of one clip or of many.

    Args:
        source: The file, UTF-8; comma, semicolon or tab between the cells.
        screens: Of each clip by its ``clip_id``; or one, for a file that is of one clip (or of clips of one size).
        units: What x and y are in: "pixels" of the clip, "normalised" (0 to 1 from edge to edge), or "auto". Then it is
            normalised if all points lie in [0, 1] and at least one is neither 0 nor 1, pixels if more than half of the points
            lie beyond 2, and refused otherwise.
        time_unit: Of columns whose name does not end in ``_s`` or ``_ms``; "auto" takes those for seconds.

    Returns:
        Clip -> gaze, in the order of the file (a file without a clip column: under ""); what is wrong with it. Samples of
        unknown clips are left out and counted, everything else is kept as recorded.

    Raises:
        SonokitError: No such file, a column is not there, a cell is no number, or the units cannot be told.
    """
    table = Table(source)
    points = np.stack([table.numbers(table.require(axis)) for axis in ("x", "y")], axis=1)  # [M, 2]
    times = _in_seconds(table, table.require(*_timed(_TIME)), time_unit)
    duration_column = table.find(_timed(_DURATION))
    durations = None if duration_column is None else _in_seconds(table, duration_column, time_unit)
    normalised = _is_normalised(points, table.source) if units == "auto" else units == "normalised"

    found = Faults(str(source))
    read: dict[str, Gaze] = {}
    for clip, rows in _rows_of_clips(table).items():
        screen = screens if isinstance(screens, Screen) else screens.get(clip)
        if screen is None:
            found.checked += len(rows)
            found.add("unknown_clip", len(rows), [clip])
            continue
        placed = points[rows] * np.array(screen.size) - 0.5 if normalised else points[rows]
        read[clip] = Gaze(times[rows], placed, None if durations is None else durations[rows], screen.size)
        found.merge(gaze_faults(read[clip], screen.length_s, clip))
    if not isinstance(screens, Screen):
        silent = [clip for clip in screens if clip not in read]
        found.add("clip_without_gaze", len(silent), silent)
    return read, found


def write_gaze_csv(target: Path, gaze: Mapping[str, Gaze]) -> None:
    """Write gaze in pixels and seconds, so that :func:`read_gaze_csv` gives back the same numbers.

    Raises:
        SonokitError: Some clips have fixations and others raw samples.
    """
    kinds = {part.durations is None for part in gaze.values()}
    if len(kinds) > 1:
        raise SonokitError("gaze: some clips have fixations and others raw samples; write two files")
    names = ["clip_id", "time_s", "x", "y"] + (["duration_s"] if kinds == {False} else [])
    with atomic_path(Path(target)) as temporary, open(temporary, "w", newline="", encoding="utf-8") as handle:
        rows = csv.writer(handle)
        rows.writerow(names)
        for clip, part in gaze.items():
            columns = [part.times, part.points[:, 0], part.points[:, 1]]
            columns += [] if part.durations is None else [part.durations]
            rows.writerows([clip, *map(_text, sample)] for sample in zip(*columns, strict=True))


def _timed(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name + ending for name in names for ending in ("", "_s", "_ms"))


def _in_seconds(table: Table, column: str, unit: TimeUnit) -> np.ndarray:
    told = next((ending for ending in ("ms", "s") if column.endswith(f"_{ending}")), None)
    if told is not None and unit not in ("auto", told):
        raise SonokitError(
            f"{table.source}: {column} is in {told}, time_unit says {unit}. Rename the column or drop time_unit (--gaze_time)."
        )
    return table.numbers(column) * _SECONDS[told or ("s" if unit == "auto" else unit)]


def _is_normalised(points: np.ndarray, source: Path) -> bool:
    known = points[np.isfinite(points).all(axis=1)]
    within = (known >= 0) & (known <= 1)
    if len(known) and within.all() and ((known > 0) & (known < 1)).any():
        return True
    if len(known) and np.mean((known > 2).any(axis=1)) > 0.5:
        return False
    spread = f"x and y from {known.min():g} to {known.max():g}" if len(known) else "not one whole point"
    raise SonokitError(
        f"{source}: cannot tell pixels from positions between 0 and 1 ({spread}). Say units=pixels or units=normalised "
        "(--gaze_units)."
    )


def _rows_of_clips(table: Table) -> dict[str, np.ndarray]:
    column = table.find(_CLIP)
    if column is None:
        return {"": np.arange(len(table))}
    codes, clips = pd.factorize(np.array(table.texts(column), dtype=object))
    order = np.argsort(codes, kind="stable")  # one pass, however many clips there are
    parts = np.split(order, np.cumsum(np.bincount(codes, minlength=len(clips)))[:-1])
    return dict(zip(map(str, clips), parts, strict=True)) if len(clips) else {}


def _text(value: float) -> str:
    return "" if np.isnan(value) else repr(float(value))
