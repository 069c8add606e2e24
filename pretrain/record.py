"""What a pretraining run leaves behind while it runs: measurements, checkpoints, a bar."""

import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
from tqdm import tqdm

from ..atomic import atomic_path, write_text
from ..errors import SonokitError
from ..run_folder import append_metrics
from .loop import PretrainLoop
from .monitor import CollapseGuard, EmbeddingMonitor

CHECKPOINT = "last.ckpt"
_CHECKPOINT_SHARE = 0.05  # of the run's time that checkpoints may take


class MetricsFile(pl.Callback):
    """One line an epoch in ``metrics.jsonl``, the same as a table in ``metrics.csv``, the same in TensorBoard.

    Lines of epochs that a resumed run repeats are dropped first. A loss that is no number, and embeddings that have collapsed,
    end the run here, before ``CheckpointFile`` keeps such weights.

    Args:
        out: The run folder.
        guard: Watches for collapse; None lets a run collapse.
    """

    def __init__(self, out: Path, guard: CollapseGuard | None = None) -> None:
        self.out, self.guard = out, guard
        self._start = 0.0

    def state_dict(self) -> dict[str, Any]:
        """What the guard has seen."""
        return {"guard": self.guard.state()} if self.guard is not None else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from there."""
        if self.guard is not None and "guard" in state_dict:
            self.guard.restore(state_dict["guard"])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget what came after the checkpoint."""
        file = self.out / "metrics.jsonl"
        if trainer.is_global_zero and file.exists():
            lines = file.read_text(encoding="utf-8").splitlines()
            write_text(file, "".join(line + "\n" for line in lines if _epoch_of(line) < trainer.current_epoch))

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._start = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: PretrainLoop) -> None:  # type: ignore[override]
        """Write the epoch's line and look whether it makes sense to go on."""
        means = {name: float(value) for name, value in trainer.callback_metrics.items()}  # alike on all ranks
        if not math.isfinite(means["loss"]):
            raise SonokitError(
                f"the loss is {means['loss']} in epoch {trainer.current_epoch}: lower learning_rate and begin anew"
            )
        figures = pl_module.monitor.figures()
        seconds = time.perf_counter() - self._start
        row = {
            "epoch": trainer.current_epoch,  # it moves on after this hook
            "step": trainer.global_step,
            **means,
            **figures,
            "learning_rate": trainer.optimizers[0].param_groups[0]["lr"],
            "seconds": round(seconds, 3),
            "images_s": round(pl_module.monitor.images * trainer.world_size / seconds, 1),
        }
        if trainer.is_global_zero:
            append_metrics(self.out, row)
            _write_table(self.out)
            if trainer.logger is not None:
                trainer.logger.log_metrics(figures, step=trainer.global_step)
        self._require_no_collapse(trainer, pl_module.monitor)

    def _require_no_collapse(self, trainer: pl.Trainer, monitor: EmbeddingMonitor) -> None:
        """Rank 0 judges by its own part of the batches; all ranks stop together, or those that went on would wait for ever."""
        fault = None
        if self.guard is not None and trainer.is_global_zero:
            try:
                self.guard.check(
                    trainer.current_epoch, monitor.figures(), step=trainer.global_step, first=monitor.first_figures()
                )
            except SonokitError as found:
                fault = str(found)
        fault = trainer.strategy.broadcast(fault)
        if fault is not None:
            raise SonokitError(fault)


class CheckpointFile(pl.Callback):
    """``last.ckpt`` after the first epoch, the last one, and as many between them as cost little time."""

    def __init__(self, out: Path) -> None:
        self.file = out / CHECKPOINT
        self._next = 0.0

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save, atomically, where it is time."""
        start = time.perf_counter()
        last = trainer.current_epoch + 1 >= (trainer.max_epochs or 0)
        if not trainer.strategy.broadcast(start >= self._next or last):  # the clocks of the ranks differ
            return
        if trainer.is_global_zero:
            with atomic_path(self.file) as temporary:
                trainer.save_checkpoint(temporary)
        else:
            trainer.save_checkpoint(self.file)  # takes part, writes nothing
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
            disable=not (self.enabled and trainer.is_global_zero),
        )
        self._images, self._since = 0, time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Advance by a step."""
        assert self._bar is not None
        self._bar.update()
        self._images += 2 * len(batch["labels"]) * trainer.world_size
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


def _write_table(out: Path) -> None:
    """``metrics.csv`` out of ``metrics.jsonl``: columns that only some epochs have are empty in the others."""
    with atomic_path(out / "metrics.csv") as temporary:
        pd.read_json(out / "metrics.jsonl", lines=True).to_csv(temporary, index=False)


def _epoch_of(line: str) -> float:
    try:
        return float(json.loads(line)["epoch"])
    except json.JSONDecodeError:  # a line cut off by a kill
        return float("inf")
