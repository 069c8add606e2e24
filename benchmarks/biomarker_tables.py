"""The tables of the biomarker study, from docs/results/pocus_biomarkers.json."""

from typing import Any

from sonokit.experts.report import show

BEGINNINGS = {"imagenet": "ImageNet", "uscl": "USCL (transductive)", "random": "random weights"}
CHOICES = {"pooling": "pooling {}", "tune": "last stage trained", "seed": "another seed"}


def biomarker_tables(found: dict[str, Any]) -> dict[str, str]:
    """Name → table or sentence."""
    return {
        "biomarker_main": _main(found),
        "biomarker_rows": _rows(found),
        "biomarker_calibration": _calibration(found),
        "biomarker_penalties": ", ".join(f"{value:.3f} (C = {strength})" for strength, value in found["penalties"].items()),
        "biomarker_provenance": _provenance(found),
    }


def _main(found: dict[str, Any]) -> str:
    linear, ours = (found["scores"][name] for name in ("linear", "lse"))
    rows = []
    for name, score in ours["biomarkers"].items():
        other = linear["biomarkers"][name]
        rows.append([name, str(score["positive_patients"]), show(other["auroc"]), show(score["auroc"])])
    rows.append(["**mean**", "", show(linear["macro_auroc"]), show(ours["macro_auroc"])])
    rows.append(["**extractor − linear head, paired**", "", "", show(found["differences"]["lse"]["linear"], signed=True)])
    return _table(["AUROC", "patients with it", "frozen ImageNet, linear head", "frozen ImageNet, extractor"], rows, left=1)


def _rows(found: dict[str, Any]) -> str:
    head = ["what", "backbone", "frames", "mean AUROC, ten divisions", "first division", "minus", "paired difference"]
    rows = []
    for name, row in found["rows"].items():
        over = "-" if row["first"] else show(found["scores"][name]["macro_auroc"])
        frames = f"{row['frames']} of {row['size']} pixels"
        cells = [_words(name, row), BEGINNINGS[row["beginning"]], frames, over, show(found["first_division"][name])]
        compared = list(found["differences"][name].items()) or [("", None)]
        for place, (other, figure) in enumerate(compared):
            minus = _place(other, found["rows"]) if other else "-"
            rows.append([*(cells if not place else [""] * 5), minus, show(figure, signed=True) if figure else "-"])
    return _table(head, rows, left=3)


def _words(name: str, row: dict[str, Any]) -> str:
    if row["head"] == "linear":
        return "linear head"
    settings = dict(row["settings"])
    changed = [CHOICES[key].format(value) for key, value in settings.items() if key in CHOICES]
    changed += [f"temporal shift {row['shift']:g}"] if row["shift"] else []
    return "extractor" + (": " + ", ".join(changed) if changed else ", as it is by default" if name == "lse" else "")


def _place(name: str, rows: dict[str, Any]) -> str:
    row = rows[name]
    return f"{_words(name, row)}; {BEGINNINGS[row['beginning']]}, {row['size']} pixels"


def _calibration(found: dict[str, Any]) -> str:
    rows = []
    for name, measured in found["calibration"]["biomarkers"].items():
        before, after = (measured[when] for when in ("before", "after"))
        rows.append([name, *(f"{one[key]:.3f}" for key in ("brier", "ece") for one in (before, after))])
    head = ["", "Brier score as trained", "calibrated", "expected calibration error as trained", "calibrated"]
    return _table(head, rows, left=1)


def _provenance(found: dict[str, Any]) -> str:
    packages = found["environment"]["packages"]
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "timm", "scikit-learn"))
    return f"`{found['command']}`; data {found['data']}; splits {found['splits'][:12]}; seed {found['seed']}; {versions}."


def _table(head: list[str], rows: list[list[str]], *, left: int) -> str:
    lines = [head, ["---"] * left + ["---:"] * (len(head) - left), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
