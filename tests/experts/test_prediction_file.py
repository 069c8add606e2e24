import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sonokit.cli import main
from sonokit.errors import SonokitError
from sonokit.experts.prediction_file import require_replaceable, write_predictions

OURS = {
    "one label": ["clip_id", "prediction", "p_ill", "p_well", "set"],
    "patients": ["patient_id", "prediction", "low", "high"],
    "several labels": ["clip_id", "a_lines", "p_a_lines", "set_a_lines", "b_lines", "p_b_lines"],
    "several classes": ["clip_id", "kind", "p_kind_a", "p_kind_b", "p_kind_c"],
    "several numbers": ["patient_id", "ratio", "low_ratio", "high_ratio"],
}
NOT_OURS = {
    "labels": ["clip_id", "diagnosis"],
    "labels by patient": ["patient_id", "ratio", "low", "high"],
    "other p": ["clip_id", "diagnosis", "p_value"],
    "names only": ["clip_id"],
    "an evaluation's": ["clip_id", "truth", "prediction", "p_ill", "p_well"],
    "a manifest": ["path", "clip_id", "prediction"],
}


@pytest.mark.parametrize("ending", ["csv", "json"])
@pytest.mark.parametrize("kind", [*OURS, *NOT_OURS])
def test_require_replaceable__earlier_predictions_only(kind: str, ending: str, tmp_path: Path) -> None:
    out, names = tmp_path / f"out.{ending}", (OURS | NOT_OURS)[kind]
    write_predictions(pd.DataFrame([["x"] * len(names)], columns=names), out)
    if kind in OURS:
        require_replaceable(out, {})
        return
    with pytest.raises(SonokitError, match="holds no predictions"):
        require_replaceable(out, {})


@pytest.mark.parametrize(("text", "ours"), [("[]", True), ("", False), ("{}", False), ("[1]", False), ("[{", False)])
def test_require_replaceable__an_empty_list_is_ours_and_nothing_else_odd(text: str, ours: bool, tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text(text)
    if ours:
        require_replaceable(tmp_path / "out.json", {})
        return
    with pytest.raises(SonokitError, match="holds no predictions"):
        require_replaceable(tmp_path / "out.json", {})


def test_require_replaceable__inputs_folders_and_other_endings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    manifest = tmp_path / "manifest.csv"
    write_predictions(pd.DataFrame({"clip_id": ["a"], "prediction": ["b"]}), manifest)
    with pytest.raises(SonokitError, match=r"what the predictions are made of \(--clips\)"):
        require_replaceable(Path("manifest.csv"), {"--store": None, "--clips": manifest})
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(SonokitError, match="is a folder"):
        require_replaceable(tmp_path / "folder.csv", {})
    for name in ("out.parquet", "out", "out.csv.gz"):
        with pytest.raises(SonokitError, match=r"end in \.csv or \.json"):
            require_replaceable(tmp_path / name, {})
    require_replaceable(tmp_path / "NEW.CSV", {"--store": "https://host/store"})


def test_write_predictions__json_keeps_every_digit(tmp_path: Path) -> None:
    values = np.random.default_rng(0).random(20)
    write_predictions(pd.DataFrame({"clip_id": list("abcdefghijklmnopqrst"), "prediction": values}), tmp_path / "out.json")
    read = [row["prediction"] for row in json.loads((tmp_path / "out.json").read_text())]
    np.testing.assert_allclose(read, values, rtol=0, atol=1e-15)


def test_predict__does_not_take_the_place_of_labels(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.write_text("clip_id,diagnosis\na,normal\n")
    assert main(["predict", str(tmp_path / "expert"), "--out", str(labels), "--store", str(tmp_path / "store")]) == 2
    assert labels.read_text() == "clip_id,diagnosis\na,normal\n"
    assert "holds no predictions" in capsys.readouterr().err
