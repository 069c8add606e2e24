from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from sonokit.backbones.build import build_backbone
from sonokit.distill.export.graphs import (
    BackboneGraph,
    BytesBackbone,
    ClassifierGraph,
    ExtractorGraph,
    LandmarkGraph,
    onnx_of,
    standardised_linear,
)
from sonokit.distill.landmarks.network import LandmarkNetwork
from sonokit.distill.students.build import build_student
from sonokit.distill.training.learners import Classifier
from sonokit.features.extractors.biomarkers import BiomarkerExtractor, SegmentPlan
from torch import Tensor, nn


def _settled(module: nn.Module, seed: int = 0) -> nn.Module:
    """Statistics and weights as training might leave them, not the zeros and ones of the beginning."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d):
            part.running_mean.copy_(0.2 * torch.randn(part.num_features, generator=generator))
            part.running_var.copy_(0.5 + torch.rand(part.num_features, generator=generator))
            if part.affine:
                nn.init.normal_(part.weight, 1.0, 0.2, generator=generator)
                nn.init.normal_(part.bias, 0.0, 0.2, generator=generator)
        if isinstance(part, nn.Linear):
            nn.init.normal_(part.weight, 0.0, 0.3, generator=generator)
    return module.eval()


def _bytes(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)


def _grey(frames: np.ndarray) -> Tensor:
    return torch.from_numpy(frames)[:, None].float().div(255)


@pytest.mark.parametrize(("name", "in_chans"), [("micro-10k", 1), ("test_resnet", 1), ("test_resnet", 3), ("test_vit", 1)])
def test_bytes_backbone__the_features_of_the_backbone(name: str, in_chans: int) -> None:
    backbone = _settled(build_student(name, in_chans=in_chans))
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    frames = _bytes(3, 160, 160)
    with torch.no_grad():
        expected = backbone(_grey(frames).expand(-1, in_chans, -1, -1))
        found = BytesBackbone(backbone)(torch.from_numpy(frames))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


def test_bytes_backbone__weight_standardisation_keeps_its_division() -> None:
    backbone = _settled(build_student("test_nfnet"))
    frames = _bytes(2, 96, 96)
    with torch.no_grad():
        expected, found = backbone(_grey(frames)), BytesBackbone(backbone)(torch.from_numpy(frames))
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_standardised_linear__is_normalisation_and_linear_layer() -> None:
    classifier = _settled(Classifier(build_student("micro-10k"), ("a", "b", "c")))
    features = torch.randn(5, 64)
    with torch.no_grad():
        assert torch.allclose(
            standardised_linear(classifier)(features), classifier.classify(classifier.normalise(features)), atol=1e-5
        )


def test_classifier_graph__a_sigmoid_each_for_several_findings() -> None:
    classifier = _settled(Classifier(build_student("micro-10k"), ("a", "b", "c")))
    frames = _bytes(3, 64, 64)
    with torch.no_grad():
        found = ClassifierGraph(classifier, several=True)(torch.from_numpy(frames))
        assert torch.allclose(found, classifier(_grey(frames)).sigmoid(), atol=1e-5)


def test_onnx_of__a_classifier_says_what_torch_says_and_nothing_is_left_to_do() -> None:
    classifier = _settled(Classifier(build_student("micro-10k"), ("a", "b", "c")))
    model = onnx_of(ClassifierGraph(classifier), (64, 64))
    kinds = Counter(node.op_type for node in model.graph.node)
    assert not {"BatchNormalization", "Shape", "Reshape", "Div", "Mul"} & kinds.keys()
    assert {node.domain for node in model.graph.node} == {""}  # what every ONNX runtime knows
    content = model.SerializeToString()
    assert str(Path(torch.__file__).parents[1]).encode() not in content  # no word of the machine that made it
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    for count in (1, 2, 5):
        frames = _bytes(count, 64, 64)
        with torch.no_grad():
            expected = classifier(_grey(frames)).softmax(dim=1)
        assert np.allclose(session.run(None, {"frames": frames})[0], expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(("pooling", "frames_each", "shift"), [("attention", 2, 0.0), ("lse", 1, 0.0), ("noisy_or", 2, 0.125)])
def test_extractor_graph__embedding_and_probabilities_of_a_clip(pooling: str, frames_each: int, shift: float) -> None:
    backbone = build_backbone("test_resnet", temporal_shift=shift)
    extractor = BiomarkerExtractor(
        backbone, ("a_lines", "b_lines"), plan=SegmentPlan(4, frames_each), size=64, pooling=pooling, embedding=16
    )
    _settled(extractor)
    extractor.head.calibrate([1.5, 0.8], [0.1, -0.2])
    frames = _bytes(4, frames_each, 64, 64)
    with torch.no_grad():
        embedding, logits = extractor(torch.from_numpy(frames).float().div(255)[None, :, :, None])
        clip = extractor.probabilities(extractor.clip_logits(logits, None, embedding))
        found = ExtractorGraph(extractor)(torch.from_numpy(frames))
    assert torch.allclose(found[0], clip, atol=1e-5)
    assert torch.allclose(found[1], embedding[0], atol=1e-4)
    assert torch.allclose(found[2], extractor.probabilities(logits)[0], atol=1e-5)


def test_landmark_and_backbone_graphs__say_what_torch_says() -> None:
    backbone = build_student("micro-10k")
    network = _settled(LandmarkNetwork(backbone, ("left", "right"), widths=8))
    frames = _bytes(2, 64, 96)
    with torch.no_grad():
        maps, features = network(_grey(frames)), backbone(_grey(frames))
        assert torch.allclose(LandmarkGraph(network)(torch.from_numpy(frames)), maps, rtol=1e-4, atol=1e-5)
        assert torch.allclose(BackboneGraph(backbone)(torch.from_numpy(frames)), features, rtol=1e-4, atol=1e-5)
