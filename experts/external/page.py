"""evaluation.html: one self-contained page, its pictures inside."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..report.drawing import BLUE, GREY, one, png, spaced, wrapped
from ..report.figures import confusion_figure, scatter_figure, scores_figure, with_direction
from ..report.page import render
from ..report.plots import trust_pictures
from ..report.words import SCORE_TITLES
from .content import AS_THE_HEAD, HERE, MINUS, drift_lines, headline, score_names, score_rows, trust_lines
from .drift import SHIFTED


def page(content: dict[str, Any], predictions: pd.DataFrame) -> str:
    """The page as HTML, from the content of evaluation.json and the table of predictions.csv."""
    names, largest = score_names(content), content["drift"]["features"]["largest"]
    return render(
        "evaluation.html.j2",
        Path(__file__).parent,
        content=content,
        headline=headline(content),
        names=names,
        titles={name: with_direction(name) for name in names},
        rows=_rows(content),
        resampled="clips" if content["patient"] == "clip_id" else "patients",
        trust=trust_lines(content),
        drift=[line.replace("->", "→") for line in drift_lines(content["drift"])],
        largest=largest if any(abs(entry["difference"]) > SHIFTED for entry in largest) else [],
        pictures=[(title, text, png(figure)) for title, text, figure in _pictures(content, predictions)],
    )


def _rows(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows of the table of scores, as the macro of a report's page takes them; what was not measured last."""
    rows: list[dict[str, Any]] = [
        {"title": title, "kind": "expert" if title == HERE else "floor", "scores": scores, "signed": title == MINUS}
        for title, scores in score_rows(content)
        if scores
    ]
    unmeasured = [floor for floor in content["floors"] if "reason" in floor]
    return rows + [{"title": f"floor: {floor['title']}", "kind": "floor", "reason": floor["reason"]} for floor in unmeasured]


def _pictures(content: dict[str, Any], predictions: pd.DataFrame) -> list[tuple[str, str, Figure]]:
    home = {"name": "home", "title": "at home", "scores": content["home"]["scores"]}
    told = {**content, "floors": [home, *content["floors"]], "held_out": None, "expert_title": HERE}
    pictures = [("Here, at home, and the floors", "Bars are intervals over patients.", scores_figure(told))]
    if content["task"] == "regression":
        both = {"truth": predictions["truth"].tolist(), "values": [predictions["prediction"].tolist()]}
        scatter = scatter_figure({"label": content["label"], "predictions": both})
        scatter.axes[0].set_ylabel("predicted")  # by the finished expert: there are no folds here
        pictures.append(("Truth and prediction", "Each case.", scatter))
    else:
        text = "Cases a cell; colour is the row's share."
        pictures.append(("Confusion", text, confusion_figure(content)))
        text = f"Share of the cases, and mean predicted probability ({AS_THE_HEAD})."
        pictures.append(("Classes", text, shares_figure(content["drift"])))
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
