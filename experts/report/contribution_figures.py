"""Pictures of what the answers rest on: how much each biomarker moves them, and a few cases."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .drawing import BLUE, GREY, INK, RUST, one, panels_below, spaced, wrapped

_MOST_GROUPS = 12
_MOST_PARTS = 6
_SURE = 0.2  # of a rank correlation, from which a direction is named


def contribution_pictures(told: Mapping[str, Any] | None) -> list[tuple[str, str, Figure]]:
    """Title, text and figure of each picture for the page; none where no feature has a name.

    Args:
        told: From :meth:`~sonokit.experts.report.contributions.ContributionsCollector.entries`.
    """
    if not told or not told["biomarkers"]:
        return []
    unit = told["unit"]
    text = (
        f"Mean size of each one's contribution, in {unit}, to clips that the head had not met. An arrow up: a higher value "
        "speaks for it, an arrow down: against it."
    )
    whose = f"{told['label']} " if told["task"] == "ordinal" else ""
    pictures = [
        (spaced(f"What speaks for or against {whose}{name}"), text, groups_figure(told, name)) for name in told["outputs"]
    ]
    for title, cases in _by_truth(told["cases"], whose):
        text = (
            f"Contributions in {unit} to the answer, blue for it and brown against it, by a head that had not met the "
            "clip; its own probability stands above. Chosen by rule: the surest right answer, the surest wrong one, the least "
            "certain."
        )
        if cases[0]["probability"] is None:
            text = f"Contributions in units of {unit}. Chosen by rule: the nearest, the most over- and underestimated."
        pictures.append((title, text, cases_figure(cases)))
    return pictures


def groups_figure(told: Mapping[str, Any], output: str) -> Figure:
    """Mean |contribution| of each biomarker to one output, with intervals, the largest first.

    Args:
        told: From :meth:`~sonokit.experts.report.contributions.ContributionsCollector.entries`.
        output: Which.
    """
    found = [(group["name"], group["outputs"][output]) for group in told["groups"]]
    found = sorted(found, key=lambda entry: -entry[1]["size"]["value"])[:_MOST_GROUPS]
    figure, axes = one(0.55 * len(found) + 1.0)
    for y, (_, each) in enumerate(found):
        size = each["size"]
        axes.barh(y, size["value"], color=BLUE, alpha=0.35, height=0.6)
        if size["low"] is not None:
            axes.plot([size["low"], size["high"]], [y, y], color=BLUE, linewidth=3, solid_capstyle="round")
        end = size["value"] if size["high"] is None else size["high"]
        axes.annotate(f"{size['value']:.2f}", (end, y), (6, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_yticks(range(len(found)), [f"{wrapped(spaced(name), 18)}{_arrow(each['direction'])}" for name, each in found])
    axes.set_ylim(len(found) - 0.4, -0.6)
    axes.margins(x=0.15)
    axes.set_xlim(left=0)
    axes.set_xlabel(f"mean size of the contribution ({told['unit']})")
    return figure


def cases_figure(cases: Sequence[Mapping[str, Any]]) -> Figure:
    """The largest contributions to a few answers, a panel a case."""
    lengths = [min(len(case["parts"]), _MOST_PARTS) + (case["others"] != 0) for case in cases]
    figure, places = panels_below([_case_title(case) for case in cases], lengths)
    for axes, case in zip(places, cases, strict=True):
        shown, rest = case["parts"][:_MOST_PARTS], case["parts"][_MOST_PARTS:]
        rows = [(_named(part), part["contribution"]) for part in shown]
        if case["others"] != 0 or rest:
            rows.append(("all others", case["others"] + sum(part["contribution"] for part in rest)))
        sizes = np.array([size for _, size in rows])
        bars = axes.barh(range(len(rows)), sizes, color=np.where(sizes >= 0, BLUE, RUST), height=0.7)
        axes.bar_label(bars, [f"{size:+.2f}" for size in sizes], padding=2, fontsize=8, color=INK)
        axes.axvline(0, color=GREY, linewidth=1)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=9)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.margins(x=0.22)
    return figure


def _by_truth(cases: Sequence[Mapping[str, Any]], whose: str) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    if cases and cases[0]["probability"] is None:
        yield "Cases", list(cases)
        return
    for truth in dict.fromkeys(case["truth"] for case in cases):
        yield spaced(f"Cases of {whose}{truth}"), [case for case in cases if case["truth"] == truth]


def _case_title(case: Mapping[str, Any]) -> str:
    name = case["clip_id"] if len(case["clip_id"]) <= 40 else case["clip_id"][:37] + "…"
    if case["probability"] is None:
        return f"{case['rule']}: {name}\ntrue {case['truth']:.3g}, predicted {case['prediction']:.3g}"
    said = f"said {spaced(case['prediction'])} at {case['probability']:.2f}"
    towards = "" if case["output"] == case["prediction"] else f"; bars: towards {spaced(case['output'])}"
    return f"{case['rule']}: {name}\n{said}{towards}"


def _named(part: Mapping[str, Any]) -> str:
    return spaced(part["name"]) + (f"\n{part['value']}" if part["value"] else "")


def _arrow(direction: float | None) -> str:
    if direction is None or abs(direction) < _SURE:
        return ""
    return " ↑" if direction > 0 else " ↓"
