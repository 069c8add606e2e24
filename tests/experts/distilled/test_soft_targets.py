import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sonokit.clips.splits import Fold, Splits
from sonokit.errors import SonokitError
from sonokit.experts.distilled import read_soft_targets

CLASSES = ("a", "b")
SPLITS = Splits(
    clip_ids=("c0", "c1", "c2", "c3", "h"), label=None, patient_column="patient_id", seed=0,
    folds=(Fold(0, 0, ("c0", "c1")), Fold(0, 1, ("c2", "c3"))), sites={}, held_out=("h",),
    patients=("p0", "p0", "p1", "p1", "p2"),
)  # fmt: skip
"""p0 is tested by fold 0, p1 by fold 1, p2 is held out."""


def fold_file(fold: int) -> dict[str, Any]:
    """As the fine-tuning writes it: the fold's test clips, and in ``also`` two clips that nobody labelled."""
    tested, trained = (["c0", "c1"], ["c2", "c3"]) if fold == 0 else (["c2", "c3"], ["c0", "c1"])
    return {
        "repeat": 0,
        "classes": list(CLASSES),
        "splits": SPLITS.fingerprint(),
        "trained_on": trained,
        "clip_ids": tested,
        "values": [[0.75, 0.25], [0.5, 0.5]],
        "also": {"clip_ids": ["u0", *trained], "values": [[0.125 + fold / 2, 0.875 - fold / 2], [1, 0], [0, 1]]},
    }


def write_folds(folder: Path, **changes: Any) -> Path:
    """``changes`` are of fold 1; None takes a key away."""
    folder.mkdir()
    for fold in (0, 1):
        plain = fold_file(fold) | (changes if fold == 1 else {})
        plain = {name: value for name, value in plain.items() if value is not None}
        (folder / f"fold-{fold:03d}.json").write_text(json.dumps(plain))
    return folder


def table() -> pd.DataFrame:
    """The same as :func:`fold_file`, a row a fold and clip."""
    rows = []
    for fold in (0, 1):
        plain = fold_file(fold)
        for part in (plain, plain["also"]):
            for clip, values in zip(part["clip_ids"], part["values"], strict=True):
                rows.append((fold, clip, *values, clip in plain["trained_on"], plain["splits"]))
    return pd.DataFrame(rows, columns=["fold", "clip_id", "p_a", "p_b", "trained_on", "splits_fingerprint"])


def test_soft_targets__of_a_fold_are_what_its_network_said(tmp_path: Path) -> None:
    found = read_soft_targets(write_folds(tmp_path / "f"), CLASSES, SPLITS)
    assert found.of(0, np.array(["u0", "c2", "c0"])).tolist() == [[0.125, 0.875], [1, 0], [0.75, 0.25]]
    assert found.of(1, np.array(["u0"])).tolist() == [[0.625, 0.375]]
    assert np.isnan(found.of(1, np.array(["unheard of"]))).all()


def test_soft_targets__for_the_final_head_come_of_networks_that_had_not_met_the_clip(tmp_path: Path) -> None:
    found = read_soft_targets(write_folds(tmp_path / "f"), CLASSES, SPLITS)
    assert found.final(np.array(["c1", "c2"])).tolist() == [[0.5, 0.5], [0.75, 0.25]]  # fold 0 and 1 tested them
    assert found.final(np.array(["u0"])).tolist() == [[0.375, 0.625]]  # the mean over both


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_soft_targets__tables_say_the_same_as_folders(form: str, tmp_path: Path) -> None:
    folder, file = write_folds(tmp_path / "f"), tmp_path / f"targets.{form}"
    table().to_csv(file, index=False) if form == "csv" else table().to_parquet(file)
    first, second = (read_soft_targets(source, CLASSES, SPLITS) for source in (folder, file))
    clips = np.array(["c0", "c1", "c2", "c3", "u0", "h"])
    for fold in (0, 1):
        np.testing.assert_array_equal(first.of(fold, clips), second.of(fold, clips))
    np.testing.assert_array_equal(first.final(clips), second.final(clips))


def test_soft_targets__of_a_number(tmp_path: Path) -> None:
    rows = table().drop(columns=["p_a", "p_b"]).assign(value=np.arange(10.0))
    rows.to_csv(tmp_path / "t.csv", index=False)
    found = read_soft_targets(tmp_path / "t.csv", (), SPLITS)
    assert found.of(0, np.array(["c1", "u0"])).tolist() == [1, 2]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"classes": ["b", "a"]}, r"fold-001.json is of the classes b, a; .* are a, b"),
        ({"classes": None}, r"fold-001.json is damaged, or an older sonokit wrote it .*classes"),
        ({"splits": "0" * 16}, r"is of other splits \(0000000000000000\)"),
        ({"splits": None, "trained_on": None}, r"does not say whom the network was trained on"),
        ({"trained_on": ["c0", "c2"]}, r"trained on the clip 'c2' of patient 'p1', whom this fold tests"),
        ({"trained_on": ["c0", "h"]}, r"trained on the clip 'h' of patient 'p2'"),
        ({"trained_on": ["c0", "x"]}, r"trained on the clip 'x', which the splits do not know"),
        ({"values": [[0.75, 0.5], [0.5, 0.5]]}, r"values of clip 'c2' are not probabilities that sum to one"),
        ({"values": [[1.5, -0.5], [0.5, 0.5]]}, r"values of clip 'c2' are not probabilities"),
        ({"values": [[0.5, 0.5]]}, r"fold-001.json is damaged"),
        ({"values": [[0.2, 0.3, 0.5]] * 2, "also": None}, r"gives 3 values a clip, 2 are needed"),
        ({"fold": 7}, r"no soft targets of fold 1 \(1 of 2 folds are missing\)"),
    ],
)
def test_soft_targets__a_wrong_fold_is_refused_in_one_line(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(SonokitError, match=said) as told:
        read_soft_targets(write_folds(tmp_path / "f", **changes), CLASSES, SPLITS)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda rows: rows[rows["fold"] == 0], r"no soft targets of fold 1"),
        (lambda rows: pd.concat([rows, rows[rows["fold"] == 1].assign(fold=2)]), r"fold 2, the splits have 2 folds only"),
        (lambda rows: rows.rename(columns={"p_b": "p_c"}), r"fold 0 is of the classes a, c; .* are a, b"),
        (lambda rows: rows.drop(columns=["p_a", "p_b"]), r"has no column 'value'"),
        (lambda rows: rows.drop(columns="clip_id"), r"has no column 'clip_id'"),
        (lambda rows: pd.concat([rows, rows.iloc[:1]]), r"fold 0 names the clip 'c0' more than once"),
        (lambda rows: rows.assign(p_a="high"), r"must be numbers"),
        (lambda rows: rows.assign(p_a=np.nan), r"not probabilities"),
        (lambda rows: rows.drop(columns=["trained_on", "splits_fingerprint"]), r"does not say whom"),
        (lambda rows: rows.assign(trained_on=True), r"trained on the clip 'u0', which the splits do not know"),
    ],
)
def test_soft_targets__a_wrong_table_is_refused_in_one_line(spoil: Any, said: str, tmp_path: Path) -> None:
    spoil(table()).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(SonokitError, match=said) as told:
        read_soft_targets(tmp_path / "t.csv", CLASSES, SPLITS)
    assert "\n" not in str(told.value)


def test_soft_targets__the_fingerprint_alone_stands_for_the_training_sides(tmp_path: Path) -> None:
    found = read_soft_targets(write_folds(tmp_path / "f", trained_on=None), CLASSES, SPLITS)
    assert found.folds[1].trained_on == {"c0", "c1"}


@pytest.mark.parametrize("name", ["nothing", "empty"])
def test_soft_targets__no_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SonokitError, match=r"fold-NNN.json"):
        read_soft_targets(tmp_path / name, CLASSES, SPLITS)
