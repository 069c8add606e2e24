"""CARD.md: what an expert is for, what it was made from, how far it can be believed."""

from typing import Any

from .words import (
    P_IS_NOT_PREDICTION,
    SCORE_TITLES,
    SETS_PROMISE,
    by_patient,
    chance_line,
    distilled_line,
    headline,
    how_measured,
    score_names,
    score_rows,
    search_line,
    show,
)

INTENDED_USE = """Research on ultrasound clips like those below: comparing feature extractors, planning studies, sorting clips \
for review. It is
not a medical device, has not been tried prospectively, and must not decide on a patient."""


def card(report: dict[str, Any]) -> str:
    """The card as Markdown, from the content of report.json."""
    data, store = report["data"], report["store"]
    counts = "".join(f"| {row['name']} | {row['clips']} | {row['patients']} |\n" for row in data["classes"])
    table = f"\n| class | clips | patients |\n| --- | --- | --- |\n{counts}" if counts else ""
    learnt = "labels were used in its making" if store["fitted_on_labels"] else "no label was used in its making"
    whom = f"{data['patients']} patients" if by_patient(report) else f"{data['clips']} clips of {data['patients']} patients"
    return f"""# Expert: {report["label"]}

{headline(report)}.

## Intended use

{INTENDED_USE}

It reads embedding stores of the extractor `{store["fingerprint"]}` ({store["model"]}; {learnt}) and refuses all others.

## Data and its licences

{whom}, {data["sites"] or "unknown"} sites. Folds are by `{data["split_unit"]}`.
{table}
{licences(data.get("licences") or {})}

## How good it is, beside its floors

{how_measured(report).capitalize()}.

{score_table(report)}
{_more(report)}
## Limits

{_limits(report)}
"""


def licences(counts: dict[str, int]) -> str:
    """What is known of the clips' licences, and what follows for the expert."""
    if not counts:
        return (
            "The store has no column of licences. Those of the clips are those of their source; whether an expert may be "
            "passed on depends on them."
        )
    rows = "".join(f"| {name} | {clips} |\n" for name, clips in counts.items())
    return f"| licence | clips |\n| --- | --- |\n{rows}\nWhether the expert may be passed on depends on all of them."


def score_table(report: dict[str, Any]) -> str:
    """The expert, its floors and its held-out part as a Markdown table."""
    names = score_names(report)
    lines = ["| | " + " | ".join(SCORE_TITLES[name] for name in names) + " |", "| --- |" + " --- |" * len(names)]
    for row in score_rows(report):
        scores = row.get("scores")
        cells = [show(scores.get(name)) for name in names] if scores else [str(row["reason"]), *[""] * (len(names) - 1)]
        lines.append(f"| {row['title']} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _more(report: dict[str, Any]) -> str:
    lines = [line for line in (chance_line(report), distilled_line(report), search_line(report), _rests_on(report)) if line]
    return "".join(f"- {line}\n" for line in lines)


def _rests_on(report: dict[str, Any]) -> str | None:
    """The biomarkers that move the answers most."""
    told = report.get("contributions")
    if not told or not told["biomarkers"]:
        return None
    return "what moves its answers most, in this order: " + ", ".join(group["name"] for group in told["groups"][:5])


def _limits(report: dict[str, Any]) -> str:
    limits = [
        f"{report['data']['patients']} patients are what the intervals are drawn from; they say nothing of patients, probes, "
        "presets or hospitals that are not among them. The row of sites left out is the nearest thing to that.",
        "A floor that comes close to the score means that much of it needs no ultrasound picture, or no learning from one.",
        "Probabilities are calibrated on patients like those of the training store; elsewhere they have to be measured anew.",
        *([] if report["task"] == "regression" else [P_IS_NOT_PREDICTION]),
        SETS_PROMISE.format(promised=report["trust"]["conformal"]["promised"]),
        *report["notes"],
    ]
    return "\n".join(f"- {limit}" for limit in limits)
