from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sonokit.errors import SonokitError
from sonokit.experts.oxygenation import require_ratio, sf_ratio
from sonokit.experts.question import pose

IDS = np.array(["a", "b", "c", "d"])
NAN = float("nan")


def test_sf_ratio__per_cent_over_fraction_by_hand() -> None:
    ratio, notes = sf_ratio([96, 90, 100, NAN], [0.21, 0.5, 1.0, 0.4], IDS)
    np.testing.assert_allclose(ratio[:3], [457.142857, 180.0, 100.0])
    assert np.isnan(ratio[3])
    assert any("1 of 3 clips" in note and "97" in note for note in notes)  # the one of 100 %


def test_sf_ratio__nothing_is_said_of_the_flat_part_where_nobody_is_on_it() -> None:
    _, notes = sf_ratio([97, 90], [0.21, 0.5], IDS[:2])
    assert not any("97" in note for note in notes)


@pytest.mark.parametrize(
    ("spo2", "fio2", "says"),
    [
        ([0.96, 0.90], [0.21, 0.5], r"spo2 of clip 'a' is 0.96 \(2 such clips\): a fraction.*multiply by 100"),
        ([96, 0.90], [0.21, 0.5], r"spo2 of clip 'b' is 0.9 \(1 such clips\): a fraction among per cents"),
        ([96, 90], [21, 50], r"fio2 of clip 'a' is 21 \(2 such clips\): in per cent.*divide by 100"),
        ([96, 90], [0.21, 50], r"fio2 of clip 'b' is 50 .*in per cent among fractions"),
        ([96, 45], [0.21, 0.5], r"spo2 of clip 'b' is 45 .*50 to 100"),
        ([96, 101], [0.21, 0.5], r"spo2 of clip 'b' is 101"),
        ([96, 0], [0.21, 0.5], r"spo2 of clip 'b' is 0 .*50 to 100"),
        ([96, 90], [0.21, 0.1], r"fio2 of clip 'b' is 0.1 .*room air"),
        ([96, 90], [0.21, 4], r"fio2 of clip 'b' is 4 .*L/min"),
        ([96, 90], [0.21, 0], r"fio2 of clip 'b' is 0 "),
        ([96, NAN], [NAN, 0.5], r"no clip has both spo2 and fio2"),
    ],
)
def test_sf_ratio__units_are_checked_never_guessed(spo2: list[float], fio2: list[float], says: str) -> None:
    with pytest.raises(SonokitError, match=says):
        sf_ratio(spo2, fio2, IDS[:2])


def test_require_ratio__the_ends_are_inside() -> None:
    require_ratio(np.array([50.0, 100 / 0.21, NAN]), IDS)
    with pytest.raises(SonokitError, match=r"clip 'b' is 4.5 \(2 such clips\)"):
        require_ratio(np.array([100.0, 4.5, 477.0]), IDS)


def patients(clips: pd.DataFrame) -> pd.DataFrame:
    return clips.assign(sats=95.0, oxygen=np.where(clips.index % 2, 0.5, 0.21))


def test_pose__sf_ratio_of_two_columns_of_the_store(clips: pd.DataFrame) -> None:
    question = pose(patients(clips), "sf_ratio", spo2="sats", fio2="oxygen")
    assert (question.task, question.label) == ("regression", "sf_ratio")
    np.testing.assert_allclose(question.truth, np.where(clips.index % 2, 190.0, 95 / 0.21))


def test_pose__sf_ratio_of_a_csv_by_patient_and_an_unknown_one_takes_no_part(clips: pd.DataFrame, tmp_path: Path) -> None:
    names = clips["patient_id"].unique()
    table = pd.DataFrame({"patient_id": names, "spo2": 90.0, "fio2": 0.3})
    table.loc[0, "fio2"] = np.nan
    table.to_csv(tmp_path / "gas.csv", index=False)
    question = pose(clips, "sf_ratio", labels_csv=tmp_path / "gas.csv")
    np.testing.assert_allclose(question.truth, 300.0)
    assert set(question.patients) == set(names[1:])


def test_pose__a_ready_sf_ratio_is_range_checked_and_the_ratio_of_one_column_is_not_there(clips: pd.DataFrame) -> None:
    assert pose(clips.assign(sf_ratio=clips["ratio"]), "sf_ratio").task == "regression"
    with pytest.raises(SonokitError, match=r"clip-000.*other units"):
        pose(clips.assign(sf_ratio=clips["ratio"] / 100), "sf_ratio")
    with pytest.raises(SonokitError, match="no label column 'fio2'"):
        pose(clips.assign(spo2=95.0), "sf_ratio")
    with pytest.raises(SonokitError, match="--spo2 and --fio2 make the label sf_ratio"):
        pose(patients(clips), "ratio", spo2="sats")


def test_pose__a_csv_of_both_columns_goes_before_a_ready_ratio_of_the_store(clips: pd.DataFrame, tmp_path: Path) -> None:
    patients = sorted(clips["patient_id"].unique())
    told = pd.DataFrame({"patient_id": patients, "spo2": 90.0, "fio2": 0.5})
    told.to_csv(tmp_path / "gas.csv", index=False)
    ready = clips.assign(sf_ratio=300.0)
    assert set(pose(ready, "sf_ratio", labels_csv=tmp_path / "gas.csv").truth) == {180.0}
    told.assign(sf_ratio=200.0).to_csv(tmp_path / "gas.csv", index=False)
    assert set(pose(ready, "sf_ratio", labels_csv=tmp_path / "gas.csv").truth) == {200.0}


def test_pose__a_gas_column_of_words_is_told_with_its_own_remedy(clips: pd.DataFrame) -> None:
    words = clips.drop(columns="sf_ratio", errors="ignore").assign(spo2="93%", fio2=0.4)
    with pytest.raises(SonokitError, match=r"spo2 of clip .* is '93%' .*write a bare number"):
        pose(words, "sf_ratio")
