"""A student's folder: what is written is what is read, and nothing else is taken for one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch
from sonokit.distill.students.build import build_student
from sonokit.distill.students.folder import StudentNote, is_student, load_student, read_student_note, save_student
from sonokit.distill.training.learners import Classifier
from sonokit.errors import SonokitError

NOTE = StudentNote(
    kind="classes",
    classes=("a", "b", "c"),
    label="kind",
    size=32,
    sampling={"frames": 4, "rate_hz": None},
    cache_size=48,
    trained_on=("c1", "c2"),
    provenance={"training_clips": {"c1": "11", "c2": "22"}, "training_patients": ["p1"], "loss": [1.5]},
)
FRAMES = torch.linspace(0, 1, 2 * 32 * 32).view(2, 1, 32, 32)


def made(*, normalise: bool = True) -> Classifier:
    torch.manual_seed(3)
    classifier = Classifier(build_student("micro-10k", seed=1), NOTE.classes, normalise=normalise)
    torch.nn.init.normal_(classifier.classify.weight)
    torch.nn.init.normal_(classifier.classify.bias)
    if normalise:
        classifier.normalise.running_mean.normal_()
        classifier.normalise.running_var.uniform_(0.5, 2)
    return classifier.eval()


@pytest.mark.parametrize("normalise", [True, False])
def test_what_is_saved_is_read(tmp_path: Path, normalise: bool) -> None:
    student = made(normalise=normalise)
    save_student(student, tmp_path / "s", NOTE)
    found, note = load_student(tmp_path / "s")
    assert note == NOTE == read_student_note(tmp_path / "s")
    assert not found.training
    with torch.inference_mode():
        assert torch.equal(found(FRAMES), student(FRAMES))
    assert is_student(tmp_path / "s")
    assert [path.name for path in tmp_path.iterdir()] == ["s"]  # no temporary name is left


def test_plain_timm_opens_it(tmp_path: Path) -> None:
    student = made()
    save_student(student, tmp_path / "s", NOTE)
    model = timm.create_model(f"local-dir:{tmp_path / 's'}", pretrained=True).eval()
    with torch.inference_mode():
        normed = (FRAMES - student.backbone.mean) / student.backbone.std
        assert torch.allclose(model(normed), student.backbone(FRAMES), atol=1e-6)


def test_another_student_replaces_it_and_nothing_else_is_replaced(tmp_path: Path) -> None:
    save_student(made(), tmp_path / "s", NOTE)
    save_student(made(), tmp_path / "s", replace(NOTE, label="other"))
    assert read_student_note(tmp_path / "s").label == "other"
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "thesis.txt").write_text("mine")
    with pytest.raises(SonokitError, match="holds something else"):
        save_student(made(), tmp_path / "t", NOTE)
    assert (tmp_path / "t" / "thesis.txt").read_text() == "mine"


def test_a_note_must_be_the_network_s(tmp_path: Path) -> None:
    with pytest.raises(SonokitError, match=r"note says classes \['x', 'y'\]"):
        save_student(made(), tmp_path / "s", replace(NOTE, classes=("x", "y")))
    assert not (tmp_path / "s").exists()


def test_missing_and_damaged_parts_are_told(tmp_path: Path) -> None:
    with pytest.raises(SonokitError, match=r"student\.json is missing"):
        load_student(tmp_path)
    save_student(made(), tmp_path / "s", NOTE)
    head, note = tmp_path / "s" / "head.safetensors", tmp_path / "s" / "student.json"
    whole, text = head.read_bytes(), note.read_text()
    head.unlink()
    with pytest.raises(SonokitError, match=r"head\.safetensors is missing"):
        load_student(tmp_path / "s")
    head.write_bytes(whole[:40])
    with pytest.raises(SonokitError, match=r"head\.safetensors cannot be loaded"):
        load_student(tmp_path / "s")
    head.write_bytes(whole)
    note.write_text(text[:50])
    with pytest.raises(SonokitError, match=r"student\.json is damaged"):
        load_student(tmp_path / "s")
    plain = json.loads(text)
    for broken in ({"schema": 1}, {**plain, "classes": []}, {**plain, "sampling": {"hz": 3}}):
        note.write_text(json.dumps(broken))
        with pytest.raises(SonokitError, match=r"damaged|classes must be there"):
            load_student(tmp_path / "s")
    note.write_text(json.dumps({**plain, "schema": 99}))
    with pytest.raises(SonokitError, match="newer sonokit"):
        load_student(tmp_path / "s")


def test_an_exchanged_file_is_noticed(tmp_path: Path) -> None:
    save_student(made(), tmp_path / "s", NOTE)
    head = tmp_path / "s" / "head.safetensors"
    tensors = safetensors.torch.load_file(head)
    safetensors.torch.save_file({**tensors, "classify.bias": tensors["classify.bias"] + 1e-3}, head)
    with pytest.raises(SonokitError, match="one of the files replaced"):
        load_student(tmp_path / "s")
    safetensors.torch.save_file({"classify.bias": tensors["classify.bias"]}, head)
    with pytest.raises(SonokitError, match="missing or unexpected"):
        load_student(tmp_path / "s")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kind": "ranks"}, "classes or several"),
        ({"classes": ("a", "a")}, "must be there and differ"),
        ({"size": 0}, "1 pixel or more"),
        ({"sampling": {"frames": None, "rate_hz": None}}, "either frames or rate_hz"),
    ],
)
def test_notes_that_cannot_be(change: dict[str, object], told: str) -> None:
    with pytest.raises(SonokitError, match=told):
        replace(NOTE, **change)
