"""Views: grey frames of one size, and all that is known of each: label, regions, gaze, landmarks.

A training set, a test set and the many augmented looks at a training set (``augmented.py``) have this one form, so that a
teacher's outputs can be kept beside them row by row, and every student sees the very frames that its teacher saw.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...evaluation.embedding import FrameClips
from ..landmarks.heat_maps import target_maps
from ..signals.terms import Batch


@dataclass(frozen=True)
class HeatMapTarget:
    """Of what size the heat maps of landmarks are.

    Attributes:
        stride: Input pixels a cell.
        sigma: Of the Gaussians, in cells.
    """

    stride: int = 4
    sigma: float = 1.5


@dataclass(frozen=True, eq=False)
class SeenBatch:
    """A batch of views, on the device.

    Attributes:
        frames: Float in [0, 1], [B, 1, H, W].
        known: What is known of them beside the frames, for the terms of the loss.
        gaze: Float [B, 1, h, w], all zero where nobody looked; None where there is no gaze at all.
    """

    frames: Tensor
    known: Batch
    gaze: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Views:
    """N grey frames of H × W pixels and what is known of each; N is the first axis of all.

    Attributes:
        frames: uint8 [N, H, W].
        items: Number of the clip or image that each shows, int64 [N].
        labels: Of one class each, int64 [N], -1 where unknown; or of several findings, float32 [N, K] of 0, 1 and nan.
        regions: What the experts marked, 0 to 255, uint8 [N, H, W].
        annotated: Which have regions, bool [N]; None where all have.
        gaze: Where an expert looked, 255 at the peak of each, uint8 [N, h, w] of any size; zeros where nobody did.
        points: Landmarks (x, y) in pixels of the frame, float32 [N, L, 2], nan where absent.
    """

    frames: np.ndarray
    items: np.ndarray
    labels: np.ndarray | None = None
    regions: np.ndarray | None = None
    annotated: np.ndarray | None = None
    gaze: np.ndarray | None = None
    points: np.ndarray | None = None

    def __post_init__(self) -> None:
        lengths = {part.name: len(getattr(self, part.name)) for part in fields(self) if getattr(self, part.name) is not None}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"all parts of views must have one length, they have {lengths}")
        if self.frames.ndim != 3 or self.frames.dtype != np.uint8:
            raise ValueError(f"frames must be uint8 [N, H, W], they are {self.frames.dtype} {list(self.frames.shape)}")

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of the frames."""
        return self.frames.shape[2], self.frames.shape[1]

    def take(self, rows: np.ndarray) -> "Views":
        """Some of them; ``rows`` is a mask [N] or row numbers, repeated where asked for."""
        parts: dict[str, Any] = {part.name: getattr(self, part.name) for part in fields(self)}
        taken: dict[str, Any] = {name: None if value is None else value[rows] for name, value in parts.items()}
        return replace(self, **taken)

    def batch(
        self, rows: np.ndarray | slice, target: HeatMapTarget | None = None, device: torch.device | str = "cpu"
    ) -> SeenBatch:
        """Some of them as tensors.

        Args:
            rows: int64 [B], or a slice.
            target: Of what size heat maps of the landmarks are wanted; None for none.
            device: Where to.
        """
        known = Batch(
            labels=_tensor(self.labels, rows, device),
            regions=_unit(self.regions, rows, device),
            annotated=_tensor(self.annotated, rows, device),
        )
        if target is not None and self.points is not None:
            points = (torch.from_numpy(self.points[rows]).to(device) + 0.5) / target.stride - 0.5  # [B, L, 2], in cells
            size = self.size[0] // target.stride, self.size[1] // target.stride
            maps = target_maps(points, size, target.sigma)
            known = replace(known, heat_maps=maps, present=points.isfinite().all(dim=-1))
        frames = _unit(self.frames, rows, device)
        assert frames is not None
        return SeenBatch(frames, known, _unit(self.gaze, rows, device))


def joined_views(parts: Sequence[Views]) -> Views:
    """Views one after the other; each part must have the same things known."""
    together: dict[str, Any] = {}
    for part in fields(Views):
        values = [getattr(views, part.name) for views in parts]
        if any(value is None for value in values) and not all(value is None for value in values):
            raise ValueError(f"some of the views have {part.name}, some have not")
        together[part.name] = None if values[0] is None else np.concatenate(values)
    return Views(**together)


def clip_views(
    clips: FrameClips, rows: np.ndarray, labels: np.ndarray | None, *, size: int, frames_per_clip: int | None = None
) -> Views:
    """Frames of clips: the middle one of each of ``frames_per_clip`` equal parts, or all of them.

    Args:
        clips: Cached clips.
        rows: Which of them, int64 [M]; also the views' ``items``.
        labels: Of all clips: class codes int64 [N], or float [N, K] of several findings; each frame gets its clip's.
        size: Side that the frames are brought to, in pixels.
        frames_per_clip: None for all. A clip that has fewer gives what it has.
    """
    from ...clips.augment import resize

    frames, items = [], []
    for row in rows.tolist():
        own = clips[row].frames  # [T, S, S]
        chosen = chosen_frames(len(own), frames_per_clip)
        count = len(chosen)
        grey = torch.from_numpy(np.array(own[chosen]))[:, None].float().div_(255)  # [F, 1, S, S]
        frames.append(resize(grey, size)[:, 0].mul_(255).round_().clamp_(0, 255).byte().numpy())
        items += [row] * count
    places = np.array(items, dtype=np.int64)
    stacked = np.concatenate(frames) if frames else np.zeros((0, size, size), dtype=np.uint8)
    return Views(stacked, places, None if labels is None else labels[places])


def chosen_frames(length: int, count: int | None) -> np.ndarray:
    """Which of a clip's ``length`` frames :func:`clip_views` takes, int64 [min(count, length)]; all where ``count`` is None."""
    taken = length if count is None else min(count, length)
    return ((np.arange(taken) + 0.5) * length / taken).astype(np.int64)


def _tensor(values: np.ndarray | None, rows: np.ndarray | slice, device: torch.device | str) -> Tensor | None:
    return None if values is None else torch.from_numpy(np.ascontiguousarray(values[rows])).to(device)


def _unit(values: np.ndarray | None, rows: np.ndarray | slice, device: torch.device | str) -> Tensor | None:
    found = _tensor(values, rows, device)
    return None if found is None else found.unsqueeze(1).float().div_(255)
