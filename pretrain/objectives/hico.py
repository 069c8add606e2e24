"""HiCo: contrast at three levels of the network and between them (Zhang et al., ACCV 2022, 2210.04477).

    L = ½·Σ_{l ∈ 2,3,5} NT-Xent(z_l, z'_l)  +  ½·Σ_{views} [NT-Xent(z_5, z_3) + NT-Xent(z_5, z_2)]  +  λ·(CE + CE')

z_2, z_3 and z_5 are projections of the pyramid's levels at strides 4, 8 and 32: local, medium, global. The classifier sits on
the pooled features. Three things differ from the reference code, which has 273 million parameters in heads over flattened maps:

- the levels are pooled. Up to borders, the mean of a feature pyramid (1×1 convolutions, upsampling, sums, 3×3 convolutions
  without activations) is linear in the means of the maps: so the pyramid is built of the means, at no cost;
- the global level begins at the backbone's own features, which in some networks lie a layer behind the last map;
- label smoothing spreads α over the classes, and not over the batch, where targets did not sum to 1.
"""

import torch
from lightly.models.modules import SimCLRProjectionHead
from torch import Tensor, nn

from ...backbones.build import Backbone
from ...errors import SonokitError
from .classification import masked_cross_entropy
from .contrast import PatientNTXent
from .objective import Objective, Outcome, Views

_STRIDES = (4, 8, 16)  # of the maps below the features


class HiCo(Objective):
    """The objective with its backbone.

    Args:
        backbone: The network to train, with feature maps at strides 4, 8 and 16.
        classes: Number of classes of the labels; 0 for none.
        temperature: Of NT-Xent.
        label_weight: λ.
        smoothing: α, the share of a label that is spread over the classes.
        width: Of the pyramid, the heads and the projections.

    Raises:
        SonokitError: ``backbone`` has no such maps.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: int = 0,
        *,
        temperature: float = 0.5,
        label_weight: float = 0.2,
        smoothing: float = 0.2,
        width: int = 256,
    ) -> None:
        super().__init__()
        channels = backbone.map_channels
        if not set(_STRIDES) <= set(channels):
            strides = ", ".join(map(str, sorted(channels))) or "none"
            raise SonokitError(
                f"hico contrasts feature maps at strides 4, 8 and 16, and {backbone.name} has maps at {strides}: "
                "choose a network with a hierarchy (ResNet, EfficientNet, ConvNeXt, Swin), or another objective"
            )
        self.backbone = backbone
        self.laterals = nn.ModuleList([nn.Linear(channels[stride], width) for stride in _STRIDES])
        self.top = nn.Linear(backbone.num_features, width)
        self.heads = nn.ModuleList([SimCLRProjectionHead(width, width, width, batch_norm=False) for _ in range(3)])
        self.classifier = (
            nn.Sequential(nn.Linear(backbone.num_features, width), nn.ReLU(), nn.Linear(width, classes)) if classes else None
        )
        self.contrast = PatientNTXent(temperature)
        self.label_weight, self.smoothing = label_weight, smoothing

    def forward(self, views: Views) -> Outcome:
        """The loss of one batch.

        Its ``parts`` are ``peer``, ``cross`` and ``classification`` (sums, without ½ and λ), its projections the global ones.
        """
        features, maps = self.backbone.forward_maps(torch.cat([views.first, views.second]), _STRIDES)
        p2, p3, _, p5 = self.pyramid(maps, features)  # [2B, width] each
        z2, z3, z5 = (head(p) for head, p in zip(self.heads, (p2, p3, p5), strict=True))
        peer = self._contrast(z2, views) + self._contrast(z3, views) + self._contrast(z5, views)
        cross = self._cross(z5, z3, views) + self._cross(z5, z2, views)
        loss = 0.5 * peer + 0.5 * cross
        classification = self._classification(features, views.labels)
        if self.label_weight:
            loss = loss + self.label_weight * classification
        parts = {"peer": peer.detach(), "cross": cross.detach(), "classification": classification.detach()}
        return Outcome(loss, parts, features.detach(), z5.detach())

    def pyramid(self, maps: list[Tensor], features: Tensor) -> list[Tensor]:
        """Means of the feature pyramid's levels, from the finest to the top.

        Args:
            maps: At strides 4, 8 and 16, shape [N, C_l, H_l, W_l].
            features: The backbone's, [N, D].

        Returns:
            Four of shape [N, width].
        """
        levels = [self.top(features)]
        for lateral, feature_map in zip(reversed(self.laterals), reversed(maps), strict=True):
            levels.insert(0, levels[0] + lateral(feature_map.mean(dim=(2, 3))))
        return levels

    def _contrast(self, z: Tensor, views: Views) -> Tensor:
        """Between the views, at one level."""
        loss: Tensor = self.contrast(*z.chunk(2), views.patients, views.weights)
        return loss

    def _cross(self, whole: Tensor, part: Tensor, views: Views) -> Tensor:
        """Between two levels, within each view."""
        pairs = zip(whole.chunk(2), part.chunk(2), strict=True)
        first, second = (self.contrast(a, b, views.patients, views.weights) for a, b in pairs)
        both: Tensor = first + second
        return both

    def _classification(self, features: Tensor, labels: Tensor) -> Tensor:
        if self.classifier is None:
            return features.new_zeros(())
        return masked_cross_entropy(self.classifier(features), labels.repeat(2), self.smoothing) * 2  # as in uscl.py
