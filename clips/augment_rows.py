"""Cropping, scaling and blurring as weighted sums of rows: fast on a CPU, the same on every device.

Bilinear sampling in an upright box and Gaussian blur treat rows and columns separately. A row of the result is a weighted sum
of two (or seven) rows of the frame, which is what an embedding bag computes, at a tenth of the time of ``grid_sample`` and a
fifth of a convolution with a kernel for each frame. Columns are the rows of the transposed frame.

Frames are worked on a few at a time, so that they stay in the processor's cache from one operation to the next.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_CHUNK_PIXELS = 2**18  # 1 MB of float32: it and a temporary or two fit into a core's second-level cache

Box = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Taps:
    """What the rows of a result are made of.

    Attributes:
        index: Rows of the frame, int64 [N, S, K].
        weight: Of each of them, float32 [N, S, K].
    """

    index: Tensor
    weight: Tensor

    def __getitem__(self, part: slice) -> "Taps":
        return Taps(self.index[part], self.weight[part])

    def times(self, factor: Tensor) -> "Taps":
        """With the result multiplied by ``factor`` [N, 1, 1] or [N, S, 1]."""
        return Taps(self.index, self.weight * factor)


def mix_rows(frames: Tensor, taps: Taps) -> Tensor:
    """Weighted sums of the rows of ``frames`` [N, H, W], float: [N, S, W]."""
    n, height, width = frames.shape
    rows, (_, size, k) = frames.reshape(n * height, width), taps.index.shape
    starts = torch.arange(0, n * height, height, device=frames.device).view(n, 1, 1)
    index, weight = (taps.index + starts).view(n * size, k), taps.weight.reshape(n * size, k)
    return F.embedding_bag(index, rows, mode="sum", per_sample_weights=weight).view(n, size, width)


def transposed(frames: Tensor) -> Tensor:
    """Frames [N, H, W] as [N, W, H], contiguous."""
    return frames.transpose(1, 2).contiguous()


def linear_taps(positions: Tensor, rows: int) -> Taps:
    """Linear interpolation at ``positions`` [N, S], in rows; the first and last row go on for ever."""
    positions = positions.clamp(0, rows - 1)
    before = positions.floor()
    weight = positions - before  # [N, S]
    first = before.long()
    second = (first + 1).clamp(max=rows - 1)
    return Taps(torch.stack([first, second], dim=-1), torch.stack([1 - weight, weight], dim=-1))


def scaling_taps(n: int, rows: int, size: int, device: torch.device) -> Taps:
    """Bilinear enlargement of ``rows`` to ``size``, pixel centres as in ``F.interpolate``, for ``n`` frames."""
    positions = (torch.arange(size, device=device) + 0.5) * (rows / size) - 0.5
    return linear_taps(positions.expand(n, size), rows)


def box_taps(box: Box, flip: Tensor, shape: tuple[int, int], size: int) -> tuple[Taps, Taps]:
    """Taps for the rows and for the columns that bring ``box`` to ``size`` × ``size``, mirrored where asked.

    Args:
        box: Width, height, and centre x, y, each [N, 1, 1], in units of the frame.
        flip: Bool, [N, 1, 1].
        shape: Height and width of the frames in pixels.
        size: Side of the result.
    """
    width, height, x, y = (part.flatten(1) for part in box)  # each [N, 1]
    steps = (torch.arange(size, device=x.device) * 2 + 1) / size - 1  # pixel centres in (-1, 1)
    width = torch.where(flip.flatten(1), -width, width)
    down = (y + height / 2 * steps) * shape[0] - 0.5  # [N, S]
    across = (x + width / 2 * steps) * shape[1] - 0.5
    return linear_taps(down, shape[0]), linear_taps(across, shape[1])


def blur_taps(sigma: Tensor, size: int, reach: int) -> Taps:
    """Gaussian of ``sigma`` [N, 1, 1] rows, ended ``reach`` rows from its centre, mirrored at the edges of ``size`` rows."""
    reach = max(1, min(reach, size - 1))
    offsets = torch.arange(-reach, reach + 1, device=sigma.device)  # [K]
    kernel = torch.exp(-(offsets**2) / (2 * sigma.view(-1, 1, 1) ** 2 + 1e-6))  # [N, 1, K]; sigma 0 is the identity
    kernel = (kernel / kernel.sum(dim=-1, keepdim=True)).expand(-1, size, -1)
    index = (torch.arange(size, device=sigma.device).unsqueeze(-1) + offsets).abs()  # [S, K]
    index = size - 1 - (size - 1 - index).abs()
    return Taps(index.expand(len(sigma), -1, -1), kernel)


def crop_and_flip(frames: Tensor, size: int, box: Box, flip: Tensor) -> Tensor:
    """Cut ``box`` out of each frame, mirror where asked, and bring it to ``size``, by bilinear sampling.

    Args:
        frames: Float [N, 1, H, W].
        size: Side of the result.
        box: Width, height, and centre x, y, each [N, 1, 1], in units of the frame.
        flip: Bool, [N, 1, 1].

    Returns:
        Shape [N, 1, size, size].
    """
    down, across = box_taps(box, flip, shrunk_shape(frames, size), size)
    rows = mix_rows(shrunk(frames, size).squeeze(1), down)  # [N, S, W]
    return transposed(mix_rows(transposed(rows), across)).unsqueeze(1)


def gaussian_blur(frames: Tensor, sigma: Tensor, reach: int) -> Tensor:
    """Blur each frame of float [N, 1, H, W] with its own ``sigma`` [N, 1, 1]; kernels end ``reach`` pixels from the centre."""
    _, _, height, width = frames.shape
    rows = mix_rows(frames.squeeze(1), blur_taps(sigma, height, reach))
    return transposed(mix_rows(transposed(rows), blur_taps(sigma, width, reach))).unsqueeze(1)


def resize(frames: Tensor, size: int) -> Tensor:
    """Frames float [N, 1, H, W] → [N, 1, size, size], antialiased."""
    if frames.shape[-2:] == (size, size):
        return frames
    return F.interpolate(frames, size=(size, size), mode="bilinear", antialias=True).clamp(0, 1)


def shrunk(frames: Tensor, size: int) -> Tensor:
    """Frames that are larger than ``size``, at ``size``: bilinear sampling alone would alias."""
    return resize(frames, size) if frames.shape[-1] > size else frames


def shrunk_shape(frames: Tensor, size: int) -> tuple[int, int]:
    """Height and width of what ``shrunk`` gives."""
    return (size, size) if frames.shape[-1] > size else (frames.shape[-2], frames.shape[-1])


def unit(frames: Tensor) -> Tensor:
    """Frames as float32: uint8 becomes [0, 1], float stays."""
    return frames.float().div_(255) if frames.dtype == torch.uint8 else frames


def by_chunks(frames: Tensor, size: int, work: Callable[[Tensor, slice, Tensor], object]) -> Tensor:
    """Run ``work(chunk, part, out)`` over a few frames at a time on a CPU, over all at once elsewhere.

    Args:
        frames: uint8, or float in [0, 1]; [N, 1, H, W] or [B, K, 1, H, W].
        size: Side of the frames that come out.
        work: Is given frames [n, 1, H, W] as float in [0, 1], which frames they are, and where to write theirs, [n, S, S].

    Returns:
        Float32, shaped as ``frames``, at ``size``.
    """
    flat = frames.reshape(-1, *frames.shape[-3:])  # [N, 1, H, W]
    out = torch.empty(len(flat), size, size, device=frames.device)
    for part in _parts(flat, size):
        work(unit(flat[part]), part, out[part])
    return out.view(*frames.shape[:-2], size, size)


def _parts(frames: Tensor, size: int) -> Iterator[slice]:
    n, step = len(frames), len(frames)
    if frames.device.type == "cpu":
        step = max(1, _CHUNK_PIXELS // size**2)
    for start in range(0, n, max(1, step)):
        yield slice(start, min(start + step, n))
