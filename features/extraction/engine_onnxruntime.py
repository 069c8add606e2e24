"""A network in ONNX Runtime, which is fast on every processor."""

import contextlib
import io
import logging
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def compile_onnxruntime(network: nn.Module, example: Tensor) -> Any:
    """A function uint8 [F, H, W] → float32 [D] that any number of threads may call at once, each working in its caller.

    Args:
        network: From one unit of frames to its features.
        example: A unit; all units have its shape.
    """
    import onnxruntime

    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
            warnings.simplefilter("ignore")  # of the exporter's own making; whether it was right is checked on real frames
            exported = torch.onnx.export(network, (example,), dynamo=True, verbose=False)
        assert exported is not None
    finally:
        exporter.setLevel(level)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # the callers are the threads
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(
        exported.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name

    def run(frames: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {name: np.ascontiguousarray(frames)})[0])

    return run
