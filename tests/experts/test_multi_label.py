import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score
from sonokit.errors import SonokitError
from sonokit.evaluation.bootstrap import draw_patients
from sonokit.evaluation.predictions import Predictions, predictions_from_dict
from sonokit.experts.fit import fit_expert
from sonokit.experts.folder import MultiExpert, load_expert
from sonokit.experts.multi_label import macro_draws
from sonokit.experts.report import read_report, report_table
from sonokit.experts.settings import FitSettings
from sonokit.experts.study import prepare
from sonokit.features.store import EmbeddingStore

QUICK: dict[str, Any] = {"folds": 3, "repeats": 2, "draws": 40}


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages are looked at elsewhere; drawing them is most of a small fit's time."""
    monkeypatch.setattr("sonokit.experts.fit.page", lambda report: "")


def predicted(patients: np.ndarray, seed: int, repeats: int = 2) -> Predictions:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, len(patients))
    positive = np.round(rng.random((repeats, len(patients))) * 0.6 + 0.3 * truth, 2)  # with ties
    ids = np.array([f"{seed}-{k}" for k in range(len(patients))])
    return Predictions("classification", ("0", "1"), ids, patients, truth, np.stack([1 - positive, positive], axis=-1))


def test_macro_draws__equal_a_plain_bootstrap_that_repeats_rows() -> None:
    """Labels of partly different patients: each resample draws from all patients, once for all labels."""
    rng = np.random.default_rng(5)
    people = np.array([f"p{k:02d}" for k in range(14)])
    labels = {"first": predicted(rng.choice(people[:11], 40), 1), "second": predicted(rng.choice(people[4:], 25), 2)}
    drawn, names = macro_draws(labels, n=30, seed=3)
    everyone = np.unique(np.concatenate([found.patients for found in labels.values()]))
    assert names.tolist() == everyone.tolist()
    counts, _ = draw_patients(everyone, 30, 3)
    for draw, count in enumerate(counts):
        times = dict(zip(everyone, count, strict=True))
        areas, hits = [], []
        for found in labels.values():
            rows = np.repeat(np.arange(len(found.truth)), [times[name] for name in found.patients])
            if len(set(found.truth[rows])) == 2:
                areas.append(np.mean([roc_auc_score(found.truth[rows], values[rows, 1]) for values in found.values]))
            hits.append(np.mean([accuracy_score(found.truth[rows], values[rows].argmax(axis=1)) for values in found.values]))
        assert drawn["auroc"][draw] == pytest.approx(np.mean(areas))
        assert drawn["accuracy"][draw] == pytest.approx(np.mean(hits))


def test_macro_draws__the_same_label_twice_is_that_label() -> None:
    found = predicted(np.repeat([f"p{k}" for k in range(9)], 3), 4)
    drawn, _ = macro_draws({"a": found, "b": found}, n=50, seed=1)
    alone = found.draws(50, 1)
    for name, values in alone.items():
        np.testing.assert_allclose(drawn[name], values)


@pytest.fixture(scope="module")
def signs(store: EmbeddingStore) -> pd.DataFrame:
    """Three labels by clip: one of all clips, one of a part, one of a single value."""
    clips = store.frame().drop_duplicates("clip_id").reset_index(drop=True)
    number = clips["patient_id"].str[1:].astype(int)
    return pd.DataFrame(
        {
            "clip_id": clips["clip_id"], "b_lines": (clips["severity"] > 0).astype(int),
            "effusion": pd.Series((clips["severity"] > 1).astype(int)).where(number % 5 != 0), "stent": 0,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def fitted(store: EmbeddingStore, signs: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    signs.to_csv(folder / "signs.csv", index=False)
    return fit_expert(store, "b_lines, effusion,stent", folder / "e", labels_csv=folder / "signs.csv", **QUICK)


def test_fit_expert__several_labels_on_the_same_folds(fitted: Path, signs: pd.DataFrame) -> None:
    summary = json.loads((fitted / "report.json").read_text())
    singles = {name: json.loads((fitted / "labels" / name / "report.json").read_text()) for name in ("b_lines", "effusion")}
    assert [entry["name"] for entry in summary["labels"]] == list(singles)
    assert any(note.startswith("stent is left out: at least two classes") for note in summary["notes"])
    assert len({report["data"]["splits_fingerprint"] for report in singles.values()}) == 1
    known = signs["effusion"].notna()
    assert set(singles["effusion"]["predictions"]["clip_ids"]) == set(signs["clip_id"][known])
    assert set(singles["b_lines"]["predictions"]["clip_ids"]) == set(signs["clip_id"])
    for name, figure in summary["scores"].items():
        alone = [report["scores"][name]["value"] for report in singles.values()]
        assert figure["value"] == pytest.approx(np.mean(alone))
        assert figure["low"] <= figure["value"] <= figure["high"]
    floors = {floor["name"]: floor for floor in summary["floors"]}
    assert list(floors) == ["most_frequent", "metadata", "random_init", "site_left_out"]
    both = [report["floors"][2]["scores"]["auroc"]["value"] for report in singles.values()]
    assert floors["random_init"]["scores"]["auroc"]["value"] == pytest.approx(np.mean(both))
    gap = summary["scores"]["auroc"]["value"] - np.mean(both)
    assert floors["random_init"]["expert_minus_floor"]["auroc"]["value"] == pytest.approx(gap)


def test_fit_expert__several_labels_in_one_folder(fitted: Path) -> None:
    configs = [(fitted / "labels" / name / "config.yaml").read_text() for name in ("b_lines", "effusion")]
    assert "label: b_lines" in configs[0]
    assert "label: effusion" in configs[1]
    assert "b_lines" in (fitted / "CARD.md").read_text()
    assert "labels/effusion" in (fitted / "report.html").read_text()
    assert "mean over the labels" in report_table(read_report(fitted))
    found = load_expert(fitted)
    assert isinstance(found, MultiExpert)
    assert found.labels == ("b_lines", "effusion")


def test_fit_expert__macro_follows_from_the_kept_predictions(fitted: Path) -> None:
    summary = json.loads((fitted / "report.json").read_text())
    kept = {
        name: predictions_from_dict(json.loads((fitted / "labels" / name / "report.json").read_text())["predictions"])
        for name in ("b_lines", "effusion")
    }
    drawn, _ = macro_draws(kept, n=40, seed=0)
    low, high = np.quantile(drawn["auroc"][1:], [0.025, 0.975])
    assert summary["scores"]["auroc"]["low"] == pytest.approx(low)
    assert summary["scores"]["auroc"]["high"] == pytest.approx(high)


def test_fit_expert__labels_that_cannot_be_asked(store: EmbeddingStore, signs: pd.DataFrame, tmp_path: Path) -> None:
    signs.assign(valve=1).to_csv(tmp_path / "signs.csv", index=False)
    with pytest.raises(SonokitError, match=r"none of the labels can be asked: stent is left out.*; valve is left out"):
        fit_expert(store, ["stent", "valve"], tmp_path / "e", labels_csv=tmp_path / "signs.csv", **QUICK)
    with pytest.raises(SonokitError, match="different tasks"):
        fit_expert(store, "b_lines,ratio", tmp_path / "e", labels_csv=tmp_path / "signs.csv", **QUICK)
    with pytest.raises(SonokitError, match="'a/b' cannot name a folder"):
        fit_expert(store, "b_lines,a/b", tmp_path / "e", **QUICK)
    assert not (tmp_path / "e").exists()


def test_prepare__an_sf_ratio_beside_another_label(write: Any, clips: pd.DataFrame, embedding: Any, tmp_path: Path) -> None:
    """The CSV has what the ratio is made of, or the store has it under other names; neither label is left out."""
    number = clips["patient_id"].str[1:].astype(int)
    parts = pd.DataFrame({"sat": 95.0 - number % 7, "fi": 0.21 + 0.02 * (number % 5), "age": 20.5 + number})
    embeddings = embedding(clips, 1.0)
    named = write(tmp_path / "named", pd.concat([clips, parts], axis=1), embeddings)
    aged = write(tmp_path / "aged", clips.assign(age=parts["age"]), embeddings)
    file = tmp_path / "oxygen.csv"
    parts.set_axis(["spo2", "fio2", "age"], axis=1).assign(clip_id=clips["clip_id"]).to_csv(file, index=False)
    short = FitSettings(folds=3, repeats=1)
    both = ["sf_ratio", "age"]
    for studies, left_out in (
        prepare(aged, both, short, labels_csv=file),
        prepare(named, both, replace(short, spo2="sat", fio2="fi")),
    ):
        assert left_out == []
        assert [study.question.label for study in studies] == both
        assert sorted(studies[0].question.truth) == pytest.approx(sorted(parts["sat"] / parts["fi"]))
    with pytest.raises(SonokitError, match=r"none of the labels can be asked.*--spo2 and --fio2 make the label sf_ratio"):
        prepare(named, ["age", "severity"], replace(short, spo2="sat", fio2="fi"))
