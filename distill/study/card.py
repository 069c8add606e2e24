"""CARD.md: what a student is for, what taught it, how far it can be believed."""

from typing import Any

from .words import (
    HOW_READ,
    INTENDED_USE,
    headline,
    how_measured,
    score_names,
    score_title,
    show,
    size_rows,
    smaller,
    teacher_words,
)


def card(report: dict[str, Any]) -> str:
    """The card as Markdown, from the content of report.json."""
    data = report["data"]
    counts = "".join(f"| {row['name']} | {row['clips']} | {row['patients']} |\n" for row in data["classes"])
    signals = ", ".join(f"{name} {options.get('weight', 1)}" for name, options in report["signals"].items())
    return f"""# Student: {report["label"]}

{headline(report)}.

## Intended use

{INTENDED_USE}

## Teacher and signals

Taught by {" and ".join(teacher_words(report))}; signals with their weights: {signals}.
{_knowledge(report)}
## Data

The final student learnt from {data["clips"]} clips of {data["patients"]} patients; {report["held_out_clips"]} clips beside them
were held out and not touched.

| | clips | patients |
| --- | --- | --- |
{counts}
## How good it is

{how_measured(report).capitalize()}. {HOW_READ}

{_scores(report)}
## What it costs

{_sizes(report)}
{smaller(report) or ""}

## Limits

{_limits(report)}
"""


def _scores(report: dict[str, Any]) -> str:
    if not report["measured"]:
        return ""
    names = score_names(report)
    lines = ["| | " + " | ".join(map(score_title, names)) + " |", "| --- |" + " --- |" * len(names)]
    lines += [f"| {r['title']} | " + " | ".join(show(r["scores"].get(n)) for n in names) + " |" for r in report["rows"]]
    primary = report["primary"]
    lines += ["", f"Differences in {score_title(primary)}, on the same resampled patients:", ""]
    lines += [f"- {row['title']}: {show(row['scores'][primary], signed=True)}" for row in report["differences"]]
    return "\n".join(lines) + "\n"


def _sizes(report: dict[str, Any]) -> str:
    rows = size_rows(report)
    names = list(rows[0])
    lines = ["| " + " | ".join("" if name == "who" else name for name in names) + " |", "|" + " --- |" * len(names)]
    return "\n".join([*lines, *("| " + " | ".join(row.values()) + " |" for row in rows)]) + "\n"


def _knowledge(report: dict[str, Any]) -> str:
    known = report["knowledge"]
    if known is None:
        return ""
    return f"The teacher was shown the {known['kind']} of {known['annotated_clips']} clips; the student sees frames only.\n"


def _limits(report: dict[str, Any]) -> str:
    scores = [
        f"{report['data']['scored_patients']} patients are what the intervals are drawn from; they say nothing of patients, "
        "probes, presets or hospitals that are not among them.",
        "A floor that comes close to the score means that much of it needs no ultrasound picture.",
    ]
    limits = [
        *(scores if report["measured"] else []),
        "Latency and memory were measured in eager PyTorch on one machine.",
        *report["notes"],
    ]
    return "\n".join(f"- {limit}" for limit in limits)
