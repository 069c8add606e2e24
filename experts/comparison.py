"""Two finished experts side by side: every score of both, and the difference on the same resampled patients.

Each side is the mean over its repeats of the out-of-fold predictions; what is resampled are the patients that both predict. Two
intervals that overlap say little of a difference, so only the interval of the difference itself is read.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SonokitError
from ..evaluation.bootstrap import Interval, interval
from ..evaluation.comparison import compare_predictions
from ..evaluation.predictions import Predictions, predictions_from_dict
from ..evaluation.scores import LOWER_IS_BETTER, PRIMARY
from .report.files import read_report
from .report.table import aligned
from .report.words import SCORE_TITLES, headline, show
from .settings import require_draws


def compare_experts(
    first: str | Path, second: str | Path, *, common: bool = False, draws: int = 2000, seed: int = 0, level: float = 0.95
) -> dict[str, Any]:
    """Compare two expert folders of one label, or two of several labels.

    Args:
        first: An expert folder.
        second: Another, for the same label, classes and folds.
        common: Compare on the clips that both predict, where they are not the same.
        draws: Resamples of the patients, at least 1.
        seed: Of the resampling.
        level: Of the intervals.

    Returns:
        Plain values: ``label``, ``task``, ``first`` and ``second`` (folder and headline), ``clips``, ``patients``,
        ``only_in_first``, ``only_in_second``, ``scores`` (each with ``name``, ``first``, ``second``, ``difference``),
        ``primary`` and ``sentence``; of several labels also ``labels``, a comparison for each.

    Raises:
        SonokitError: They do not answer the same question about the same clips and folds; the message says what differs. Or a
            folder holds no expert's report.
    """
    require_draws(draws)
    folders, settings = (Path(first), Path(second)), {"draws": draws, "seed": seed, "level": level}
    reports = (_report(folders[0]), _report(folders[1]))
    several = [report["task"] == "multi_label" for report in reports]
    if several[0] != several[1]:
        raise SonokitError(
            f"these cannot be compared: {folders[several.index(True)]} answers for several labels, the other for one; "
            "give its folder labels/<label> instead"
        )
    if several[0]:
        return _compare_labels(folders, reports, common, settings)
    sides = _sides(folders, reports, common)
    return _compared(folders, reports, sides, settings)


def require_free(out: str | Path) -> None:
    """Refuse a file that the figures of a comparison may not replace; to be asked before the work.

    Raises:
        SonokitError: ``out`` is a folder, or holds something else than an earlier comparison.
    """
    out = Path(out)
    if out.is_dir():
        raise SonokitError(f"{out} is a folder: name a file for the figures, such as {out / 'comparison.json'}")
    if not out.exists():
        return
    try:
        there = json.loads(out.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        there = None
    if not isinstance(there, dict) or not {"first", "second", "scores"} <= there.keys():
        raise SonokitError(f"{out} is there already and holds no comparison: choose another --out")


def comparison_table(found: Mapping[str, Any]) -> str:
    """A comparison as lines of text, the plain sentence last.

    Args:
        found: From :func:`compare_experts`.
    """
    lines = [f"first   {found['first']['folder']}: {found['first']['headline']}"]
    lines += [f"second  {found['second']['folder']}: {found['second']['headline']}", ""]
    counted = f"on {found['clips']} clips of {found['patients']} patients"
    lines.append(f"{counted}, {found['level']:.0%} intervals over {found['draws']} resamples of the patients")
    for side in ("first", "second"):
        if found[f"only_in_{side}"]:
            lines.append(f"{found[f'only_in_{side}']} clips that only the {side} predicts are left out")
    rows = [["", "first", "second", "first minus second"]]
    rows += [_row(SCORE_TITLES[entry["name"]], entry) for entry in found["scores"]]
    for label in found.get("labels", ()):
        entry = next(entry for entry in label["scores"] if entry["name"] == found["primary"])
        rows.append(_row(f"  {label['label']}, {SCORE_TITLES[found['primary']]} ({label['patients']} patients)", entry))
    return "\n".join([*lines, "", *aligned(rows), "", found["sentence"]])


def _report(folder: Path) -> dict[str, Any]:
    """A report with what is read of it here: headline, folds and predictions, or the places of its labels."""
    report = read_report(folder)
    try:
        if report["task"] == "multi_label":
            places = {label["name"]: folder / label["folder"] for label in report["labels"]}
            return report | {"places": places, "headline": f"{report['label']}, mean over the labels"}
        told = {"headline": headline(report), "folds": report["data"]["splits_fingerprint"]}
        return report | told | {"predictions": predictions_from_dict(report["predictions"])}
    except (KeyError, TypeError, AttributeError, ValueError) as fault:
        raise SonokitError(
            f"{folder}: report.json is damaged or not an expert's report ({fault}): give the folder that fit-expert wrote"
        ) from fault


def _row(title: str, entry: Mapping[str, Any]) -> list[str]:
    return [title, show(entry["first"]), show(entry["second"]), show(entry["difference"], signed=True)]


def _sides(
    folders: tuple[Path, Path], reports: tuple[dict[str, Any], dict[str, Any]], common: bool
) -> tuple[Predictions, Predictions, tuple[int, int]]:
    """Both sides' predictions of the same clips, and how many clips each side had beside them."""
    _require_same_question(folders, reports)
    first, second = (report["predictions"] for report in reports)
    both = np.intersect1d(first.clip_ids, second.clip_ids)
    beside = len(first.clip_ids) - len(both), len(second.clip_ids) - len(both)
    if not len(both):
        raise SonokitError(f"these cannot be compared: {folders[0]} and {folders[1]} have no clip in common")
    if sum(beside) and not common:
        raise SonokitError(
            f"these cannot be compared as they are: {beside[0]} clips are in {folders[0]} only and {beside[1]} in {folders[1]} "
            f"only; --common compares them on the {len(both)} clips of both, or fit both with the same --where"
        )
    kept = [side.select(np.isin(side.clip_ids, both)) for side in (first, second)]
    order = {clip: row for row, clip in enumerate(kept[1].clip_ids)}
    return kept[0], kept[1].select(np.array([order[clip] for clip in kept[0].clip_ids])), beside


def _require_same_question(folders: tuple[Path, Path], reports: tuple[dict[str, Any], dict[str, Any]]) -> None:
    remedies = {
        "label": "fit both for one label",
        "task": "fit both with the same --task",
        "classes": "fit both with the same --classes",
        "unit": "fit both with the same --unit",
    }
    for key, remedy in remedies.items():
        sides = [report.get(key, "clip") for report in reports]
        if sides[0] != sides[1]:
            told = [", ".join(side) if isinstance(side, list) else side for side in sides]
            raise SonokitError(
                f"these cannot be compared: the {key} of {folders[0]} is {told[0]}, of {folders[1]} {told[1]}; {remedy}"
            )
    folds = [report["folds"] for report in reports]
    if folds[0] != folds[1]:
        raise SonokitError(
            f"these cannot be compared: the folds of {folders[0]} are {folds[0]}, of {folders[1]} {folds[1]}; write folds "
            "once with `sonokit split` and give both the same --splits"
        )


def _compared(
    folders: tuple[Path, Path],
    reports: tuple[dict[str, Any], dict[str, Any]],
    sides: tuple[Predictions, Predictions, tuple[int, int]],
    settings: dict[str, Any],
) -> dict[str, Any]:
    first, second, beside = sides
    draws, seed, level = settings["draws"], settings["seed"], settings["level"]
    differences = compare_predictions(first, second, n=draws, seed=seed, level=level)
    scores = [side.intervals(draws, seed, level) for side in (first, second)]
    return _entry(folders, reports, first, beside, settings) | _figures(PRIMARY[first.task], scores[0], scores[1], differences)


def _entry(
    folders: tuple[Path, Path],
    reports: tuple[dict[str, Any], dict[str, Any]],
    same: Predictions,
    beside: tuple[int, int],
    settings: dict[str, Any],
) -> dict[str, Any]:
    told = {
        name: {"folder": str(folder), "headline": report["headline"]}
        for name, folder, report in zip(("first", "second"), folders, reports, strict=True)
    }
    counted = {"clips": len(same.clip_ids), "patients": len(np.unique(same.patients))}
    only = {"only_in_first": beside[0], "only_in_second": beside[1]}
    return {"label": reports[0]["label"], "task": same.task} | told | counted | only | settings


def _figures(
    primary: str, first: Mapping[str, Interval], second: Mapping[str, Interval], differences: Mapping[str, Interval]
) -> dict[str, Any]:
    names = [primary, *(name for name in differences if name != primary)]
    scores: list[dict[str, Any]] = [
        {
            "name": name,
            "first": first[name].as_dict(),
            "second": second[name].as_dict(),
            "difference": differences[name].as_dict(),
        }
        for name in names
    ]
    return {"primary": primary, "scores": scores, "sentence": sentence(primary, scores[0]["difference"])}


def sentence(score: str, difference: Mapping[str, Any]) -> str:
    """What the interval of a difference, first minus second, says in plain words."""
    title, told = SCORE_TITLES[score], show(dict(difference), signed=True)
    if difference["value"] is None or difference["low"] is None:
        return f"Nothing can be said of the {title}: {difference.get('reason') or 'it is not defined'}."
    if difference["low"] <= 0 <= difference["high"]:
        return (
            f"No difference in {title} is shown: the interval of the difference, {told}, holds 0. "
            "That does not show that they are equal."
        )
    better = "first" if (difference["value"] > 0) != (score in LOWER_IS_BETTER) else "second"
    return f"The {better} is better: {title}, first minus second, {told}."


def _compare_labels(
    folders: tuple[Path, Path], reports: tuple[dict[str, Any], dict[str, Any]], common: bool, settings: dict[str, Any]
) -> dict[str, Any]:
    from .multi_label import macro_draws  # who compares one label does not wait for it

    places = [report["places"] for report in reports]
    if set(places[0]) != set(places[1]) and not common:
        different = ", ".join(sorted(set(places[0]) ^ set(places[1])))
        raise SonokitError(f"these cannot be compared: only one has {different}; --common compares the labels of both")
    names = [name for name in places[0] if name in places[1]]
    if not names:
        raise SonokitError(f"these cannot be compared: {folders[0]} and {folders[1]} have no label in common")
    each, firsts, seconds = [], {}, {}
    for name in names:
        pair = (places[0][name], places[1][name])
        single = (_report(pair[0]), _report(pair[1]))
        sides = _sides(pair, single, common)
        firsts[name], seconds[name] = sides[0], sides[1]
        each.append(_compared(pair, single, sides, settings))
    level = settings["level"]
    (drawn_first, people), (drawn_second, _) = (
        macro_draws(side, n=settings["draws"], seed=settings["seed"]) for side in (firsts, seconds)
    )
    intervals = [{name: interval(drawn, people, level) for name, drawn in side.items()} for side in (drawn_first, drawn_second)]
    differences = {name: interval(drawn_first[name] - drawn_second[name], people, level) for name in drawn_first}
    told = {
        side: {"folder": str(folder), "headline": report["headline"]}
        for side, folder, report in zip(("first", "second"), folders, reports, strict=True)
    }
    clips = np.unique(np.concatenate([side.clip_ids for side in firsts.values()]))
    counted = {"clips": len(clips), "patients": len(people)}
    only = {f"only_in_{side}": sum(label[f"only_in_{side}"] for label in each) for side in ("first", "second")}
    primary = reports[0].get("primary") or PRIMARY[firsts[names[0]].task]
    entry = {"label": ", ".join(names), "task": "multi_label"} | told | counted | only | settings
    return entry | _figures(primary, intervals[0], intervals[1], differences) | {"labels": each}
