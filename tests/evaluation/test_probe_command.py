"""``sonokit probe`` from end to end on simulated clips."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sonokit.backbones.build import build_backbone
from sonokit.backbones.folder import save_backbone
from sonokit.cli import main
from sonokit.clips.cache import CacheSettings, prepare
from sonokit.clips.manifest import read_manifest
from sonokit.clips.sampling import Sampling
from sonokit.clips.splits import read_splits
from sonokit.errors import SonokitError
from sonokit.evaluation.comparison import compare_reports
from sonokit.evaluation.embedding import embed_clips
from sonokit.evaluation.out_of_fold import fold_rows
from sonokit.evaluation.probe import LabelledClips, linear_probe
from sonokit.evaluation.probe_run import ProbeSettings, _splits


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("probe")
    run("simulate", "--out", folder / "clips", "--patients", 15, "--clips_per_patient", 1, "--seconds", 0.3, "--size", 64)
    run("split", manifest(folder), "diagnosis", "--out", folder / "splits.json", "--folds", 3, "--repeats", 1)
    return folder


@pytest.fixture(scope="module")
def report(study: Path) -> dict[str, Any]:
    run(*words(study, "test_resnet", study / "probe"), "--fine_tune", "true", "--biomarkers", "b_lines,consolidation")
    return read(study / "probe")


def run(*arguments: object) -> None:
    assert main([str(word) for word in arguments]) == 0


def manifest(study: Path) -> Path:
    return study / "clips" / "manifest.csv"


def words(study: Path, backbone: object, out: Path) -> list[object]:
    common = ["--splits", study / "splits.json", "--cache", study / "cache", "--size", 32, "--frames", 4]
    return ["probe", manifest(study), backbone, "diagnosis", "--out", out, *common]


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def saved_backbone(study: Path, name: str, **provenance: Any) -> Path:
    folder = study / name
    save_backbone(build_backbone("test_resnet", seed=4), folder, provenance=provenance)
    return folder


def hashes(study: Path) -> dict[str, str]:
    settings = CacheSettings(size=32, sampling=Sampling(frames=4))
    clips = prepare(read_manifest(manifest(study)), study / "cache", settings, progress=False)
    return dict(zip(clips.table["clip_id"], clips.table["content_hash"], strict=True))


def test_probe_command__linear_figures_are_those_of_the_functions(study: Path, report: dict[str, Any]) -> None:
    settings = CacheSettings(size=32, sampling=Sampling(frames=4))
    clips = prepare(read_manifest(manifest(study)), study / "cache", settings, progress=False)
    classes = tuple(sorted(clips.table["diagnosis"].unique()))
    ids, patients = clips.table["clip_id"].to_numpy(dtype=str), clips.manifest.patients()
    truth = np.array([classes.index(name) for name in clips.table["diagnosis"]])
    labelled = LabelledClips(ids, patients, truth, classes, np.full(len(ids), ""))
    features = embed_clips(build_backbone("test_resnet", seed=0), clips, size=32)
    expected = linear_probe(labelled, features, fold_rows(read_splits(study / "splits.json"), ids, patients))
    np.testing.assert_allclose(report["predictions"]["values"], expected.values, atol=1e-6)
    assert report["scores"]["auroc"]["value"] == pytest.approx(expected.intervals()["auroc"].value)


def test_probe_command__report_holds_floors_patients_and_readers(report: dict[str, Any]) -> None:
    assert report["data"]["patients"] == 15
    assert set(report["readers"]) == {"linear", "knn", "fine_tuned"}
    assert [floor["name"] for floor in report["floors"]] == ["most_frequent", "metadata", "random_init", "site_left_out"]
    assert "itself has random weights" in report["floors"][2]["reason"]
    assert set(np.unique(report["floors"][0]["predictions"]["values"])) == {0, 1}
    assert set(report["biomarkers"]["biomarkers"]) == {"b_lines", "consolidation"}
    assert report["readers"]["fine_tuned"]["repeats"] == 1
    assert report["readers"]["linear"]["minus_linear"]["accuracy"]["value"] == 0


def test_probe_command__table_on_standard_output(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(*words(study, "test_resnet", study / "frozen"))
    text = capsys.readouterr().out
    assert "15 clips of 15 patients" in text
    assert "whole sites left out" in text
    assert "fine-tuned" not in text
    value = read(study / "frozen")["scores"]["balanced_accuracy"]["value"]
    row = next(line for line in text.splitlines() if line.startswith("linear probe, frozen "))
    assert f"{value:.3f}" in row


def test_probe_command__again_gives_the_same_and_other_options_are_refused(
    study: Path, report: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    before = (study / "probe" / "fine-tune" / "fold-000.json").stat().st_mtime_ns
    again = [*words(study, "test_resnet", study / "probe"), "--fine_tune", "true", "--biomarkers", "b_lines,consolidation"]
    run(*again)
    assert read(study / "probe") == report
    assert (study / "probe" / "fine-tune" / "fold-000.json").stat().st_mtime_ns == before
    assert main([str(word) for word in [*again, "--seed", 1]]) == 2
    assert "other settings" in capsys.readouterr().err


def test_probe_command__two_reports_are_compared(study: Path, report: dict[str, Any]) -> None:
    run(*words(study, saved_backbone(study, "other"), study / "probe-other"))
    other = read(study / "probe-other")
    found = compare_reports(report, other, n=100)["balanced_accuracy"].value
    expected = report["scores"]["balanced_accuracy"]["value"] - other["scores"]["balanced_accuracy"]["value"]
    assert found == pytest.approx(expected)
    assert other["backbone"]["setting"] == "unseen clips"
    assert "linear" in other["floors"][2]["reader_minus_floor"]


def test_probe_command__unlabelled_pretraining_on_these_clips_is_called_transductive(study: Path) -> None:
    seen = dict(list(hashes(study).items())[:6])
    run(*words(study, saved_backbone(study, "transductive", training_clips=seen), study / "probe-transductive"))
    found = read(study / "probe-transductive")
    assert (found["backbone"]["setting"], found["backbone"]["clips_seen_unlabelled"]) == ("transductive", 6)
    assert any(note.startswith("transductive") for note in found["notes"])


@pytest.mark.parametrize("how", ["clips", "patients"])
def test_probe_command__a_backbone_that_saw_labels_of_these_clips_is_refused(
    study: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    seen = {"training_clips": {"x": next(iter(hashes(study).values()))}}
    if how == "patients":
        seen = {"training_patients": [str(pd.read_csv(manifest(study))["patient_id"][0])]}  # type: ignore[dict-item]
    folder = saved_backbone(study, f"labelled-{how}", fitted_on_labels=True, labels=["severity"], **seen)
    assert main([str(word) for word in words(study, folder, study / f"refused-{how}")]) == 2
    text = capsys.readouterr().err
    assert "labels (severity) of 1 of these clips" in text
    assert not (study / f"refused-{how}" / "report.json").exists()


def test_probe_command__labels_of_other_patients_are_no_reason_to_refuse(study: Path) -> None:
    folder = saved_backbone(
        study, "elsewhere", fitted_on_labels=True, labels=["diagnosis"], training_clips={"x": "0" * 64},
        training_patients=["somebody else"],
    )  # fmt: skip
    run(*words(study, folder, study / "probe-elsewhere"))
    assert read(study / "probe-elsewhere")["backbone"]["fitted_on_labels"] is True


def test_probe_command__does_not_write_into_another_folder(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(word) for word in words(study, "test_resnet", study / "clips")]) == 2
    assert "--out" in capsys.readouterr().err


def test_probe_command__where_and_classes_choose_the_clips(study: Path) -> None:
    table = pd.read_csv(manifest(study))
    two = sorted(table["diagnosis"].unique())[:2]
    chosen = [*words(study, "test_resnet", study / "two"), "--classes", ",".join(two)]
    run(*chosen)
    found = read(study / "two")
    assert found["classes"] == two
    assert found["data"]["clips"] == int(table["diagnosis"].isin(two).sum())


def test_splits__a_split_column_is_honoured_and_splits_that_divide_it_are_refused() -> None:
    names, patients = np.array([f"c{k:02d}" for k in range(24)]), np.repeat([f"p{k:02d}" for k in range(12)], 2)
    table = pd.DataFrame({"clip_id": names, "split": np.where(np.arange(24) < 18, "train", "test")})
    clips: Any = SimpleNamespace(table=table, manifest=SimpleNamespace(patient_column="patient_id"))
    labelled = LabelledClips(names, patients, np.arange(24) // 2 % 2, ("no", "yes"), np.full(24, ""))
    made, notes = _splits(None, clips, labelled, ProbeSettings(folds=3, repeats=1), "label")
    assert set(made.held_out) == set(names[18:])
    assert "holds 6 clips out" in notes[0]
    assert _splits(made, clips, labelled, ProbeSettings(), "label")[0] is made
    clips.table = table.drop(columns="split")
    plain, notes = _splits(None, clips, labelled, ProbeSettings(folds=3, repeats=1), "label")
    assert (plain.held_out, notes) == ((), [])
    clips.table = table
    with pytest.raises(SonokitError, match="holds 6 clips out that the splits do not"):
        _splits(plain, clips, labelled, ProbeSettings(), "label")
