"""report.html: one self-contained page, its pictures inside."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jinja2
from matplotlib.figure import Figure

from .contribution_figures import contribution_pictures
from .drawing import png, spaced
from .figures import confusion_figure, counts_figure, scatter_figure, scores_figure, with_direction
from .plots import trust_pictures
from .words import (
    P_IS_NOT_PREDICTION,
    SCORE_TITLES,
    SETS_PROMISE,
    calibration_line,
    chance_line,
    conformal_line,
    distilled_line,
    headline,
    how_measured,
    score_names,
    score_rows,
    search_line,
    show,
)

__all__ = ["page", "scores_figure"]

Picture = tuple[str, str, Figure]


def page(report: dict[str, Any]) -> str:
    """The page as HTML, from the content of report.json."""
    names, trust = score_names(report), report["trust"]
    return render(
        "report.html.j2",
        report=report,
        headline=headline(report),
        how_measured=how_measured(report),
        names=names,
        titles={name: with_direction(name) for name in names},
        rows=score_rows(report),
        lines=_lines(report),
        trust_lines=[_sentence(line(trust)).replace("->", "→") for line in _trust_lines(trust)],
        points=[_point(point) for point in trust.get("operating_points", [])],
        groups={column: _groups(entries, report["primary"]) for column, entries in trust["groups"].items() if len(entries) > 1},
        cautions=_cautions(report),
        pictures=[(title, text, png(figure)) for title, text, figure in _pictures(report)],
    )


def render(template: str, folder: Path | None = None, **content: Any) -> str:
    """A template of this folder, or of another whose pages share this one's style and macros, filled in."""
    loader = jinja2.FileSystemLoader([path for path in (folder, Path(__file__).parent) if path is not None])
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(template).render(show=show, spaced=spaced, score_titles=SCORE_TITLES, **content)


def _pictures(report: dict[str, Any]) -> list[Picture]:
    text = "Dots are means over the repeats, bars are intervals over patients."
    pictures: list[Picture] = [("Score and floors", text, scores_figure(report))]
    if report["task"] == "regression":
        pictures.append(("Truth and prediction", "Each clip, mean over the repeats.", scatter_figure(report)))
    else:
        text = "Clips a cell, mean over the repeats; colour and per cent are the share of the row."
        pictures.append(("Confusion", text, confusion_figure(report)))
        pictures.append(("What there was to learn from", "Clips and patients of each class.", counts_figure(report)))
    pictures += trust_pictures(report["trust"], report["primary"], SCORE_TITLES[report["primary"]])
    return pictures + contribution_pictures(report.get("contributions"))


def _lines(report: dict[str, Any]) -> list[str]:
    """What stands below the scores, a sentence each."""
    found = chance_line(report)
    if found and "p" in report["chance"]:
        found += (
            ". Nothing is refitted for it, so that it is approximate: without any signal, out-of-fold scores lie slightly "
            "below chance on average and scatter a little more than the exchanged ones; a p near 0.05 is no proof"
        )
    return [_sentence(line) for line in (found, distilled_line(report), search_line(report)) if line]


def _trust_lines(trust: dict[str, Any]) -> list[Callable[[dict[str, Any]], str]]:
    return [conformal_line, calibration_line] if "calibration" in trust else [conformal_line]


def _point(point: dict[str, Any]) -> dict[str, str]:
    """An operating point in words."""
    low, high = point["thresholds"]
    between = f"{low:.2f}" if f"{low:.2f}" == f"{high:.2f}" else f"{low:.2f} to {high:.2f} (by fold)"
    return {"name": spaced(point["name"]), "threshold": between} | {
        key: show(point.get(key)) for key in ("sensitivity", "specificity", "ppv", "npv")
    }


def _groups(entries: list[dict[str, Any]], primary: str) -> list[dict[str, Any]]:
    """A column's groups in words."""
    return [
        {
            "name": spaced(entry["group"]),
            "counted": f"{entry['clips']} of {entry['patients']}",
            "classes": ", ".join(f"{spaced(name)}: {count}" for name, count in entry["classes"].items() if count),
            "score": show(entry["scores"].get(primary)) if primary in entry["scores"] else "one class only",
            "difference": show(entry["minus_others"], signed=True),
        }
        for entry in entries
    ]


def _cautions(report: dict[str, Any]) -> list[str]:
    cautions = [SETS_PROMISE.format(promised=report["trust"]["conformal"]["promised"])]
    return cautions if report["task"] == "regression" else [P_IS_NOT_PREDICTION.replace("`", ""), *cautions]


def _sentence(line: str) -> str:
    return f"{line[0].upper()}{line[1:]}{'' if line.endswith(('.', '?')) else '.'}"
