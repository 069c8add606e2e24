from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sonokit.clips.splits import make_splits
from sonokit.experts.audit.leaks import both_sides, clips_trained_on, shared_contents
from sonokit.experts.question import pose


def test_shared_contents__several_patients_first(clips: pd.DataFrame) -> None:
    contents = clips["content_hash"].copy()
    contents[1], contents[50] = contents[0], contents[2]  # one patient's two clips; clips of p01 and p25
    found = shared_contents(clips.assign(content_hash=contents), clips["patient_id"].to_numpy(dtype=str))
    assert [(shared.clip_ids, shared.patients) for shared in found] == [
        (("clip-002", "clip-050"), ("p01", "p25")),
        (("clip-000", "clip-001"), ("p00",)),
    ]
    assert shared_contents(clips, clips["patient_id"].to_numpy(dtype=str)) == []


def test_both_sides__splits_by_clip_have_patients_on_both(clips: pd.DataFrame) -> None:
    question = pose(clips, "diagnosis")
    by_clip = make_splits(
        clips, clips["clip_id"].to_numpy(dtype=str), label="diagnosis", patient_column="clip_id", held_out=0.2
    )
    found = both_sides(by_clip, question)
    counted = set()
    sides = [set(fold.test) for fold in by_clip.folds]
    pairs = [(set(by_clip.clip_ids) - set(by_clip.held_out) - side, side) for side in sides]
    pairs.append((set(by_clip.clip_ids) - set(by_clip.held_out), set(by_clip.held_out)))
    whose = clips.set_index("clip_id")["patient_id"]
    for train, test in pairs:
        counted |= set(whose[sorted(train)]) & set(whose[sorted(test)])
    assert set(found.patients) == counted
    assert len(counted) > 10
    assert found.contents == ()


def test_both_sides__a_content_under_two_patients(clips: pd.DataFrame) -> None:
    patients = clips["patient_id"].to_numpy(dtype=str)
    splits = make_splits(clips, patients, label="diagnosis", patient_column="patient_id")
    assert both_sides(splits, pose(clips, "diagnosis")).folds == 0
    first, last = splits.folds[0].test[0], splits.folds[1].test[0]
    copied = clips.set_index("clip_id", drop=False)
    copied.loc[last, "content_hash"] = copied.loc[first, "content_hash"]
    found = both_sides(splits, pose(copied.reset_index(drop=True), "diagnosis"))
    assert (found.patients, found.contents, found.folds) == ((), (copied.loc[first, "content_hash"],), 2)


def test_clips_trained_on__counts_only_those_asked_for(write: Any, clips: pd.DataFrame, embedding: Any, tmp_path: Path) -> None:
    marked = clips.assign(extractor_trained_on=np.arange(60) < 10)
    store = write(tmp_path / "s", marked, embedding(clips, 1.0))
    assert clips_trained_on(store, clips["clip_id"].to_numpy(dtype=str)[5:20]) == (5, str(store.folder))
    assert clips_trained_on(store, clips["clip_id"].to_numpy(dtype=str)[10:])[0] == 0
