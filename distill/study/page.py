"""report.html of a distillation: one self-contained page, its pictures inside."""

from pathlib import Path
from typing import Any

import jinja2

from .figures import png, scores_figure, size_figure
from .words import (
    HOW_READ,
    INTENDED_USE,
    fault_lines,
    headline,
    how_measured,
    score_names,
    score_title,
    show,
    size_rows,
    smaller,
)


def page(report: dict[str, Any]) -> str:
    """The page as HTML, from the content of report.json."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    names = score_names(report)
    return environment.get_template("report.html.j2").render(
        report=report,
        headline=headline(report),
        how_measured=how_measured(report),
        how_read=HOW_READ,
        intended_use=INTENDED_USE,
        names=names,
        titles={name: score_title(name) for name in names},
        show=show,
        sizes=size_rows(report),
        smaller=smaller(report),
        faults=fault_lines(report),
        pictures=_pictures(report),
    )


def _pictures(report: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Title, a line below it, the picture."""
    if not report["measured"]:
        return []
    found = [("Scores", "Dots are means over the repeats, bars are intervals over patients.", scores_figure(report))]
    size = size_figure(report)
    if size is not None:
        found.append(("What the score costs", "Both students have the same size; they are drawn side by side.", size))
    return [(title, text, png(figure)) for title, text, figure in found]
