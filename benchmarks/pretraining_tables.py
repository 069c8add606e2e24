"""The tables of the pretraining study, from docs/results/pocus_pretraining.json."""

from typing import Any

from sonokit.experts.report import show

PRIMARY = "balanced_accuracy"
BEGINNINGS = {
    "imagenet": "EfficientNet-Lite0, ImageNet",
    "random": "ResNet-18, random",
    "random_lite0": "EfficientNet-Lite0, random",
}
METHODS = {
    None: "none: the beginning itself",
    "uscl": "USCL",
    "simclr": "SimCLR",
    "uscl_labels": "USCL with labels",
    "hico": "HiCo",
    "ivpp": "IVPP pairs, SimCLR loss",
    "moco": "MoCo v2",
    "byol": "BYOL",
    "dino": "DINO",
}


def pretraining_tables(found: dict[str, Any]) -> dict[str, str]:
    """Name → table or sentence."""
    return {
        "pretraining": _frozen(found),
        "pretraining_differences": _differences(found),
        "fine_tuned": _fine_tuned(found),
        "pretraining_settings": _settings(found),
        "pretraining_curves": _curves(found),
        "pretraining_missing": _missing(found),
        "pretraining_provenance": _provenance(found),
    }


def _frozen(found: dict[str, Any]) -> str:
    head = [
        "beginning", "pretrained by", "setting", "balanced accuracy, first division", "balanced accuracy, 10 divisions",
        "sites left out", "mean biomarker AUROC, first division", "the same, 10 divisions",
    ]  # fmt: skip
    rows = []
    for name, row in found["rows"].items():
        figures = found["frozen"][name]
        repeated = show(figures["repeated"][PRIMARY]) if "repeated" in figures else "-"
        sites = show(figures["sites_left_out"][PRIMARY]) if "sites_left_out" in figures else "-"
        once, over = (show(figures[key]["macro_auroc"]) if key in figures else "-" for key in ("biomarkers_once", "biomarkers"))
        setting = "" if row["method"] is None else row["setting"]
        cells = [BEGINNINGS[row["beginning"]], METHODS[row["method"]], setting]
        rows.append([*cells, show(figures["once"][PRIMARY]), repeated, sites, once, over])
    return _table(head, rows, left=3)


def _differences(found: dict[str, Any]) -> str:
    head = ["balanced accuracy, paired over the same resampled patients", "first division", "10 divisions"]
    repeated = found["differences_repeated"]
    rows = [
        [
            _words(name),
            show(figures[PRIMARY], signed=True),
            show(repeated[name][PRIMARY], signed=True) if name in repeated else "-",
        ]
        for name, figures in {**found["differences"], **found["between"]}.items()
    ]
    return _table(head, rows, left=1)


def _fine_tuned(found: dict[str, Any]) -> str:
    tuned = found["fine_tuned"]
    rows = [[_title(name), show(figures[PRIMARY]), show(figures["auroc"])] for name, figures in tuned["rows"].items()]
    rows += [
        [f"**{_words(name)}**", show(figures[PRIMARY], signed=True), show(figures["auroc"], signed=True)]
        for name, figures in tuned["differences"].items()
    ]
    return _table(["fine-tuned end to end, first division", "balanced accuracy", "AUROC"], rows, left=1)


def _settings(found: dict[str, Any]) -> str:
    names = ("backbone", "size", "epochs", "learning_rate", "temperature", "precision", "augment")
    rows = [[BEGINNINGS[key], *(str(settings[name]) for name in names)] for key, settings in found["settings"].items()]
    return _table(["beginning", *names], rows, left=1)


def _curves(found: dict[str, Any]) -> str:
    """The loss at the beginning, at quarters of the run, and at its end."""
    rows = []
    for cell, curve in found["curves"].items():
        losses, last = curve["loss"], len(curve["loss"]) - 1
        beginning, method, part = cell.split("-")
        name = f"{METHODS[method]}, {BEGINNINGS[beginning]}, {'all clips' if part == 'all' else 'fold ' + part}"
        rows.append([name, *(f"{losses[round(share * last)]:.2f}" for share in (0, 0.25, 0.5, 0.75, 1))])
    return _table(["loss", "at first", "¼", "½", "¾", "at last"], rows, left=1)


def _missing(found: dict[str, Any]) -> str:
    return "; ".join(_title(name) for name in found["missing"]) or "none"


def _provenance(found: dict[str, Any]) -> str:
    packages = found["environment"]["packages"]
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "timm", "lightly", "scikit-learn"))
    return f"`{found['command']}`; data {found['data']}; seed {found['seed']}; {versions}."


def _title(row: str) -> str:
    parts = row.split("-")
    if len(parts) == 2:
        return f"{BEGINNINGS[parts[0]]}, not pretrained"
    return f"{METHODS[parts[1]]} from {BEGINNINGS[parts[0]]}, {parts[2]}"


def _words(difference: str) -> str:
    return " − ".join(_title(side) for side in difference.split(" minus "))


def _table(head: list[str], rows: list[list[str]], left: int) -> str:
    lines = [head, [*["---"] * left, *["---:"] * (len(head) - left)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
