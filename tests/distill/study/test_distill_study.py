"""A whole study on tiny clips: fair, repeatable, resumable, and the same whatever teaches."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sonokit.clips.cached_clips import CachedClips
from sonokit.clips.splits import Splits, make_splits
from sonokit.distill.students.folder import load_student, read_student_note
from sonokit.distill.study import folds as folds_module
from sonokit.distill.study.asked import Asked, asked_findings
from sonokit.distill.study.distill import distill
from sonokit.distill.study.folds import clip_probabilities
from sonokit.distill.study.page import page
from sonokit.distill.study.settings import DistillSettings
from sonokit.distill.training.learners import Classifier
from sonokit.distill.training.taught import Taught
from sonokit.errors import SonokitError
from sonokit.evaluation.scores import score


def lasting(report: dict[str, Any]) -> str:
    """What must not change from run to run: all but this machine's speed."""
    return json.dumps({key: value for key, value in report.items() if key != "speed"}, sort_keys=True)


def test_the_folder_holds_what_was_promised(finished: tuple[Path, dict[str, Any]]) -> None:
    out, report = finished
    assert {path.name for path in out.iterdir()} == {
        "student", "teacher", "folds", "report.json", "report.html", "CARD.md", "config.yaml", "environment.json",
    }  # fmt: skip
    assert json.loads((out / "report.json").read_text()) == json.loads(json.dumps(report))
    student, note = load_student(out / "student")
    assert (note.kind, note.classes, note.size, note.cache_size) == ("classes", ("a", "b"), 32, 40)
    assert set(note.trained_on) == {f"c{k:02d}" for k in range(12)}
    assert sum(p.numel() for p in student.parameters()) == report["sizes"]["student"]["parameters"]
    assert sum(p.numel() for p in load_student(out / "teacher")[0].parameters()) == report["sizes"]["teacher"]["parameters"]
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64") == 2
    assert 'src="http' not in page


def test_scores_are_those_of_the_files_of_the_folds(
    finished: tuple[Path, dict[str, Any]], asked: Asked, splits: Splits
) -> None:
    out, report = finished
    for row in report["rows"][:3]:
        values = np.full((len(asked), 2), np.nan)
        for number, fold in enumerate(splits.folds):
            content = json.loads((out / "folds" / f"fold-{number:03d}-{row['name']}.json").read_text())
            assert set(content["clip_ids"]) == set(fold.test)
            assert not set(content["clip_ids"]) & set(content["trained_on"])
            rows = [asked.clip_ids.tolist().index(clip) for clip in content["clip_ids"]]
            values[rows] = content["values"]
        by_hand = score("classification", asked.truth, values)
        assert {name: figure["value"] for name, figure in row["scores"].items()} == pytest.approx(by_hand)
    names = [(row["first"], row["second"]) for row in report["differences"]]
    assert names[:3] == [("distilled", "labels"), ("distilled", "teacher"), ("labels", "teacher")]
    values = {row["name"]: row["scores"]["auroc"]["value"] for row in report["rows"]}
    assert report["differences"][0]["scores"]["auroc"]["value"] == pytest.approx(values["distilled"] - values["labels"])
    assert {"most_frequent", "metadata"} <= set(values)


def test_killed_in_the_middle_it_goes_on_and_ends_the_same(
    finished: tuple[Path, dict[str, Any]],
    asked: Asked,
    splits: Splits,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    run: Any,
) -> None:
    class Killed(BaseException):
        pass

    trained: list[Classifier] = []
    real = folds_module.train

    def dying(learner: Classifier, *args: Any, **options: Any) -> Any:
        trained.append(learner)
        if len(trained) == 3:  # the first student of the second fold
            raise Killed
        return real(learner, *args, **options)

    monkeypatch.setattr(folds_module, "train", dying)
    with pytest.raises(Killed):
        run(asked, tmp_path / "out", splits=splits)
    assert not (tmp_path / "out" / "report.json").exists()
    left = {path.name for path in (tmp_path / "out" / "folds").iterdir()}
    assert left == {"fold-000-teacher.json", "fold-000-distilled.json", "fold-000-labels.json", "fold-001-teacher.json"}
    again = run(asked, tmp_path / "out", splits=splits)
    assert len(trained) == 6  # of the three before, the first two were not trained again; two of fold 1, and the final one
    assert lasting(again) == lasting(finished[1])
    first, second = (load_student(place / "student")[0].state_dict() for place in (finished[0], tmp_path / "out"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    monkeypatch.setattr(folds_module, "train", lambda *_, **__: pytest.fail("everything is there already"))
    assert lasting(run(asked, tmp_path / "out", splits=splits)) == lasting(again)


def test_no_evaluation_is_said_to_be_none(asked: Asked, tmp_path: Path, run: Any, tiny: DistillSettings) -> None:
    report = run(asked, tmp_path / "out", settings=dataclasses.replace(tiny, folds=0))
    assert (report["measured"], report["rows"], report["differences"]) == (False, [], [])
    assert "not measured" in report["reason"]
    assert "not measured" in page(report)
    card = (tmp_path / "out" / "CARD.md").read_text()
    assert "Not measured" in card
    assert "trained here)" in card
    assert "interval" not in card + page(report)
    assert "floor" not in card
    assert not (tmp_path / "out" / "folds").exists()


def test_held_out_clips_are_never_touched(asked: Asked, clips: CachedClips, tmp_path: Path, run: Any) -> None:
    people = clips.table["patient_id"].to_numpy(dtype=str)
    division = make_splits(
        clips.table, people, label="kind", patient_column="patient_id", folds=2, held_out=0.3, seed=1
    )  # fmt: skip
    assert division.held_out
    report = run(asked, tmp_path / "out", splits=division)
    data, out = report["data"], len(division.held_out)  # one clip a patient
    assert (data["clips"], data["patients"], data["scored_clips"], data["scored_patients"]) == (12 - out,) * 4
    assert sum(one["clips"] for one in data["classes"]) == sum(one["patients"] for one in data["classes"]) == 12 - out
    assert f"{12 - out} patients are what the intervals are drawn from" in (tmp_path / "out" / "CARD.md").read_text()
    told = read_student_note(tmp_path / "out" / "student").trained_on
    assert not set(told) & set(division.held_out)
    assert report["held_out_clips"] == len(division.held_out)
    assert report["trained_on_clips"] == len(told) == 12 - len(division.held_out)
    for file in (tmp_path / "out" / "folds").iterdir():
        content = json.loads(file.read_text())
        assert not set(division.held_out) & {*content["clip_ids"], *content["trained_on"]}


def test_findings_are_learnt_and_scored_each(clips: CachedClips, tmp_path: Path, run: Any) -> None:
    report = run(asked_findings(clips, ("f1", "f2"))[0], tmp_path / "out")
    assert report["primary"] == "macro_auroc"
    row = report["rows"][0]["scores"]
    assert row["macro_auroc"]["value"] == pytest.approx(np.mean([row[f"auroc {name}"]["value"] for name in ("f1", "f2")]))
    assert read_student_note(tmp_path / "out" / "student").kind == "several"
    assert [counted["clips"] for counted in report["data"]["classes"]] == [6, 6]


ONE_OF_TWO = np.array([[0.375, 0.625], [0.9, 0.1]])


def test_a_clip_is_the_mean_of_its_frames_by_hand() -> None:
    logits = np.log(np.array([[1.0, 3.0], [1.0, 1.0], [9.0, 1.0]], dtype=np.float32))
    items, rows = np.array([7, 7, 2]), np.array([7, 2])
    assert clip_probabilities(Taught(logits=logits), items, rows, "classes") == pytest.approx(
        np.array([[0.375, 0.625], [0.9, 0.1]])
    )
    several = clip_probabilities(Taught(logits=logits), items, rows, "several")
    assert several == pytest.approx(np.array([[0.5, 0.625], [0.9, 0.5]]))  # x / (1 + x) of each


def test_what_is_there_is_not_written_over(asked: Asked, tmp_path: Path, run: Any, tiny: DistillSettings) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(SonokitError, match="no folder of a distillation"):
        run(asked, tmp_path)
    with pytest.raises(SonokitError, match="nothing teaches"):
        distill(asked, (), tmp_path / "out", tiny, {"response": {}}, config={})
