from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from sonokit.errors import SonokitError
from sonokit.evaluation.comparison import compare_predictions, compare_reports
from sonokit.evaluation.predictions import Predictions, predictions_from_dict


def predictions(accuracy: float, seed: int = 0) -> Predictions:
    rng = np.random.default_rng(seed)
    truth = np.tile([0, 1], 30)
    hit = rng.random((3, 60)) < accuracy
    one = np.where(hit, truth, 1 - truth) * 0.6 + 0.2
    clips = np.array([f"c{k:02d}" for k in range(60)])
    patients = np.array([f"p{k // 2:02d}" for k in range(60)])
    return Predictions("classification", ("no", "yes"), clips, patients, truth, np.stack([1 - one, one], axis=2))


def report(found: Predictions, folds: str = "f0") -> dict[str, Any]:
    return {"data": {"splits_fingerprint": folds}, "predictions": found.as_dict()}


def test_compare_predictions__with_itself_is_nothing_whatever_the_order() -> None:
    found = predictions(0.8)
    shuffled = found.select(np.random.default_rng(1).permutation(60))
    for figure in compare_predictions(found, shuffled, n=50).values():
        assert (figure.value, figure.low, figure.high) == (0, 0, 0)


def test_compare_predictions__better_is_positive_and_antisymmetric() -> None:
    better, worse = predictions(0.9), predictions(0.6, seed=1)
    there, back = compare_predictions(better, worse, n=200), compare_predictions(worse, better, n=200)
    assert there["accuracy"].low > 0
    for name in there:
        assert there[name].value == pytest.approx(-back[name].value)
        assert there[name].low == pytest.approx(-back[name].high)


def test_compare_predictions__other_clips_are_refused() -> None:
    with pytest.raises(SonokitError, match="10 clips are in one only"):
        compare_predictions(predictions(0.8), predictions(0.8).select(np.arange(50)))


def test_compare_predictions__other_classes_are_refused() -> None:
    with pytest.raises(SonokitError, match="cannot be compared"):
        compare_predictions(predictions(0.8), replace(predictions(0.8), classes=("no", "maybe")))


def test_compare_predictions__other_labels_are_refused() -> None:
    found = predictions(0.8)
    with pytest.raises(SonokitError, match="other labels"):
        compare_predictions(found, replace(found, truth=1 - found.truth))


def test_compare_reports__reads_what_a_report_keeps() -> None:
    better, worse = predictions(0.9), predictions(0.6, seed=1)
    assert compare_reports(report(better), report(worse), n=50) == compare_predictions(better, worse, n=50)


def test_compare_reports__other_folds_are_refused() -> None:
    with pytest.raises(SonokitError, match="--splits"):
        compare_reports(report(predictions(0.8)), report(predictions(0.8), "f1"))


def test_predictions_from_dict__is_what_was_written() -> None:
    found = predictions(0.8)
    back = predictions_from_dict(found.as_dict())
    assert all(
        np.array_equal(getattr(found, name), getattr(back, name)) for name in ("clip_ids", "patients", "truth", "values")
    )
    assert (back.task, back.classes) == (found.task, found.classes)
