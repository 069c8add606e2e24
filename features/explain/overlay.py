"""A map laid over the frame that it belongs to, in colours that picture and video share."""

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from .checks import upsampled
from .explanation import Explanation

_COLOURS = matplotlib.colormaps["autumn"]
_OPACITY = 0.7  # where the map is highest; it falls with the map, so that tissue stays visible elsewhere


def map_on_frame(explanation: Explanation, moment: int, biomarker: int, height: int, width: int) -> np.ndarray:
    """A moment's map on the frame, without the letterbox.

    Args:
        explanation: Of a clip.
        moment: Number of the moment.
        biomarker: Number in ``explanation.explained``.
        height: Of the picture to lay it over.
        width: Of that.

    Returns:
        float32 [height, width]; 1 is the highest place of this biomarker's maps in the clip, 0 nothing.
    """
    maps = torch.from_numpy(explanation.maps[:, biomarker])  # [M, h, w]
    top, left, inner_height, inner_width = explanation.box
    square = upsampled(maps[moment], explanation.size)  # [S, S]
    inner = square[top : top + inner_height, left : left + inner_width]
    fitted = F.interpolate(inner[None, None], size=(height, width), mode="bilinear")[0, 0]  # [height, width]
    highest = float(maps.max())
    return (fitted / highest).clamp(0, 1).numpy() if highest > 0 else np.zeros((height, width), dtype=np.float32)


def overlaid(frame: np.ndarray, strength: np.ndarray) -> np.ndarray:
    """A grey frame, uint8 [H, W], coloured by ``strength`` in 0 … 1, [H, W]: RGB, uint8 [H, W, 3]."""
    grey = np.repeat(frame[..., None] / 255, 3, axis=-1)  # [H, W, 3]
    opacity = _OPACITY * strength[..., None]  # [H, W, 1]
    mixed = (1 - opacity) * grey + opacity * _COLOURS(strength)[..., :3]
    return np.rint(255 * mixed).astype(np.uint8)


def scale_picture(length: int = 64) -> np.ndarray:
    """What the strengths 0 … 1 look like over mid-grey, uint8 [length, 1, 3]: a colour bar of what is really shown."""
    return overlaid(np.full((length, 1), 110, dtype=np.uint8), np.linspace(0, 1, length, dtype=np.float32)[:, None])


def scaled_to(frame: np.ndarray, longest: int) -> np.ndarray:
    """A grey frame [H, W] whose longer side is ``longest`` pixels."""
    scale = longest / max(frame.shape)
    height, width = (max(1, round(side * scale)) for side in frame.shape)
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR))
