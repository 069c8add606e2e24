"""Micro networks: depthwise-separable convolutions down to ten thousand parameters, for grey frames.

The block is MobileNet's (Howard et al. 2017, 1704.04861): a 3 × 3 convolution of each channel by itself, then a 1 × 1
convolution across the channels, each followed by batch normalisation and a ReLU; a block that changes neither size nor width
adds its input (He et al. 2016). A stem of stride 2 and four stages of stride 2 each lead to maps at strides 2, 4, 8, 16 and 32;
the features are the mean of the last map. Nothing but convolutions, ReLU and additions, which fold, fuse and quantise without
loss of speed: no squeeze-and-excitation, no other activation.

The networks are registered with timm (``register_model``, its way of adding one), so that the building, saving and loading of
``backbones/`` serve them as they are. Importing this module registers them: a saved one opens where it has been imported.

Parameters without classifier, one input channel: micro_10k 10 000, micro_25k 24 760, micro_50k 49 104, micro_100k 94 688.
"""

from collections.abc import Sequence
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

MICRO_NETWORKS = ("micro_10k", "micro_25k", "micro_50k", "micro_100k")
"""The names, smallest first; a hyphen does for the underscore in :func:`~sonokit.distill.students.build.build_student`."""


class DepthwiseSeparable(nn.Module):
    """3 × 3 of each channel, then 1 × 1 across the channels; with the input added where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, padding=1, groups=inputs, bias=False)
        self.depthwise_norm = nn.BatchNorm2d(inputs)
        self.pointwise = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.pointwise_norm = nn.BatchNorm2d(outputs)
        self.activation = nn.ReLU()
        self.adds_input = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """[B, C, H, W] → [B, C', about H/stride, about W/stride]."""
        inside = self.activation(self.depthwise_norm(self.depthwise(x)))
        out: Tensor = self.activation(self.pointwise_norm(self.pointwise(inside)))
        return x + out if self.adds_input else out


class MicroNetwork(nn.Module):
    """A micro network with the methods of timm's models.

    Args:
        stem: Channels at stride 2.
        widths: Channels at strides 4, 8, 16 and 32; the last is the length of a feature vector.
        depths: Blocks at each of them, at least 1; the first has stride 2.
        in_chans: Channels of a frame.
        num_classes: Of a linear classifier on the features; 0 leaves it out.
    """

    def __init__(
        self, stem: int, widths: Sequence[int], depths: Sequence[int], in_chans: int = 1, num_classes: int = 0
    ) -> None:
        super().__init__()
        self.num_features = self.head_hidden_size = widths[-1]
        self.num_classes = num_classes
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, stem, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(stem), nn.ReLU()
        )
        self.stages = nn.ModuleList()
        self.feature_info = [{"num_chs": stem, "reduction": 2, "module": "stem"}]
        inputs = stem
        for number, (width, depth) in enumerate(zip(widths, depths, strict=True)):
            first = DepthwiseSeparable(inputs, width, stride=2)
            self.stages.append(nn.Sequential(first, *(DepthwiseSeparable(width, width, stride=1) for _ in range(1, depth))))
            self.feature_info.append({"num_chs": width, "reduction": 4 * 2**number, "module": f"stages.{number}"})
            inputs = width
        self.fc = nn.Linear(inputs, num_classes) if num_classes else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")  # by inputs: right for depthwise too

    def forward(self, x: Tensor) -> Tensor:
        """Frames [B, C, H, W] → features [B, D], or logits [B, num_classes]."""
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Tensor:
        """The map at stride 32."""
        return self.forward_intermediates(x, indices=[])[0]

    def forward_intermediates(self, x: Tensor, indices: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """The map at stride 32, and those maps of ``feature_info`` whose places ``indices`` names."""
        maps = [self.stem(x)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[-1], [maps[place] for place in indices]

    def forward_head(self, x: Tensor) -> Tensor:
        """[B, D, h, w] → [B, D], or [B, num_classes]."""
        out: Tensor = self.fc(x.mean(dim=(2, 3)))
        return out


_CONFIG = {
    "input_size": (3, 224, 224),
    "mean": (0.5, 0.5, 0.5),  # [0, 1] → [-1, 1]; a grey network takes the channels' mean
    "std": (0.5, 0.5, 0.5),
    "num_classes": 0,
    "first_conv": "stem.0",
    "classifier": "fc",
}
default_cfgs = generate_default_cfgs({f"{name}.untrained": dict(_CONFIG) for name in MICRO_NETWORKS})


def _build(
    name: str, pretrained: bool, stem: int, widths: Sequence[int], depths: Sequence[int], **options: Any
) -> MicroNetwork:
    made: MicroNetwork = build_model_with_cfg(
        MicroNetwork, name, pretrained, stem=stem, widths=tuple(widths), depths=tuple(depths), **options
    )
    return made


@register_model
def micro_10k(pretrained: bool = False, **options: Any) -> MicroNetwork:
    """Ten thousand parameters, 64 features."""
    return _build("micro_10k", pretrained, 8, (16, 24, 48, 64), (1, 2, 2, 1), **options)


@register_model
def micro_25k(pretrained: bool = False, **options: Any) -> MicroNetwork:
    """Twenty-five thousand parameters, 128 features."""
    return _build("micro_25k", pretrained, 12, (24, 40, 72, 128), (2, 2, 2, 1), **options)


@register_model
def micro_50k(pretrained: bool = False, **options: Any) -> MicroNetwork:
    """Fifty thousand parameters, 160 features."""
    return _build("micro_50k", pretrained, 16, (24, 48, 96, 160), (2, 2, 3, 1), **options)


@register_model
def micro_100k(pretrained: bool = False, **options: Any) -> MicroNetwork:
    """A hundred thousand parameters, 256 features."""
    return _build("micro_100k", pretrained, 16, (32, 64, 128, 256), (2, 3, 3, 1), **options)
