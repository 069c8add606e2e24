"""The biomarker network: a shared 2-D backbone, a compact embedding a segment, a logit a biomarker (Gare et al., 2206.08398).

frames → backbone → mean over a segment's frames → standardise → linear, LayerNorm, GELU → embedding → linear → logits. A clip's
logit pools its segments' (see ``pooling.py``). Labels are a clip's; how a segment is called follows from the pooling alone. A
head whose probabilities were calibrated, on clips that it had not seen, carries the calibration too.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...backbones.build import Backbone
from ...errors import SonokitError
from .byte_dropout import ByteDropout
from .pooling import GatedAttention, Pooling, even_odds, pool_logits


@dataclass(frozen=True)
class SegmentPlan:
    """How a clip's frames are cut into segments.

    The T frames are divided evenly, in order, over min(segments, T) segments: every row of a store rests on at least one frame,
    and a clip of one frame gives one row. Of its frames a segment takes ``frames``, evenly spaced; where it has fewer, some are
    taken more than once, so that all segments have one shape.
    """

    segments: int
    frames: int

    def __post_init__(self) -> None:
        if self.segments < 1 or self.frames < 1:
            raise SonokitError(f"segments and segment_frames must be at least 1, they are {self.segments} and {self.frames}")

    def choose(self, frame_count: int) -> Tensor:
        """Frame numbers, int64 [S, F] with S = min(segments, frame_count)."""
        count = min(self.segments, frame_count)
        edges = torch.arange(count + 1) * frame_count // count  # [S + 1]
        starts, lengths = edges[:-1, None], edges.diff()[:, None]  # [S, 1]
        # floor((i + 1/2) · n / F) in whole numbers: centres of F equal intervals
        return starts + (2 * torch.arange(self.frames) + 1) * lengths // (2 * self.frames)  # [S, F]


class BiomarkerHead(nn.Module):
    """From the mean backbone features of a segment to its embedding and logits.

    Args:
        features: Length D of the features.
        biomarkers: B.
        embedding: Length E of the embedding.
        dropout: On the features and on the embedding, in training.
        pooling: From segments to the clip.
        segments: Of a clip, at most: noisy-or begins at even odds for a clip of that many.

    Attributes:
        centre, scale: Of the features on the training clips, shape [D]; fitted once (``standardise_on``), then kept.
        calibration_slope, calibration_intercept: Of the logits, shape [B]; 1 and 0 where nothing was calibrated.
    """

    centre: Tensor
    scale: Tensor
    calibration_slope: Tensor
    calibration_intercept: Tensor

    def __init__(
        self,
        features: int,
        biomarkers: int,
        *,
        embedding: int = 128,
        dropout: float = 0.0,
        pooling: Pooling = "lse",
        segments: int = 1,
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.register_buffer("centre", torch.zeros(features))
        self.register_buffer("scale", torch.ones(features))
        self.register_buffer("calibration_slope", torch.ones(biomarkers))
        self.register_buffer("calibration_intercept", torch.zeros(biomarkers))
        self.register_load_state_dict_pre_hook(_uncalibrated_where_silent)
        self.dropout = ByteDropout(dropout)
        self.embed = nn.Sequential(nn.Linear(features, embedding), nn.LayerNorm(embedding), nn.GELU())
        self.classify = nn.Linear(embedding, biomarkers)
        self.attention = GatedAttention(embedding, biomarkers) if pooling == "attention" else None
        if pooling == "noisy_or":  # from 0, many segments would begin as a certain finding, which no label could undo in time
            nn.init.constant_(self.classify.bias, even_odds(segments))

    def standardise_on(self, features: Tensor) -> None:
        """Take ``centre`` and ``scale`` from the features of training segments, [N, D]."""
        self.centre.copy_(features.mean(dim=0))
        self.scale.copy_(features.std(dim=0, unbiased=False).clamp_min(1e-6))

    def calibrate(self, slope: Sequence[float], intercept: Sequence[float]) -> None:
        """Take the calibration of each biomarker; slopes are above 0, so that no ranking changes."""
        self.calibration_slope.copy_(torch.tensor(slope))
        self.calibration_intercept.copy_(torch.tensor(intercept))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features [..., D] → embedding [..., E], logits [..., B]."""
        return self.read(self.standardise(features))

    def standardise(self, features: Tensor) -> Tensor:
        """Features [..., D] in units of the training clips' spread, [..., D]."""
        return (features - self.centre) / self.scale

    def read(self, standardised: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised features [..., D] → embedding [..., E], logits [..., B]."""
        embedding = self.embed(self.dropout(standardised))  # [..., E]
        return embedding, self.classify(self.dropout(embedding))  # [..., B]

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits [..., B] → probabilities [..., B], calibrated where the head is.

        A calibration is fitted to clips. Of a segment it says how probable a clip would be that shows this segment alone.
        """
        return (self.calibration_slope * logits + self.calibration_intercept).sigmoid()

    def pool(self, logits: Tensor, present: Tensor | None = None, embedding: Tensor | None = None) -> Tensor:
        """Segment logits [N, S, B] → clip logits [N, B].

        Args:
            logits: Of segments.
            present: Which segments a clip has, bool [N, S]; None: all.
            embedding: Of the segments, [N, S, E]; attention needs it.

        Raises:
            SonokitError: Attention without an embedding.
        """
        scores = self.attention(embedding) if self.attention is not None and embedding is not None else None
        return pool_logits(logits, present, self.pooling, scores)


def _uncalibrated_where_silent(head: BiomarkerHead, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Weights saved before there was a calibration have none."""
    for name in ("calibration_slope", "calibration_intercept"):
        state.setdefault(f"{prefix}{name}", getattr(head, name))


class BiomarkerExtractor(nn.Module):
    """Backbone and head, with what a reader of clips must know.

    Args:
        backbone: Grey frames → features.
        biomarkers: Their names, in the order of the logits.
        plan: How a clip is cut into segments.
        size: Side of the frames that it was trained on.
        pooling: From segments to the clip.
        embedding: Length of a segment's embedding.
        dropout: On the features and on the embedding, in training.
    """

    def __init__(
        self,
        backbone: Backbone,
        biomarkers: Sequence[str],
        *,
        plan: SegmentPlan,
        size: int,
        pooling: Pooling = "lse",
        embedding: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.biomarkers = tuple(biomarkers)
        self.plan = plan
        self.size = size
        self.pooling = pooling
        self.head = BiomarkerHead(
            backbone.num_features,
            len(self.biomarkers),
            embedding=embedding,
            dropout=dropout,
            pooling=pooling,
            segments=plan.segments,
        )

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        """Frames [N, S, F, C, H, W] in [0, 1] → embedding [N, S, E], logits [N, S, B]."""
        clips, segments = frames.shape[:2]
        features = segment_features(self.backbone, frames.flatten(0, 1))  # [N·S, D]
        return self.head(features.unflatten(0, (clips, segments)))

    def clip_logits(self, logits: Tensor, present: Tensor | None = None, embedding: Tensor | None = None) -> Tensor:
        """Segment logits [N, S, B] → clip logits [N, B], see :meth:`BiomarkerHead.pool`."""
        return self.head.pool(logits, present, embedding)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits [..., B] → probabilities [..., B], see :meth:`BiomarkerHead.probabilities`."""
        return self.head.probabilities(logits)


def segment_features(backbone: Backbone, frames: Tensor) -> Tensor:
    """Mean backbone features of segments.

    Args:
        backbone: [B, C, H, W] → [B, D] and [B, T, C, H, W] → [B, T, D]; with a temporal shift, a segment's frames see
            each other.
        frames: Shape [U, F, C, H, W], in [0, 1].

    Returns:
        Shape [U, D], float32.
    """
    if frames.shape[1] == 1:
        return backbone(frames[:, 0]).float()
    return backbone(frames).float().mean(dim=1)  # [U, F, D] → [U, D]


def masked_loss(logits: Tensor, labels: Tensor, pos_weight: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy over what is known, averaged within each biomarker and then over the biomarkers.

    Args:
        logits: Of clips, shape [N, B].
        labels: 1, 0, or nan where unknown, shape [N, B].
        pos_weight: Weight of a biomarker's positives, shape [B].
        label_smoothing: What a negative's target is raised to. Negatives alone: "not noted" is often written as absent.
    """
    known = ~labels.isnan()
    targets = labels.nan_to_num(0.0)
    targets = torch.where(targets > 0, targets, label_smoothing)
    losses = F.binary_cross_entropy_with_logits(logits, targets, pos_weight=pos_weight, reduction="none")  # [N, B]
    counts = known.sum(dim=0)  # [B]
    means = torch.where(known, losses, 0.0).sum(dim=0) / counts.clamp_min(1)
    return means.sum() / (counts > 0).sum().clamp_min(1)


def positive_weights(labels: Tensor, limit: float = 10.0) -> Tensor:
    """Negatives a positive, per biomarker, within 1/limit … limit; 1 where a side is missing. labels [N, B] → [B]."""
    positives, negatives = (labels == 1).sum(dim=0), (labels == 0).sum(dim=0)
    weight = (negatives / positives.clamp_min(1)).clamp(1 / limit, limit)
    return torch.where((positives > 0) & (negatives > 0), weight, 1.0)
