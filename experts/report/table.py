"""What ``fit-expert`` prints: the scores beside their floors, and how far they can be trusted."""

from typing import Any

from .words import (
    SCORE_TITLES,
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

_MOST_CONTRIBUTIONS = 5


def report_table(report: dict[str, Any]) -> str:
    """The report's scores and floors as lines of text; of several labels the summary."""
    if report["task"] == "multi_label":
        return _summary_table(report)
    names = score_names(report)
    lines = [headline(report), how_measured(report), "", *_score_lines(report, names), ""]
    lines += _minus_floor_lines(report, names[0])
    lines += ["", *(line for line in (chance_line(report), search_line(report), distilled_line(report)) if line)]
    lines += _trust_lines(report["trust"]) + _contribution_lines(report.get("contributions"))
    return "\n".join([*lines, "", *(f"note: {note}" for note in report["notes"])]).rstrip()


def aligned(rows: list[list[str]]) -> list[str]:
    """Columns of equal width; a row of fewer cells (a reason) does not count for the widths."""
    columns = max(len(row) for row in rows)
    full = [row for row in rows if len(row) == columns]
    widths = [max(len(row[0]) for row in rows), *(max(len(row[k]) for row in full) for k in range(1, columns))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows]


def summary_names(report: dict[str, Any]) -> list[str]:
    """The scores, the primary one first; without one that is the AUROC."""
    first = report.get("primary") or ("auroc" if "auroc" in report["scores"] else next(iter(report["scores"])))
    return [first, *(name for name in report["scores"] if name != first)]


def summary_lines(report: dict[str, Any]) -> list[list[str]]:
    """The rows of the printed table: each label, the mean, its floors."""
    names = summary_names(report)
    rows = [["", "clips", "patients", *(SCORE_TITLES[name] for name in names)]]
    for label in report["labels"]:
        figures = [show(label["scores"].get(name)) for name in names]
        rows.append([label["name"], str(label["data"]["clips"]), str(label["data"]["patients"]), *figures])
    for row in mean_rows(report):
        indented = row["title"] if row["kind"] == "expert" else f"  {row['title']}"
        rows.append([indented, "", "", *(show(row["scores"].get(name)) for name in names)])
    return rows


def mean_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """The mean over the labels and its floors: ``title``, ``kind`` and ``scores``."""
    rows = [{"title": "mean over the labels", "kind": "expert", "scores": report["scores"]}]
    floors = [floor for floor in report["floors"] if floor.get("scores")]
    return rows + [{"title": floor["title"], "kind": "floor", "scores": floor["scores"]} for floor in floors]


def _score_lines(report: dict[str, Any], names: list[str]) -> list[str]:
    rows = [["", *(SCORE_TITLES[name] for name in names)]]
    for row in score_rows(report):
        title = f"  {row['title']}" if row["kind"] == "floor" else row["title"]
        scores = row.get("scores")
        rows.append([title, *(show(scores.get(name)) for name in names)] if scores else [title, str(row["reason"])])
    return aligned(rows)


def _minus_floor_lines(report: dict[str, Any], primary: str) -> list[str]:
    lines = [f"expert minus floor, {SCORE_TITLES[primary]}, on the same resampled patients:"]
    lines += [
        f"  {floor['title']}: {show(floor['expert_minus_floor'].get(primary), signed=True)}"
        for floor in report["floors"]
        if "expert_minus_floor" in floor
    ]
    return lines if len(lines) > 1 else []


def _trust_lines(trust: dict[str, Any]) -> list[str]:
    lines = [conformal_line(trust)]
    if "calibration" in trust:
        lines.append(calibration_line(trust))
        lines += [
            f"{point['name']}: sensitivity {show(point['sensitivity'])}, specificity {show(point['specificity'])}"
            for point in trust["operating_points"]
        ]
    return lines


def _contribution_lines(told: dict[str, Any] | None) -> list[str]:
    if not told or not told["biomarkers"]:
        return []
    lines = [f"what it rests on, mean size of the contributions in {told['unit']}:"]
    for group in told["groups"][:_MOST_CONTRIBUTIONS]:
        sizes = ", ".join(f"{name} {show(found['size'])}" for name, found in group["outputs"].items())
        lines.append(f"  {group['name']}: {sizes}")
    return lines


def _summary_table(report: dict[str, Any]) -> str:
    lines = [f"{report['label']}: one expert a label, on the same folds", "", *aligned(summary_lines(report)), ""]
    lines += _minus_floor_lines(report, summary_names(report)[0])
    return "\n".join([*lines, "", *(f"note: {note}" for note in report.get("notes", []))]).rstrip()
