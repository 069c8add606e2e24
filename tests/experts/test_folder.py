import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sonokit.errors import SonokitError
from sonokit.experts.folder import Expert, MultiExpert, load_expert, load_single_expert, save_expert
from sonokit.experts.heads import make_head
from sonokit.experts.predict import predict
from sonokit.experts.recipes import clip_features, clip_table
from sonokit.features.store import EmbeddingStore


@pytest.fixture(scope="module")
def plain(store: EmbeddingStore) -> Expert:
    """Without readout and reference, as an older sonokit wrote them."""
    table = clip_table(store)
    truth = table["severity"].to_numpy(dtype=np.int64)
    head = make_head(("linear",), "classification")
    head.fit(clip_features(store, "mean").X, truth, groups=table["patient_id"].to_numpy(dtype=str))
    return Expert("severity", "classification", ("0", "1", "2"), "mean", store.header, head)


def saved(expert: Expert | MultiExpert, folder: Path) -> Path:
    folder.mkdir()
    save_expert(expert, folder)
    return folder


def test_save_expert__round_trip_keeps_unit_and_patient(plain: Expert, store: EmbeddingStore, tmp_path: Path) -> None:
    expert = Expert(**{**plain.__dict__, "unit": "patient", "patient": "case"})
    found = load_single_expert(saved(expert, tmp_path / "e"))
    assert (found.unit, found.patient, found.label, found.classes) == ("patient", "case", "severity", ("0", "1", "2"))
    inputs = clip_features(store, "mean").X
    np.testing.assert_array_equal(found.values(inputs), plain.values(inputs))


@pytest.mark.parametrize("version", [1, 2])
def test_load_expert__folders_of_older_versions(version: int, plain: Expert, store: EmbeddingStore, tmp_path: Path) -> None:
    folder = saved(plain, tmp_path / "e")
    content = json.loads((folder / "expert.json").read_text())
    del content["unit"], content["patient"]
    if version == 1:
        del content["readout"]
    (folder / "expert.json").write_text(json.dumps(content | {"schema_version": version}))
    found = load_single_expert(folder)
    assert (found.unit, found.patient, found.reference, found.readout) == ("clip", "patient_id", None, None)
    pd.testing.assert_frame_equal(predict(found, store), predict(plain, store))


def test_load_expert__several_labels(plain: Expert, tmp_path: Path) -> None:
    other = Expert(**{**plain.__dict__, "label": "other"})
    folder = saved(MultiExpert({"severity": plain, "other": other}), tmp_path / "e")
    found = load_expert(folder)
    assert isinstance(found, MultiExpert)
    assert found.labels == ("severity", "other")
    assert found.store.fingerprint == plain.store.fingerprint
    assert load_single_expert(folder / "labels" / "other").label == "other"
    with pytest.raises(SonokitError, match=r"labels.severity"):
        load_single_expert(folder)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"schema_version": 3, "task": "multi_label", "labels": ["../../elsewhere"]}, "no plain name"),
        ({"schema_version": 3, "task": "multi_label", "labels": []}, "damaged"),
        ({"schema_version": 3, "task": "classification"}, "damaged"),
        ({"schema_version": 4, "task": "classification", "label": "x"}, "update sonokit"),
    ],
)
def test_load_expert__damaged_or_newer(content: dict[str, Any], told: str, tmp_path: Path) -> None:
    (tmp_path / "expert.json").write_text(json.dumps(content))
    with pytest.raises(SonokitError, match=told):
        load_expert(tmp_path)


def test_load_expert__classes_that_its_head_does_not_know(plain: Expert, tmp_path: Path) -> None:
    folder = saved(plain, tmp_path / "e")
    content = json.loads((folder / "expert.json").read_text())
    (folder / "expert.json").write_text(json.dumps(content | {"classes": ["0", "1"]}))
    with pytest.raises(SonokitError, match="damaged"):
        load_expert(folder)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_load_expert__reference_cut_short(share: float, plain: Expert, store: EmbeddingStore, tmp_path: Path) -> None:
    folder = saved(plain, tmp_path / "e")
    (folder / "reference.json").write_text('{"schema_version": 1}')
    np.savez(folder / "reference.npz", features=np.zeros((9, 9)), embedding=np.zeros((9, 9)))
    whole = (folder / "reference.npz").read_bytes()
    (folder / "reference.npz").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(SonokitError, match=r"reference\.npz is damaged"):
        load_expert(folder)


def test_load_expert__elsewhere_and_without_pickles_the_same_numbers(
    plain: Expert, store: EmbeddingStore, tmp_path: Path
) -> None:
    folder = saved(plain, tmp_path / "e")
    code = (
        "import pickle, sys\n"
        "def refused(*_, **__): raise AssertionError('something was unpickled')\n"
        "pickle.load = pickle.loads = pickle.Unpickler = refused\n"
        "from sonokit.experts.predict import predict\n"
        "from sonokit.features.store import EmbeddingStore\n"
        "predict(sys.argv[1], EmbeddingStore.open(sys.argv[2])).to_json(sys.argv[3], double_precision=15)\n"
    )
    moved, elsewhere = folder.rename(tmp_path / "moved"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    command = [sys.executable, "-c", code, str(moved), str(store.folder), "out.json"]
    done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    there = pd.read_json(elsewhere / "out.json", dtype={"clip_id": str, "prediction": str}, precise_float=True)
    pd.testing.assert_frame_equal(there, predict(plain, store), check_dtype=False, check_index_type=False, rtol=1e-12)
