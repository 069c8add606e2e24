"""Many augmented looks at views, with what is known of them moved along.

"ultrasound" and "reference" are the recipes of :mod:`sonokit.clips.augment`; they move the frame in ways that regions, gaze
and points cannot be told of, so they are for views that have none. "affine" turns, scales and shifts frame, regions, gaze and
points by one matrix, and changes brightness, contrast, gamma and grain of the frame alone.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from ...clips.augment import augment_named
from ...errors import SonokitError
from .views import Views

Recipe = Literal["affine", "ultrasound", "reference", "none"]

_CHUNK = 256  # views moved at a time


@dataclass(frozen=True)
class AugmentSettings:
    """How views are augmented. Every amount is the largest; each view draws for itself, evenly from minus to plus it.

    Attributes:
        recipe: See the module; the rest is of "affine", but ``strength``, which is of "ultrasound".
        degrees: Of the turn.
        scale: 0.1 is from 0.9 to 1.1 times the size.
        shift: Share of the side.
        flip: Probability of left for right; never where the side means something (landmarks with a side).
        brightness: Share of white added.
        contrast: Factor from 1 - it to 1 + it about the mean.
        gamma: Exponent from exp(-it) to exp(it).
        noise: Standard deviation of the grain at most, share of white.
        strength: Of "ultrasound".
    """

    recipe: Recipe = "affine"
    degrees: float = 10.0
    scale: float = 0.1
    shift: float = 0.05
    flip: float = 0.0
    brightness: float = 0.1
    contrast: float = 0.2
    gamma: float = 0.2
    noise: float = 0.02
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.recipe not in get_args(Recipe):
            raise SonokitError(f"augmentation is one of {', '.join(get_args(Recipe))}, not {self.recipe!r}")
        if not 0 <= self.scale < 1 or not 0 <= self.flip <= 1:
            raise SonokitError(f"scale must lie in [0, 1) and flip in [0, 1], they are {self.scale} and {self.flip}")


def augmented(views: Views, times: int, settings: AugmentSettings | None = None, *, seed: int = 0) -> Views:
    """``times`` looks at each view, N · times views in all: first one look at every view, then the next.

    Args:
        views: N views.
        times: At least 1.
        settings: None: the defaults.
        seed: The same seed draws the same.

    Raises:
        SonokitError: The recipe cannot move what these views have.
    """
    settings = settings or AugmentSettings()
    if times < 1:
        raise SonokitError(f"each view must be looked at once or more, not {times} times")
    many = views.take(np.tile(np.arange(len(views)), times))
    generator = torch.Generator().manual_seed(seed)
    if settings.recipe == "affine":
        return _affine(many, settings, generator)
    if any(part is not None for part in (views.regions, views.gaze, views.points)):
        raise SonokitError(f"the recipe {settings.recipe!r} cannot move regions, gaze and landmarks along: take affine")
    if views.size[0] != views.size[1]:
        raise SonokitError(f"the recipe {settings.recipe!r} wants square frames, they are {views.size}: take affine")
    augment = augment_named(settings.recipe, views.size[0], settings.strength)
    frames = [
        augment(torch.from_numpy(part)[:, None].float().div_(255), generator)[:, 0] for part in _chunks(many.frames)
    ]  # each [n, S, S]
    return replace(many, frames=np.concatenate([_bytes(one) for one in frames]))


def _affine(views: Views, settings: AugmentSettings, generator: Generator) -> Views:
    moves = _matrices(len(views), settings, generator, views.size)  # [N, 2, 3]
    frames = _moved(views.frames, moves, views.size)
    frames = np.concatenate([_bytes(_toned(torch.from_numpy(part), settings, generator)) for part in _chunks(frames)])
    regions = None if views.regions is None else _moved(views.regions, moves, views.size)
    gaze = None if views.gaze is None else _moved(views.gaze, moves, views.size)
    return replace(views, frames=frames, regions=regions, gaze=gaze, points=_moved_points(views.points, moves))


def _matrices(count: int, settings: AugmentSettings, generator: Generator, size: tuple[int, int]) -> np.ndarray:
    """From positions in the view to positions in the augmented one, in pixels, float64 [N, 2, 3]."""
    draws = 2 * torch.rand(count, 4, generator=generator, dtype=torch.float64).numpy() - 1
    flips = np.where(torch.rand(count, generator=generator).numpy() < settings.flip, -1.0, 1.0)
    angle, factor = np.deg2rad(settings.degrees) * draws[:, 0], 1 + settings.scale * draws[:, 1]
    turn = np.stack([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]).transpose(2, 0, 1)  # [N, 2, 2]
    linear = factor[:, None, None] * turn
    linear[:, :, 0] *= flips[:, None]
    centre = (np.array(size) - 1) / 2
    shift = settings.shift * draws[:, 2:] * np.array(size)
    return np.concatenate([linear, (centre + shift - linear @ centre)[:, :, None]], axis=2)


def _moved(frames: np.ndarray, moves: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Frames or maps of them, uint8 [N, h, w], moved by matrices in pixels of a frame of ``size``; black where nothing was."""
    out = []
    for part, own in zip(_chunks(frames), _chunks(moves), strict=True):
        theta = torch.from_numpy(_for_grid(own, size)).float()
        grid = F.affine_grid(theta, [len(part), 1, *part.shape[1:]], align_corners=False)
        grey = torch.from_numpy(np.ascontiguousarray(part))[:, None].float()
        out.append(F.grid_sample(grey, grid, align_corners=False)[:, 0].round_().clamp_(0, 255).byte().numpy())
    return np.concatenate(out) if out else frames


def _for_grid(moves: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``affine_grid`` asks where each pixel comes from, in a square from -1 to 1 whose edges are the frame's edges."""
    half = np.array(size) / 2
    back = np.linalg.inv(moves[:, :, :2])  # view = back @ (augmented - offset)
    centre = half - 0.5
    offset = np.einsum("nij,nj->ni", back, centre - moves[:, :, 2]) - centre
    return np.concatenate([back * half[None, None, :] / half[None, :, None], (offset / half)[:, :, None]], axis=2)


def _moved_points(points: np.ndarray | None, moves: np.ndarray) -> np.ndarray | None:
    if points is None:
        return None
    return (np.einsum("nij,nlj->nli", moves[:, :, :2], points) + moves[:, None, :, 2]).astype(np.float32)


def _toned(frames: Tensor, settings: AugmentSettings, generator: Generator) -> Tensor:
    """uint8 [N, H, W] → float in [0, 1], each with a brightness, contrast, gamma and grain of its own."""
    count = len(frames)
    draws = 2 * torch.rand(count, 3, 1, 1, generator=generator) - 1
    grey = frames.float().div(255).pow(torch.exp(settings.gamma * draws[:, 0]))
    mean = grey.mean(dim=(1, 2), keepdim=True)
    grey = mean + (1 + settings.contrast * draws[:, 1]) * (grey - mean) + settings.brightness * draws[:, 2]
    if settings.noise:
        grain = settings.noise * torch.rand(count, 1, 1, generator=generator)
        grey = grey + grain * torch.randn(frames.shape, generator=generator)
    return grey.clamp_(0, 1)


def _bytes(frames: Tensor) -> np.ndarray:
    return frames.mul(255).round_().clamp_(0, 255).byte().numpy()


def _chunks(values: np.ndarray) -> list[np.ndarray]:
    return [values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK)]
