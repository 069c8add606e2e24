"""Augmentation of grey frames, whole batches at a time, on whatever device they lie.

Two recipes. ``ReferenceAugment`` is that of USCL's reference code (Chen et al., MICCAI 2021). ``UltrasoundAugment`` changes
what differs between examinations of the same anatomy and leaves what carries meaning: a crop that keeps the sector, time-gain
compensation, the display's gamma and contrast curve, speckle, focus, and the probe's left-right orientation; never a vertical
flip, because depth has a direction. Every one of its operations keeps black black, so that the area outside the sector stays
empty.

All randomness comes from the generator that is passed in, each frame has parameters of its own, and no frame's result depends
on another frame's content. Values stay in [0, 1].
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ..errors import SonokitError

AugmentName = Literal["ultrasound", "reference", "none"]


class Augment(Protocol):
    """Frames [N, 1, H, W], float in [0, 1] → [N, 1, S, S]."""

    def __call__(self, frames: Tensor, generator: Generator) -> Tensor:
        """Augment each frame independently, with randomness from ``generator`` only."""
        ...


def augment_named(name: str, size: int, strength: float = 1.0) -> Augment:
    """The recipe "ultrasound", "reference" or "none" (resizing only).

    Raises:
        SonokitError: Unknown name.
    """
    if name == "ultrasound":
        return UltrasoundAugment(size, strength)
    if name == "reference":
        return ReferenceAugment(size)
    if name == "none":
        return ResizeOnly(size)
    raise SonokitError(f"unknown augmentation {name!r}; choose one of {', '.join(get_args(AugmentName))}")


@dataclass(frozen=True)
class ResizeOnly:
    """No augmentation: frames at ``size``."""

    size: int

    def __call__(self, frames: Tensor, generator: Generator) -> Tensor:
        """Resize; the generator is not used."""
        return resize(frames, self.size)


@dataclass(frozen=True)
class ReferenceAugment:
    """USCL's recipe: random resized crop, horizontal flip, colour jitter.

    Of the jitter (.8, .8, .8, .2) saturation and hue do nothing on grey; brightness and contrast come in random order. The crop
    is torchvision's ``RandomResizedCrop`` (ten tries, then the whole frame) without its rounding to pixels.
    """

    size: int

    def __call__(self, frames: Tensor, generator: Generator) -> Tensor:
        """Augment [N, 1, H, W] → [N, 1, S, S]."""
        n = len(frames)
        draw = _Uniform(n, generator, frames.device)
        out = crop_and_flip(frames, self.size, _crop(draw, (0.8, 1.0), (0.8, 1.25)), draw(0, 1) < 0.5)
        brightness, contrast = draw(0.2, 1.8), draw(0.2, 1.8)  # [N, 1, 1, 1]
        brightness_first = draw(0, 1) < 0.5
        one = torch.ones_like(brightness)
        out = (out * torch.where(brightness_first, brightness, one)).clamp(0, 1)
        average = out.mean(dim=(1, 2, 3), keepdim=True)
        out = (average + (out - average) * contrast).clamp(0, 1)
        return (out * torch.where(brightness_first, one, brightness)).clamp(0, 1)


@dataclass(frozen=True)
class UltrasoundAugment:
    """What varies between examinations; see the module's docstring.

    Attributes:
        size: Side of the frames that come out.
        strength: Scales every operation; 0 only resizes, 1 is the default, 2 is heavy.
        shadows: Acoustic shadows as well: dark bands downwards from a random depth, as behind ribs or lost contact.
    """

    size: int
    strength: float = 1.0
    shadows: bool = False

    def __call__(self, frames: Tensor, generator: Generator) -> Tensor:
        """Augment [N, 1, H, W] → [N, 1, S, S]."""
        s = self.strength
        if s <= 0:
            return resize(frames, self.size)
        draw = _Uniform(len(frames), generator, frames.device)
        box = _crop(draw, (1 - min(0.3 * s, 0.5), 1.0), (1 - min(0.1 * s, 0.3), 1 / (1 - min(0.1 * s, 0.3))))
        out = crop_and_flip(frames, self.size, box, draw(0, 1) < 0.5 * min(s, 1))
        out = out * _depth_gain(draw, self.size, 0.35 * s)
        out = out.clamp(0, 1) ** torch.exp(draw(-0.4, 0.4) * s)
        # an S-curve that holds 0, ½ and 1 in place, monotone for |c| ≤ 1
        out = out + draw(-1, 1) * min(0.8 * s, 1) * out * (1 - out) * (2 * out - 1)
        out = out * (1 + draw(0, 0.25) * s * _speckle(draw, self.size))
        out = gaussian_blur(out.clamp(0, 1), draw(-1, 1).clamp(min=0) * s * 1.5 * self.size / 224, 3 * s * self.size / 224)
        if self.shadows:
            out = out * _shadow(draw, self.size, s)
        return out.clamp(0, 1)


def resize(frames: Tensor, size: int) -> Tensor:
    """Frames [N, 1, H, W] → [N, 1, size, size], antialiased."""
    if frames.shape[-2:] == (size, size):
        return frames
    return F.interpolate(frames, size=(size, size), mode="bilinear", antialias=True).clamp(0, 1)


def crop_and_flip(frames: Tensor, size: int, box: tuple[Tensor, Tensor, Tensor, Tensor], flip: Tensor) -> Tensor:
    """Cut ``box`` out of each frame, mirror where asked, and bring it to ``size``, in one bilinear sampling.

    Args:
        frames: Shape [N, 1, H, W].
        size: Side of the result.
        box: Width, height, and centre x, y, each [N, 1, 1, 1], in units of the frame.
        flip: Bool, [N, 1, 1, 1].
    """
    n = len(frames)
    if frames.shape[-1] > size:  # bilinear sampling alone would alias
        frames = resize(frames, size)
    width, height, x, y = (part.view(n) for part in box)
    theta = torch.zeros(n, 2, 3, device=frames.device, dtype=frames.dtype)
    theta[:, 0, 0] = torch.where(flip.view(n), -width, width)
    theta[:, 1, 1] = height
    theta[:, 0, 2] = 2 * x - 1
    theta[:, 1, 2] = 2 * y - 1
    grid = F.affine_grid(theta, [n, 1, size, size], align_corners=False)  # [N, S, S, 2]
    return F.grid_sample(frames, grid, mode="bilinear", padding_mode="border", align_corners=False)


def gaussian_blur(frames: Tensor, sigma: Tensor, reach: float) -> Tensor:
    """Blur each frame [N, 1, H, W] with its own ``sigma`` [N, 1, 1, 1]; kernels end ``reach`` pixels from their centre."""
    n, _, height, width = frames.shape
    radius = max(1, min(math.ceil(reach), height - 1, width - 1))
    offsets = torch.arange(-radius, radius + 1, device=frames.device, dtype=frames.dtype)
    kernel = torch.exp(-(offsets**2) / (2 * sigma.view(n, 1) ** 2 + 1e-6))  # [N, K]; sigma 0 is the identity
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    planes = F.pad(frames.view(1, n, height, width), (radius,) * 4, mode="reflect")  # [1, N, H+2r, W+2r]
    planes = F.conv2d(planes, kernel.view(n, 1, 1, -1), groups=n)
    planes = F.conv2d(planes, kernel.view(n, 1, -1, 1), groups=n)
    return planes.view(n, 1, height, width)


class _Uniform:
    """Draws one number a frame; on the generator's device, so that the numbers do not depend on the frames' device."""

    def __init__(self, n: int, generator: Generator, device: torch.device) -> None:
        self.n, self.generator, self.device = n, generator, device

    def __call__(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform in [low, high), shape [N, 1, 1, 1] or [N, *shape]."""
        wanted = (self.n, *(shape or (1, 1, 1)))
        numbers = torch.rand(wanted, generator=self.generator, device=self.generator.device)
        return (low + (high - low) * numbers).to(self.device)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, shape [N, *shape]."""
        numbers = torch.randn((self.n, *shape), generator=self.generator, device=self.generator.device)
        return numbers.to(self.device)


def _crop(draw: _Uniform, scale: tuple[float, float], ratio: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes of random area and aspect ratio (log-uniform) at a random place: the first of ten tries that fits, or all."""
    tries = 10
    area = draw(*scale, tries)  # [N, tries]
    aspect = torch.exp(draw(math.log(ratio[0]), math.log(ratio[1]), tries))
    width, height = (area * aspect).sqrt(), (area / aspect).sqrt()
    fits = (width <= 1) & (height <= 1)
    first = fits.int().argmax(dim=1, keepdim=True)  # 0 where none fits
    some = fits.any(dim=1, keepdim=True)
    one = torch.ones_like(area[:, :1])
    width = torch.where(some, width.gather(1, first), one).view(-1, 1, 1, 1)
    height = torch.where(some, height.gather(1, first), one).view(-1, 1, 1, 1)
    x = width / 2 + draw(0, 1) * (1 - width)
    y = height / 2 + draw(0, 1) * (1 - height)
    return width, height, x, y


def _depth_gain(draw: _Uniform, size: int, spread: float) -> Tensor:
    """A smooth gain curve over depth, [N, 1, S, 1], through five points like a scanner's sliders.

    Grey levels are log-compressed, so a true gain would add a constant; it multiplies here, so that black stays black.
    """
    sliders = draw.normal(1, 5) * spread / 2  # [N, 1, 5]
    curve = F.interpolate(sliders, size=size, mode="linear", align_corners=True)  # [N, 1, S]
    return torch.exp(curve.clamp(-1, 1)).unsqueeze(-1)


def _speckle(draw: _Uniform, size: int) -> Tensor:
    """Noise [N, 1, S, S] that is correlated over some pixels, more across the beams than along them."""
    rows, columns = max(1, size // 2), max(1, size // 3)
    return F.interpolate(draw.normal(1, rows, columns), size=(size, size), mode="bilinear", align_corners=False)


def _shadow(draw: _Uniform, size: int, strength: float) -> Tensor:
    """A factor [N, 1, S, S]: every second frame has one soft dark band from some depth downwards."""
    position = torch.linspace(0, 1, size, device=draw.device)
    across = torch.exp(-(((position.view(1, 1, 1, -1) - draw(0.1, 0.9)) / draw(0.03, 0.12)) ** 2))  # [N, 1, 1, S]
    below = torch.sigmoid((position.view(1, 1, -1, 1) - draw(0, 0.6)) * 40)  # [N, 1, S, 1]
    depth = torch.where(draw(0, 1) < 0.5, draw(0.3, 0.9) * min(strength, 1), torch.zeros_like(draw(0, 1)))
    return 1 - depth * across * below
