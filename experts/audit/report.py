"""What an audit found, as an object, as text for the terminal, as audit.json."""

import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...atomic import atomic_path, write_json, write_text
from ...errors import SonokitError
from ...run_folder import append_metrics, require_same_config, write_config
from ..question import Question
from .association import Association
from .finding import Finding, Level
from .label_scores import LabelScores
from .rules import Measures
from .verdict import closing, overall

SCHEMA_VERSION = 1
_LISTED = 5  # rows under a finding on the terminal; audit.json has all


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Attributes:
        level: The gravest of its checks.
        sentence: What it means for a score.
        findings: Every check.
        content: All of it as plain values, as in audit.json.
    """

    level: Level
    sentence: str
    findings: tuple[Finding, ...]
    content: dict[str, Any]

    def finding(self, name: str) -> Finding:
        """A check by its name.

        Raises:
            KeyError: No such check.
        """
        found = {finding.name: finding for finding in self.findings}
        return found[name]

    def table(self, width: int = 118) -> str:
        """For the terminal: every check, what is listed under it, the verdict."""
        title_width = max(len(finding.title) for finding in self.findings)
        lines = [_headline(self.content), ""]
        for finding in self.findings:
            start = f"{finding.level:<13} {finding.title:<{title_width}}  "
            indent = " " * len(start)
            lines += textwrap.wrap(finding.reason, width, initial_indent=start, subsequent_indent=indent)
            for row in finding.rows[:_LISTED]:
                said = ", ".join(f"{key} {value}" for key, value in row.items())
                lines += textwrap.wrap(said, width, initial_indent="    - ", subsequent_indent="      ", break_on_hyphens=False)
            if len(finding.rows) > _LISTED:
                lines.append(f"    … and {len(finding.rows) - _LISTED} more in audit.json")
        lines += ["", *(f"note: {note}" for note in self.content["notes"]), "", f"Verdict: {self.level}."]
        return "\n".join([*lines, *textwrap.wrap(self.sentence, width)])


def write_audit(report: AuditReport, out: str | Path, config: dict[str, Any], *, seconds: float | None = None) -> Path:
    """Write audit.json and audit.html beside the settings; an audit of the same settings is replaced.

    Args:
        report: What was found.
        out: The folder.
        config: The command's options, for config.yaml.
        seconds: How long it took, for metrics.jsonl.

    Raises:
        SonokitError: ``out`` holds something else, or an audit of other settings.
    """
    from .page import page  # matplotlib: only who writes a page waits for it

    require_free(out, config)
    with atomic_path(Path(out)) as folder:
        write_json(folder / "audit.json", report.content)
        write_text(folder / "audit.html", page(report.content))
        write_config(folder, config)
        append_metrics(folder, {"seconds": seconds, "verdict": report.level, "time": round(time.time())})
    return Path(out)


def require_free(out: str | Path, config: dict[str, Any]) -> None:
    """Refuse a folder that an audit may not replace; to be asked before the work.

    Raises:
        SonokitError: ``out`` holds something else, or an audit of other settings.
    """
    out = Path(out)
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / "audit.json").exists()):
        raise SonokitError(f"{out} is there already and is no audit's folder: choose another --out")
    require_same_config(out, config)


def report_content(
    question: Question, fitted: Question, measures: Measures, findings: Sequence[Finding], code_names: tuple[str, ...]
) -> dict[str, Any]:
    """What of audit.json follows from the measures.

    Args:
        question: Who takes part.
        fitted: Those of them that anything was fitted on.
        measures: What was measured.
        findings: How it was judged.
        code_names: The classes of the tables, for a number its thirds.
    """
    patients, sites = len(np.unique(question.patients)), sorted(set(question.sites) - {""})
    tables = {
        name: {"values": list(found.values), "classes": list(code_names), "patients": np.round(found.table, 2).tolist()}
        for name, found in measures.association.items()
        if isinstance(found, Association)
    }
    return {
        "schema_version": SCHEMA_VERSION,
        "label": question.label,
        "task": question.task,
        "classes": list(question.classes),
        "verdict": {"level": overall(findings), "sentence": closing(findings, question.label, patients)},
        "findings": [finding.as_dict() for finding in findings],
        "scores": _score_content(measures.scores),
        "tables": tables,
        "data": {
            "clips": len(question.truth), "patients": patients, "sites": len(sites), "patient_column": question.patient_column,
            "fitted_clips": len(fitted.truth),
        },
        "notes": list(fitted.notes),
    }  # fmt: skip


def _score_content(scores: LabelScores | str) -> dict[str, Any]:
    if isinstance(scores, str):
        return {"reason": scores}
    return {
        "primary": scores.primary,
        "scores": {name: found.as_dict() for name, found in scores.scores.items()},
        "floors": scores.floors,
        "held_out": None,
    }


def _headline(content: dict[str, Any]) -> str:
    data = content["data"]
    where = "".join(f", {column}={value}" for column, value in content["where"].items())
    classes = f" ({', '.join(content['classes'])})" if content["classes"] else ""
    sites = f" at {data['sites']} sites" if data["sites"] else ""
    return f"audit of {content['label']}{classes}{where}: {data['clips']} clips of {data['patients']} patients{sites}"
