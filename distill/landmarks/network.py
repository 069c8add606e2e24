"""Landmark networks: a backbone, a light decoder, one heat map a landmark.

The decoder is a feature pyramid (Lin et al., CVPR 2017, 1612.03144) with a width of its own at each level: 1 × 1 convolutions
bring the backbone's maps to that width, coarser levels are enlarged and added, and one block a level mixes what met. Only the
finest level predicts. Widths of a few channels make it a decoder for networks of ten thousand parameters.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...backbones.build import Backbone
from ...errors import SonokitError
from ..signals.terms import Outputs
from ..students.micro import DepthwiseSeparable
from ..training.learners import Learner
from ..training.views import SeenBatch

Block = Literal["separable", "plain"]
Shared = Literal["encoder", "decoder"]


class LandmarkNetwork(Learner):
    """Frames → heat maps; what it shares with a student, or learns of a teacher, are its encoder's or its decoder's maps.

    Args:
        backbone: Must offer maps at ``stride`` and below.
        names: Of the L landmarks.
        stride: Input pixels a cell of the heat maps.
        widths: Of the decoder, by stride from ``stride`` on, each twice the one before; or one width for all that the backbone
            offers.
        block: "separable": a depthwise and a 1 × 1 convolution; "plain": a full 3 × 3 one.
        shared: Whose maps ``see`` gives.
        seed: Of the decoder's random beginning; the global generator is left undisturbed.

    Raises:
        SonokitError: The backbone has no map at one of the strides, or there is no landmark.
    """

    def __init__(
        self,
        backbone: Backbone,
        names: Sequence[str],
        *,
        stride: int = 4,
        widths: Mapping[int, int] | int = 32,
        block: Block = "separable",
        shared: Shared = "decoder",
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not names or block not in get_args(Block) or shared not in get_args(Shared):
            raise SonokitError(
                "a landmark network needs at least one landmark, a block that is separable or plain, and shares encoder or "
                f"decoder maps; got {len(names)} landmarks, {block!r}, {shared!r}"
            )
        levels = {s: widths for s in backbone.map_channels if s >= stride} if isinstance(widths, int) else dict(widths)
        strides = [stride * 2**k for k in range(len(levels))]
        if not levels or sorted(levels) != strides or any(s not in backbone.map_channels for s in levels):
            there = ", ".join(map(str, backbone.map_channels)) or "none"
            raise SonokitError(
                f"{backbone.name} offers maps at strides {there}; the decoder's levels must be some of them, {stride} and its "
                f"doubles without a gap; they are {', '.join(map(str, sorted(levels))) or 'none'}"
            )
        self.backbone = backbone
        self.names = tuple(names)
        self.stride = stride
        self.widths = {s: levels[s] for s in strides}
        self.block = block
        self.shared: Shared = shared
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.decoder = _Decoder([backbone.map_channels[s] for s in strides], list(self.widths.values()), block)
            self.predict = nn.Conv2d(self.widths[stride], len(self.names), 1)
            nn.init.normal_(self.predict.weight, std=1e-3)  # all but blank maps: the error starts at that of saying nothing
            assert self.predict.bias is not None
            nn.init.zeros_(self.predict.bias)

    @property
    def map_channels(self) -> dict[int, int]:
        """See :class:`~sonokit.distill.training.learners.Learner`."""
        return self.backbone.map_channels if self.shared == "encoder" else dict(self.widths)

    def forward(self, frames: Tensor) -> Tensor:
        """Frames, float in [0, 1], [B, 1, H, W] → heat maps [B, L, H // stride, W // stride]."""
        return self._run(frames, ())[0]

    def see(self, seen: SeenBatch, strides: Sequence[int] = (), *, class_maps: bool = False) -> Outputs:
        """See :class:`~sonokit.distill.training.learners.Learner`; of the batch it reads the frames.

        Raises:
            SonokitError: Class maps are wanted, which landmarks do not have.
        """
        if class_maps:
            raise SonokitError("a landmark network has no class activation maps: leave the region term out")
        heat_maps, maps = self._run(seen.frames, strides)
        return Outputs(heat_maps=heat_maps, maps=maps)

    def groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """See :class:`~sonokit.distill.training.learners.Learner`."""
        return list(self.backbone.parameters()), [*self.decoder.parameters(), *self.predict.parameters()]

    def _run(self, frames: Tensor, strides: Sequence[int]) -> tuple[Tensor, dict[int, Tensor]]:
        height, width = frames.shape[2] // self.stride, frames.shape[3] // self.stride
        grey = frames if self.backbone.in_chans == frames.shape[1] else frames.expand(-1, self.backbone.in_chans, -1, -1)
        own = list(self.widths)
        wanted = sorted({*own, *(strides if self.shared == "encoder" else ())})
        encoded = dict(zip(wanted, self.backbone.forward_all(grey, wanted)[1], strict=True))
        decoded = dict(zip(own, self.decoder([encoded[s] for s in own]), strict=True))
        # a backbone rounds odd sizes up; the cells that targets have are the first ones
        heat_maps = self.predict(decoded[self.stride])[:, :, :height, :width]
        there = encoded if self.shared == "encoder" else decoded
        return heat_maps, {s: there[s] for s in strides}


class _Decoder(nn.Module):
    """Maps from fine to coarse → as many, each knowing the coarser ones."""

    def __init__(self, channels: Sequence[int], widths: Sequence[int], block: Block) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(_normed(c, w, 1) for c, w in zip(channels, widths, strict=True))
        coarser = zip(widths[1:], widths[:-1], strict=True)
        self.descents = nn.ModuleList(nn.Identity() if a == b else nn.Conv2d(a, b, 1, bias=False) for a, b in coarser)
        self.blocks = nn.ModuleList(
            DepthwiseSeparable(w, w, 1) if block == "separable" else nn.Sequential(_normed(w, w, 3), nn.ReLU()) for w in widths
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        found: list[Tensor] = []
        for level in reversed(range(len(maps))):
            met = self.laterals[level](maps[level])
            if found:
                met = met + F.interpolate(self.descents[level](found[-1]), size=met.shape[2:], mode="nearest")
            found.append(self.blocks[level](F.relu(met)))
        return found[::-1]


def _normed(inputs: int, outputs: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs))
