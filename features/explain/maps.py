"""Where in a frame a biomarker's logit comes from: attribution maps, by captum, as coarse rasters.

"gradcam": what the last convolutional map, weighted by its mean gradient, adds to the logit (Selvaraju et al., ICCV 2017,
1610.02391). "integrated_gradients": gradients on the way from a black frame to this one (Sundararajan et al., ICML 2017,
1703.01365). "occlusion": by how much the logit falls when a patch is made black in all frames of the segment (Zeiler and
Fergus, ECCV 2014, 1311.2901). Only what speaks for the biomarker is kept.
"""

import copy
from typing import Any, Literal, Protocol, get_args

import torch
import torch.nn.functional as F
from captum.attr import IntegratedGradients, LayerGradCam, Occlusion
from torch import Tensor, nn

from ...backbones.build import Backbone
from ...errors import SonokitError
from ..extraction.forward import to_input
from ..extractors.biomarkers import BiomarkerExtractor, BiomarkerHead

MapMethod = Literal["gradcam", "integrated_gradients", "occlusion"]

_FRAMES_AT_ONCE = 16
_PATHS_STEPS = 16  # of the integral; 16 Gauss-Legendre points
_GRADIENT_CELLS = 28  # a side; single pixels of such a map are noise
_PATCHES = 8  # steps of the occluding patch a side; it is two steps wide


class MapMaker(Protocol):
    """One method on the frames of one clip."""

    def outputs(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Segments of frames ``chosen``, int64 [M, F] → embedding [M, E], logits [M, B], as the extractor gives them."""

    def maps(self, chosen: Tensor, shown: int, biomarkers: list[int], head: BiomarkerHead | None = None) -> Tensor:
        """Maps of frame ``shown`` of every segment, float32 [M, len(biomarkers), h, w], not negative.

        Args:
            chosen: Frame numbers of segments, int64 [M, F].
            shown: Position in a segment.
            biomarkers: Numbers of the logits.
            head: Takes the place of the extractor's own.
        """


def make_maps(extractor: BiomarkerExtractor, frames: Tensor, method: MapMethod) -> MapMaker:
    """The method, ready for a clip.

    Args:
        extractor: In evaluation mode.
        frames: uint8 [T, S, S], S the extractor's size.
        method: How.

    Raises:
        SonokitError: No such method, or Grad-CAM for a backbone without a convolutional map at its end.
    """
    if method not in get_args(MapMethod):
        raise SonokitError(f"method must be one of {', '.join(get_args(MapMethod))}, it is {method!r}")
    if method == "gradcam":
        return _GradCam(extractor, frames, last_map(extractor.backbone, extractor.size))
    return _OnPixels(extractor, frames, method)


def last_map(backbone: Backbone, size: int) -> nn.Module:
    """The module that puts out the last convolutional map, from which the features are pooled.

    Found by watching a pass, and accepted only if timm's ``forward_head`` makes the backbone's own features of its output.

    Raises:
        SonokitError: There is none, as in a vision transformer.
    """
    outputs: list[tuple[nn.Module, Tensor]] = []

    def watch(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            outputs.append((module, output))

    hooks = [module.register_forward_hook(watch) for module in backbone.model.modules()]
    try:
        with torch.inference_mode():
            frame = torch.rand(1, backbone.in_chans, size, size, generator=torch.Generator().manual_seed(0))
            features = backbone(frame)  # [1, D]
            found = _last_map_among(outputs, int(backbone.model.num_features))
    finally:
        for hook in hooks:
            hook.remove()
    if found is not None:
        with torch.inference_mode():
            again = backbone.model.forward_head(found[1])
        if again.shape == features.shape and torch.allclose(again, features, atol=1e-4, rtol=1e-3):
            return found[0]
    raise SonokitError(
        f"Grad-CAM needs a backbone that ends in a convolutional map of several cells; {backbone.name} at {size} pixels does "
        "not: choose --method occlusion or integrated_gradients"
    )


def _last_map_among(outputs: list[tuple[nn.Module, Tensor]], channels: int) -> tuple[nn.Module, Tensor] | None:
    """The last module that put out [1, channels, h, w], with that, if none after it spoke in tokens, [1, N, D]."""
    for module, output in reversed(outputs):
        if output.ndim == 3:
            return None
        if output.ndim == 4 and output.shape[1] == channels and output.shape[2] * output.shape[3] > 1:
            return module, output
    return None


class _GradCam:
    """Grad-CAM; the network runs once up to the map, and only what follows it once a biomarker."""

    def __init__(self, extractor: BiomarkerExtractor, frames: Tensor, layer: nn.Module) -> None:
        self._extractor, self._frames, self._layer = extractor, frames, layer
        self._tail = _Tail(extractor.backbone)
        # without a temporal shift frames do not see each other: each is worked on once, whatever segments it is in
        alone = None if extractor.backbone.temporal_shift else torch.arange(len(frames))[:, None]
        self._alone = self._run(alone)[:, 0] if alone is not None else None  # [T, K, h, w]

    def outputs(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            twin = _resting_on(self._extractor, self._tail)
            return _joined([twin(maps[None]) for maps in self._maps(chosen)])

    def maps(self, chosen: Tensor, shown: int, biomarkers: list[int], head: BiomarkerHead | None = None) -> Tensor:
        twin = _resting_on(self._extractor, self._tail, head)
        captum = LayerGradCam(lambda maps: twin(maps[None])[1][0], self._tail.maps)
        found = []
        for maps in self._maps(chosen):
            inputs = maps.clone().requires_grad_()  # [m, F, K, h, w]
            each = [captum.attribute(inputs, target=b, relu_attributions=True).detach() for b in biomarkers]
            found.append(torch.cat(each, dim=1).unflatten(0, maps.shape[:2])[:, shown])  # [m, B, h, w]
        return torch.cat(found)

    def _maps(self, chosen: Tensor) -> list[Tensor]:
        """The last map of every frame of segments, a few segments at a time: [m, F, K, h, w]."""
        parts = chosen.split(max(1, _FRAMES_AT_ONCE // chosen.shape[1]))
        return [self._run(part) if self._alone is None else self._alone[part] for part in parts]

    def _run(self, chosen: Tensor) -> Tensor:
        """Segments [m, F] → [m, F, K, h, w]."""
        kept: list[Tensor] = []
        hook = self._layer.register_forward_hook(lambda module, inputs, output: kept.append(output))
        try:
            with torch.no_grad():
                for part in chosen.split(max(1, _FRAMES_AT_ONCE // chosen.shape[1])):
                    batch = to_input(self._frames[part], self._extractor.backbone.in_chans)  # [m, F, C, S, S]
                    self._extractor.backbone(batch)
        finally:
            hook.remove()
        return torch.cat(kept).unflatten(0, tuple(chosen.shape))


class _OnPixels:
    """Methods that ask the whole network, for any backbone; slow."""

    def __init__(self, extractor: BiomarkerExtractor, frames: Tensor, method: MapMethod) -> None:
        self._extractor, self._frames, self._method = extractor, frames, method

    def outputs(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        with torch.inference_mode():
            return _joined([self._extractor(self._input(segment)) for segment in chosen.split(1)])

    def maps(self, chosen: Tensor, shown: int, biomarkers: list[int], head: BiomarkerHead | None = None) -> Tensor:
        twin = _resting_on(self._extractor, self._extractor.backbone, head)
        make = self._occlusion if self._method == "occlusion" else self._integrated_gradients
        return torch.stack([make(twin, self._input(segment)[0], shown, biomarkers) for segment in chosen.split(1)])

    def _input(self, segment: Tensor) -> Tensor:
        """One segment [1, F] → [1, 1, F, C, S, S]."""
        return to_input(self._frames[segment], self._extractor.backbone.in_chans)[None]

    def _integrated_gradients(
        self, twin: BiomarkerExtractor, segment: Tensor, shown: int, biomarkers: list[int]
    ) -> Tensor:  # [1, F, C, S, S] → [B, h, w]
        captum = IntegratedGradients(lambda segments: twin(segments[None])[1][0])
        at_once = max(1, _FRAMES_AT_ONCE // segment.shape[1])
        each = [
            captum.attribute(segment, target=b, n_steps=_PATHS_STEPS, internal_batch_size=at_once).detach()[0, shown].sum(dim=0)
            for b in biomarkers
        ]
        return F.adaptive_avg_pool2d(torch.stack(each).float(), _GRADIENT_CELLS).relu()

    def _occlusion(
        self, twin: BiomarkerExtractor, segment: Tensor, shown: int, biomarkers: list[int]
    ) -> Tensor:  # [1, F, C, S, S] → [B, h, w]
        _, frames, channels, _, side = segment.shape
        step = max(1, side // _PATCHES)
        # a forward pass tells all logits at once: captum takes them as so many outputs of one example
        captum = Occlusion(lambda segments: twin(segments[None])[1][0, 0, biomarkers])
        window, stride = (frames, channels, 2 * step, 2 * step), (frames, channels, step, step)
        found = captum.attribute(segment, sliding_window_shapes=window, strides=stride, baselines=0)  # [B, F, C, S, S]
        return F.adaptive_avg_pool2d(found[:, shown, 0].float(), _PATCHES).relu()


class _Tail(nn.Module):
    """What follows the last map, called as a backbone is: [U, K, h, w] → [U, D], [U, F, K, h, w] → [U, F, D]."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.maps = nn.Identity()  # where captum looks
        self._forward_head = backbone.model.forward_head

    def forward(self, maps: Tensor) -> Tensor:
        leading = maps.shape[:-3]
        features: Tensor = self._forward_head(self.maps(maps.flatten(0, -4)))
        return features.unflatten(0, leading)


def _resting_on(extractor: BiomarkerExtractor, backbone: nn.Module, head: BiomarkerHead | None = None) -> BiomarkerExtractor:
    """The same extractor on another backbone and head; the original keeps its own."""
    twin = copy.copy(extractor)
    twin._modules = {**extractor._modules, "backbone": backbone, "head": head or extractor.head}
    return twin


def _joined(outputs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Embeddings [1, m, E] and logits [1, m, B] of some segments after the other → [M, E], [M, B]."""
    return torch.cat([embedding[0] for embedding, _ in outputs]), torch.cat([logits[0] for _, logits in outputs])
