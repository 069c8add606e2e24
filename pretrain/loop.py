"""One pretraining run as Lightning sees it: the data, the training step, the optimiser.

Randomness of a step is a function of (seed, epoch, step, rank): augmentation has a generator of its own, and the global ones
(dropout, stochastic depth, MoCo's shuffling) are set anew. Checkpoints are taken at epochs' ends only: so a run resumes bit for
bit.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightly.utils.scheduler import CosineWarmupScheduler
from timm.optim import param_groups_weight_decay
from torch import Tensor
from torch.utils.data import DataLoader

from ..clips.augment import Augment
from .data import Batch, PairDataset, PatientBatches, pair_loader
from .monitor import EmbeddingMonitor
from .objectives.objective import Objective, Views
from .pairs import PairPolicy

_STEPS = 3  # the stream of the training step; data.py has the others


@dataclass(frozen=True)
class Optimisation:
    """AdamW's settings.

    Attributes:
        learning_rate: After the warm-up.
        weight_decay: Of weights; biases and scales have none.
        warmup_steps: Of the optimiser, linear.
        total_steps: Of the optimiser; a cosine to 0 after the warm-up.
        fused: One kernel for all parameters. Not where gradients are clipped in mixed precision, which it would have to undo.
    """

    learning_rate: float
    weight_decay: float
    warmup_steps: int
    total_steps: int
    fused: bool = True


def step_seed(seed: int, epoch: int, step: int, rank: int = 0) -> int:
    """A seed for one step's generator on one rank, below 2^63."""
    words = [seed, _STEPS, epoch, step, *([rank] if rank else [])]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


class PretrainLoop(pl.LightningModule):
    """Augment on the device, make the views, ask the objective.

    Args:
        objective: The method with its backbone.
        augment: Of frames [N, 1, H, W].
        policy: What frames become views.
        dataset: Of pairs.
        batches: The sampler.
        optimisation: Of the objective's parameters.
        seed: Of everything random in a step.
        workers: Processes that read; 0 reads in this one.

    Attributes:
        monitor: Gathers the epoch's embeddings.
    """

    def __init__(
        self,
        objective: Objective,
        augment: Augment,
        policy: PairPolicy,
        dataset: PairDataset,
        batches: PatientBatches,
        *,
        optimisation: Optimisation,
        seed: int,
        workers: int = 0,
    ) -> None:
        super().__init__()
        self.objective = objective
        self.augment, self.policy, self.dataset, self.batches = augment, policy, dataset, batches
        self.optimisation, self.seed, self.workers = optimisation, seed, workers
        self.monitor = EmbeddingMonitor()
        self._stepped = 0

    def train_dataloader(self) -> DataLoader[Batch]:
        """The loader, its first epoch being the one that the run is at; Lightning sets the later ones."""
        # not `current_epoch`, which lags behind at this moment of a resumed run
        self.batches.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)  # type: ignore[attr-defined]
        self.batches.rank = self.trainer.global_rank
        return pair_loader(self.dataset, self.batches, workers=self.workers, pin_memory=torch.cuda.is_available())

    def on_train_start(self) -> None:
        """Know how many steps the optimiser has done before."""
        self._stepped = self.trainer.global_step

    def on_train_epoch_start(self) -> None:
        """Forget the last epoch's embeddings."""
        self.monitor.reset()

    def training_step(self, batch: Batch, step: int) -> Tensor:
        """The loss of one batch."""
        seed = step_seed(self.seed, self.current_epoch, step + 1, self.trainer.global_rank)
        generator = torch.Generator(device=self.device).manual_seed(seed)
        torch.manual_seed(seed + 1)  # at every step: what Lightning draws between them depends on where the run began
        first, second = self._views(batch, generator)
        outcome = self.objective(Views(first, second, batch["labels"], batch["patients"], batch["weights"]))
        self.monitor.add(outcome)
        parts = {"loss": outcome.loss.detach(), **outcome.parts}
        self.log_dict(parts, on_step=False, on_epoch=True, batch_size=len(first), sync_dist=self.trainer.world_size > 1)
        return outcome.loss

    def _views(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        with torch.autocast(self.device.type, enabled=False):  # of pictures eight bits are few enough
            grey = self.augment(batch["frames"].unsqueeze(2), generator)  # [B, K, 1, S', S']
            return self.policy.views(grey, batch["lam"])

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Tell the objective of each step of the optimiser (with accumulation, not each batch is one)."""
        if self.trainer.global_step > self._stepped:
            self._stepped = self.trainer.global_step
            self.objective.after_step(self._stepped / self.optimisation.total_steps)

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        """AdamW without decay of biases and scales; linear warm-up, then a cosine, by steps."""
        o = self.optimisation
        groups = param_groups_weight_decay(self.objective, o.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=o.learning_rate, fused=o.fused)
        schedule = CosineWarmupScheduler(optimizer, warmup_epochs=o.warmup_steps, max_epochs=o.total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}
