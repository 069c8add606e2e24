"""The summary of several labels: one expert each on the same folds, and their mean on the same resampled patients."""

from typing import Any

from matplotlib.figure import Figure

from .card import INTENDED_USE, licences
from .drawing import interval_rows, one, png, spaced, wrapped
from .figures import with_direction
from .page import render
from .table import mean_rows, summary_names
from .words import P_IS_NOT_PREDICTION, SCORE_TITLES, show


def summary_page(report: dict[str, Any]) -> str:
    """The page of several labels as HTML.

    Args:
        report: ``labels``, each with ``name``, ``folder``, and ``data``, ``scores`` and ``floors`` as a single report has them;
            ``scores`` and ``floors`` of the mean over the labels.
    """
    names = summary_names(report)
    floors = _floor_titles(report)
    text = "Dots are means over the repeats, bars are intervals over patients."
    return render(
        "summary.html.j2",
        report=report,
        names=names,
        titles={name: with_direction(name) for name in names},
        rows=mean_rows(report),
        floors=floors,
        labels=[_label_row(label, names[0], list(floors)) for label in report["labels"]],
        pictures=[(f"{SCORE_TITLES[names[0]]} by label", text, png(labels_figure(report)))],
        caution=P_IS_NOT_PREDICTION.replace("`", ""),
    )


def summary_card(report: dict[str, Any]) -> str:
    """The card of several labels as Markdown; ``report`` as for :func:`summary_page`."""
    names = summary_names(report)
    floors = _floor_titles(report)
    head = ["label", "clips", "patients", *(SCORE_TITLES[name] for name in names), *floors.values()]
    rows = []
    for label in report["labels"]:
        cells = _label_row(label, names[0], list(floors))
        figures = [show(label["scores"].get(name)) for name in names]
        rows.append([label["name"], str(cells["clips"]), str(cells["patients"]), *figures, *cells["floors"]])
    mean = [["", *(SCORE_TITLES[name] for name in names)]]
    mean += [[row["title"], *(show(row["scores"].get(name)) for name in names)] for row in mean_rows(report)]
    notes = "".join(f"- {note}\n" for note in report.get("notes", []))
    return f"""# Expert: {report["label"]}

One expert a label ({", ".join(label["name"] for label in report["labels"])}), each asked whether it is there, on the same
folds. A clip whose label is unknown takes no part in that label's expert. Each has its own card in `labels/`.

## Intended use

{INTENDED_USE}

## Data and its licences

{_licences(report)}

## How good it is, beside its floors

The mean over the labels, on the same resampled patients:

{_markdown(mean)}
Each label; the floors are given by their {SCORE_TITLES[names[0]]}:

{_markdown([head, *rows])}
## Limits

- A mean over labels hides the label that fails: read each row.
- Looked at one by one, of twenty labels one will lie outside its interval by chance alone.
- {P_IS_NOT_PREDICTION}
- The labels are predicted apart from each other: nothing keeps them from contradicting each other.
{notes}"""


def labels_figure(report: dict[str, Any]) -> Figure:
    """The primary score of each label and of their mean, with intervals."""
    name = summary_names(report)[0]
    rows = [("mean over the labels", report["scores"][name])]
    rows += [(wrapped(spaced(label["name"])), label["scores"][name]) for label in report["labels"]]
    rows = [(title, figure) for title, figure in rows if figure["value"] is not None]
    figure, axes = one(0.55 * len(rows) + 1.1)
    interval_rows(axes, rows)
    axes.set_xlabel(with_direction(name))
    return figure


def _floor_titles(report: dict[str, Any]) -> dict[str, str]:
    """Name -> title of every floor that a label has."""
    return {floor["name"]: floor["title"] for label in report["labels"] for floor in label["floors"]}


def _label_row(label: dict[str, Any], primary: str, floors: list[str]) -> dict[str, Any]:
    found = {floor["name"]: floor.get("scores") for floor in label["floors"]}
    classes = label["data"].get("classes") or []
    return {
        "name": label["name"],
        "folder": label.get("folder"),
        "clips": label["data"]["clips"],
        "patients": label["data"]["patients"],
        "have": ", ".join(f"{spaced(entry['name'])}: {entry['clips']}" for entry in classes),
        "score": show(label["scores"].get(primary)),
        "floors": [show((found.get(name) or {}).get(primary)) for name in floors],
    }


def _licences(report: dict[str, Any]) -> str:
    """Of the label with the most clips; the others are of the same store."""
    if not any("licences" in label["data"] for label in report["labels"]):
        return "Each label's own card counts the licences of its clips."
    most = max(report["labels"], key=lambda label: label["data"]["clips"])
    return f"{licences(most['data'].get('licences') or {})}\n\nCounted for the label {most['name']}, which has the most clips."


def _markdown(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]]) + "\n"
