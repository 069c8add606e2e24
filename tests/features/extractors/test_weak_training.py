import dataclasses
import hashlib
import json
import re

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from sklearn.metrics import roc_auc_score
from sonokit.backbones.folder import backbone_fingerprint, load_backbone, save_backbone
from sonokit.errors import SonokitError
from sonokit.evaluation.biomarker_scores import OutOfFold, score_biomarkers
from sonokit.features.extraction.forward import FeaturePass
from sonokit.features.extractors import tuning
from sonokit.features.extractors.biomarkers import SegmentPlan
from sonokit.features.extractors.folder import extractor_fingerprint, load_extractor, read_extractor
from sonokit.features.extractors.head_fitting import frozen_features
from sonokit.features.extractors.weak_training import BiomarkerSettings, train_biomarkers

SETTINGS = BiomarkerSettings(("bright", "split"), embedding=8, epochs=30, learning_rate=1e-2, calibration="none")


def train(clips, backbone, out, splits, settings=SETTINGS, config=None, **options):
    return train_biomarkers(
        clips, backbone, out, settings, splits=splits, config=config or {"seed": 0}, progress=False, device="cpu", **options
    )


def weights_of(folder):
    return (folder / "head.safetensors").read_bytes()


@pytest.fixture
def trained(clips, backbone, divide, tmp_path):
    return train(clips, backbone, tmp_path / "set", divide(clips, repeats=2))


def test_train__makes_a_set_that_tells_biomarkers_on_unseen_patients(trained, clips):
    report = json.loads((trained / "report.json").read_text())
    assert report["biomarkers"]["bright"]["auroc"]["value"] > 0.9  # the frames' brightness gives it away
    assert report["biomarkers"]["bright"]["positive_patients"] == 8
    assert json.loads((trained / "set.json").read_text())["folds"] == 4
    assert {p.name for p in trained.iterdir() if p.is_dir()} == {"backbone", "final", *(f"fold-{k}" for k in range(4))}
    assert re.search(r"\| bright \| [01]\.\d{3} \([01]\.\d{3} to ", (trained / "final" / "README.md").read_text())
    assert read_extractor(trained / "final")["scores"]["bright"] == report["biomarkers"]["bright"]


def test_train__out_of_fold_table_gives_the_reported_auroc(trained, clips):
    report = json.loads((trained / "report.json").read_text())
    table = pd.read_csv(trained / "out_of_fold.csv").merge(clips.table[["clip_id", "split"]])
    known = table[table["split"].notna()]
    by_hand = [roc_auc_score(r["split"], r["p_split"]) for _, r in known.groupby("repeat")]
    assert report["biomarkers"]["split"]["auroc"]["value"] == pytest.approx(np.mean(by_hand))


def test_train__a_test_clips_label_changes_nothing_in_its_fold(clips, backbone, divide, tmp_path):
    splits = divide(clips)
    test = clips.table["clip_id"].isin(splits.folds[0].test).to_numpy()
    other = clips.with_labels(bright=np.where(test, 1 - clips.table["bright"], clips.table["bright"]))
    a = train(clips, backbone, tmp_path / "a", splits)
    b = train(other, backbone, tmp_path / "b", splits)
    for name in ("head.safetensors", "extractor.json", "README.md"):
        assert (a / "fold-0" / name).read_bytes() == (b / "fold-0" / name).read_bytes()
    assert weights_of(a / "fold-1") != weights_of(b / "fold-1")
    assert weights_of(a / "final") != weights_of(b / "final")


def test_train__a_test_clips_frames_change_nothing_in_its_fold(make_clips, backbone, divide, tmp_path):
    clips, other = make_clips(), make_clips()
    splits = divide(clips)
    first = int(np.flatnonzero(clips.table["clip_id"] == splits.folds[0].test[0])[0])
    other.frames[first] = 255 - other.frames[first]
    a = train(clips, backbone, tmp_path / "a", splits)
    b = train(other, backbone, tmp_path / "b", splits)
    assert weights_of(a / "fold-0") == weights_of(b / "fold-0")
    assert weights_of(a / "fold-1") != weights_of(b / "fold-1")


def test_train__provenance_lists_what_each_extractor_saw(trained, clips, divide):
    splits = divide(clips, repeats=2)
    seen = read_extractor(trained / "fold-0")["provenance"]
    expected = clips.table[clips.table["clip_id"].isin(splits.train_ids(0))]
    assert seen["training_clips"] == dict(zip(expected["clip_id"], expected["content_hash"], strict=True))
    assert seen["training_patients"] == sorted(expected["patient_id"].unique())
    assert len(read_extractor(trained / "final")["provenance"]["training_clips"]) == len(clips)


def test_train__held_out_patients_are_seen_by_nobody(clips, backbone, divide, tmp_path):
    out = train(clips, backbone, tmp_path, divide(clips, held_out=("patient-3",)))
    for name in ("fold-0", "fold-1", "final"):
        assert "patient-3" not in read_extractor(out / name)["provenance"]["training_patients"]


def test_train__the_past_of_a_labelled_backbone_is_carried_on(clips, backbone, tmp_path):
    past = {"fitted_on_labels": True, "labels": ["diagnosis"], "training_clips": {"x": "h"}, "training_patients": ["them"]}
    save_backbone(backbone, tmp_path / "backbone", provenance=past)
    past["training_clips"]["clip-00"] = "another study's clip"
    save_backbone(backbone, tmp_path / "backbone", provenance=past)
    out = train(clips, load_backbone(tmp_path / "backbone"), tmp_path / "out", None, provenance=tmp_path / "backbone")
    seen = read_extractor(out)["provenance"]
    assert seen["labels"] == ["bright", "diagnosis", "split"]
    assert seen["training_clips"]["x"] == "h"
    assert {"another study's clip", *clips.table["content_hash"]} <= set(seen["training_clips"].values())
    assert "them" in seen["training_patients"]


@pytest.mark.parametrize("known_by", ["content", "patient"])
def test_train__a_backbone_that_saw_labels_of_tested_clips_is_refused(clips, backbone, divide, tmp_path, known_by):
    held_out = divide(clips, held_out=("patient-3",))
    past = {"fitted_on_labels": True, "labels": ["diagnosis"], "training_clips": {}, "training_patients": []}
    if known_by == "content":
        past["training_clips"] = {"renamed": clips.table["content_hash"][0]}
    else:
        past["training_patients"] = ["patient-3"]
        train(clips, backbone, tmp_path / "fair", held_out, provenance=past)  # no fold tests that patient
    with pytest.raises(SonokitError, match=r"labels \(diagnosis\) of [12] clips that the folds test"):
        train(clips, backbone, tmp_path / "out", divide(clips), provenance=past)
    unlabelled = past | {"fitted_on_labels": False}
    train(clips, backbone, tmp_path / "unlabelled", divide(clips), provenance=unlabelled)


def test_train__a_clip_that_the_splits_do_not_know_is_refused(clips, backbone, divide, tmp_path):
    """It might be a held-out patient's, and the final extractor would train on it."""
    known = clips.select(np.arange(len(clips)) < 14)
    with pytest.raises(SonokitError, match=r"do not know 2 of 16 clips \(clip-14, clip-15\)"):
        train(clips, backbone, tmp_path, divide(known))
    assert not (tmp_path / "final").exists()


def test_train__a_set_is_unfinished_while_its_folds_are_trained_anew(clips, backbone, divide, tmp_path, monkeypatch):
    out = train(clips, backbone, tmp_path, divide(clips))

    def stop(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(tuning, "fit_head", stop)
    with pytest.raises(KeyboardInterrupt):
        train(clips.with_labels(bright=1 - clips.table["bright"]), backbone, out, divide(clips))
    assert not (out / "report.json").exists()  # extract-features takes only a set that has one


def test_train__finished_folds_are_not_trained_again(clips, backbone, divide, tmp_path, monkeypatch):
    splits = divide(clips)
    whole = train(clips, backbone, tmp_path / "whole", splits)
    stopping = tuning.fit_head
    calls = []

    def stop_at_third(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        stopping(*arguments)

    monkeypatch.setattr(tuning, "fit_head", stop_at_third)
    with pytest.raises(KeyboardInterrupt):
        train(clips, backbone, tmp_path / "stopped", splits)
    train(clips, backbone, tmp_path / "stopped", splits)
    assert len(calls) == 4  # fold 0, fold 1 (stopped), fold 1, final
    train(clips, backbone, tmp_path / "stopped", splits)
    assert len(calls) == 4
    for name in ("fold-0", "fold-1", "final"):
        assert weights_of(whole / name) == weights_of(tmp_path / "stopped" / name)
    assert (whole / "report.json").read_bytes() == (tmp_path / "stopped" / "report.json").read_bytes()


def test_train__a_mended_label_trains_anew_what_saw_it(clips, backbone, divide, tmp_path):
    splits = divide(clips)
    out = train(clips, backbone, tmp_path, splits)
    before = {name: weights_of(out / name) for name in ("fold-0", "fold-1", "final")}
    test = clips.table["clip_id"].isin(splits.folds[0].test).to_numpy()
    train(clips.with_labels(bright=np.where(test, 1 - clips.table["bright"], clips.table["bright"])), backbone, out, splits)
    assert [weights_of(out / n) == before[n] for n in before] == [True, False, False]


def test_train__frozen_backbone_stays_as_it_was(trained, backbone):
    assert backbone_fingerprint(load_backbone(trained / "backbone")) == backbone_fingerprint(backbone)
    assert load_extractor(trained / "fold-0").backbone.name == "test_resnet"


def test_train__end_to_end_changes_the_backbone_of_each_fold(make_clips, backbone, divide, tmp_path):
    clips = make_clips(patients=4)
    settings = dataclasses.replace(SETTINGS, tune="all", epochs=2, batch_clips=3)
    before = backbone_fingerprint(backbone)
    a = train(clips, backbone, tmp_path / "a", divide(clips), settings)
    b = train(clips, backbone, tmp_path / "b", divide(clips), settings)
    prints = [backbone_fingerprint(load_backbone(a / n / "backbone")) for n in ("fold-0", "fold-1", "final")]
    assert len({before, *prints}) == 4
    assert backbone_fingerprint(backbone) == before
    assert (a / "fold-1" / "extractor.json").read_bytes() == (b / "fold-1" / "extractor.json").read_bytes()
    assert load_extractor(a / "fold-1").biomarkers == ("bright", "split")


def test_train__does_not_disturb_the_callers_random_numbers(clips, backbone, tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(clips, backbone, tmp_path, None)
    assert torch.equal(torch.rand(3), expected)


def test_train__without_splits_is_one_extractor_without_scores(clips, backbone, tmp_path):
    out = train(clips, backbone, tmp_path, None)
    assert read_extractor(out)["scores"] == {}
    assert load_extractor(out).biomarkers == ("bright", "split")
    assert "not measured" in (out / "README.md").read_text()


def test_train__faults_are_named(clips, backbone, divide, tmp_path):
    def with_biomarkers(*names):
        return dataclasses.replace(SETTINGS, biomarkers=names)

    with pytest.raises(SonokitError, match="no label column 'b_line'"):
        train(clips, backbone, tmp_path / "1", None, with_biomarkers("b_line"))
    with pytest.raises(SonokitError, match="diagnosis must hold 0, 1 or nothing"):
        train(clips, backbone, tmp_path / "1", None, with_biomarkers("diagnosis"))
    with pytest.raises(SonokitError, match="no clip has a label"):
        train(clips.with_labels(split=np.nan), backbone, tmp_path / "1", None, with_biomarkers("split"))
    with pytest.raises(SonokitError, match="at least one biomarker"):
        train(clips, backbone, tmp_path / "1", None, with_biomarkers())
    train(clips, backbone, tmp_path / "2", None)
    with pytest.raises(SonokitError, match=r"begun with other settings \(seed"):
        train(clips, backbone, tmp_path / "2", None, config={"seed": 1})


def test_train__one_patient_on_both_sides_is_refused(clips, backbone, divide, tmp_path):
    swapped = clips.with_labels(patient_id=np.roll(clips.table["patient_id"], 1))
    with pytest.raises(SonokitError, match="on both sides"):
        train(swapped, backbone, tmp_path, divide(clips))


def test_score_biomarkers__too_few_patients_is_said_and_not_scored():
    labels = np.array([[1, 1], [0, 0], [1, 0], [0, 0]], dtype=np.float64)
    everyone = np.ones(4, dtype=bool)
    outcome = OutOfFold(np.full((1, 4, 2), 0.5), labels, np.array(list("abcd")), [everyone])
    scores = score_biomarkers(outcome, ("common", "rare"))
    assert scores["biomarkers"]["common"]["auroc"]["value"] == 0.5
    assert scores["biomarkers"]["rare"]["auroc"] is None
    assert scores["biomarkers"]["rare"]["reason"] == "1 positive patient(s) on the training side of fold 0"
    assert scores["macro_auroc"]["value"] == 0.5


def test_train__a_rare_biomarker_is_trained_and_reported_as_not_measurable(clips, backbone, divide, tmp_path):
    rare = np.zeros(len(clips))
    rare[0] = 1
    out = train(clips.with_labels(split=rare), backbone, tmp_path, divide(clips))
    assert json.loads((out / "report.json").read_text())["biomarkers"]["split"]["auroc"] is None
    assert "not measurable: 0 positive patient(s)" in (out / "final" / "README.md").read_text()


def test_train__an_extractor_of_the_first_schema_loads_as_it_was(trained):
    """As version 1 wrote it: no calibration in the weights or in extractor.json."""
    folder = trained / "final"
    features = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))
    features = features[:, : load_extractor(folder).backbone.num_features]
    values = json.loads((folder / "extractor.json").read_text())
    for key in ("calibration", "calibration_note", "data_fingerprint", "reliability"):
        del values[key]
    weights = safetensors.torch.load_file(folder / "head.safetensors")
    before = {key: value for key, value in weights.items() if not key.startswith("calibration_")}
    assert len(before) == len(weights) - 2
    expected = load_extractor(folder)
    safetensors.torch.save_file(before, folder / "head.safetensors")
    (folder / "extractor.json").write_text(json.dumps(values | {"schema_version": 1}))
    found = load_extractor(folder)
    assert extractor_fingerprint(found) == values["fingerprint"]
    digest = hashlib.sha256(json.dumps([backbone_fingerprint(found.backbone), [["bright", "split"], 4, 4, 32, "lse"]]).encode())
    digest.update(safetensors.torch.save(before))
    assert digest.hexdigest()[:16] == values["fingerprint"]  # the first version's way of making it
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in expected.state_dict().items())
    (folder / "extractor.json").write_text(json.dumps(values | {"schema_version": 3}))
    with pytest.raises(SonokitError, match="newer than this sonokit"):
        load_extractor(folder)


@pytest.mark.parametrize("pooling", ["mean", "attention", "noisy_or"])
def test_train__every_pooling_is_kept_in_the_folder(clips, backbone, tmp_path, pooling):
    out = train(clips, backbone, tmp_path, None, dataclasses.replace(SETTINGS, pooling=pooling))
    extractor = load_extractor(out)
    assert extractor.pooling == pooling
    assert (extractor.head.attention is not None) == (pooling == "attention")
    labels = clips.table["bright"].to_numpy()
    tuned = tuning.tuning_of(
        dataclasses.replace(SETTINGS, pooling=pooling), clips, backbone, torch.device("cpu"), progress=False
    )
    logits = tuned.logits(extractor, np.ones(len(clips), dtype=bool))[:, 0]
    assert roc_auc_score(labels, logits) > 0.9


def test_train__known_features_give_the_same_extractor(clips, backbone, tmp_path):
    plan = SegmentPlan(SETTINGS.segments, SETTINGS.segment_frames)
    features = frozen_features(clips, FeaturePass(backbone, plan, torch.device("cpu")), plan, progress=False)
    a = train(clips, backbone, tmp_path / "a", None)
    b = train(clips, backbone, tmp_path / "b", None, features=features)
    assert weights_of(a) == weights_of(b)
    c = train(clips, backbone, tmp_path / "c", None, features=dataclasses.replace(features, values=features.values + 1))
    assert weights_of(a) != weights_of(c)  # they are what was trained on
    with pytest.raises(SonokitError, match="leave them out"):
        train(clips, backbone, tmp_path / "d", None, features=features.select(torch.arange(3)))


def test_train__a_changed_setting_trains_anew(clips, backbone, divide, tmp_path):
    splits = divide(clips)
    out = train(clips, backbone, tmp_path, splits)
    before = weights_of(out / "fold-0")
    train(clips, backbone, out, splits, dataclasses.replace(SETTINGS, label_smoothing=0.2))
    assert weights_of(out / "fold-0") != before
