"""The teachers of ``pocus_distillation.py``: in each fold an ensemble of fine-tuned EfficientNet-Lite0, of different seeds.

Trained as ``evaluation/fine_tune.py`` trains (its defaults, fixed before any score was seen), but for fewer epochs, so that
forty members fit into the time there was: ten for the first member of a fold instead of fifteen, five for the others. A member
is a .safetensors file and a .json beside it; what is there is not trained again.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pocus_fine_tuned import FRAMES, NETWORK, SIZE, WHERE
from safetensors.torch import load_file, save_file
from sonokit.atomic import write_json
from sonokit.backbones.build import build_backbone
from sonokit.clips.cache import prepare
from sonokit.clips.cached_clips import CachedClips, CacheSettings
from sonokit.clips.manifest import read_manifest
from sonokit.clips.sampling import Sampling
from sonokit.clips.splits import Splits
from sonokit.distill.signals.weighted import read_signals
from sonokit.distill.training.augmented import AugmentSettings, augmented
from sonokit.distill.training.learners import Classifier, Ensemble
from sonokit.distill.training.loop import LoopSettings, train
from sonokit.distill.training.views import Views, clip_views
from sonokit.evaluation.fine_tuned_folds import Watch
from sonokit.evaluation.out_of_fold import FoldRows, fold_rows
from sonokit.evaluation.probe import LabelledClips
from sonokit.experts.question import pose

LABEL, MEMBERS, FRAMES_AN_EPOCH = "diagnosis", 4, 4
TEACHER_LOOP = LoopSettings(
    batch=32, learning_rate=1e-3, backbone_learning_rate=1e-4, weight_decay=0.05, warmup=0.1, batch_norm="frozen"
)
EPOCHS = (10, 5, 5, 5)
"""Of each member."""
AUGMENT = AugmentSettings(recipe="ultrasound")


@dataclass(frozen=True)
class Clips:
    """The clips of the primary task, and those of the same set that take no part in it.

    Attributes:
        labelled: N clips.
        frames: Their frames.
        others: Patients of the clips of other classes or probes, str [U].
        other_frames: The frames of these.
        splits: Patients' divisions into folds.
    """

    labelled: LabelledClips
    frames: CachedClips
    others: np.ndarray
    other_frames: CachedClips
    splits: Splits

    def folds(self, divisions: int) -> list[FoldRows]:
        """The folds of the first divisions."""
        every = fold_rows(self.splits, self.labelled.clip_ids, self.labelled.patients)
        return [fold for fold in every if fold.repeat < divisions]

    def views(self, rows: np.ndarray, frames_per_clip: int) -> Views:
        """Frames of labelled clips."""
        return clip_views(self.frames, rows, self.labelled.truth, size=SIZE, frames_per_clip=frames_per_clip)

    def weights(self, rows: np.ndarray) -> list[float]:
        """Of the classes, inversely to how many of these clips are theirs."""
        counts = np.bincount(self.labelled.truth[rows], minlength=len(self.labelled.classes))
        return (len(rows) / (np.maximum(counts, 1) * (counts > 0).sum()) * (counts > 0)).tolist()


def open_clips(data: Path, splits: Splits, cache: Path) -> Clips:
    """Decode what is not decoded yet."""
    clips = prepare(read_manifest(data / "manifest.csv"), cache, CacheSettings(SIZE, Sampling(frames=FRAMES)))
    patient = clips.manifest.patient_column or "patient_id"
    question = pose(clips.table, LABEL, task="classification", patient=patient, where=WHERE)
    labelled = LabelledClips(question.clip_ids, question.patients, question.truth, question.classes, question.sites)
    asked = np.isin(clips.table["clip_id"].to_numpy(dtype=str), question.clip_ids)
    others = clips.table[patient].to_numpy(dtype=str)[~asked]
    return Clips(labelled, clips.select(asked), others, clips.select(~asked), splits)


def train_member(
    clips: Clips, fold: FoldRows, member: int, weights: str, folder: Path, seed: int, epochs: int | None = None
) -> None:
    """One fine-tuned network of a fold, into ``folder``; nothing where it is there. ``epochs``: None for :data:`EPOCHS`."""
    name = _name(fold, member)
    own_seed = int(np.random.SeedSequence([seed, fold.index, member]).generate_state(1)[0] >> 1)
    settings = replace(TEACHER_LOOP, epochs=epochs or EPOCHS[member], seed=own_seed)
    identity = {
        "fold": fold.index, "member": member, "seed": seed, "loop": asdict(settings), "augment": asdict(AUGMENT),
        "frames": FRAMES_AN_EPOCH, "train": clips.labelled.clip_ids[fold.train].tolist(),
    }  # fmt: skip
    note = folder / f"{name}.json"
    if note.exists() and json.loads(note.read_text(encoding="utf-8"))["identity"] == identity:
        return
    watch = Watch()
    every = clips.views(fold.train, FRAMES)

    def fresh(epoch: int) -> tuple[Views, None]:
        rng = np.random.default_rng([own_seed, epoch])
        return augmented(every.take(_drawn(every.items, rng)), 1, AUGMENT, seed=own_seed + epoch), None

    learner = _network(clips, weights, seed)
    signals = read_signals({"labels": {"weights": clips.weights(fold.train)}})
    learner.to(memory_format=torch.channels_last)
    history = train(learner, fresh(0)[0], signals, settings=settings, fresh=fresh)
    cost = watch.lap()
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in learner.state_dict().items()}, folder / f"{name}.safetensors")
    losses = [round(epoch["loss"], 4) for epoch in history]
    write_json(note, {"identity": identity, "losses": losses, "cost": cost})


def open_ensemble(clips: Clips, fold: FoldRows, weights: str, folder: Path, members: int = MEMBERS) -> Ensemble:
    """A fold's members, in evaluation mode."""
    learners = []
    for member in range(members):
        learner = _network(clips, weights, 0)
        learner.load_state_dict(load_file(folder / f"{_name(fold, member)}.safetensors"))
        learners.append(learner)
    return Ensemble(learners).eval()


def teacher_cost(fold: FoldRows, folder: Path, members: int = MEMBERS) -> list[dict[str, Any]]:
    """What each member cost."""
    return [json.loads((folder / f"{_name(fold, m)}.json").read_text(encoding="utf-8"))["cost"] for m in range(members)]


def _network(clips: Clips, weights: str, seed: int) -> Classifier:
    return Classifier(build_backbone(NETWORK, weights=weights, seed=seed), clips.labelled.classes)


def _name(fold: FoldRows, member: int) -> str:
    return f"fold-{fold.index:03d}-member-{member}"


def _drawn(items: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows of a few frames of each clip, one from each equal part of it (Wang et al. 2016)."""
    rows = []
    for item in np.unique(items):
        own = np.flatnonzero(items == item)
        place = (np.arange(FRAMES_AN_EPOCH) + rng.random(FRAMES_AN_EPOCH)) / FRAMES_AN_EPOCH
        rows.append(own[np.minimum((place * len(own)).astype(int), len(own) - 1)])
    return np.concatenate(rows)
