import numpy as np
import pandas as pd
import pytest
from sonokit.clips.held_out_column import divide_as_told, held_out_by_column, require_held_out
from sonokit.clips.splits import make_splits
from sonokit.errors import SonokitError


@pytest.fixture
def clips() -> pd.DataFrame:
    """Two clips of each of twelve patients, of two classes; the last three patients are held out."""
    table = pd.DataFrame(
        {"clip_id": [f"c{k:02d}" for k in range(24)], "patient_id": np.repeat([f"p{k:02d}" for k in range(12)], 2)}
    )
    table["label"] = np.where(np.arange(24) // 2 % 2, "yes", "no")
    return table.assign(split=np.where(np.arange(24) < 18, "train", "Test "))


def test_divide_as_told__holds_out_whom_the_column_names(clips: pd.DataFrame) -> None:
    patients = clips["patient_id"].to_numpy(dtype=str)
    splits, notes = divide_as_told(clips, patients, label="label", patient_column="patient_id", folds=3, repeats=2, seed=0)
    assert set(splits.held_out) == {f"c{k:02d}" for k in range(18, 24)}
    for repeat in range(2):
        tested = [clip for fold in splits.folds if fold.repeat == repeat for clip in fold.test]
        assert sorted(tested) == [f"c{k:02d}" for k in range(18)]
    splits.check(clips["clip_id"], patients)
    assert "6 clips" in notes[0]


def test_divide_as_told__without_the_column_nobody(clips: pd.DataFrame) -> None:
    plain = clips.drop(columns="split")
    patients = plain["patient_id"].to_numpy(dtype=str)
    splits, notes = divide_as_told(plain, patients, label="label", patient_column="patient_id", folds=3, repeats=1, seed=0)
    assert splits.held_out == ()
    assert notes == []


def test_divide_as_told__twice_is_refused(clips: pd.DataFrame) -> None:
    with pytest.raises(SonokitError, match="says who is held out already"):
        divide_as_told(
            clips, clips["patient_id"].to_numpy(dtype=str), label="label", patient_column="patient_id", held_out=0.2, folds=3
        )


def test_require_held_out__splits_that_divide_what_the_column_closes(clips: pd.DataFrame) -> None:
    patients, names = clips["patient_id"].to_numpy(dtype=str), clips["clip_id"].to_numpy(dtype=str)
    out, _ = held_out_by_column(clips, "patient_id")
    plain = make_splits(clips, patients, label="label", patient_column="patient_id", folds=3)
    with pytest.raises(SonokitError, match=r"holds 6 clips out that the splits do not \(first 'c18'\)"):
        require_held_out(plain, out, names)
    require_held_out(plain, out, names[:18])  # those that do not take part are no matter
    told, _ = divide_as_told(clips, patients, label="label", patient_column="patient_id", folds=3)
    require_held_out(told, out, names)
