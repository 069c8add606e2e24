"""Backbone features of the segments of cached clips: the one pass that training on frozen features and extraction share.

On a CPU a clip's features are the same to the last bit whatever clips are worked on beside it, so that a run that was killed
and resumed leaves the same rows as an undisturbed one. Kernels are chosen by the shape of a batch. In torch each clip makes one
by itself (its shape depends on nothing else, and some 16 frames fill the cores); the other runtimes take frames one by one from
a queue that clips of any length share (see engines.py). On a GPU segments of consecutive clips are packed into batches of one
fixed shape, the last one padded: every clip meets the same kernels, if not the same place in them.

Clips are asked for while others are worked on: whoever decodes them goes on meanwhile.
"""

import copy
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...backbones.build import Backbone
from ...clips.cache import CachedClip
from ..extractors.biomarkers import SegmentPlan, segment_features
from .engines import Compiled, Runtime, choose_runtime, compile_network

_GPU_FRAMES = 512  # a batch: some 100 MB of grey frames at 224 in float32, and enough to keep the device busy
_WAITING_UNITS = 32  # that may wait for each thread: two clips or so


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
        runtime: What computes on a CPU, on as many threads as torch is set to. Where it gives other features than torch on the
            first clip, or does not know the network, torch takes over.

    Attributes:
        runtime: The one that is used; known for certain once a clip was worked on.

    Raises:
        SonokitError: The runtime is not installed, or does not run on ``device``.
    """

    def __init__(self, backbone: Backbone, plan: SegmentPlan, device: torch.device, runtime: Runtime = "torch") -> None:
        self.plan = plan
        self.device = device
        self.runtime = choose_runtime(runtime, device)
        self._backbone = copy.deepcopy(backbone).to(device=device).to(memory_format=torch.channels_last).eval()
        self._segments_a_batch = max(1, _GPU_FRAMES // plan.frames)
        self._together = bool(backbone.temporal_shift) and plan.frames > 1  # the frames of a segment see each other
        self._compiled: Compiled | None = None

    def over(self, clips: Iterable[CachedClip]) -> Generator[Segments]:
        """The clips' segments, one clip after the other in the order given."""
        if self.device.type != "cpu":
            yield from self._packed(clips)
            return
        clips = iter(clips)
        for clip in clips:
            if self._is_compiled(clip):
                yield from self._queued(clip, clips)
                return
            chosen = self.plan.choose(len(clip.frames))
            yield _with_times(clip, chosen, self._forward(_frames(clip, chosen)))

    def numbered(self, clips: Generator[tuple[int, CachedClip]]) -> Generator[tuple[int, Segments]]:
        """The same of clips with their numbers. Closing it, or an error, also closes ``clips``."""
        numbers: deque[int] = deque()

        def given() -> Generator[CachedClip]:
            with closing(clips):
                for number, clip in clips:
                    numbers.append(number)
                    yield clip

        with closing(given()) as source, closing(self.over(source)) as results:
            for segments in results:
                yield numbers.popleft(), segments

    def _is_compiled(self, first: CachedClip) -> bool:
        """Whether another runtime than torch is ready; compiles it for frames like those of ``first``."""
        if self.runtime != "torch" and self._compiled is None:
            units, _ = self._units(first, self.plan.choose(len(first.frames)))
            self._compiled = compile_network(self._backbone, units, self.runtime, torch.get_num_threads())
            self.runtime = self.runtime if self._compiled else "torch"
        return self._compiled is not None

    def _queued(self, first: CachedClip, others: Iterator[CachedClip]) -> Iterator[Segments]:
        """Units of all clips through one queue, each on one thread."""
        threads = torch.get_num_threads()
        waiting: deque[_Waiting] = deque()
        pool = ThreadPoolExecutor(threads, thread_name_prefix="forward")
        try:
            clip: CachedClip | None = first
            while clip is not None:
                waiting.append(self._submit(pool, clip))
                held = sum(len(w.features) for w in waiting)
                while waiting and (waiting[0].is_done() or held > _WAITING_UNITS * threads):
                    held -= len(waiting[0].features)
                    yield waiting.popleft().segments()
                clip = next(others, None)
            while waiting:
                yield waiting.popleft().segments()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, pool: ThreadPoolExecutor, clip: CachedClip) -> "_Waiting":
        assert self._compiled is not None
        chosen = self.plan.choose(len(clip.frames))  # [S, F]
        units, place = self._units(clip, chosen)
        return _Waiting(clip, chosen, place, [pool.submit(self._compiled, unit) for unit in units])

    def _units(self, clip: CachedClip, chosen: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Frames of each unit, uint8 [U, F, H, W]; and from which units a segment's features are averaged, int64 [S, F]."""
        if self._together:
            return clip.frames[chosen.numpy()], np.arange(len(chosen))[:, None]
        numbers, place = np.unique(chosen.numpy(), return_inverse=True)  # of a short clip frames are chosen more than once
        return clip.frames[numbers][:, None], place.reshape(chosen.shape)

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


@dataclass(frozen=True)
class _Waiting:
    """A clip in the queue; its segment ``s`` is the mean of the units ``place[s]``."""

    clip: CachedClip
    chosen: Tensor
    place: np.ndarray
    features: list[Future[np.ndarray]]

    def is_done(self) -> bool:
        return all(unit.done() for unit in self.features)

    def segments(self) -> Segments:
        """Waits until it is done."""
        features = np.stack([unit.result() for unit in self.features])  # [U, D]
        # numpy, because torch would wake all threads for so little, and others use the cores now
        return _with_times(self.clip, self.chosen, torch.from_numpy(features[self.place].mean(axis=1)))  # [S, F, D] → [S, D]


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
