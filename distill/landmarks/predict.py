"""From images to a landmark network's input, and from its heat maps back to points in the original images' pixels."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ...errors import SonokitError
from ..placement import Placement, Size, fitted, place_image
from ..training.views import Views
from .heat_maps import Decoding, decode
from .landmarks import Landmarks
from .network import LandmarkNetwork

_BLANK = 0.1  # a map that has found its landmark rises to .8 or so


def read_grey_images(landmarks: Landmarks, folder: Path) -> list[np.ndarray]:
    """The images that landmarks name, grey uint8 [H, W] each.

    Raises:
        SonokitError: One is not there, or is no image.
    """
    return [_grey(Path(folder) / name) for name in landmarks.images]


def landmark_views(images: Sequence[np.ndarray], points: np.ndarray | None, size: Size) -> tuple[Views, list[Placement]]:
    """Images in their places in a network's input, their landmarks moved along.

    Args:
        images: uint8 [H, W] each, N.
        points: (x, y) in pixels of the images, [N, L, 2], nan where absent; None where nothing is known.
        size: (width, height) of the input.
    """
    places = [fitted((image.shape[1], image.shape[0]), size) for image in images]
    frames = np.zeros((len(images), size[1], size[0]), dtype=np.uint8)
    for k, (image, place) in enumerate(zip(images, places, strict=True)):
        frames[k] = place_image(image, place)
    moved = None
    if points is not None:
        moved = np.stack([place.to_input(own) for place, own in zip(places, points, strict=True)]).astype(np.float32)
    return Views(frames, np.arange(len(images)), points=moved), places


def predicted_points(
    network: LandmarkNetwork,
    views: Views,
    places: Sequence[Placement],
    *,
    decoding: Decoding = "taylor",
    smooth: float = 0.0,
    batch: int = 16,
) -> tuple[np.ndarray, np.ndarray]:
    """Points in pixels of the original images, float64 [N, L, 2], and the height of their peaks, float32 [N, L].

    Args:
        network: It is run in evaluation mode and left in its own.
        views: N views, as :func:`landmark_views` makes them.
        places: Where each image lies in its view.
        decoding: See :func:`~sonokit.distill.landmarks.heat_maps.decode`.
        smooth: The same.
        batch: Views in a pass.
    """
    points, heights = [], []
    device = next(network.parameters()).device
    training = network.training
    network.eval()
    try:
        with torch.inference_mode():
            for start in range(0, len(views), batch):
                maps = network(views.batch(slice(start, start + batch), device=device).frames)
                found, peak = decode(maps, decoding, smooth=smooth)
                points.append(found.cpu().double().numpy())
                heights.append(peak.cpu().numpy())
    finally:
        network.train(training)
    cells = np.concatenate(points)
    back = [place.at_stride(network.stride).to_original(own) for place, own in zip(places, cells, strict=True)]
    return np.stack(back), np.concatenate(heights)


def never_found(peaks: np.ndarray, names: Sequence[str]) -> list[str]:
    """Landmarks whose heat maps stayed blank in training, which happens to small networks; no truth is needed to see it.

    Args:
        peaks: Heights of the peaks over several images, [N, L]; those of targets are 1.
        names: Of the landmarks.
    """
    low = np.median(peaks, axis=0) < _BLANK
    return [name for name, is_low in zip(names, low, strict=True) if is_low]


def _grey(file: Path) -> np.ndarray:
    try:
        with Image.open(file) as opened:
            return np.asarray(opened.convert("L"))
    except FileNotFoundError:
        raise SonokitError(f"There is no image {file}. Name it as the file is named, or leave its row out.") from None
    except OSError as fault:
        raise SonokitError(f"{file} cannot be read as an image ({fault}). Write it anew as PNG.") from None
