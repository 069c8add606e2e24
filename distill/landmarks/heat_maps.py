"""Heat maps of landmarks, and points out of them below the pixel.

The target of a landmark is a Gaussian of peak 1 (not of sum 1: the loss then does not depend on sigma, and the height of a
predicted peak can be read as confidence), centred on the true point wherever between the pixels it lies.

Decoding: "taylor" takes the logarithm of the map round its peak for the quadratic that it is if the map is a Gaussian (Zhang et
al., Distribution-aware coordinate representation, DARK, CVPR 2020, 1910.06278), "soft_argmax" takes the centre of mass of a
window round the peak (the soft-argmax over the logarithm), "argmax" the peak's pixel.
"""

import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import SonokitError

Decoding = Literal["taylor", "soft_argmax", "argmax"]

_SMALLEST = 1e-10  # below it the logarithm is cut off; a network's map may be negative


def target_maps(points: Tensor, size: tuple[int, int], sigma: float) -> Tensor:
    """Gaussians of peak 1, float32 [B, L, H, W]; all zero where a landmark is absent.

    An absent landmark's zero map is no target: leave it out of the loss, ``points.isfinite().all(-1)`` says which.

    Args:
        points: (x, y) in cells of the map, float [B, L, 2]; nan where absent.
        size: (width, height) of the map.
        sigma: Standard deviation in cells.

    Raises:
        SonokitError: Sigma is not positive.
    """
    if not (math.isfinite(sigma) and sigma > 0):
        raise SonokitError(f"sigma must be a positive number of cells, it is {sigma}")
    width, height = size
    columns, rows = (torch.arange(side, device=points.device, dtype=torch.float32) for side in (width, height))
    x, y = points.float().unsqueeze(-1).unbind(dim=2)  # [B, L, 1] each
    across = torch.exp(-0.5 * ((columns - x) / sigma) ** 2)  # [B, L, W]
    down = torch.exp(-0.5 * ((rows - y) / sigma) ** 2)  # [B, L, H]
    return torch.nan_to_num(down.unsqueeze(-1) * across.unsqueeze(-2), nan=0.0)  # [B, L, H, W]


def decode(maps: Tensor, method: Decoding = "taylor", *, radius: int = 6, smooth: float = 0.0) -> tuple[Tensor, Tensor]:
    """Points and how high their peaks are.

    Args:
        maps: float [B, L, H, W], at least 3 × 3.
        method: See the module.
        radius: Of the window of "soft_argmax", in cells; three sigma lose less than .02 cells. At the map's edge the window is
            cut, and the point is drawn inward.
        smooth: Standard deviation, in cells, of a Gaussian that the maps are smoothed with first; 0 leaves them. DARK takes the
            sigma of training, against several small peaks. Within three sigma of the map's edge this moves the peak, on the
            edge itself by up to a cell.

    Returns:
        (x, y) in cells, float32 [B, L, 2]; the highest value of each map as it came, float32 [B, L].

    Raises:
        SonokitError: No such method, or maps too small.
    """
    if method not in get_args(Decoding):
        raise SonokitError(f"decoding must be one of {', '.join(get_args(Decoding))}, it is {method!r}")
    if maps.ndim != 4 or min(maps.shape[2:]) < 3:
        raise SonokitError(f"heat maps must be [images, landmarks, height, width] of at least 3 × 3, got {tuple(maps.shape)}")
    maps = maps.float()
    confidence = maps.amax(dim=(2, 3))
    smoothed = _smoothed(maps, smooth) if smooth > 0 else maps
    peak = _peaks(smoothed)  # [B, L, 2]
    if method == "argmax":
        return peak.float(), confidence
    refined = _taylor(smoothed, peak) if method == "taylor" else _centre_of_mass(smoothed, peak, radius)
    return refined, confidence


def _peaks(maps: Tensor) -> Tensor:
    """(x, y) of the highest cell, int64 [B, L, 2]."""
    width = maps.shape[-1]
    highest = maps.flatten(2).argmax(dim=2)
    return torch.stack([highest % width, highest // width], dim=-1)


def _smoothed(maps: Tensor, sigma: float) -> Tensor:
    reach = math.ceil(3 * sigma)
    steps = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = kernel / kernel.sum()
    flat = maps.flatten(0, 1).unsqueeze(1)  # [B L, 1, H, W]
    flat = F.pad(flat, (reach, reach, reach, reach), mode="replicate")  # zeros would push a peak at the edge inward
    flat = F.conv2d(F.conv2d(flat, kernel.view(1, 1, 1, -1)), kernel.view(1, 1, -1, 1))
    return flat.view_as(maps)


def _taylor(maps: Tensor, peak: Tensor) -> Tensor:
    """The top of the paraboloid through the logarithms round the peak; the peak itself where there is none within a cell."""
    height, width = maps.shape[2:]
    limits = torch.tensor([width - 2, height - 2], device=maps.device)
    centre = torch.minimum(peak.clamp(min=1), limits)  # at the edge the neighbours are taken one cell further in
    logs = _neighbours(maps, centre).double().clamp(min=_SMALLEST).log()  # [B, L, 3, 3]
    middle = logs[..., 1, 1]
    slope_x = (logs[..., 1, 2] - logs[..., 1, 0]) / 2
    slope_y = (logs[..., 2, 1] - logs[..., 0, 1]) / 2
    bend_xx = logs[..., 1, 2] - 2 * middle + logs[..., 1, 0]
    bend_yy = logs[..., 2, 1] - 2 * middle + logs[..., 0, 1]
    bend_xy = (logs[..., 2, 2] - logs[..., 2, 0] - logs[..., 0, 2] + logs[..., 0, 0]) / 4
    determinant = bend_xx * bend_yy - bend_xy**2
    is_top = (bend_xx < 0) & (determinant > 0)
    safe = torch.where(is_top, determinant, torch.ones_like(determinant))
    step = torch.stack([bend_xy * slope_y - bend_yy * slope_x, bend_xy * slope_x - bend_xx * slope_y], dim=-1) / safe[..., None]
    refined = centre + step
    near = ((refined - peak).abs() <= 1).all(dim=-1) & is_top
    return torch.where(near[..., None], refined, peak.double()).float()


def _neighbours(maps: Tensor, centre: Tensor) -> Tensor:
    """The 3 × 3 cells round (x, y), [B, L, 3, 3]."""
    width = maps.shape[-1]
    steps = torch.arange(-1, 2, device=maps.device)
    rows = centre[..., 1, None, None] + steps.view(3, 1)
    columns = centre[..., 0, None, None] + steps.view(1, 3)
    places = (rows * width + columns).flatten(2)  # [B, L, 9]
    return maps.flatten(2).gather(2, places).unflatten(2, (3, 3))


def _centre_of_mass(maps: Tensor, peak: Tensor, radius: int) -> Tensor:
    height, width = maps.shape[2:]
    columns, rows = (torch.arange(side, device=maps.device) for side in (width, height))
    near_x = (columns - peak[..., 0, None]).abs() <= radius  # [B, L, W]
    near_y = (rows - peak[..., 1, None]).abs() <= radius  # [B, L, H]
    mass = (maps.clamp(min=0) * (near_y.unsqueeze(-1) & near_x.unsqueeze(-2))).double()
    total = mass.sum(dim=(2, 3))
    x = (mass.sum(dim=2) * columns).sum(dim=-1)
    y = (mass.sum(dim=3) * rows).sum(dim=-1)
    centre = torch.stack([x, y], dim=-1) / total.clamp(min=1e-300)[..., None]
    return torch.where((total > 0)[..., None], centre, peak.double()).float()
