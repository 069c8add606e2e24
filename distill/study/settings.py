"""How a student is distilled from clips, and in what words a user says which signals it learns from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml

from ...errors import SonokitError
from ...features.extractors.biomarkers import positive_weights
from ..signals.response import Kind
from ..signals.weighted import SIGNALS

DEFAULT_SIGNALS = "labels=0.3,response=0.7"
"""Plain distillation: the known labels, and more of what the teacher says."""

_OF_LANDMARKS = ("heat_map_targets", "heat_map_response")
_OF_ANSWERS = ("labels", "response")  # terms that must know the kind of question


@dataclass(frozen=True)
class DistillSettings:
    """What decides a student beside clips, teacher and signals. Fixed beforehand; nothing is chosen by a score.

    Attributes:
        student: A micro network or a timm name.
        student_weights: "none", "timm" or a .safetensors file.
        size: Side of the student's frames, in pixels.
        teacher_size: Side of the frames of a teacher that is trained here; None: the student's.
        frames_per_clip: Frames of a clip that are learnt from, one of each equal part.
        looks: Augmented views of each of these frames; drawn once, seen by teacher and students alike.
        epochs: Passes of the student over all views.
        batch: Views in a step.
        learning_rate: Peak of the student's.
        augment: "ultrasound", "affine" or "none"; None: "affine" where gaze or regions must move along, else "ultrasound".
        members: Networks that are trained from each backbone named as a teacher, each with a seed of its own.
        teacher_epochs: Passes of a teacher's training, each over views drawn anew.
        folds, repeats: Of the splits where none are given; 0 folds: no evaluation. Of given splits the first ``repeats``.
        draws, level: Resamples of the patients, and level of the intervals.
        seed: Of everything random.
    """

    student: str = "micro-50k"
    student_weights: str = "none"
    size: int = 112
    teacher_size: int | None = None
    frames_per_clip: int = 4
    looks: int = 8
    epochs: int = 15
    batch: int = 32
    learning_rate: float = 1e-3
    augment: Literal["ultrasound", "affine", "none"] | None = None
    members: int = 1
    teacher_epochs: int = 15
    folds: int = 5
    repeats: int = 1
    draws: int = 2000
    level: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"size": 16, "frames_per_clip": 1, "looks": 1, "epochs": 1, "batch": 2, "members": 1, "teacher_epochs": 1}
        for name, smallest in (least | {"folds": 0, "repeats": 1, "draws": 1, "seed": 0}).items():
            if getattr(self, name) < smallest:
                raise SonokitError(f"{name} must be at least {smallest}, it is {getattr(self, name)}")
        if self.folds == 1:
            raise SonokitError("folds must be 0 (no evaluation) or at least 2: one fold leaves nothing to train on")
        if self.teacher_size is not None and self.teacher_size < least["size"]:
            raise SonokitError(f"teacher_size must be at least {least['size']}, it is {self.teacher_size}")
        if self.teacher_size is not None and self.teacher_size < self.size:
            raise SonokitError(
                f"teacher_size {self.teacher_size} is smaller than size {self.size}: a teacher sees at least what its student "
                "sees; take a smaller size, or leave teacher_size out"
            )
        if not 0 < self.learning_rate < float("inf"):
            raise SonokitError(f"learning_rate must be a number above 0, it is {self.learning_rate}")
        if self.augment not in (None, "ultrasound", "affine", "none"):
            raise SonokitError(f"augment is ultrasound, affine or none, not {self.augment!r}")


def read_signal_words(text: str) -> dict[str, dict[str, Any]]:
    """Plain settings of signals, from what a user writes.

    Args:
        text: ``name`` or ``name=weight``, separated by commas; or a .yaml or .json file of name -> ``weight`` and options.

    Raises:
        SonokitError: A weight is no number, a term stands twice or is of landmarks, or the file is none.
    """
    file = Path(text)
    found = _from_file(file) if file.suffix.lower() in (".yaml", ".yml", ".json") else _from_words(text)
    strange = [name for name in found if name in _OF_LANDMARKS]
    if strange:
        raise SonokitError(f"the signal {strange[0]} is of landmarks, and clips have none: choose from {_choice()}")
    unknown = [name for name in found if name not in SIGNALS]
    if unknown:
        raise SonokitError(f"there is no signal {unknown[0]!r}; choose from {_choice()}")
    if not found:
        raise SonokitError(f"no signal is named; choose from {_choice()}")
    return found


def for_question(signals: Mapping[str, Mapping[str, Any]], kind: Kind, weights: list[float]) -> dict[str, dict[str, Any]]:
    """The same with what labels and response must know of the question, unless it is said already.

    Args:
        signals: From :func:`read_signal_words`.
        kind: Of the question.
        weights: Of the classes among the training clips, for the labels.
    """
    full = {name: dict(options) for name, options in signals.items()}
    for name in _OF_ANSWERS:
        if name in full:
            full[name].setdefault("kind", kind)
    if "labels" in full:
        full["labels"].setdefault("weights", weights)
    return full


def label_weights(truth: np.ndarray, kind: Kind, classes: int) -> list[float]:
    """Of classes: inversely as frequent as each is, mean 1 over the clips; of findings: negatives a positive, 0.1 to 10.

    Args:
        truth: Of the training clips: class codes int64 [M], or float [M, K] of 0, 1 and nan.
        kind: Which of the two.
        classes: K.
    """
    if kind == "classes":
        counts = np.bincount(truth[truth >= 0], minlength=classes)
        each = np.where(counts > 0, counts.sum() / (np.maximum(counts, 1) * max(1, (counts > 0).sum())), 0.0)
        return [round(float(value), 6) for value in each]
    return [round(value, 6) for value in positive_weights(torch.from_numpy(truth)).tolist()]


def _from_words(text: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for word in (part.strip() for part in text.split(",")):
        if not word:
            continue
        name, sign, weight = (part.strip() for part in word.partition("="))
        if name in found:
            raise SonokitError(f"the signal {name} is named twice: once is enough, with the weight that is meant")
        try:
            found[name] = {"weight": float(weight)} if sign else {}
        except ValueError:
            raise SonokitError(f"signals: the weight in {word!r} is no number; write such as {name}=0.5") from None
    return found


def _from_file(file: Path) -> dict[str, dict[str, Any]]:
    try:
        text = file.read_text(encoding="utf-8")
        content = json.loads(text) if file.suffix.lower() == ".json" else yaml.safe_load(text)
    except OSError as fault:
        raise SonokitError(f"there is no readable file of signals {file} ({fault.strerror})") from fault
    except (ValueError, yaml.YAMLError) as fault:
        raise SonokitError(f"{file} is neither JSON nor YAML: {str(fault).splitlines()[0]}") from fault
    if not isinstance(content, dict) or not all(isinstance(part, dict | None) for part in content.values()):
        raise SonokitError(
            f"{file} must hold a signal a key, with its weight and options below it, such as response: {{weight: 1}}"
        )
    return {str(name): dict(options or {}) for name, options in content.items()}


def _choice() -> str:
    return ", ".join(name for name in SIGNALS if name not in _OF_LANDMARKS)
