"""The whole road through the command line, with broken clips lying on it."""

import hashlib
import shutil
from pathlib import Path

import av
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from sonokit.cli import main

PATIENTS = 15


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulated clips, four broken or odd ones among them, and everything that the commands make of them."""
    folder = tmp_path_factory.mktemp("study")
    clips = folder / "clips"
    run("simulate", "--out", clips, "--patients", PATIENTS, "--clips_per_patient", 1, "--seconds", 0.5, "--size", 96)
    table = pd.read_csv(clips / "manifest.csv", dtype=str)
    odd = [truncated(clips, table), one_frame(clips), clips / "empty.mp4", clips / "text.mp4"]
    (clips / "empty.mp4").touch()
    (clips / "text.mp4").write_text("this is not a film\n" * 100)
    rows = [{"path": file.name, "clip_id": file.stem, "patient_id": f"odd-{file.stem}", "probe": "convex"} for file in odd]
    pd.concat([table, pd.DataFrame(rows)]).to_csv(clips / "manifest.csv", index=False)
    drive(folder)
    return folder


def run(*words: object) -> None:
    assert main([str(word) for word in words]) == 0


def drive(folder: Path) -> None:
    """Every command once, as small as it goes."""
    manifest, cache = folder / "clips" / "manifest.csv", ("--cache", folder / "cache")
    small = ("--size", 32, "--frames", 8)
    brief = ("--backbone", "resnet10t", "--epochs", 2, "--batch_size", 8)
    run("split", manifest, "diagnosis", "--out", folder / "splits.json", "--folds", 3, "--repeats", 1)
    run("prepare", manifest, *cache, *small)
    run("pretrain", manifest, "--out", folder / "backbone", *brief, *cache, *small)
    run(
        "train-biomarkers", manifest, "--out", folder / "extractor", "--backbone", folder / "backbone", "--biomarkers",
        "b_lines,consolidation", "--splits", folder / "splits.json", "--epochs", 2, *cache, *small,
    )  # fmt: skip
    run("extract-features", manifest, folder / "extractor", "--out", folder / "store", "--floor", "true", *cache)
    run("fit-expert", folder / "store", "diagnosis", "--out", folder / "expert")
    run("predict", folder / "expert", "--out", folder / "predictions.csv", "--store", folder / "store")


def truncated(clips: Path, table: pd.DataFrame) -> Path:
    """The first half of an avi's bytes."""
    whole = next(clips / path for path in table["path"] if path.endswith(".avi"))
    half = clips / "truncated.avi"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    return half


def one_frame(clips: Path) -> Path:
    file = clips / "one-frame.mp4"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        picture = np.tile(np.arange(64, dtype=np.uint8)[None, :, None] * 3, (48, 1, 3))
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return file


def fingerprints(folder: Path) -> dict[str, str]:
    """SHA-256 of what a run must make the same each time."""
    files = [*folder.glob("*/model.safetensors"), *folder.glob("extractor/*/head.safetensors"), *folder.glob("store/*/rows/*")]
    files += [folder / "splits.json", folder / "predictions.csv", folder / "expert" / "report.json"]
    return {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_road__what_cannot_be_decoded_is_listed_and_stops_nothing(study: Path) -> None:
    rejected = pd.read_csv(study / "store" / "rejected.csv").set_index("clip_id")["reason"]
    assert set(rejected.index) == {"empty", "text"}
    assert all(rejected.str.len() > 10)
    stored = pq.read_table(study / "store" / "final" / "rows").to_pandas()
    assert stored["clip_id"].nunique() == PATIENTS + 2
    assert (stored["clip_id"] == "one-frame").sum() == 1


def test_road__a_truncated_clip_is_reported(
    study: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    run("prepare", study / "clips" / "manifest.csv", "--cache", study / "cache", "--size", 32, "--frames", 8)
    assert "truncated" in capsys.readouterr().err + caplog.text


def test_road__every_clip_of_the_store_is_predicted(study: Path) -> None:
    table = pd.read_csv(study / "predictions.csv")
    assert len(table) == PATIENTS + 2
    np.testing.assert_allclose(table.filter(regex="^p_").sum(axis=1), 1, atol=1e-6)


def test_road__labels_travel_with_the_rows(study: Path) -> None:
    manifest = pd.read_csv(study / "clips" / "manifest.csv").set_index("clip_id")
    stored = pq.read_table(study / "store" / "final" / "rows").to_pandas().drop_duplicates("clip_id").set_index("clip_id")
    known = manifest.loc[stored.index]
    for name in ("diagnosis", "severity", "sf_ratio", "b_lines"):
        pd.testing.assert_series_equal(stored[name], known[name], check_dtype=False)


def test_road__the_same_commands_again_change_nothing(study: Path) -> None:
    before = fingerprints(study)
    drive(study)
    assert fingerprints(study) == before


def test_road__elsewhere_the_same_seed_makes_the_same(study: Path, tmp_path: Path) -> None:
    shutil.copytree(study / "clips", tmp_path / "clips")
    drive(tmp_path)
    mine, theirs = fingerprints(study), fingerprints(tmp_path)
    weights = [name for name in mine if name.endswith(".safetensors") or name in ("splits.json", "predictions.csv")]
    assert len(weights) >= 6
    assert {name: theirs[name] for name in weights} == {name: mine[name] for name in weights}


def test_road__config_file_repeats_a_command(study: Path, tmp_path: Path) -> None:
    run("pretrain", "--config", study / "backbone" / "config.yaml", "--out", tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (study / "backbone" / "model.safetensors").read_bytes()


def test_predict__from_a_folder_equals_from_the_store(study: Path, tmp_path: Path) -> None:
    run(
        "predict", study / "expert", "--out", tmp_path / "new.csv", "--clips", study / "clips", "--model",
        study / "extractor" / "final", "--cache", study / "cache",
    )  # fmt: skip
    new = pd.read_csv(tmp_path / "new.csv").set_index("clip_id").drop(columns="prediction")
    new.index = new.index.str.removeprefix("clips/")
    banked = pd.read_csv(study / "predictions.csv").set_index("clip_id").drop(columns="prediction")
    pd.testing.assert_frame_equal(new.loc[banked.index], banked, atol=1e-4)


def test_search__leaves_out_the_query_and_its_patient(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    query = pd.read_csv(study / "clips" / "manifest.csv")["clip_id"][0]
    run("search", study / "store", query, "--k", 3)
    lines = capsys.readouterr().out.strip().splitlines()
    assert len(lines) == 4
    assert not any(query in line.split() for line in lines)


def test_fit_expert__a_final_store_alone_is_refused(study: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    words = ["fit-expert", study / "store" / "final", "diagnosis", "--out", tmp_path / "expert"]
    assert main([str(word) for word in words]) == 2
    assert "--splits" in capsys.readouterr().err


def test_fit_expert__unknown_label_names_those_that_exist(
    study: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["fit-expert", str(study / "store"), "diagnose", "--out", str(tmp_path / "expert")]) == 2
    text = capsys.readouterr().err
    assert "diagnosis" in text
    assert "Traceback" not in text


def test_split__does_not_write_over_another_file(study: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    manifest = tmp_path / "manifest.csv"
    shutil.copy(study / "clips" / "manifest.csv", manifest)
    before = manifest.read_bytes()
    assert main(["split", str(manifest), "diagnosis", "--folds", "3", "--out", str(manifest)]) == 2
    assert manifest.read_bytes() == before
    assert "--out" in capsys.readouterr().err


def test_predict__does_not_write_over_another_file(study: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("clip_id,diagnosis\na,normal\n")
    assert main(["predict", str(study / "expert"), "--out", str(labels), "--store", str(study / "store")]) == 2
    assert "normal" in labels.read_text()
    assert "--out" in capsys.readouterr().err


def test_extract_features__does_not_write_into_an_expert(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest, backbone, expert = (str(study / name) for name in ("clips/manifest.csv", "backbone", "expert"))
    before = sorted((study / "expert").iterdir())
    words = ["extract-features", manifest, backbone, "--out", expert, "--cache", str(study / "cache")]
    assert main([*words, "--size", "32", "--frames", "8"]) == 2
    assert sorted((study / "expert").iterdir()) == before
    assert "no store" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["resnet10tt", "runs/nowhere"])
def test_extract_features__a_wrong_model_is_told_before_decoding(
    study: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str
) -> None:
    words = ["extract-features", str(study / "clips" / "manifest.csv"), model, "--out", str(tmp_path / "store")]
    assert main([*words, "--cache", str(tmp_path / "cache")]) == 2
    assert model in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()
