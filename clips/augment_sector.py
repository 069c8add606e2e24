"""Finds the sector of a clip in a few of its frames, and blanks what lies outside: text, scales, logos, traces.

The sector is where a solid area is lit and changes from frame to frame, with everything that hangs together with it, and the
convex outline of all that. Text and rulers are thin; logos and grey wedges are solid, but do not change.

What it cannot do: tell what touches the sector or lies over it (that stays); see the sector where the surroundings are not
black (then nothing is blanked); notice that something stands still where a clip has one frame only, or all of its frames are
the same one (then solid things beside the sector stay). A dark far end of the sector may be cut off with what little is there.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_CELLS = 56  # the search works on a raster of so many cells a side
_BLACK = 8 / 255  # above: compression noise around letters does not count as lit
_SOLID = 5  # cells a side: 20 of 224 pixels, higher than a line of text
_CHANGE = 5 / 255  # mean range over the frames of a cell that shows tissue
_MARGIN = 1.5 / _CELLS
_DIRECTIONS = 16  # of the outline's edges, over half a turn


def mask_outside_sector(clips: Tensor) -> Tensor:
    """Make black what lies outside of the sector.

    Args:
        clips: Frames of each clip, uint8 or float in [0, 1], [B, K, 1, H, W].

    Returns:
        The same shape and type.
    """
    return clips.masked_fill(~sector_mask(clips)[:, None, None], 0)


def sector_mask(clips: Tensor) -> Tensor:
    """Where the sector lies, bool [B, H, W]; everywhere in a clip in which none is found.

    Args:
        clips: Frames of each clip, uint8 or float in [0, 1], [B, K, 1, H, W].
    """
    height, width = clips.shape[-2:]
    every = max(1, min(height, width) // (2 * _CELLS))
    frames = clips.squeeze(2)[..., ::every, ::every]  # [B, K, H', W']; a quarter of the pixels tells as much
    white = 255 if frames.dtype == torch.uint8 else 1
    brightest = frames.amax(dim=1, keepdim=True)  # [B, 1, H, W]
    change = F.adaptive_avg_pool2d((brightest - frames.amin(dim=1, keepdim=True)).float(), _CELLS) > _CHANGE * white
    lit = F.adaptive_avg_pool2d((brightest > _BLACK * white).float(), _CELLS) > 0.3  # [B, 1, C, C]
    region = _sector_cells(lit, change)
    slack = F.interpolate(_depth_in_outline(region), size=(height, width), mode="bilinear")  # [B, 1, H, W]
    return ((slack > 0) | ~region.any(dim=(1, 2, 3)).view(-1, 1, 1, 1)).squeeze(1)


def _sector_cells(lit: Tensor, change: Tensor) -> Tensor:
    """Solid lit areas that contain change, or all of them where nothing changes; bool [B, 1, C, C]."""
    share = F.avg_pool2d(lit.float(), _SOLID, stride=1, padding=_SOLID // 2, count_include_pad=False)
    core = share > 0.8
    solid = (F.max_pool2d(core.float(), _SOLID, stride=1, padding=_SOLID // 2) > 0) & lit
    changing = core & change
    still = ~changing.any(dim=(1, 2, 3)).view(-1, 1, 1, 1)
    region = changing | (core & still)
    for _ in range(_CELLS // 2):  # grow within the solid area, as far as it hangs together
        region = _with_neighbours(region) & solid
    return region


def _with_neighbours(cells: Tensor) -> Tensor:
    """A cell further in all eight directions; on a CPU five times as fast as ``max_pool2d``."""
    wide = cells.clone()
    wide[..., 1:] |= cells[..., :-1]
    wide[..., :-1] |= cells[..., 1:]
    tall = wide.clone()
    tall[..., 1:, :] |= wide[..., :-1, :]
    tall[..., :-1, :] |= wide[..., 1:, :]
    return tall


def _depth_in_outline(region: Tensor) -> Tensor:
    """How deep each cell lies in the convex outline of ``region`` and a margin, in frames; negative outside. [B, 1, C, C]."""
    centres = (torch.arange(_CELLS, device=region.device) + 0.5) / _CELLS - 0.5
    depth = torch.ones(region.shape, device=region.device)
    outside = ~region
    for step in range(_DIRECTIONS):
        angle = math.pi * step / _DIRECTIONS
        along = math.cos(angle) * centres + math.sin(angle) * centres.unsqueeze(-1)  # [C, C]
        far = along.expand(region.shape).masked_fill(outside, -1).amax(dim=(2, 3), keepdim=True) + _MARGIN
        near = along.expand(region.shape).masked_fill(outside, 1).amin(dim=(2, 3), keepdim=True) - _MARGIN
        depth = depth.minimum(far - along).minimum(along - near)
    return depth
