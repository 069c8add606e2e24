"""BYOL: a network predicts what its own slowly moving copy sees in the other view (Grill et al., NeurIPS 2020, 2006.07733).

There are no negatives, so patients do not matter, and nothing but the predictor and the copy's lag keeps the network from
giving one answer to everything: watch the rank of its features. Both views go through each network as one batch
(``simclr.py``).
"""

import torch
import torch.nn.functional as F
from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
from lightly.models.utils import update_momentum

from ...backbones.build import Backbone
from .contrast import weighted_mean
from .momentum import frozen_copy, rising_momentum
from .objective import Objective, Outcome, Views


class BYOL(Objective):
    """The objective with its backbone.

    Args:
        backbone: The network to train.
        momentum: Of the copy at the beginning; it rises to 1 along a cosine.
        hidden: Width of the hidden layers of projector and predictor.
        projection: Dimensions P of a projection.
    """

    negatives = False

    def __init__(self, backbone: Backbone, *, momentum: float = 0.996, hidden: int = 4096, projection: int = 256) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = BYOLProjectionHead(backbone.num_features, hidden, projection)
        self.predictor = BYOLPredictionHead(projection, hidden, projection)
        self.momentum_backbone = frozen_copy(self.backbone)
        self.momentum_projector = frozen_copy(self.projector)
        self.momentum = momentum

    def forward(self, views: Views) -> Outcome:
        """The negative cosine between prediction and the copy's projection of the other view, in [-1, 1].

        Lightly's symmetric ``NegativeCosineSimilarity``, with a weight a pair; the paper's loss is 2 + 2 times it, a view.
        """
        images = torch.cat([views.first, views.second])  # [2B, C, H, W]
        features = self.backbone(images)  # [2B, D]
        z = self.projector(features)  # [2B, P]
        predicted = self.predictor(z)  # [2B, P]
        with torch.no_grad():
            t1, t2 = self.momentum_projector(self.momentum_backbone(images)).chunk(2)  # [B, P] each
        terms = -F.cosine_similarity(predicted.float(), torch.cat([t2, t1]).float())  # [2B]
        loss = weighted_mean(terms, views.weights.repeat(2))
        return Outcome(loss, {}, features.detach(), z.detach())

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Move the copy."""
        momentum = rising_momentum(self.momentum, progress)
        update_momentum(self.backbone, self.momentum_backbone, momentum)
        update_momentum(self.projector, self.momentum_projector, momentum)
