"""Everything that may teach, what it must not have seen, and to whom gaze and regions are shown."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sonokit.backbones.build import build_backbone
from sonokit.backbones.folder import save_backbone
from sonokit.clips.sampling import Sampling
from sonokit.clips.splits import Splits
from sonokit.distill.students.folder import StudentNote, load_student, read_student_note, save_student
from sonokit.distill.study import fold_teacher as teacher_module
from sonokit.distill.study import folds as folds_module
from sonokit.distill.study.asked import Asked
from sonokit.distill.study.expert_knowledge import Knowledge, read_gaze, read_regions
from sonokit.distill.study.fairness import teacher_notes
from sonokit.distill.study.fold_teacher import FoldTeacher, base_views
from sonokit.distill.study.settings import DistillSettings, read_signal_words
from sonokit.distill.training.learners import Classifier, GazeClassifier, RegionClassifier
from sonokit.distill.training.teachers import Source, device_of, kind_of_question, open_source, teacher_frames, weights_source
from sonokit.errors import SonokitError


def test_a_teacher_that_saw_the_scored_clips_is_refused(
    finished: tuple[Path, dict[str, Any]], asked: Asked, tmp_path: Path, run: Any, tiny: DistillSettings
) -> None:
    seen = open_source(str(finished[0] / "teacher"), asked.classes, asked.kind)
    with pytest.raises(SonokitError, match=r"was trained on labels of \d+ clips that fold 0 tests.*--folds 0"):
        run(asked, tmp_path / "out", seen)
    assert not (tmp_path / "out").exists()
    report = run(asked, tmp_path / "out", seen, settings=dataclasses.replace(tiny, folds=0))
    assert report["teachers"][0]["kind"] == "classifier"
    assert not (tmp_path / "out" / "teacher").exists()


@pytest.mark.parametrize("by", ["clip_id", "content", "patient"])
def test_seen_is_seen_by_name_content_or_patient(asked: Asked, tmp_path: Path, by: str) -> None:
    known = {
        "clip_id": {"trained_on": ("c03",)},
        "content": {"provenance": {"training_clips": {"other name": asked.contents[3]}}},
        "patient": {"provenance": {"training_patients": ["p03"]}},
    }[by]
    note = StudentNote("classes", ("b", "a"), "kind", 32, {"frames": 4, "rate_hz": None}, 40, **known)
    save_student(Classifier(build_backbone("micro_10k"), ("b", "a")), tmp_path / "t", note)
    source = open_source(str(tmp_path / "t"), asked.classes, asked.kind)
    found = source.seen(asked.clip_ids, asked.contents, asked.patients)
    assert np.flatnonzero(found).tolist() == [3]


def test_a_backbone_that_saw_their_labels_is_refused(asked: Asked, tmp_path: Path, run: Any) -> None:
    seen = {"fitted_on_labels": True, "labels": ["kind"], "training_patients": ["p05"]}
    save_backbone(build_backbone("micro_10k"), tmp_path / "b", provenance=seen)
    with pytest.raises(SonokitError, match="no score would be fair"):
        run(asked, tmp_path / "out", open_source(str(tmp_path / "b"), asked.classes, asked.kind))


@pytest.mark.parametrize("kind", ["backbone", "student"])
def test_weights_of_a_folder_that_saw_their_labels_are_refused(
    asked: Asked, tmp_path: Path, run: Any, tiny: Any, kind: str
) -> None:
    if kind == "backbone":
        seen = {"fitted_on_labels": True, "labels": ["kind"], "training_patients": ["p05", "elsewhere"]}
        save_backbone(build_backbone("micro_10k"), tmp_path / "b", provenance=seen)
    else:
        known = {"trained_on": ("c05", "elsewhere")}
        note = StudentNote("classes", ("a", "b"), "kind", 32, {"frames": 4, "rate_hz": None}, 40, **known)
        save_student(Classifier(build_backbone("micro_10k"), ("a", "b")), tmp_path / "b", note)
    (tmp_path / "link.safetensors").symlink_to(tmp_path / "b" / "model.safetensors")
    for file in (str(tmp_path / "b" / "model.safetensors"), str(tmp_path / "link.safetensors")):
        teacher = open_source("micro_10k", asked.classes, asked.kind, weights=file)
        with pytest.raises(SonokitError, match=r"gave the teacher micro_10k its weights .*first c05.*other --weights"):
            run(asked, tmp_path / "out", teacher)
        begun = dataclasses.replace(tiny, student_weights=file)
        with pytest.raises(SonokitError, match=r"gave the student its weights .*first c05.*other --student_weights"):
            run(asked, tmp_path / "out", settings=begun)
    assert not (tmp_path / "out").exists()
    run(asked, tmp_path / "out", settings=dataclasses.replace(begun, folds=0))
    told = read_student_note(tmp_path / "out" / "student")
    assert "elsewhere" in {*told.provenance["training_patients"], *told.trained_on}


def test_weights_of_which_nobody_can_tell_are_noted(asked: Asked, tmp_path: Path, run: Any, tiny: Any) -> None:
    save_backbone(build_backbone("micro_10k"), tmp_path / "b", provenance={})
    bare = tmp_path / "w.safetensors"
    bare.write_bytes((tmp_path / "b" / "model.safetensors").read_bytes())
    settings = dataclasses.replace(tiny, folds=0, student_weights=str(bare))
    report = run(asked, tmp_path / "out", open_source("micro_10k", ("a", "b"), "classes", weights=str(bare)), settings=settings)
    told = [note for note in report["notes"] if "nobody can tell whose labels the weights" in note]
    assert len(told) == 2
    assert "of the teacher micro_10k" in told[0]
    assert "of the student" in told[1]
    known = dataclasses.replace(tiny, folds=0, student_weights=str(tmp_path / "b" / "model.safetensors"))
    assert not any("nobody can tell" in note for note in run(asked, tmp_path / "known", settings=known)["notes"])
    with pytest.raises(SonokitError, match="of a teacher that is a timm name"):
        open_source(str(tmp_path / "b"), ("a", "b"), "classes", weights=str(bare))


def test_another_student_does_not_train_or_ask_the_teachers_again(
    asked: Asked, splits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Any, tiny: DistillSettings
) -> None:
    trained: list[Any] = []
    said: list[str] = []
    own, see = teacher_module.train, Classifier.see_frames

    def counted(learner: Any, *args: Any, **options: Any) -> Any:
        trained.append(learner)
        return own(learner, *args, **options)

    def watched(self: Classifier, frames: Any, *args: Any, **options: Any) -> Any:
        if self.backbone.name == "micro_25k" and any(one is self for one in trained) and not self.training:
            said.append(self.backbone.name)
        return see(self, frames, *args, **options)

    monkeypatch.setattr(teacher_module, "train", counted)
    monkeypatch.setattr(Classifier, "see_frames", watched)
    kept = tmp_path / "cache" / "teachers"
    first = run(asked, tmp_path / "one", splits=splits, kept=kept)
    assert (len(trained), len(said)) == (3, 5)  # of two folds and the end: each learns, teaches, and is tested in the folds
    other = dataclasses.replace(tiny, student="micro-50k", epochs=1, learning_rate=1e-4)
    second = run(asked, tmp_path / "two", splits=splits, kept=kept, settings=other, signals=read_signal_words("response"))
    assert (len(trained), len(said)) == (3, 5)
    teachers = [next(row for row in report["rows"] if row["name"] == "teacher") for report in (first, second)]
    assert teachers[0] == teachers[1]
    alone = run(asked, tmp_path / "three", splits=splits, settings=other, signals=read_signal_words("response"))
    assert alone["rows"] == second["rows"]
    assert len(trained) == 6
    for file in kept.glob("*.safetensors"):
        file.write_bytes(b"damaged")
    run(asked, tmp_path / "four", splits=splits, settings=dataclasses.replace(other, epochs=2), kept=kept)
    assert len(trained) == 9


def test_an_extractors_larger_frames_are_said() -> None:
    source, settings = Source("e", "extractor", "0", size=80), DistillSettings(size=32, teacher_size=64)
    begin = weights_source("none")
    assert teacher_notes([source], begin, settings) == (
        "e wants frames of 80 pixels: all teachers saw these, not those of 64",
    )  # fmt: skip
    assert teacher_notes([source], begin, dataclasses.replace(settings, teacher_size=None)) == ()


def test_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SonokitError, match="torch finds no GPU here; say cpu"):
        device_of("cuda")
    with pytest.raises(SonokitError, match="no device 'gpu'"):
        device_of("gpu")
    assert device_of(None) == torch.device("cpu")


def test_predictions_teach_and_the_report_says_on_whose_word(
    asked: Asked, splits: Splits, tmp_path: Path, run: Any, tiny: Any
) -> None:
    sure = np.where(asked.truth == 1, 0.9, 0.2)
    table = pd.DataFrame({"clip_id": asked.clip_ids, "p_a": 1 - sure, "p_b": sure})
    table.to_csv(tmp_path / "p.csv", index=False)
    source = open_source(str(tmp_path / "p.csv"), asked.classes, asked.kind)
    report = run(asked, tmp_path / "out", source, splits=splits)
    rows = {row["name"]: row for row in report["rows"]}
    assert rows["teacher"]["scores"]["auroc"]["value"] == 1
    order = [report["rows"][0]["predictions"]["clip_ids"].index(clip) for clip in asked.clip_ids]
    told = np.array(rows["teacher"]["predictions"]["values"])[0, order, 1]
    assert told == pytest.approx(sure, abs=1e-5)
    assert any("out-of-fold predictions are not enough" in note for note in report["notes"])
    assert "teacher" not in report["sizes"]
    for signal, told in (
        ("feature_sharing", "the teacher has no map at stride"),
        ("attention", "signal attention: the teacher has no map at stride 8; it has: none"),
        ("relational", "Relational needs the teacher's features"),
        ("labels=-1", "weight of labels"),
    ):
        with pytest.raises(SonokitError, match=told):
            run(asked, tmp_path / "shared", source, splits=splits, signals=read_signal_words(signal))
        assert not (tmp_path / "shared").exists()
    for change in ({"members": 2}, {"teacher_size": 64}):
        with pytest.raises(SonokitError, match="is trained here"):
            run(asked, tmp_path / "m", source, splits=splits, settings=dataclasses.replace(tiny, **change))
    table[:-1].to_csv(tmp_path / "q.csv", index=False)
    with pytest.raises(SonokitError, match=r"lacks 1 of the clips \(first c11\)"):
        run(asked, tmp_path / "short", open_source(str(tmp_path / "q.csv"), asked.classes, asked.kind), splits=splits)


def test_an_ensemble_is_the_mean_of_its_parts(asked: Asked, tmp_path: Path, tiny: DistillSettings) -> None:
    note = StudentNote("classes", ("a", "b"), "kind", 32, {"frames": 4, "rate_hz": None}, 40)
    sources = []
    for number in range(2):
        network = Classifier(build_backbone("micro_10k", seed=number), ("a", "b"))
        torch.manual_seed(number)
        torch.nn.init.normal_(network.classify.weight)
        save_student(network, tmp_path / f"t{number}", note)
        sources.append(open_source(str(tmp_path / f"t{number}"), ("a", "b"), "classes"))
    pd.DataFrame({"clip_id": asked.clip_ids, "p_a": 0.25, "p_b": 0.75}).to_csv(tmp_path / "p.csv", index=False)
    sources.append(open_source(str(tmp_path / "p.csv"), ("a", "b"), "classes"))
    rows = np.arange(12)
    views = base_views(asked, rows, 32, None, None)

    def said(some: list[Source]) -> np.ndarray:
        told = {"fold": None, "place": tmp_path, "device": torch.device("cpu"), "progress": lambda _: None}
        teacher = teacher_module.fold_teacher(some, asked, rows, tiny, None, **told)
        return torch.from_numpy(np.array(teacher.teach(views, asked.clip_ids).logits)).softmax(dim=1).numpy()

    parts = [said([one]) for one in sources]
    assert said(sources) == pytest.approx(np.mean(parts, axis=0), abs=1e-6)
    assert said(sources[:2]) == pytest.approx(np.mean(parts[:2], axis=0), abs=1e-6)
    assert parts[0] != pytest.approx(parts[1], abs=1e-3)


def test_members_begin_apart_and_are_all_kept(asked: Asked, tmp_path: Path, run: Any, tiny: DistillSettings) -> None:
    report = run(asked, tmp_path / "out", settings=dataclasses.replace(tiny, members=2, folds=0))
    first, second = (load_student(tmp_path / "out" / f"teacher-{k}")[0] for k in range(2))
    assert not torch.equal(first.backbone.model.stem[0].weight, second.backbone.model.stem[0].weight)
    assert report["sizes"]["teacher"]["networks"] == 2
    assert report["sizes"]["teacher"]["parameters"] == 2 * sum(p.numel() for p in first.parameters())


def gaze(asked: Asked, folder: Path) -> Knowledge:
    rows = [[clip, 0.1 * k + 0.05, 14, 20] for clip in asked.clip_ids for k in range(4)]
    pd.DataFrame(rows, columns=["clip_id", "time_s", "x", "y"]).to_csv(folder / "gaze.csv", index=False)
    return read_gaze(folder / "gaze.csv", asked.clips)


def regions(asked: Asked, folder: Path) -> Knowledge:
    rows = [[clip, "sign", 6, 12, 22, 28] for clip in asked.clip_ids[:8]]
    pd.DataFrame(rows, columns=["image", "class", "x0", "y0", "x1", "y1"]).to_csv(folder / "boxes.csv", index=False)
    return read_regions(folder / "boxes.csv", asked.clips)


@pytest.mark.parametrize(("make", "kind"), [(gaze, GazeClassifier), (regions, RegionClassifier)])
def test_gaze_and_regions_reach_the_teacher_and_nobody_else(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any, kind: type, run: Any, tiny: DistillSettings
) -> None:
    met: list[tuple[str, type, bool]] = []
    real = folds_module.train

    def watched(learner: Any, views: Any, *args: Any, **options: Any) -> Any:
        met.append(("student", type(learner), views.gaze is not None or views.regions is not None))
        return real(learner, views, *args, **options)

    own = teacher_module.train

    def taught(learner: Any, views: Any, *args: Any, **options: Any) -> Any:
        fresh, _ = options["fresh"](0)
        met.append(("teacher", type(learner), fresh.gaze is not None or fresh.regions is not None))
        return own(learner, views, *args, **options)

    monkeypatch.setattr(folds_module, "train", watched)
    monkeypatch.setattr(teacher_module, "train", taught)
    report = run(asked, tmp_path / "out", knowledge=make(asked, tmp_path), settings=dataclasses.replace(tiny, epochs=1))
    assert {one for one in met if one[0] == "teacher"} == {("teacher", kind, True)}
    assert {one for one in met if one[0] == "student"} == {("student", Classifier, False)}
    assert report["knowledge"]["annotated_clips"] == (12 if make is gaze else 8)
    assert report["knowledge"]["faults"]["counts"] == ({} if make is gaze else {"image_without_regions": 4})


def test_knowledge_that_would_reach_nobody_is_refused(
    finished: tuple[Path, dict[str, Any]], asked: Asked, tmp_path: Path, run: Any, tiny: DistillSettings
) -> None:
    fitted = open_source(str(finished[0] / "teacher"), asked.classes, asked.kind)
    settings = dataclasses.replace(tiny, folds=0)
    with pytest.raises(SonokitError, match="gaze would reach nobody"):
        run(asked, tmp_path / "out", fitted, knowledge=gaze(asked, tmp_path), settings=settings)


def test_teachers_of_another_question_are_refused(finished: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    place = str(finished[0] / "student")
    with pytest.raises(SonokitError, match=r"knows a, b; asked is a, c"):
        open_source(place, ("a", "c"), "classes")
    with pytest.raises(SonokitError, match="answers one of several classes, asked is several findings"):
        open_source(place, ("f1", "f2"), "several")
    assert kind_of_question([place], ["kind"]) == "classes"
    with pytest.raises(SonokitError, match="2 columns are named: name one"):
        kind_of_question([place], ["kind", "other"])
    assert kind_of_question(["resnet18"], ["f1", "f2"]) == "several"
    assert teacher_frames([place], size=20, sampling=Sampling(frames=4)).size == 40
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "expert.json").write_text("{}")
    with pytest.raises(SonokitError, match="is an expert, which reads embeddings"):
        open_source(str(tmp_path / "e"), ("a", "b"), "classes")


@pytest.mark.parametrize("make", [gaze, regions])
def test_a_fitted_teacher_is_read_again_whatever_it_is_shown(
    asked: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: DistillSettings, make: Any
) -> None:
    sources = [open_source("micro_10k", asked.classes, asked.kind)]
    known, rows, device = make(asked, tmp_path), np.arange(8), torch.device("cpu")

    def fitted(settings: DistillSettings) -> FoldTeacher:
        told = {"fold": 0, "place": tmp_path / "work", "device": device, "progress": lambda _: None}
        return teacher_module.fold_teacher(sources, asked, rows, settings, known, **told)

    tiny = dataclasses.replace(tiny, teacher_epochs=3)  # gaze enters with weights of zero: the first steps cannot move them
    views = base_views(asked, np.arange(12), 32, None, known)
    first = fitted(tiny).teach(views, asked.clip_ids).logits
    monkeypatch.setattr(teacher_module, "train", lambda *_, **__: pytest.fail("it was fitted already"))
    assert np.array_equal(fitted(tiny).teach(views, asked.clip_ids).logits, first)
    with pytest.raises(pytest.fail.Exception):
        fitted(dataclasses.replace(tiny, teacher_epochs=1))
    blind = fitted(tiny).teach(dataclasses.replace(views, gaze=None, regions=None), asked.clip_ids).logits
    assert not np.array_equal(blind, first)


def test_region_overlap_is_told_to_the_student(asked: Asked, tmp_path: Path, run: Any, tiny: DistillSettings) -> None:
    signals = read_signal_words("labels,region_overlap")
    known = regions(asked, tmp_path)
    with pytest.raises(SonokitError, match="cannot move regions, gaze and landmarks along: take affine"):
        run(asked, tmp_path / "u", knowledge=known, settings=dataclasses.replace(tiny, augment="ultrasound"))
    assert not (tmp_path / "u").exists()
    report = run(asked, tmp_path / "out", knowledge=known, signals=signals, settings=dataclasses.replace(tiny, folds=0))
    assert report["measured"] is False
    with pytest.raises(SonokitError, match="region_overlap needs --regions"):
        run(asked, tmp_path / "x", signals=signals)
