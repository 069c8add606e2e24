from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sonokit.errors import SonokitError
from sonokit.experts.crossval import cross_validate
from sonokit.experts.distilled import (
    EnsembleTeacher,
    NetworkTeacher,
    distil_final,
    distil_out_of_fold,
    distillation_for,
    distilled_entry,
)
from sonokit.experts.heads import make_head
from sonokit.experts.settings import FitSettings
from sonokit.experts.study import Study, prepare


@pytest.fixture
def study(write: Any, clips: pd.DataFrame, embedding: Any, tmp_path: Path) -> Study:
    """A third of the clips has no diagnosis; p00 and p01 are held out by the store's column split."""
    rows = clips.assign(
        diagnosis=clips["diagnosis"].where(clips.index % 3 > 0), split=np.where(clips.index < 4, "test", "train")
    )
    store = write(tmp_path / "s", rows, embedding(clips, 1.0))
    return prepare(store, ["diagnosis"], FitSettings(folds=3, repeats=1))[0][0]


def write_targets(study: Study, folder: Path, value: float = 0.5) -> Path:
    """A fold's network knows nothing but the first class of the unlabelled clips."""
    unlabelled = study.features.final_store.frame().drop_duplicates("clip_id")
    clips = unlabelled["clip_id"][unlabelled["diagnosis"].isna()].tolist()
    rows = [
        {"fold": k, "clip_id": clip, "splits_fingerprint": study.splits.fingerprint()}
        for k in range(len(study.splits.folds))
        for clip in clips
    ]
    table = pd.DataFrame(rows)
    for k, name in enumerate(study.question.classes):
        table[f"p_{name}"] = value if k == 0 else (1 - value) / (len(study.question.classes) - 1)
    table.to_csv(folder / "targets.csv", index=False)
    return folder / "targets.csv"


def test_for_study__the_ensemble_and_the_studys_own_clips(study: Study) -> None:
    """Clips 0, 3, 6, … have no label; 0 and 3 are of held-out patients."""
    how = distillation_for(study, "ensemble", seed=3)
    assert how.teacher == EnsembleTeacher(seed=3)
    assert how.unlabelled is not None
    assert how.unlabelled.question.clip_ids.tolist() == [f"clip-{k:03d}" for k in range(6, 60, 3)]


def test_for_study__from_a_file_to_the_reports_entry(study: Study, tmp_path: Path) -> None:
    how = distillation_for(study, write_targets(study, tmp_path, 0.99), weight=0.25)
    assert isinstance(how.teacher, NetworkTeacher)

    def make() -> Any:
        return make_head(("linear",), study.question.task)

    told: list[int] = []
    plain = cross_validate(study.question, study.features.of, make, study.folds)
    taught, reading = distil_out_of_fold(
        study.question, study.features, study.folds, make_student=make, how=how,
        fitted=lambda fold, head: told.append(head.unlabelled_),
    )  # fmt: skip
    assert how.unlabelled is not None
    assert told == [len(how.unlabelled.of(fold)) for fold in study.folds]
    assert reading.raw.shape == taught.values.shape
    first = taught.values[..., 0].mean() - plain.values[..., 0].mean()
    assert first > 0.05  # the teacher's only word
    entry = distilled_entry(how, plain, taught, draws=50)
    assert entry["teacher"] == f"fine-tuned network ({tmp_path / 'targets.csv'})"
    assert (entry["unlabelled_clips"], entry["weight"]) == (18, 0.25)
    assert set(entry["gain"]) == set(entry["plain"]) == {"accuracy", "balanced_accuracy", "auroc"}
    head = distil_final(study.question, study.features, np.flatnonzero(study.usable), make_student=make, how=how)
    assert head.unlabelled_ == 18


def test_for_study__faults_come_before_the_long_work(study: Study, write: Any, clips: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(SonokitError, match="no soft targets"):
        distillation_for(study, tmp_path / "nowhere")
    far = clips.assign(clip_id="far-" + clips["clip_id"], content_hash="f" + clips["content_hash"])
    write(tmp_path / "far", far, np.zeros((60, 1, 16)), fingerprint="e" * 16)
    with pytest.raises(SonokitError, match="another extractor"):
        distillation_for(study, "ensemble", unlabelled=tmp_path / "far")
