"""USCL: contrast between clips, and the labels of those clips that have one (Chen et al., MICCAI 2021, 2011.13066).

    L = NT-Xent(z1, z2) + λ·CE(c(z1)) + λ·CE(c(z2))

z is the 256-dimensional projection (512 → ReLU → 256); the classifier c sits on z, as in the reference code, or on the
backbone's features. Without labels this is SimCLR's objective (Chen et al., ICML 2020), on whatever pairs it is given.

Both views go through the network as one batch of 2N: BatchNorm then sees all images of the step at once and updates its running
statistics once, where the reference code made two passes for each view.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from torch import Tensor, nn

from ...backbones.build import Backbone

UNLABELLED = -1


class USCL(nn.Module):
    """The objective with its backbone.

    Args:
        backbone: The network to train.
        classes: Number of classes of the labels; 0 for none.
        temperature: Of NT-Xent.
        label_weight: λ.
        classify: What the classifier sees: "projection" (the reference) or "features".
        hidden: Width of the projector's hidden layer.
        projection: Dimensions of z.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: int = 0,
        *,
        temperature: float = 0.5,
        label_weight: float = 0.2,
        classify: Literal["projection", "features"] = "projection",
        hidden: int = 512,
        projection: int = 256,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = SimCLRProjectionHead(backbone.num_features, hidden, projection, batch_norm=False)
        self.classify = classify
        self.classifier = (
            nn.Linear(projection if classify == "projection" else backbone.num_features, classes) if classes else None
        )
        self.contrast = NTXentLoss(temperature=temperature)
        self.label_weight = label_weight

    def forward(self, v1: Tensor, v2: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """The loss of one batch.

        Args:
            v1: First views, float in [0, 1], shape [B, C, H, W].
            v2: Second views, the same shape; row i of both is a positive pair, all other rows are negatives.
            labels: int64 [B], ``UNLABELLED`` (-1) where unknown; or None.

        Returns:
            ``loss``, and its parts ``contrastive`` and ``classification`` (the sum over both views, without λ).
        """
        features = self.backbone(torch.cat([v1, v2]))  # [2B, D]
        z = self.projector(features)  # [2B, P]
        z1, z2 = z.chunk(2)  # [B, P] each
        contrastive = self.contrast(z1, z2)
        classification = contrastive.new_zeros(())
        if self.classifier is not None and labels is not None:
            logits = self.classifier(z if self.classify == "projection" else features)  # [2B, classes]
            classification = masked_cross_entropy(logits, labels.repeat(2)) * 2  # mean over both views → sum of the two means
        loss = contrastive + self.label_weight * classification if self.label_weight else contrastive
        return {"loss": loss, "contrastive": contrastive.detach(), "classification": classification.detach()}


def masked_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the labelled rows; 0 where no row has a label."""
    known = (labels != UNLABELLED).sum().clamp(min=1)
    return F.cross_entropy(logits, labels, ignore_index=UNLABELLED, reduction="sum") / known
