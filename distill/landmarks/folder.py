"""A landmark network on disk: its backbone in timm's layout, its decoder as safetensors, all else as JSON.

``landmarks.json`` is taken away first and put in place last: at whatever moment the process dies, the folder is a whole model
or none. What training used beside the network (projections, a teacher's second task) was never part of it and is not here.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from ...atomic import atomic_path, write_json
from ...backbones.folder import backbone_fingerprint, load_backbone, save_backbone
from ...errors import SonokitError
from ..placement import Size
from .heat_maps import Decoding
from .landmarks import Landmarks
from .network import LandmarkNetwork
from .predict import landmark_views, predicted_points

_SPACING_NOTE = "points are in pixels of the original image; millimetres need that image's own pixel spacing"


@dataclass(frozen=True, eq=False)
class LandmarkModel:
    """A landmark network and all that its use needs.

    Attributes:
        network: It.
        size: (width, height) of its input; images are made to fit, black around them.
        sigma: Of the Gaussians that it was trained on, in cells.
        decoding: Of its heat maps; see :func:`~sonokit.distill.landmarks.heat_maps.decode`.
        provenance: JSON values: what it was trained on.
    """

    network: LandmarkNetwork
    size: Size
    sigma: float = 1.5
    decoding: Decoding = "soft_argmax"
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Of the landmarks, L."""
        return self.network.names


def predict_landmarks(
    model: LandmarkModel,
    images: Mapping[str, np.ndarray],
    *,
    spacing: np.ndarray | None = None,
    least_peak: float | None = None,
    batch: int = 16,
) -> Landmarks:
    """Landmarks of images, in pixels of the images as they came.

    Args:
        model: The model.
        images: Name -> grey image, uint8 [H, W] of any size.
        spacing: Millimetres a pixel (along x, along y), [N, 2], where it is known; it is passed on.
        least_peak: A landmark whose heat map rises nowhere above this is absent (nan); None keeps all.
        batch: Images in a pass.
    """
    frames = list(images.values())
    views, places = landmark_views(frames, None, model.size)
    points, peaks = predicted_points(model.network, views, places, decoding=model.decoding, batch=batch)
    if least_peak is not None:
        points[peaks < least_peak] = np.nan
    sizes = np.array([frame.shape[::-1] for frame in frames], dtype=np.float64)
    return Landmarks(tuple(images), model.names, points, spacing, sizes, np.array(list(images)).astype(str))


def save_landmark_model(model: LandmarkModel, folder: Path) -> None:
    """Write ``model`` into ``folder``, which is made where missing and may hold other files."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "landmarks.json").unlink(missing_ok=True)
    network = model.network
    save_backbone(network.backbone, folder / "backbone", provenance={"fitted_on_labels": True, "labels": list(network.names)})
    with atomic_path(folder / "decoder.safetensors") as place:
        safetensors.torch.save_file(_own_state(network), place)
    write_json(
        folder / "landmarks.json",
        {
            "schema": 1,
            "names": list(network.names),
            "size": list(model.size),
            "stride": network.stride,
            "sigma": model.sigma,
            "decoding": model.decoding,
            "widths": {str(stride): width for stride, width in network.widths.items()},
            "block": network.block,
            "spacing": _SPACING_NOTE,
            "parameters": sum(parameter.numel() for parameter in network.parameters()),
            "fingerprint": network_fingerprint(network),
            "provenance": dict(model.provenance),
        },
    )


def load_landmark_model(folder: Path) -> LandmarkModel:
    """Read what :func:`save_landmark_model` wrote.

    Raises:
        SonokitError: The folder is no landmark model, is incomplete or damaged, or was made by a newer sonokit.
    """
    folder = Path(folder)
    for name in ("landmarks.json", "decoder.safetensors"):
        if not (folder / name).is_file():
            raise SonokitError(f"{folder} is no landmark model: {name} is missing (an unfinished run? run its command again)")
    try:
        said = json.loads((folder / "landmarks.json").read_text(encoding="utf-8"))
        if said["schema"] != 1:
            raise SonokitError(f"{folder} was written by a newer sonokit (schema {said['schema']}); update this one")
        widths = {int(stride): int(width) for stride, width in said["widths"].items()}
        network = LandmarkNetwork(
            load_backbone(folder / "backbone"), said["names"], stride=said["stride"], widths=widths, block=said["block"]
        )
        network.load_state_dict(safetensors.torch.load_file(folder / "decoder.safetensors"), strict=False)
        whole = network_fingerprint(network) == said["fingerprint"]
        model = LandmarkModel(network.eval(), _pair(said["size"]), said["sigma"], said["decoding"], said["provenance"])
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as fault:
        raise SonokitError(f"{folder} cannot be read ({str(fault).splitlines()[0]}); make it again") from fault
    if not whole:
        raise SonokitError(f"{folder}: the weights are not those that landmarks.json describes; was one of the files replaced?")
    return model


def network_fingerprint(network: LandmarkNetwork) -> str:
    """16 hex digits that any change of names, form or weights changes."""
    form = [
        backbone_fingerprint(network.backbone),
        network.names,
        network.stride,
        sorted(network.widths.items()),
        network.block,
    ]
    digest = hashlib.sha256(json.dumps(form).encode())
    for name, value in sorted(_own_state(network).items()):
        digest.update(name.encode() + safetensors.torch.save({"x": value}))
    return digest.hexdigest()[:16]


def _own_state(network: LandmarkNetwork) -> dict[str, Tensor]:
    """Decoder and prediction, without the backbone."""
    state = network.state_dict().items()
    return {name: value.detach().cpu().contiguous() for name, value in state if not name.startswith("backbone.")}


def _pair(size: Sequence[int]) -> Size:
    width, height = size
    return int(width), int(height)
