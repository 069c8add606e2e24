"""One pretraining run as Lightning sees it: the training step, and the callbacks that record, show and save.

Randomness of a step (augmentation) comes from a generator made of (seed, epoch, step), the global generators (dropout,
stochastic depth) are set at every epoch's start, and checkpoints are taken at epochs' ends only: so a run resumes bit for bit.
"""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightly.utils.scheduler import CosineWarmupScheduler
from timm.optim import param_groups_weight_decay
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..atomic import atomic_path, write_text
from ..clips.augment import Augment
from ..errors import SonokitError
from ..run_folder import append_metrics
from .data import Batch, PairDataset, PatientBatches, pair_loader
from .pairs import PairPolicy

CHECKPOINT = "last.ckpt"
_STEPS = 3  # the stream of the training step; data.py has the others
_CHECKPOINT_SHARE = 0.05  # of the run's time that checkpoints may take


def step_seed(seed: int, epoch: int, step: int) -> int:
    """A seed for one step's generator, below 2^63."""
    return int(np.random.SeedSequence([seed, _STEPS, epoch, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


class PretrainLoop(pl.LightningModule):
    """Augment on the device, make the views, ask the objective.

    Args:
        objective: Called with two views [B, 1, H, W] and labels [B]; gives a dict of ``loss`` and what else to log.
        augment: Of frames [N, 1, H, W].
        policy: What frames become views.
        dataset: Of pairs.
        batches: The sampler.
        optimisation: ``learning_rate``, ``weight_decay``, ``warmup_steps``, ``total_steps``.
        seed: Of everything random in a step.
        workers: Processes that read; 0 reads in this one.
    """

    def __init__(
        self,
        objective: nn.Module,
        augment: Augment,
        policy: PairPolicy,
        dataset: PairDataset,
        batches: PatientBatches,
        *,
        optimisation: dict[str, Any],
        seed: int,
        workers: int = 0,
    ) -> None:
        super().__init__()
        self.objective = objective
        self.augment, self.policy, self.dataset, self.batches = augment, policy, dataset, batches
        self.optimisation, self.seed, self.workers = optimisation, seed, workers

    def train_dataloader(self) -> DataLoader[Batch]:
        """The loader, its first epoch being the one that the run is at; Lightning sets the later ones."""
        # not `current_epoch`, which lags behind at this moment of a resumed run
        self.batches.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)  # type: ignore[attr-defined]
        return pair_loader(self.dataset, self.batches, workers=self.workers, pin_memory=torch.cuda.is_available())

    def on_train_epoch_start(self) -> None:
        """Set the global generators, which only this epoch's number decides."""
        torch.manual_seed(step_seed(self.seed, self.current_epoch, 0))

    def training_step(self, batch: Batch, step: int) -> Tensor:
        """The loss of one batch."""
        generator = torch.Generator(device=self.device)
        generator.manual_seed(step_seed(self.seed, self.current_epoch, step + 1))
        frames = batch["frames"]
        clips, drawn = frames.shape[:2]
        grey = frames.flatten(0, 1).unsqueeze(1).float().div_(255)  # [B·K, 1, S, S]
        grey = self.augment(grey, generator).unflatten(0, (clips, drawn))  # [B, K, 1, S', S']
        v1, v2 = self.policy.views(grey, batch["lam"])
        parts: dict[str, Tensor] = self.objective(v1, v2, batch["labels"])
        self.log_dict({k: v.detach() for k, v in parts.items()}, on_step=False, on_epoch=True, batch_size=clips)
        return parts["loss"]

    def configure_optimizers(self) -> dict[str, Any]:  # type: ignore[override]
        """AdamW without decay of biases and scales; linear warm-up, then a cosine, by steps."""
        o = self.optimisation
        groups = param_groups_weight_decay(self.objective, o["weight_decay"])
        optimizer = torch.optim.AdamW(groups, lr=o["learning_rate"], fused=True)
        schedule = CosineWarmupScheduler(optimizer, warmup_epochs=o["warmup_steps"], max_epochs=o["total_steps"])
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class MetricsFile(pl.Callback):
    """One line an epoch in ``metrics.jsonl``; lines of epochs that a resumed run repeats are dropped first."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._start = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget what came after the checkpoint."""
        file = self.out / "metrics.jsonl"
        if file.exists():
            lines = file.read_text(encoding="utf-8").splitlines()
            write_text(file, "".join(line + "\n" for line in lines if _epoch_of(line) < trainer.current_epoch))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: PretrainLoop) -> None:  # type: ignore[override]
        """Write the epoch's line; runs before ``CheckpointFile``, so that weights that are no numbers are never kept."""
        means = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if not math.isfinite(means["loss"]):
            raise SonokitError(
                f"the loss is {means['loss']} in epoch {trainer.current_epoch}: lower learning_rate and begin anew"
            )
        row = {
            "epoch": trainer.current_epoch,  # it moves on after this hook
            "step": trainer.global_step,
            **means,
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "seconds": round(time.perf_counter() - self._start, 3),
        }
        append_metrics(self.out, row)


class CheckpointFile(pl.Callback):
    """``last.ckpt`` after the first epoch, the last one, and as many between them as cost little time."""

    def __init__(self, out: Path) -> None:
        self.file = out / CHECKPOINT
        self._next = 0.0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, atomically, where it is time."""
        start = time.perf_counter()
        last = trainer.current_epoch + 1 >= (trainer.max_epochs or 0)
        if start < self._next and not last:
            return
        with atomic_path(self.file) as temporary:
            trainer.save_checkpoint(temporary)
        end = time.perf_counter()
        self._next = end + (end - start) / _CHECKPOINT_SHARE


class ProgressBar(pl.Callback):
    """One bar over the whole run: loss, images a second, time left."""

    def __init__(self, enabled: bool) -> None:
        self.enabled = enabled
        self._bar: tqdm[Any] | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: PretrainLoop) -> None:  # type: ignore[override]
        """Open the bar at the epoch that the run is at."""
        steps = len(pl_module.batches)
        self._bar = tqdm(
            total=steps * (trainer.max_epochs or 0),
            initial=steps * trainer.current_epoch,
            desc="pretrain",
            unit="step",
            file=sys.stderr,
            disable=not self.enabled,
        )
        self._images, self._since = 0, time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Advance by a step."""
        assert self._bar is not None
        self._bar.update()
        self._images += 2 * len(batch["labels"])
        if not self._bar.disable and time.perf_counter() - self._since > 2:
            rate = self._images / (time.perf_counter() - self._since)
            self._bar.set_postfix(epoch=trainer.current_epoch, loss=f"{float(outputs['loss']):.3f}", images_s=f"{rate:.0f}")
            self._images, self._since = 0, time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the fault starts on a line of its own."""
        if self._bar is not None:
            self._bar.close()


def _epoch_of(line: str) -> float:
    try:
        return float(json.loads(line)["epoch"])
    except json.JSONDecodeError:  # a line cut off by a kill
        return float("inf")
