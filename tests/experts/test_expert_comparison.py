import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score
from sonokit.atomic import write_json
from sonokit.cli import main
from sonokit.errors import SonokitError
from sonokit.evaluation.predictions import Predictions
from sonokit.experts.comparison import compare_experts, comparison_table, sentence
from sonokit.experts.settings import FitSettings

CLASSES = ("normal", "covid19")


def predictions(signal: float, seed: int, clips: slice = slice(None), truth: np.ndarray | None = None) -> Predictions:
    """Eighty clips of forty patients, two repeats."""
    patients = np.repeat(np.arange(40), 2)
    truth = patients % 2 if truth is None else truth
    p = 1 / (1 + np.exp(-signal * (2 * truth - 1) - np.random.default_rng(seed).normal(size=(2, 80))))
    names = np.array([f"clip-{k:02d}" for k in range(80)])
    whole = Predictions("classification", CLASSES, names, patients.astype(str), truth, np.stack([1 - p, p], axis=2))
    return whole.select(np.arange(80)[clips])


def write(folder: Path, found: Predictions, **other: Any) -> Path:
    folder.mkdir(parents=True)
    data = {"clips": 80, "patients": 40, "sites": 0, "splits_fingerprint": other.pop("folds", "f01d5")}
    report = {
        "label": "diagnosis", "task": "classification", "classes": list(CLASSES), "where": {}, "head": "linear",
        "recipe": "mean", "store": {"model": "handmade"}, "data": data, "predictions": found.as_dict(),
    }  # fmt: skip
    write_json(folder / "report.json", report | other)
    return folder


def test_compare_experts__figures_are_those_of_each_side(tmp_path: Path) -> None:
    good, bad = predictions(3.0, 0), predictions(0.3, 1)
    shuffled = bad.select(np.random.default_rng(5).permutation(80))
    found = compare_experts(write(tmp_path / "good", good), write(tmp_path / "bad", shuffled), draws=200)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    first = found["scores"][0]
    by_hand = [np.mean([balanced_accuracy_score(side.truth, v.argmax(axis=1)) for v in side.values]) for side in (good, bad)]
    assert (found["primary"], first["name"]) == ("balanced_accuracy", "balanced_accuracy")
    assert first["first"]["value"] == pytest.approx(by_hand[0])
    assert first["second"]["value"] == pytest.approx(by_hand[1])
    assert first["difference"]["value"] == pytest.approx(by_hand[0] - by_hand[1])
    assert first["difference"]["low"] > 0
    assert (found["clips"], found["patients"]) == (80, 40)
    table = comparison_table(found)
    assert table.splitlines()[-1].startswith("The first is better")
    assert "on 80 clips of 40 patients" in table
    swapped = compare_experts(tmp_path / "bad", tmp_path / "good", draws=200)
    assert swapped["scores"][0]["difference"]["value"] == pytest.approx(-first["difference"]["value"])
    assert swapped["sentence"].startswith("The second is better")


def test_compare_experts__against_itself_no_difference(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", predictions(1.0, 0))
    found = compare_experts(folder, folder, draws=50)
    assert all(entry["difference"]["value"] == entry["difference"]["high"] == 0 for entry in found["scores"])
    assert found["sentence"].startswith("No difference in balanced accuracy is shown")


def test_compare_experts__common_clips(tmp_path: Path) -> None:
    whole, part = write(tmp_path / "whole", predictions(1.0, 0)), write(tmp_path / "part", predictions(1.0, 0, slice(20, None)))
    with pytest.raises(SonokitError, match=r"20 clips are in .*whole only and 0 in .*part only; --common"):
        compare_experts(whole, part)
    found = compare_experts(whole, part, common=True, draws=50)
    assert (found["clips"], found["patients"], found["only_in_first"], found["only_in_second"]) == (60, 30, 20, 0)
    assert found["scores"][0]["difference"]["value"] == 0
    assert "20 clips that only the first predicts are left out" in comparison_table(found)
    other = write(tmp_path / "other", predictions(1.0, 0, slice(0, 20)))
    with pytest.raises(SonokitError, match="no clip in common"):
        compare_experts(part, other, common=True)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"folds": "0the4"}, "sonokit split"),
        ({"label": "severity"}, "the label of .* is diagnosis, of .* severity"),
        ({"classes": ["normal", "pneumonia"]}, "--classes"),
        ({"task": "ordinal"}, "--task"),
        ({"unit": "patient"}, "--unit"),
    ],
)
def test_compare_experts__what_differs_is_named(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    folders = write(tmp_path / "a", predictions(1.0, 0)), write(tmp_path / "b", predictions(1.0, 0), **changed)
    with pytest.raises(SonokitError, match=message):
        compare_experts(*folders)


def test_compare_experts__other_labels_of_the_same_clips_are_refused(tmp_path: Path) -> None:
    flipped = predictions(1.0, 0, truth=1 - np.repeat(np.arange(40), 2) % 2)
    folders = write(tmp_path / "a", predictions(1.0, 0)), write(tmp_path / "b", flipped)
    with pytest.raises(SonokitError, match="other labels"):
        compare_experts(*folders)
    with pytest.raises(SonokitError, match="fit-expert wrote"):
        compare_experts(tmp_path / "a", tmp_path / "nothing")


@pytest.mark.parametrize("lost", ["label", "data", "predictions", "store"])
def test_compare_experts__a_report_without_what_is_compared(lost: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "a", predictions(1.0, 0))
    report = json.loads((folder / "report.json").read_text())
    del report[lost]
    write_json(folder / "report.json", report)
    with pytest.raises(SonokitError, match="fit-expert wrote"):
        compare_experts(folder, folder)


def test_compare_experts__draws_below_one(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", predictions(1.0, 0))
    with pytest.raises(SonokitError, match="at least 1"):
        compare_experts(folder, folder, draws=0)
    with pytest.raises(SonokitError, match="at least 1"):
        FitSettings(draws=0)


def test_compare__a_place_for_the_figures_is_looked_at_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.json").write_text('{"mine": 1}')
    for out, told in ((tmp_path, "is a folder"), (tmp_path / "notes.json", "holds no comparison")):
        assert main(["compare", str(tmp_path / "nowhere"), str(tmp_path / "nowhere"), "--out", str(out)]) == 2
        assert told in capsys.readouterr().err
    folder, out = write(tmp_path / "a", predictions(1.0, 0)), tmp_path / "out.json"
    for _ in range(2):  # an earlier comparison is replaced
        assert main(["compare", str(folder), str(folder), "--draws", "20", "--out", str(out)]) == 0
    assert json.loads(out.read_text())["clips"] == 80


def several(folder: Path, sides: dict[str, Predictions]) -> Path:
    for name, found in sides.items():
        write(folder / "labels" / name, found, label=name)
    labels = [{"name": name, "folder": f"labels/{name}"} for name in sides]
    write_json(folder / "report.json", {"task": "multi_label", "label": ", ".join(sides), "labels": labels, "primary": "auroc"})
    return folder


def test_compare_experts__of_several_labels_the_mean_and_each(tmp_path: Path) -> None:
    good = {"a": predictions(3.0, 0), "b": predictions(2.0, 1, slice(0, 60))}
    bad = {"a": predictions(0.2, 2), "b": predictions(0.2, 3, slice(0, 60))}
    found = compare_experts(several(tmp_path / "good", good), several(tmp_path / "bad", bad), draws=100)
    assert found["primary"] == "auroc"
    assert [(label["label"], label["patients"]) for label in found["labels"]] == [("a", 40), ("b", 30)]
    for side in ("first", "second"):
        each = [next(e for e in label["scores"] if e["name"] == "auroc")[side]["value"] for label in found["labels"]]
        assert found["scores"][0][side]["value"] == pytest.approx(np.mean(each))
    assert found["patients"] == 40
    assert "  b, AUROC (30 patients)" in comparison_table(found)
    assert found["sentence"].startswith("The first is better: AUROC")
    lone = several(tmp_path / "lone", {"a": bad["a"]})
    with pytest.raises(SonokitError, match="only one has b; --common"):
        compare_experts(tmp_path / "good", lone)
    assert len(compare_experts(tmp_path / "good", lone, common=True, draws=20)["labels"]) == 1
    with pytest.raises(SonokitError, match="labels/<label>"):
        compare_experts(tmp_path / "good", tmp_path / "good" / "labels" / "a")


def test_sentence__less_error_is_better() -> None:
    assert sentence("mae", {"value": -0.4, "low": -0.6, "high": -0.1}).startswith("The first is better: mean absolute error")
    assert sentence("mae", {"value": 0.4, "low": 0.1, "high": 0.6}).startswith("The second is better")
    assert "one patient only" in sentence("mae", {"value": 0.4, "low": None, "high": None, "reason": "one patient only"})
