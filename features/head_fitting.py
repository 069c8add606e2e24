"""The two ways of fitting a biomarker extractor to clip labels: its head alone on frozen features, or all of it end to end.

Both run a fixed number of epochs on the clips that they are given and on nothing else: pos_weight, standardisation and weights
all come from there, and no epoch is chosen by any score.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from ..clips.cache import CachedClips
from .biomarkers import BiomarkerExtractor, SegmentPlan, masked_loss, pool_logits, positive_weights
from .forward import FeaturePass, to_input


@dataclass(frozen=True)
class FittingSettings:
    """How long and how fast.

    Attributes:
        epochs: Passes over the training clips; with frozen features each is one step on all of them.
        learning_rate: Of AdamW, for the head; it falls to 0 along a cosine.
        backbone_learning_rate: Of the backbone, where that is trained.
        weight_decay: Of AdamW.
        label_smoothing: What the target of a negative is raised to.
        batch_clips: Clips in a step of end-to-end training.
    """

    epochs: int
    learning_rate: float
    backbone_learning_rate: float
    weight_decay: float
    label_smoothing: float
    batch_clips: int


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
    weight = positive_weights(labels)
    optimizer = torch.optim.AdamW(head.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs)
    for _ in range(settings.epochs):
        _, logits = head(features.values)  # [N, S, B]
        pooled = pool_logits(logits, features.present, extractor.pooling)  # [N, B]
        loss = masked_loss(pooled, labels, weight, settings.label_smoothing)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    head.eval()


def fit_whole(
    extractor: BiomarkerExtractor,
    clips: CachedClips,
    labels: Tensor,
    settings: FittingSettings,
    device: torch.device,
    *,
    progress: bool = True,
) -> None:
    """Fit backbone and head end to end on training clips, mirrored at random. Draws from torch's generator."""
    frozen = frozen_features(clips, FeaturePass(extractor.backbone, extractor.plan, device), extractor.plan, progress=progress)
    extractor.head.standardise_on(frozen.values[frozen.present])
    extractor.to(device).train()
    weight = positive_weights(labels).to(device)
    optimizer = torch.optim.AdamW(
        [
            {"params": extractor.backbone.parameters(), "lr": settings.backbone_learning_rate},
            {"params": extractor.head.parameters(), "lr": settings.learning_rate},
        ],
        weight_decay=settings.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs)
    for _ in tqdm(range(settings.epochs), desc="end to end", unit="epoch", disable=not progress):
        for rows in _batches(len(clips), settings.batch_clips):
            frames, present = _frames_of(clips, rows, extractor)
            _, logits = extractor(frames.to(device))  # [N, S, B]
            pooled = extractor.clip_logits(logits, present.to(device))  # [N, B]
            loss = masked_loss(pooled, labels[rows].to(device), weight, settings.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    extractor.to("cpu").eval()


@torch.inference_mode()
def clip_probabilities(extractor: BiomarkerExtractor, features: FrozenFeatures) -> Tensor:
    """Probabilities [N, B] of clips from their backbone features."""
    _, logits = extractor.head.eval()(features.values)  # [N, S, B]
    return pool_logits(logits, features.present, extractor.pooling).sigmoid()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within this, torch draws from ``seed``; outside, its generator is left as it was."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def _batches(count: int, size: int) -> Iterator[Tensor]:
    """All clips in a random order; a last batch of one clip joins the one before it, because BatchNorm needs company."""
    order = torch.randperm(count)
    ends = list(range(size, count, size))
    if ends and count - ends[-1] == 1:
        ends.pop()
    for start, end in zip([0, *ends], [*ends, count], strict=True):
        yield order[start:end]


def _frames_of(clips: CachedClips, rows: Tensor, extractor: BiomarkerExtractor) -> tuple[Tensor, Tensor]:
    """Frames [N, S, F, C, H, W] in [0, 1], mirrored or not clip by clip, and which segments are present, bool [N, S].

    A short clip's missing segments repeat its last one, so that BatchNorm never sees an empty frame.
    """
    segments = extractor.plan.segments
    gathered, present = [], torch.zeros(len(rows), segments, dtype=torch.bool)
    for position, row in enumerate(rows.tolist()):
        clip = clips[row]
        chosen = extractor.plan.choose(len(clip.frames))  # [S', F]
        present[position, : len(chosen)] = True
        chosen = torch.cat([chosen, chosen[-1:].expand(segments - len(chosen), -1)])  # [S, F]
        frames = torch.from_numpy(clip.frames[chosen.numpy()])  # [S, F, H, W]
        gathered.append(frames.flip(-1) if torch.rand(()) < 0.5 else frames)
    return to_input(torch.stack(gathered), extractor.backbone.in_chans), present
