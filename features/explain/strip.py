"""An explanation as one picture: a row a biomarker, its curve over time and three moments with what spoke for it."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from ...atomic import atomic_path
from .checks import MapChecks
from .explanation import Explanation
from .overlay import map_on_frame, overlaid, scale_picture, scaled_to

_ROW_INCHES = 2.0
_CURVE_INCHES = 3.6
_DPI = 130
_PIXELS = 320  # longer side of a frame in the picture
_MARKS = {"most": ("^", "#b3002d"), "median": ("o", "#6b6b6b"), "least": ("v", "#1f5fa8")}
LIMITS = (
    "A map shows where, on a coarse raster, the network found what raised this biomarker's logit: no outline of a finding, no "
    "proof of a cause; and where the probability is low, still its best place. Not a medical device."
)


def write_strip(explanation: Explanation, out: Path, *, title: str, note: str = "") -> Path:
    """Write the picture.

    Args:
        explanation: Of a clip.
        out: A .png file; replaced where it exists.
        title: Above the rows.
        note: A warning below the title.

    Returns:
        ``out``.
    """
    height, width = explanation.frames.shape[1:]
    frame_inches = _ROW_INCHES * 0.8 * min(max(width / height, 0.6), 1.8)
    rows = len(explanation.explained)
    size = (_CURVE_INCHES + 3 * frame_inches + 1.6, _ROW_INCHES * rows + 1.5)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.04, h_pad=0.05))
    widths = [_CURVE_INCHES, *[frame_inches] * 3, 0.12]
    grid = figure.add_gridspec(rows, 5, width_ratios=widths)
    for row, name in enumerate(explanation.explained):
        values = explanation.probabilities[:, explanation.biomarkers.index(name)]  # [M]
        marked = three_moments(values)
        _draw_curve(figure.add_subplot(grid[row, 0]), explanation, name, marked, last=row == rows - 1)
        for column, (word, moment) in enumerate(marked.items(), start=1):
            _draw_frame(figure.add_subplot(grid[row, column]), explanation, row, moment, word)
    _draw_scale(figure.add_subplot(grid[:, 4]))
    heading = f"{title}: what {len(explanation.frames)} moments showed ({explanation.method.replace('_', ' ')})"
    figure.suptitle(heading + (f"\n{note}" if note else ""), fontsize=10, color="#b3002d" if note else "black")
    figure.supxlabel("\n".join(textwrap.wrap(LIMITS, int(size[0] * 15))), fontsize=7, color="#444444")
    with atomic_path(Path(out)) as temporary:
        figure.savefig(temporary, format="png", dpi=_DPI, metadata={"Software": None})
    return Path(out)


def three_moments(values: np.ndarray) -> dict[str, int]:
    """The moments of the highest, the median and the lowest of [M] values; fewer where M is below 3."""
    order = np.argsort(values, kind="stable")
    picks = {"most": int(order[-1])}
    if len(order) > 2:
        picks["median"] = int(order[(len(order) - 1) // 2])
    if len(order) > 1:
        picks["least"] = int(order[0])
    return picks


def times_of(explanation: Explanation) -> tuple[np.ndarray, str]:
    """Where the moments lie on the time axis, [M], and what it counts: seconds, or frames where no frame rate is known."""
    if np.isfinite(explanation.times_s).all():
        return explanation.times_s.astype(np.float64), "seconds"
    return explanation.frame_numbers.astype(np.float64), "frame"


def _draw_curve(axes: Any, explanation: Explanation, name: str, marked: dict[str, int], *, last: bool) -> None:
    column = explanation.biomarkers.index(name)
    times, unit = times_of(explanation)
    values = explanation.probabilities[:, column]
    if unit == "seconds":
        for (start, end), value in zip(explanation.segment_times_s, explanation.segment_probabilities[:, column], strict=True):
            axes.plot([start, end], [value, value], color="#d9a441", linewidth=5, alpha=0.6, solid_capstyle="butt")
    axes.plot(times, values, color="black", linewidth=1, marker=".", markersize=3)
    for word, moment in marked.items():
        mark, colour = _MARKS[word]
        axes.plot(times[moment], values[moment], marker=mark, color=colour, markersize=7, linestyle="none")
    axes.set(ylim=(-0.03, 1.03), yticks=[0, 0.5, 1])
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.tick_params(labelsize=7)
    axes.set_title(f"{name.replace('_', ' ')}   clip: {explanation.clip_probabilities[column]:.2f}", fontsize=9, loc="left")
    footing = checks_in_words(explanation.checks[explanation.explained.index(name)])
    below = f"{unit}; band: the extractor's own segments" if last and unit == "seconds" else unit if last else ""
    axes.set_xlabel("\n".join(part for part in (below, footing) if part), fontsize=6.5, color="#444444")


def checks_in_words(checks: MapChecks) -> str:
    """A line about the maps."""
    parts: list[str] = []
    if checks.in_sector is not None and checks.sector_area is not None:
        parts.append(f"map in sector {checks.in_sector:.0%} (its area {checks.sector_area:.0%})")
    likenesses = {"random heads'": checks.random_head, "brightness": checks.brightness}
    known = [f"{name} {value:.2f}" for name, value in likenesses.items() if value is not None]
    return ", ".join([*parts, *([f"likeness to {', to '.join(known)}"] if known else [])])


def _draw_frame(axes: Any, explanation: Explanation, biomarker: int, moment: int, word: str) -> None:
    frame = scaled_to(explanation.frames[moment], _PIXELS)
    axes.imshow(overlaid(frame, map_on_frame(explanation, moment, biomarker, *frame.shape)))
    axes.set(xticks=[], yticks=[])
    times, unit = times_of(explanation)
    when = f"{times[moment]:.1f} s" if unit == "seconds" else f"frame {times[moment]:.0f}"
    column = explanation.biomarkers.index(explanation.explained[biomarker])
    _, colour = _MARKS[word]
    axes.set_title(f"{word}: {explanation.probabilities[moment, column]:.2f} at {when}", fontsize=7.5, color=colour)
    for side in axes.spines.values():
        side.set(color=colour, linewidth=1)


def _draw_scale(axes: Any) -> None:
    axes.imshow(scale_picture(), origin="lower", aspect="auto", extent=(0, 1, 0, 1))
    axes.set(xticks=[], yticks=[0, 0.5, 1])
    axes.yaxis.tick_right()
    axes.yaxis.set_label_position("right")
    axes.tick_params(labelsize=7)
    axes.set_ylabel("strength of the map; 1: its highest place in this clip", fontsize=7)
