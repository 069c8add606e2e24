"""What a teacher is shown beside the frame: where an expert looked, or what one marked. The student sees frames only.

Gaze enters the teacher (Patra et al., MICCAI 2019: "combined with the frame"; how exactly is not known to us) in one of two
ways:

- "channel": the gaze map is one more channel of the input. A convolution over C + 1 channels is the sum of one over C and one
  over the last; that last part is held apart here, begins at zero, and is added to the stem's output. So the weights of the
  plain teacher stay what they are.
- "features": a feature map F becomes F × (1 + G), G the gaze map at its size.

In both, a map of zeros gives exactly the plain teacher, which is what frames without gaze are treated as.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn

from ...backbones.build import Backbone
from ...errors import SonokitError

GazeEntry = Literal["channel", "features"]


class GazeTeacherInput(nn.Module):
    """A teacher's backbone that is shown gaze: ``(frames, gaze) -> [B, D]``; otherwise with a backbone's interface.

    Args:
        backbone: The plain teacher; its weights are shared, not copied.
        entry: "channel" or "features".
        stride: Of the map that is multiplied, for "features"; None takes the deepest.

    Raises:
        SonokitError: No such entry or map, or a stem that is no convolution.
    """

    def __init__(self, backbone: Backbone, entry: GazeEntry = "channel", stride: int | None = None) -> None:
        super().__init__()
        if entry not in get_args(GazeEntry):
            raise SonokitError(f"gaze enters by one of {', '.join(get_args(GazeEntry))}, not by {entry!r}")
        self.backbone = backbone
        self.entry = entry
        self.num_features = backbone.num_features
        if entry == "channel":
            self._place = _stem(backbone)
            self.gaze_stem: nn.Conv2d | None = _one_channel(backbone.model.get_submodule(self._place), backbone.name)
        else:
            self._place = _map_module(backbone, stride)
            self.gaze_stem = None

    @property
    def map_channels(self) -> dict[int, int]:
        """As ``Backbone.map_channels``."""
        return self.backbone.map_channels

    def forward(self, frames: Tensor, gaze: Tensor) -> Tensor:
        """Features of frames that were looked at.

        Args:
            frames: Float in [0, 1], shape [B, C, H, W].
            gaze: Not negative, float [B, 1, H', W'], brought to a peak of 1 each; all zero where nobody looked.

        Returns:
            Shape [B, D].
        """
        with self.shown(frames, gaze):
            features: Tensor = self.backbone(frames)
        return features

    def forward_maps(self, frames: Tensor, strides: Sequence[int], gaze: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features and feature maps; see ``Backbone.forward_maps``."""
        with self.shown(frames, gaze):
            return self.backbone.forward_maps(frames, strides)

    @contextmanager
    def shown(self, frames: Tensor, gaze: Tensor) -> Iterator[None]:
        """While this lasts, whoever runs the backbone over ``frames`` runs it with ``gaze``; shapes as of ``forward``."""
        if gaze.ndim != 4 or gaze.shape[:2] != (len(frames), 1):
            raise SonokitError(f"gaze must be [{len(frames)}, 1, height, width], one map a frame, got {tuple(gaze.shape)}")
        peaked = peak_scaled(gaze.to(frames.dtype))
        full = _resized(peaked, frames.shape[2:])

        def change(module: nn.Module, given: Any, out: Tensor) -> Tensor:
            if self.gaze_stem is not None:
                return out + self.gaze_stem(full)
            if out.ndim != 4:
                raise SonokitError(f'the maps of {self.backbone.name} are no images; use the entry "channel"')
            return out * (1 + _resized(peaked, out.shape[2:]))

        # a hook for this call only: the backbone, which others may use, stays as it is
        handle = self.backbone.model.get_submodule(self._place).register_forward_hook(change)
        try:
            yield
        finally:
            handle.remove()


class RegionTeacherInput(nn.Module):
    """Frames as a teacher sees them that is shown the experts' regions: x · (m + ε (1 − m)), m with soft edges.

    A region that is the whole frame, and an image that nobody marked, leave the frame exactly as it is.

    Args:
        dimmed: ε, from 0 (outside is black) to 1 (outside as it is).
        edge: Standard deviation, in pixels, of the Gaussian that softens the edge; 0 leaves it sharp.

    Raises:
        SonokitError: ε is not between 0 and 1, or the edge is negative.
    """

    def __init__(self, dimmed: float = 0.1, edge: float = 3.0) -> None:
        super().__init__()
        if not (0 <= dimmed <= 1 and 0 <= edge < float("inf")):
            raise SonokitError(f"dimmed must lie between 0 and 1 and the edge be 0 or more, got {dimmed} and {edge}")
        self.dimmed = float(dimmed)
        self.edge = float(edge)

    def forward(self, frames: Tensor, regions: Tensor, annotated: Tensor | None = None) -> Tensor:
        """The teacher's frames, [B, C, H, W].

        Args:
            frames: Float in [0, 1], shape [B, C, H, W].
            regions: Float from 0 to 1, shape [B, 1, H, W].
            annotated: Which images have regions, bool [B]; None where all have.
        """
        if regions.shape != (len(frames), 1, *frames.shape[2:]):
            raise SonokitError(f"regions must be {(len(frames), 1, *frames.shape[2:])}, they are {tuple(regions.shape)}")
        outside = 1 - regions.to(frames.dtype)
        if annotated is not None:
            outside = torch.where(annotated.view(-1, 1, 1, 1), outside, torch.zeros_like(outside))
        # what is outside is softened, not what is inside: of a whole frame it stays exactly 0
        return frames * (1 - (1 - self.dimmed) * self._soft(outside))

    def _soft(self, outside: Tensor) -> Tensor:
        if self.edge == 0:
            return outside
        reach = min(int(3 * self.edge + 1), *(side - 1 for side in outside.shape[2:]))
        steps = torch.arange(-reach, reach + 1, device=outside.device, dtype=outside.dtype)
        kernel = torch.exp(-0.5 * (steps / self.edge) ** 2)
        kernel = kernel / kernel.sum()
        padded = F.pad(outside, (reach, reach, reach, reach), mode="replicate")
        return F.conv2d(F.conv2d(padded, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1)).clamp(0, 1)


def peak_scaled(gaze: Tensor) -> Tensor:
    """Each map over its highest value, [B, 1, H, W]: gaze maps sum to 1, so that their values are tiny; zeros stay zeros."""
    return gaze / gaze.amax(dim=(2, 3), keepdim=True).clamp(min=torch.finfo(gaze.dtype).tiny)


def _resized(gaze: Tensor, size: torch.Size) -> Tensor:
    height, width = size
    if gaze.shape[2:] == size:
        return gaze
    if height <= gaze.shape[2] and width <= gaze.shape[3]:
        return F.adaptive_avg_pool2d(gaze, (height, width))
    return F.interpolate(gaze, (height, width), mode="bilinear", align_corners=False)


def _stem(backbone: Backbone) -> str:
    names = backbone.model.pretrained_cfg.get("first_conv")
    if not isinstance(names, str):
        raise SonokitError(f'timm names no single input layer of {backbone.name}; use the entry "features"')
    return names


def _one_channel(stem: nn.Module, name: str) -> nn.Conv2d:
    """A convolution of ``stem``'s geometry over one channel, without bias, all zero."""
    # other subclasses may treat their weights in some way that zeros do not survive
    if type(stem) not in (nn.Conv2d, Conv2dSame) or stem.groups != 1:
        raise SonokitError(f'the input layer of {name} is no plain convolution; use the entry "features"')
    twin: nn.Conv2d = copy.deepcopy(stem)  # type: ignore[assignment]
    twin.in_channels, twin.bias = 1, None
    twin.weight = nn.Parameter(torch.zeros_like(twin.weight[:, :1]))
    return twin


def _map_module(backbone: Backbone, stride: int | None) -> str:
    """Name of the module whose output is the map of a stride."""
    found = {int(info["reduction"]): str(info["module"]) for info in backbone.model.feature_info}
    wanted = max(found) if stride is None else stride
    if wanted not in found or wanted not in backbone.map_channels:
        there = ", ".join(map(str, sorted(found)))
        raise SonokitError(f"{backbone.name} has no map at stride {wanted} that gaze could enter; it has: {there}")
    return found[wanted]
