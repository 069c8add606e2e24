"""What decides a biomarker extractor, and what cannot be had together."""

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from ...errors import SonokitError
from .head_fitting import FittingSettings
from .pooling import Pooling

Tune = Literal["none", "part", "all"]
Calibrating = Literal["inner", "none"]
ClassWeights = Literal["balanced", "none"]
BatchNorm = Literal["frozen", "batch"]

_EPOCHS = {"none": 0, "part": 10, "all": 20}  # with the backbone, or a part of it, in training
_HEAD_EPOCHS = 30

_CHOICES: dict[str, tuple[str, ...]] = {
    "tune": get_args(Tune),
    "pooling": get_args(Pooling),
    "class_weights": get_args(ClassWeights),
    "calibration": get_args(Calibrating),
    "batch_norm": get_args(BatchNorm),
}
_AT_LEAST = {
    "embedding": 1,
    "segments": 1,
    "segment_frames": 1,
    "stages": 1,
    "batch_clips": 1,
    "calibration_folds": 2,
    "weight_decay": 0,
    "seed": 0,
}
# Settings that do nothing but with some choices of another: name → (that other, what it may be)
_ONLY_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "stages": ("tune", ("part",)),
    "batch_norm": ("tune", ("all",)),
    "batch_clips": ("tune", ("part", "all")),
    "backbone_learning_rate": ("tune", ("part", "all")),
    "calibration_folds": ("calibration", ("inner",)),
}


@dataclass(frozen=True)
class BiomarkerSettings:
    """How an extractor is made.

    Attributes:
        biomarkers: Manifest columns of 0, 1 or nothing (unknown: left out of the loss).
        embedding: Length of a segment's embedding.
        segments: Into which a clip is cut at most.
        segment_frames: Frames of a segment that are looked at.
        pooling: From segments to the clip: "lse" (seen once is enough), "mean", "attention" or "noisy_or".
        tune: "none": the backbone stays as it is, its features are computed once for all folds; "part": its last stages are
            trained on maps that are computed once for all folds; "all": trained end to end.
        stages: How many of the backbone's stages "part" trains.
        epochs: Fixed in advance, never chosen by a score. With "none" of the head, None: 30. With "part" and "all" of backbone
            and head together, after 30 of the head alone; None: 10 and 20.
        learning_rate: Of the head.
        backbone_learning_rate: Of the backbone, where it is trained.
        weight_decay: Of AdamW.
        dropout: On features and embedding.
        class_weights: "balanced": a positive weighs as much as the negatives that there are for each, up to ten; or "none".
        label_smoothing: What a negative's target is raised to: "not noted" is often written as absent.
        batch_clips: Clips in a step that trains the backbone.
        batch_norm: Of a backbone that is trained as a whole: "frozen" keeps the statistics that it came with; "batch" takes the
            batch's: for a network with random weights, whose own say nothing.
        calibration: "inner": probabilities are calibrated on an inner patient-grouped division of the training clips, for which
            the extractor is trained once more an inner fold; with "all", where that is too dear, only the final extractor is,
            on the predictions out of fold. "none": not at all.
        calibration_folds: Of the inner division.
        seed: Fold K uses seed + K + 1, the final extractor seed.
    """

    biomarkers: tuple[str, ...]
    embedding: int = 128
    segments: int = 4
    segment_frames: int = 4
    pooling: Pooling = "lse"
    tune: Tune = "none"
    stages: int = 1
    epochs: int | None = None
    learning_rate: float = 1e-3
    backbone_learning_rate: float = 1e-4
    weight_decay: float = 0.05
    dropout: float = 0.3
    class_weights: ClassWeights = "balanced"
    label_smoothing: float = 0.05
    batch_clips: int = 8
    batch_norm: BatchNorm = "frozen"
    calibration: Calibrating = "inner"
    calibration_folds: int = 4
    seed: int = 0

    def check(self) -> None:
        """Refuse what makes no sense, all faults at once.

        Raises:
            SonokitError: With each fault.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        if not self.biomarkers:
            raise SonokitError("name at least one biomarker column (biomarkers)")
        faults = [f"{k} must be one of {', '.join(v)}, it is {values[k]!r}" for k, v in _CHOICES.items() if values[k] not in v]
        faults += [f"{k} must be at least {v}, it is {values[k]}" for k, v in _AT_LEAST.items() if values[k] < v]
        faults += _out_of_range(values)
        twice = sorted({name for name in self.biomarkers if self.biomarkers.count(name) > 1})
        if twice:
            faults.append(f"biomarkers names {', '.join(twice)} more than once: name each once")
        faults += self._without_use()
        if faults:
            raise SonokitError("; ".join(faults))

    def fitting(self) -> FittingSettings:
        """The part that concerns the fitting itself."""
        values = {f.name: getattr(self, f.name) for f in fields(FittingSettings) if hasattr(self, f.name)}
        head_epochs = (self.epochs or _HEAD_EPOCHS) if self.tune == "none" else _HEAD_EPOCHS
        epochs = 0 if self.tune == "none" else self.epochs or _EPOCHS[self.tune]
        return FittingSettings(**values | {"head_epochs": head_epochs, "epochs": epochs})

    def _without_use(self) -> list[str]:
        """What is asked for and would do nothing."""
        faults = []
        for field in fields(self):
            other, useful = _ONLY_WITH.get(field.name, ("tune", get_args(Tune)))
            if getattr(self, field.name) != field.default and getattr(self, other) not in useful:
                faults.append(f"{field.name} does nothing with {other} {getattr(self, other)}: leave it out")
        if self.segments == 1 and self.pooling == "attention":
            faults.append("attention has nothing to choose among with 1 segment: take more segments or another pooling")
        return faults


def _out_of_range(values: dict[str, Any]) -> list[str]:
    faults = [
        f"{name} must be above 0, it is {values[name]}"
        for name in ("learning_rate", "backbone_learning_rate")
        if not values[name] > 0
    ]
    faults += [
        f"{name} must lie in 0 … below {end}, it is {values[name]}"
        for name, end in (("dropout", 1), ("label_smoothing", 0.5))
        if not 0 <= values[name] < end
    ]
    if values["epochs"] is not None and values["epochs"] < 1:
        faults.append(f"epochs must be at least 1, it is {values['epochs']}")
    return faults
