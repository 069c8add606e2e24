"""A probe while training runs: how much of a label can be read from the backbone as it is now.

The label is looked at and never learnt from. A selection of clips, the same all along, goes through the frozen backbone every
few epochs, and ``evaluation.probe`` reads the label from what comes out, in patient-grouped folds. The run does not change:
with and without a probe its weights are the same bit for bit.
"""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytorch_lightning as pl

from ..evaluation.embedding import FrameClips, embed_clips
from ..evaluation.probe import QuickProbe
from .loop import PretrainLoop

CLIPS = 256  # at most, all classes together
FRAMES = 8  # of each at most


class OnlineProbe(pl.Callback):
    """Logs ``probe_knn_balanced_accuracy`` and ``probe_linear_balanced_accuracy``. Stands before ``MetricsFile``.

    The first process computes; in a distributed run the others wait for it at the next thing that they do together.

    Args:
        clips: All clips of the run.
        labels: Of the clips, missing where unknown, [N].
        patients: Whose each clip is, [N].
        every: Epochs from one look to the next; the first and the last epoch are looked at in any case.
        size: Side of the images in pixels.
        seed: Of the selection and of the folds.

    Raises:
        SonokitError: Fewer than two classes have enough patients for the folds.
    """

    def __init__(
        self, clips: FrameClips, labels: pd.Series, patients: np.ndarray, *, every: int, size: int, seed: int = 0
    ) -> None:
        chosen = select_clips(labels, patients, CLIPS, seed)
        self.every, self.size = every, size
        self.probe = QuickProbe(labels.to_numpy(dtype=object)[chosen], np.asarray(patients)[chosen], seed=seed)
        self.clips = _FewFrames(clips, chosen)
        self._logged: list[str] = []

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Forget the last look: Lightning would show it again for every epoch until the next."""
        for name in self._logged:
            trainer.callback_metrics.pop(name, None)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: PretrainLoop) -> None:  # type: ignore[override]
        """Look, where it is time."""
        epoch = trainer.current_epoch
        due = epoch % self.every == 0 or epoch + 1 == trainer.max_epochs
        lost = not math.isfinite(trainer.callback_metrics["loss"])  # MetricsFile ends the run and says so better
        if lost or not (due and trainer.is_global_zero):
            return
        features = embed_clips(pl_module.objective.result, self.clips, size=self.size)  # [N, 2D]
        scores = {f"probe_{name}": value for name, value in self.probe(features).items()}
        pl_module.log_dict(scores, rank_zero_only=True)
        self._logged = list(scores)


def select_clips(labels: pd.Series, patients: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """Rows of at most ``limit`` labelled clips: as many of each class, of as many patients as there are. int64, ascending.

    Args:
        labels: [N], missing where unknown.
        patients: [N].
        limit: Of all classes together.
        seed: Of the choice.
    """
    known = pd.DataFrame({"label": labels.to_numpy(), "patient": patients}).dropna(subset="label")
    if len(known) > limit:
        known = known.sample(frac=1, random_state=np.random.default_rng(seed))
        turn = known.groupby(["label", "patient"]).cumcount()  # each patient's first clip, then the second ones, …
        known = known.iloc[np.argsort(turn.to_numpy(), kind="stable")]
        known = known.groupby("label").head(max(1, limit // known["label"].nunique()))
    return np.sort(known.index.to_numpy(dtype=np.int64))


@dataclass(frozen=True)
class _Frames:
    frames: np.ndarray


class _FewFrames:
    """Some of the clips, each with a few of its frames, evenly spaced."""

    def __init__(self, clips: FrameClips, rows: np.ndarray) -> None:
        self._clips, self._rows = clips, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> _Frames:
        frames = self._clips[int(self._rows[i])].frames
        count = min(FRAMES, len(frames))
        return _Frames(frames[((np.arange(count) + 0.5) * len(frames) / count).astype(int)])
