"""What runs a frozen network on a CPU: torch, ONNX Runtime or OpenVINO, which are believed once they were checked.

Work comes in units of one fixed shape, and a unit never holds two clips' frames: a frame, or where a temporal shift lets them
see each other the frames of a segment. Each unit is worked on by one thread from its first layer to its last. So a clip's
features are the same to the last bit whatever clips are worked on beside it, and on however many cores. It is also fastest: the
activations of one frame stay in a core's cache.
"""

import importlib.util
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from ...backbones.build import Backbone
from ...errors import SonokitError
from ..extractors.biomarkers import segment_features

Runtime = Literal["auto", "torch", "openvino", "onnxruntime"]

Compiled = Callable[[np.ndarray], np.ndarray]
"""uint8 [F, H, W] → float32 [D]; may be called from several threads at once."""

TOLERANCE = 1e-3  # greatest difference from torch's features, as a share of the greatest feature
_CHECKED_UNITS = 3
_PACKAGES = {"openvino": ("openvino",), "onnxruntime": ("onnxruntime", "onnx", "onnxscript")}
_log = logging.getLogger(__name__)


class UnitNetwork(nn.Module):
    """A backbone over one unit, with everything that lies before it: the frames go in as they are stored."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, frames: Tensor) -> Tensor:
        """uint8 [F, H, W] → mean features of the F frames, float32 [D]."""
        grey = frames.float().div(255)[None, :, None]  # [1, F, 1, H, W]
        return segment_features(self.backbone, grey.expand(-1, -1, self.backbone.in_chans, -1, -1))[0]


def choose_runtime(runtime: Runtime, device: torch.device) -> str:
    """The runtime by name; of "auto" the fastest that is installed.

    Raises:
        SonokitError: There is none of that name, its package is not installed, or it does not run on ``device``.
    """
    if runtime not in get_args(Runtime):
        raise SonokitError(f"runtime must be one of {', '.join(get_args(Runtime))}, it is {runtime!r}")
    if device.type != "cpu":
        if runtime not in ("auto", "torch"):
            raise SonokitError(f"the runtime {runtime} works on a CPU only: leave --runtime out, or say --device cpu")
        return "torch"
    if runtime == "auto":
        return next((name for name in _PACKAGES if not _lacking(name)), "torch")
    if runtime in _PACKAGES and (lacking := _lacking(runtime)):
        raise SonokitError(f"{', '.join(lacking)} is not installed: pip install 'sonokit[{runtime}]', or say --runtime torch")
    return runtime


def compile_network(backbone: Backbone, units: np.ndarray, runtime: str, threads: int) -> Compiled | None:
    """The network in ``runtime``, or None where torch has to do it; then a warning says why.

    Args:
        backbone: In evaluation mode, on the CPU.
        units: Real frames to compare with torch on, uint8 [U, F, H, W]; their shape becomes that of all units.
        runtime: "openvino" or "onnxruntime".
        threads: How many will call it at once.
    """
    network, units = UnitNetwork(backbone).eval(), units[:_CHECKED_UNITS]
    try:
        with _one_thread():
            compiled = _compile(network, torch.from_numpy(units[0]), runtime, threads)
            found = np.stack([compiled(unit) for unit in units])  # [U, D]
            difference = parity(network, units, found)
    except Exception as error:  # converters fail on what they do not know in ways of their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        _log.warning("%s cannot run %s (%s); torch does", runtime, backbone.name, reason[:200])
        return None
    if not difference <= TOLERANCE:
        _log.warning(
            "%s gives other features of %s than torch (relative difference %.1e, allowed %.0e); torch is used",
            runtime, backbone.name, difference, TOLERANCE,
        )  # fmt: skip
        return None
    return compiled


@torch.inference_mode()
def parity(network: UnitNetwork, units: np.ndarray, found: np.ndarray) -> float:
    """How far features are from torch's: the greatest difference as a share of torch's greatest feature; inf if not finite.

    Args:
        network: What torch runs.
        units: uint8 [U, F, H, W].
        found: The other runtime's features of them, [U, D].
    """
    expected = torch.stack([network(torch.from_numpy(unit)) for unit in units]).numpy()  # [U, D]
    if found.shape != expected.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-12))


def _compile(network: UnitNetwork, example: Tensor, runtime: str, threads: int) -> Compiled:
    if runtime == "openvino":
        from .engine_openvino import compile_openvino

        return compile_openvino(network, example, threads)
    from .engine_onnxruntime import compile_onnxruntime

    return compile_onnxruntime(network, example)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One frame at a time goes through torch fastest on one thread, above all where others work on the same cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _lacking(runtime: str) -> list[str]:
    return [name for name in _PACKAGES[runtime] if importlib.util.find_spec(name) is None]
