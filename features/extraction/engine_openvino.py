"""A network in OpenVINO, the fastest on Intel and AMD processors.

OpenVINO's converter reports every use of it to its makers unless that was declined. Here the reporting module is hidden while
OpenVINO is first loaded; it has a silent stand-in for that. A program that loaded OpenVINO before sonokit decides for itself.
"""

import copy
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_REPORTING = "openvino_telemetry"


def compile_openvino(network: nn.Module, example: Tensor, threads: int) -> Any:
    """A function uint8 [F, H, W] → float32 [D] that up to ``threads`` threads call at once.

    Args:
        network: From one unit of frames to its features.
        example: A unit; all units have its shape.
        threads: One stream each.
    """
    openvino = _load()
    with warnings.catch_warnings(), _only_errors("openvino"), torch.no_grad():
        warnings.simplefilter("ignore")  # tracing warns of every shape that becomes a constant: here all shapes are
        # torch's own check of a trace takes longer than all else; what comes out at the end is checked against torch anyway
        # and a function is traced in a third of the time of a module, whose parts would each become a script of their own
        frozen = copy.deepcopy(network).requires_grad_(False)
        traced = torch.jit.trace(lambda frames: frozen(frames), example, check_trace=False)
        model = openvino.convert_model(traced, input=[openvino.PartialShape(list(example.shape))])
    settings = {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "NUM_STREAMS": threads,
        "INFERENCE_NUM_THREADS": threads,  # one thread a stream
        "INFERENCE_PRECISION_HINT": "f32",  # else bfloat16, where the processor has it
        "ENABLE_CPU_PINNING": False,  # several processes would pin themselves to the same cores
    }
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    own = threading.local()  # a request serves one caller at a time

    def run(frames: np.ndarray) -> np.ndarray:
        if not hasattr(own, "request"):
            own.request = compiled.create_infer_request()
        return np.array(own.request.infer([np.ascontiguousarray(frames)], share_inputs=True)[0])

    return run


def _load() -> Any:
    if "openvino" in sys.modules:
        return sys.modules["openvino"]
    present = sys.modules.get(_REPORTING)
    sys.modules[_REPORTING] = None  # type: ignore[assignment]  # makes an import of it fail
    try:
        import openvino
    finally:
        del sys.modules[_REPORTING]
        if present is not None:
            sys.modules[_REPORTING] = present
    return openvino


@contextmanager
def _only_errors(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
