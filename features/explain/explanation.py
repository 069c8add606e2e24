"""What an extractor saw in a clip: every biomarker over time, and where in the frame it came from.

A moment is one sampled frame with its neighbours, as many and as far apart as in the segments that the extractor was trained
on; so the curve over time is denser than a store's rows, and still made of what the network knows. A moment's map belongs to
its middle frame.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ...clips.cached_clips import CachedClip
from ...clips.letterbox import letterbox
from ...errors import SonokitError
from ..extractors.biomarkers import BiomarkerExtractor, SegmentPlan
from .checks import MapChecks, check_maps, random_head, random_network
from .maps import MapMaker, MapMethod, make_maps

_RANDOM_HEADS = {"gradcam": 5, "integrated_gradients": 1, "occlusion": 1}  # the others take as long for each as for the maps


@dataclass(frozen=True)
class ExplainSettings:
    """How a clip is explained.

    Attributes:
        method: Of the maps.
        biomarkers: Those that get maps; empty: all.
        moments: "sliding": one around every sampled frame; "segments": the extractor's own, which is what a store holds. None:
            sliding for Grad-CAM, segments for the methods that are slow.
        checks: Whether the maps are compared with those of random networks.
        seed: Of these.
    """

    method: MapMethod = "gradcam"
    biomarkers: tuple[str, ...] = ()
    moments: Literal["sliding", "segments"] | None = None
    checks: bool = True
    seed: int = 0


@dataclass(frozen=True)
class Explanation:
    """One clip, M moments, S segments, B biomarkers of which the first-named E are explained by maps.

    Attributes:
        biomarkers: All of the extractor's, [B].
        explained: Those with maps, [E].
        method: Of the maps.
        frames: The moments' middle frames as they are in the clip, uint8 [M, H, W].
        frame_numbers: Which of the clip's given frames these are, int64 [M].
        times_s: When, float32 [M]; NaN where the clip does not tell its frame rate.
        probabilities: Of the moments, float32 [M, B].
        segment_times_s: First and last frame of the extractor's own segments, float32 [S, 2].
        segment_probabilities: As a store holds them, float32 [S, B].
        clip_probabilities: Pooled over the segments, float32 [B].
        maps: On the letterboxed frame, not negative, float32 [M, E, h, w].
        box: Where the picture lies in the letterboxed frame: top, left, height, width, in pixels of ``size``.
        size: Side of the letterboxed frame.
        checks: Of the maps, [E].
    """

    biomarkers: tuple[str, ...]
    explained: tuple[str, ...]
    method: MapMethod
    frames: np.ndarray
    frame_numbers: np.ndarray
    times_s: np.ndarray
    probabilities: np.ndarray
    segment_times_s: np.ndarray
    segment_probabilities: np.ndarray
    clip_probabilities: np.ndarray
    maps: np.ndarray
    box: tuple[int, int, int, int]
    size: int
    checks: list[MapChecks] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """All but frames and maps, as JSON values; None for a time that is not known."""
        return {
            "biomarkers": list(self.biomarkers),
            "method": self.method,
            "clip_probabilities": _named(self.biomarkers, self.clip_probabilities),
            "segments": [
                {"start_s": _or_none(start), "end_s": _or_none(end), **_named(self.biomarkers, row)}
                for (start, end), row in zip(self.segment_times_s, self.segment_probabilities, strict=True)
            ],
            "moments": [
                {"sampled_frame": int(number), "time_s": _or_none(time), **_named(self.biomarkers, row)}
                for number, time, row in zip(self.frame_numbers, self.times_s, self.probabilities, strict=True)
            ],
            "maps": {name: check.as_dict() for name, check in zip(self.explained, self.checks, strict=True)},
        }


def explain_clip(extractor: BiomarkerExtractor, clip: CachedClip, settings: ExplainSettings | None = None) -> Explanation:
    """Explain a clip.

    Args:
        extractor: In evaluation mode.
        clip: Its sampled frames, from the cache or of any shape, uint8 [T, H, W].
        settings: How.

    Raises:
        SonokitError: The extractor has no such biomarker, or its backbone does not go with the method.
    """
    settings = settings or ExplainSettings()
    explained = settings.biomarkers or extractor.biomarkers
    unknown = [name for name in explained if name not in extractor.biomarkers]
    if unknown:
        raise SonokitError(f"the extractor has no biomarker {', '.join(unknown)}; it has {', '.join(extractor.biomarkers)}")
    numbers = [extractor.biomarkers.index(name) for name in explained]
    frames = torch.from_numpy(np.stack([letterbox(frame, extractor.size) for frame in clip.frames]))  # [T, S, S]
    own = extractor.plan.choose(len(frames))  # [S, F]
    shown = extractor.plan.frames // 2
    sliding = (settings.moments or ("sliding" if settings.method == "gradcam" else "segments")) == "sliding"
    chosen = sliding_segments(extractor.plan, len(frames)) if sliding else own  # [M, F]
    maker = make_maps(extractor, frames, settings.method)
    maps = maker.maps(chosen, shown, numbers)  # [M, E, h, w]
    middle = chosen[:, shown]  # [M]
    box = picture_box(clip.frames.shape[1], clip.frames.shape[2], extractor.size)
    heads, networks = _controls(extractor, maker, frames, settings, (chosen, shown, numbers))
    embedding, logits = maker.outputs(own)
    with torch.inference_mode():
        of_clip = extractor.clip_logits(logits[None], None, embedding[None])[0]
        probabilities = [extractor.head.probabilities(some) for some in (maker.outputs(chosen)[1], logits, of_clip)]
    return Explanation(
        biomarkers=extractor.biomarkers,
        explained=tuple(explained),
        method=settings.method,
        frames=clip.frames[middle.numpy()],
        frame_numbers=middle.numpy(),
        times_s=clip.times_s[middle.numpy()],
        probabilities=probabilities[0].numpy(),
        segment_times_s=np.stack([clip.times_s[own[:, 0].numpy()], clip.times_s[own[:, -1].numpy()]], axis=1),
        segment_probabilities=probabilities[1].numpy(),
        clip_probabilities=probabilities[2].numpy(),
        maps=maps.numpy(),
        box=box,
        size=extractor.size,
        checks=check_maps(maps, frames[middle], _as_mask(box, extractor.size), heads, networks),
    )


def sliding_segments(plan: SegmentPlan, frame_count: int) -> Tensor:
    """A segment around every frame, spaced as the plan's own; a clip's first and last frame stand for what lies beyond.

    Returns:
        Frame numbers, int64 [T, F]; frame t stands at position F // 2 of row t.
    """
    first = plan.choose(frame_count)[0]  # [F]
    offsets = first - first[plan.frames // 2]
    return (torch.arange(frame_count)[:, None] + offsets).clamp(0, frame_count - 1)


def picture_box(height: int, width: int, size: int) -> tuple[int, int, int, int]:
    """Top, left, height and width of a frame's picture in its letterboxed square."""
    lit = letterbox(np.full((height, width), 255, dtype=np.uint8), size) > 0
    rows, columns = np.flatnonzero(lit.any(axis=1)), np.flatnonzero(lit.any(axis=0))
    return int(rows[0]), int(columns[0]), len(rows), len(columns)


def _as_mask(box: tuple[int, int, int, int], size: int) -> Tensor:
    top, left, height, width = box
    mask = torch.zeros(size, size, dtype=torch.bool)
    mask[top : top + height, left : left + width] = True
    return mask


def _controls(
    extractor: BiomarkerExtractor,
    maker: MapMaker,
    frames: Tensor,
    settings: ExplainSettings,
    asked: tuple[Tensor, int, list[int]],
) -> tuple[list[Tensor], list[Tensor]]:
    """The maps under random heads, and of a random network."""
    if not settings.checks:
        return [], []
    seeds = [settings.seed + i for i in range(_RANDOM_HEADS[settings.method])]
    heads = [maker.maps(*asked, head=random_head(extractor, seed)) for seed in seeds]
    other = random_network(extractor, settings.seed)
    return heads, [make_maps(other, frames, settings.method).maps(*asked)]


def _named(names: tuple[str, ...], values: np.ndarray) -> dict[str, float]:
    return {name: round(float(value), 6) for name, value in zip(names, values, strict=True)}


def _or_none(seconds: float) -> float | None:
    return round(float(seconds), 4) if np.isfinite(seconds) else None
