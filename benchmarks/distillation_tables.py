"""The tables and the picture of the study of distilled students, from docs/results/pocus_distillation.json."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from pretraining_tables import _table
from sonokit.experts.report import show

SCORES = {"balanced_accuracy": "balanced accuracy", "accuracy": "accuracy", "auroc": "AUROC"}
ARMS = {
    "labels": "labels alone",
    "response": "labels and the teacher's answers",
    "features": "labels, answers and feature maps",
}
_PILOT = {
    "balanced_accuracy": "balanced accuracy",
    "log_loss": "log loss",
    "divergence": "divergence from the teacher",
    "agreement": "same answer as the teacher",
}
_COLOURS = {"teacher": "#22303c", "member": "#8a97a3", "labels": "#b4632d", "response": "#1f6f9f", "features": "#3f8f5a"}
_MARKERS = {"teacher": "s", "member": "D", "labels": "v", "response": "o", "features": "^"}
_INK, _GRID = "#22303c", "#e3e8ec"


def distillation_tables(found: dict[str, Any]) -> dict[str, str]:
    """Name → table or sentence."""
    return {
        "distillation_scores": _scores(found),
        "distillation_differences": _differences(found),
        "distillation_size": _size(found),
        "distillation_pilot": _pilot(found["pilot"]),
        "distillation_verdict": _verdict(found),
        "distillation_cost": _cost(found["cost"]),
        "distillation_provenance": _provenance(found),
    }


def draw_pareto(found: dict[str, Any], file: Path) -> None:
    """Size and latency against balanced accuracy with its interval: teacher, one of its members, and the students by arm."""
    figure = Figure(figsize=(9.6, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _panel(left, found, "parameters", "parameters", apart=1.22)
    _panel(right, found, "latency_ms", "latency of a frame, milliseconds, one thread", apart=1.12)
    left.set_ylabel("balanced accuracy, 95 % interval over patients", color=_INK)
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=2, frameon=False, fontsize=9.5)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=140, metadata={"Software": None})


def _panel(axes: Axes, found: dict[str, Any], key: str, words: str, apart: float) -> None:
    # arms of one network have one size: drawn a factor ``apart``, so that their intervals can be told from each other
    seen: set[str] = set()
    arms = list(_COLOURS)
    for row in found["rows"].values():
        arm = row["arm"]
        steps = 0 if arm in ("teacher", "member") else arms.index(arm) - arms.index("response")
        place, score = row["size"][key] * apart**steps, row["scores"]["balanced_accuracy"]
        below, above = score["value"] - score["low"], score["high"] - score["value"]
        axes.errorbar(
            place, score["value"], [[below], [above]], fmt=_MARKERS[arm], color=_COLOURS[arm], markersize=7.5,
            elinewidth=1.6, capsize=0, label=None if arm in seen else _legend(arm),
        )  # fmt: skip
        seen.add(arm)
    for number, row in enumerate(_one_of_each_size(found["rows"])):
        height = 0.015 + 0.05 * (number % 2)
        axes.annotate(
            row["network"], (row["size"][key], height), xycoords=("data", "axes fraction"), ha="center", va="bottom",
            fontsize=8.5, color=_INK,
        )  # fmt: skip
    chance = 1 / len(found["classes"])
    axes.axhline(chance, color="#8a97a3", linewidth=1, linestyle=":")
    axes.annotate("the most frequent class", (1, chance), (-4, 3), xycoords=("axes fraction", "data"), fontsize=8.5,
                  textcoords="offset points", ha="right", color="#8a97a3")  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(10))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(words, color=_INK)
    axes.set_ylim(0.22, 1.0)
    axes.margins(x=0.14)
    axes.grid(color=_GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=_INK, labelsize=9.5)


def _legend(arm: str) -> str:
    if arm == "teacher":
        return "teacher: ensemble of four EfficientNet-Lite0"
    return "one EfficientNet-Lite0 of it" if arm == "member" else f"student: {ARMS[arm]}"


def _one_of_each_size(rows: dict[str, Any]) -> list[dict[str, Any]]:
    return list({row["network"]: row for row in rows.values()}.values())


def _title(row: dict[str, Any]) -> str:
    if row["arm"] == "teacher":
        return "**teacher:** four EfficientNet-Lite0, fine-tuned"
    return "one of the four" if row["arm"] == "member" else f"{row['network']}, {ARMS[row['arm']]}"


def _scores(found: dict[str, Any]) -> str:
    rows = []
    for name, row in found["rows"].items():
        divisions = " / ".join(f"{one:.3f}" for one in row["by_division"])
        agrees = "–" if name == "teacher" else f"{found['agreement'][name]:.0%}"
        rows.append([_title(row), *(show(row["scores"].get(score)) for score in SCORES), divisions, agrees])
    for title, scores in found["floors"].items():
        rows.append([f"*floor:* {title}", *(show(scores.get(score)) for score in SCORES), "", ""])
    head = ["", *SCORES.values(), "balanced accuracy of each repeat", "same answer as the teacher"]
    return _table(head, rows, left=1)


def _differences(found: dict[str, Any]) -> str:
    rows = []
    for name, difference in found["differences"].items():
        one, _, other = name.partition(" - ")
        words = " − ".join(_title(found["rows"][side]).replace("**", "") for side in (one, other))
        against = other == "teacher"
        low = difference["balanced_accuracy"]["low"]
        shown = ("yes" if low is not None and low > -found["margin"] else "no") if against else ""
        rows.append([words, *(show(difference.get(score), signed=True) for score in SCORES), shown])
    head = ["paired over patients", *SCORES.values(), f"lower end above −{100 * found['margin']:.0f} points"]
    return _table(head, rows, left=1)


def _size(found: dict[str, Any]) -> str:
    rows = []
    for row in _one_of_each_size(found["rows"]):
        size, network = row["size"], row["network"]
        ratio = "1" if network == "teacher" else f"{found['ratios'][network]:,.0f} ×"
        rows.append([
            {"teacher": "teacher", "member": "one of the four"}.get(network, network), f"{size['parameters']:,}", ratio,
            _bytes(size["bytes_fp32"]), _bytes(size["bytes_int8"]), f"{size['multiply_adds'] / 1e6:,.1f}",
            f"{size['latency_ms']:.2f}",
        ])  # fmt: skip
    head = [
        "",
        "parameters",
        "fewer than the teacher",
        "fp32",
        "int8, counted",
        "million multiply-adds",
        "ms a frame, one thread",
    ]
    return _table(head, rows, left=1)


def _pilot(pilot: dict[str, Any]) -> str:
    rows = [[name, *(f"{row[key]:.3f}" for key in _PILOT)] for name, row in pilot["rows"].items()]
    return _table([f"{pilot['clips']} inner test clips", *_PILOT.values()], rows, left=1)


def _verdict(found: dict[str, Any]) -> str:
    parts = []
    for name, difference in found["differences"].items():
        one, _, other = name.partition(" - ")
        if other == "teacher" and one != "member":
            figure = difference["balanced_accuracy"]
            shown = "shown" if figure["low"] > -found["margin"] else "not shown"
            parts.append(f"{_title(found['rows'][one])}: {show(figure, signed=True)}, {shown}")
    return "; ".join(parts)


def _cost(cost: dict[str, float]) -> str:
    words = {"teacher": "its teacher's four members", "asking": "asking the teacher about all views"}
    named = {name: words.get(name) or f"{name.partition('/')[0]}, {ARMS[name.partition('/')[2]]}" for name in cost}
    return "; ".join(f"{named[name]} {seconds:.0f} s" for name, seconds in cost.items())


def _provenance(found: dict[str, Any]) -> str:
    packages = found["environment"]["packages"]
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "timm", "scikit-learn") if name in packages)
    return f"`{found['command']}`; data {found['data']}; splits {found['splits']}; seed {found['seed']}; {versions}."


def _bytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.0f} kB"
