"""Augmentation of grey frames, whole batches at a time, on whatever device they lie.

Two recipes. ``ReferenceAugment`` is that of USCL's reference code (Chen et al., MICCAI 2021). ``UltrasoundAugment`` changes
what differs between examinations of the same anatomy and leaves what carries meaning: a crop that keeps the sector, time-gain
compensation, the display's gamma and contrast curve, speckle, focus, and the probe's left-right orientation; never a vertical
flip, because depth has a direction. Every one of its operations keeps black black, so that the area outside the sector stays
empty; what is burnt in there is blanked on request (``augment_sector.py``).

All randomness comes from the generator that is passed in, each frame has parameters of its own, and no frame's result depends
on another frame's content (but for the search for the sector, which looks at all frames of a clip). Values stay in [0, 1].
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Generator, Tensor

from ..errors import SonokitError
from .augment_draws import Draws
from .augment_rows import box_taps, by_chunks, crop_and_flip, gaussian_blur, mix_rows, resize, shrunk, shrunk_shape, transposed
from .augment_sector import mask_outside_sector
from .augment_ultrasound import OPERATIONS, Operations, UltrasoundAugment

AugmentName = Literal["ultrasound", "reference", "none"]


class Augment(Protocol):
    """Frames, uint8 or float in [0, 1], [N, 1, H, W] or clip by clip [B, K, 1, H, W] → the same at [S, S], float32."""

    def __call__(self, frames: Tensor, generator: Generator) -> Tensor:
        """Augment each frame independently, with randomness from ``generator`` only."""
        ...


def augment_named(
    name: str, size: int, strength: float = 1.0, *, operations: Operations | None = None, mask_sector: bool = False
) -> Augment:
    """The recipe "ultrasound", "reference" or "none" (resizing only).

    Args:
        name: Of the recipe.
        size: Side of the frames that come out.
        strength: Of "ultrasound".
        operations: Scales of the single operations of "ultrasound".
        mask_sector: Blank what lies outside of the sector first.

    Raises:
        SonokitError: Unknown name, a size below 1, or a negative strength.
    """
    if size < 1 or not 0 <= strength < math.inf:
        raise SonokitError(f"augmentation needs a size of 1 or more and a strength of 0 or more, not {size} and {strength}")
    recipes: dict[str, Augment] = {
        "ultrasound": UltrasoundAugment(size, strength, operations or Operations()),
        "reference": ReferenceAugment(size),
        "none": ResizeOnly(size),
    }
    if name not in recipes:
        raise SonokitError(f"unknown augmentation {name!r}; choose one of {', '.join(get_args(AugmentName))}")
    return SectorOnly(recipes[name]) if mask_sector else recipes[name]


@dataclass(frozen=True)
class ResizeOnly:
    """No augmentation: frames at ``size``."""

    size: int

    def __call__(self, frames: Tensor, generator: Generator) -> Tensor:
        """Resize; the generator is not used."""
        return by_chunks(frames, self.size, lambda chunk, _, out: out.copy_(resize(chunk, self.size).squeeze(1)))


@dataclass(frozen=True)
class SectorOnly:
    """Another recipe, on frames that are black outside of the sector.

    Frames as [B, K, 1, H, W] are the K frames of each clip, which share a sector; each of [N, 1, H, W] is a clip of its own,
    and then what moves cannot be told from what stands still.
    """

    recipe: Augment

    def __call__(self, frames: Tensor, generator: Generator) -> Tensor:
        """Mask, then augment."""
        clips = frames if frames.ndim == 5 else frames.unsqueeze(1)
        return self.recipe(mask_outside_sector(clips).view(frames.shape), generator)


@dataclass(frozen=True)
class ReferenceAugment:
    """USCL's recipe: random resized crop, horizontal flip, colour jitter.

    Of the jitter (.8, .8, .8, .2) saturation and hue do nothing on grey; brightness and contrast come in random order. The crop
    is torchvision's ``RandomResizedCrop`` (ten tries, then the whole frame) without its rounding to pixels.
    """

    size: int

    def __call__(self, frames: Tensor, generator: Generator) -> Tensor:
        """Augment uint8 or float [N, 1, H, W] or [B, K, 1, H, W] to float at ``size``."""
        draw = Draws(math.prod(frames.shape[:-3]), generator, frames.device)
        box = draw.box((0.8, 1.0), (0.8, 1.25))
        down, across = box_taps(box, draw(0, 1) < 0.5, shrunk_shape(frames, self.size), self.size)
        brightness, contrast = draw(0.2, 1.8), draw(0.2, 1.8)  # [N, 1, 1]
        brightness_first = draw(0, 1) < 0.5
        one = torch.ones_like(brightness)
        down = down.times(torch.where(brightness_first, brightness, one))  # sampling is linear, so the factor rides along
        after = torch.where(brightness_first, one, brightness)

        def work(chunk: Tensor, part: slice, out: Tensor) -> None:
            grey = mix_rows(transposed(mix_rows(shrunk(chunk, self.size).squeeze(1), down[part])), across[part]).clamp_(0, 1)
            average = grey.mean(dim=(1, 2), keepdim=True)  # [n, 1, 1]
            grey.mul_(contrast[part]).add_(average * (1 - contrast[part])).clamp_(0, 1).mul_(after[part])
            torch.clamp(grey.transpose(1, 2), 0, 1, out=out)

        return by_chunks(frames, self.size, work)


__all__ = [
    "OPERATIONS",
    "Augment",
    "AugmentName",
    "Operations",
    "ReferenceAugment",
    "ResizeOnly",
    "SectorOnly",
    "UltrasoundAugment",
    "augment_named",
    "crop_and_flip",
    "gaussian_blur",
    "mask_outside_sector",
    "resize",
]
