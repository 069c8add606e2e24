"""Teachers as a user names them: a classifier's folder, a backbone to be fitted here, a biomarker extractor, predictions.

Whatever is named becomes a :class:`Source`; :func:`~sonokit.distill.study.fold_teacher.fold_teacher` makes one teacher of them.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...backbones.build import Backbone
from ...backbones.folder import backbone_fingerprint, open_backbone, read_provenance
from ...clips.cached_clips import CacheSettings
from ...clips.sampling import Sampling
from ...errors import SonokitError
from ...features.extraction.models import frame_settings
from ...features.extractors.folder import load_extractor, read_extractor
from ..signals.response import Kind
from ..students.folder import is_student, load_student, read_student_note, student_fingerprint
from ..students.micro import MICRO_NETWORKS
from .extractor_sets import ExtractorSet, is_extractor_set, read_extractor_set
from .learners import Learner
from .soft_labels import SoftLabels, read_soft_labels
from .teacher_networks import AsAsked, ExtractorTeacher


@dataclass(frozen=True, eq=False)
class Source:
    """One thing that a user named as a teacher; exactly one of the last four is there.

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
    """
    for word in words:
        folder = Path(word)
        if is_extractor_set(folder) or (folder / "extractor.json").is_file():
            return "several"
        if is_student(folder):
            return read_student_note(folder).kind
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
        weights: For a timm name: "none", "timm" or a .safetensors file.
        seed: Of random weights.

    Raises:
        SonokitError: It is none of these, is damaged, or answers something else.
    """
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
    seen = read_provenance(folder) if folder.is_dir() else {}
    pretrained = folder.is_dir() or weights != "none"
    return Source(word, "backbone", backbone_fingerprint(backbone), seen, backbone=backbone, pretrained=pretrained)


def _classifier(word: str, classes: Sequence[str], kind: Kind) -> Source:
    classifier, note = load_student(Path(word))
    _require_kind(word, note.kind, kind)
    absent = [name for name in classes if name not in note.classes]
    if absent or (kind == "classes" and set(classes) != set(note.classes)):
        raise SonokitError(
            f"the teacher {word} knows {', '.join(note.classes)}; asked is {', '.join(classes)}: take the same classes"
        )
    seen = {"fitted_on_labels": True, "clip_ids": note.trained_on} | {
        key: note.provenance[key] for key in ("training_clips", "training_patients") if key in note.provenance
    }
    columns = [note.classes.index(name) for name in classes]
    network = AsAsked(classifier, note.size, columns)
    return Source(word, "classifier", student_fingerprint(classifier, note), seen, note.size, network=network)


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
    """The device that is named; None: a GPU where there is one."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
