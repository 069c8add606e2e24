"""``sonokit distill`` from the shell's side: what it prints, what it leaves, and how it refuses."""

import json
from pathlib import Path

import pandas as pd
import pytest
from sonokit.cli import main
from sonokit.clips.simulation.simulate import simulate
from sonokit.distill.students.folder import load_student, read_student_note
from sonokit.distill.study import distill as distill_module

QUICK = [
    *("--student", "micro-10k", "--size", "32", "--frames", "2", "--frames_per_clip", "1", "--looks", "1"),
    *("--epochs", "1", "--teacher_epochs", "1", "--folds", "2", "--device", "cpu"),
]  # fmt: skip


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate(tmp_path_factory.mktemp("clips"), patients=6, clips_per_patient=1, seconds=0.1, size=64, progress=False)


@pytest.fixture
def distill(manifest: Path):
    def run(teacher: str, label: str, out: Path, *options: str) -> int:
        place = ["--cache", str(manifest.parent / "cache"), "--out", str(out)]
        return main(["distill", str(manifest), teacher, label, *place, *QUICK, *options])

    return run


def test_a_student_a_report_and_the_same_again(distill, manifest: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(distill_module, "page", lambda report: "")  # its pictures take longer than all else
    boxes = [[clip, "lung", 5, 5, 40, 40] for clip in pd.read_csv(manifest)["clip_id"]]
    pd.DataFrame(boxes, columns=["image", "class", "x0", "y0", "x1", "y1"]).to_csv(tmp_path / "boxes.csv", index=False)
    options = ["--regions", str(tmp_path / "boxes.csv"), "--signals", "labels,response=0.5,feature_sharing,region_overlap=0.1"]
    assert distill("micro-25k", "diagnosis", tmp_path / "out", *options) == 0
    said = capsys.readouterr().out
    assert "distilled student minus student of labels alone:" in said
    assert "file metadata only" in said
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["signals"]["response"] == {"weight": 0.5}
    assert report["knowledge"]["annotated_clips"] == 6
    assert load_student(tmp_path / "out" / "student")[1].label == "diagnosis"
    before = (tmp_path / "out" / "student" / "model.safetensors").stat().st_mtime_ns
    assert distill("micro-25k", "diagnosis", tmp_path / "out", *options) == 0
    again = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {k: v for k, v in again.items() if k != "speed"} == {k: v for k, v in report.items() if k != "speed"}
    assert (tmp_path / "out" / "student" / "model.safetensors").stat().st_mtime_ns == before
    assert distill("micro-25k", "diagnosis", tmp_path / "out", *options, "--seed", "1") == 2
    assert "was begun with other settings" in capsys.readouterr().err


def test_several_columns_are_findings(distill, tmp_path: Path, capsys) -> None:
    assert distill("micro_10k", "b_lines,effusion", tmp_path / "out", "--folds", "0") == 0
    assert "not measured" in capsys.readouterr().out
    assert read_student_note(tmp_path / "out" / "student").classes == ("b_lines", "effusion")


def test_no_gpu_is_said_before_anything_is_read(distill, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert distill("micro_10k", "diagnosis", tmp_path / "out", "--device", "cuda") == 2
    assert "torch finds no GPU here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_call_is_mended_in_the_same_folder(distill, manifest: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(distill_module, "page", lambda report: "")
    (tmp_path / "s.json").write_text('{"response": {"temperatur": 4}}')
    for wrong in ("labels=-1", str(tmp_path / "s.json")):
        assert distill("micro_10k", "diagnosis", tmp_path / "out", "--folds", "0", "--signals", wrong) == 2
    assert not (tmp_path / "out").exists()
    assert distill("micro_10k", "diagnosis", tmp_path / "out", "--folds", "0") == 0
    assert any((manifest.parent / "cache" / "teachers").glob("*.safetensors"))
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "out" / "student"), "--clips", str(manifest), "--out", str(tmp_path / "p.csv")]) == 2
    assert "export it first" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("teacher", "label", "options", "told"),
    [
        ("resnet1", "diagnosis", (), "timm has no model 'resnet1'"),
        ("no/such/folder", "diagnosis", (), "there is no folder no/such/folder"),
        ("none.csv", "diagnosis", (), "There is no file none.csv"),
        ("micro_10k", "diagnosi", (), "diagnosi"),
        ("micro_10k", "diagnosis", ("--signals", "respons"), "there is no signal 'respons'"),
        ("micro_10k", "diagnosis", ("--folds", "1"), "folds must be 0"),
        ("micro_10k", "diagnosis", ("--student", "micro-11k"), "no micro network 'micro-11k'"),
        ("micro_10k", "diagnosis", ("--gaze", "g.csv", "--regions", "r.json"), "give one of them"),
        ("micro_10k", "a_lines,b_lines", ("--classes", "1"), "of findings leave them out"),
        ("micro_10k", "diagnosis", ("--patient", "nobody"), "nobody"),
        (",", "diagnosis", (), "nothing teaches"),
        ("micro_10k", "diagnosis", ("--gaze_delay", "2"), "say how --gaze is read"),
        ("micro_10k", "diagnosis", ("--degree_pixels", "5"), "say how --gaze is read"),
        ("p.csv", "diagnosis", ("--weights", "w.safetensors"), "of a teacher that is a timm name"),
        ("micro_10k", "diagnosis", ("--teacher_size", "16"), "teacher_size 16 is smaller than size 32"),
        ("micro_10k", "diagnosis", ("--learning_rate", "0"), "learning_rate must be a number above 0"),
        ("micro_10k", ",", (), "no label"),
    ],
)
def test_refusals_say_why(distill, tmp_path: Path, capsys, teacher, label, options, told) -> None:
    assert distill(teacher, label, tmp_path / "out", *options) == 2
    said = capsys.readouterr().err
    assert said.count("sonokit distill: error:") == 1
    assert told in said.partition("sonokit distill: error:")[2]
    assert "Traceback" not in said
    assert not (tmp_path / "out" / "student").exists()
