"""Backbone features of the segments of cached clips: the one pass that training on frozen features and extraction share.

On a CPU a clip's features are the same to the last bit whatever clips are worked on beside it, so that a run that was killed
and resumed leaves the same rows as an undisturbed one. Kernels are chosen by the shape of a batch; so there each clip makes one
by itself (its shape depends on nothing else, and some 16 frames fill the cores). On a GPU segments of consecutive clips are
packed into batches of one fixed shape, the last one padded: every clip meets the same kernels, if not the same place in them.
"""

import copy
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..backbones.build import Backbone
from ..clips.cache import CachedClip
from .biomarkers import SegmentPlan, segment_features

_GPU_FRAMES = 512  # a batch: some 100 MB of grey frames at 224 in float32, and enough to keep the device busy


@dataclass(frozen=True)
class Segments:
    """What a clip gave: features float32 [S, D], and the times of the first and the last frame of each segment, float32 [S]."""

    clip: CachedClip
    features: Tensor
    start_s: Tensor
    end_s: Tensor


class FeaturePass:
    """Frozen features of clips.

    Args:
        backbone: Left as it is; a copy in evaluation mode works on ``device``, its weights in channels-last order.
        plan: How clips are cut.
        device: A CPU computes in float32, a GPU in bfloat16 where that is safe (autocast).
    """

    def __init__(self, backbone: Backbone, plan: SegmentPlan, device: torch.device) -> None:
        self.plan = plan
        self.device = device
        self._backbone = copy.deepcopy(backbone).to(device=device).to(memory_format=torch.channels_last).eval()
        self._segments_a_batch = max(1, _GPU_FRAMES // plan.frames)

    def over(self, clips: Iterable[CachedClip]) -> Iterator[Segments]:
        """The clips' segments, one clip after the other in the order given."""
        if self.device.type == "cpu":
            for clip in clips:
                chosen = self.plan.choose(len(clip.frames))
                yield _with_times(clip, chosen, self._forward(_frames(clip, chosen)))
        else:
            yield from self._packed(clips)

    def _packed(self, clips: Iterable[CachedClip]) -> Iterator[Segments]:
        waiting: deque[tuple[CachedClip, Tensor]] = deque()
        frames: list[Tensor] = []
        features = torch.empty(0, self._backbone.num_features)
        held = 0
        for clip in clips:
            chosen = self.plan.choose(len(clip.frames))
            waiting.append((clip, chosen))
            frames.append(_frames(clip, chosen))
            held += len(chosen)
            while held >= self._segments_a_batch:
                together = torch.cat(frames)
                features = torch.cat([features, self._forward(together[: self._segments_a_batch])])
                frames = [together[self._segments_a_batch :]]
                held -= self._segments_a_batch
            while waiting and len(waiting[0][1]) <= len(features):
                ready, its = waiting.popleft()
                yield _with_times(ready, its, features[: len(its)])
                features = features[len(its) :]
        if held:
            together = torch.cat(frames)
            padding = torch.zeros(self._segments_a_batch - held, *together.shape[1:], dtype=torch.uint8)
            features = torch.cat([features, self._forward(torch.cat([together, padding]))[:held]])
        for ready, its in waiting:
            yield _with_times(ready, its, features[: len(its)])
            features = features[len(its) :]

    @torch.inference_mode()
    def _forward(self, frames: Tensor) -> Tensor:
        """uint8 [U, F, H, W] → float32 [U, D] on the CPU."""
        batch = to_input(frames.to(self.device, non_blocking=True), self._backbone.in_chans)
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.device.type == "cuda"):
            return segment_features(self._backbone, batch).cpu()


def to_input(frames: Tensor, in_chans: int) -> Tensor:
    """uint8 [..., F, H, W] → float in [0, 1], [..., F, C, H, W], channels last."""
    leading = frames.shape[:-2]
    flat = frames.reshape(-1, 1, *frames.shape[-2:]).float().div_(255)  # [N, 1, H, W]
    flat = flat.expand(-1, in_chans, -1, -1).contiguous(memory_format=torch.channels_last)  # [N, C, H, W]
    return flat.unflatten(0, leading)  # [..., F, C, H, W]


def choose_device(name: str | None = None) -> torch.device:
    """The device by name, or a GPU where there is one."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def _frames(clip: CachedClip, chosen: Tensor) -> Tensor:
    """The chosen [S, F] frames of a clip, uint8 [S, F, H, W]."""
    return torch.from_numpy(clip.frames[chosen.numpy()])


def _with_times(clip: CachedClip, chosen: Tensor, features: Tensor) -> Segments:
    times = torch.from_numpy(clip.times_s.copy())
    return Segments(clip, features, times[chosen[:, 0]], times[chosen[:, -1]])
