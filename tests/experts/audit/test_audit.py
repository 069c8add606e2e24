from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sonokit.clips.splits import make_splits
from sonokit.errors import SonokitError
from sonokit.experts.audit import AuditReport, audit
from sonokit.features.store import EmbeddingStore, StoreSet

QUICK: dict[str, Any] = {"folds": 3, "repeats": 2, "draws": 200, "permutations": 399}


def planted(seed: int, shortcut: bool, patients: int = 36) -> tuple[pd.DataFrame, np.ndarray]:
    """Two clips a patient; the embedding tells the diagnosis faintly and the site loudly, which goes by it or not."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(patients), 2)
    code = np.arange(patients) % 3
    site = (
        np.where(rng.random(patients) < 0.9, code, rng.integers(0, 3, patients)) if shortcut else np.arange(patients) // 3 % 3
    )
    clips = pd.DataFrame(
        {
            "clip_id": [f"clip-{k:03d}" for k in range(len(owner))],
            "content_hash": [f"{k:016x}" for k in range(len(owner))],
            "patient_id": [f"p{k:02d}" for k in owner],
            "site": np.array(["north", "south", "west"])[site[owner]],
            "probe": rng.choice(["linear", "convex"], patients)[owner],
            "container": rng.choice(["mp4", "avi"], patients)[owner],
            "frame_rate": rng.choice([25.0, 30.0], patients)[owner],
            "diagnosis": np.array(["covid19", "normal", "pneumonia"])[code[owner]],
        }
    )
    values = rng.normal(size=(len(owner), 3, 12))
    values[:, :, :3] += 1.5 * np.eye(3)[code[owner]][:, None]
    values[:, :, 3:6] += 5 * np.eye(3)[site[owner]][:, None]
    return clips, values.astype(np.float32)


@pytest.fixture(scope="module")
def found(store: EmbeddingStore) -> AuditReport:
    return audit(store, "diagnosis", **QUICK)


@pytest.mark.parametrize("seed", range(3))
def test_audit__names_a_planted_site_shortcut(seed: int, write: Any, tmp_path: Path) -> None:
    report = audit(write(tmp_path / "s", *planted(seed, shortcut=True)), "diagnosis", **QUICK)
    assert report.level == "stop"
    assert report.sentence.startswith("The site tells the diagnosis")
    assert report.finding("site").level == "stop"
    assert report.finding("site").figures["read_balanced_accuracy"]["low"] > 0.8


@pytest.mark.parametrize("seed", range(3))
def test_audit__does_not_name_a_site_that_is_told_but_does_not_tell(seed: int, write: Any, tmp_path: Path) -> None:
    report = audit(write(tmp_path / "s", *planted(seed, shortcut=False)), "diagnosis", **QUICK)
    assert report.level in ("fine", "look")
    assert "site" not in report.sentence
    assert report.finding("site").level == "fine"
    assert report.finding("site").figures["read_balanced_accuracy"]["low"] > 0.8


def test_audit__a_column_that_tells_the_label_but_not_the_embedding_is_to_look_at(write: Any, tmp_path: Path) -> None:
    clips, values = planted(0, shortcut=False)
    clips["container"] = clips["diagnosis"].map({"normal": "mp4", "covid19": "avi", "pneumonia": "avi"})
    values[:] = np.random.default_rng(9).normal(size=values.shape)  # tells nothing
    report = audit(write(tmp_path / "s", clips, values), "diagnosis", **QUICK)
    assert report.finding("container").level == "look"
    assert "not shown to tell it" in report.finding("container").reason
    assert report.finding("label").level == "look"
    assert report.finding("metadata").level == "stop"  # the file predicts, and the embedding does no better
    assert report.level == "stop"


def test_audit__leaks_are_stops_that_the_verdict_names(write: Any, clips: pd.DataFrame, embedding: Any, tmp_path: Path) -> None:
    copied, values = clips.copy(), embedding(clips, 1.0)
    copied.loc[59, "content_hash"] = copied.loc[0, "content_hash"]
    values[59] = values[0]
    copied["extractor_trained_on"] = np.arange(60) < 4
    by_clip = make_splits(clips, clips["clip_id"].to_numpy(dtype=str), label="diagnosis", patient_column="clip_id", folds=3)
    store = write(tmp_path / "s", copied, values)
    report = audit(store, "diagnosis", splits=by_clip, patient="patient_id", **QUICK)
    assert {name: report.finding(name).level for name in ("same_content", "splits", "extractor", "near_duplicates")} == {
        "same_content": "stop", "splits": "stop", "extractor": "stop", "near_duplicates": "look",
    }  # fmt: skip
    assert {"similarity": "1.0000", "clip": "clip-000", "patient": "p00", "other clip": "clip-059", "other patient": "p29"} in (
        report.finding("near_duplicates").rows
    )
    assert "no score on these rows counts" in report.sentence
    assert report.finding("label").level == "not measured"  # no score is taken of what cannot be fair


def test_audit__shuffled_labels_are_not_called_learnt(write: Any, tmp_path: Path) -> None:
    clips, values = planted(1, shortcut=False)
    shuffled = np.random.default_rng(0).permutation(clips["diagnosis"].to_numpy()[::2]).repeat(2)
    report = audit(write(tmp_path / "s", clips.assign(diagnosis=shuffled), values), "diagnosis", **QUICK)
    assert report.finding("label").level == "look"
    assert report.finding("site").level == "fine"


def test_audit__held_out_labels_change_nothing(write: Any, tmp_path: Path) -> None:
    clips, values = planted(2, shortcut=False)
    patients = clips["patient_id"].to_numpy(dtype=str)
    splits = make_splits(clips, patients, label="diagnosis", patient_column="patient_id", folds=3, held_out=0.3)
    held_out = clips["clip_id"].isin(splits.held_out)
    other = clips.assign(diagnosis=clips["diagnosis"].mask(held_out, "normal"))
    reports = [
        audit(write(tmp_path / name, table, values), "diagnosis", splits=splits, **QUICK).content
        for name, table in (("a", clips), ("b", other))
    ]
    assert reports[0] == reports[1]
    assert any("stay closed" in note for note in reports[0]["notes"])
    assert {found["name"]: found["level"] for found in reports[0]["findings"]}["splits"] == "fine"


def test_audit__splits_that_divide_what_a_column_holds_out_are_refused(write: Any, tmp_path: Path) -> None:
    clips, values = planted(2, shortcut=False)
    patients = clips["patient_id"].to_numpy(dtype=str)
    splits = make_splits(clips, patients, label="diagnosis", patient_column="patient_id", folds=3)
    store = write(tmp_path / "s", clips.assign(split=np.where(np.arange(len(clips)) < 12, "test", "train")), values)
    with pytest.raises(SonokitError, match="holds 12 clips out that the splits do not"):
        audit(store, "diagnosis", splits=splits, **QUICK)


@pytest.mark.parametrize(("label", "task"), [("severity", "ordinal"), ("ratio", "regression"), ("binary", "classification")])
def test_audit__other_tasks(label: str, task: str, store: EmbeddingStore) -> None:
    report = audit(store, label, **QUICK)
    assert report.content["task"] == task
    assert report.finding("label").level == "fine"
    assert report.finding("label").figures["over_most_frequent"]["low"] > 0
    assert (report.finding("label_noise").level == "not measured") == (task == "regression")
    assert len(report.content["tables"]["site"]["classes"]) == (2 if label == "binary" else 3)


def test_audit__store_set_is_judged_fold_by_fold(write: Any, clips: pd.DataFrame, embedding: Any, tmp_path: Path) -> None:
    splits = make_splits(
        clips, clips["patient_id"].to_numpy(dtype=str), label="diagnosis", patient_column="patient_id", folds=3
    )
    values = embedding(clips, 1.0)
    stores = [
        write(tmp_path / f"fold-{k}", clips.assign(extractor_trained_on=~clips["clip_id"].isin(fold.test)), values)
        for k, fold in enumerate(splits.folds)
    ]
    final = write(tmp_path / "final", clips.assign(extractor_trained_on=True), values)
    report = audit(StoreSet(tmp_path, splits, stores, final, None), "diagnosis", **QUICK)
    assert report.finding("extractor").level == "fine"
    assert report.finding("label").level == "fine"
    assert "every site" in report.finding("sites_left_out").reason
    swapped = audit(StoreSet(tmp_path, splits, [stores[1], stores[0], stores[2]], final, None), "diagnosis", **QUICK)
    assert swapped.finding("extractor").level == "stop"


def test_audit__many_clips_are_drawn_by_patient(store: EmbeddingStore, found: AuditReport) -> None:
    part = audit(store, "diagnosis", most_clips=40, **QUICK)
    assert (part.content["data"]["clips"], part.content["data"]["fitted_clips"]) == (60, 40)
    assert any("20 patients drawn at random" in note for note in part.content["notes"])
    assert part.finding("site").figures["cramers_v"] == found.finding("site").figures["cramers_v"]  # of all clips


def test_audit__same_seed_same_report_and_floors(store: EmbeddingStore, found: AuditReport) -> None:
    assert audit(store, "diagnosis", **QUICK).content == found.content
    assert [floor["name"] for floor in found.content["scores"]["floors"]] == [
        "most_frequent", "metadata", "random_init", "site_left_out",
    ]  # fmt: skip
    assert found.finding("random_init").level == "fine"


def test_audit__table_reads(found: AuditReport) -> None:
    table = found.table()
    assert "audit of diagnosis (covid19, normal, pneumonia): 60 clips of 30 patients at 3 sites" in table
    assert all(finding.title in table for finding in found.findings)
    assert table.splitlines()[-1] in found.sentence or found.sentence.endswith(table.splitlines()[-1])
    assert max(map(len, table.splitlines())) <= 118
