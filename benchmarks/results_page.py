"""Makes docs/results.md from docs/results/*.json: no figure in its tables is typed by hand."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from biomarker_tables import biomarker_tables
from distillation_tables import distillation_tables
from expert_tables import expert_tables
from knowledge_tables import chest_region_tables, simulated_knowledge_tables
from landmark_tables import landmark_tables
from pretraining_tables import pretraining_tables
from sonokit.atomic import write_text
from sonokit.experts.report import show

LANDMARK_STUDIES = ("simulated_landmarks", "cephalometric", "cephalometric_long")
SCORES = {"balanced_accuracy": "balanced accuracy", "accuracy": "accuracy", "auroc": "AUROC"}


def write_results_page(results: Path) -> None:
    """Write ``results/../results.md``; the prose stands in ``results/*.md`` with ``{name}`` where a table goes."""
    studies: dict[str, Callable[[dict[str, Any]], dict[str, str]]] = {
        "pocus_road": _road_tables,
        "pocus_pretraining": pretraining_tables,
        "pocus_biomarkers": biomarker_tables,
        "pocus_experts": expert_tables,
        "pocus_distillation": distillation_tables,
        "simulated_knowledge": simulated_knowledge_tables,
        "chest_regions": chest_region_tables,
        **{name: partial(landmark_tables, prefix=name) for name in LANDMARK_STUDIES},
    }
    parts = []
    for study, tables_of in studies.items():
        if not (results / f"{study}.json").exists():
            continue
        text = (results / f"{study}.md").read_text(encoding="utf-8")
        for name, table in tables_of(json.loads((results / f"{study}.json").read_text(encoding="utf-8"))).items():
            text = text.replace("{" + name + "}", table)
        if left := re.search(r"\{\w+\}", text):
            raise ValueError(f"{study}.md asks for {left.group()}, which is no table")
        parts.append(text.strip())
    write_text(results.parent / "results.md", "\n\n".join(parts) + "\n")


def _road_tables(found: dict[str, Any]) -> dict[str, str]:
    return {
        "diagnosis": _diagnosis(found),
        "severity": _severity(found),
        "biomarkers": _biomarkers(found),
        "inductive": _inductive(found["inductive"]),
        "differences": _differences(found),
        "random": _random(found["random_seeds"]),
        "provenance": _provenance(found),
    }


def _diagnosis(found: dict[str, Any]) -> str:
    return _expert_table(found["experts"]["diagnosis"], SCORES)


def _severity(found: dict[str, Any]) -> str:
    names = {"quadratic_kappa": "quadratic kappa", "accuracy": "accuracy", "balanced_accuracy": "balanced accuracy"}
    return _expert_table(found["experts"]["severity"], names)


def _expert_table(reports: dict[str, Any], names: dict[str, str]) -> str:
    titles = {
        "imagenet": "frozen ImageNet backbone",
        "pretrained": "pretrained without labels, all clips (transductive)",
        "biomarkers": "biomarker extractor on that backbone, trained inside the folds",
    }
    rows = [[titles[name], *(show(report["scores"][s]) for s in names)] for name, report in reports.items()]
    for floor in reports["imagenet"]["floors"]:
        if floor["name"] != "site_left_out":
            rows.append([f"*floor:* {floor['title']}", *(show(floor["scores"].get(s)) for s in names)])
    for name, report in reports.items():
        left_out = next(f for f in report["floors"] if f["name"] == "site_left_out")
        cells = [show(left_out["scores"].get(s)) for s in names] if "scores" in left_out else ["not measured"] * len(names)
        rows.append([f"*whole sites left out:* {titles[name]}", *cells])
    return _table(["", *names.values()], rows)


def _biomarkers(found: dict[str, Any]) -> str:
    rows = []
    for name, score in found["biomarkers"]["biomarkers"].items():
        report = found["signs"][name]
        floors = {f["name"]: f for f in report["floors"]}
        beside = [floors[f].get("scores", {}).get("auroc") for f in ("random_init", "metadata")]
        own = show(score["auroc"]) if score["auroc"] else "not measurable"
        rows.append([name, str(score["positive_patients"]), own, show(report["scores"]["auroc"]), *map(show, beside)])
    rows.append(["mean", "", show(found["biomarkers"]["macro_auroc"]), "", "", ""])
    head = [
        "AUROC",
        "patients with it",
        "extractor",
        "frozen ImageNet, linear head",
        "*floor:* random weights",
        "*floor:* metadata",
    ]
    return _table(head, rows)


def _inductive(found: dict[str, Any]) -> str:
    titles = {
        "imagenet": "frozen ImageNet backbone",
        "inductive": "pretrained on the fold's training clips only (inductive)",
        "transductive": "pretrained on all clips (transductive)",
    }
    rows = [[title, *(show(found[name][s]) for s in SCORES)] for name, title in titles.items()]
    for name, title in (("inductive_minus_imagenet", "inductive − ImageNet, paired"),
                        ("transductive_minus_inductive", "transductive − inductive, paired")):  # fmt: skip
        rows.append([f"**{title}**", *(show(found[name][s], signed=True) for s in SCORES)])
    return _table(["", *SCORES.values()], rows)


def _differences(found: dict[str, Any]) -> str:
    titles = {
        "transductive_minus_imagenet": "pretrained on all clips − frozen ImageNet",
        "biomarkers_minus_pretrained": "biomarker extractor − pretrained on all clips",
    }
    return _table(
        ["paired over the same resampled patients", *SCORES.values()],
        [[title, *(show(found[name][s], signed=True) for s in SCORES)] for name, title in titles.items()],
    )


def _random(seeds: list[dict[str, Any]]) -> str:
    values = [scores["balanced_accuracy"]["value"] for scores in seeds]
    words = ", ".join(f"{value:.3f}" for value in values)
    return f"balanced accuracy {words}; mean {sum(values) / len(values):.3f}"


def _provenance(found: dict[str, Any]) -> str:
    packages = found["environment"]["packages"]
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "timm", "scikit-learn", "av"))
    return f"`{found['command']}`; data {found['data']}; seed {found['seed']}; {found['epochs']} epochs; {versions}."


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


if __name__ == "__main__":
    write_results_page(Path(__file__).parents[1] / "docs" / "results")
