"""CARD.md: what an expert is for, what it was made from, how far it can be believed."""

from typing import Any

from .content import SCORE_TITLES, headline, how_measured, show


def card(report: dict[str, Any]) -> str:
    """The card as Markdown, from the content of report.json."""
    data, store = report["data"], report["store"]
    counts = "".join(f"| {row['name']} | {row['clips']} | {row['patients']} |\n" for row in data["classes"])
    table = f"\n| class | clips | patients |\n| --- | --- | --- |\n{counts}" if counts else ""
    learnt = "labels were used in its making" if store["fitted_on_labels"] else "no label was used in its making"
    return f"""# Expert: {report["label"]}

{headline(report)}.

## Intended use

Research on ultrasound clips like those below: comparing feature extractors, planning studies, sorting clips for review. It is
not a medical device, has not been tried prospectively, and must not decide on a patient.

It reads embedding stores of the extractor `{store["fingerprint"]}` ({store["model"]}; {learnt}) and refuses all others.

## Data

{data["clips"]} clips of {data["patients"]} patients, {data["sites"] or "unknown"} sites. Folds are by `{data["split_unit"]}`.
{table}
The licences of the clips are those of their source; whether an expert may be passed on depends on them.

## How good it is

{how_measured(report).capitalize()}.

{_scores(report)}
## Limits

{_limits(report)}
"""


def _scores(report: dict[str, Any]) -> str:
    names = list(report["scores"])
    lines = ["| | " + " | ".join(SCORE_TITLES[name] for name in names) + " |", "| --- |" + " --- |" * len(names)]
    rows = [("this expert", report["scores"], None)]
    rows += [(floor["title"], floor.get("scores"), floor.get("reason")) for floor in report["floors"]]
    if report["held_out"] is not None:
        rows.append(("held-out part", report["held_out"].get("scores"), report["held_out"].get("reason")))
    for title, scores, reason in rows:
        cells = [show(scores.get(name)) for name in names] if scores else [str(reason), *[""] * (len(names) - 1)]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _limits(report: dict[str, Any]) -> str:
    limits = [
        f"{report['data']['patients']} patients are what the intervals are drawn from; they say nothing of patients, probes, "
        "presets or hospitals that are not among them. The row of sites left out is the nearest thing to that.",
        "A floor that comes close to the score means that much of it needs no ultrasound picture, or no learning from one.",
        "Probabilities are calibrated on patients like those of the training store; elsewhere they have to be measured anew.",
        *report["notes"],
    ]
    return "\n".join(f"- {limit}" for limit in limits)
