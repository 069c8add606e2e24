"""The pictures of an expert's trustworthiness, drawn from the plain values of its report.

Each function gives a matplotlib figure. A bar or a band is always a patient-bootstrap interval.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .drawing import BLUE, GREY, INK, RUST, interval_rows, one, one_legend, panels, spaced, wrapped


def trust_pictures(trust: Mapping[str, Any], primary: str, title: str) -> list[tuple[str, str, Figure]]:
    """Title, text and figure of each picture for the page.

    Args:
        trust: From :func:`~sonokit.experts.report.trust.trust_entries`.
        primary: The score that groups are told apart by.
        title: What the page calls it.
    """
    pictures = []
    if "calibration" in trust:
        curves = trust["calibration"]["curves"]
        text = "On the diagonal a probability means what it says. Bars are intervals over patients."
        pictures.append(("Calibration", text, reliability_figure(curves["raw"], curves["calibrated"])))
    conformal = trust["conformal"]
    text = "How often the truth was in, on clips that nothing was calibrated on; the promise is for all patients together."
    pictures.append(("Coverage", text, coverage_figure(conformal, conformal["promised"])))
    if "calibration" in trust:
        text = "Thresholds chosen on training patients, results on the others. The cross is what was wanted."
        pictures.append(("Operating points", text, operating_figure(trust["operating_points"])))
        text = "Of use where the blue line lies above both others. Which threshold is reasonable is a clinical question."
        pictures.append(("Net benefit", text, decision_figure(trust["decision_curves"])))
    for column, groups in trust["groups"].items():
        if len(groups) < 2:
            continue
        text = "Below each name: its clips, of how many patients. A group of one class has no such score and is not shown."
        pictures.append((f"By {column}", text, groups_figure(groups, primary, title)))
    return pictures


def reliability_figure(
    raw: Mapping[str, Sequence[Mapping[str, Any]]], calibrated: Mapping[str, Sequence[Mapping[str, Any]]]
) -> Figure:
    """What was predicted against what was seen, a panel a finding, as the head gave it and calibrated.

    Args:
        raw: Finding -> points of :func:`~sonokit.evaluation.calibration_scores.reliability_curve`.
        calibrated: The same findings; their points get the intervals.
    """
    figure, places = panels(len(raw))
    for axes, name in zip(places, raw, strict=False):
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1)
        across, seen = ([point[key] for point in raw[name]] for key in ("predicted", "observed"))
        axes.plot(across, seen, "o-", color=RUST, markersize=4, linewidth=1.2, label="as the head gives it")
        points = calibrated[name]
        across, seen = ([point[key] for point in points] for key in ("predicted", "observed"))
        axes.plot(across, seen, "s-", color=BLUE, markersize=5, linewidth=1.5, label="calibrated")
        for point in points:
            if point["low"] is not None:
                ends = [point["low"], point["high"]]
                axes.plot([point["predicted"]] * 2, ends, color=BLUE, linewidth=3, alpha=0.3, solid_capstyle="round")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
        axes.set_title(wrapped(spaced(name)), fontsize=10, color=INK)
    figure.supxlabel("predicted probability", fontsize=10, color=INK)
    figure.supylabel("share of clips that have it", fontsize=10, color=INK)
    one_legend(figure, places)
    return figure


def decision_figure(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Net benefit over the probability from which one acts, a panel a finding.

    Args:
        curves: Finding -> points of :func:`~sonokit.evaluation.decision_curve.decision_curve`.
    """
    figure, places = panels(len(curves))
    for axes, (name, points) in zip(places, curves.items(), strict=False):
        across = [point["threshold"] for point in points]
        expert = _columns(point["expert"] for point in points)
        if not np.isnan(expert[1:]).any():
            axes.fill_between(across, expert[1], expert[2], color=BLUE, alpha=0.15, linewidth=0)
        axes.plot(across, expert[0], color=BLUE, linewidth=2, label="acting on this expert")
        axes.plot(across, _columns(point["everybody"] for point in points)[0], color=RUST, label="acting on everybody")
        axes.axhline(0, color=GREY, linewidth=1.2, label="acting on nobody")
        highest = float(np.nanmax(expert))
        axes.set_ylim(-0.3 * max(highest, 0.1), 1.15 * max(highest, 0.1))  # acting on everybody falls without end
        axes.set(xlim=(0, 1), xticks=[0, 0.5, 1])
        axes.set_title(wrapped(spaced(name)), fontsize=10, color=INK)
    figure.supxlabel("probability from which one acts", fontsize=10, color=INK)
    figure.supylabel("net benefit", fontsize=10, color=INK)
    one_legend(figure, places)
    return figure


def coverage_figure(coverage: Mapping[str, Any], promised: float) -> Figure:
    """Measured coverage beside what was promised, over all patients and in each class.

    Args:
        coverage: From :func:`~sonokit.evaluation.conformal.coverage_report`.
        promised: The level.
    """
    rows = [("all patients", coverage["coverage"])]
    rows += [(wrapped(spaced(name)), figure) for name, figure in coverage.get("by_class", {}).items()]
    figure, axes = one(0.5 * len(rows) + 1.1)
    axes.axvline(promised, color=RUST, linewidth=1.5)
    axes.text(
        promised, 1, f"promised {promised:.0%}", transform=axes.get_xaxis_transform(), ha="center", va="bottom", color=RUST
    )
    interval_rows(axes, rows)
    axes.set_xlim(min(0.5, *(row["low"] for _, row in rows if row["low"] is not None), promised) - 0.05, 1.03)
    axes.set_xlabel("share that holds the truth")
    return figure


def groups_figure(groups: Sequence[Mapping[str, Any]], score: str, title: str) -> Figure:
    """One score by group, with the numbers of clips and patients that it rests on.

    Args:
        groups: From :func:`~sonokit.evaluation.by_group.scores_by_group`.
        score: Which; a group that has none of it is left out.
        title: What the axis calls it.
    """
    rows = []
    for group in groups:
        found = group["scores"].get(score)
        if found is not None and found["value"] is not None:
            counted = f"{group['clips']} clips of {group['patients']}"
            rows.append((f"{wrapped(spaced(group['group']))}\n{counted}", found))
    figure, axes = one(0.6 * max(1, len(rows)) + 1.1)
    if rows:
        interval_rows(axes, rows, stressed=len(rows))
    else:
        axes.text(0.5, 0.5, "no group has more than one class", ha="center", va="center", color=INK)
        axes.set_axis_off()
    axes.set_xlabel(title)
    return figure


def operating_figure(points: Sequence[Mapping[str, Any]]) -> Figure:
    """Sensitivity and specificity on other patients, an operating point a pair of rows; a cross marks what was wanted.

    Args:
        points: With ``name``, ``fixed``, ``wanted`` and the intervals ``sensitivity`` and ``specificity``, as plain values.
    """
    figure, axes = one(0.7 * len(points) + 1.2)
    for y, point in enumerate(points):
        for shift, key, colour in ((-0.15, "sensitivity", BLUE), (0.15, "specificity", GREY)):
            found = point[key]
            if found["value"] is None:
                continue
            if found["low"] is not None:
                ends = [found["low"], found["high"]]
                axes.plot(ends, [y + shift] * 2, color=colour, linewidth=3, solid_capstyle="round")
            axes.plot(found["value"], y + shift, "o", color=colour, markersize=7, label=key if y == 0 else None)
            if key == point["fixed"]:
                axes.plot(point["wanted"], y + shift, "x", color=RUST, markersize=8, label="wanted" if y == 0 else None)
    axes.set_yticks(range(len(points)), [spaced(point["name"]).replace(" at ", "\nat ") for point in points])
    axes.set_ylim(len(points) - 0.5, -0.5)
    axes.set_xlim(-0.02, 1.02)
    axes.grid(axis="x", color="#e3e8ec")
    one_legend(figure, [axes])
    return figure


def _columns(figures: Any) -> np.ndarray:
    """Value, low and high of each figure, float [3, P], nan for what is missing."""
    rows = [[figure[key] for key in ("value", "low", "high")] for figure in figures]
    return np.asarray(rows, dtype=np.float64).T
