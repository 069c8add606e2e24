"""From frames to one vector a clip: mean and spread, over the clip's frames, of a frozen backbone's features.

The same recipe as an expert's ``mean_std``, without a store between.
"""

import copy
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..backbones.build import Backbone
from ..clips.augment import resize
from ..errors import SonokitError


class FrameClip(Protocol):
    """What is needed of a clip: ``frames`` uint8 [T, S, S]."""

    @property
    def frames(self) -> np.ndarray:
        """All frames of the clip."""
        ...


class FrameClips(Protocol):
    """What is needed of :class:`~sonokit.clips.cached_clips.CachedClips`."""

    def __len__(self) -> int: ...
    def __getitem__(self, i: int) -> FrameClip: ...


def embed_clips(
    backbone: Backbone, clips: FrameClips, *, size: int, batch_images: int = 256, progress: str | None = None
) -> np.ndarray:
    """Features of clips, computed where the backbone lies, in float32.

    A copy of the backbone in evaluation mode does the work: its own mode, weights and the global random generators stay as
    they are, so that this may be called in the middle of training. On a CPU each clip makes batches by itself, so that its
    features do not depend on the other clips to the last bit; on a GPU whole clips are packed together.

    Args:
        backbone: Frames [B, C, H, W] in [0, 1] → [B, D].
        clips: Cached clips, or anything indexable whose items have ``frames``.
        size: Side that the frames are brought to, in pixels.
        batch_images: Frames in a batch at most.
        progress: What a progress bar on standard error calls this; None for no bar.

    Returns:
        float32 [N, 2·D]: the means, then the standard deviations (0 for a clip of one frame).

    Raises:
        SonokitError: The features of a clip are not finite, or the backbone does not take frames of this size.
    """
    device = next(backbone.parameters()).device
    # on a CPU the whole network in channels-last order takes a third less time than the frames alone
    network = copy.deepcopy(backbone).to(memory_format=torch.channels_last).eval()
    rows: list[np.ndarray] = []
    bar = tqdm(total=len(clips), desc=progress, unit="clip", leave=False, disable=progress is None)
    # float32 even inside a training step's autocast: a probe's figures should not depend on the run that it watches
    with bar, torch.inference_mode(), torch.autocast(device.type, enabled=False):
        for group in _groups(clips, 1 if device.type == "cpu" else batch_images):
            frames = torch.from_numpy(np.concatenate(group))  # [N, S, S]
            features = torch.cat([_forward(network, part, size, device) for part in frames.split(batch_images)])  # [N, D]
            rows += [_mean_and_spread(own) for own in features.split([len(frames) for frames in group])]
            bar.update(len(group))
    found = np.stack(rows) if rows else np.zeros((0, 2 * backbone.num_features), dtype=np.float32)
    broken = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if len(broken):
        raise SonokitError(f"the features of clip {broken[0]} are not finite: was {backbone.name} trained to the end?")
    return found


def to_input(frames: Tensor, size: int, in_chans: int) -> Tensor:
    """uint8 [N, S, S] → float in [0, 1], [N, C, size, size], channels last."""
    grey = resize(frames[:, None].float().div_(255), size)  # [N, 1, size, size]
    return grey.expand(-1, in_chans, -1, -1).contiguous(memory_format=torch.channels_last)


def _forward(network: Backbone, frames: Tensor, size: int, device: torch.device) -> Tensor:
    """uint8 [N, S, S] → float32 [N, D] on the CPU."""
    inputs = to_input(frames.to(device, non_blocking=True), size, network.in_chans)
    try:
        return network(inputs).float().cpu()
    except (AssertionError, RuntimeError) as fault:
        raise SonokitError(f"{network.name} cannot take frames of {size} pixels: {str(fault).splitlines()[0]}") from fault


def _mean_and_spread(features: Tensor) -> np.ndarray:
    """float32 [T, D] → float32 [2·D]."""
    exact = features.double()
    return torch.cat([exact.mean(dim=0), exact.std(dim=0, unbiased=False)]).numpy().astype(np.float32)


def _groups(clips: FrameClips, enough: int) -> Iterator[list[np.ndarray]]:
    """The frames of consecutive whole clips, until there are ``enough`` frames."""
    group: list[np.ndarray] = []
    for i in range(len(clips)):
        group.append(clips[i].frames)
        if sum(map(len, group)) >= enough:
            yield group
            group = []
    if group:
        yield group
