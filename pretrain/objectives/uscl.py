"""USCL: contrast between clips, and the labels of those clips that have one (Chen et al., MICCAI 2021, 2011.13066).

    L = NT-Xent(z1, z2) + λ·CE(c(z1)) + λ·CE(c(z2))

z is the 256-dimensional projection (512 → ReLU → 256); the classifier c sits on z, as in the reference code, or on the
backbone's features. Without labels this is SimCLR's objective, on whatever pairs it is given. Unlike in the reference code,
clips of one patient are no negatives of each other (``contrast.py``).
"""

from typing import Literal

from torch import Tensor, nn

from ...backbones.build import Backbone
from .classification import masked_cross_entropy
from .objective import Outcome, Views
from .simclr import SimCLR


class USCL(SimCLR):
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
        super().__init__(backbone, temperature=temperature, hidden=hidden, projection=projection)
        self.classify = classify
        self.classifier = (
            nn.Linear(projection if classify == "projection" else backbone.num_features, classes) if classes else None
        )
        self.label_weight = label_weight

    def forward(self, views: Views) -> Outcome:
        """The loss of one batch.

        Its ``parts`` are ``contrastive`` and ``classification`` (the sum over both views, without λ). The pairs' weights apply
        to the contrast: a label is as true of an unlikely pair.
        """
        features, z = self.embed(views)  # [2B, D], [2B, P]
        contrastive = self.contrast(*z.chunk(2), views.patients, views.weights)
        classification = self._classification(features, z, views.labels)
        loss = contrastive + self.label_weight * classification if self.label_weight else contrastive
        parts = {"contrastive": contrastive.detach(), "classification": classification.detach()}
        return Outcome(loss, parts, features.detach(), z.detach())

    def _classification(self, features: Tensor, z: Tensor, labels: Tensor) -> Tensor:
        if self.classifier is None:
            return z.new_zeros(())
        logits = self.classifier(z if self.classify == "projection" else features)  # [2B, classes]
        return masked_cross_entropy(logits, labels.repeat(2)) * 2  # mean over both views → sum of the two means
