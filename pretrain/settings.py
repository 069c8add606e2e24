"""What decides a pretraining run, and what cannot be had together."""

from dataclasses import dataclass, fields
from typing import Literal

from ..clips.augment import AugmentName
from ..errors import SonokitError
from .objectives.build import ObjectiveName, ObjectiveSettings, method_faults
from .pairs import PairName

Precision = Literal["auto", "32", "bf16", "fp16"]

_AT_LEAST = {
    "epochs": 1,
    "size": 8,
    "seed": 0,
    "warmup_epochs": 0,
    "label_weight": 0,
    "augment_strength": 0,
    "shadows": 0,
    "weight_decay": 0,
    "pair_seconds": 0,
    "clip_norm": 0,
    "accumulate": 1,
    "probe_every": 1,
    "devices": 1,
    "nodes": 1,
    "queue": 1,
    "dino_outputs": 2,
}


# Settings that do nothing but with one choice of another: name → (that other, what it must be)
_ONLY_WITH = {
    "alpha": ("pair_policy", "sample_pairs"),
    "independent_lam": ("pair_policy", "sample_pairs"),
    "pair_seconds": ("pair_policy", "nearby_frames"),
    "queue": ("objective", "moco"),
    "dino_outputs": ("objective", "dino"),
    "classify": ("objective", "uscl"),
    "augment_strength": ("augment", "ultrasound"),
    "shadows": ("augment", "ultrasound"),
}


@dataclass(frozen=True)
class PretrainSettings:
    """What decides a pretraining run.

    Attributes:
        objective: "uscl", "simclr", "moco", "byol", "dino" or "hico".
        backbone: A timm name or a backbone folder.
        weights: For a timm name: "none", "timm" or a local .safetensors file.
        size: Side of the training images in pixels.
        batch_size: Clips a step on each device, each of another patient.
        epochs: Passes over the clips.
        learning_rate: Of AdamW, after the warm-up.
        weight_decay: Of AdamW; biases and scales have none.
        warmup_epochs: Linear warm-up, at most half of the run; then a cosine.
        accumulate: Batches whose gradients make one step. Negatives still come from one batch.
        clip_norm: Longest gradient that a step takes as it is; 0 for any.
        pairs: "sample_pairs" (USCL), "two_views" (SimCLR), "nearby_frames" (IVPP); None takes the objective's own: sample pairs
            for uscl and hico, two views for the others.
        alpha: Of the Beta distribution of sample pairs' coefficients.
        independent_lam: A coefficient for each view (the paper) instead of a shared one (the reference code).
        pair_seconds: How far apart nearby frames may be.
        same_patient: "apart": a batch has one clip of a patient; "together": batches are drawn from all clips alike. Either way
            no clip of the same patient is a negative.
        temperature: Of the objective; None takes its own default.
        momentum: Of the slow network that moco, byol and dino have; None takes the objective's own.
        queue: Negatives that moco remembers.
        dino_outputs: Prototypes K of dino; a small collection visits few of them.
        label: A label column to learn from as well, where it is known; None uses no labels.
        label_weight: λ of its cross-entropy.
        classify: What USCL's classifier sees: "projection" (the reference) or "features".
        augment: "ultrasound", "reference" or "none".
        augment_strength: Of "ultrasound".
        shadows: How strong acoustic shadows are besides, as a factor of that strength; 0 for none.
        mask_sector: Blank what lies outside of the sector: text, rulers, logos.
        temporal_shift: Fraction of channels moved each way in clips (not used by frame pairs; kept in the backbone).
        precision: "32", "bf16", "fp16", or "auto": bf16 on a GPU that has it, else 32.
        compile: Let torch.compile build the backbone: a minute before the first step, for long runs.
        devices: Of this machine.
        nodes: Machines.
        probe_label: A label column that is looked at, never learnt from: every ``probe_every`` epochs a patient-grouped probe.
        probe_every: Epochs.
        seed: Of everything random.
    """

    objective: ObjectiveName = "uscl"
    backbone: str = "resnet18"
    weights: str = "none"
    size: int = 112
    batch_size: int = 32
    epochs: int = 100
    learning_rate: float = 3e-4
    weight_decay: float = 1e-4
    warmup_epochs: int = 5
    accumulate: int = 1
    clip_norm: float = 0.0
    pairs: PairName | None = None
    alpha: float = 0.5
    independent_lam: bool = False
    pair_seconds: float = 1.5
    same_patient: Literal["apart", "together"] = "apart"
    temperature: float | None = None
    momentum: float | None = None
    queue: int = 1024
    dino_outputs: int = 4096
    label: str | None = None
    label_weight: float = 0.2
    classify: Literal["projection", "features"] = "projection"
    augment: AugmentName = "ultrasound"
    augment_strength: float = 1.0
    shadows: float = 0.0
    mask_sector: bool = False
    temporal_shift: float = 0.0
    precision: Precision = "auto"
    compile: bool = False
    devices: int = 1
    nodes: int = 1
    probe_label: str | None = None
    probe_every: int = 10
    seed: int = 0

    def check(self) -> None:
        """Refuse what makes no sense, all faults at once.

        Raises:
            SonokitError: With each fault.
        """
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        faults = [f"{k} must be at least {v}, it is {values[k]}" for k, v in _AT_LEAST.items() if values[k] < v]
        if not self.learning_rate > 0:
            faults.append(f"learning_rate must be above 0, it is {self.learning_rate}")
        if self.label is not None and self.label == self.probe_label:
            faults.append(f"{self.label} is learnt from, so watching it tells nothing: leave --probe_label or --label out")
        faults += method_faults(self.method, labelled=self.label is not None)
        faults += self._without_use()
        if faults:
            raise SonokitError("; ".join(faults))

    def _without_use(self) -> list[str]:
        """What is asked for and would do nothing."""
        faults = [
            f"{field.name} does nothing but with {_ONLY_WITH[field.name][1]}: leave it out"
            for field in fields(self)
            if field.name in _ONLY_WITH
            and getattr(self, field.name) != field.default
            and getattr(self, _ONLY_WITH[field.name][0]) != _ONLY_WITH[field.name][1]
        ]
        if self.label is not None and self.label_weight == 0:
            faults.append(f"with label_weight 0 nothing is learnt from {self.label}: leave the label out")
        if self.compile and self.objective == "hico":
            faults.append("compile does nothing for hico, which takes the network apart: leave it out")
        if self.mask_sector and self.pair_policy == "two_views":
            faults.append(
                "mask_sector finds the sector by what moves between a clip's frames, and two_views draws one frame: "
                "choose other pairs"
            )
        return faults

    @property
    def pair_policy(self) -> PairName:
        """The pairs that are meant."""
        return self.pairs or ("sample_pairs" if self.objective in ("uscl", "hico") else "two_views")

    @property
    def method(self) -> ObjectiveSettings:
        """The objective's part."""
        return ObjectiveSettings(
            name=self.objective,
            temperature=self.temperature,
            label_weight=self.label_weight,
            classify=self.classify,
            momentum=self.momentum,
            queue=self.queue,
            outputs=self.dino_outputs,
        )
