"""The tables and pictures of the landmark studies, from docs/results/cephalometric.json and simulated_landmarks.json."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from pretraining_tables import _table

ARMS = {
    "teacher": "teacher",
    "labels": "student, true points alone",
    "output": "student, and the teacher's heat maps",
    "sharing": "student, and the teacher's feature maps (FSF-LD)",
}
DIFFERENCES = {
    "sharing_minus_output": "feature sharing − output-only",
    "sharing_minus_labels": "feature sharing − true points alone",
    "output_minus_labels": "output-only − true points alone",
    "sharing_minus_teacher": "feature sharing − teacher",
    "output_minus_teacher": "output-only − teacher",
    "labels_minus_teacher": "true points alone − teacher",
}
COLOURS = {"teacher": "black", "labels": "#999999", "output": "#4477aa", "sharing": "#cc6677"}


def landmark_tables(found: dict[str, Any], prefix: str) -> dict[str, str]:
    """Name → table or sentence; ``prefix`` tells the studies apart."""
    return {
        f"{prefix}_scores": _scores(found),
        f"{prefix}_differences": _differences(found),
        f"{prefix}_seeds": _seeds(found),
        f"{prefix}_blank": _blank(found),
        f"{prefix}_without_blank": _without_blank(found),
        f"{prefix}_networks": _networks(found),
        f"{prefix}_landmarks": _by_landmark(found),
        f"{prefix}_provenance": _provenance(found),
    }


def _titles(found: dict[str, Any]) -> dict[str, str]:
    unit = found["unit"]
    return {"mre": f"MRE, {unit}"} | {f"sdr_{r:g}": f"SDR at {r:g} {unit}, %" for r in (2.0, 2.5, 3.0, 4.0)}


def _scores(found: dict[str, Any]) -> str:
    titles = _titles(found)
    rows = []
    for arm, words in ARMS.items():
        own = found["arms"][arm]
        rows.append([words, str(len(own["by_seed"])), *(_figure(own["scores"][name]) for name in titles)])
    return _table(["", "seeds", *titles.values()], rows, left=1)


def _differences(found: dict[str, Any]) -> str:
    titles = _titles(found)
    rows = [
        [words, *(_figure(found["differences"][name]["scores"][score], "+") for score in titles)]
        for name, words in DIFFERENCES.items()
    ]
    return _table(["paired over the same resampled images", *titles.values()], rows, left=1)


def _seeds(found: dict[str, Any]) -> str:
    titles = _titles(found)
    rows = []
    for name in ("sharing_minus_output", "output_minus_labels"):
        by_seed = found["differences"][name]["by_seed"]
        rows.append([DIFFERENCES[name], *(", ".join(f"{value:+.2f}" for value in by_seed[score]) for score in titles)])
    return _table(["of each seed by itself", *titles.values()], rows, left=1)


def _blank(found: dict[str, Any]) -> str:
    seeds = found["seeds"]["students"]
    met = [
        f"{ARMS[arm]}, seed {seed}: {', '.join(names)}"
        for arm, own in found["blank"].items()
        for seed, names in zip(seeds, own, strict=True)
        if names
    ]
    return "; ".join(met) or "none"


def _without_blank(found: dict[str, Any]) -> str:
    """The same figures over the seeds in which every arm found every landmark."""
    kept = found["without_blank"]
    if kept is None:
        return "the same: no seed has a blank map" if _blank(found) == "none" else "every seed has a blank map"
    titles = _titles(found)
    rows = [[words, *(_figure(kept["arms"][arm][name]) for name in titles)] for arm, words in ARMS.items()]
    for name, words in DIFFERENCES.items():
        rows.append([f"**{words}**", *(_figure(kept["differences"][name]["scores"][score], "+") for score in titles)])
    return _table([f"seeds {', '.join(map(str, kept['seeds']))}", *titles.values()], rows, left=1)


def _networks(found: dict[str, Any]) -> str:
    rows = []
    large = found["networks"]["teacher"]
    for name, own in found["networks"].items():
        speed = own["speed"]
        rows.append([
            name,
            f"{own['parameters']:,} ({own['parameters'] / large['parameters']:.2%})",
            f"{own['bytes_fp32'] / 1e6:.2f}",
            f"{own['bytes_int8'] / 1e6:.3f}",
            f"{own['multiply_adds'] / 1e6:,.0f}",
            f"{speed['latency_ms']:.1f}",
            f"{speed['peak_bytes'] / 1e6:.1f}",
        ])  # fmt: skip
    head = ["", "parameters", "MB, fp32", "MB, int8 weights", "million multiply-adds", "ms an image, 1 thread", "MB of tensors"]
    return _table(head, rows, left=1)


def _by_landmark(found: dict[str, Any]) -> str:
    sides = [found["arms"][arm]["by_landmark"] for arm in ("teacher", "output", "sharing")]
    rows = []
    for own in zip(*sides, strict=True):
        rows.append([own[0]["landmark"], *(f"{one['mre']:.2f} / {one['sdr_4']:.1f}" for one in own)])
    return _table([f"MRE, {found['unit']} / SDR at 4, %", "teacher", "output-only", "feature sharing"], rows, left=1)


def _provenance(found: dict[str, Any]) -> str:
    packages = found["environment"]["packages"]
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "timm", "numpy"))
    seeds = ", ".join(map(str, found["seeds"]["students"]))
    spent = sum(sum(own) for own in found["cpu_seconds"].values()) / 60
    return (
        f"`{found['command']}`; {found['described']}; data {found['data']}; seeds {seeds} (teacher "
        f"{', '.join(map(str, found['seeds']['teacher']))}); {spent:.0f} CPU minutes of training; {versions}."
    )


def _figure(one: dict[str, Any], sign: str = "") -> str:
    if one["value"] is None:
        return "–"
    between = "" if one["low"] is None else f" [{one['low']:{sign}.2f}, {one['high']:{sign}.2f}]"
    return f"{one['value']:{sign}.2f}{between}"


def draw_landmarks(target: Path, found: dict[str, Any], image: np.ndarray, points: dict[str, np.ndarray], title: str) -> None:
    """A test image with the points on it, and beside it how many landmarks lie within which error.

    Args:
        target: The .png to write.
        found: The study's figures.
        image: Grey, uint8 [H, W].
        points: "true", "teacher", "sharing" -> [L, 2] in pixels of the image.
        title: Of the image.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 5.4), width_ratios=(1, 1.15), layout="constrained")
    left.imshow(image, cmap="gray", vmin=0, vmax=255)
    for name, mark, colour, words in (
        ("true", "o", "#44dd66", "truth"),
        ("teacher", "+", "#ffcc33", "teacher"),
        ("sharing", "x", "#ff6688", "student"),
    ):
        face = {"facecolors": "none"} if mark == "o" else {}
        colours = {"edgecolors": colour} if mark == "o" else {"color": colour}
        left.scatter(*points[name].T, s=34, marker=mark, linewidths=1.2, label=words, **face, **colours)
    left.set_title(title, fontsize=9)
    left.legend(loc="upper left", fontsize=8)
    left.axis("off")
    for arm, words in ARMS.items():
        own = found["arms"][arm]["quantiles"]
        right.plot(list(own.values()), [100 * float(q) for q in own], color=COLOURS[arm], label=words)
    right.set_xlabel(f"radial error, {found['unit']}")
    right.set_ylabel("landmarks with less, %")
    right.grid(alpha=0.3)
    right.legend(fontsize=8)
    figure.savefig(target, dpi=110)
    plt.close(figure)
