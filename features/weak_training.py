"""Training biomarker extractors from clip labels, once a fold and once on everything.

With splits, ``out`` becomes an extractor set: ``fold-K/`` has seen the training side of fold K only, ``final/`` all clips that
are not held out; ``report.json`` scores the folds' extractors on their test sides. Without splits ``out`` is one extractor that
has seen every clip, and has no scores. A fold that is finished is not trained again.
"""

import copy
import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from ..atomic import atomic_path, write_json
from ..backbones.build import Backbone
from ..backbones.folder import backbone_fingerprint, read_provenance, save_backbone
from ..clips.cache import CachedClips
from ..clips.splits import Splits, write_splits
from ..errors import SonokitError
from ..evaluation.biomarker_scores import OutOfFold, score_biomarkers
from ..run_folder import require_same_config, write_config
from .biomarkers import BiomarkerExtractor, Pooling, SegmentPlan
from .extractor_folder import ExtractorNote, load_extractor, save_extractor
from .forward import FeaturePass, choose_device
from .head_fitting import (
    FittingSettings,
    FrozenFeatures,
    clip_probabilities,
    fit_head,
    fit_whole,
    frozen_features,
    seeded,
)
from .models import trained_on
from .weak_labels import binary_labels, require_labelled, require_patients_apart, require_same_clips

_EPOCHS = {"none": 30, "all": 20}


@dataclass(frozen=True)
class BiomarkerSettings:
    """How an extractor is made.

    Attributes:
        biomarkers: Manifest columns of 0, 1 or nothing (unknown: left out of the loss).
        embedding: Length of a segment's embedding.
        segments: Into which a clip is cut at most.
        segment_frames: Frames of a segment that are looked at.
        pooling: From segments to the clip: "lse" (seen once is enough) or "mean".
        tune: "none": the backbone stays as it is, its features are computed once for all folds; "all": trained end to end.
        epochs: Fixed in advance, never chosen by a score; None: 30 with frozen features, 20 end to end.
        learning_rate: Of the head.
        backbone_learning_rate: Of the backbone, where it is trained.
        weight_decay: Of AdamW.
        dropout: On features and embedding.
        label_smoothing: What a negative's target is raised to: "not noted" is often written as absent.
        batch_clips: Clips in a step of end-to-end training.
        seed: Fold K uses seed + K + 1, the final extractor seed.
    """

    biomarkers: tuple[str, ...]
    embedding: int = 128
    segments: int = 4
    segment_frames: int = 4
    pooling: Pooling = "lse"
    tune: Literal["none", "all"] = "none"
    epochs: int | None = None
    learning_rate: float = 1e-3
    backbone_learning_rate: float = 1e-4
    weight_decay: float = 0.05
    dropout: float = 0.3
    label_smoothing: float = 0.05
    batch_clips: int = 8
    seed: int = 0

    def fitting(self) -> FittingSettings:
        """The part that concerns the fitting itself."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(FittingSettings)}
        return FittingSettings(**values | {"epochs": self.epochs or _EPOCHS[self.tune]})


@dataclass(frozen=True)
class _Side:
    """One extractor to train: where it goes, which clips it may see, how its numbers are drawn."""

    folder: Path
    fold: int | None
    train: np.ndarray
    seed: int


def train_biomarkers(
    clips: CachedClips,
    backbone: Backbone,
    out: Path,
    settings: BiomarkerSettings,
    *,
    splits: Splits | None,
    config: dict[str, Any],
    provenance: Mapping[str, Any] | Path | None = None,
    device: str | None = None,
    progress: bool = True,
) -> Path:
    """Train an extractor, or with ``splits`` an extractor set, and return its folder.

    Args:
        clips: Cached clips whose manifest has the biomarker columns.
        backbone: Where the features come from.
        out: The folder to make, or to go on with.
        settings: How.
        splits: The study's division.
        config: The command's resolved options, for config.yaml.
        provenance: What the backbone has seen, or the backbone folder that tells it. None: nothing of these clips.
        device: "cpu" or "cuda"; None: a GPU where there is one.
        progress: Show bars.

    Raises:
        SonokitError: A column is missing or holds something else than 0 and 1, nothing is labelled, splits and clips do not
            belong together, the backbone was pretrained with labels of clips that the folds test, or ``out`` was begun with
            other settings.
    """
    require_labelled(clips, settings.biomarkers)
    require_same_clips(clips, splits)
    require_same_config(out, config)
    write_config(out, config)
    seen = read_provenance(provenance) if isinstance(provenance, Path) else dict(provenance or {})
    run = _Run(clips, backbone, out, settings, splits, seen, choose_device(device), progress)
    run.train_all()
    return out


class _Run:
    """What the extractors of one set share: labels, the frozen features, the backbone's folder."""

    def __init__(
        self,
        clips: CachedClips,
        backbone: Backbone,
        out: Path,
        settings: BiomarkerSettings,
        splits: Splits | None,
        seen: dict[str, Any],
        device: torch.device,
        progress: bool,
    ) -> None:
        self.clips, self.backbone, self.out, self.settings, self.splits = clips, backbone, out, settings, splits
        self.seen, self.device, self.progress = seen, device, progress
        self.plan = SegmentPlan(settings.segments, settings.segment_frames)
        self.ids = clips.table["clip_id"].to_numpy(dtype=str)
        self.labels = binary_labels(clips.manifest, settings.biomarkers)  # [N, B]
        self.patients = clips.manifest.groups() if splits is None else clips.manifest.patients()
        self.origin = backbone_fingerprint(backbone)
        self._frozen: FrozenFeatures | None = None

    def train_all(self) -> None:
        """Every extractor that is not there yet, then the report."""
        sides = self._sides()
        if self.splits is not None:
            write_splits(self.splits, self.out / "splits.json")
            folds = len(self.splits.folds)
            values = {"kind": "extractor-set", "splits_fingerprint": self.splits.fingerprint(), "folds": folds}
            write_json(self.out / "set.json", values)
        report = self.out / "report.json"
        identity = self._identity(np.ones(len(self.ids), dtype=bool))
        if self.splits is not None and all(self._is_done(s) for s in sides) and _identity_in(report) == identity:
            return
        report.unlink(missing_ok=True)  # until all folds belong together again, the set counts as unfinished
        if self.settings.tune == "none":
            save_backbone(self.backbone, self.out / "backbone", provenance=self.seen)
        for side in sides[:-1]:
            self._train(side, None)
        scores = self._scores(sides[:-1]) if self.splits is not None else None
        self._train(sides[-1], scores)
        if scores is not None:
            write_json(report, {"kind": "extractor-report", "identity": identity, **scores})

    def _sides(self) -> list[_Side]:
        """The folds in order, then the final one."""
        if self.splits is None:
            return [_Side(self.out, None, np.ones(len(self.ids), dtype=bool), self.settings.seed)]
        self._require_unseen(np.concatenate([fold.test for fold in self.splits.folds]))
        sides = []
        for k in range(len(self.splits.folds)):
            train = np.isin(self.ids, self.splits.train_ids(k))
            require_patients_apart(k, self.patients, train, np.isin(self.ids, self.splits.folds[k].test))
            sides.append(_Side(self.out / f"fold-{k}", k, train, self.settings.seed + k + 1))
        final = ~np.isin(self.ids, self.splits.held_out)
        return [*sides, _Side(self.out / "final", None, final, self.settings.seed)]

    def _require_unseen(self, tested: np.ndarray) -> None:
        """Refuse a backbone that labels of clips which the folds test went into: no fold could be fair."""
        seen = trained_on(self.seen, self.clips.table["content_hash"], pd.Series(self.patients))
        count = int((seen & np.isin(self.ids, tested)).sum())
        if count:
            raise SonokitError(
                f"the backbone was pretrained with labels ({', '.join(self.seen['labels'])}) of {count} clips that the folds "
                "test: no score would be fair. Pretrain without a label, or leave splits out"
            )

    def _train(self, side: _Side, scores: dict[str, Any] | None) -> None:
        """Train one extractor on the labelled clips of its side and save it; its scores, if any, are the set's."""
        if self._is_done(side) and scores is None:
            return
        rows = side.train & ~np.isnan(self.labels).all(axis=1)
        if not rows.any():
            raise SonokitError(f"no clip on the training side of {side.folder.name} has a label of the biomarkers")
        settings = self.settings
        with seeded(side.seed):
            extractor = BiomarkerExtractor(
                self.backbone if settings.tune == "none" else copy.deepcopy(self.backbone),
                settings.biomarkers,
                plan=self.plan,
                size=self.clips.settings.size,
                pooling=settings.pooling,
                embedding=settings.embedding,
                dropout=settings.dropout,
            )
            self._fit(extractor, rows)
        seen = self._seen_by(rows)
        place = self.out / "backbone"
        if settings.tune == "all":
            place = side.folder / "backbone"
            save_backbone(extractor.backbone.to(memory_format=torch.contiguous_format), place, provenance=seen)
        note = ExtractorNote(
            sampling=dataclasses.asdict(self.clips.settings.sampling),
            settings=dataclasses.asdict(settings) | {"biomarkers": list(settings.biomarkers)},
            provenance=seen,
            training=self._identity(side.train),
            fold=side.fold,
            scores=scores["biomarkers"] if scores else None,
        )
        save_extractor(extractor, side.folder, place, note)

    def _fit(self, extractor: BiomarkerExtractor, rows: np.ndarray) -> None:
        labels = torch.from_numpy(self.labels[rows])
        if self.settings.tune == "none":
            fit_head(extractor, self._features().select(torch.from_numpy(rows)), labels, self.settings.fitting())
        else:
            chosen = self.clips.select(rows)
            fit_whole(extractor, chosen, labels, self.settings.fitting(), self.device, progress=self.progress)

    def _features(self) -> FrozenFeatures:
        if self._frozen is None:
            frozen_pass = FeaturePass(self.backbone, self.plan, self.device)
            self._frozen = frozen_features(self.clips, frozen_pass, self.plan, progress=self.progress)
        return self._frozen

    def _scores(self, sides: Sequence[_Side]) -> dict[str, Any]:
        """Predict every test side with the extractor of its fold, as saved; also writes out_of_fold.csv."""
        assert self.splits is not None
        shape = (self.splits.repeats, len(self.ids), len(self.settings.biomarkers))
        probabilities = np.full(shape, np.nan, dtype=np.float32)
        tables = []
        for side, fold in zip(sides, self.splits.folds, strict=True):
            test = np.isin(self.ids, fold.test)
            if not test.any():
                continue
            probabilities[fold.repeat, test] = self._predict(side, test)
            columns = {f"p_{b}": probabilities[fold.repeat, test, i] for i, b in enumerate(self.settings.biomarkers)}
            tables.append(pd.DataFrame({"clip_id": self.ids[test], "repeat": fold.repeat, "fold": side.fold, **columns}))
        with atomic_path(self.out / "out_of_fold.csv") as temporary:
            pd.concat(tables).to_csv(temporary, index=False)
        outcome = OutOfFold(probabilities, self.labels, self.patients, [s.train for s in sides])
        return score_biomarkers(outcome, self.settings.biomarkers)

    def _predict(self, side: _Side, test: np.ndarray) -> np.ndarray:
        if self.settings.tune == "none":
            extractor = load_extractor(side.folder, self.backbone)
            return clip_probabilities(extractor, self._features().select(torch.from_numpy(test))).numpy()
        extractor = load_extractor(side.folder)
        own_pass = FeaturePass(extractor.backbone, self.plan, self.device)
        features = frozen_features(self.clips.select(test), own_pass, self.plan, progress=self.progress)
        return clip_probabilities(extractor, features).numpy()

    def _is_done(self, side: _Side) -> bool:
        file = side.folder / "extractor.json"
        return file.is_file() and json.loads(file.read_text(encoding="utf-8"))["training"] == self._identity(side.train)

    def _identity(self, train: np.ndarray) -> str:
        """Hash of all that decides the weights: settings, backbone and its past, the training clips' contents and labels."""
        settings = dataclasses.asdict(self.settings)
        cache = dataclasses.asdict(self.clips.settings)
        digest = hashlib.sha256(json.dumps([settings, cache, self.origin, self.seen], sort_keys=True, default=str).encode())
        hashes = self.clips.table["content_hash"].to_numpy(dtype=str)
        for row in np.flatnonzero(train):
            digest.update(f"{self.ids[row]}\0{hashes[row]}\0{self.labels[row].tolist()}\0{self.patients[row]}\n".encode())
        return digest.hexdigest()

    def _seen_by(self, rows: np.ndarray) -> dict[str, Any]:
        """Clips, patients and labels that the extractor rests on, those of its backbone among them where labels made that."""
        labelled = self.seen.get("fitted_on_labels", False)
        before = self.seen if labelled else {}
        hashes = self.clips.table["content_hash"].to_numpy(dtype=str)
        own = dict(zip(self.ids[rows].tolist(), hashes[rows].tolist(), strict=True))
        # another study's clip of the same name stays on the list: whether a clip was seen is told by its content
        earlier = {
            name if own.get(name, content) == content else f"{name} ({content[:16]})": content
            for name, content in before.get("training_clips", {}).items()
        }
        return {
            "fitted_on_labels": True,
            "labels": sorted({*self.settings.biomarkers, *before.get("labels", [])}),
            "training_clips": {**earlier, **own},
            "training_patients": sorted({*before.get("training_patients", []), *self.patients[rows].tolist()}),
        }


def _identity_in(report: Path) -> str | None:
    return json.loads(report.read_text(encoding="utf-8"))["identity"] if report.is_file() else None
