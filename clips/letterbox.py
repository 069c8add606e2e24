"""Frames of any shape as squares: scaled to fit, centred, the rest black. A circle stays a circle."""

import numpy as np
from PIL import Image


def letterbox(frame: np.ndarray, size: int) -> np.ndarray:
    """A grey frame, uint8 [H, W], as uint8 [size, size].

    When Pillow's bilinear filter makes an image smaller, it averages over all pixels that fall on one, so that thin lines
    (pleura, A-lines) fade instead of breaking up.
    """
    height, width = frame.shape
    scale = size / max(height, width)
    inner_height, inner_width = max(1, round(height * scale)), max(1, round(width * scale))
    top, left = (size - inner_height) // 2, (size - inner_width) // 2
    square = np.zeros((size, size), dtype=np.uint8)
    scaled = Image.fromarray(frame).resize((inner_width, inner_height), Image.Resampling.BILINEAR)
    square[top : top + inner_height, left : left + inner_width] = np.asarray(scaled)
    return square
