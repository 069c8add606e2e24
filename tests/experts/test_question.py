from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sonokit.errors import SonokitError
from sonokit.experts.labels import as_numbers, has_label, infer_task
from sonokit.experts.question import pose


def test_pose__classes_in_order_of_name_with_codes(clips: pd.DataFrame) -> None:
    question = pose(clips, "diagnosis")
    assert (question.task, question.classes) == ("classification", ("covid19", "normal", "pneumonia"))
    assert np.array_equal(np.array(question.classes)[question.truth], clips["diagnosis"])
    assert question.patients.tolist() == clips["patient_id"].tolist()


def test_pose__only_the_classes_asked_for_in_their_order(clips: pd.DataFrame) -> None:
    question = pose(clips, "diagnosis", classes=["normal", "covid19"])
    assert question.classes == ("normal", "covid19")
    assert len(question.truth) == (clips["diagnosis"] != "pneumonia").sum()


def test_pose__class_of_too_few_patients_is_left_out_by_name(clips: pd.DataFrame) -> None:
    rare = clips["patient_id"].isin(["p01", "p04", "p07"])
    question = pose(clips.assign(diagnosis=clips["diagnosis"].mask(rare, "rare")), "diagnosis")
    assert "rare" not in question.classes
    assert len(question.truth) == len(clips) - rare.sum()
    assert any("class rare is left out: 3 patients" in note for note in question.notes)


def test_pose__rare_level_of_an_ordinal_stays_and_is_noted(clips: pd.DataFrame) -> None:
    severity = clips["severity"].mask(clips["patient_id"] == "p02", 3.0)
    question = pose(clips.assign(severity=severity), "severity")
    assert (question.task, question.classes) == ("ordinal", ("0", "1", "2", "3"))
    assert any("level 3 has 1 patient only" in note for note in question.notes)


def test_pose__levels_go_by_number_not_by_name(clips: pd.DataFrame) -> None:
    question = pose(clips.assign(grade=clips["severity"].map({0: 2.0, 1: 9.0, 2: 10.0})), "grade")
    assert question.classes == ("2", "9", "10")


def test_pose__unknown_labels_take_no_part(clips: pd.DataFrame) -> None:
    question = pose(clips.assign(ratio=clips["ratio"].mask(clips.index < 4)), "ratio")
    assert question.task == "regression"
    assert len(question.truth) == len(clips) - 4
    assert any("4 clips have no ratio" in note for note in question.notes)


def test_pose__where_text_and_number(clips: pd.DataFrame) -> None:
    assert set(pose(clips, "diagnosis", where={"probe": "convex"}).table["probe"]) == {"convex"}
    assert set(pose(clips, "diagnosis", where={"binary": "1"}).table["binary"]) == {1.0}


def test_pose__where_names_what_there_is(clips: pd.DataFrame) -> None:
    with pytest.raises(SonokitError, match="convex, linear"):
        pose(clips, "diagnosis", where={"probe": "endocavitary"})
    with pytest.raises(SonokitError, match="no column 'prob'"):
        pose(clips, "diagnosis", where={"prob": "convex"})


def test_pose__unknown_label_lists_the_columns(clips: pd.DataFrame) -> None:
    with pytest.raises(SonokitError, match="it has: diagnosis, severity, binary, ratio"):
        pose(clips, "diagnose")


def test_pose__text_for_regression_shows_an_example(clips: pd.DataFrame) -> None:
    ratio = clips["ratio"].astype(object).mask(clips.index == 3, "high")
    with pytest.raises(SonokitError, match="'clip-003' is 'high'"):
        pose(clips.assign(ratio=ratio), "ratio", task="regression")


def test_pose__text_levels_want_an_order(clips: pd.DataFrame) -> None:
    with pytest.raises(SonokitError, match="--classes"):
        pose(clips, "diagnosis", task="ordinal")
    question = pose(clips, "diagnosis", task="ordinal", classes=["normal", "pneumonia", "covid19"])
    assert question.classes == ("normal", "pneumonia", "covid19")


@pytest.mark.parametrize("nobody", [None, "", " "])
def test_pose__patient_unknown_names_the_way_out(clips: pd.DataFrame, nobody: str | None) -> None:
    unknown = clips.assign(patient_id=clips["patient_id"].where(clips.index != 5, nobody))
    with pytest.raises(SonokitError, match="--patient clip_id"):
        pose(unknown, "diagnosis")
    question = pose(unknown, "diagnosis", patient="clip_id")
    assert question.patients.tolist() == clips["clip_id"].tolist()
    assert any("not by patient" in note for note in question.notes)


def test_pose__fewer_than_two_classes(clips: pd.DataFrame) -> None:
    with pytest.raises(SonokitError, match="at least two classes"):
        pose(clips, "diagnosis", where={"diagnosis": "normal"})


def test_pose__labels_of_a_csv_add_and_override(clips: pd.DataFrame, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    file.write_text("clip_id,diagnosis\nclip-000,covid19\nclip-001,\nelsewhere,normal\n")
    question = pose(clips, "diagnosis", labels_csv=file)
    names = np.array(question.classes)[question.truth]
    assert clips["diagnosis"][0] == "normal"
    assert names[0] == "covid19"  # overridden
    assert names[1] == "normal"  # empty there: the store's stays
    assert any("elsewhere" in note for note in question.notes)


def test_pose__labels_of_a_csv_by_patient(clips: pd.DataFrame, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    patients = clips["patient_id"].unique()
    pd.DataFrame({"patient_id": patients, "sex": np.where(np.arange(len(patients)) % 2, "f", "m")}).to_csv(file, index=False)
    question = pose(clips, "sex", labels_csv=file)
    assert len(question.truth) == len(clips)
    assert all(len(set(question.truth[question.patients == name])) == 1 for name in patients)


def test_pose__none_is_a_class_of_a_csv_and_an_empty_cell_is_not(clips: pd.DataFrame, tmp_path: Path) -> None:
    file = tmp_path / "labels.csv"
    cells = np.array(["None", "trace", "", "NA"])[np.arange(len(clips)) // 2 % 4]
    pd.DataFrame({"clip_id": clips["clip_id"], "effusion": cells}).to_csv(file, index=False)
    question = pose(clips, "effusion", labels_csv=file)
    assert question.classes == ("None", "trace")
    assert len(question.truth) == np.isin(cells, ["None", "trace"]).sum()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("clip_id,other\nclip-000,1\n", "no column 'diagnosis'"),
        ("name,diagnosis\nclip-000,1\n", "no column clip_id or patient_id"),
        ("clip_id,diagnosis\nclip-000,a\nclip-000,b\n", "more than once"),
        ("clip_id,diagnosis\nnobody,a\n", "no clip_id of"),
    ],
)
def test_pose__faulty_csv(clips: pd.DataFrame, tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "labels.csv"
    file.write_text(text)
    with pytest.raises(SonokitError, match=says):
        pose(clips, "diagnosis", labels_csv=file)


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (["a", "b"], "classification"),
        ([0.0, 1.0], "classification"),
        ([0.0, 1.0, 3.0], "ordinal"),
        ([0.1, 1.0, 2.0], "regression"),
        (list(range(30)), "regression"),
    ],
)
def test_infer_task__by_values(values: list, task: str) -> None:
    assert infer_task(pd.Series([*values, None])) == task


def test_pose__a_named_class_of_few_patients_stays_with_a_note() -> None:
    table = pd.DataFrame(
        {"clip_id": [f"c{k}" for k in range(12)], "patient_id": [f"p{k}" for k in range(12)], "sign": [1.0] * 3 + [0.0] * 9}
    )
    with pytest.raises(SonokitError, match="--classes"):
        pose(table, "sign", fewest_patients=5)
    question = pose(table, "sign", classes=("0", "1"), fewest_patients=5)
    assert question.truth.tolist() == [1] * 3 + [0] * 9
    assert any("class 1 has 3 patients only" in note for note in question.notes)


def test_pose__classes_of_many_digits_stay_apart(clips: pd.DataFrame) -> None:
    number = clips["patient_id"].str[1:].astype(int)
    numbered = clips.assign(code=1234567.0 + number % 2, study=1000000.0 + number % 3)
    assert pose(numbered, "code", task="classification").classes == ("1234567", "1234568")
    assert set(pose(numbered, "ratio", where={"study": "1000001"}).table["study"]) == {1000001.0}


@pytest.mark.parametrize("task", [None, "regression", "classification"])
def test_pose__an_infinite_label_is_named(clips: pd.DataFrame, task: Any) -> None:
    endless = clips.assign(severity=clips["severity"].mask(clips.index == 7, np.inf))
    with pytest.raises(SonokitError, match=r"severity of clip 'clip-007' is inf \(1 such clips\)"):
        pose(endless, "severity", task=task)
    assert len(pose(endless.assign(severity=endless["severity"].astype(str)), "diagnosis").truth) == len(clips)


def test_as_numbers__infinite_text_is_named(clips: pd.DataFrame) -> None:
    text = clips["ratio"].astype(str).mask(clips.index == 2, "-inf")
    with pytest.raises(SonokitError, match="'clip-002' is -inf"):
        as_numbers(text, clips["clip_id"], "ratio")


def test_pose__labels_of_a_csv_by_the_column_of_the_patients(clips: pd.DataFrame, tmp_path: Path) -> None:
    number = clips["patient_id"].str[1:].astype(int)
    file = tmp_path / "labels.csv"
    file.write_text("subject,sex\n" + "".join(f"{k:03d},{'fm'[k % 2]}\n" for k in range(30)))
    for subject in (number.map("{:03d}".format), number.astype(float)):
        question = pose(clips.assign(subject=subject), "sex", labels_csv=file, patient="subject")
        assert np.array(question.classes)[question.truth].tolist() == ["fm"[k % 2] for k in number]
        assert any("keyed by subject" in note for note in question.notes)
    file.write_text("patient_id,sex\n" + "".join(f"p{k:02d},{'fm'[k % 2]}\n" for k in range(30)))
    assert len(pose(clips.assign(subject=number), "sex", labels_csv=file, patient="subject").truth) == len(clips)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "labels.csv is empty"),
        (b"clip_id,x\nclip-000,1\nclip-001,2,3,4\n", "line 3"),
        (b"clip_id,x\nclip-000,1,2\nclip-001,2,3\n", "more cells in its lines"),
        (b'clip_id,x\n"clip-000,1\n', "cannot be read as CSV"),
        (b"clip_id,x\nclip-000,\xff\xfe1\n", "not UTF-8"),
        (None, "is a folder"),
    ],
)
def test_pose__a_csv_that_cannot_be_read_says_so_in_one_line(
    clips: pd.DataFrame, tmp_path: Path, content: bytes | None, says: str
) -> None:
    file = tmp_path / "labels.csv"
    file.mkdir() if content is None else file.write_bytes(content)
    with pytest.raises(SonokitError, match=says) as told:
        pose(clips, "x", labels_csv=file)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(("content", "says"), [(b"", "is empty"), (b"clip_id,\xff\n", "not UTF-8")])
def test_has_label__a_csv_that_cannot_be_read_says_so(clips: pd.DataFrame, tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "labels.csv"
    file.write_bytes(content)
    with pytest.raises(SonokitError, match=says):
        has_label(clips, "x", file)
    with pytest.raises(SonokitError, match="does not exist"):
        has_label(clips, "x", tmp_path / "none.csv")
    assert has_label(clips, "ratio", file)


def test_pose__held_out_patients_do_not_count_for_a_class(clips: pd.DataFrame) -> None:
    edema = clips["patient_id"].isin([f"p{k:02d}" for k in range(12)])
    table = clips.assign(diagnosis=clips["diagnosis"].mask(edema, "edema"))
    closed = table["clip_id"][edema]
    assert "edema" in pose(table, "diagnosis").classes
    found = pose(table, "diagnosis", held_out=closed)
    assert "edema" not in found.classes
    assert any("class edema is left out: all its patients are held out" in note for note in found.notes)
    assert not set(found.clip_ids) & set(closed)
    few = pose(table, "diagnosis", held_out=closed[:20])  # two patients are left of twelve
    assert any("class edema is left out: 2 patients, too few for 5 folds" in note for note in few.notes)
    by_patient = pose(table, "diagnosis", held_out=closed, unit="patient")
    assert "edema" not in by_patient.classes
    ordinal = pose(clips, "severity", held_out=clips["clip_id"][clips["severity"] == 2])
    assert ordinal.classes == ("0", "1")


def test_pose__a_stray_word_among_numbers_and_many_classes_are_told_in_a_line(clips: pd.DataFrame) -> None:
    ages = clips.assign(age=[str(20 + k) for k in range(len(clips) - 1)] + ["unknown"])
    with pytest.raises(SonokitError, match=r"and \d+ more; the column would be numbers but for 'unknown'"):
        pose(ages, "age")
