"""Fitting the head of a biomarker extractor to clip labels, on frozen features of the clips' segments.

It runs a fixed number of epochs on the clips that it is given and on nothing else: class weights, standardisation and weights
all come from there, and no epoch is chosen by any score.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from ...clips.cache import CachedClips
from ..extraction.forward import FeaturePass
from .biomarkers import BiomarkerExtractor, SegmentPlan, masked_loss, positive_weights


@dataclass(frozen=True)
class FittingSettings:
    """How long and how fast.

    Attributes:
        head_epochs: Steps of the head alone on frozen features, each on all training clips.
        epochs: Passes over the training clips with the backbone, or its last stages, trained too; 0 where it stays frozen.
        learning_rate: Of AdamW, for the head; it falls to 0 along a cosine.
        backbone_learning_rate: Of the backbone, where that is trained.
        weight_decay: Of AdamW.
        class_weights: "balanced" weighs a biomarker's positives by its negatives a positive, "none" leaves them as they are.
        label_smoothing: What the target of a negative is raised to.
        batch_clips: Clips in a step that trains the backbone.
        batch_norm: Whose statistics the trained layers normalise with: "frozen", those that they came with, or the "batch"'s.
    """

    head_epochs: int
    epochs: int
    learning_rate: float
    backbone_learning_rate: float
    weight_decay: float
    class_weights: Literal["balanced", "none"]
    label_smoothing: float
    batch_clips: int
    batch_norm: Literal["frozen", "batch"]

    def positive_weights(self, labels: Tensor) -> Tensor:
        """Weight of each biomarker's positives among the training clips' labels [N, B], shape [B]."""
        return positive_weights(labels) if self.class_weights == "balanced" else torch.ones(labels.shape[1])


@dataclass(frozen=True)
class FrozenFeatures:
    """Segment features of clips, [N, S, D] (zeros where a short clip has no segment), and which are present, bool [N, S]."""

    values: Tensor
    present: Tensor

    def select(self, rows: Tensor) -> "FrozenFeatures":
        """The clips in ``rows`` (int64 or bool)."""
        return FrozenFeatures(self.values[rows], self.present[rows])


def frozen_features(
    clips: CachedClips, extractor_pass: FeaturePass, plan: SegmentPlan, *, progress: bool = True
) -> FrozenFeatures:
    """One pass of the backbone over all clips, in their order."""
    gathered = [
        segments.features
        for segments in tqdm(
            extractor_pass.over(clips[i] for i in range(len(clips))),
            total=len(clips),
            desc="backbone features",
            unit="clip",
            disable=not progress,
        )
    ]
    values = torch.zeros(len(gathered), plan.segments, gathered[0].shape[1])  # [N, S, D]
    present = torch.zeros(len(gathered), plan.segments, dtype=torch.bool)
    for i, features in enumerate(gathered):
        values[i, : len(features)] = features
        present[i, : len(features)] = True
    return FrozenFeatures(values, present)


def fit_head(extractor: BiomarkerExtractor, features: FrozenFeatures, labels: Tensor, settings: FittingSettings) -> None:
    """Fit ``extractor.head`` on features of training clips; ``labels`` [N, B] is 1, 0 or nan. Draws from torch's generator."""
    head = extractor.head.train()
    head.standardise_on(features.values[features.present])
    standardised = head.standardise(features.values)  # once, not in every step
    weight = settings.positive_weights(labels)
    optimizer = torch.optim.AdamW(head.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.head_epochs)
    for _ in range(settings.head_epochs):
        embedding, logits = head.read(standardised)  # [N, S, E], [N, S, B]
        pooled = head.pool(logits, features.present, embedding)  # [N, B]
        loss = masked_loss(pooled, labels, weight, settings.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    head.eval()


@torch.inference_mode()
def logits_from_features(extractor: BiomarkerExtractor, features: FrozenFeatures) -> Tensor:
    """Logits [N, B] of clips from their backbone features."""
    embedding, logits = extractor.head.eval()(features.values)  # [N, S, E], [N, S, B]
    return extractor.clip_logits(logits, features.present, embedding)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within this, torch draws from ``seed``; outside, its generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
