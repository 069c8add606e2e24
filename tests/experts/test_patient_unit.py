import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sonokit.clips.splits import make_splits
from sonokit.errors import SonokitError
from sonokit.evaluation.by_patient import average_by_patient
from sonokit.evaluation.predictions import predictions_from_dict
from sonokit.evaluation.scores import score
from sonokit.experts.division import question_folds
from sonokit.experts.fit import fit_expert
from sonokit.experts.folder import load_single_expert
from sonokit.experts.question import pose
from sonokit.experts.recipes import clip_table
from sonokit.features.store import EmbeddingStore

QUICK: dict[str, Any] = {"folds": 3, "repeats": 2, "draws": 50}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are looked at elsewhere; drawing them is most of a small fit's time."""
    monkeypatch.setattr("sonokit.experts.fit.page", lambda report: "")


def test_pose__a_row_is_a_patient(clips: pd.DataFrame) -> None:
    question = pose(clips, "diagnosis", unit="patient")
    assert question.clip_ids.tolist() == question.patients.tolist() == sorted(set(clips["patient_id"]))
    of_patient = clips.drop_duplicates("patient_id").set_index("patient_id")["diagnosis"]
    assert np.array(question.classes)[question.truth].tolist() == of_patient[question.patients].tolist()
    assert set(question.every_clip[0]) == set(clips["clip_id"])


def test_pose__a_label_on_one_clip_counts_for_all_clips_of_the_patient(clips: pd.DataFrame) -> None:
    partly = clips.assign(diagnosis=clips["diagnosis"].where(clips.index % 2 == 0))
    question = pose(partly, "diagnosis", unit="patient")
    assert len(question.truth) == 30
    assert len(question.every_clip[0]) == 60


def test_pose__two_labels_of_a_patient_are_named(clips: pd.DataFrame) -> None:
    torn = clips.assign(diagnosis=clips["diagnosis"].mask(clips.index == 6, "pneumonia"))  # p03 is normal
    with pytest.raises(SonokitError, match=r"patient 'p03' .*'pneumonia' and 'normal'.*--unit clip.*patient_id"):
        pose(torn, "diagnosis", unit="patient")


def test_pose__metadata_of_a_patient_are_the_most_frequent_and_several_sites_are_none(make: Any) -> None:
    clips = make(6, 3)
    clips["container"] = ["avi", "mp4", "mp4", *["avi"] * 15]
    clips["frame_rate"] = [30.0, 25.0, np.nan, *[30.0] * 15]
    clips.loc[0, "site"] = "elsewhere"
    question = pose(clips, "diagnosis", unit="patient", fewest_patients=2)
    first = question.table.iloc[0]
    assert (first["container"], first["frame_rate"]) == ("mp4", 25.0)  # of two equally frequent rates the lower
    assert question.sites.tolist()[0] == ""
    assert question.sites.tolist()[1] == clips["site"][3]
    assert any("1 patients were seen at several sites" in note for note in question.notes)


def test_question_folds__the_clips_division_by_patients(clips: pd.DataFrame, store: EmbeddingStore) -> None:
    splits = make_splits(
        clips, clips["patient_id"].to_numpy(dtype=str), label="diagnosis", patient_column="patient_id", folds=3, held_out=0.2
    )
    question = pose(clip_table(store), "diagnosis", unit="patient")
    owner = clips.set_index("clip_id")["patient_id"]
    for fold, rows in zip(splits.folds, question_folds(splits, question), strict=True):
        assert set(question.patients[rows.test]) == set(owner[list(fold.test)])
        assert set(question.patients[rows.train]) == set(owner) - set(owner[list(fold.test)]) - set(
            owner[list(splits.held_out)]
        )


def test_fit_expert__unit_patient_has_floors_and_keeps_the_unit(store: EmbeddingStore, tmp_path: Path) -> None:
    folder = fit_expert(store, "diagnosis", tmp_path / "e", unit="patient", **QUICK)
    report = json.loads((folder / "report.json").read_text())
    assert (report["unit"], report["data"]["clips"], report["data"]["patients"]) == ("patient", 30, 30)
    assert all("scores" in floor for floor in report["floors"])
    assert report["scores"]["balanced_accuracy"]["value"] > 0.9
    assert "by_patient" not in report
    expert = load_single_expert(folder)
    assert (expert.unit, expert.patient) == ("patient", "patient_id")


def test_fit_expert__clips_are_read_by_patient_too(store: EmbeddingStore, tmp_path: Path) -> None:
    report = json.loads((fit_expert(store, "severity", tmp_path / "e", **QUICK) / "report.json").read_text())
    found = average_by_patient(predictions_from_dict(report["predictions"]))
    by_hand = np.mean([score("ordinal", found.truth, values)["quadratic_kappa"] for values in found.values])
    assert report["by_patient"]["patients"] == 30
    assert report["by_patient"]["scores"]["quadratic_kappa"]["value"] == pytest.approx(by_hand)
