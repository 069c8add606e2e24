"""Biomarker extractors as teachers: what they say of a frame, and that each fold hears the one that is blind to its tests."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sonokit.backbones.build import build_backbone
from sonokit.backbones.folder import save_backbone
from sonokit.clips.cached_clips import CachedClips
from sonokit.clips.sampling import Sampling
from sonokit.clips.splits import Splits, write_splits
from sonokit.distill.signals.terms import Batch
from sonokit.distill.students.folder import read_student_note
from sonokit.distill.study.asked import Asked, asked_findings
from sonokit.distill.study.settings import DistillSettings
from sonokit.distill.training.teacher_networks import ExtractorTeacher
from sonokit.distill.training.teachers import kind_of_question, open_source, teacher_frames
from sonokit.distill.training.views import SeenBatch
from sonokit.errors import SonokitError
from sonokit.features.extractors.biomarkers import BiomarkerExtractor, SegmentPlan
from sonokit.features.extractors.folder import ExtractorNote, save_extractor

SIDE = 40  # of conftest.py: an extractor wants the cache's frames as they are


def extractor(seed: int = 0, findings: tuple[str, ...] = ("f2", "f1"), shift: float = 0.0) -> BiomarkerExtractor:
    backbone = build_backbone("resnet10t" if shift else "micro_10k", seed=seed, temporal_shift=shift)
    torch.manual_seed(seed)
    made = BiomarkerExtractor(backbone, findings, plan=SegmentPlan(2, 1), size=SIDE, embedding=8)
    made.head.calibrate([0.5, 2.0][: len(findings)], [1.0, -1.0][: len(findings)])
    return made.eval()


def saved(folder: Path, clips: CachedClips, seen: Sequence[str], seed: int = 0, fold: int | None = None) -> Path:
    made = extractor(seed)
    save_backbone(made.backbone, folder / "backbone", provenance={})
    people = [clip.replace("c", "p") for clip in seen]
    provenance = {"fitted_on_labels": True, "labels": ["f1"], "training_clips": {}, "training_patients": people}
    sampling = dataclasses.asdict(clips.settings.sampling)
    save_extractor(made, folder, folder / "backbone", ExtractorNote(sampling, {}, provenance, "0", fold))
    return folder


def saved_set(folder: Path, clips: CachedClips, splits: Splits) -> Path:
    folder.mkdir()
    write_splits(splits, folder / "splits.json")
    (folder / "set.json").write_text(json.dumps({"kind": "extractor-set", "folds": len(splits.folds)}))
    for k in range(len(splits.folds)):
        saved(folder / f"fold-{k}", clips, splits.train_ids(k), seed=k, fold=k)
    saved(folder / "final", clips, splits.clip_ids, seed=9)
    (folder / "report.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def findings(clips: CachedClips) -> Asked:
    return asked_findings(clips, ("f1", "f2"))[0]


def test_of_a_frame_it_says_what_it_would_say_of_a_clip_of_that_frame_alone() -> None:
    made = extractor()
    frames = torch.rand(3, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        _, logits = made(frames[:, None, None])  # each a clip of one segment of one frame: [3, 1, 2]
        wanted = made.probabilities(made.clip_logits(logits))  # [3, 2]
        teacher = ExtractorTeacher(made, ("f1", "f2"))
        said = teacher.see(SeenBatch(frames, Batch()), strides=(8,))
        assert torch.allclose(said.logits.sigmoid(), wanted[:, [1, 0]], atol=1e-6)
        assert torch.equal(teacher(frames), said.logits)
    assert said.maps[8].shape[1] == teacher.map_channels[8]
    with pytest.raises(SonokitError, match="no class activation maps"):
        teacher.see(SeenBatch(frames, Batch()), class_maps=True)


def test_what_it_does_not_know_or_cannot_see_is_refused() -> None:
    with pytest.raises(SonokitError, match="knows f2, f1, not f3"):
        ExtractorTeacher(extractor(), ("f1", "f3"))
    with pytest.raises(SonokitError, match="temporal shift"):
        ExtractorTeacher(extractor(shift=0.125), ("f1",))


def test_one_extractor_teaches_without_scores_or_on_other_patients(
    findings: Asked, clips: CachedClips, tmp_path: Path, run: Any, tiny: DistillSettings
) -> None:
    place = saved(tmp_path / "e", clips, ["c01"])
    assert kind_of_question([str(place)], ["f1"]) == "several"
    assert teacher_frames([str(place)], size=16, sampling=Sampling(frames=2)) == clips.settings
    source = open_source(str(place), ("f1", "f2"), "several")
    with pytest.raises(SonokitError, match=r"trained on labels of 1 clips that fold \d tests.*first c01"):
        run(findings, tmp_path / "out", source)
    run(findings, tmp_path / "out", source, settings=dataclasses.replace(tiny, folds=0))
    note = read_student_note(tmp_path / "out" / "student")
    assert (note.kind, note.classes) == ("several", ("f1", "f2"))
    assert "p01" in note.provenance["training_patients"]
    with pytest.raises(SonokitError, match="answers several findings"):
        open_source(str(place), ("a", "b"), "classes")


def test_each_fold_hears_its_own_extractor(
    findings: Asked, clips: CachedClips, splits: Splits, tmp_path: Path, run: Any
) -> None:
    place = saved_set(tmp_path / "set", clips, splits)
    report = run(findings, tmp_path / "out", open_source(str(place), ("f1", "f2"), "several"))
    assert report["data"]["splits_fingerprint"] == splits.fingerprint()
    row = next(row for row in report["rows"] if row["name"] == "teacher")
    told = dict(zip(row["predictions"]["clip_ids"], row["predictions"]["values"][0], strict=True))
    for k, fold in enumerate(splits.folds):
        for clip in fold.test:
            number = findings.clip_ids.tolist().index(clip)
            frames = torch.from_numpy(np.array(clips[number].frames))[:, None].float() / 255
            with torch.inference_mode():
                wanted = ExtractorTeacher(extractor(k), ("f1", "f2"))(frames).sigmoid().mean(dim=0)
            assert told[clip] == pytest.approx(wanted.tolist(), abs=1e-5)


def test_a_set_and_the_splits_must_belong_together(
    findings: Asked, clips: CachedClips, splits: Splits, tmp_path: Path, run: Any
) -> None:
    place = saved_set(tmp_path / "set", clips, splits)
    source = open_source(str(place), ("f1", "f2"), "several")
    with pytest.raises(SonokitError, match="was trained with other splits"):
        run(findings, tmp_path / "out", source, splits=dataclasses.replace(splits, seed=99))
    saved(place / "fold-1", clips, splits.folds[1].test[:1], seed=1, fold=1)  # it has seen one of its test clips
    with pytest.raises(SonokitError, match="trained on labels of 1 clips that fold 1 tests"):
        run(findings, tmp_path / "out", open_source(str(place), ("f1", "f2"), "several"))
    (place / "report.json").unlink()
    with pytest.raises(SonokitError, match="is unfinished"):
        open_source(str(place), ("f1", "f2"), "several")
