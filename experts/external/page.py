"""evaluation.html: one self-contained page, its pictures inside."""

from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..report.drawing import BLUE, GREY, one, png, spaced, wrapped
from ..report.figures import confusion_figure, scatter_figure, scores_figure, with_direction
from ..report.plots import trust_pictures
from ..report.words import SCORE_TITLES, show
from .content import MINUS, drift_lines, headline, score_names, score_rows, trust_lines


def page(content: dict[str, Any], predictions: pd.DataFrame) -> str:
    """The page as HTML, from the content of evaluation.json and the table of predictions.csv."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    names = score_names(content)
    return environment.get_template("evaluation.html.j2").render(
        content=content,
        headline=headline(content),
        names=names,
        titles={name: with_direction(name) for name in names},
        rows=[(title, scores) for title, scores in score_rows(content) if scores],
        unmeasured=[floor for floor in content["floors"] if "reason" in floor],
        trust=trust_lines(content),
        drift=drift_lines(content["drift"]),
        largest=content["drift"]["features"]["largest"],
        show=show,
        minus=MINUS,
        pictures=[(title, text, png(figure)) for title, text, figure in _pictures(content, predictions)],
    )


def _pictures(content: dict[str, Any], predictions: pd.DataFrame) -> list[tuple[str, str, Figure]]:
    home = {"name": "home", "title": "at home", "scores": content["home"]["scores"]}
    told = {**content, "floors": [home, *content["floors"]], "held_out": None}
    pictures = [("Here, at home, and the floors", "Bars are intervals over patients.", scores_figure(told))]
    if content["task"] == "regression":
        both = {"truth": predictions["truth"].tolist(), "values": [predictions["prediction"].tolist()]}
        pictures.append(
            ("Truth and prediction", "Each case.", scatter_figure({"label": content["label"], "predictions": both}))
        )
    else:
        text = "Cases a cell; colour is the row's share."
        pictures.append(("Confusion", text, confusion_figure(content)))
        pictures.append(("Classes", "Share of the cases, and mean predicted probability.", shares_figure(content["drift"])))
    if content["trust"] is not None:
        trust = {**content["trust"], "operating_points": content["trust"].get("operating_points", [])}
        pictures += [
            (title, _HERE.get(title, text), figure)
            for title, text, figure in trust_pictures(trust, content["primary"], SCORE_TITLES[content["primary"]])
        ]
    return pictures


_HERE = {
    "Operating points": "Thresholds of the training hospital, results here. The cross is what was wanted.",
    "Coverage": "How often the truth was in. The promise was made for patients like those at home.",
}


def shares_figure(drift: dict[str, Any]) -> Figure:
    """Share of each class and mean predicted probability, at home and here with intervals."""
    parts = [("cases", drift["labels"]), ("predicted", drift["predictions"])]
    names = list(parts[0][1]["here"])
    figure, axes = one(1.4 + 0.85 * len(names))
    for side, (title, shift) in enumerate(parts):
        for place, name in enumerate(names):
            y, found = place + 0.36 * side - 0.18, shift["here"][name]
            first = place == 0
            if found["low"] is not None:
                axes.plot([found["low"], found["high"]], [y, y], color=BLUE, linewidth=3, solid_capstyle="round")
            axes.plot(found["value"], y, "os"[side], color=BLUE, markersize=7, label=f"{title}, here" if first else None)
            axes.plot(
                shift["home"][name], y, "os"[side], color=GREY, markersize=7, fillstyle="none",
                label=f"{title}, at home" if first else None,
            )  # fmt: skip
    axes.set_yticks(np.arange(len(names)), [wrapped(spaced(name), 16) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.6)
    axes.set_xlim(-0.02, 1.02)
    axes.grid(axis="x", color="#e3e8ec")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=10)
    return figure
