"""Temporal shift: a 2-D network exchanges information along time at no cost (TSM, Lin, Gan and Han, ICCV 2019, 1811.08383).

At the entrance of each residual branch a fraction of the channels comes from the next frame, as many from the previous one,
and the rest stays. The first and last frames, which lack a neighbour, get zeros there; so a clip of one frame passes unchanged
except for those two parts, which are zero. The shift sits in forward pre-hooks: parameters and state dict keys stay timm's.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, EdgeResidual, InvertedResidual
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from ..errors import SonokitError


def shift_in_time(x: Tensor, frames: int, fraction: float) -> Tensor:
    """Move ``int(C * fraction)`` channels one frame each way.

    Args:
        x: Shape [B·T, C, H, W], the T frames of a clip one after the other.
        frames: T.
        fraction: Of the channels that move each way, 0 to 0.5.
    """
    _, channels, height, width = x.shape
    moved = int(channels * fraction)
    clips = x.view(-1, frames, channels, height, width)  # [B, T, C, H, W]
    out = torch.zeros_like(clips)
    out[:, :-1, :moved] = clips[:, 1:, :moved]  # from the future
    out[:, 1:, moved : 2 * moved] = clips[:, :-1, moved : 2 * moved]  # from the past
    out[:, :, 2 * moved :] = clips[:, :, 2 * moved :]
    return out.view_as(x)


class TemporalShift:
    """The hooks' shared state: idle, except within ``over(frames)``.

    An instance is itself the hook, so that a deep copy of a model takes a copy of its own along.
    """

    def __init__(self, fraction: float) -> None:
        self.fraction = fraction
        self._frames: int | None = None

    @contextmanager
    def over(self, frames: int) -> Iterator[None]:
        """Within this context the batch is made of clips of ``frames`` frames."""
        self._frames = frames
        try:
            yield
        finally:
            self._frames = None

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Shift the convolution's input."""
        if self._frames is None:
            return None
        return (shift_in_time(args[0], self._frames, self.fraction), *args[1:])


def insert_temporal_shift(model: nn.Module, name: str, fraction: float) -> TemporalShift:
    """Hook the shift into every residual branch of ``model``.

    Raises:
        SonokitError: ``fraction`` is not in (0, 0.5], or the family of ``name`` is not supported.
    """
    if not 0 < fraction <= 0.5:
        raise SonokitError(f"temporal_shift must lie in 0 (off) … 0.5, it is {fraction}")
    shift = TemporalShift(fraction)
    convolutions = [conv for module in model.modules() if (conv := _branch_entrance(module)) is not None]
    if not convolutions:
        raise SonokitError(
            f"temporal shift knows the blocks of timm's ResNet and EfficientNet (also MobileNet) families, not {name}: "
            "set temporal_shift to 0 or choose another backbone"
        )
    for conv in convolutions:
        conv.register_forward_pre_hook(shift)
    return shift


def _branch_entrance(module: nn.Module) -> nn.Module | None:
    """The first convolution of a residual branch; blocks without a shortcut are left out, as in the paper's MobileNet."""
    if isinstance(module, BasicBlock | Bottleneck):
        return module.conv1
    if isinstance(module, InvertedResidual) and module.has_skip:
        return module.conv_pw
    if isinstance(module, DepthwiseSeparableConv) and module.has_skip:
        return module.conv_dw
    if isinstance(module, EdgeResidual) and module.has_skip:
        return module.conv_exp
    return None
