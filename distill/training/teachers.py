"""Teachers as a user names them: a classifier's folder, a backbone to be fitted here, a biomarker extractor, predictions.

Whatever is named becomes a :class:`Source`; :func:`~sonokit.distill.study.fold_teacher.fold_teacher` makes one teacher of them.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch

from ...backbones.build import Backbone
from ...backbones.folder import backbone_fingerprint, open_backbone, read_provenance
from ...clips.cached_clips import CacheSettings
from ...clips.sampling import Sampling
from ...errors import SonokitError
from ...features.extraction.models import frame_settings
from ...features.extractors.folder import load_extractor, read_extractor
from ..signals.response import Kind
from ..students.folder import StudentNote, is_student, load_student, read_student_note, student_fingerprint
from ..students.micro import MICRO_NETWORKS
from .extractor_sets import ExtractorSet, is_extractor_set, read_extractor_set
from .learners import Learner
from .soft_labels import SoftLabels, read_soft_labels
from .teacher_networks import AsAsked, ExtractorTeacher

_OURS = ("config.json", "extractor.json", "student.json", "expert.json", "set.json")  # one of them makes a folder a model's


@dataclass(frozen=True, eq=False)
class Source:
    """One thing that a user named as a teacher; exactly one of network, extractors, backbone and soft_labels is there.

    Attributes:
        name: As the user wrote it.
        kind: In words, for a report.
        fingerprint: Changes with anything that decides what it says.
        provenance: Whose labels it has seen: ``fitted_on_labels``, ``training_clips``, ``training_patients``, ``clip_ids``.
        size: Side of the frames that it wants; None where it takes any.
        network: A fitted one.
        extractors: A fitted one for each fold.
        backbone: To be fitted here, once a fold.
        soft_labels: What something else said of clips.
        pretrained: Whether the backbone has weights worth keeping.
        weights: Of a timm name: "none", "timm" or the file that they come from.
        untold: Whether nobody can tell whose labels the weights have seen.
    """

    name: str
    kind: str
    fingerprint: str
    provenance: Mapping[str, Any] = field(default_factory=dict)
    size: int | None = None
    network: Learner | None = None
    extractors: ExtractorSet | None = None
    backbone: Backbone | None = None
    soft_labels: SoftLabels | None = None
    pretrained: bool = False
    weights: str = "none"
    untold: bool = False

    def seen(self, clip_ids: np.ndarray, contents: np.ndarray, patients: np.ndarray) -> np.ndarray:
        """Which clips, or others of their patients, it was fitted on labels of: bool [N]; arguments str [N]."""
        if not self.provenance.get("fitted_on_labels", False):
            return np.zeros(len(clip_ids), dtype=bool)
        hashes = set(self.provenance.get("training_clips", {}).values()) - {""}
        people, named = self.provenance.get("training_patients", ()), self.provenance.get("clip_ids", ())
        met = np.isin(contents, list(hashes)) | np.isin(patients, list(people)) | np.isin(clip_ids, list(named))
        return np.asarray(met, dtype=bool)


def kind_of_question(words: Sequence[str], columns: Sequence[str]) -> Kind:
    """Whether a student learns classes or findings: as its teachers know it, else by how many columns are named.

    Args:
        words: The teachers.
        columns: Of the labels.

    Raises:
        SonokitError: Several columns, and a teacher that knows one column of classes.
    """
    for word in words:
        folder = Path(word)
        if is_extractor_set(folder) or (folder / "extractor.json").is_file():
            return "several"
        if is_student(folder):
            note = read_student_note(folder)
            if note.kind == "classes" and len(columns) > 1:
                raise SonokitError(
                    f"the teacher {word} tells the classes of one column ({note.label}), and {len(columns)} columns are named: "
                    "name one, or a teacher of findings"
                )
            return note.kind
    return "several" if len(columns) > 1 else "classes"


def teacher_frames(words: Sequence[str], *, size: int, sampling: Sampling) -> CacheSettings:
    """The frames that serve all teachers and the student.

    Args:
        words: The teachers. Extractors want the frames that they were trained on; others take any.
        size: Side that is wanted at least.
        sampling: Of frames where no extractor says otherwise.

    Raises:
        SonokitError: Two extractors want other frames.
    """
    wanted = {word: found for word in words if (found := frame_settings(word)) is not None}
    if len(set(wanted.values())) > 1:
        told = "; ".join(f"{word}: {settings.key}" for word, settings in wanted.items())
        raise SonokitError(f"these extractors were trained on different frames ({told}): take those of one kind")
    if wanted:
        return next(iter(wanted.values()))
    sides = [read_student_note(Path(word)).cache_size for word in words if is_student(word)]
    return CacheSettings(size=max([size, *sides]), sampling=sampling)


def open_source(word: str, classes: Sequence[str], kind: Kind, *, weights: str = "none", seed: int = 0) -> Source:
    """What a user names as a teacher.

    Args:
        word: A folder of a classifier that distill saved; an extractor or a set of them; a predictions CSV; a backbone folder
            or a timm name, which is to be fitted.
        classes: Names of what is asked.
        kind: Of the question.
        weights: For a timm name: "none", "timm" or a .safetensors file. A file beside a ``sonokit.json`` has seen what that
            says; for a file without one nobody can tell.
        seed: Of random weights.

    Raises:
        SonokitError: It is none of these, is damaged, answers something else, or has weights of its own beside ``weights``.
    """
    require_weights_used([word], weights)
    folder = Path(word)
    if folder.suffix.lower() == ".csv":
        table = read_soft_labels(folder, classes, kind)
        return Source(word, "predictions", table.fingerprint, soft_labels=table)
    if is_student(folder):
        return _classifier(word, classes, kind)
    if is_extractor_set(folder):
        _require_kind(word, "several", kind)
        found = read_extractor_set(folder, classes)
        return Source(word, "extractor set", found.fingerprint, size=found.size, extractors=found)
    if (folder / "extractor.json").is_file():
        _require_kind(word, "several", kind)
        values = read_extractor(folder)
        network = ExtractorTeacher(load_extractor(folder), classes, word)
        return Source(word, "extractor", values["fingerprint"], values["provenance"], network.size, network=network)
    if (folder / "expert.json").is_file():
        raise SonokitError(
            f"{word} is an expert, which reads embeddings: give its predictions (sonokit predict {word} --out FILE.csv)"
        )
    backbone = open_backbone(timm_name(word), weights=weights, seed=seed)
    begin = _of_folder(word, folder) if not is_timm_name(word) else weights_source(weights)
    return Source(
        word, "backbone", backbone_fingerprint(backbone), begin.provenance, backbone=backbone,
        pretrained=not is_timm_name(word) or weights != "none", weights=weights, untold=begin.untold,
    )  # fmt: skip


def weights_source(weights: str) -> Source:
    """What a network begins with, as far as it matters whose labels that has seen.

    Args:
        weights: "none", "timm" or a .safetensors file. Beside a file may lie the ``sonokit.json`` of the folder that it is of.
    """
    if weights in ("none", "timm"):
        return Source(weights, "weights", "")
    file = Path(weights)
    for folder in (file.parent, file.resolve().parent):
        if (folder / "sonokit.json").is_file():
            return _of_folder(weights, folder)
    return Source(weights, "weights", "", weights=weights, untold=True)


def is_timm_name(word: str) -> bool:
    """Whether a teacher is a network that timm builds, and no file or folder."""
    folder = Path(word)
    if folder.suffix.lower() == ".csv":
        return False
    return not (folder.is_dir() and (any((folder / name).exists() for name in _OURS) or not timm.is_model(word)))


def require_weights_used(words: Sequence[str], weights: str) -> None:
    """Refuse weights that none of the teachers could begin with.

    Raises:
        SonokitError: No teacher is a timm name.
    """
    if weights != "none" and not any(map(is_timm_name, words)):
        raise SonokitError(
            f"weights {weights} are of a teacher that is a timm name, and {', '.join(words)} is none: leave them out"
        )


def _of_folder(name: str, folder: Path) -> Source:
    """What a backbone's folder, or the student's that it is part of, says of its weights."""
    if is_student(folder):
        return Source(name, "weights", "", _seen_by_student(read_student_note(folder)), weights=name)
    seen = read_provenance(folder)
    untold = bool(seen["fitted_on_labels"]) and not seen["training_clips"] and not seen["training_patients"]
    return Source(name, "weights", "", seen, weights=name, untold=untold)


def _classifier(word: str, classes: Sequence[str], kind: Kind) -> Source:
    classifier, note = load_student(Path(word))
    _require_kind(word, note.kind, kind)
    absent = [name for name in classes if name not in note.classes]
    if absent or (kind == "classes" and set(classes) != set(note.classes)):
        raise SonokitError(
            f"the teacher {word} knows {', '.join(note.classes)}; asked is {', '.join(classes)}: take the same classes"
        )
    seen = _seen_by_student(note)
    columns = [note.classes.index(name) for name in classes]
    network = AsAsked(classifier, note.size, columns)
    return Source(word, "classifier", student_fingerprint(classifier, note), seen, note.size, network=network)


def _seen_by_student(note: StudentNote) -> dict[str, Any]:
    return {"fitted_on_labels": True, "clip_ids": note.trained_on} | {
        key: note.provenance[key] for key in ("training_clips", "training_patients") if key in note.provenance
    }


def _require_kind(word: str, own: Kind, asked: Kind) -> None:
    if own != asked:
        told = {"classes": "one of several classes", "several": "several findings, each of which may be there"}
        raise SonokitError(f"the teacher {word} answers {told[own]}, asked is {told[asked]}: name labels that it knows")


def seeded_twin(backbone: Backbone, source: Source, number: int, seed: int) -> Backbone:
    """A copy to be fitted as member ``number`` of an ensemble: with random weights of its own where they are random."""
    if source.pretrained or number == 0:
        return copy.deepcopy(backbone)
    return open_backbone(timm_name(source.name), weights="none", seed=seed + number)


def timm_name(word: str) -> str:
    """What timm knows a teacher by: a hyphen does for the underscore of a micro network; all else as it is."""
    return word.replace("-", "_") if word.replace("-", "_") in MICRO_NETWORKS else word


def device_of(name: str | None) -> torch.device:
    """The device that is named; None: a GPU where there is one.

    Raises:
        SonokitError: It is not there.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as fault:
        raise SonokitError(f"there is no device {name!r}: say cpu or cuda") from fault
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SonokitError(f"device {name}: torch finds no GPU here; say cpu, or leave --device out")
    return device
