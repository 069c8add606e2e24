import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sonokit.clips.held_out_column import held_out_by_column
from sonokit.clips.splits import make_splits
from sonokit.errors import SonokitError
from sonokit.experts.fit import fit_expert
from sonokit.experts.held_out import NAME
from sonokit.features.store import EmbeddingStore

QUICK: dict[str, Any] = {"folds": 3, "repeats": 1, "draws": 20}


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are looked at elsewhere; drawing them is most of a small fit's time."""
    monkeypatch.setattr("sonokit.experts.fit.page", lambda report: "")


@pytest.fixture
def split(clips: pd.DataFrame) -> pd.DataFrame:
    """Every fourth patient is held out; the words' case and spaces do not matter."""
    number = clips["patient_id"].str[1:].astype(int)
    return clips.assign(split=np.where(number % 4 == 0, " Test", np.where(number % 4 == 1, "val", "train")))


@pytest.fixture
def halved(write: Any, split: pd.DataFrame, embedding: Any, tmp_path: Path) -> EmbeddingStore:
    return write(tmp_path / "store", split, embedding(split, 1.0))


def test_fit_expert__a_split_column_is_honoured_and_stays_closed(
    halved: EmbeddingStore, split: pd.DataFrame, tmp_path: Path
) -> None:
    report = read(fit_expert(halved, "diagnosis", tmp_path / "e", **QUICK))
    out = set(split["clip_id"][split["split"] == " Test"])
    assert report["held_out"] is None
    assert set(report["predictions"]["clip_ids"]) == set(split["clip_id"]) - out
    assert any("16 clips of 8 patients are held out and stay closed; --open-held-out" in note for note in report["notes"])
    assert any("the column split holds 16 clips out (test); train, val train" in note for note in report["notes"])
    assert not (halved.folder / NAME).exists()


def test_fit_expert__opened_once_and_a_second_configuration_is_refused(halved: EmbeddingStore, tmp_path: Path) -> None:
    first = read(fit_expert(halved, "diagnosis", tmp_path / "first", open_held_out=True, **QUICK))
    assert first["held_out"]["scores"]["balanced_accuracy"]["value"] > 0.9
    line = json.loads((halved.folder / NAME).read_text())
    assert (line["label"], line["clips"], line["patients"], line["head"]) == ("diagnosis", 16, 8, "linear")
    assert line["scores"]["accuracy"] == first["held_out"]["scores"]["accuracy"]["value"]
    again = read(fit_expert(halved, "diagnosis", tmp_path / "again", open_held_out=True, **QUICK))
    assert again["held_out"] == first["held_out"]
    for change in ({"recipe": "mean"}, {"seed": 1}, {"heads": "xgboost"}, {"where": {"probe": "convex"}}):
        with pytest.raises(SonokitError, match=r"opened for 'diagnosis' on .* by first \(linear on mean_std"):
            fit_expert(halved, "diagnosis", tmp_path / "second", open_held_out=True, **{**QUICK, **change})
    assert not (tmp_path / "second").exists()
    fit_expert(halved, "severity", tmp_path / "other-label", open_held_out=True, **QUICK)
    assert len((halved.folder / NAME).read_text().splitlines()) == 3


def test_fit_expert__closed_and_opened_experts_are_the_same(halved: EmbeddingStore, tmp_path: Path) -> None:
    closed = read(fit_expert(halved, "diagnosis", tmp_path / "e", **QUICK))
    opened = read(fit_expert(halved, "diagnosis", tmp_path / "e", open_held_out=True, **QUICK))  # it may take its place
    assert opened["scores"] == closed["scores"]
    assert opened["held_out"] is not None


def test_fit_expert__held_out_by_a_splits_file(write: Any, clips: pd.DataFrame, embedding: Any, tmp_path: Path) -> None:
    store = write(tmp_path / "store", clips, embedding(clips, 1.0))
    patients = clips["patient_id"].to_numpy(dtype=str)
    splits = make_splits(clips, patients, label="diagnosis", patient_column="patient_id", folds=3, held_out=0.3)
    report = read(fit_expert(store, "diagnosis", tmp_path / "closed", splits=splits, draws=20))
    assert report["held_out"] is None
    assert not set(report["predictions"]["clip_ids"]) & set(splits.held_out)
    assert report["data"]["splits_fingerprint"] == splits.fingerprint()
    opened = read(fit_expert(store, "diagnosis", tmp_path / "open", splits=splits, draws=20, open_held_out=True))
    assert set(opened["held_out"]["predictions"]["clip_ids"]) == set(splits.held_out)


def test_fit_expert__nothing_held_out_cannot_be_opened(store: EmbeddingStore, tmp_path: Path) -> None:
    with pytest.raises(SonokitError, match="nothing is held out"):
        fit_expert(store, "diagnosis", tmp_path / "e", open_held_out=True, **QUICK)


def test_fit_expert__the_line_goes_to_the_expert_where_the_store_takes_none(
    halved: EmbeddingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sonokit.experts.held_out._writable", lambda folder: False)
    folder = fit_expert(halved, "diagnosis", tmp_path / "e", open_held_out=True, **QUICK)
    assert not (halved.folder / NAME).exists()
    assert json.loads((folder / NAME).read_text())["label"] == "diagnosis"
    assert any("nothing can be written beside the store" in note for note in read(folder)["notes"])
    fit_expert(halved, "diagnosis", folder, open_held_out=True, **QUICK)
    assert len((folder / NAME).read_text().splitlines()) == 2  # the history moves along


def test_fit_expert__patients_as_rows_are_held_out_as_wholes(halved: EmbeddingStore, tmp_path: Path) -> None:
    report = read(fit_expert(halved, "diagnosis", tmp_path / "e", unit="patient", open_held_out=True, **QUICK))
    assert set(report["held_out"]["predictions"]["clip_ids"]) == {f"p{k:02d}" for k in range(0, 30, 4)}
    assert len(report["predictions"]["clip_ids"]) == 22


def test_held_out_by_column__patient_on_both_sides(split: pd.DataFrame) -> None:
    torn = split.assign(split=split["split"].mask(split.index == 0, "train"))
    with pytest.raises(SonokitError, match="1 patients on both sides, first 'p00'"):
        held_out_by_column(torn, "patient_id")


def test_held_out_by_column__what_the_words_mean(split: pd.DataFrame) -> None:
    out, notes = held_out_by_column(split.assign(split=split["split"].mask(split["split"] == "val")), "patient_id")
    assert set(out) == set(split["clip_id"][split["split"] == " Test"])
    assert "clips of which it says nothing" in notes[0]
    nobody, notes = held_out_by_column(split.assign(split="A"), "patient_id")
    assert len(nobody) == 0
    assert "holds nothing out" in notes[0]
    with pytest.raises(SonokitError, match="holds all clips out"):
        held_out_by_column(split.assign(split="holdout"), "patient_id")
    assert held_out_by_column(split.drop(columns="split"), "patient_id")[1] == []
