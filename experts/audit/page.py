"""audit.html: one self-contained page, its pictures inside."""

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from matplotlib.figure import Figure

from ..report.page import scores_figure
from .columns import COLUMNS

_INK = "#22303c"
_MOST_VALUES = 16


def page(content: dict[str, Any]) -> str:
    """The page as HTML, from the content of audit.json."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("audit.html.j2").render(
        audit=content,
        where=", ".join(f"{column}={value}" for column, value in content["where"].items()),
        listed=[finding for finding in content["findings"] if finding["rows"]],
        pictures=[(title, text, _png(figure)) for title, text, figure in _pictures(content)],
    )


def cross_figure(table: dict[str, Any], name: str, label: str) -> Figure:
    """Patients by value of a column (rows, the most frequent first) and by class of the label."""
    counts = np.asarray(table["patients"])  # [G, K]
    order = np.argsort(-counts.sum(axis=1), kind="stable")[:_MOST_VALUES]
    counts = counts[order]
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1e-9)
    figure = Figure(figsize=(5.6, 1.5 + 0.42 * len(order)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        if count > 0:
            ink = "white" if share[row, column] > 0.55 else _INK
            axes.text(column, row, f"{np.round(count, 1):g}", ha="center", va="center", color=ink, fontsize=10)
    axes.set_xticks(range(counts.shape[1]), [_broken(str(value)) for value in table["classes"]])
    axes.set_yticks(range(len(order)), [_broken(table["values"][row]) for row in order])
    axes.set_xlabel(label)
    axes.set_ylabel(name)
    axes.tick_params(labelsize=10, colors=_INK, length=0)
    axes.spines[:].set_visible(False)
    return figure


def _pictures(content: dict[str, Any]) -> list[tuple[str, str, Figure]]:
    pictures = []
    for name, table in content["tables"].items():
        more = len(table["values"]) - _MOST_VALUES
        text = "Patients a cell, a patient of two classes counted half in each; colour is the row's share."
        text += f" {more} rarer values are not shown." if more > 0 else ""
        title = f"{COLUMNS[name]} and {content['label']}"
        pictures.append((title[0].upper() + title[1:], text, cross_figure(table, COLUMNS[name], content["label"])))
    if "scores" in content["scores"]:
        text = "A linear head that nobody tuned, by folds of patients; bars are the intervals that the rules go by."
        pictures.append(("The label's score and its floors", text, scores_figure(content["scores"])))
    return pictures


def _broken(text: str, width: int = 16) -> str:
    import textwrap

    return "\n".join(textwrap.wrap(text.replace("_", " "), width, break_long_words=True)[:2])


def _png(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=170, metadata={"Software": None})
    return base64.b64encode(buffer.getvalue()).decode("ascii")
