"""Training the last stages of a backbone on feature maps that enter them, which are computed once for all folds.

A fold then costs a fraction of what end-to-end training does: the layers in front, which see most of the pixels, run once over
every clip as it is and once over its mirror image (a mirrored map is not the map of a mirrored frame, so flipping maps will not
do). Maps are kept as float16. What is in front does not change by a bit; it runs in evaluation mode.

It works for those timm models that run their stages one after the other and then pool: ResNet, EfficientNet, MobileNet, RegNet,
ConvNeXt and their like. Whether a model is one of them is tried out, on a frame of noise.
"""

import copy
import re
import tempfile
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from ...backbones.build import Backbone
from ...clips.cache import CachedClips
from ...errors import SonokitError
from ..extraction.forward import to_input
from .biomarkers import BiomarkerExtractor, SegmentPlan, segment_features
from .head_fitting import FittingSettings, FrozenFeatures
from .joint_fitting import fit_jointly

_IN_MEMORY = 2 << 30  # bytes of maps; more go to a temporary file


@dataclass(frozen=True)
class StageMaps:
    """What enters the trained stages.

    Attributes:
        values: float16 [2, N, S, F, C, H, W]: of the frames as they are, and mirrored; zeros where a clip has no segment.
        present: Which segments a clip has, bool [N, S].
    """

    values: Tensor
    present: Tensor


def split_backbone(backbone: Backbone, stages: int, size: int) -> tuple[Backbone, Backbone]:
    """A backbone as two: frames → maps, and maps → features. Both are copies, in evaluation mode.

    Args:
        backbone: Left as it is.
        stages: How many of timm's stages the second part has, counted from the end; what comes after them belongs to it.
        size: Side of the frames that will be used, in pixels.

    Raises:
        SonokitError: The model cannot be taken apart so, or has fewer stages.
    """
    refusal = SonokitError(
        f"{backbone.name} does not run as a row of stages, so no part of it can be trained: set tune to all or none"
    )
    names = _stages(backbone)
    if not names:
        raise refusal
    if not 1 <= stages < len(names):
        raise SonokitError(f"stages must lie in 1 … {len(names) - 1} for {backbone.name}, it is {stages}; tune all trains all")
    path = names[-stages].split(".")
    front, tail = copy.deepcopy(backbone).eval(), copy.deepcopy(backbone).eval()
    _blank(front.model, path, behind=True)
    _blank(tail.model, path, behind=False)
    if not any(weight.ndim > 1 for weight in tail.parameters()):
        raise refusal
    noise = torch.rand(1, backbone.in_chans, size, size, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            maps = front(noise)
            _read_maps(tail, maps)
            same = torch.allclose(tail(maps), copy.deepcopy(backbone).eval()(noise), rtol=1e-3, atol=1e-4)
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError):  # whatever a model of another build falls over
        raise refusal from None
    if not same:
        raise refusal
    return front, tail


def join_backbone(backbone: Backbone, tail: Backbone) -> Backbone:
    """A copy of ``backbone`` whose last stages are those of ``tail``."""
    joined = copy.deepcopy(backbone)
    joined.model.load_state_dict({**joined.model.state_dict(), **tail.model.state_dict()})
    return joined.eval()


def stage_maps(
    clips: CachedClips, front: Backbone, plan: SegmentPlan, device: torch.device, *, progress: bool = True
) -> StageMaps:
    """Run the front part over all clips, in their order.

    Raises:
        SonokitError: A map has values that float16 cannot hold.
    """
    front = copy.deepcopy(front).to(device).to(memory_format=torch.channels_last)
    present = torch.zeros(len(clips), plan.segments, dtype=torch.bool)
    values: Tensor | None = None
    for i in tqdm(range(len(clips)), desc="feature maps", unit="clip", disable=not progress):
        frames = clips[i].frames
        chosen = plan.choose(len(frames))  # [S', F]
        present[i, : len(chosen)] = True
        batch = to_input(torch.from_numpy(frames[chosen.numpy()]).to(device), front.in_chans)  # [S', F, C, H, W]
        for turned, view in enumerate((batch, batch.flip(-1))):
            with torch.inference_mode():
                maps = front(view).half().cpu()  # [S', F, C', h, w]
            if not maps.isfinite().all():
                raise SonokitError(f"the maps within {front.name} are too large for float16: set tune to all or none")
            if values is None:
                values = _room((2, len(clips), plan.segments, *maps.shape[1:]))
            values[turned, i, : len(chosen)] = maps
    assert values is not None
    return StageMaps(values, present)


@torch.no_grad()  # not inference_mode: a head is fitted on these
def features_from_maps(tail: Backbone, maps: StageMaps, rows: Tensor, device: torch.device) -> FrozenFeatures:
    """Segment features of the clips numbered ``rows`` (int64 [M]), not mirrored, through the last stages as they are."""
    tail = copy.deepcopy(tail).to(device).eval()
    present = maps.present[rows]
    features = torch.zeros(*present.shape, tail.num_features)  # [M, S, D]
    for position, row in enumerate(rows.tolist()):
        there = maps.present[row]
        features[position, there] = segment_features(tail, maps.values[0, row, there].to(device).float()).cpu()
    return FrozenFeatures(features, present)


def fit_part(
    extractor: BiomarkerExtractor,
    maps: StageMaps,
    rows: Tensor,
    labels: Tensor,
    settings: FittingSettings,
    device: torch.device,
    *,
    progress: bool = True,
) -> None:
    """Train the last stages and go on with the head. Draws from torch's generator.

    Args:
        extractor: Its backbone is the second part of :func:`split_backbone`, its head is fitted on the features of that.
        maps: Of all clips.
        rows: Which of them are for training, int64 [M].
        labels: Theirs, 1, 0 or nan, shape [M, B].
        settings: How long and how fast.
        device: Where to work.
        progress: Show a bar.
    """

    def batch(places: Tensor) -> tuple[Tensor, Tensor]:
        chosen = rows[places]
        turned = (torch.rand(len(chosen)) < 0.5).long()
        return maps.values[turned, chosen].float(), maps.present[chosen]

    fit_jointly(extractor, batch, labels, settings, device, progress=progress)


def _stages(backbone: Backbone) -> list[str]:
    """Names of timm's stages in their order; empty where timm tells of none."""
    told = getattr(backbone.model, "feature_info", None)
    if not told:
        return []
    last = str(told[-1]["module"])
    pattern = re.compile(re.sub(r"\d+$", r"\\d+", re.escape(last)))
    return [name for name, _ in backbone.model.named_modules() if pattern.fullmatch(name)]


def _blank(model: nn.Module, path: list[str], *, behind: bool) -> None:
    """Let everything before the module at ``path``, or that module and all behind it, hand on what it is given."""
    children = [name for name, _ in model.named_children()]
    place = children.index(path[0])
    for name in children[place + 1 :] if behind else children[:place]:
        setattr(model, name, nn.Identity())
    if len(path) > 1:
        _blank(getattr(model, path[0]), path[1:], behind=behind)
    elif behind:
        setattr(model, path[0], nn.Identity())


def _read_maps(tail: Backbone, maps: Tensor) -> None:
    """Make the second part take maps [1, C, H, W] where a backbone takes frames: as they are."""
    _, channels, _, _ = maps.shape
    tail.in_chans = channels
    tail.mean, tail.std = torch.zeros(1, 1, 1, 1), torch.ones(1, 1, 1, 1)


def _room(shape: tuple[int, ...]) -> Tensor:
    """Zeros of float16, in memory or in a file that goes with the process."""
    if 2 * int(np.prod(shape)) <= _IN_MEMORY:
        return torch.zeros(shape, dtype=torch.float16)
    with tempfile.TemporaryFile() as file:  # the mapping outlives the name and the handle
        return torch.from_numpy(np.memmap(file, dtype=np.float16, mode="w+", shape=shape))
