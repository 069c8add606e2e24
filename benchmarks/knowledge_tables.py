"""The tables of the gaze and region studies, from docs/results/simulated_knowledge.json and chest_regions.json."""

from typing import Any

from pretraining_tables import _table
from sonokit.distill.study.gaze_arms import GAZE_ARMS
from sonokit.distill.study.region_arms import REGION_ARMS
from sonokit.experts.report import show

SCORES = {"accuracy": "accuracy", "auroc": "AUROC"}  # as many images of each class: balanced accuracy is accuracy
REAL_SCORES = {"balanced_accuracy": "balanced accuracy", "accuracy": "accuracy", "auroc": "AUROC"}
EVEN = "*an activation that is the same everywhere*"


def simulated_knowledge_tables(found: dict[str, Any]) -> dict[str, str]:
    """Name → table or sentence, of the simulated studies."""
    gaze, regions = found["gaze"], found["regions"]
    return {
        "gaze_arms": _scores(gaze, GAZE_ARMS),
        "gaze_differences": _differences(gaze["differences"], GAZE_ARMS),
        "gaze_seeds": _by_seed(gaze, GAZE_ARMS),
        "gaze_settings": _settings(gaze["settings"]),
        "region_arms": _scores(regions, REGION_ARMS, energy=True),
        "region_differences": _differences(regions["differences"], REGION_ARMS, energy=True),
        "region_seeds": _by_seed(regions, REGION_ARMS),
        "region_settings": _settings(regions["settings"]),
        "knowledge_provenance": _provenance(found),
    }


def chest_region_tables(found: dict[str, Any]) -> dict[str, str]:
    """Name → table or sentence, of the radiographs."""
    energy = found["energy_inside"]
    rows = [
        [title, *(show(found["scores"][name].get(s)) for s in REAL_SCORES), show(energy.get(name))]
        for name, title in REGION_ARMS.items()
    ]
    rows.append([EVEN, *[""] * len(REAL_SCORES), show(energy["even"])])
    minus = []
    for pair, scores in found["differences"].items():
        inside = show(found["energy_differences"].get(pair), signed=True)
        minus.append([_pair(pair, REGION_ARMS), *(show(scores[s], signed=True) for s in REAL_SCORES), inside])
    data = found["data"]
    return {
        "chest_arms": _table(["", *REAL_SCORES.values(), "activation inside"], rows, left=1),
        "chest_differences": _table(["paired", *REAL_SCORES.values(), "activation inside"], minus, left=1),
        "chest_data": f"{data['images']} images of {data['sources']} publications or cases, {data['consolidation']} with a "
        f"consolidation, {data['annotated']} with a marked finding; the most frequent answer alone is right in "
        f"{found['most_frequent']:.1%}",
        "chest_provenance": _provenance(found),
    }


def _scores(study: dict[str, Any], arms: dict[str, str], *, energy: bool = False) -> str:
    scores, rows = study["scores"], []
    for name, title in arms.items():
        cells = [show(scores[s].get(name)) for s in SCORES]
        rows.append([title, *cells, *([show(scores["energy_inside"].get(name))] if energy else [])])
    if energy:
        rows.append([EVEN, *[""] * len(SCORES), show(scores["energy_inside"]["even"])])
    return _table(["", *SCORES.values(), *(["activation inside"] if energy else [])], rows, left=1)


def _differences(differences: dict[str, Any], arms: dict[str, str], *, energy: bool = False) -> str:
    rows = []
    for pair in differences["accuracy"]:
        cells = [show(differences[s][pair], signed=True) for s in SCORES]
        inside = [show(differences["energy_inside"].get(pair), signed=True)] if energy else []
        rows.append([_pair(pair, arms), *cells, *inside])
    return _table(["paired within a seed", *SCORES.values(), *(["activation inside"] if energy else [])], rows, left=1)


def _by_seed(study: dict[str, Any], arms: dict[str, str]) -> str:
    rows = [[title, *(f"{seed[name]['accuracy']:.3f}" for seed in study["per_seed"].values())] for name, title in arms.items()]
    return _table(["accuracy, seed", *study["per_seed"]], rows, left=1)


def _pair(pair: str, arms: dict[str, str]) -> str:
    first, second = pair.split(" - ")
    return f"{arms[first]} − {arms[second]}"


def _settings(settings: dict[str, Any]) -> str:
    arms, train = settings["arms"], settings["train"]
    loops = [f"{arms[f'{who}_loop']['epochs']} epochs" for who in ("teacher", "student")]
    task = ", ".join(f"{name} {value}" for name, value in (settings["task"] | train).items())
    return (
        f"teacher {arms['teacher']} ({loops[0]}), student {arms['student']} ({loops[1]}), {arms['looks']} looks at an image, "
        f"alpha {arms['alpha']:g}, temperature {arms['temperature']:g}; images: {task}; tested on {settings['tested']}"
    )


def _provenance(found: dict[str, Any]) -> str:
    packages = found["environment"]["packages"]
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "timm", "scikit-learn"))
    seeds = f"seeds {', '.join(map(str, found['seeds']))}; " if "seeds" in found else ""
    return f"`{found['command']}`; {seeds}{found['interval']}; {versions}."
