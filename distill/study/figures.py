"""The pictures of a distillation: scores with their intervals, and what a score costs in parameters."""

import base64
import io
import textwrap
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .words import score_title

_INK, _BLUE, _GREY = "#22303c", "#1f6f9f", "#8a97a3"
_WIDTH = 4.7  # inches: still readable on a telephone


def scores_figure(report: dict[str, Any]) -> Figure:
    """A dot and its interval for each of teacher, students and floors."""
    primary = report["primary"]
    rows = [row for row in report["rows"] if _known(row["scores"].get(primary))]
    figure, axes = _one(0.55 * len(rows) + 1.0)
    for y, row in enumerate(rows):
        found, colour = row["scores"][primary], _BLUE if row["name"] == "distilled" else _GREY
        if found["low"] is not None:
            axes.plot([found["low"], found["high"]], [y, y], color=colour, linewidth=3, solid_capstyle="round")
        axes.plot(found["value"], y, "o", color=colour, markersize=8)
        axes.annotate(f"{found['value']:.3f}", (found["value"], y), (0, 7), textcoords="offset points", ha="center", fontsize=9)
    axes.set_yticks(range(len(rows)), ["\n".join(textwrap.wrap(row["title"], 22)) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.7)
    axes.grid(axis="x", color="#e3e8ec")
    axes.margins(x=0.1)
    axes.set_xlabel(score_title(primary))
    return figure


def size_figure(report: dict[str, Any]) -> Figure | None:
    """Parameters against the score; None where nobody's parameters are known but the student's."""
    primary, sizes = report["primary"], report["sizes"]
    if "teacher" not in sizes:
        return None
    places = {"teacher": "teacher", "distilled": "student", "labels": "student"}
    figure, axes = _one(3.0)
    for row in report["rows"]:
        found = row["scores"].get(primary)
        if row["name"] not in places or not _known(found):
            continue
        colour = _BLUE if row["name"] == "distilled" else _GREY
        x = sizes[places[row["name"]]]["parameters"] * (1.1 if row["name"] == "labels" else 1.0)  # beside its twin
        if found["low"] is not None:
            axes.plot([x, x], [found["low"], found["high"]], color=colour, linewidth=2, alpha=0.6)
        axes.plot(x, found["value"], "o" if row["name"] != "labels" else "s", color=colour, markersize=8, label=row["title"])
    axes.set_xscale("log")
    axes.margins(x=0.15)
    axes.set_xlabel("parameters")
    axes.set_ylabel(score_title(primary))
    axes.grid(color="#e3e8ec")
    axes.legend(frameon=False, fontsize=9, loc="lower left", bbox_to_anchor=(0, 1), ncols=1, borderaxespad=0)
    return figure


def png(figure: Figure) -> str:
    """The figure as a base64 PNG, the same bytes for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=170, metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _one(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=10, colors=_INK, length=0, pad=5)
    return figure, axes


def _known(found: dict[str, Any] | None) -> bool:
    return found is not None and found["value"] is not None
