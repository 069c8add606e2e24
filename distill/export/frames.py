"""Frames brought to a student's size without torch: the pixels of :func:`sonokit.clips.augment.resize`, byte for byte.

Antialiased bilinear scaling is a weighted sum over columns, then over rows. Halving a side puts many sums exactly between two
bytes, where the last bit of a float32 decides: so the sums run in torch's order, with the product and the addition of each step
rounded once, as a processor's fused multiply-add does.
"""

from functools import lru_cache

import numpy as np


def resized(frames: np.ndarray, size: int) -> np.ndarray:
    """Frames, uint8 [T, H, W], as uint8 [T, size, size]; the very same where they have that size."""
    if frames.shape[1:] == (size, size):
        return frames
    grey = frames.astype(np.float32) / np.float32(255)
    across = _weighted(grey, size)  # [T, H, size]
    down = _weighted(np.ascontiguousarray(across.transpose(0, 2, 1)), size).transpose(0, 2, 1)  # [T, size, size]
    return np.rint(down.clip(0, 1) * np.float32(255)).clip(0, 255).astype(np.uint8)


def _weighted(values: np.ndarray, size: int) -> np.ndarray:
    """float32 [T, A, W] → float32 [T, A, size]."""
    starts, weights = _taps(values.shape[-1], size)
    total = np.zeros((*values.shape[:-1], size), dtype=np.float32)
    for step in range(weights.shape[1]):
        places = np.minimum(starts + step, values.shape[-1] - 1)
        total = (total + values[..., places].astype(np.float64) * weights[:, step]).astype(np.float32)
    return total


@lru_cache(maxsize=8)
def _taps(length: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Of every result: the first of the values that it is made of, int64 [size]; their weights, float32 [size, K], 0 behind."""
    scale = np.float32(length / size)
    support = max(scale, np.float32(1))
    centres = scale * (np.arange(size, dtype=np.float32) + np.float32(0.5))
    starts = np.maximum((centres - support + np.float32(0.5)).astype(np.int64), 0)
    ends = np.minimum((centres + support + np.float32(0.5)).astype(np.int64), length)
    steps = np.arange((ends - starts).max())
    distance = ((steps + starts[:, None] - centres[:, None]).astype(np.float32) + np.float32(0.5)) * (np.float32(1) / support)
    weights = np.maximum(1 - np.abs(distance), 0).astype(np.float32)
    weights[steps >= (ends - starts)[:, None]] = 0
    total = np.zeros(size, dtype=np.float32)
    for step in range(weights.shape[1]):
        total += weights[:, step]
    return starts, (weights / total[:, None]).astype(np.float32)
