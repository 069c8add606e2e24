"""Fine-tuning of a whole backbone on a label, patient-grouped: what the weights are worth as a beginning.

Every fold is trained anew on its training clips for a number of epochs that is fixed beforehand; nothing is chosen by a score.
An epoch shows a few frames of every clip, one from each equal part of it (Wang et al. 2016), augmented. AdamW with a warm-up
and a cosine; the backbone learns slower than the classifier, which starts at zero behind a normalisation without parameters
(He et al. 2022, masked autoencoders), so that the first steps do not tear at the backbone. A clip's prediction is the mean
over its frames of the class probabilities.

A fold's file also says what the fold cost and whom it was trained on, and may hold predictions of clips that nobody labelled:
soft targets for a small head (Hinton et al. 2015, distillation), read with
:func:`~sonokit.evaluation.fine_tuned_folds.read_fine_tuned`.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from ..atomic import write_json
from ..backbones.build import Backbone
from ..backbones.folder import backbone_fingerprint
from ..clips.augment import augment_named
from ..errors import SonokitError
from .embedding import FrameClips, to_input
from .fine_tuned_folds import MoreClips, Watch, contents, finished, fold_identity
from .learning_rate import WarmupCosine
from .out_of_fold import FoldRows
from .predictions import Predictions
from .probe import LabelledClips

_TEST_FRAMES = 64  # in a batch when predicting


@dataclass(frozen=True)
class FineTuneSettings:
    """How a backbone is fine-tuned. The defaults were set by a budget (a fold of 77 clips in 90 s on one core), not by a score.

    Attributes:
        size: Side of the frames, in pixels.
        epochs: Passes over the training clips.
        frames_per_clip: Frames of a clip in an epoch.
        batch_images: Frames in a step, about.
        learning_rate: Peak of the classifier's.
        backbone_learning_rate: Peak of the backbone's.
        weight_decay: Of AdamW.
        warmup: Share of the steps in which the rates rise.
        augment: "ultrasound", "reference" or "none".
        augment_strength: Of "ultrasound".
        batch_norm: "frozen" keeps the statistics that the backbone came with, which a hundred clips could only blur; "batch"
            takes the batch's: for a network with random weights, whose own say nothing.
        seed: Of everything random; each fold draws for itself.
    """

    size: int = 112
    epochs: int = 15
    frames_per_clip: int = 4
    batch_images: int = 32
    learning_rate: float = 1e-3
    backbone_learning_rate: float = 1e-4
    weight_decay: float = 0.05
    warmup: float = 0.1
    augment: Literal["ultrasound", "reference", "none"] = "ultrasound"
    augment_strength: float = 1.0
    batch_norm: Literal["frozen", "batch"] = "frozen"
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("size", 8), ("epochs", 1), ("frames_per_clip", 1), ("batch_images", 2), ("seed", 0)):
            if getattr(self, name) < least:
                raise SonokitError(f"{name} must be at least {least}, it is {getattr(self, name)}")
        augment_named(self.augment, self.size)  # refuses an unknown name now, not after an hour


def fine_tune(
    backbone_of: Callable[[FoldRows], Backbone],
    clips: FrameClips,
    labelled: LabelledClips,
    folds: Sequence[FoldRows],
    settings: FineTuneSettings | None = None,
    *,
    folder: Path | None = None,
    also: MoreClips | None = None,
    splits: str | None = None,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> Predictions:
    """Out-of-fold predictions of backbones that are fine-tuned once a fold. On one machine's CPU the same numbers every time.

    Args:
        backbone_of: A fresh backbone for a fold; it is trained in place.
        clips: The frames of the N clips.
        labelled: Their labels, in the same order.
        folds: From :func:`~sonokit.evaluation.out_of_fold.fold_rows`.
        settings: None: the defaults.
        folder: Where each finished fold is written, ``fold-NNN.json``; one that is there, of the same settings, backbone and
            clips, is not trained again.
        also: More clips that each fold's network predicts, into the fold's file; a finished fold that lacks them is trained
            again. None: nobody asks, and files with or without them serve.
        splits: Fingerprint of the splits that the folds come from, written into the files.
        device: Where to work.
        progress: Show a bar on standard error.

    Raises:
        SonokitError: Clips and labels differ in number, a fold has nothing to train on, or more clips are to be predicted and
            there is no folder to write them to.
    """
    settings = settings or FineTuneSettings()
    if also is not None and folder is None:
        raise SonokitError("predictions of more clips are written into the folds' files: name a folder for these")
    if len(clips) != len(labelled):
        raise SonokitError(f"{len(clips)} clips but labels of {len(labelled)}: give both in the same order")
    films = contents(clips)
    more = None if also is None else also.identity()
    values = np.full((1 + max(fold.repeat for fold in folds), len(labelled), len(labelled.classes)), np.nan)
    bar = tqdm(total=len(folds) * settings.epochs, desc="fine-tuning", unit="epoch", leave=False, disable=not progress)
    with bar:
        for fold in folds:
            if len(fold.train) * settings.frames_per_clip < 2:
                raise SonokitError(f"fold {fold.index} leaves too little to train on: take fewer folds or more patients")
            backbone = backbone_of(fold)
            file = folder / f"fold-{fold.index:03d}.json" if folder is not None else None
            identity = _identity(backbone, labelled, films, fold, settings)
            found = finished(file, identity, more)
            if found is None:
                found = _tune_fold(backbone, clips, labelled, fold, settings, torch.device(device), bar, also)
                if file is not None:
                    found |= {} if also is None else {"also": {"identity": more, **found["also"]}}
                    write_json(file, {"identity": identity, "splits": splits, **_who(labelled, fold), **found})
            else:
                bar.update(settings.epochs)
            values[fold.repeat, fold.test] = np.array(found["values"]).reshape(len(fold.test), -1)
    return labelled.predictions(values)


def _who(labelled: LabelledClips, fold: FoldRows) -> dict[str, Any]:
    tested, trained = (labelled.clip_ids[rows].tolist() for rows in (fold.test, fold.train))
    return {"repeat": fold.repeat, "classes": labelled.classes, "clip_ids": tested, "trained_on": trained}


class _Classifier(nn.Module):
    """Backbone, normalisation of its features, and a linear layer that starts at zero."""

    def __init__(self, backbone: Backbone, classes: int, *, frozen_statistics: bool) -> None:
        super().__init__()
        self.backbone = backbone
        self.frozen_statistics = frozen_statistics
        self.normalise = nn.BatchNorm1d(backbone.num_features, affine=False, eps=1e-6)
        self.classify = nn.Linear(backbone.num_features, classes)
        nn.init.zeros_(self.classify.weight)
        nn.init.zeros_(self.classify.bias)

    def forward(self, frames: Tensor) -> Tensor:
        """[B, C, S, S] → logits [B, K]."""
        return self.classify(self.normalise(self.backbone(frames)))

    def train(self, mode: bool = True) -> "_Classifier":
        super().train(mode)
        if mode and self.frozen_statistics:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


def _tune_fold(
    backbone: Backbone,
    clips: FrameClips,
    labelled: LabelledClips,
    fold: FoldRows,
    settings: FineTuneSettings,
    device: torch.device,
    bar: Any,
    also: MoreClips | None,
) -> dict[str, Any]:
    """Train on the fold's training clips; ``values`` of its test clips [M][K], the training loss of each epoch, the cost."""
    seed = int(np.random.SeedSequence([settings.seed, fold.index]).generate_state(1)[0])
    with torch.random.fork_rng():  # dropout and dropped paths draw from the global generator
        torch.manual_seed(seed)
        frozen = settings.batch_norm == "frozen"
        network = _Classifier(backbone, len(labelled.classes), frozen_statistics=frozen)
        network.to(device).to(memory_format=torch.channels_last)
        watch = Watch()
        losses = _train(network, clips, labelled.truth, fold.train, settings, Generator().manual_seed(seed), bar)
        cost = {"train": watch.lap()}
        values = [_predict(network, clips[int(row)].frames, settings.size) for row in fold.test]
        cost["predict"] = watch.lap()
        found: dict[str, Any] = {"values": np.round(values, 7).tolist(), "training_loss": losses, "cost": cost}
        if also is not None:
            more = [_predict(network, also.clips[row].frames, settings.size) for row in range(len(also.clips))]
            told = np.round(np.reshape(more, (-1, len(labelled.classes))), 7)
            found["also"] = {"clip_ids": also.clip_ids.tolist(), "values": told.tolist()}
            cost["also"] = watch.lap()
    return found


def _train(
    network: _Classifier,
    clips: FrameClips,
    truth: np.ndarray,
    rows: np.ndarray,
    settings: FineTuneSettings,
    generator: Generator,
    bar: Any,
) -> list[float]:
    device = network.classify.weight.device
    augment = augment_named(settings.augment, settings.size, settings.augment_strength)
    weight = _class_weights(truth[rows], network.classify.out_features).to(device)
    groups = [
        {"params": network.backbone.parameters(), "lr": settings.backbone_learning_rate},
        {"params": network.classify.parameters(), "lr": settings.learning_rate},
    ]
    batches = max(1, round(len(rows) * settings.frames_per_clip / settings.batch_images))  # in an epoch, of equal size
    optimizer = torch.optim.AdamW(groups, weight_decay=settings.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, WarmupCosine(settings.epochs * batches, settings.warmup))
    losses = []
    for _ in range(settings.epochs):
        network.train()
        total = 0.0
        for batch in _epoch(clips, rows, settings.frames_per_clip, generator).tensor_split(batches):  # [B, 2]
            frames = np.stack([clips[row].frames[number] for row, number in batch.tolist()])  # [B, S, S]
            grey = torch.from_numpy(frames).to(device)[:, None].float().div_(255)  # [B, 1, S, S]
            views = augment(grey, generator).expand(-1, network.backbone.in_chans, -1, -1)
            target = torch.from_numpy(truth[batch[:, 0].numpy()]).to(device)
            loss = F.cross_entropy(network(views.contiguous(memory_format=torch.channels_last)), target, weight)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() / batches
        losses.append(round(total, 6))
        bar.update()
    return losses


def _epoch(clips: FrameClips, rows: np.ndarray, frames: int, generator: Generator) -> Tensor:
    """An epoch's frames in random order, as pairs (clip, frame number), int64 [len(rows)·frames, 2]."""
    counts = torch.tensor([len(clips[int(row)].frames) for row in rows])[:, None]  # [M, 1]
    place = (torch.arange(frames) + torch.rand(len(rows), frames, generator=generator)) / frames  # [M, F], in [0, 1]
    numbers = torch.minimum((place * counts).long(), counts - 1)
    pairs = torch.stack([torch.from_numpy(rows)[:, None].expand(-1, frames), numbers], dim=2).flatten(0, 1)
    return pairs[torch.randperm(len(pairs), generator=generator)]


def _class_weights(truth: np.ndarray, classes: int) -> Tensor:
    """Inversely as frequent as the class among the training clips, 0 where it has none, [K]."""
    counts = np.bincount(truth, minlength=classes)
    return torch.tensor(np.where(counts > 0, len(truth) / (np.maximum(counts, 1) * (counts > 0).sum()), 0), dtype=torch.float32)


@torch.inference_mode()
def _predict(network: _Classifier, frames: np.ndarray, size: int) -> np.ndarray:
    """Frames uint8 [T, S, S] → float64 [K], which sum to 1."""
    network.eval()
    device = network.classify.weight.device
    parts = torch.from_numpy(np.array(frames)).to(device).split(_TEST_FRAMES)
    logits = torch.cat([network(to_input(part, size, network.backbone.in_chans)) for part in parts])  # [T, K]
    return logits.double().softmax(dim=1).mean(dim=0).cpu().numpy()


def _identity(backbone: Backbone, labelled: LabelledClips, films: list[str], fold: FoldRows, settings: FineTuneSettings) -> str:
    training = [(films[row], int(labelled.truth[row])) for row in fold.train]
    tested = [(str(labelled.clip_ids[row]), films[row]) for row in fold.test]
    place = fold.index, fold.repeat
    return fold_identity(asdict(settings), backbone_fingerprint(backbone), labelled.classes, place, training, tested)
