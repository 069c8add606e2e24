"""The three ways of fitting an extractor to some of a study's clips; what they share between folds is computed once.

"none"   the head alone, on features of the frozen backbone
"part"   the last stages and the head, on maps that the frozen front gives
"all"    backbone and head, end to end
"""

import copy
from typing import Protocol

import numpy as np
import torch

from ...backbones.build import Backbone
from ...clips.cache import CachedClips
from ...errors import SonokitError
from ..extraction.forward import FeaturePass
from .biomarkers import BiomarkerExtractor, SegmentPlan
from .head_fitting import FrozenFeatures, fit_head, frozen_features, logits_from_features, seeded
from .joint_fitting import fit_whole
from .partial_tuning import StageMaps, features_from_maps, fit_part, join_backbone, split_backbone, stage_maps
from .settings import BiomarkerSettings


class Tuning(Protocol):
    """A way of fitting."""

    def fit(self, rows: np.ndarray, labels: np.ndarray, seed: int) -> BiomarkerExtractor:
        """An extractor fitted to the clips in ``rows`` (bool [N]) alone; labels of all clips [N, B]."""
        ...

    def logits(self, extractor: BiomarkerExtractor, rows: np.ndarray) -> np.ndarray:
        """What it makes of the clips in ``rows`` (bool [N]): clip logits, float32 [M, B]."""
        ...


def tuning_of(
    settings: BiomarkerSettings,
    clips: CachedClips,
    backbone: Backbone,
    device: torch.device,
    *,
    features: FrozenFeatures | None = None,
    progress: bool = True,
) -> Tuning:
    """The way that ``settings`` ask for; ``features`` are the backbone's, where they are computed already.

    Raises:
        SonokitError: The backbone cannot be trained in part, or the features are not those of these clips.
    """
    study = _Study(settings, clips, backbone, device, progress)
    if features is not None and (settings.tune != "none" or not _fits(features, study)):
        raise SonokitError(
            f"the features given are of {len(features.values)} clips, in {features.values.shape[1]} segments of "
            f"{features.values.shape[2]}: they serve tune none, with the same clips, segments and backbone; leave them out"
        )
    if settings.tune == "none":
        return _Frozen(study, features)
    return _Part(study) if settings.tune == "part" else _Whole(study)


class _Study:
    """What every way needs."""

    def __init__(
        self, settings: BiomarkerSettings, clips: CachedClips, backbone: Backbone, device: torch.device, progress: bool
    ) -> None:
        self.settings, self.clips, self.backbone = settings, clips, backbone
        self.device, self.progress = device, progress
        self.plan = SegmentPlan(settings.segments, settings.segment_frames)

    def extractor(self, backbone: Backbone) -> BiomarkerExtractor:
        """A new one; its head is drawn from torch's generator."""
        return BiomarkerExtractor(
            backbone,
            self.settings.biomarkers,
            plan=self.plan,
            size=self.clips.settings.size,
            pooling=self.settings.pooling,
            embedding=self.settings.embedding,
            dropout=self.settings.dropout,
        )


class _Frozen:
    def __init__(self, study: _Study, features: FrozenFeatures | None) -> None:
        self._study, self._computed = study, features

    def fit(self, rows: np.ndarray, labels: np.ndarray, seed: int) -> BiomarkerExtractor:
        features = self._features().select(torch.from_numpy(rows))
        with seeded(seed):
            extractor = self._study.extractor(self._study.backbone)
            fit_head(extractor, features, torch.from_numpy(labels[rows]), self._study.settings.fitting())
        return extractor

    def logits(self, extractor: BiomarkerExtractor, rows: np.ndarray) -> np.ndarray:
        return logits_from_features(extractor, self._features().select(torch.from_numpy(rows))).numpy()

    def _features(self) -> FrozenFeatures:
        if self._computed is None:
            study = self._study
            self._computed = _features_of(study, study.clips, study.backbone)
        return self._computed


class _Part:
    def __init__(self, study: _Study) -> None:
        self._study = study
        self._front, self._tail = split_backbone(study.backbone, study.settings.stages, study.clips.settings.size)
        self._computed: tuple[StageMaps, FrozenFeatures] | None = None

    def fit(self, rows: np.ndarray, labels: np.ndarray, seed: int) -> BiomarkerExtractor:
        study = self._study
        maps, features = self._maps()
        chosen, known = torch.from_numpy(np.flatnonzero(rows)), torch.from_numpy(labels[rows])
        with seeded(seed):
            on_maps = study.extractor(copy.deepcopy(self._tail))
            fit_head(on_maps, features.select(chosen), known, study.settings.fitting())
            fit_part(on_maps, maps, chosen, known, study.settings.fitting(), study.device, progress=study.progress)
            extractor = study.extractor(join_backbone(study.backbone, on_maps.backbone))
        extractor.head = on_maps.head
        return extractor.eval()

    def logits(self, extractor: BiomarkerExtractor, rows: np.ndarray) -> np.ndarray:
        _, tail = split_backbone(extractor.backbone, self._study.settings.stages, self._study.clips.settings.size)
        chosen = torch.from_numpy(np.flatnonzero(rows))
        return logits_from_features(extractor, features_from_maps(tail, self._maps()[0], chosen, self._study.device)).numpy()

    def _maps(self) -> tuple[StageMaps, FrozenFeatures]:
        """The maps of all clips, and their features before any training."""
        if self._computed is None:
            study = self._study
            maps = stage_maps(study.clips, self._front, study.plan, study.device, progress=study.progress)
            self._computed = maps, features_from_maps(self._tail, maps, torch.arange(len(study.clips)), study.device)
        return self._computed


class _Whole:
    def __init__(self, study: _Study) -> None:
        self._study = study

    def fit(self, rows: np.ndarray, labels: np.ndarray, seed: int) -> BiomarkerExtractor:
        study = self._study
        known = torch.from_numpy(labels[rows])
        with seeded(seed):
            extractor = study.extractor(copy.deepcopy(study.backbone))
            clips = study.clips.select(rows)
            fit_whole(extractor, clips, known, study.settings.fitting(), study.device, progress=study.progress)
        extractor.backbone.to(memory_format=torch.contiguous_format)
        return extractor

    def logits(self, extractor: BiomarkerExtractor, rows: np.ndarray) -> np.ndarray:
        features = _features_of(self._study, self._study.clips.select(rows), extractor.backbone)
        return logits_from_features(extractor, features).numpy()


def _features_of(study: _Study, clips: CachedClips, backbone: Backbone) -> FrozenFeatures:
    return frozen_features(clips, FeaturePass(backbone, study.plan, study.device), study.plan, progress=study.progress)


def _fits(features: FrozenFeatures, study: _Study) -> bool:
    wanted = (len(study.clips), study.plan.segments, study.backbone.num_features)
    return features.values.shape == wanted
