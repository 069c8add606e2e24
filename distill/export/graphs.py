"""What is exported of each kind of model: a network from frames as they are stored to what is asked of it, and its ONNX graph.

The frames go in as bytes, so that nothing has to be prepared outside; the division by 255 and by the spread of the
normalisation becomes part of the first convolution's weights, and the standardisation of a classifier's features part of its
linear layer. The mean stays a subtraction: the convolution pads with zeros *after* it, so that folding it would change the
frame's border. Batch normalisations become part of the convolutions before them (ONNX Runtime's "basic" optimisation, which is
the same on every machine).
"""

import contextlib
import copy
import io
import logging
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...backbones.build import Backbone
from ...errors import SonokitError
from ...features.extractors.biomarkers import BiomarkerExtractor, segment_features
from ..training.learners import Classifier

INPUT = "frames"


class BytesBackbone(nn.Module):
    """A copy of a backbone that takes grey bytes.

    Args:
        backbone: In any mode; it is left as it is.
    """

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = take_bytes(copy.deepcopy(backbone).eval())

    def forward(self, frames: Tensor) -> Tensor:
        """uint8 [B, H, W] → features [B, D]."""
        own = self.backbone
        # the timm model itself: Backbone.forward reshapes, which stays in the graph as work
        features: Tensor = own.model(normalised(own, frames.unsqueeze(1).float()))
        return features


class ClassifierGraph(nn.Module):
    """Frames, uint8 [B, H, W] → probabilities [B, K].

    Args:
        classifier: What is exported; it is left as it is.
        several: Whether each of K findings may be there (a sigmoid each) instead of one class (softmax).
    """

    outputs = ("probabilities",)

    def __init__(self, classifier: Classifier, *, several: bool = False) -> None:
        super().__init__()
        self.backbone = BytesBackbone(classifier.backbone)
        self.classify = standardised_linear(classifier)
        self.several = several

    def forward(self, frames: Tensor) -> Tensor:
        """See the class."""
        logits = self.classify(self.backbone(frames))
        return logits.sigmoid() if self.several else logits.softmax(dim=1)


class BackboneGraph(nn.Module):
    """Frames, uint8 [B, H, W] → features [B, D]."""

    outputs = ("features",)

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = BytesBackbone(backbone)

    def forward(self, frames: Tensor) -> Tensor:
        """See the class."""
        return self.backbone(frames)


class ExtractorGraph(nn.Module):
    """One clip's segments, uint8 [S, F, H, W] → clip probabilities [1, B], embeddings [S, E], segment probabilities [S, B]."""

    outputs = ("probabilities", "embedding", "segment_probabilities")

    def __init__(self, extractor: BiomarkerExtractor) -> None:
        super().__init__()
        self.extractor = copy.deepcopy(extractor).eval()
        take_bytes(self.extractor.backbone)

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See the class."""
        extractor = self.extractor
        embedding, logits = extractor.head(self._features(extractor.backbone, frames.float()))
        clip = extractor.clip_logits(logits[None], None, embedding[None])  # [1, B]
        return extractor.probabilities(clip), embedding, extractor.probabilities(logits)

    def _features(self, backbone: Backbone, grey: Tensor) -> Tensor:
        """Float [S, F, H, W], 0 to 255 → mean features of the segments [S, D]."""
        segments, count, height, width = grey.shape
        if backbone.temporal_shift and count > 1:  # frames see each other: the backbone has to know which belong together
            return segment_features(backbone, grey.unsqueeze(2).expand(-1, -1, backbone.in_chans, -1, -1))
        features: Tensor = backbone.model(normalised(backbone, grey.reshape(segments * count, 1, height, width)))
        return features if count == 1 else features.reshape(segments, count, -1).mean(dim=1)


class LandmarkGraph(nn.Module):
    """Frames, uint8 [B, H, W] → heat maps [B, L, h, w]."""

    outputs = ("heat_maps",)

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval()
        take_bytes(self.network.backbone)  # type: ignore[arg-type]

    def forward(self, frames: Tensor) -> Tensor:
        """See the class."""
        maps: Tensor = self.network(frames.unsqueeze(1).float())
        return maps


def take_bytes(backbone: Backbone) -> Backbone:
    """Make ``backbone`` take values from 0 to 255, with nothing but a subtraction before its first convolution if possible."""
    std = 255 * backbone.std
    if _fold_scale(backbone, 1 / std):
        std = torch.ones_like(std)
    backbone.mean, backbone.std = 255 * backbone.mean, std
    return backbone


def normalised(backbone: Backbone, grey: Tensor) -> Tensor:
    """Float [B, 1, H, W] → what the backbone's timm model takes, [B, C, H, W]."""
    if backbone.in_chans > 1:
        grey = grey.expand(-1, backbone.in_chans, -1, -1)
    return (grey - backbone.mean) / backbone.std


def standardised_linear(classifier: Classifier) -> nn.Linear:
    """A classifier's standardisation and linear layer as one linear layer, the same to rounding."""
    linear = copy.deepcopy(classifier.classify)
    norm = classifier.normalise
    if isinstance(norm, nn.BatchNorm1d):
        assert norm.running_mean is not None
        assert norm.running_var is not None
        with torch.no_grad():
            weight = linear.weight.double() / (norm.running_var.double() + norm.eps).sqrt()
            linear.bias.copy_(linear.bias.double() - weight @ norm.running_mean.double())
            linear.weight.copy_(weight)
    return linear


def onnx_of(graph: nn.Module, shape: tuple[int, ...]) -> Any:
    """A graph as ONNX, with batch normalisations folded and without what only machines of one kind understand.

    Args:
        graph: Takes uint8 [N, *shape] for any N; has ``outputs``, the names of what it gives.
        shape: Of one input.

    Returns:
        An onnx.ModelProto, its input ``frames``.

    Raises:
        SonokitError: A package is missing, or the network cannot be exported.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as fault:
        raise SonokitError(f"{fault.name} is not installed: pip install 'sonokit[onnxruntime]'") from fault
    example = torch.zeros((2, *shape), dtype=torch.uint8)
    try:
        with _silently(), torch.no_grad():
            program = torch.onnx.export(
                graph.eval().requires_grad_(False), (example,), dynamo=True, verbose=False,
                input_names=[INPUT], output_names=list(graph.outputs),  # type: ignore[arg-type]
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),
            )  # fmt: skip
    except Exception as fault:  # the exporter fails on what it does not know in ways of its own
        reason = (str(fault).strip() or type(fault).__name__).splitlines()[0]
        raise SonokitError(f"this network cannot be exported to ONNX: {reason[:200]}") from fault
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "basic.onnx")
        onnxruntime.InferenceSession(program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return without_notes(onnx.load(options.optimized_model_filepath))


def without_notes(model: Any) -> Any:
    """The model without what the exporter wrote beside it (lines of source code with their paths), nor vocabularies unused."""
    for part in (model.graph, *model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        part.ClearField("doc_string")
        if hasattr(part, "metadata_props"):
            part.ClearField("metadata_props")
    model.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    used = {node.domain for node in model.graph.node}
    kept = [known for known in model.opset_import if known.domain in used | {""}]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    return model


def _fold_scale(backbone: Backbone, scale: Tensor) -> bool:
    """Multiply the first convolution's weights, where timm says which one that is."""
    name = backbone.model.pretrained_cfg.get("first_conv")
    if not isinstance(name, str):
        return False
    try:
        first = backbone.model.get_submodule(name)
    except AttributeError:
        return False
    if not isinstance(first, nn.Conv2d) or first.groups != 1 or first.weight.shape[1] != backbone.in_chans:
        return False
    if type(first).forward is not nn.Conv2d.forward:  # weight standardisation would take the factor out again
        return False
    with torch.no_grad():
        first.weight.mul_(scale)
    return True


@contextlib.contextmanager
def _silently() -> Any:
    exporter = logging.getLogger("torch.onnx")
    level = exporter.level
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")  # of the exporter's own making; whether it was right is checked on real frames
            yield
    finally:
        exporter.setLevel(level)
