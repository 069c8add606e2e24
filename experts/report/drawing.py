"""What all pictures of a report share: a size that is still readable at 360 pixels, colours, rows of intervals, names."""

import base64
import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, BLUE, GREY, RUST = "#22303c", "#1f6f9f", "#8a97a3", "#b4632d"

_WIDTH = 4.7  # inches
_PANEL = 2.3


def png(figure: Figure) -> str:
    """The figure as a base64 PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=170, metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def interval_rows(axes: Axes, rows: Sequence[tuple[str, Mapping[str, Any]]], stressed: int = 1) -> None:
    """A dot and its interval a row, from top to bottom, the first ``stressed`` of them in the stronger colour."""
    for y, (_, found) in enumerate(rows):
        colour = BLUE if y < stressed else GREY
        if found["low"] is not None:
            axes.plot([found["low"], found["high"]], [y, y], color=colour, linewidth=3, solid_capstyle="round")
        axes.plot(found["value"], y, "o", color=colour, markersize=8)
        axes.annotate(short(found["value"]), (found["value"], y), (0, 7), textcoords="offset points", ha="center", fontsize=9)
    axes.set_yticks(range(len(rows)), [title for title, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.7)
    axes.grid(axis="x", color="#e3e8ec")
    axes.margins(x=0.1)


def one(height: float) -> tuple[Figure, Axes]:
    """A figure of one panel, ``height`` in inches."""
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    return figure, plain(figure.subplots())


def panels(count: int) -> tuple[Figure, list[Axes]]:
    """Axes for ``count`` panels, two a row."""
    columns = min(2, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(_WIDTH, _PANEL * rows * (1 if columns == 2 else 1.6) + 0.6), layout="constrained")
    places = [plain(axes) for axes in figure.subplots(rows, columns, squeeze=False).ravel()]
    for axes in places[count:]:
        axes.set_axis_off()
    return figure, places


def plain(axes: Axes) -> Axes:
    """Without the frame's upper and right line."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=10, colors=INK, length=0, pad=5)
    return axes


def one_legend(figure: Figure, places: Sequence[Axes]) -> None:
    """Each entry once, above all panels."""
    entries = {label: handle for axes in places for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(entries.values(), entries.keys(), loc="outside upper center", ncols=2, frameon=False, fontsize=10)


def short(value: float) -> str:
    """A figure above its dot."""
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.3g}"


def spaced(name: str) -> str:
    """``b_lines`` as ``b lines``."""
    return name.replace("_", " ")


def wrapped(text: str, width: int = 22) -> str:
    """In lines of about ``width`` letters."""
    return "\n".join(textwrap.wrap(text, width, break_long_words=False))


def panels_below(titles: Sequence[str], lengths: Sequence[int]) -> tuple[Figure, list[Axes]]:
    """Panels below each other, as high as their numbers of rows, each under a title of two lines over the whole width."""
    heights = [0.36 * length + 0.85 for length in lengths]
    figure = Figure(figsize=(_WIDTH, sum(heights)), layout="constrained")
    places = []
    for part, title in zip(
        figure.subfigures(len(titles), 1, squeeze=False, height_ratios=heights).ravel(), titles, strict=True
    ):
        part.suptitle(title, x=0.01, ha="left", fontsize=10, color=INK)
        places.append(plain(part.subplots()))
    return figure, places
