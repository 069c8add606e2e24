"""The second room as a user walks through it: train-biomarkers, extract-features, search, explain, by their commands."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sonokit.cli import main
from sonokit.features.store import EmbeddingStore

TINY = ["--size", "48", "--frames", "4"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with clips, an extractor set and a store set, made by the commands."""
    folder = tmp_path_factory.mktemp("features")
    clips, cache = str(folder / "clips"), str(folder / "cache")
    manifest = f"{clips}/manifest.csv"
    run("simulate", "--out", clips, "--patients", "6", "--clips_per_patient", "1", "--seconds", "0.5", "--size", "64")
    run("split", manifest, "consolidation", "--out", str(folder / "splits.json"), "--folds", "2", "--repeats", "1")
    trained = ["--backbone", "test_resnet", "--biomarkers", "b_lines,consolidation", "--segments", "2", "--epochs", "2"]
    run("train-biomarkers", manifest, "--out", str(folder / "extractor"), "--splits", str(folder / "splits.json"),
        "--cache", cache, *TINY, *trained)  # fmt: skip
    run("extract-features", manifest, str(folder / "extractor"), "--out", str(folder / "store"), "--cache", cache)
    return folder


def run(*words: str) -> None:
    """A command that must succeed."""
    assert main([str(word) for word in words]) == 0, words


def test_search__a_clips_file_answers_as_the_clip_itself_does(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = pd.read_csv(place / "clips" / "manifest.csv")
    file, name = place / "clips" / manifest["path"][0], manifest["clip_id"][0]
    run("search", place / "store", name, "--k", "3")
    by_name = capsys.readouterr().out
    run("search", place / "store", file, "--model", place / "extractor", "--k", "3", "--cache", place / "cache")
    assert capsys.readouterr().out.splitlines() == by_name.splitlines()  # its content is in the store: asked about by name


def test_search__a_new_file_is_compared_by_the_stores_extractor(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = pd.read_csv(place / "clips" / "manifest.csv")
    fewer = tmp_path / "fewer.csv"  # the same clips but the first
    manifest.assign(path=[str(place / "clips" / p) for p in manifest["path"]]).iloc[1:].to_csv(fewer, index=False)
    model, cache = place / "extractor" / "final", place / "cache"
    run("extract-features", fewer, model, "--out", tmp_path / "store", "--cache", cache)
    capsys.readouterr()
    page = tmp_path / "page.html"
    file = place / "clips" / manifest["path"][0]
    run("search", tmp_path / "store", file, "--model", model, "--k", "5", "--cache", cache, "--gallery", page)
    told = capsys.readouterr().out.splitlines()[1:6]
    whole = EmbeddingStore.open(place / "store" / "final")
    rows, frame = whole.embeddings()[0].astype(np.float64), whole.frame(["clip_id"])
    units = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    own = (frame["clip_id"] == manifest["clip_id"][0]).to_numpy()
    direction = units[own].mean(axis=0)
    similar = pd.Series(units[~own] @ (direction / np.linalg.norm(direction)), index=frame["clip_id"][~own])
    best = similar.groupby(level=0).max().sort_values(ascending=False)
    assert [line.split()[1] for line in told] == best.index.tolist()
    np.testing.assert_allclose([float(line.split()[3]) for line in told], best.to_numpy(), atol=1e-5)
    assert file.stem in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["search", "STORE", "FILE"], "say --model"),
        (["search", "STORE", "nowhere.mp4", "--model", "EXTRACTOR"], "no file nowhere.mp4"),
        (["search", "STORE", "CLIP", "--where", "site=a,site=b"], "names site more than once"),
        (["extract-features", "MANIFEST", "EXTRACTOR", "--out", "elsewhere", "--ray_workers", "2"], "ray_workers"),
        (["extract-features", "MANIFEST", "EXTRACTOR", "--out", "x", "--engine", "ray", "--ray_workers", "0"], "ray_workers"),
        (["explain", "FILE", "STORE"], "extractor"),
    ],
)  # fmt: skip
def test_faults_are_told_in_a_line(words: list[str], told: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = pd.read_csv(place / "clips" / "manifest.csv")
    known = {
        "STORE": place / "store", "EXTRACTOR": place / "extractor", "MANIFEST": place / "clips" / "manifest.csv",
        "FILE": place / "clips" / manifest["path"][0], "CLIP": manifest["clip_id"][0],
    }  # fmt: skip
    assert main([str(known.get(word, word)) for word in words]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "Traceback" not in error


def test_extract__into_a_url_and_search_there(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = "memory://bank/store"
    run("extract-features", place / "clips" / "manifest.csv", place / "extractor" / "final", "--out", url,
        "--cache", place / "cache")  # fmt: skip
    assert not Path("memory:").exists()
    name = pd.read_csv(place / "clips" / "manifest.csv")["clip_id"][0]
    capsys.readouterr()
    run("search", url, name, "--k", "3")
    there = capsys.readouterr().out
    run("search", place / "store" / "final", name, "--k", "3")
    assert capsys.readouterr().out == there


def test_explain__says_what_the_store_says(place: Path, tmp_path: Path) -> None:
    manifest = pd.read_csv(place / "clips" / "manifest.csv")
    run("explain", place / "clips" / manifest["path"][0], place / "extractor" / "final", "--out", tmp_path / "seen",
        "--checks", "false")  # fmt: skip
    told = json.loads((tmp_path / "seen" / "explanation.json").read_text(encoding="utf-8"))
    frame = EmbeddingStore.open(place / "store" / "final").frame()
    banked = frame.loc[frame["clip_id"] == manifest["clip_id"][0], ["p_b_lines", "p_consolidation"]].to_numpy()
    found = np.array([[segment["b_lines"], segment["consolidation"]] for segment in told["segments"]])
    np.testing.assert_allclose(found, banked, atol=1e-4)


def test_output__into_a_pipe_that_closes_is_no_fault(place: Path) -> None:
    command = f"{sys.executable} -c 'from sonokit.cli import main; import sys; sys.exit(main())' store info {place / 'store'}"
    done = subprocess.run(
        ["bash", "-c", f"{command} | true; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 141)
