"""An evaluation as lines of text, and as a folder: evaluation.json, evaluation.html, predictions.csv."""

import math
import textwrap
from pathlib import Path
from typing import Any

from ...atomic import atomic_path, write_json, write_text
from ...errors import SonokitError
from ...run_folder import append_metrics, require_same_config, write_config
from ..report.words import SCORE_TITLES, show
from .evaluate import Evaluation

HERE = "this expert, here"
"""The first row of a table, and of the picture of the scores."""

MINUS = "here minus home"
"""The row of a table whose figures are differences."""


AS_THE_HEAD = "as the head gives it, all classes counted alike"
"""What a mean prediction is of: raw probabilities, before the calibration knows how frequent the classes are."""


def evaluation_table(content: dict[str, Any], width: int = 118) -> str:
    """The scores, their floors, what they were at home, and the drift, as lines of text."""
    names = score_names(content)
    rows = [["", *(SCORE_TITLES[name] for name in names)]]
    rows += [
        [title, *(show(scores.get(name), signed=title == MINUS) for name in names)]
        for title, scores in score_rows(content)
        if scores
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [headline(content), ""]
    lines += ["  ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines += [f"{floor['title']}: {floor['reason']}" for floor in content["floors"] if "reason" in floor]
    lines += ["", *_wrapped(trust_lines(content), width), "", "drift:"]
    lines += _wrapped([f"- {line}" for line in drift_lines(content["drift"])], width)
    lines += ["", *_wrapped([f"note: {note}" for note in content["notes"]], width)] if content["notes"] else []
    return "\n".join([*lines, "", *textwrap.wrap(f"Verdict: {content['verdict']['sentence']}", width)])


def write_evaluation(evaluation: Evaluation, out: str | Path, config: dict[str, Any], *, seconds: float | None = None) -> Path:
    """Write the folder; an evaluation of the same settings is replaced once the new one is whole.

    Args:
        evaluation: What was found.
        out: The folder.
        config: The command's options, for config.yaml.
        seconds: How long it took, for metrics.jsonl.

    Raises:
        SonokitError: ``out`` holds something else, or an evaluation of other settings.
    """
    from .page import page  # matplotlib: only who writes a page waits for it

    require_free(out, config)
    content = without_infinities(evaluation.content)
    with atomic_path(Path(out)) as folder:
        write_json(folder / "evaluation.json", content)
        write_text(folder / "evaluation.html", page(content, evaluation.predictions))
        write_text(folder / "predictions.csv", evaluation.predictions.to_csv(index=False))
        write_config(folder, config)
        append_metrics(folder, {"seconds": seconds, "verdict": content["verdict"]["outcome"]})
    return Path(out)


def require_free(out: str | Path, config: dict[str, Any]) -> None:
    """Refuse a folder that an evaluation may not replace; to be asked before the work.

    Raises:
        SonokitError: ``out`` holds something else, or an evaluation of other settings.
    """
    out = Path(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / "evaluation.json").exists()):
        raise SonokitError(f"{out} is there already and is no evaluation's folder: choose another --out")
    require_same_config(out, config)


def headline(content: dict[str, Any]) -> str:
    """One line: what is asked, of whom."""
    data = content["data"]
    where = "".join(f", {column}={value}" for column, value in content["where"].items())
    classes = f" ({', '.join(content['classes'])})" if content["classes"] else ""
    cases = "patients" if content["unit"] == "patient" else f"clips of {data['patients']} patients"
    if content["patient"] == "clip_id":
        cases = "clips of unknown patients"
    sites = "" if not data["sites"] else " at 1 site" if data["sites"] == 1 else f" at {data['sites']} sites"
    return f"{content['label']}{classes}{where}, elsewhere: {data['clips']} {cases}{sites}; nothing was fitted on them"


def score_names(content: dict[str, Any]) -> list[str]:
    """The scores, the first one first."""
    return [content["primary"], *(name for name in content["scores"] if name != content["primary"])]


def score_rows(content: dict[str, Any]) -> list[tuple[str, dict[str, Any] | None]]:
    """Title and scores of every line of the table; floors that were not measured have none."""
    home = f"at home ({content['home']['patients']} patients, cross-validated)"
    rows = [(HERE, content["scores"]), (home, content["home"]["scores"])]
    rows.append((MINUS, content["here_minus_home"]))
    return rows + [(f"floor: {floor['title']}", floor.get("scores")) for floor in content["floors"]]


def trust_lines(content: dict[str, Any]) -> list[str]:
    """Coverage, calibration and calls beside what the expert promises."""
    trust = content["trust"]
    if trust is None:
        return []
    conformal = trust["conformal"]
    kind = "sets" if "kind" in conformal else "intervals"
    lines = [
        f"conformal {kind}: promised {conformal['promised']:.0%}, measured here {show(conformal['coverage'])}, mean size "
        f"{show(conformal['size'])}"
    ]
    error = content["calibration_error"]
    if error is not None:
        lines.append(
            f"calibration: Brier score {show(trust['calibration']['calibrated']['brier'])} "
            f"({error['brier_of_home_prior']:.3f} for the class shares of the training clips), calibration error "
            f"{error['ece']:.3f}, by chance alone {error['by_chance']:.3f} (p = {error['p']:.3g})"
        )
    for point in trust.get("operating_points", []):
        reached = [f"{key} {show(point[key])}" for key in ("sensitivity", "specificity")]
        lines.append(f"{point['name']}, wanted at home: here {', '.join(reached)}")
    return lines


def drift_lines(drift: dict[str, Any]) -> list[str]:
    """What is different here, a line a kind."""
    labels, predicted, features, files = (drift[name] for name in ("labels", "predictions", "features", "metadata"))
    raw = "" if "mean" in predicted["home"] and "top" not in predicted else f" ({AS_THE_HEAD})"
    lines = [f"labels, home -> here: {_moved(labels)}", f"mean prediction{raw}, home -> here: {_moved(predicted)}"]
    line = (
        f"features: {features['share']:.1%} of {features['features']} shifted by more than half a standard deviation; chance "
        f"alone gives up to {features['expected']:.1%}"
    )
    if "exchanged" in features:
        told = features["exchanged"]
        line += f", by exchanging patients {told['by_chance']:.1%} (p = {told['p']:.3g})"
    else:
        line += f"; largest of them p = {features['p']:.3g} after correction"
    lines.append(line)
    lines += [f"{name}: {_file_line(files[name])}" for name in files if name != "frame_rate"]
    if "out_of_distribution" in drift:
        beyond = drift["out_of_distribution"]
        lines.append(
            f"beyond the training clips: {beyond['reason']}"
            if "reason" in beyond
            else f"beyond the training clips: {show(beyond['share'])} of the clips, each patient counted once; of clips like "
            f"them at most {beyond['promised']:.0%} would be"
        )
    if "told_apart" in drift:
        lines.append(
            f"told from the training clips by a linear head: AUROC {show(drift['told_apart'])}; 0.5 or less = not at all"
        )
    return lines


def without_infinities(value: Any) -> Any:
    """Plain values for JSON: None for nan and infinity (an interval of a fit with too few patients is all numbers)."""
    if isinstance(value, dict):
        return {key: without_infinities(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_infinities(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _moved(shift: dict[str, Any]) -> str:
    home = {name: show({"value": figure, "low": None, "high": None}) for name, figure in shift["home"].items()}
    return ", ".join(f"{name} {home[name]} -> {show(figure)}" for name, figure in shift["here"].items())


def _file_line(column: dict[str, Any]) -> str:
    here = ", ".join(f"{name or '(unknown)'} {share:.0%}" for name, share in column["here"].items())
    return f"{column['new']:.0%} of the clips have a value that the training clips had not; here: {here}"


def _wrapped(lines: list[str], width: int) -> list[str]:
    return [part for line in lines for part in textwrap.wrap(line, width, subsequent_indent="  ", break_on_hyphens=False)]
