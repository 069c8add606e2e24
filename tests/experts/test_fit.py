import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.metrics import balanced_accuracy_score
from sonokit.clips.splits import make_splits
from sonokit.errors import SonokitError
from sonokit.evaluation.comparison import compare_reports
from sonokit.experts.fit import fit_expert
from sonokit.experts.folder import load_expert
from sonokit.experts.predict import predict
from sonokit.experts.report import report_table
from sonokit.features.store import EmbeddingStore

QUICK: dict[str, Any] = {"folds": 3, "repeats": 2, "draws": 100}


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def fitted(store: EmbeddingStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit_expert(store, "diagnosis", tmp_path_factory.mktemp("fitted") / "expert", config={"seed": 0}, **QUICK)


@pytest.fixture
def expert(fitted: Path, tmp_path: Path) -> Path:
    """A fitted expert in another place, as if it had been moved there."""
    return Path(shutil.copytree(fitted, tmp_path / "moved" / "expert"))


def test_fit_expert__report_holds_every_figure_and_its_floors(expert: Path) -> None:
    report = read(expert)
    assert report["primary"] == "balanced_accuracy"
    assert (report["data"]["clips"], report["data"]["patients"], report["data"]["sites"]) == (60, 30, 3)
    assert (report["data"]["folds"], report["data"]["repeats"], report["data"]["split_unit"]) == (3, 2, "patient_id")
    assert report["store"]["fingerprint"] == "0123456789abcdef"
    for figure in report["scores"].values():
        assert figure["low"] <= figure["value"] <= figure["high"]
    floors = {floor["name"]: floor for floor in report["floors"]}
    assert list(floors) == ["most_frequent", "metadata", "random_init", "site_left_out"]
    assert all("scores" in floor for floor in floors.values())
    assert report["scores"]["balanced_accuracy"]["value"] > 0.95
    assert floors["random_init"]["scores"]["balanced_accuracy"]["value"] < 0.6
    assert floors["random_init"]["expert_minus_floor"]["balanced_accuracy"]["low"] > 0
    assert np.sum(report["confusion"]) == pytest.approx(60)


def test_fit_expert__scores_follow_from_the_kept_predictions(expert: Path) -> None:
    report = read(expert)
    truth, values = np.array(report["predictions"]["truth"]), np.array(report["predictions"]["values"])
    by_hand = np.mean([balanced_accuracy_score(truth, value.argmax(axis=1)) for value in values])
    assert report["scores"]["balanced_accuracy"]["value"] == pytest.approx(by_hand)
    assert compare_reports(report, report, n=20)["accuracy"].value == 0


def test_fit_expert__same_inputs_same_bytes_and_a_rerun_replaces(expert: Path, store: EmbeddingStore) -> None:
    before = {name: (expert / name).read_bytes() for name in ("report.json", "report.html", "CARD.md", "expert.json")}
    assert fit_expert(store, "diagnosis", expert, config={"seed": 0}, **QUICK) == expert
    assert all((expert / name).read_bytes() == content for name, content in before.items())
    assert not [path for path in expert.parent.iterdir() if path.name.startswith(".tmp")]


def test_fit_expert__other_settings_or_a_foreign_folder_are_refused(
    expert: Path, store: EmbeddingStore, tmp_path: Path
) -> None:
    with pytest.raises(SonokitError, match="seed: 0 there, 1 now"):
        fit_expert(store, "diagnosis", expert, seed=1, config={"seed": 1}, **QUICK)
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with pytest.raises(SonokitError, match="no expert folder"):
        fit_expert(store, "diagnosis", tmp_path / "thesis", **QUICK)
    assert (tmp_path / "thesis" / "chapter1.txt").exists()


def test_fit_expert__config_repeats_the_run(store: EmbeddingStore, tmp_path: Path) -> None:
    expert = fit_expert(store, "diagnosis", tmp_path / "e", **QUICK)
    config = yaml.safe_load((expert / "config.yaml").read_text())
    assert (config["label"], config["heads"], config["folds"], config["store"]) == (
        "diagnosis",
        ["linear"],
        3,
        str(store.folder),
    )
    assert (expert / "environment.json").exists()


def test_fit_expert__table_and_card_and_page_read(expert: Path) -> None:
    report = read(expert)
    table, card, page = report_table(report), (expert / "CARD.md").read_text(), (expert / "report.html").read_text()
    for title in ("most frequent class", "file metadata only", "random-initialised network", "whole sites left out"):
        assert title in table
        assert title in card
        assert title in page
    assert "60 clips of 30 patients at 3 sites" in table
    assert "Intended use" in card
    assert page.count("data:image/png;base64,") == 9
    assert "http" not in page  # self-contained
    assert max(map(len, table.splitlines())) < 180


@pytest.mark.parametrize(("label", "task"), [("severity", "ordinal"), ("ratio", "regression"), ("binary", "classification")])
def test_fit_expert__other_tasks(label: str, task: str, store: EmbeddingStore, tmp_path: Path) -> None:
    folder = fit_expert(store, label, tmp_path / "e", **QUICK)
    report = read(folder)
    assert report["task"] == task
    assert report["by_repeat_mean"][report["primary"]] == pytest.approx(report["scores"][report["primary"]]["value"])
    assert (folder / "report.html").read_text().count("data:image/png") == (5 if task == "regression" else 9)
    if task == "regression":
        assert "spearman" not in report["floors"][0]["scores"]
        assert report["scores"]["spearman"]["value"] > 0.7
    assert report_table(report)


def test_fit_expert__auto_says_what_was_chosen(store: EmbeddingStore, tmp_path: Path) -> None:
    report = read(fit_expert(store, "diagnosis", tmp_path / "e", heads=("linear", "xgboost"), **QUICK))
    assert sum(report["chosen_in_folds"].values()) == 6
    assert report["head"] in ("linear", "xgboost")


def test_fit_expert__floor_that_is_not_there_says_so(write: Any, clips: pd.DataFrame, embedding: Any, tmp_path: Path) -> None:
    bare = write(tmp_path / "bare", clips, embedding(clips, 1.0))
    report = read(fit_expert(bare, "diagnosis", tmp_path / "e", **QUICK))
    assert "not measured" in report["floors"][2]["reason"]
    assert "not measured" in report_table(report)


def test_fit_expert__held_out_labels_and_features_change_nothing_that_is_kept(
    write: Any, clips: pd.DataFrame, embedding: Any, tmp_path: Path
) -> None:
    patients = clips["patient_id"].to_numpy(dtype=str)
    splits = make_splits(clips, patients, label="diagnosis", patient_column="patient_id", folds=3, held_out=0.3)
    held_out, values = clips["clip_id"].isin(splits.held_out).to_numpy(), embedding(clips, 1.0)
    other = clips.assign(diagnosis=clips["diagnosis"].mask(held_out, "normal"))
    spoilt = np.where(held_out[:, None, None], 1000 * values, values)
    heads = ("linear", "xgboost")  # the choice between them is fitted too
    kept = []
    for name, table, embeddings in (("a", clips, values), ("b", other, spoilt)):
        store = write(tmp_path / f"store-{name}", table, embeddings)
        out = fit_expert(store, "diagnosis", tmp_path / name, splits=splits, heads=heads, draws=20)
        report = read(out)
        kept.append([predict(out, store)[~held_out].to_numpy().tolist(), report["scores"], report["chosen_in_folds"]])
    assert kept[0] == kept[1]


def test_fit_expert__clip_as_patient_is_reported(write: Any, clips: pd.DataFrame, embedding: Any, tmp_path: Path) -> None:
    store = write(tmp_path / "s", clips.drop(columns="patient_id"), embedding(clips, 1.0))
    with pytest.raises(SonokitError, match="--patient clip_id"):
        fit_expert(store, "diagnosis", tmp_path / "e", **QUICK)
    report = read(fit_expert(store, "diagnosis", tmp_path / "e", patient="clip_id", **QUICK))
    assert report["data"]["split_unit"] == "clip_id"
    assert any("not by patient" in note for note in report["notes"])


def test_predict__probabilities_and_names(expert: Path, store: EmbeddingStore) -> None:
    found = predict(expert, store)
    assert list(found)[:6] == ["clip_id", "prediction", "p_covid19", "p_normal", "p_pneumonia", "set"]
    assert list(found)[6:] == [
        f"{name} at {fixed} 0.9" for name in ("covid19", "normal", "pneumonia") for fixed in ("specificity", "sensitivity")
    ]
    assert all(set(names.split("|")) <= {"", "covid19", "normal", "pneumonia"} for names in found["set"])
    np.testing.assert_allclose(found.iloc[:, 2:5].sum(axis=1), 1, atol=1e-6)  # of seven digits each
    truth = store.frame().drop_duplicates("clip_id").set_index("clip_id")["diagnosis"]
    assert (found.set_index("clip_id")["prediction"] == truth).mean() > 0.98
    pd.testing.assert_frame_equal(found, predict(load_expert(expert), store))


def test_predict__regression(store: EmbeddingStore, tmp_path: Path) -> None:
    found = predict(fit_expert(store, "ratio", tmp_path / "e", **QUICK), store)
    assert list(found) == ["clip_id", "prediction", "low", "high"]
    assert (found["low"] < found["prediction"]).all()
    assert found["prediction"].between(150, 500).all()


def test_predict__store_of_another_extractor_is_refused_by_both_names(expert: Path, store: EmbeddingStore) -> None:
    assert store.floor is not None
    with pytest.raises(SonokitError, match=r"0123456789abcdef.*f100f100f100f100"):
        predict(expert, store.floor)


def test_load_expert__what_it_is_not(tmp_path: Path, expert: Path) -> None:
    with pytest.raises(SonokitError, match="fit-expert makes one"):
        load_expert(tmp_path / "nothing")
    (expert / "expert.json").write_text('{"schema_version": 99}')
    with pytest.raises(SonokitError, match="update sonokit"):
        load_expert(expert)
    (expert / "expert.json").write_text("{")
    with pytest.raises(SonokitError, match="damaged"):
        load_expert(expert)


def test_fit_and_predict__need_no_torch(store: EmbeddingStore, tmp_path: Path) -> None:
    code = (
        "import sys; from sonokit.features.store import EmbeddingStore; from sonokit.experts.fit import fit_expert; "
        "from sonokit.experts.predict import predict; store = EmbeddingStore.open(sys.argv[1]); "
        "predict(fit_expert(store, 'diagnosis', sys.argv[2], folds=2, repeats=1, draws=10), store); "
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(store.folder), str(tmp_path / "e")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
