"""Training a backbone, or the last stages of one, together with the head of a biomarker extractor.

The head comes fitted on the frozen features: a head that knows nothing yet would tear at the features that it is to learn from
(Kumar et al., ICLR 2022, 2202.10054). Batch normalisation keeps the statistics that the backbone came with, unless it is told
otherwise: a batch of a few clips is a poor sample of frames, and its neighbours are near copies of each other.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from tqdm import tqdm

from ...clips.cache import CachedClips
from ..extraction.forward import FeaturePass, to_input
from .biomarkers import BiomarkerExtractor, masked_loss
from .head_fitting import FittingSettings, fit_head, frozen_features

Batch = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From clip numbers, int64 [N], to the backbone's input [N, S, F, C, H, W] and which segments are present, bool [N, S]."""


def fit_whole(
    extractor: BiomarkerExtractor,
    clips: CachedClips,
    labels: Tensor,
    settings: FittingSettings,
    device: torch.device,
    *,
    progress: bool = True,
) -> None:
    """Fit backbone and head end to end on training clips, mirrored at random. Draws from torch's generator.

    Args:
        extractor: Fitted in place.
        clips: The N training clips.
        labels: 1, 0 or nan, shape [N, B].
        settings: How long and how fast.
        device: Where to work.
        progress: Show bars.
    """
    frozen = frozen_features(clips, FeaturePass(extractor.backbone, extractor.plan, device), extractor.plan, progress=progress)
    fit_head(extractor, frozen, labels, settings)
    fit_jointly(extractor, lambda rows: _frames_of(clips, rows, extractor), labels, settings, device, progress=progress)


def fit_jointly(
    extractor: BiomarkerExtractor,
    batch: Batch,
    labels: Tensor,
    settings: FittingSettings,
    device: torch.device,
    *,
    progress: bool = True,
) -> None:
    """Go on with the head and train the backbone, which may be the last stages of one. Draws from torch's generator.

    Args:
        extractor: Its head has been fitted; trained in place, and left on the CPU in evaluation mode.
        batch: Gives the input of training clips.
        labels: Of all training clips, 1, 0 or nan, shape [N, B].
        settings: How long and how fast.
        device: Where to work.
        progress: Show a bar.
    """
    extractor.to(device).train()
    if settings.batch_norm == "frozen":
        freeze_statistics(extractor.backbone)
    weight = settings.positive_weights(labels).to(device)
    optimizer = torch.optim.AdamW(
        [
            {"params": extractor.backbone.parameters(), "lr": settings.backbone_learning_rate},
            {"params": extractor.head.parameters(), "lr": settings.learning_rate},
        ],
        weight_decay=settings.weight_decay,
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, settings.epochs)
    for _ in tqdm(range(settings.epochs), desc="backbone and head", unit="epoch", disable=not progress):
        for rows in _batches(len(labels), settings.batch_clips):
            frames, present = batch(rows)
            embedding, logits = extractor(frames.to(device))  # [N, S, E], [N, S, B]
            pooled = extractor.clip_logits(logits, present.to(device), embedding)  # [N, B]
            loss = masked_loss(pooled, labels[rows].to(device), weight, settings.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        schedule.step()
    extractor.to("cpu").eval()


def freeze_statistics(module: nn.Module) -> None:
    """Let batch normalisation use the statistics that it came with, until ``module.train()`` is called again."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()


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
