"""What the training loop and an objective say to each other."""

from dataclasses import dataclass

from torch import Tensor, nn

from ...backbones.build import Backbone

UNLABELLED = -1


@dataclass(frozen=True)
class Views:
    """A batch as an objective sees it.

    Attributes:
        first: First views, float in [0, 1], shape [B, C, H, W].
        second: Second views; row i of both is a positive pair.
        labels: int64 [B], ``UNLABELLED`` (-1) where unknown.
        patients: Whose each clip is, int64 [B]: the same number on every rank of a distributed run.
        weights: How much each pair counts, float32 [B]; 1 for all, unless the pair policy says otherwise (IVPP).
    """

    first: Tensor
    second: Tensor
    labels: Tensor
    patients: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Outcome:
    """What an objective makes of a batch.

    Attributes:
        loss: To minimise, a scalar with its graph.
        parts: What else to log, detached scalars by name.
        features: The trained backbone's features of all first views, then all second ones, detached, [2B, D].
        projections: The same after the projector, where the loss looks at them, detached, [2B, P].
    """

    loss: Tensor
    parts: dict[str, Tensor]
    features: Tensor
    projections: Tensor


class Objective(nn.Module):
    """A method: owns its backbone, turns batches into losses.

    Attributes:
        backbone: The network that gradients train.
        negatives: Whether it pushes clips apart, and so must know patients.
    """

    backbone: Backbone
    negatives = True

    def forward(self, views: Views) -> Outcome:
        """The loss of one batch."""
        raise NotImplementedError

    def after_step(self, progress: float) -> None:
        """Called after every step of the optimiser with the share of the run that is done, in (0, 1]: momentum updates."""

    @property
    def result(self) -> Backbone:
        """The network that is worth keeping; the trained one, unless a method says otherwise (DINO keeps its teacher)."""
        return self.backbone
