"""The pictures of the scores, the errors and the labels, drawn from the plain values of a report."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ...evaluation.scores import LOWER_IS_BETTER
from .drawing import BLUE, GREY, INK, interval_rows, one, spaced, wrapped
from .words import SCORE_TITLES

_MOST_DOTS = 3000


def scores_figure(report: dict[str, Any]) -> Figure:
    """The primary score of the expert and of each measured floor, with intervals."""
    primary = report["primary"]
    rows = [(report.get("expert_title", "this expert"), report["scores"][primary])]
    rows += [(floor["title"], floor["scores"][primary]) for floor in report["floors"] if "scores" in floor]
    if report["held_out"] and "scores" in report["held_out"]:
        rows.append(("held-out part", report["held_out"]["scores"][primary]))
    rows = [(title, scores) for title, scores in rows if scores["value"] is not None]
    figure, axes = one(0.55 * len(rows) + 1.1)
    interval_rows(axes, [(wrapped(title), scores) for title, scores in rows])
    axes.set_xlabel(with_direction(primary))
    return figure


def confusion_figure(report: dict[str, Any]) -> Figure:
    """Truth in rows, prediction in columns."""
    counts = np.asarray(report["confusion"])  # [K, K]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-9)
    names = [wrapped(spaced(name), 12) for name in report["classes"]]
    figure, axes = one(min(7.0, 1.5 + 0.7 * len(names)))
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    crowded = len(names) > 5
    for (row, column), count in np.ndenumerate(counts):
        ink = "white" if share[row, column] > 0.55 else INK
        text = f"{share[row, column]:.0%}" if crowded else f"{_counted(count)}\n{share[row, column]:.0%}"
        axes.text(column, row, text, ha="center", va="center", color=ink, fontsize=8 if crowded else 10)
    axes.set_xticks(range(len(names)), names, rotation=60 if crowded else 0)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    return figure


def _counted(count: float) -> str:
    """A number of clips; a mean over repeats may be no whole one."""
    return f"{count:.1f}".removesuffix(".0")


def counts_figure(report: dict[str, Any]) -> Figure:
    """Clips and patients of each class."""
    rows = report["data"]["classes"]
    places = np.arange(len(rows))
    figure, axes = one(0.6 * len(rows) + 1.1)
    for shift, key, colour in ((-0.2, "clips", BLUE), (0.2, "patients", GREY)):
        bars = axes.barh(places + shift, [row[key] for row in rows], height=0.36, color=colour, label=key)
        axes.bar_label(bars, padding=3, fontsize=9)
    axes.set_yticks(places, [wrapped(spaced(row["name"]), 16) for row in rows])
    axes.invert_yaxis()
    axes.margins(x=0.14)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0)
    return figure


def scatter_figure(report: dict[str, Any]) -> Figure:
    """Truth against prediction; of more than 3000 clips how many lie in each cell."""
    truth = np.asarray(report["predictions"]["truth"])
    found = np.asarray(report["predictions"]["values"]).mean(axis=0)
    figure, axes = one(4.2)
    ends = [min(truth.min(), found.min()), max(truth.max(), found.max())]
    if len(truth) > _MOST_DOTS:
        cells = axes.hexbin(truth, found, gridsize=40, cmap="Blues", bins="log", mincnt=1)
        figure.colorbar(cells, ax=axes, label="clips")
    else:
        axes.plot(truth, found, "o", color=BLUE, alpha=0.6, markersize=5)
    axes.plot(ends, ends, color=GREY, linewidth=1)
    axes.set_xlabel(f"{report['label']}, true")
    axes.set_ylabel("predicted out of fold")
    return figure


def with_direction(name: str) -> str:
    """A score's title, and which way is better where less is."""
    return SCORE_TITLES[name] + (" (lower is better)" if name in LOWER_IS_BETTER else "")
