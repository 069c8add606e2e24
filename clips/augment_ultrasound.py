"""The augmentation that keeps what an ultrasound frame means; see ``augment.py``."""

import math
from dataclasses import dataclass, field, fields

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..errors import SonokitError
from .augment_draws import Draws
from .augment_rows import (
    blur_taps,
    box_taps,
    by_chunks,
    mix_rows,
    resize,
    scaling_taps,
    shrunk,
    shrunk_shape,
    transposed,
)


@dataclass(frozen=True)
class Operations:
    """How strong each operation is, as a factor of the recipe's strength; 0 switches it off.

    An operation that is off still draws its random numbers (all but the shadows, which come last), so that the others do to a
    frame what they would have done with it.

    Attributes:
        crop: A box of random size, aspect ratio and place, enlarged.
        flip: Left and right exchanged, as with the probe turned round.
        gain: A smooth gain over depth, as with the scanner's sliders.
        gamma: Brighter or darker mid-greys.
        contrast: An S-curve, or its inverse.
        speckle: Multiplied noise with grains.
        blur: Less focus.
        shadows: Dark bands downwards from a random depth, as behind ribs or lost contact; off by default.

    Raises:
        SonokitError: A factor below 0 or not a number.
    """

    crop: float = 1.0
    flip: float = 1.0
    gain: float = 1.0
    gamma: float = 1.0
    contrast: float = 1.0
    speckle: float = 1.0
    blur: float = 1.0
    shadows: float = 0.0

    def __post_init__(self) -> None:
        for name in OPERATIONS:
            if not 0 <= getattr(self, name) < math.inf:
                raise SonokitError(f"augmentation {name} must be 0 (off) or more, it is {getattr(self, name)}")

    @classmethod
    def only(cls, name: str, scale: float = 1.0) -> "Operations":
        """One operation, the others off."""
        return cls(**{other: scale * (other == name) for other in OPERATIONS})

    def times(self, strength: float) -> "Operations":
        """All of them stronger by a factor."""
        return Operations(**{name: strength * getattr(self, name) for name in OPERATIONS})


OPERATIONS = tuple(part.name for part in fields(Operations))


@dataclass(frozen=True)
class UltrasoundAugment:
    """What varies between examinations.

    Attributes:
        size: Side of the frames that come out.
        strength: Scales every operation; 0 only resizes, 1 is the default, 2 is heavy.
        operations: Scales of the single ones.
    """

    size: int
    strength: float = 1.0
    operations: Operations = field(default_factory=Operations)

    def __call__(self, frames: Tensor, generator: Generator) -> Tensor:
        """Augment uint8 or float [N, 1, H, W] or [B, K, 1, H, W], each frame by itself, to float at ``size``."""
        if self.strength <= 0:
            return by_chunks(frames, self.size, lambda chunk, _, out: out.copy_(resize(chunk, self.size).squeeze(1)))
        n = math.prod(frames.shape[:-3])
        plan = _Plan(
            Draws(n, generator, frames.device), self.operations.times(self.strength), self.size, shrunk_shape(frames, self.size)
        )
        return by_chunks(frames, self.size, plan.apply)


class _Plan:
    """Everything random about a batch, drawn in a fixed order, and what it does to a part of the frames.

    Between cropping and blurring frames lie transposed, [n, columns, rows]: that saves the way back and forth.
    """

    def __init__(self, draw: Draws, scale: Operations, size: int, shape: tuple[int, int]) -> None:
        self.scale, self.size = scale, size
        narrow = 1 - min(0.1 * scale.crop, 0.3)
        box = draw.box((1 - min(0.3 * scale.crop, 0.5), 1.0), (narrow, 1 / narrow))
        down, self.across = box_taps(box, draw(0, 1) < 0.5 * min(scale.flip, 1), shape, size)
        self.down = down.times(_depth_gain(draw, size, 0.35 * scale.gain))  # sampling is linear, so the gain rides along
        self.gamma = torch.exp(draw(-0.4, 0.4) * scale.gamma)
        self.curve = draw(-1, 1) * min(0.8 * scale.contrast, 1)
        amplitude = draw(0, 0.25) * scale.speckle
        # correlated over some pixels, more across the beams than along them
        self.noise = draw.normal(max(1, size // 2), max(1, size // 3))  # [N, rows, columns]
        n, rows, columns = self.noise.shape
        self.tall = scaling_taps(n, rows, size, draw.device)
        self.wide = scaling_taps(n, columns, size, draw.device).times(amplitude)
        sigma = draw(-1, 1).clamp(min=0) * scale.blur * 1.5 * size / 224
        self.blur = blur_taps(sigma, size, math.ceil(3 * scale.blur * size / 224))
        self.shadow = _shadow(draw, size, scale.shadows) if scale.shadows else None

    def apply(self, frames: Tensor, part: slice, out: Tensor) -> None:
        """Augment ``frames`` [n, 1, H, W], those at ``part``, into ``out`` [n, S, S]."""
        grey = mix_rows(transposed(mix_rows(shrunk(frames, self.size).squeeze(1), self.down[part])), self.across[part])
        if self.scale.gain:
            grey.clamp_(0, 1)
        if self.scale.gamma:
            grey.pow_(self.gamma[part])
        if self.scale.contrast:
            _bend(grey, self.curve[part])
        if self.scale.speckle:
            speckle = mix_rows(transposed(mix_rows(self.noise[part], self.tall[part])), self.wide[part])
            grey.addcmul_(grey, speckle).clamp_(0, 1)
        if self.scale.blur:
            grey = mix_rows(transposed(mix_rows(grey, self.blur[part])), self.blur[part])
        else:
            grey = grey.transpose(1, 2)
        if self.shadow is not None:
            grey = grey * _shade(self.shadow, part)
        torch.clamp(grey, 0, 1, out=out)


def _bend(grey: Tensor, curve: Tensor) -> None:
    """``grey`` + c·g(1 − g)(2g − 1), in place: an S-curve that holds 0, ½ and 1 in place, monotone for |c| ≤ 1."""
    factor = torch.mul(grey, -2 * curve).add_(3 * curve).mul_(grey).add_(1 - curve)
    grey.mul_(factor)


def _depth_gain(draw: Draws, size: int, spread: float) -> Tensor:
    """A smooth gain curve over depth, [N, S, 1], through five points like a scanner's sliders.

    Grey levels are log-compressed, so a true gain would add a constant; it multiplies here, so that black stays black.
    """
    sliders = draw.normal(1, 5) * spread / 2  # [N, 1, 5]
    curve = F.interpolate(sliders, size=size, mode="linear", align_corners=True)  # [N, 1, S]
    return torch.exp(curve.clamp(-1, 1)).transpose(1, 2)


def _shadow(draw: Draws, size: int, strength: float) -> tuple[Tensor, Tensor]:
    """For every second frame one soft dark band from some depth downwards: darkness over rows [N, S, 1], columns [N, 1, S]."""
    position = torch.linspace(0, 1, size, device=draw.device)
    across = torch.exp(-(((position.view(1, 1, -1) - draw(0.1, 0.9)) / draw(0.03, 0.12)) ** 2))  # [N, 1, S]
    below = torch.sigmoid((position.view(1, -1, 1) - draw(0, 0.6)) * 40)  # [N, S, 1]
    depth = torch.where(draw(0, 1) < 0.5, draw(0.3, 0.9) * min(strength, 1), torch.zeros_like(draw(0, 1)))
    return depth * below, across


def _shade(shadow: tuple[Tensor, Tensor], part: slice) -> Tensor:
    """The factor [n, S, S]."""
    below, across = shadow
    return 1 - below[part] * across[part]
