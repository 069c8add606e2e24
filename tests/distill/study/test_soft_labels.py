"""Predictions of something else as a teacher: what is read, and what is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sonokit.distill.training.soft_labels import read_soft_labels
from sonokit.errors import SonokitError

ROWS = {"clip_id": ["x", "y"], "prediction": ["A", "b"], "p_b": [0.2, 0.9], "p_A": [0.8, 0.1], "set": ["A", "b"]}


def written(folder: Path, **change: list[object]) -> Path:
    file = folder / "p.csv"
    pd.DataFrame({**ROWS, **change}).to_csv(file, index=False)
    return file


def test_probabilities_come_in_the_order_asked_for(tmp_path: Path) -> None:
    found = read_soft_labels(written(tmp_path), ("A", "b"), "classes")
    assert found.probabilities(np.array(["y", "x", "y"])) == pytest.approx(np.array([[0.1, 0.9], [0.8, 0.2], [0.1, 0.9]]))
    logits = found.logits(["x"])[0].astype(np.float64)
    assert np.exp(logits) / np.exp(logits).sum() == pytest.approx([0.8, 0.2])


def test_findings_are_each_a_yes_or_no(tmp_path: Path) -> None:
    found = read_soft_labels(written(tmp_path, p_A=[0.8, 1.0]), ("A", "b"), "several")
    likely = 1 / (1 + np.exp(-found.logits(["x", "y"]).astype(np.float64)))
    assert likely == pytest.approx(np.array([[0.8, 0.2], [1.0, 0.9]]), abs=1e-5)
    assert np.isfinite(found.logits(["y"])).all()


def test_the_fingerprint_follows_the_figures(tmp_path: Path) -> None:
    first = read_soft_labels(written(tmp_path), ("A", "b"), "classes").fingerprint
    assert read_soft_labels(written(tmp_path, set=["?", "?"]), ("A", "b"), "classes").fingerprint == first
    assert read_soft_labels(written(tmp_path, p_b=[0.1, 0.9], p_A=[0.9, 0.1]), ("A", "b"), "classes").fingerprint != first


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"clip_id": ["x", "x"]}, "line 3: the clip x stands twice"),
        ({"p_b": [0.2, 1.9]}, "line 3: a probability lies between 0 and 1"),
        ({"p_b": [0.2, None]}, "line 3: a probability lies"),
        ({"p_b": [0.2, 0.3]}, "line 3: the probabilities sum to 0.400"),
    ],
)
def test_rows_that_are_refused(tmp_path: Path, change: dict[str, list[object]], told: str) -> None:
    with pytest.raises(SonokitError, match=told):
        read_soft_labels(written(tmp_path, **change), ("A", "b"), "classes")


def test_a_missing_class_or_clip_is_named(tmp_path: Path) -> None:
    with pytest.raises(SonokitError, match="no column 'p_c'"):
        read_soft_labels(written(tmp_path), ("A", "c"), "classes")
    with pytest.raises(SonokitError, match=r"lacks 2 of the clips \(first u\)"):
        read_soft_labels(written(tmp_path), ("A", "b"), "classes").probabilities(["x", "u", "v"])
