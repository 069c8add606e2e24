import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sonokit.clips.held_out_column import held_out_by_column, with_held_out
from sonokit.clips.splits import Splits, make_splits
from sonokit.errors import SonokitError
from sonokit.experts.external.evaluate import evaluate
from sonokit.experts.fit import evaluate_and_fit, fit_expert
from sonokit.experts.held_out import NAME, _configuration, ask_to_open, write_opening
from sonokit.experts.predict import predict
from sonokit.experts.settings import FitSettings
from sonokit.experts.study import prepare
from sonokit.features.store import EmbeddingStore, make_rows

QUICK: dict[str, Any] = {"folds": 3, "repeats": 1, "draws": 20}


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text())


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are looked at elsewhere; drawing them is most of a small fit's time."""
    monkeypatch.setattr("sonokit.experts.fit.page", lambda report: "")
    monkeypatch.setattr("sonokit.experts.multi_label.summary_page", lambda report: "")


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
    assert any("16 clips of 8 patients are held out and stay closed; --open_held_out true" in note for note in report["notes"])
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


def append(store: EmbeddingStore, rows: pd.DataFrame, seed: int = 0) -> None:
    """Further clips of noise, one segment each."""
    values = np.random.default_rng(seed).normal(size=(len(rows), 16)).astype(np.float32)
    store.append(make_rows(store.header, rows.assign(segment=0).reset_index(drop=True), values))


def strangers(like: pd.DataFrame, **columns: Any) -> pd.DataFrame:
    """The same clips as those of other patients, under other names."""
    return like.assign(
        clip_id="new-" + like["clip_id"], content_hash="f" + like["content_hash"].str[1:], patient_id="q" + like["patient_id"],
        **columns,
    )  # fmt: skip


def test_fit_expert__one_more_held_out_patient_opens_nothing_again(
    halved: EmbeddingStore, split: pd.DataFrame, tmp_path: Path
) -> None:
    fit_expert(halved, "diagnosis", tmp_path / "first", open_held_out=True, **QUICK)
    append(halved, strangers(split.iloc[[0]], split="test"))
    for change in ({"recipe": "mean"}, {"recipe": "mean", "patient": "clip_id"}):
        with pytest.raises(SonokitError, match="with some of these patients in it, was opened for 'diagnosis'"):
            fit_expert(halved, "diagnosis", tmp_path / "second", open_held_out=True, **QUICK, **change)


def holding_out(clips: pd.DataFrame, *people: str) -> Splits:
    rest, out = (clips[clips["patient_id"].isin(people) == where].reset_index(drop=True) for where in (False, True))
    names, owners = rest["patient_id"].to_numpy(dtype=str), out["patient_id"].to_numpy(dtype=str)
    made = make_splits(rest, names, label="diagnosis", patient_column="patient_id", folds=3)
    return with_held_out(made, out["clip_id"].to_numpy(dtype=str), owners)


def test_fit_expert__splits_that_share_held_out_patients_open_nothing_again(
    write: Any, clips: pd.DataFrame, embedding: Any, tmp_path: Path
) -> None:
    store = write(tmp_path / "store", clips, embedding(clips, 1.0))
    first, second = holding_out(clips, "p00", "p01", "p02"), holding_out(clips, "p02", "p03", "p04")
    fit_expert(store, "diagnosis", tmp_path / "first", splits=first, draws=20, open_held_out=True)
    with pytest.raises(SonokitError, match="with some of these patients in it"):
        fit_expert(store, "diagnosis", tmp_path / "second", splits=second, draws=20, open_held_out=True)
    ledger = store.folder / NAME  # a line of an older sonokit knows the clips as a whole only
    line = {k: v for k, v in json.loads(ledger.read_text()).items() if k not in ("who", "truth")}
    ledger.write_text(json.dumps(line) + "\n")
    with pytest.raises(SonokitError, match="held-out part was opened for 'diagnosis'"):
        fit_expert(store, "diagnosis", tmp_path / "second", splits=first, draws=20, recipe="mean", open_held_out=True)


def test_fit_expert__the_same_truth_under_another_name_is_refused(
    write: Any, split: pd.DataFrame, embedding: Any, tmp_path: Path
) -> None:
    store = write(tmp_path / "store", split.assign(copied=split["binary"]), embedding(split, 1.0))
    fit_expert(store, "binary", tmp_path / "first", open_held_out=True, **QUICK)
    with pytest.raises(SonokitError, match="'copied' is the same there, clip by clip"):
        fit_expert(store, "copied", tmp_path / "second", open_held_out=True, recipe="mean", **QUICK)


def test_ask_to_open__labels_that_agree_may_be_asked_together_and_again(
    write: Any, split: pd.DataFrame, embedding: Any, tmp_path: Path
) -> None:
    store = write(tmp_path / "store", split.assign(copied=split["binary"]), embedding(split, 1.0))
    settings = FitSettings(folds=3, repeats=1)
    studies, _ = prepare(store, ["binary", "copied"], settings)
    for _ in range(2):
        for opening in [ask_to_open(study, settings, tmp_path / "e") for study in studies]:
            write_opening(opening, tmp_path / "e", {})
    assert len((store.folder / NAME).read_text().splitlines()) == 4
    with pytest.raises(SonokitError, match="held-out part was opened for 'binary'"):
        ask_to_open(studies[0], replace(settings, seed=1), tmp_path / "e")


def test_configuration__a_file_that_may_change_is_never_the_same(halved: EmbeddingStore) -> None:
    study = prepare(halved, ["diagnosis"], FitSettings(folds=3, repeats=1))[0][0]
    assert _configuration(study, FitSettings(teacher="ensemble")) is not None
    assert _configuration(study, FitSettings(teacher="targets.csv")) is None
    assert _configuration(study, FitSettings(teacher="ensemble", unlabelled="store")) is None


def test_fit_expert__splits_that_divide_what_the_column_holds_out_are_refused(
    halved: EmbeddingStore, clips: pd.DataFrame, tmp_path: Path
) -> None:
    with pytest.raises(SonokitError, match="the column split holds 14 clips out that the splits do not"):
        fit_expert(halved, "diagnosis", tmp_path / "e", splits=holding_out(clips, "p00", "p01"), draws=20)


def test_fit_expert__a_report_that_cannot_be_written_opens_nothing(
    halved: EmbeddingStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr("sonokit.experts.fit.append_metrics", full)  # the last file of all
        with pytest.raises(OSError, match="no space left"):
            fit_expert(halved, "diagnosis", tmp_path / "e", open_held_out=True, **QUICK)
        patch.setattr("sonokit.experts.multi_label.write_json", full)
        patch.setattr("sonokit.experts.fit.append_metrics", lambda *_: None)
        with pytest.raises(OSError, match="no space left"):
            fit_expert(halved, "diagnosis,binary", tmp_path / "e", task="classification", open_held_out=True, **QUICK)
    assert not (halved.folder / NAME).exists()
    assert not (tmp_path / "e").exists()


def test_fit_expert__a_width_without_end_is_a_dash_and_no_crash(write: Any, make: Any, embedding: Any, tmp_path: Path) -> None:
    few = make(12, 2)
    held = few.assign(split=np.where(few["patient_id"].str[1:].astype(int) % 4 == 0, "test", "train"))
    store = write(tmp_path / "store", held, embedding(few, 1.0))
    report = read(fit_expert(store, "ratio", tmp_path / "e", open_held_out=True, **QUICK))
    assert report["held_out"]["scores"]["mae"]["value"] is not None
    assert report["trust"]["conformal"]["size"]["value"] is None
    assert len((store.folder / NAME).read_text().splitlines()) == 1


def test_evaluate_and_fit__opens_nothing(halved: EmbeddingStore) -> None:
    with pytest.raises(SonokitError, match="take fit_expert"):
        evaluate_and_fit(halved, "diagnosis", FitSettings(open_held_out=True))


def test_fit_expert__a_class_that_is_wholly_held_out_is_left_out(
    write: Any, clips: pd.DataFrame, embedding: Any, tmp_path: Path
) -> None:
    closed = clips["diagnosis"] == "normal"
    store = write(tmp_path / "store", clips.assign(split=np.where(closed, "test", "train")), embedding(clips, 1.0))
    report = read(fit_expert(store, "diagnosis", tmp_path / "e", **QUICK))
    assert report["classes"] == ["covid19", "pneumonia"]
    assert any("class normal is left out: all its patients are held out" in note for note in report["notes"])


def test_evaluate__the_store_at_home_is_no_door_to_the_held_out_part(
    halved: EmbeddingStore, split: pd.DataFrame, tmp_path: Path
) -> None:
    expert = fit_expert(halved, "diagnosis", tmp_path / "e", **QUICK)
    for asked in ({}, {"against": halved}, {"where": {"split": " Test"}}, {"where": {"split": "train"}}):
        with pytest.raises(SonokitError, match="this is the store that the expert was fitted on"):
            evaluate(expert, halved, draws=20, **asked)
    append(halved, strangers(split.iloc[:24], split="train"))
    append(halved, strangers(split.iloc[24:30], split="test"))  # held out after the fit
    told = evaluate(expert, halved, draws=20)
    assert set(told.predictions["clip_id"]) == {f"new-clip-{k:03d}" for k in range(24)}
    assert any("11 patients are held out from this expert and are left out" in note for note in told.content["notes"])
    assert not (halved.folder / NAME).exists()


def test_evaluate__another_hospitals_split_is_its_own_affair(
    halved: EmbeddingStore, write: Any, split: pd.DataFrame, embedding: Any, tmp_path: Path
) -> None:
    expert = fit_expert(halved, "diagnosis", tmp_path / "e", **QUICK)
    away = strangers(split)
    told = evaluate(expert, write(tmp_path / "away", away, embedding(away, 1.0)), draws=20)
    assert len(told.predictions) == 60
    assert any("holds 16 clips out; they are nothing to this expert" in note for note in told.content["notes"])
    mixed = pd.concat([away, split[split["split"] == " Test"]], ignore_index=True)  # closed films under strangers' names
    mixed["patient_id"] = "r" + mixed["patient_id"]
    told = evaluate(expert, write(tmp_path / "mixed", mixed, embedding(mixed, 1.0)), draws=20)
    assert set(told.predictions["clip_id"]) == set(away["clip_id"])


def test_predict__held_out_clips_are_no_bank(halved: EmbeddingStore, split: pd.DataFrame, tmp_path: Path) -> None:
    expert = fit_expert(halved, "diagnosis", tmp_path / "e", **QUICK)
    found = predict(expert, halved, bank=halved, nearest=5)
    banked = set(found[[f"nearest_{place}" for place in range(1, 6)]].to_numpy().ravel())
    assert banked
    assert not banked & set(split["clip_id"][split["split"] == " Test"])


def test_predict__clips_that_splits_hold_out_are_no_bank(
    write: Any, clips: pd.DataFrame, embedding: Any, tmp_path: Path
) -> None:
    store, splits = write(tmp_path / "store", clips, embedding(clips, 1.0)), holding_out(clips, "p00", "p01", "p02")
    expert = fit_expert(store, "diagnosis", tmp_path / "e", splits=splits, draws=20)
    found = predict(expert, store, bank=store, nearest=5)
    banked = set(found[[f"nearest_{place}" for place in range(1, 6)]].to_numpy().ravel())
    assert not banked & set(splits.held_out)
    with pytest.raises(SonokitError, match="held out and stays closed"):
        evaluate(expert, store, draws=20)
