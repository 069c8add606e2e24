"""A classifier on disk, student or teacher: timm's local layout with a head and a note beside it.

config.json, model.safetensors    the backbone in timm's own layout (see :mod:`sonokit.backbones.folder`), with its card
head.safetensors                  the linear layer and the normalisation before it
student.json                      what it answers, what frames it wants, what it was trained on

The folder is written under a temporary name and renamed when it is whole. Nothing in it is ever unpickled.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import safetensors.torch
from safetensors import SafetensorError
from torch import nn

from ...atomic import atomic_path, write_json
from ...backbones.folder import backbone_fingerprint, load_backbone, save_backbone
from ...clips.sampling import Sampling
from ...errors import SonokitError
from ..training.learners import Classifier
from . import micro as micro  # registers the micro networks with timm, so that a saved one opens

STUDENT_SCHEMA = 1
STUDENT_FILE = "student.json"

Kind = Literal["classes", "several"]


@dataclass(frozen=True)
class StudentNote:
    """What ``student.json`` says beside the network.

    Attributes:
        kind: "classes": one of K, a softmax over the logits. "several": each of K findings may be there, a sigmoid each.
        classes: Names of the K classes or findings, in the order of the logits.
        label: The column of the manifest that was learnt; of several, joined by commas.
        size: Side of the frames that the network sees, in pixels.
        sampling: Which frames of a clip: the values of :class:`~sonokit.clips.sampling.Sampling`.
        cache_size: Side of the letterboxed frames that are resized to ``size``.
        trained_on: Every clip whose label or frames had a part in the weights, those of its teacher's training among them.
        provenance: Where it comes from; plain values for JSON.
    """

    kind: Kind
    classes: tuple[str, ...]
    label: str
    size: int
    sampling: dict[str, Any]
    cache_size: int
    trained_on: tuple[str, ...] = ()
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise SonokitError(f"a student's kind is classes or several, not {self.kind!r}")
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise SonokitError(f"a student's classes must be there and differ; they are {list(self.classes)}")
        if self.size < 1 or self.cache_size < 1:
            raise SonokitError(f"a student's frames have a side of 1 pixel or more, not {self.size} and {self.cache_size}")
        Sampling(**self.sampling)


def save_student(classifier: Classifier, folder: Path, note: StudentNote) -> None:
    """Write ``folder``; a student's folder that is there already is replaced once the new one is whole.

    Args:
        classifier: A plain one: what gaze or regions entered by is left behind with its teacher.
        folder: To be made.
        note: What is to be known of it.

    Raises:
        SonokitError: The classes are not the classifier's, or the folder holds something else.
    """
    folder = Path(folder)
    if note.classes != classifier.classes:
        raise SonokitError(f"the note says classes {list(note.classes)}, the network has {list(classifier.classes)}")
    if folder.exists() and not (folder / STUDENT_FILE).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise SonokitError(f"{folder} holds something else than a student: choose another folder")
    with atomic_path(folder) as staged:
        save_backbone(classifier.backbone, staged, provenance=_backbone_provenance(note))
        head = {name: value.detach().cpu().contiguous() for name, value in _head_state(classifier).items()}
        safetensors.torch.save_file(head, staged / "head.safetensors")
        (staged / "head.safetensors").chmod((staged / "sonokit.json").stat().st_mode)  # safetensors makes it private
        plain = {
            "schema": STUDENT_SCHEMA,
            **asdict(note),
            "normalise": isinstance(classifier.normalise, nn.BatchNorm1d),
            "fingerprint": student_fingerprint(classifier, note),
        }
        write_json(staged / STUDENT_FILE, plain)


def load_student(folder: Path) -> tuple[Classifier, StudentNote]:
    """Read a student, in evaluation mode.

    Raises:
        SonokitError: It is no student's folder, a part is missing, damaged or exchanged, or a newer sonokit wrote it.
    """
    folder = Path(folder)
    note, plain = _read(folder)
    backbone = load_backbone(folder)
    classifier = Classifier(backbone, note.classes, normalise=bool(plain["normalise"]))
    file = folder / "head.safetensors"
    if not file.is_file():
        raise SonokitError(f"{folder} is no whole student: head.safetensors is missing; copy the folder again")
    try:
        tensors = safetensors.torch.load_file(file)
        missing, unexpected = classifier.load_state_dict(tensors, strict=False)
        broken = [name for name in missing if not name.startswith("backbone.")] + list(unexpected)
        if broken:
            raise RuntimeError(f"{broken[0]} is missing or unexpected")
    except (RuntimeError, OSError, SafetensorError) as fault:
        raise SonokitError(f"{file} cannot be loaded: {str(fault).splitlines()[0]}") from fault
    if student_fingerprint(classifier, note) != plain["fingerprint"]:
        raise SonokitError(f"{folder}: the weights are not those that {STUDENT_FILE} describes; was one of the files replaced?")
    return classifier.eval(), note


def read_student_note(folder: Path) -> StudentNote:
    """The note alone, without building the network.

    Raises:
        SonokitError: As :func:`load_student`, as far as the note is concerned.
    """
    return _read(Path(folder))[0]


def is_student(folder: str | Path) -> bool:
    """Whether the folder is a student's."""
    return (Path(folder) / STUDENT_FILE).is_file()


def student_fingerprint(classifier: Classifier, note: StudentNote) -> str:
    """16 hex digits that any change of the weights, the classes or the frames that it wants changes."""
    asked = [note.kind, list(note.classes), note.size, note.sampling, note.cache_size]
    digest = hashlib.sha256(json.dumps([backbone_fingerprint(classifier.backbone), asked], sort_keys=True).encode())
    head = {name: value.detach().cpu().contiguous() for name, value in _head_state(classifier).items()}
    digest.update(safetensors.torch.save(head))
    return digest.hexdigest()[:16]


def _head_state(classifier: Classifier) -> dict[str, Any]:
    return {name: value for name, value in classifier.state_dict().items() if not name.startswith("backbone.")}


def _backbone_provenance(note: StudentNote) -> dict[str, Any]:
    patients = note.provenance.get("training_patients", [])
    return {
        "fitted_on_labels": True,
        "labels": note.label.split(","),
        "training_clips": note.provenance.get("training_clips", dict.fromkeys(note.trained_on, "")),
        "training_patients": list(patients),
    }


def _read(folder: Path) -> tuple[StudentNote, dict[str, Any]]:
    file = folder / STUDENT_FILE
    if not file.is_file():
        raise SonokitError(f"{folder} is no student's folder: {STUDENT_FILE} is missing (sonokit distill makes one)")
    try:
        plain: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        schema = int(plain["schema"])
    except (ValueError, KeyError, TypeError) as fault:
        raise SonokitError(f"{file} is damaged ({fault}): make or copy the folder again") from fault
    if schema > STUDENT_SCHEMA:
        raise SonokitError(f"{file} was written by a newer sonokit (schema {schema}): update this one")
    try:
        note = StudentNote(
            kind=plain["kind"],
            classes=tuple(plain["classes"]),
            label=str(plain["label"]),
            size=int(plain["size"]),
            sampling=dict(plain["sampling"]),
            cache_size=int(plain["cache_size"]),
            trained_on=tuple(plain["trained_on"]),
            provenance=dict(plain["provenance"]),
        )
        plain["normalise"], plain["fingerprint"]
    except (ValueError, KeyError, TypeError) as fault:
        raise SonokitError(f"{file} is damaged ({fault}): make or copy the folder again") from fault
    return note, plain
