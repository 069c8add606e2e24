"""DINO: a student learns its teacher's soft assignment of the other view (Caron et al., ICCV 2021, 2104.14294).

The teacher is the student's slowly moving average, and it is the network that is kept. Its outputs are centred, lest one of
them takes all, and sharpened, lest they all become alike. The two views are DINO's global crops; there are no local ones, which
a pair policy does not give. For ViTs and CNNs alike (no BatchNorm in the head, as in the authors' code). With batches of a few
dozen, the 65,536 outputs of the paper would hardly be visited: 4,096 here.
"""

import warnings

import torch
import torch.nn.functional as F
from lightly.models.modules import DINOProjectionHead
from lightly.models.modules.center import Center
from lightly.models.utils import deactivate_requires_grad, update_momentum
from torch import Tensor

from ...backbones.build import Backbone
from .contrast import weighted_mean
from .momentum import frozen_copy, rising_momentum
from .objective import Objective, Outcome, Views

_TEACHER_TEMPERATURES, _WARM_UP = (0.04, 0.07), 0.3  # first and last; the share of the run in which it rises (30 epochs of 100)
_FROZEN_SHARE = 0.01  # of the run, in which the student's last layer keeps still (an epoch of 100)


class DINO(Objective):
    """The objective with its backbone.

    Args:
        backbone: The student.
        temperature: The student's. The teacher's rises from .04 to .07 in the first 30 % of the run.
        momentum: Of the teacher at the beginning; it rises to 1 along a cosine.
        outputs: Number K of outputs ("prototypes").
        hidden: Width of the head's hidden layers.
        bottleneck: Dimensions before the last layer.
    """

    negatives = False
    progress: Tensor

    def __init__(
        self,
        backbone: Backbone,
        *,
        temperature: float = 0.1,
        momentum: float = 0.996,
        outputs: int = 4096,
        hidden: int = 2048,
        bottleneck: int = 256,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = _head(backbone.num_features, hidden, bottleneck, outputs)
        self.teacher_backbone = frozen_copy(backbone)
        self.teacher_head = _head(backbone.num_features, hidden, bottleneck, outputs)  # weight norm cannot be deep-copied
        self.teacher_head.load_state_dict(self.head.state_dict())
        deactivate_requires_grad(self.teacher_head)
        self.center = Center(size=(1, 1, outputs))  # averaged over ranks, and part of the checkpoint
        self.register_buffer("progress", torch.zeros(()))
        self.temperature, self.momentum = temperature, momentum
        # zeros, not none: DDP waits for every gradient. Weight decay only shortens `weight_v`, whose length has no effect
        self.head.last_layer.weight_v.register_hook(lambda gradient: gradient * (self.progress >= _FROZEN_SHARE))

    @property
    def result(self) -> Backbone:
        """The teacher."""
        return self.teacher_backbone

    def forward(self, views: Views) -> Outcome:
        """Cross-entropy between the teacher's and the student's assignments of two views; in training the centre moves.

        Lightly's ``DINOLoss``, with a weight a pair. ``parts`` has ``teacher_entropy`` in nats: where it stays at ln K or
        at 0, the run has collapsed.
        """
        images = torch.cat([views.first, views.second])  # [2B, C, H, W]
        features = self.backbone(images)  # [2B, D]
        logits = self.head(features)  # [2B, K]
        with torch.no_grad():
            taught = self.teacher_head(self.teacher_backbone(images)).float().unflatten(0, (2, -1))  # [2, B, K]
            targets = F.softmax((taught - self.center.value) / self._teacher_temperature(), dim=-1)  # [2, B, K]
            entropy = torch.special.entr(targets).sum(-1).mean()
        seen = F.log_softmax(logits.float() / self.temperature, dim=-1).unflatten(0, (2, -1))  # [2, B, K]
        terms = -(targets * seen.flip(0)).sum(-1).mean(0)  # [B]; each view is taught by the other
        loss = weighted_mean(terms, views.weights)
        if self.training:
            self.center.update(taught)
        return Outcome(loss, {"teacher_entropy": entropy}, features.detach(), logits.detach())

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Move the teacher."""
        momentum = rising_momentum(self.momentum, progress)
        update_momentum(self.backbone, self.teacher_backbone, momentum)
        update_momentum(self.head, self.teacher_head, momentum)
        self.progress.fill_(progress)

    def _teacher_temperature(self) -> Tensor:
        first, last = _TEACHER_TEMPERATURES
        return first + (last - first) * (self.progress / _WARM_UP).clamp(max=1)


def _head(features: int, hidden: int, bottleneck: int, outputs: int) -> DINOProjectionHead:
    with warnings.catch_warnings():  # lightly still uses torch's older weight norm
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*weight_norm.*")
        return DINOProjectionHead(features, hidden, bottleneck, outputs, batch_norm=False)
