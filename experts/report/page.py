"""report.html: one self-contained page, its pictures inside."""

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure

from ...evaluation.scores import LOWER_IS_BETTER
from .content import SCORE_TITLES, headline, how_measured, show
from .plots import trust_pictures

_INK, _BLUE, _GREY = "#22303c", "#1f6f9f", "#8a97a3"


def page(report: dict[str, Any]) -> str:
    """The page as HTML, from the content of report.json."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    names = [report["primary"], *(name for name in report["scores"] if name != report["primary"])]
    pictures = [
        ("Score and floors", "Dots are means over the repeats, bars are intervals over patients.", scores_figure(report)),
    ]
    if report["task"] == "regression":
        pictures.append(("Truth and prediction", "Each clip, mean over the repeats.", scatter_figure(report)))
    else:
        pictures.append(
            ("Confusion", "Clips a cell, mean over the repeats; colour is the row's share.", confusion_figure(report))
        )
        pictures.append(("What there was to learn from", "Clips and patients of each class.", counts_figure(report)))
    pictures += trust_pictures(report["trust"], report["primary"], SCORE_TITLES[report["primary"]])
    return environment.get_template("report.html.j2").render(
        report=report,
        headline=headline(report),
        how_measured=how_measured(report),
        names=names,
        titles={name: _with_direction(name) for name in names},
        show=show,
        pictures=[(title, text, _png(figure)) for title, text, figure in pictures],
    )


def scores_figure(report: dict[str, Any]) -> Figure:
    """The primary score of the expert and of each measured floor, with intervals."""
    primary = report["primary"]
    rows = [("this expert", report["scores"][primary])]
    rows += [(floor["title"], floor["scores"][primary]) for floor in report["floors"] if "scores" in floor]
    if report["held_out"] and "scores" in report["held_out"]:
        rows.append(("held-out part", report["held_out"]["scores"][primary]))
    rows = [(title, scores) for title, scores in rows if scores["value"] is not None]
    figure, axes = _figure(0.55 * len(rows) + 1.1)
    for y, (title, scores) in enumerate(rows):
        colour = _BLUE if title == "this expert" else _GREY
        if scores["low"] is not None:
            axes.plot([scores["low"], scores["high"]], [y, y], color=colour, linewidth=3, solid_capstyle="round")
        axes.plot(scores["value"], y, "o", color=colour, markersize=8)
        axes.annotate(
            f"{scores['value']:.3g}", (scores["value"], y), (0, 7), textcoords="offset points", ha="center", fontsize=9
        )
    axes.set_yticks(range(len(rows)), [_wrapped(title) for title, _ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.7)
    axes.set_xlabel(_with_direction(primary))
    axes.grid(axis="x", color="#e3e8ec")
    axes.margins(x=0.1)
    return figure


def confusion_figure(report: dict[str, Any]) -> Figure:
    """Truth in rows, prediction in columns."""
    counts = np.asarray(report["confusion"])  # [K, K]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-9)
    names = [_wrapped(name.replace("_", " "), 12) for name in report["classes"]]
    figure, axes = _figure(min(7.0, 1.6 + 0.75 * len(names)))
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        ink = "white" if share[row, column] > 0.55 else _INK
        axes.text(column, row, f"{count:.1f}\n{share[row, column]:.0%}", ha="center", va="center", color=ink, fontsize=9)
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return figure


def counts_figure(report: dict[str, Any]) -> Figure:
    """Clips and patients of each class."""
    rows = report["data"]["classes"]
    places = np.arange(len(rows))
    figure, axes = _figure(0.6 * len(rows) + 1.1)
    for shift, key, colour in ((-0.2, "clips", _BLUE), (0.2, "patients", _GREY)):
        bars = axes.barh(places + shift, [row[key] for row in rows], height=0.36, color=colour, label=key)
        axes.bar_label(bars, padding=3, fontsize=9)
    axes.set_yticks(places, [_wrapped(row["name"].replace("_", " "), 16) for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)
    return figure


def scatter_figure(report: dict[str, Any]) -> Figure:
    """Truth against prediction."""
    truth = np.asarray(report["predictions"]["truth"])
    found = np.asarray(report["predictions"]["values"]).mean(axis=0)
    figure, axes = _figure(4.6)
    ends = [min(truth.min(), found.min()), max(truth.max(), found.max())]
    axes.plot(ends, ends, color=_GREY, linewidth=1)
    axes.plot(truth, found, "o", color=_BLUE, alpha=0.6, markersize=5)
    axes.set_xlabel(f"{report['label']}, true")
    axes.set_ylabel("predicted out of fold")
    return figure


def _with_direction(name: str) -> str:
    return SCORE_TITLES[name] + (" (lower is better)" if name in LOWER_IS_BETTER else "")


def _figure(height: float) -> tuple[Figure, Any]:
    """A figure that is still readable when it is shown 360 pixels wide."""
    figure = Figure(figsize=(5.6, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=10, colors=_INK, length=0)
    return figure, axes


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=170, metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def _wrapped(text: str, width: int = 22) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text, width, break_long_words=False))
