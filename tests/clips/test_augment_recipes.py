"""The recipes against themselves as one would write them first: whole batches, one operation after the other."""

import math

import pytest
import torch
import torch.nn.functional as F
from sonokit.clips.augment import Operations, ReferenceAugment, UltrasoundAugment


class Naive:
    """Frames [N, 1, S, S] through plain torch; draws in the recipes' order."""

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.rng = n, torch.Generator().manual_seed(seed)

    def __call__(self, low, high, *shape):
        return low + (high - low) * torch.rand((self.n, *(shape or (1, 1, 1))), generator=self.rng)

    def crop(self, frames, area, aspect):
        n, size = self.n, frames.shape[-1]
        areas = self(*area, 10)
        aspects = torch.exp(self(math.log(aspect[0]), math.log(aspect[1]), 10))
        places = self(0, 1).view(n), self(0, 1).view(n)
        theta = torch.zeros(n, 2, 3)
        for i in range(n):
            width = height = 1.0
            for a, r in zip(areas[i].tolist(), aspects[i].tolist(), strict=True):
                if math.sqrt(a * r) <= 1 and math.sqrt(a / r) <= 1:
                    width, height = math.sqrt(a * r), math.sqrt(a / r)
                    break
            x, y = (float(p[i]) * (1 - s) + s / 2 for p, s in zip(places, (width, height), strict=True))
            theta[i] = torch.tensor([[width, 0, 2 * x - 1], [0, height, 2 * y - 1]])
        return theta, size

    def sample(self, frames, theta, flip):
        theta = theta.clone()
        theta[:, 0, 0] *= torch.where(flip.view(-1), -1.0, 1.0)
        grid = F.affine_grid(theta, list(frames.shape), align_corners=False)
        return F.grid_sample(frames, grid, padding_mode="border", align_corners=False)


def naive_reference(frames, seed):
    draw = Naive(len(frames), seed)
    theta, _ = draw.crop(frames, (0.8, 1.0), (0.8, 1.25))
    out = draw.sample(frames, theta, draw(0, 1) < 0.5)
    brightness, contrast, first = draw(0.2, 1.8), draw(0.2, 1.8), draw(0, 1) < 0.5

    def brighter(x):
        return (x * brightness).clamp(0, 1)

    def more_contrast(x):
        mean = x.mean(dim=(1, 2, 3), keepdim=True)
        return (mean + contrast * (x - mean)).clamp(0, 1)

    return torch.where(first, more_contrast(brighter(out)), brighter(more_contrast(out)))


def naive_ultrasound(frames, seed, s, shadows):
    n, size = len(frames), frames.shape[-1]
    draw = Naive(n, seed)
    narrow = 1 - min(0.1 * s, 0.3)
    theta, _ = draw.crop(frames, (1 - min(0.3 * s, 0.5), 1.0), (narrow, 1 / narrow))
    out = draw.sample(frames, theta, draw(0, 1) < 0.5 * min(s, 1))
    sliders = torch.randn(n, 1, 5, generator=draw.rng) * 0.35 * s / 2
    out = out * torch.exp(F.interpolate(sliders, size=size, mode="linear", align_corners=True).clamp(-1, 1)).unsqueeze(-1)
    out = out.clamp(0, 1) ** torch.exp(draw(-0.4, 0.4) * s)
    out = out + draw(-1, 1) * min(0.8 * s, 1) * out * (1 - out) * (2 * out - 1)
    amplitude, noise = draw(0, 0.25) * s, torch.randn(n, 1, size // 2, size // 3, generator=draw.rng)
    out = (out * (1 + amplitude * F.interpolate(noise, size=(size, size), mode="bilinear"))).clamp(0, 1)
    out = naive_blur(out, draw(-1, 1).clamp(min=0) * s * 1.5 * size / 224, math.ceil(3 * s * size / 224))
    if shadows:
        x = torch.linspace(0, 1, size)
        across = torch.exp(-(((x.view(1, 1, 1, -1) - draw(0.1, 0.9)) / draw(0.03, 0.12)) ** 2))
        below = torch.sigmoid((x.view(1, 1, -1, 1) - draw(0, 0.6)) * 40)
        out = out * (1 - torch.where(draw(0, 1) < 0.5, draw(0.3, 0.9) * min(s, 1), torch.zeros(1)) * across * below)
    return out.clamp(0, 1)


def naive_blur(frames, sigma, radius):
    n, size = len(frames), frames.shape[-1]
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-(offsets**2) / (2 * sigma.view(n, 1) ** 2 + 1e-6))
    kernel = kernel / kernel.sum(dim=1, keepdim=True)
    square = (kernel[:, :, None] * kernel[:, None, :]).unsqueeze(1)  # [N, 1, K, K]
    padded = F.pad(frames.view(1, n, size, size), (radius,) * 4, mode="reflect")
    return F.conv2d(padded, square, groups=n).view(n, 1, size, size)


@pytest.fixture
def frames():
    frames = torch.rand(9, 1, 40, 40, generator=torch.Generator().manual_seed(8))
    frames[:, :, :, :6] = 0  # exact black must come out exactly black
    return frames


@pytest.mark.parametrize("seed", range(4))
def test_reference__equals_the_naive_recipe(frames, seed):
    out = ReferenceAugment(40)(frames, torch.Generator().manual_seed(seed))
    torch.testing.assert_close(out, naive_reference(frames, seed), rtol=0, atol=5e-5)


@pytest.mark.parametrize("shadows", [0, 1])
@pytest.mark.parametrize("strength", [0.4, 1.0, 2.0])
def test_ultrasound__equals_the_naive_recipe(frames, strength, shadows):
    for seed in range(3):
        out = UltrasoundAugment(40, strength, Operations(shadows=shadows))(frames, torch.Generator().manual_seed(seed))
        expected = naive_ultrasound(frames, seed, strength, shadows)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-4)
