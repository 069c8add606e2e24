"""Random numbers of an augmentation: one set a frame, all from one generator, drawn before any frame is touched."""

import math

import torch
from torch import Generator, Tensor

_TRIES = 10  # as in torchvision's RandomResizedCrop


class Draws:
    """Draws numbers for ``n`` frames; on the generator's device, so that they do not depend on the frames' device."""

    def __init__(self, n: int, generator: Generator, device: torch.device) -> None:
        self.n, self.generator, self.device = n, generator, device

    def __call__(self, low: float, high: float, *shape: int) -> Tensor:
        """Uniform in [low, high), float32 [N, 1, 1] or [N, *shape]."""
        wanted = (self.n, *(shape or (1, 1)))
        numbers = torch.rand(wanted, generator=self.generator, device=self.generator.device)
        return (low + (high - low) * numbers).to(self.device)

    def normal(self, *shape: int) -> Tensor:
        """Standard normal, float32 [N, *shape]."""
        numbers = torch.randn((self.n, *shape), generator=self.generator, device=self.generator.device)
        return numbers.to(self.device)

    def box(self, area: tuple[float, float], aspect: tuple[float, float]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Boxes of random area and aspect ratio (log-uniform) at a random place: the first of ten tries that fits, or all.

        Args:
            area: Range of the area, in parts of the frame.
            aspect: Range of width divided by height.

        Returns:
            Width, height, and centre x, y, each [N, 1, 1], in units of the frame.
        """
        areas = self(*area, _TRIES)  # [N, tries]
        aspects = torch.exp(self(math.log(aspect[0]), math.log(aspect[1]), _TRIES))
        width, height = (areas * aspects).sqrt(), (areas / aspects).sqrt()
        fits = (width <= 1) & (height <= 1)
        first = fits.int().argmax(dim=1, keepdim=True)  # 0 where none fits
        some = fits.any(dim=1, keepdim=True)
        one = torch.ones_like(areas[:, :1])
        width = torch.where(some, width.gather(1, first), one).unsqueeze(-1)  # [N, 1, 1]
        height = torch.where(some, height.gather(1, first), one).unsqueeze(-1)
        x = width / 2 + self(0, 1) * (1 - width)
        y = height / 2 + self(0, 1) * (1 - height)
        return width, height, x, y
