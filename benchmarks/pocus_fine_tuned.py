"""End-to-end fine-tuning on the public POCUS clips, fold by fold: what the experts of ``pocus_experts.py`` are held against.

ImageNet's EfficientNet-Lite0 with the default settings of ``evaluation/fine_tune.py``, which were fixed before any score was
seen. Severity is learned as classes and scored as ordered levels; its networks also predict the clips that nobody scored, as
soft targets for a distilled expert.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from sonokit.backbones.build import Backbone, build_backbone
from sonokit.clips.cache import prepare
from sonokit.clips.cached_clips import CachedClips, CacheSettings
from sonokit.clips.manifest import read_manifest
from sonokit.clips.sampling import Sampling
from sonokit.clips.splits import Splits
from sonokit.evaluation.fine_tune import FineTuneSettings, fine_tune
from sonokit.evaluation.fine_tuned_folds import MoreClips
from sonokit.evaluation.out_of_fold import FoldRows, fold_rows
from sonokit.evaluation.predictions import Predictions
from sonokit.evaluation.probe import LabelledClips
from sonokit.evaluation.scores import Task
from sonokit.experts.question import pose

NETWORK = "tf_efficientnet_lite0"
WHERE = {"probe": "convex"}
TASKS: dict[str, Task] = {"diagnosis": "classification", "severity": "ordinal"}
SIZE, FRAMES, SEED = 112, 32, 0
DIVISIONS = 2  # of the study's ten: a fold takes minutes


@dataclass(frozen=True)
class FineTuning:
    """Where the frames come from, how they are divided, and where finished folds lie."""

    clips: CachedClips
    splits: Splits
    weights: str
    folder: Path

    def run(self, label: str, divisions: int = DIVISIONS) -> Predictions:
        """Out-of-fold predictions in the first divisions; what is finished is read."""
        labelled, asked = self._asked(label)
        every = fold_rows(self.splits, labelled.clip_ids, labelled.patients)
        found = fine_tune(
            self._backbone,
            asked,
            labelled,
            [fold for fold in every if fold.repeat < divisions],
            FineTuneSettings(size=SIZE, seed=SEED),
            folder=self.folder / label,
            also=self._unlabelled(label) if label == "severity" else None,
            splits=self.splits.fingerprint(),
            progress=True,
        )
        return replace(found, task=TASKS[label])

    def _asked(self, label: str) -> tuple[LabelledClips, CachedClips]:
        """The clips that an expert would be asked about."""
        patient = self.clips.manifest.patient_column
        question = pose(self.clips.table, label, task=TASKS[label], patient=patient or "patient_id", where=WHERE)
        labelled = LabelledClips(question.clip_ids, question.patients, question.truth, question.classes, question.sites)
        return labelled, self.clips.select(np.isin(self._names, question.clip_ids))

    def _unlabelled(self, label: str) -> MoreClips:
        """The clips of the same probe without this label."""
        table = self.clips.table
        rows = table[label].isna().to_numpy() & (table["probe"] == WHERE["probe"]).to_numpy(dtype=bool)
        return MoreClips(self._names[rows], self.clips.select(rows))

    @property
    def _names(self) -> np.ndarray:
        return self.clips.table["clip_id"].to_numpy(dtype=str)

    def _backbone(self, fold: FoldRows) -> Backbone:
        return build_backbone(NETWORK, weights=self.weights, seed=SEED)


def open_fine_tuning(data: Path, weights: str, splits: Splits, out: Path) -> FineTuning:
    """Decode the clips where that has not been done."""
    clips = prepare(read_manifest(data / "manifest.csv"), out / "cache", CacheSettings(SIZE, Sampling(frames=FRAMES)))
    return FineTuning(clips, splits, weights, out / "fine-tuned")
