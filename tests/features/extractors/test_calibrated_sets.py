import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import brier_score_loss
from sonokit.features.extractors.calibration import fit_platt
from sonokit.features.extractors.folder import extractor_fingerprint, load_extractor, read_extractor
from sonokit.features.extractors.weak_training import BiomarkerSettings, train_biomarkers

SETTINGS = BiomarkerSettings(("bright", "split"), embedding=8, epochs=30, learning_rate=1e-2, calibration="none")
CALIBRATED = dataclasses.replace(SETTINGS, calibration="inner", calibration_folds=3)


def train(clips, backbone, out, splits, settings=SETTINGS):
    return train_biomarkers(clips, backbone, out, settings, splits=splits, config={"seed": 0}, progress=False, device="cpu")


@pytest.fixture
def calibrated(clips, backbone, divide, tmp_path):
    return train(clips, backbone, tmp_path / "set", divide(clips, repeats=2), CALIBRATED)


def test_calibrated__the_table_and_the_report_tell_what_the_extractors_do(calibrated, clips):
    report = json.loads((calibrated / "report.json").read_text())
    table = pd.read_csv(calibrated / "out_of_fold.csv").merge(clips.table[["clip_id", "bright"]])
    for fold in range(4):
        scaling = read_extractor(calibrated / f"fold-{fold}")["calibration"]["bright"]
        rows = table[table["fold"] == fold]
        logits = np.log(rows["p_bright"] / (1 - rows["p_bright"]))
        by_hand = 1 / (1 + np.exp(-scaling["slope"] * logits - scaling["intercept"]))
        np.testing.assert_allclose(rows["p_calibrated_bright"], by_hand, atol=1e-4)
    measured = report["calibration"]["biomarkers"]["bright"]
    for when, column in (("before", "p_bright"), ("after", "p_calibrated_bright")):
        assert measured[when]["brier"] == pytest.approx(brier_score_loss(table["bright"], table[column]), abs=1e-5)
        assert sum(point["count"] for point in measured[when]["curve"]) == len(table)
    assert (calibrated / "reliability.png").stat().st_size > 5000
    assert "calibration" not in report["biomarkers"]["bright"]  # the keys that were there before mean what they did


def test_calibrated__logits_and_auroc_are_those_without_calibration(calibrated, clips, backbone, divide, tmp_path):
    plain = train(clips, backbone, tmp_path / "plain", divide(clips, repeats=2))
    ours, theirs = (load_extractor(folder / "fold-0").head for folder in (calibrated, plain))
    features = torch.randn(5, backbone.num_features, generator=torch.Generator().manual_seed(0))
    assert torch.equal(ours(features)[1], theirs(features)[1])
    assert not torch.equal(ours.probabilities(ours(features)[1]), theirs.probabilities(theirs(features)[1]))
    reports = [json.loads((folder / "report.json").read_text()) for folder in (calibrated, plain)]
    assert reports[0]["biomarkers"] == reports[1]["biomarkers"]
    assert reports[1]["calibration"]["biomarkers"]["bright"]["after"] is None
    assert read_extractor(plain / "final")["calibration"] is None
    assert "not calibrated: none was asked for" in (plain / "final" / "README.md").read_text()
    assert "p_calibrated_bright" not in pd.read_csv(plain / "out_of_fold.csv")
    assert extractor_fingerprint(load_extractor(calibrated / "final")) != extractor_fingerprint(load_extractor(plain / "final"))


def test_calibrated__a_test_clips_label_changes_nothing_in_its_fold(clips, backbone, divide, tmp_path):
    splits = divide(clips)
    test = clips.table["clip_id"].isin(splits.folds[0].test).to_numpy()
    other = clips.with_labels(bright=np.where(test, 1 - clips.table["bright"], clips.table["bright"]))
    a = train(clips, backbone, tmp_path / "a", splits, CALIBRATED)
    b = train(other, backbone, tmp_path / "b", splits, CALIBRATED)
    assert (a / "fold-0" / "extractor.json").read_bytes() == (b / "fold-0" / "extractor.json").read_bytes()
    assert read_extractor(a / "fold-1")["calibration"] != read_extractor(b / "fold-1")["calibration"]


def test_calibrated__end_to_end_only_the_final_extractor_is(make_clips, backbone, divide, tmp_path):
    clips = make_clips(patients=4)
    settings = dataclasses.replace(SETTINGS, tune="all", epochs=1, batch_clips=3, calibration="inner")
    out = train(clips, backbone, tmp_path, divide(clips), settings)
    assert read_extractor(out / "fold-0")["calibration"] is None
    assert "once more for each inner fold" in (out / "fold-0" / "README.md").read_text()
    table = pd.read_csv(out / "out_of_fold.csv").merge(clips.table[["clip_id", "bright"]])
    logits = np.log(table["p_bright"] / (1 - table["p_bright"])).to_numpy()
    expected = fit_platt(logits, table["bright"].to_numpy(dtype=float))
    found = read_extractor(out / "final")["calibration"]["bright"]
    assert found["slope"] == pytest.approx(expected.slope, rel=1e-2)
    assert "on the predictions of the set's folds" in (out / "final" / "README.md").read_text()


def test_calibrated__the_card_says_how_well(calibrated):
    text = (calibrated / "final" / "README.md").read_text()
    measured = read_extractor(calibrated / "final")["reliability"]["bright"]
    assert f"{measured['before']['brier']:.3f} → {measured['after']['brier']:.3f}" in text
    assert "8 of 16 clips, 8 positive and 8 negative patients" in text
    assert read_extractor(calibrated / "final")["data_fingerprint"] in text
    for said in ("temporal shift off", "kept as it came", "must not be used", "pools its segments': lse"):
        assert said in text
