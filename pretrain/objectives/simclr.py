"""SimCLR: contrast between clips (Chen et al., ICML 2020, 2002.05709), without pushing a patient away from himself.

The projector is USCL's (D → 512 → ReLU → 256, no BatchNorm), so that SimCLR and USCL differ in their pairs only, which are the
pair policy's affair. Both views go through the network as one batch of 2B: BatchNorm then sees all images of the step at once
and updates its running statistics once, where USCL's reference code made two passes for each view.
"""

import torch
from lightly.models.modules import SimCLRProjectionHead
from torch import Tensor

from ...backbones.build import Backbone
from .contrast import PatientNTXent
from .objective import Objective, Outcome, Views


class SimCLR(Objective):
    """The objective with its backbone.

    Args:
        backbone: The network to train.
        temperature: Of NT-Xent.
        hidden: Width of the projector's hidden layer.
        projection: Dimensions P of a projection.
    """

    def __init__(self, backbone: Backbone, *, temperature: float = 0.5, hidden: int = 512, projection: int = 256) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = SimCLRProjectionHead(backbone.num_features, hidden, projection, batch_norm=False)
        self.contrast = PatientNTXent(temperature)

    def forward(self, views: Views) -> Outcome:
        """NT-Xent of the batch; ``parts`` has ``contrastive``, the same."""
        features, z = self.embed(views)
        loss = self.contrast(*z.chunk(2), views.patients, views.weights)
        return Outcome(loss, {"contrastive": loss.detach()}, features.detach(), z.detach())

    def embed(self, views: Views) -> tuple[Tensor, Tensor]:
        """Features [2B, D] and projections [2B, P], first views first."""
        features = self.backbone(torch.cat([views.first, views.second]))  # [2B, D]
        return features, self.projector(features)
