"""The forms in which a network can be exported: fp32, and static int8 in the ways in which ONNX Runtime can hold it.

Which of them is fast, and which still says the same, depends on the network and the processor: an int8 form of a small network
of depthwise convolutions is often *slower* than fp32, because what it saves on multiplications it spends on changing types.
So several are made, and ``choice.py`` measures.
"""

import contextlib
import io
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .graphs import INPUT

Operators = Literal["all", "convolutions", "dense"]


@dataclass(frozen=True)
class Int8Form:
    """A way of static quantisation; activations are unsigned, weights signed 8-bit numbers.

    Attributes:
        layout: "qdq" marks what is quantised round fp32 operators, "qoperator" names int8 operators.
        per_channel: Whether each output channel has a scale of its own.
        operators: "all" that can be; "convolutions": these and matrix products; "dense": these without depthwise and grouped
            convolutions, which stay fp32.
        calibration: Range of the activations: "minmax", or the "percentile" .00001 to .99999.
    """

    layout: Literal["qdq", "qoperator"] = "qdq"
    per_channel: bool = True
    operators: Operators = "all"
    calibration: Literal["minmax", "percentile"] = "minmax"

    @property
    def name(self) -> str:
        """Such as int8-qdq-channel-dense-minmax."""
        return f"int8-{self.layout}-{'channel' if self.per_channel else 'tensor'}-{self.operators}-{self.calibration}"


FP32 = "fp32"
INT8_FORMS: tuple[Int8Form, ...] = (
    Int8Form(),
    Int8Form(calibration="percentile"),
    Int8Form(operators="convolutions"),
    Int8Form(operators="dense"),
    Int8Form(operators="dense", calibration="percentile"),
    Int8Form(per_channel=False),
    Int8Form(layout="qoperator"),
    Int8Form(layout="qoperator", per_channel=False),
    Int8Form(layout="qoperator", operators="dense"),
)


def quantised(model: Any, form: Int8Form, batches: Sequence[np.ndarray]) -> Any:
    """The fp32 ``model`` in int8.

    Args:
        model: An onnx.ModelProto whose normalisations are folded (:func:`~sonokit.distill.export.graphs.onnx_of`).
        form: The way.
        batches: Real inputs for the calibration, each uint8 [N, …] as the model takes them.

    Returns:
        An onnx.ModelProto.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static

    options: dict[str, Any] = {"op_types_to_quantize": None if form.operators == "all" else ["Conv", "Gemm", "MatMul"]}
    options["nodes_to_exclude"] = grouped_convolutions(model) if form.operators == "dense" else []
    with tempfile.TemporaryDirectory() as folder, _silently():
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        quantize_static(
            source,
            target,
            _reader(batches),
            quant_format=QuantFormat.QDQ if form.layout == "qdq" else QuantFormat.QOperator,
            per_channel=form.per_channel,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax if form.calibration == "minmax" else CalibrationMethod.Percentile,
            **options,
        )
        return onnx.load(target)


def grouped_convolutions(model: Any) -> list[str]:
    """Names of the convolutions whose channels do not all meet."""
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    return [node.name for node in convolutions if any(a.name == "group" and a.i > 1 for a in node.attribute)]


def _reader(batches: Sequence[np.ndarray]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self._left = iter(batches)

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self._left, None)
            return None if batch is None else {INPUT: batch}

    return Reader()


@contextlib.contextmanager
def _silently() -> Iterator[None]:
    """It prints histograms' progress, and warns of every network that was not put through its own preparation."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
