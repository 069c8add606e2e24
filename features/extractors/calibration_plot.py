"""The reliability diagram of an extractor set: what was predicted against what was seen, before and after calibration."""

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...atomic import atomic_path

_COLUMNS = 3
_PANEL_INCHES = 2.7
_STYLES = {"before": ("as trained", "#b4632d", "o"), "after": ("calibrated", "#1f5f99", "s")}


def write_reliability(calibration: dict[str, Any], biomarkers: tuple[str, ...], out: Path) -> Path:
    """Draw one panel a biomarker.

    Args:
        calibration: By biomarker ``before`` and ``after``, each as ``reliability`` in calibration.py gives
            it, or None.
        biomarkers: In which order.
        out: A PNG file.
    """
    columns = min(_COLUMNS, len(biomarkers))
    rows = -(-len(biomarkers) // columns)
    size = (_PANEL_INCHES * columns, (_PANEL_INCHES + 0.3) * rows + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for place, name in zip(axes, biomarkers, strict=False):
        _draw(place, name, calibration[name])
    for place in axes[len(biomarkers) :]:
        place.set_axis_off()
    handles = {label: handle for place in axes for handle, label in zip(*place.get_legend_handles_labels(), strict=True)}
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), frameon=False)
    with atomic_path(out) as temporary:
        figure.savefig(temporary, format="png", dpi=120)
    return out


def _draw(place: Axes, name: str, measured: dict[str, Any]) -> None:
    place.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    errors = []
    for key, (label, colour, marker) in _STYLES.items():
        one = measured.get(key)
        if one is not None:
            across = [point["predicted"] for point in one["curve"]]
            seen = [point["observed"] for point in one["curve"]]
            place.plot(across, seen, color=colour, marker=marker, markersize=4, linewidth=1.2, label=label)
            errors.append(f"{one['ece']:.2f}")
    told = f"calibration error {' → '.join(errors)}" if errors else "not measurable"
    place.set_title(f"{name}\n{told}", fontsize=9)
    place.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    place.set_xlabel("predicted", fontsize=8)
    place.set_ylabel("share of clips that are positive", fontsize=8)
    place.tick_params(labelsize=8)
