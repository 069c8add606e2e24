"""What can be exported, opened: the graph that goes into the file, and what torch says, which it has to say again."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ...backbones.build import Backbone
from ...backbones.folder import backbone_fingerprint, load_backbone
from ...clips.augment import resize
from ...clips.cached_clips import CacheSettings
from ...clips.sampling import Sampling
from ...errors import SonokitError
from ...features.extractors.biomarkers import BiomarkerExtractor
from ...features.extractors.folder import extractor_fingerprint, load_extractor, read_extractor
from ..landmarks.folder import LandmarkModel, load_landmark_model, network_fingerprint
from ..landmarks.heat_maps import decode
from ..students.folder import StudentNote, is_student, load_student, student_fingerprint
from ..training.learners import Classifier
from .frames import resized
from .graphs import BackboneGraph, ClassifierGraph, ExtractorGraph, LandmarkGraph
from .heat_map_points import points_of
from .run import segment_frames

Prepare = Callable[[np.ndarray], np.ndarray]
Say = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Source:
    """A model to export.

    Attributes:
        graph: What is exported; takes uint8 [N, *shape].
        shape: Of one input.
        note: What ``export.json`` says of it: kind, classes, label, size, letterbox, sampling and so on.
        inputs: From a clip's letterboxed frames, uint8 [T, L, L], to the graph's inputs, uint8 [N, *shape], without torch.
        expected: From the same frames to what torch says of the clip by the road of training, float32 [D].
        pooled: From the graph's first output for a clip, [N, …], to the same, float32 [D].
        each: From the same frames to what torch says of each input, float32 [N, D], as the graph's first output; None where
            that is said of a whole clip, or is decoded first.
        unit: What a difference between two such is: "probability", "share" (of the greatest value), or "pixels".
    """

    graph: nn.Module
    shape: tuple[int, ...]
    note: dict[str, Any]
    inputs: Prepare
    expected: Say
    pooled: Say
    each: Say | None = None
    unit: Literal["probability", "share", "pixels"] = "probability"

    def difference(self, expected: np.ndarray, found: np.ndarray) -> float:
        """How far a clip's prediction is from torch's; inf if it is not finite."""
        if found.shape != expected.shape or not np.isfinite(found).all():
            return float("inf")
        greatest = float(np.abs(found - expected).max())
        return greatest / max(float(np.abs(expected).max()), 1e-12) if self.unit == "share" else greatest


def open_source(folder: Path) -> Source:
    """A student's, an extractor's, a landmark model's or a backbone's folder.

    Raises:
        SonokitError: It is none of them, or is damaged.
    """
    folder = Path(folder)
    if is_student(folder):
        return student_source(*load_student(folder))
    if (folder / "set.json").is_file():
        folder = folder / "final"
    if (folder / "extractor.json").is_file():
        return extractor_source(load_extractor(folder), read_extractor(folder)["sampling"])
    if (folder / "landmarks.json").is_file():
        return landmark_source(load_landmark_model(folder))
    if not folder.is_dir():
        raise SonokitError(f"there is no folder {folder}: name a student's, an extractor's, a landmark model's or a backbone's")
    return backbone_source(load_backbone(folder))


def student_source(classifier: Classifier, note: StudentNote) -> Source:
    """A student; a clip's prediction is the mean of its frames' probabilities."""
    several = note.kind == "several"

    def each(frames: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            logits = classifier.eval()(_trained_frames(frames, note.size))
            return np.asarray((logits.sigmoid() if several else logits.softmax(dim=1)).numpy())

    def expected(frames: np.ndarray) -> np.ndarray:
        return _mean(each(frames))

    said = {
        "kind": note.kind,
        "classes": list(note.classes),
        "label": note.label,
        "size": note.size,
        "letterbox": note.cache_size,
        "sampling": dict(note.sampling),
        "parameters": _parameters(classifier),
        "fingerprint": student_fingerprint(classifier, note),
    }
    graph = ClassifierGraph(classifier, several=several)
    return Source(graph, (note.size, note.size), said, lambda frames: resized(frames, note.size), expected, _mean, each)


def extractor_source(extractor: BiomarkerExtractor, sampling: dict[str, Any]) -> Source:
    """A biomarker extractor; one clip's segments go in together and are pooled in the graph."""
    plan, size = extractor.plan, extractor.size

    def expected(frames: np.ndarray) -> np.ndarray:
        chosen = torch.from_numpy(np.array(frames))[plan.choose(len(frames))]  # [S, F, H, W]
        grey = chosen.float().div(255)[None, :, :, None].expand(-1, -1, -1, extractor.backbone.in_chans, -1, -1)
        with torch.inference_mode():
            embedding, logits = extractor.eval()(grey)
            return np.asarray(extractor.probabilities(extractor.clip_logits(logits, None, embedding))[0].numpy())

    def inputs(frames: np.ndarray) -> np.ndarray:
        return np.asarray(frames[segment_frames(len(frames), plan.segments, plan.frames)])

    said = {
        "kind": "extractor",
        "classes": list(extractor.biomarkers),
        "label": ", ".join(extractor.biomarkers),
        "size": size,
        "letterbox": size,
        "sampling": dict(sampling),
        "segments": plan.segments,
        "segment_frames": plan.frames,
        "parameters": _parameters(extractor),
        "fingerprint": extractor_fingerprint(extractor),
    }
    return Source(
        ExtractorGraph(extractor), (plan.frames, size, size), said, inputs, expected, lambda rows: np.asarray(rows[0])
    )


def backbone_source(backbone: Backbone, settings: CacheSettings | None = None) -> Source:
    """A backbone; what it says of a clip is the mean of its frames' features.

    Raises:
        SonokitError: It has a temporal shift, so that a frame's features depend on its neighbours.
    """
    settings = settings or CacheSettings()
    if backbone.temporal_shift:
        raise SonokitError(f"{backbone.name} has a temporal shift, its frames see each other: export an extractor made of it")

    def each(frames: np.ndarray) -> np.ndarray:
        grey = _trained_frames(frames, settings.size).expand(-1, backbone.in_chans, -1, -1)
        with torch.inference_mode():
            return np.asarray(backbone.eval()(grey).numpy())

    def expected(frames: np.ndarray) -> np.ndarray:
        return _mean(each(frames))

    said: dict[str, Any] = {
        "kind": "backbone",
        "classes": [],
        "label": None,
        "size": settings.size,
        "letterbox": settings.size,
        "sampling": asdict(settings.sampling),
        "parameters": _parameters(backbone),
        "fingerprint": backbone_fingerprint(backbone),
    }
    shape = (settings.size, settings.size)
    return Source(BackboneGraph(backbone), shape, said, np.asarray, expected, _mean, each, unit="share")


def landmark_source(model: LandmarkModel) -> Source:
    """A landmark model; a "clip" is images in their places in its input, uint8 [T, H, W], and what it says are points."""
    network, (width, height) = model.network, model.size

    def expected(frames: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            maps = network.eval()(torch.from_numpy(np.array(frames))[:, None].float().div(255))
            return np.asarray(decode(maps, model.decoding)[0].flatten().numpy() * network.stride)

    def pooled(maps: np.ndarray) -> np.ndarray:
        return points_of(maps, model.decoding)[0].reshape(-1) * network.stride

    said: dict[str, Any] = {
        "kind": "landmarks",
        "classes": list(model.names),
        "label": "landmarks",
        "size": [width, height],
        "letterbox": [width, height],
        "sampling": {"frames": 1, "rate_hz": None},
        "stride": network.stride,
        "decoding": model.decoding,
        "parameters": _parameters(network),
        "fingerprint": network_fingerprint(network),
    }
    return Source(LandmarkGraph(network), (height, width), said, np.asarray, expected, pooled, unit="pixels")


def frame_settings(source: Source) -> CacheSettings:
    """The letterboxed frames that :attr:`Source.inputs` takes."""
    return CacheSettings(source.note["letterbox"], Sampling(**source.note["sampling"]))


def _trained_frames(frames: np.ndarray, size: int) -> torch.Tensor:
    """As :func:`sonokit.distill.training.views.clip_views` makes them, bytes between; float [T, 1, size, size]."""
    grey = torch.from_numpy(np.array(frames))[:, None].float().div_(255)
    return resize(grey, size).mul_(255).round_().clamp_(0, 255).byte().float().div_(255)


def _mean(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows.mean(axis=0, dtype=np.float64).astype(np.float32))


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
