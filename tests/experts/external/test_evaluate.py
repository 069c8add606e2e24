import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import accuracy_score, balanced_accuracy_score, brier_score_loss, roc_auc_score
from sonokit.errors import SonokitError
from sonokit.evaluation.floors import metadata_features
from sonokit.experts.external.content import evaluation_table, write_evaluation
from sonokit.experts.external.evaluate import evaluate
from sonokit.experts.folder import Expert
from sonokit.experts.predict import predict
from sonokit.experts.recipes import clip_table
from sonokit.features.store import EmbeddingStore, make_rows

Hospital = Callable[..., EmbeddingStore]
QUICK: dict[str, Any] = {"draws": 200}


@pytest.fixture(scope="module")
def away(hospital: Hospital) -> EmbeddingStore:
    """Another hospital of the same kind of patients; only read."""
    return hospital("away", seed=5)


def test_evaluate__scores_are_those_of_sklearn_on_the_predictions(expert: Expert, away: EmbeddingStore) -> None:
    found = evaluate(expert, away, **QUICK)
    told, content = predict(expert, away), found.content
    truth = clip_table(away)["finding"]
    assert content["scores"]["accuracy"]["value"] == pytest.approx(accuracy_score(truth, told["prediction"]))
    by_hand = balanced_accuracy_score(truth, told["prediction"])
    assert content["scores"]["balanced_accuracy"]["value"] == pytest.approx(by_hand)
    assert content["scores"]["auroc"]["value"] == pytest.approx(roc_auc_score(truth == "well", told["p_well"]))
    brier = brier_score_loss(truth == "well", told["p_well"])
    assert content["trust"]["calibration"]["calibrated"]["brier"]["value"] == pytest.approx(brier)
    inside = np.mean([name in names.split("|") for name, names in zip(truth, told["set"], strict=True)])
    assert content["trust"]["conformal"]["coverage"]["value"] == pytest.approx(inside)
    pd.testing.assert_frame_equal(found.predictions.drop(columns="truth"), told)
    difference, home = content["here_minus_home"]["balanced_accuracy"], content["home"]["scores"]["balanced_accuracy"]
    widths = [figure["high"] - figure["low"] for figure in (difference, content["scores"]["balanced_accuracy"], home)]
    assert widths[0] == pytest.approx(np.hypot(widths[1], widths[2]), rel=0.3)  # unpaired: the variances add
    assert difference["value"] == pytest.approx(by_hand - home["value"])


def test_evaluate__nothing_is_fitted_on_the_labels_here(expert: Expert, away: EmbeddingStore, tmp_path: Path) -> None:
    names = clip_table(away)["clip_id"]
    others = pd.DataFrame({"clip_id": names, "finding": np.random.default_rng(0).choice(["ill", "well"], len(names))})
    others.to_csv(tmp_path / "labels.csv", index=False)
    one = evaluate(expert, away, **QUICK)
    two = evaluate(expert, away, labels_csv=tmp_path / "labels.csv", **QUICK)
    pd.testing.assert_frame_equal(one.predictions.drop(columns="truth"), two.predictions.drop(columns="truth"))
    assert one.content["scores"] != two.content["scores"]
    assert [point["thresholds"] for point in one.content["trust"]["operating_points"]] == [
        point["thresholds"] for point in two.content["trust"]["operating_points"]
    ]


@pytest.mark.parametrize(
    ("made", "outcome"),
    [
        ({}, "holds"),
        ({"signal": 0.7}, "worse"),
        ({"signal": 0.0}, "floor"),
        ({"patients": 8}, "few"),
        ({"signal": 0.5, "patients": 12, "seed": 8}, "few"),
    ],
)
def test_evaluate__verdict_of_simulated_hospitals(
    made: dict[str, Any], outcome: str, expert: Expert, hospital: Hospital
) -> None:
    content = evaluate(expert, hospital("simulated", **{"seed": 5} | made), **QUICK).content
    assert content["verdict"]["outcome"] == outcome, content["verdict"]
    assert content["verdict"]["sentence"] in " ".join(evaluation_table(content).split())


def test_evaluate__unchecked_patients_are_no_fine_verdict(
    expert: Expert, home: EmbeddingStore, away: EmbeddingStore, hospital: Hospital
) -> None:
    without, checked = (evaluate(expert, away, against=against, **QUICK).content["verdict"] for against in (None, home))
    assert (without["outcome"], without["level"]) == ("holds", "look")
    assert without["sentence"].endswith("Whether patients here were trained on was not checked: give --against.")
    assert (checked["outcome"], checked["level"]) == ("holds", "fine")
    worse = evaluate(expert, hospital("worse", seed=5, signal=0.7), **QUICK).content["verdict"]
    assert (worse["level"], "--against" in worse["sentence"]) == ("stop", False)


def test_evaluate__clips_without_patients_hold_nowhere(expert: Expert, home: EmbeddingStore, away: EmbeddingStore) -> None:
    content = evaluate(expert, away, against=home, patient="clip_id", **QUICK).content
    assert content["patient"] == "clip_id"
    assert (content["verdict"]["outcome"], content["verdict"]["level"]) == ("few", "not measured")
    assert "120 clips of unknown patients" in content["verdict"]["sentence"]
    assert [note for note in content["notes"] if "too narrow" in note]
    assert not [note for note in content["notes"] if "fold" in note]
    assert "120 clips of unknown patients at 1 site; nothing" in " ".join(evaluation_table(content).split())


@pytest.mark.parametrize("unknown", [None, " "])
def test_evaluate__training_clips_without_a_patient_take_no_part_in_drift(
    unknown: str | None, expert: Expert, home: EmbeddingStore, away: EmbeddingStore, hospital: Hospital
) -> None:
    more = hospital("more", prefix="home")  # the training store, and clips of nobody and far away beside them
    rows = hospital("odd", patients=40, seed=3, shift=40.0).table().to_pandas().assign(patient_id=unknown)
    _again(more, rows)
    plain, found = (evaluate(expert, away, against=against, **QUICK).content for against in (home, more))
    assert found["drift"]["told_apart"] == plain["drift"]["told_apart"]
    assert found["drift"]["features"]["exchanged"] == plain["drift"]["features"]["exchanged"]
    assert any("80 clips of the training store have no patient_id" in note for note in found["notes"])


def test_evaluate__resamples_and_stores_that_cannot_be(
    expert: Expert, home: EmbeddingStore, away: EmbeddingStore, hospital: Hospital
) -> None:
    with pytest.raises(SonokitError, match="at least 1"):
        evaluate(expert, away, draws=0)
    with pytest.raises(SonokitError, match="is not what the expert was fitted on"):
        evaluate(expert, away, against=hospital("third", seed=8), **QUICK)
    nameless = hospital("nameless", patients=10, seed=5)
    _again(nameless, nameless.table().to_pandas().head(2).assign(patient_id=""))
    with pytest.raises(SonokitError, match="patient_id is unknown for 1 clips"):
        evaluate(expert, nameless, **QUICK)


def test_write_evaluation__page_stacks_and_says_the_same_words(
    expert: Expert, home: EmbeddingStore, away: EmbeddingStore, hospital: Hospital, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("sonokit.experts.external.page.png", lambda _: "AAAA")  # bytes take long
    found = evaluate(expert, away, against=home, **QUICK)
    page = (write_evaluation(found, tmp_path / "out", {}) / "evaluation.html").read_text()
    assert 'data-title="balanced accuracy"' in page  # what a row's figures are called where a row is a block
    assert "<td>this expert, here</td>" in page
    assert page.count("as the head gives it, all classes counted alike") == 2
    assert "->" not in page.split("<body>")[1]
    beyond = [entry for entry in found.content["drift"]["features"]["largest"] if abs(entry["difference"]) > 0.5]
    assert not beyond
    assert "No feature is shifted by more than half a standard deviation" in page
    assert "moved furthest" not in page
    far = (
        write_evaluation(evaluate(expert, hospital("far", patients=20, seed=5, shift=9.0), **QUICK), tmp_path / "far", {})
        / "evaluation.html"
    )
    assert "moved furthest" in far.read_text()


def test_evaluate__clips_that_look_different_are_told(expert: Expert, home: EmbeddingStore, hospital: Hospital) -> None:
    shifted = hospital("shifted", seed=5, shift=-25.0)
    with_bank, without = evaluate(expert, shifted, against=home, **QUICK), evaluate(expert, shifted, **QUICK)
    for found in (with_bank, without):
        assert "look different" in found.content["verdict"]["sentence"]
    assert with_bank.content["drift"]["told_apart"]["low"] > 0.9
    assert with_bank.content["drift"]["features"]["largest"][0]["name"] == "mean of dimension 7"
    assert without.content["drift"].keys() == {"labels", "predictions", "features", "metadata"}
    alike = evaluate(expert, hospital("alike", seed=6), against=home, **QUICK).content
    assert "look different" not in alike["verdict"]["sentence"]
    assert alike["drift"]["told_apart"]["low"] < 0.5 < alike["drift"]["told_apart"]["high"]


def test_evaluate__probabilities_of_another_prevalence_must_be_calibrated_anew(expert: Expert, hospital: Hospital) -> None:
    weak = hospital("weak", patients=150, seed=5, signal=0.7)  # the same probabilities, less often right
    assert "calibrated anew" in evaluate(expert, weak, **QUICK).content["verdict"]["sentence"]
    alike = hospital("alike", patients=150, seed=6)
    assert "calibrated anew" not in evaluate(expert, alike, **QUICK).content["verdict"]["sentence"]


def test_evaluate__metadata_floor_learns_at_home_only(expert: Expert, home: EmbeddingStore, hospital: Hospital) -> None:
    away = hospital("otherfiles", seed=5, container=["avi", "mov"] * 60, frame_rate=30.0)
    floors = {floor["name"]: floor for floor in evaluate(expert, away, against=home, **QUICK).content["floors"]}
    tables = pd.concat([clip_table(home), clip_table(away)], ignore_index=True)
    inputs = metadata_features(tables)
    forest = RandomForestClassifier(class_weight="balanced", random_state=0).fit(inputs[:120], tables["finding"][:120])
    by_hand = accuracy_score(tables["finding"][120:], forest.predict(inputs[120:]))
    assert floors["metadata"]["scores"]["accuracy"]["value"] == pytest.approx(by_hand)
    most = clip_table(home)["finding"].value_counts().idxmax()
    assert floors["most_frequent"]["scores"]["accuracy"]["value"] == pytest.approx((clip_table(away)["finding"] == most).mean())
    assert "no floor/" in floors["random_init"]["reason"]


def test_evaluate__random_init_floor_reads_both_floors(expert: Expert, hospital: Hospital) -> None:
    stores = []
    for name, prefix, seed in (("trained", "home", 0), ("tested", "tested", 5)):
        store = hospital(name, seed=seed, prefix=prefix)
        noise = hospital(f"{name}-noise", seed=seed, signal=0.0, fingerprint="f100f100f100f100", prefix=prefix)
        (store.folder / "floor").symlink_to(noise.folder)
        stores.append(EmbeddingStore.open(store.folder))
    content = evaluate(expert, stores[1], against=stores[0], **QUICK).content
    floor = next(floor for floor in content["floors"] if floor["name"] == "random_init")
    assert 0.25 < floor["scores"]["balanced_accuracy"]["value"] < 0.7
    assert floor["expert_minus_floor"]["balanced_accuracy"]["low"] > 0.1


def test_evaluate__patients_of_the_training_are_left_out(expert: Expert, home: EmbeddingStore, hospital: Hospital) -> None:
    mixed = hospital("mixed", patients=30, seed=5)
    rows = mixed.table().to_pandas()
    known, film = rows["clip_id"].isin(["mixed-000"]), rows["clip_id"].isin(["mixed-010"])
    _again(mixed, rows[known].assign(patient_id="home-p000"))  # the same person by name
    _again(mixed, rows[film].assign(content_hash=clip_table(home)["content_hash"][0]))  # the same film under another name
    content = evaluate(expert, mixed, against=home, **QUICK).content
    assert (content["data"]["patients"], content["data"]["clips"]) == (29, 57)
    assert any("2 patients" in note and "1 by name, 1 by an identical file" in note for note in content["notes"])
    without = evaluate(expert, mixed, **QUICK).content  # a file is known without the training store, a name is not
    assert without["data"]["clips"] == 58
    assert any("0 by name, 1 by an identical file" in note for note in without["notes"])
    with pytest.raises(SonokitError, match="no external evidence"):
        evaluate(expert, home, against=home, **QUICK)


def _again(store: EmbeddingStore, part: pd.DataFrame) -> None:
    """Write some clips' rows anew."""
    rows = part.drop(columns=["embedding", "row_id"]).reset_index(drop=True)
    store.append(make_rows(store.header, rows, np.stack(part["embedding"].to_list())))


def test_evaluate__classes_that_the_expert_does_not_know(expert: Expert, hospital: Hospital) -> None:
    third = hospital("third", seed=5, finding=["ill", "ill", "odd", "well"] * 30)
    content = evaluate(expert, third, **QUICK).content
    assert content["data"]["unknown_classes"] == {"odd": 30}
    assert content["data"]["clips"] == 90
    assert any("odd (30)" in note for note in content["notes"])
    only_ill = evaluate(expert, hospital("illonly", seed=5, finding="ill"), **QUICK).content
    assert any("no case here is of class well" in note for note in only_ill["notes"])
    with pytest.raises(SonokitError, match=r"knows \(ill, well\).*'finding' there is: odd"):
        evaluate(expert, hospital("odd", patients=5, finding="odd"))
    with pytest.raises(SonokitError, match="--label"):
        evaluate(expert, third, label="elsewhere")


def test_evaluate__label_of_another_name_and_where(expert: Expert, hospital: Hospital) -> None:
    renamed = hospital("renamed", seed=5, truth=["ill", "well"] * 60)
    content = evaluate(expert, renamed, label="truth", where={"probe": "linear"}, **QUICK).content
    assert content["label_here"] == "truth"
    assert content["data"]["clips"] == 40
    assert content["drift"]["metadata"]["probe"]["here"] == {"linear": 1.0}


def test_evaluate__regression(
    home: EmbeddingStore, away: EmbeddingStore, fit_here: Callable[..., Expert], tmp_path: Path
) -> None:
    expert = fit_here(home, "amount")
    found = evaluate(expert, away, against=home, **QUICK)
    truth, told = clip_table(away)["amount"], predict(expert, away)
    assert found.content["scores"]["mae"]["value"] == pytest.approx(np.abs(truth - told["prediction"]).mean(), rel=1e-5)
    coverage = found.content["trust"]["conformal"]["coverage"]["value"]
    assert coverage == pytest.approx(((told["low"] <= truth) & (truth <= told["high"])).mean())
    assert found.content["verdict"]["outcome"] in ("holds", "better")
    page = (write_evaluation(found, tmp_path / "out", {}) / "evaluation.html").read_text()
    assert page.count("data:image/png;base64,") >= 4


def test_evaluate__patients_as_cases(expert: Expert, home: EmbeddingStore, away: EmbeddingStore) -> None:
    by_patient = dataclasses.replace(expert, unit="patient")
    found = evaluate(by_patient, away, against=home, **QUICK)
    assert (found.content["data"]["clips"], found.content["data"]["patients"]) == (60, 60)
    truth = clip_table(away).groupby("patient_id")["finding"].first()
    told = predict(by_patient, away).set_index("patient_id")["prediction"]
    assert found.content["scores"]["accuracy"]["value"] == pytest.approx((told == truth[told.index]).mean())


def test_evaluate__expert_without_reference_is_refused(expert: Expert, away: EmbeddingStore, hospital: Hospital) -> None:
    with pytest.raises(SonokitError, match="fit it again"):
        evaluate(dataclasses.replace(expert, reference=None), away)
    with pytest.raises(SonokitError, match="reads stores of the extractor"):
        evaluate(expert, hospital("other", patients=4, fingerprint="fedcba9876543210"))


def test_write_evaluation__same_again_and_foreign_folders_refused(
    folder: Path, home: EmbeddingStore, away: EmbeddingStore, tmp_path: Path
) -> None:
    out, config = tmp_path / "out", {"expert": "e", "seed": 0}
    before: dict[str, bytes] = {}
    for _ in range(2):
        write_evaluation(evaluate(folder, away, against=home, **QUICK), out, config)
        files = {name: (out / name).read_bytes() for name in ("evaluation.json", "evaluation.html", "predictions.csv")}
        assert not before or files == before
        before = files
    page = before["evaluation.html"].decode()
    assert "http" not in page
    assert json.loads(before["evaluation.json"])["verdict"]["sentence"] in page
    assert len(pd.read_csv(out / "predictions.csv")) == 120
    with pytest.raises(SonokitError, match="seed: 0 there, 1 now"):
        write_evaluation(evaluate(folder, away, **QUICK), out, config | {"seed": 1})
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.txt").write_text("years of work")
    with pytest.raises(SonokitError, match="no evaluation's folder"):
        write_evaluation(evaluate(folder, away, **QUICK), tmp_path / "thesis", config)


def test_evaluation_table__fits_the_terminal(expert: Expert, home: EmbeddingStore, away: EmbeddingStore) -> None:
    table = evaluation_table(evaluate(expert, away, against=home, **QUICK).content)
    assert max(map(len, table.splitlines())) <= 130
    for said in (
        "at home (60 patients",
        "here minus home",
        "floor: most frequent class",
        "beyond the training clips",
        "Verdict:",
    ):
        assert said in table
