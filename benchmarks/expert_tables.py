"""The tables of the expert study, from docs/results/pocus_experts.json."""

from typing import Any

from pretraining_tables import _table
from sonokit.experts.report import show

SOURCES = {
    "imagenet": "frozen ImageNet backbone",
    "transductive": "pretrained without labels on all clips (transductive)",
    "inductive": "pretrained on each fold's training clips only (inductive)",
    "extractor": "biomarker extractor trained inside the folds, embedding",
    "biomarkers": "the same extractor, its five probabilities alone",
}
HEADS = {"linear": "linear", "xgboost": "XGBoost", "auto": "head and features chosen inside the folds"}
SCORES = {
    "classification": {"balanced_accuracy": "balanced accuracy", "accuracy": "accuracy", "auroc": "AUROC"},
    "ordinal": {"quadratic_kappa": "quadratic kappa", "balanced_accuracy": "balanced accuracy", "auroc": "AUROC"},
}
STEPS = {
    "heads": "predictions of every test clip",
    "with_readouts": "the same, and calibrators, conformal sets, operating points in every fold",
    "everything": "the whole of `fit-expert`: with floors, intervals, report",
}
TEACHERS = {"ensemble": "ensemble of all heads", "network": "network fine-tuned in the same fold"}


def expert_tables(found: dict[str, Any]) -> dict[str, str]:
    """Name → table or sentence."""
    tasks = found["tasks"]
    return {
        **{f"expert_{label}": _scores(task) for label, task in tasks.items()},
        **{f"expert_{label}_differences": _differences(task) for label, task in tasks.items()},
        **{f"expert_{label}_fine_tuned": _fine_tuned(task) for label, task in tasks.items()},
        **{f"expert_{label}_shuffled": _shuffled(task) for label, task in tasks.items()},
        "expert_chosen": _chosen(tasks),
        "expert_conformal": _conformal(tasks),
        "expert_signs": _signs(found["signs"]),
        "expert_distilled": _distilled(found["distilled"]),
        "expert_few_labels": _few_labels(found["few_labels"]),
        "expert_cost": _cost(found["cost"]),
        "expert_cost_all": _cost_all(found["cost"]),
        "expert_audit": _audit(tasks),
        "expert_provenance": _provenance(found),
    }


def _scores(task: dict[str, Any]) -> str:
    names = SCORES[task["task"]]
    rows = []
    for name, row in task["rows"].items():
        left_out = _floor(row, "site_left_out")
        # the final backbone of an inductive set has seen every site's clips, so that it would be the transductive row again
        known = "scores" in left_out and not name.startswith("inductive")
        sites = show(left_out["scores"].get(task["primary"])) if known else "not measured"
        rows.append([*_words(name), str(row["divisions"]), *(show(row["scores"].get(s)) for s in names), sites])
    every = task["rows"]["imagenet-linear"]
    over = str(every["divisions"])
    for head, scores in task["oracle"].items():
        rows.append(["*oracle:* the five true sign labels", HEADS[head], over, *(show(scores.get(s)) for s in names), "–"])
    for floor in every["floors"]:
        if floor["name"] != "site_left_out" and "scores" in floor:
            head = "linear" if floor["name"] == "random_init" else ""
            rows.append([f"*floor:* {floor['title']}", head, over, *(show(floor["scores"].get(s)) for s in names), "–"])
    shuffled = task["shuffled"]["scores"]
    rows.append(["*control:* labels exchanged among patients", "linear", over, *(show(shuffled.get(s)) for s in names), "–"])
    return _table(["features", "head", "divisions", *names.values(), f"whole sites left out, {_primary(task)}"], rows, left=2)


def _differences(task: dict[str, Any]) -> str:
    primary, rows = task["primary"], []
    for name, row in task["rows"].items():
        beside = [None if name == "imagenet-linear" else row["minus_reference"][primary]]
        beside += [_floor(row, floor).get("expert_minus_floor", {}).get(primary) for floor in ("metadata", "random_init")]
        rows.append([*_words(name), *(show(figure, signed=True) for figure in beside)])
    head = [f"{_primary(task)}, paired", "head", "− frozen ImageNet, linear", "− file metadata", "− random weights"]
    return _table(head, rows, left=2)


def _fine_tuned(task: dict[str, Any]) -> str:
    names, tuned = SCORES[task["task"]], task["fine_tuned"]
    divisions = tuned["divisions"]
    rows = [
        ["fine-tuned end to end from ImageNet", *(show(tuned["scores"].get(s)) for s in names)],
        ["frozen ImageNet backbone, linear, same folds", *(show(tuned["reference_on_these"].get(s)) for s in names)],
    ]
    for name, row in task["rows"].items():
        minus, words = row["minus_fine_tuned"], ", ".join(_words(name))
        once = "" if minus["divisions"] == divisions else f" ({minus['divisions']} division)"
        rows.append([f"**{words} − end to end**{once}", *(show(minus.get(s), signed=True) for s in names)])
    return _table([f"division{'s' * (divisions > 1)} compared: {divisions}", *names.values()], rows, left=1)


def _shuffled(task: dict[str, Any]) -> str:
    scores, chance = task["shuffled"]["scores"], task["shuffled"]["chance"]
    said = f"{_primary(task)} {show(scores[task['primary']])}"
    if isinstance(chance, str):
        return f"{said}; chance: {chance}"
    return f"{said}, p = {chance['p']:.3f} against {chance['exchanges']} exchanges of the labels"


def _chosen(tasks: dict[str, Any]) -> str:
    rows = []
    for label, task in tasks.items():
        for name, row in task["rows"].items():
            if name.endswith("-auto"):
                counts = sorted(row["chosen"].items(), key=lambda pair: -pair[1])
                rows.append(
                    [label, _words(name)[0], "; ".join(f"{what}: {folds}" for what, folds in counts).replace(" | ", ", ")]
                )
    return _table(["task", "features from", "chosen: folds"], rows, left=3)


def _conformal(tasks: dict[str, Any]) -> str:
    rows = []
    for label, task in tasks.items():
        for name, row in task["rows"].items():
            trust = row["trust"]
            if trust and name.endswith("-linear"):
                conformal, errors = trust["conformal"], trust["calibration"]
                sides = [f"{errors[side]['ece']['value']:.3f}" for side in ("raw", "calibrated")]
                cells = [f"{conformal['promised']:.0%}", show(conformal["coverage"]), show(conformal["size"]), *sides]
                rows.append([label, _words(name)[0], *cells])
    head = ["task", "features", "promised", "coverage measured", "classes in a set", "calibration error, raw", "calibrated"]
    return _table(head, rows, left=2)


def _signs(signs: dict[str, Any]) -> str:
    rows = []
    for sign in signs["labels"]:
        patients = next(str(known["patients"]) for known in sign["data"]["classes"] if known["name"] == "1")
        rows.append([sign["name"], patients, *_with_floors(sign)])
    rows.append(["**macro**", "", *_with_floors(signs)])
    head = ["AUROC", "patients with it", "expert", "*floor:* file metadata", "*floor:* random weights", "− file metadata"]
    return _table(head, rows, left=1)


def _with_floors(entry: dict[str, Any]) -> list[str]:
    """AUROC of an expert, of two floors, and of the paired difference to the first."""
    floors = [_floor(entry, name) for name in ("metadata", "random_init")]
    beside = [show(floor.get("scores", {}).get("auroc")) for floor in floors]
    minus = floors[0].get("expert_minus_floor", {}).get("auroc")
    return [show(entry["scores"].get("auroc")), *beside, show(minus, signed=True)]


def _distilled(found: dict[str, Any]) -> str:
    names = SCORES["ordinal"]
    first = next(iter(found.values()))
    rows = [["labels alone", "", *(show(first["plain"].get(s)) for s in names)]]
    for name, entry in found.items():
        clips = str(entry["unlabelled_clips"])
        rows.append([f"taught by the {TEACHERS[name]}", clips, *(show(entry["taught"].get(s)) for s in names)])
        rows.append(["**gain, paired**", "", *(show(entry["gain"].get(s), signed=True) for s in names)])
    return _table(["severity, frozen ImageNet, linear head", "clips without label", *names.values()], rows, left=1)


def _few_labels(found: dict[str, Any]) -> str:
    names, rows = SCORES["classification"], []
    for head, entry in found.items():
        rows.append([f"{head} head, half of the labels", *(show(entry["plain"].get(s)) for s in names)])
        told = f"taught by the ensemble, which also speaks of {entry['unlabelled_clips']} clips a fold without their labels"
        rows.append([told, *(show(entry["taught"].get(s)) for s in names)])
        rows.append(["**gain, paired**", *(show(entry["gain"].get(s), signed=True) for s in names)])
    return _table(["diagnosis, frozen ImageNet", *names.values()], rows, left=1)


def _cost(cost: dict[str, Any]) -> str:
    rows = []
    for label, task in cost["tasks"].items():
        tuned = task["fine_tuned"]
        rows.append([label, "fine-tuned end to end", _seconds(tuned["cpu_seconds"]), _seconds(tuned["wall_seconds"]), "", ""])
        for step, words in STEPS.items():
            spent, ratios = task["expert"][step], task["ratios"][step]
            cells = [_seconds(spent["cpu_seconds"]), _seconds(spent["wall_seconds"])]
            times = [f"{ratios[key]:,.0f} ×" for key in ("without_extraction", "with_extraction")]
            rows.append([label, f"expert: {words}", *cells, *times])
    spent = cost["extraction"]
    rows.append(["both", f"extraction of {spent['clips']:.0f} clips, once", _seconds(spent["cpu_seconds"]),
                 _seconds(spent["wall_seconds"]), "", ""])  # fmt: skip
    head = ["task", "what", "CPU s", "wall s", "cheaper than end to end", "the same, extraction counted"]
    return _table(head, rows, left=2)


def _cost_all(cost: dict[str, Any]) -> str:
    parts = []
    for label, task in cost["tasks"].items():
        every, ratios = task["all_divisions"], task["all_divisions"]["ratios"]
        spent, tuned = every["expert_with_readouts"]["cpu_seconds"], every["fine_tuned_extrapolated_cpu_seconds"]
        parts.append(
            f"{label}: {_seconds(spent)} s for {every['folds']} folds, measured, against {_seconds(tuned)} s, extrapolated: "
            f"{ratios['without_extraction']:,.0f} × cheaper, {ratios['with_extraction']:,.0f} × with extraction"
        )
    return "; ".join(parts)


def _audit(tasks: dict[str, Any]) -> str:
    rows = []
    for label, task in tasks.items():
        for name, found in task["audit"].items():
            told = [f"{check['title']} ({check['level']}): {check['reason']}" for check in found["checks"]
                    if check["level"] in ("stop", "look")]  # fmt: skip
            rows.append([label, SOURCES[name], f"**{found['level']}**. {found['sentence']}", "<br>".join(told) or "–"])
    return _table(["label", "store", "verdict", "what stands out"], rows, left=4)


def _provenance(found: dict[str, Any]) -> str:
    packages = found["environment"]["packages"]
    versions = ", ".join(
        f"{name} {packages[name]}" for name in ("torch", "timm", "scikit-learn", "xgboost") if name in packages
    )
    return f"`{found['command']}`; data {found['data']}; splits {found['splits']}; seed {found['seed']}; {versions}."


def _words(name: str) -> list[str]:
    source, head = name.split("-")
    return [SOURCES[source], HEADS[head]]


def _floor(row: dict[str, Any], name: str) -> dict[str, Any]:
    return next((floor for floor in row["floors"] if floor["name"] == name), {})


def _primary(task: dict[str, Any]) -> str:
    return SCORES[task["task"]][task["primary"]]


def _seconds(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
