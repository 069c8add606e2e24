from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sonokit.experts.audit.duplicates import near_duplicates, outlying
from sonokit.features.search.index import normalised


@pytest.fixture
def noise(clips: pd.DataFrame) -> np.ndarray:
    """Sixty unlike clips of three segments, [60, 3, 16]."""
    rng = np.random.default_rng(4)
    return (rng.normal(size=(60, 1, 16)) + 0.2 * rng.normal(size=(60, 3, 16))).astype(np.float32)


def patient_of(clips: pd.DataFrame, column: str = "patient_id") -> dict[str, str]:
    return dict(zip(clips["clip_id"], clips[column], strict=True))


def test_near_duplicates__a_planted_pair_and_nothing_else(
    write: Any, clips: pd.DataFrame, noise: np.ndarray, tmp_path: Path
) -> None:
    noise[40] = noise[3] + 1e-3  # of patients p20 and p01
    noise[11] = noise[10] + 1e-3  # of one patient: no finding
    found = near_duplicates(write(tmp_path / "s", clips, noise), clips["clip_id"].to_numpy(dtype=str), patient_of(clips))
    assert [(pair.first, pair.second) for pair in found.pairs] == [("clip-003", "clip-040")]
    assert (found.pairs[0].first_patient, found.pairs[0].second_patient) == ("p01", "p20")
    assert found.pairs[0].similarity > found.threshold > found.median
    assert found.clips == 60


def test_near_duplicates__threshold_by_brute_force(write: Any, clips: pd.DataFrame, noise: np.ndarray, tmp_path: Path) -> None:
    found = near_duplicates(write(tmp_path / "s", clips, noise), clips["clip_id"].to_numpy(dtype=str), patient_of(clips))
    assert found.pairs == ()
    units = normalised(noise.reshape(180, 16)).reshape(60, 3, 16).astype(np.float64)
    means = units.mean(axis=1)
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    similar = means @ means.T
    owner = clips["patient_id"].to_numpy()
    nearest = np.where(owner[:, None] == owner[None, :], -1, similar).max(axis=1)
    z = np.arctanh(nearest)
    threshold = np.tanh(np.median(z) + 3.5 * 1.4826 * np.median(np.abs(z - np.median(z))))
    assert found.threshold == pytest.approx(threshold, abs=1e-4)
    assert found.median == pytest.approx(np.median(nearest), abs=1e-3)


def test_near_duplicates__another_column_for_the_patient(
    write: Any, clips: pd.DataFrame, noise: np.ndarray, tmp_path: Path
) -> None:
    noise[40] = noise[3] + 1e-3
    store = write(tmp_path / "s", clips, noise)
    people = clips.assign(person=np.where(clips["patient_id"] == "p20", "p01", clips["patient_id"]))
    ids = clips["clip_id"].to_numpy(dtype=str)
    assert near_duplicates(store, ids, patient_of(people, "person"), by_patient_id=False).pairs == ()
    assert len(near_duplicates(store, ids, patient_of(clips, "clip_id"), by_patient_id=False).pairs) == 1


def test_outlying__few_clips_have_no_distribution() -> None:
    assert outlying(np.linspace(0, 0.9, 9)) == (None, None)
    assert outlying(np.ones(20))[0] <= 1
