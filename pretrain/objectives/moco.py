"""MoCo v2: contrast with a queue of earlier keys (He et al., CVPR 2020, 1911.05722; Chen et al. 2020, 2003.04297).

A query z of the trained network is compared with the key k of its other view, from a slowly moving copy of the network, and
with the keys of earlier batches, which wait in a queue; both views are query and key in turn. What is ours: the queue knows
whose its keys are, and no key of the query's own patient is a negative.

Two things are fitted to small data. The momentum is .99 (the paper: .999), for a copy that lags a thousand steps behind is
still the initial network when a run of a thousand steps ends. And the paper's shuffled BatchNorm, without which a query finds
its key by the statistics that they share, needs several devices; as in the authors' single-device demonstration, random groups
of the batch stand for them, on the side of the keys.
"""

import torch
import torch.nn.functional as F
from lightly.models.modules import MoCoProjectionHead
from lightly.models.utils import update_momentum
from torch import Tensor, nn

from ...backbones.build import Backbone
from .contrast import gather_rows, weighted_mean
from .momentum import frozen_copy
from .objective import Objective, Outcome, Views

_KEY_GROUPS, _LEAST_GROUP = 4, 8  # groups of keys with BatchNorm statistics of their own, and the fewest images of one


class MoCo(Objective):
    """The objective with its backbone.

    Args:
        backbone: The network to train.
        temperature: Of the contrast.
        momentum: Of the copy: copy ← momentum·copy + (1 − momentum)·network, after every step.
        queue: Keys that the queue holds, of any number; two enter for every clip of a step, those of all ranks.
        projection: Dimensions P of a projection. The projector's hidden layer is as wide as the features, as in the reference.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        temperature: float = 0.2,
        momentum: float = 0.99,
        queue: int = 1024,
        projection: int = 128,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = MoCoProjectionHead(backbone.num_features, backbone.num_features, projection)
        self.momentum_backbone = frozen_copy(self.backbone)
        self.momentum_projector = frozen_copy(self.projector)
        self.queue = PatientQueue(queue, projection)
        self.temperature, self.momentum = temperature, momentum

    def forward(self, views: Views) -> Outcome:
        """The loss of one batch, whose keys then enter the queue (in training).

        Its ``parts`` have ``queue_filled``, the share of the queue that holds keys; while it is empty, the loss is 0.
        """
        images = torch.cat([views.first, views.second])  # [2B, C, H, W]
        features = self.backbone(images)  # [2B, D]
        z = self.projector(features)  # [2B, P]
        with torch.no_grad():
            keys = F.normalize(self._keys(images).float(), dim=1)  # [2B, P]
        k1, k2 = keys.chunk(2)
        patients = views.patients.repeat(2)  # [2B]
        parts = {"queue_filled": self.queue.filled.float().mean()}
        terms = queue_contrast(z, torch.cat([k2, k1]), patients, self.queue, self.temperature)  # [2B]
        loss = weighted_mean(terms, views.weights.repeat(2))
        if self.training:
            self.queue.enqueue(gather_rows(keys), gather_rows(patients))
        return Outcome(loss, parts, features.detach(), z.detach())

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Move the copy."""
        update_momentum(self.backbone, self.momentum_backbone, self.momentum)
        update_momentum(self.projector, self.momentum_projector, self.momentum)

    def _keys(self, images: Tensor) -> Tensor:
        groups = max(1, min(_KEY_GROUPS, len(images) // _LEAST_GROUP))
        order = torch.randperm(len(images), device=images.device)
        shuffled = torch.cat([self.momentum_projector(self.momentum_backbone(images[g])) for g in order.chunk(groups)])
        return shuffled[order.argsort()]


class PatientQueue(nn.Module):
    """The last keys and their patients, as buffers, so that a resumed run goes on with them.

    Args:
        size: Number of keys.
        dimensions: Of a key.
    """

    keys: Tensor
    patients: Tensor
    entered: Tensor

    def __init__(self, size: int, dimensions: int) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(size, dimensions))
        self.register_buffer("patients", torch.zeros(size, dtype=torch.int64))
        self.register_buffer("entered", torch.zeros((), dtype=torch.int64))  # keys that ever came in

    @property
    def filled(self) -> Tensor:
        """Which places hold a key, bool [size]."""
        return torch.arange(len(self.keys), device=self.keys.device) < self.entered

    @torch.no_grad()
    def enqueue(self, keys: Tensor, patients: Tensor) -> None:
        """Put ``keys`` [N, P] of ``patients`` [N] in the places of the oldest; of more than fit, the last ones."""
        dropped = max(0, len(keys) - len(self.keys))
        places = (self.entered + torch.arange(dropped, len(keys), device=self.keys.device)) % len(self.keys)
        self.keys[places] = keys[dropped:].to(self.keys.dtype)
        self.patients[places] = patients[dropped:]
        self.entered += len(keys)


def queue_contrast(z: Tensor, keys: Tensor, patients: Tensor, queue: PatientQueue, temperature: float) -> Tensor:
    """InfoNCE of each query against its key and the queue's keys of other patients, float32 under autocast too.

    Args:
        z: Queries, shape [N, P], normalised here.
        keys: The key of each, [N, P], of length 1.
        patients: Of the queries, int64 [N].
        queue: The negatives.
        temperature: Above 0.

    Returns:
        Shape [N]; 0 where the queue holds nobody else.
    """
    with torch.autocast(z.device.type, enabled=False):
        z = F.normalize(z.float(), dim=1)
        positive = (z * keys).sum(dim=1, keepdim=True)  # [N, 1]
        no_negative = ~queue.filled | (patients[:, None] == queue.patients)  # [N, size]
        # a copy: the queue moves on in place before the backward pass needs this one
        negative = (z @ queue.keys.clone().T).masked_fill(no_negative, -torch.inf)  # [N, size]
        logits = torch.cat([positive, negative], dim=1) / temperature  # [N, 1 + size]
        return -F.log_softmax(logits, dim=1)[:, 0]
