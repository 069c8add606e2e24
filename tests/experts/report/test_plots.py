import base64
from typing import Any

import pytest
from matplotlib.figure import Figure
from sonokit.experts.report.drawing import png
from sonokit.experts.report.plots import (
    coverage_figure,
    decision_figure,
    groups_figure,
    operating_figure,
    reliability_figure,
)


def told(value: float | None, low: float | None = None, high: float | None = None) -> dict[str, Any]:
    return {"value": value, "low": low, "high": high}


def words(figure: Figure) -> str:
    axes = figure.axes[0]
    ticks = [label.get_text() for label in axes.get_yticklabels()]
    texts = [text.get_text() for text in axes.texts]
    return "\n".join([*ticks, *texts, axes.get_title(), axes.get_xlabel()])


def line(figure: Figure, label: str) -> tuple[list[float], list[float]]:
    (found,) = [one for one in figure.axes[0].lines if one.get_label() == label]
    return list(found.get_xdata()), list(found.get_ydata())  # type: ignore[arg-type]


def curve(shift: float) -> list[dict[str, Any]]:
    return [
        {"predicted": at, "observed": at + shift, "low": None, "high": None, "clips": 3.0, "patients": 2} for at in (0.2, 0.7)
    ]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_reliability_figure__a_panel_a_finding(count: int) -> None:
    names = [f"finding_{k}" for k in range(count)]
    figure = reliability_figure({name: curve(0.2) for name in names}, {name: curve(0.0) for name in names})
    assert line(figure, "calibrated") == ([0.2, 0.7], [0.2, 0.7])
    assert line(figure, "as the head gives it")[1] == pytest.approx([0.4, 0.9])
    assert [axes.get_title() for axes in figure.axes if axes.axison] == [name.replace("_", " ") for name in names]


def test_decision_figure__shows_the_expert_against_both_others() -> None:
    points = [
        {"threshold": at, "expert": told(0.2, 0.1, 0.3), "everybody": told(0.3 - at), "expert_minus_best": told(0.1)}
        for at in (0.1, 0.5)
    ]
    figure = decision_figure({"covid19": points})
    assert line(figure, "acting on this expert") == ([0.1, 0.5], [0.2, 0.2])
    assert line(figure, "acting on everybody")[1] == pytest.approx([0.2, -0.2])
    assert len(figure.axes[0].collections) == 1  # the band
    without = [point | {"expert": told(0.2)} for point in points]
    assert not decision_figure({"covid19": without}).axes[0].collections


def test_coverage_figure__names_the_promise_and_each_class() -> None:
    report = {"coverage": told(0.93, 0.86, 0.98), "by_class": {"bad_lung": told(0.5), "normal": told(0.9, 0.8, 1.0)}}
    figure = coverage_figure(report, 0.9)
    assert all(word in words(figure) for word in ("all patients", "bad lung", "normal", "promised 90%", "0.93"))
    assert figure.axes[0].get_xlim()[0] < 0.5
    regression = coverage_figure({"coverage": told(0.93)}, 0.9)
    assert "all patients" in words(regression)


def test_groups_figure__leaves_out_a_group_without_the_score() -> None:
    groups = [
        {"group": "s1", "clips": 20, "patients": 9, "scores": {"balanced_accuracy": told(0.7, 0.5, 0.9)}},
        {"group": "s2", "clips": 5, "patients": 1, "scores": {"accuracy": told(1.0)}},
    ]
    shown = words(groups_figure(groups, "balanced_accuracy", "balanced accuracy"))
    assert "s1\n20 clips of 9" in shown
    assert "s2" not in shown
    assert "no group has" in words(groups_figure(groups[1:], "balanced_accuracy", "balanced accuracy"))


def test_operating_figure__marks_what_was_wanted() -> None:
    points = [
        {
            "name": "x at specificity 0.9", "fixed": "specificity", "wanted": 0.9,
            "sensitivity": told(0.6, 0.4, 0.8), "specificity": told(0.85, 0.7, 0.95),
        },
        {"name": "y at sensitivity 0.9", "fixed": "sensitivity", "wanted": 0.9, "sensitivity": told(None), "specificity":
        told(1.0)},
    ]  # fmt: skip
    figure = operating_figure(points)
    assert line(figure, "wanted")[0] == [0.9]
    assert line(figure, "sensitivity")[0] == [0.6]
    assert "x\nat specificity 0.9" in words(figure)


def test_png__is_a_picture_and_the_same_one_each_time() -> None:
    figures = [coverage_figure({"coverage": told(0.9, 0.8, 1.0)}, 0.9) for _ in range(2)]
    first, second = (png(figure) for figure in figures)
    assert first == second
    assert base64.b64decode(first).startswith(b"\x89PNG")
