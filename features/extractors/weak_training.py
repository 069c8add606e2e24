"""Training biomarker extractors from clip labels, once a fold and once on everything.

With splits, ``out`` becomes an extractor set: ``fold-K/`` has seen the training side of fold K only, ``final/`` all clips that
are not held out; ``report.json`` scores the folds' extractors on their test sides. Without splits ``out`` is one extractor that
has seen every clip, and has no scores. A fold that is finished is not trained again.

Probabilities are calibrated within the training side of each fold, so that the calibration is tested out of fold, too; its
reliability is in ``report.json`` and, drawn, in ``reliability.png``.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...atomic import atomic_path, write_json
from ...backbones.build import Backbone
from ...backbones.folder import backbone_fingerprint, read_provenance, save_backbone
from ...clips.cache import CachedClips
from ...clips.splits import Splits, write_splits
from ...errors import SonokitError
from ...run_folder import require_same_config, write_config
from ..extraction.forward import choose_device
from ..extraction.models import trained_on
from .biomarkers import BiomarkerExtractor
from .calibration import PlattScaling, fit_platt, inner_logits
from .calibration_plot import write_reliability
from .fold_predictions import FoldOutcome, predict_folds, score_folds
from .folder import ExtractorNote, load_extractor, save_extractor
from .head_fitting import FrozenFeatures
from .settings import BiomarkerSettings
from .tuning import Tuning, tuning_of
from .weak_labels import binary_labels, data_fingerprint, require_labelled, require_patients_apart, require_same_clips

__all__ = ["BiomarkerSettings", "train_biomarkers"]


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
    features: FrozenFeatures | None = None,
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
        features: The backbone's features of these clips, where they are known from an earlier training on the same backbone,
            clips and segments; for ``tune`` "none" only.
        device: "cpu" or "cuda"; None: a GPU where there is one.
        progress: Show bars.

    Raises:
        SonokitError: The settings contradict each other, a column is missing or holds something else than 0 and 1, nothing is
            labelled, splits and clips do not belong together, the backbone was pretrained with labels of clips that the folds
            test, or ``out`` was begun with other settings.
    """
    settings.check()
    require_labelled(clips, settings.biomarkers)
    require_same_clips(clips, splits)
    require_same_config(out, config)
    tuning = tuning_of(settings, clips, backbone, choose_device(device), features=features, progress=progress)
    write_config(out, config)
    seen = read_provenance(provenance) if isinstance(provenance, Path) else dict(provenance or {})
    run = _Run(clips, backbone, out, settings, splits, seen, tuning)
    run.train_all()
    return out


class _Run:
    """What the extractors of one set share: labels, patients, the way of fitting, the backbone's folder."""

    def __init__(
        self,
        clips: CachedClips,
        backbone: Backbone,
        out: Path,
        settings: BiomarkerSettings,
        splits: Splits | None,
        seen: dict[str, Any],
        tuning: Tuning,
    ) -> None:
        self.clips, self.backbone, self.out, self.settings, self.splits = clips, backbone, out, settings, splits
        self.seen, self.tuning = seen, tuning
        self.ids = clips.table["clip_id"].to_numpy(dtype=str)
        self.contents = clips.table["content_hash"].to_numpy(dtype=str)
        self.labels = binary_labels(clips.manifest, settings.biomarkers)  # [N, B]
        self.patients = clips.manifest.groups() if splits is None else clips.manifest.patients()
        self.origin = backbone_fingerprint(backbone)

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
        outcome = self._outcome(sides[:-1]) if self.splits is not None else None
        self._train(sides[-1], outcome)
        if outcome is not None:
            write_reliability(outcome.calibration["biomarkers"], self.settings.biomarkers, self.out / "reliability.png")
            values = {"kind": "extractor-report", "identity": identity, **outcome.scores, "calibration": outcome.calibration}
            write_json(report, values)

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

    def _train(self, side: _Side, outcome: FoldOutcome | None) -> None:
        """Train one extractor on the labelled clips of its side and save it; the final one is told what the folds scored."""
        if self._is_done(side) and outcome is None:
            return
        rows = side.train & ~np.isnan(self.labels).all(axis=1)
        if not rows.any():
            raise SonokitError(f"no clip on the training side of {side.folder.name} has a label of the biomarkers")
        extractor = self.tuning.fit(rows, self.labels, side.seed)
        calibration, why = self._calibrate(extractor, rows, side.seed, outcome)
        seen = self._seen_by(rows)
        place = self.out / "backbone"
        if self.settings.tune != "none":
            place = side.folder / "backbone"
            save_backbone(extractor.backbone, place, provenance=seen)
        note = ExtractorNote(
            sampling=dataclasses.asdict(self.clips.settings.sampling),
            settings=dataclasses.asdict(self.settings) | {"biomarkers": list(self.settings.biomarkers)},
            provenance=seen,
            training=self._identity(side.train),
            fold=side.fold,
            scores=outcome.scores["biomarkers"] if outcome else None,
            data=data_fingerprint(self.contents[rows], self.labels[rows]),
            calibration=calibration,
            calibration_note=why,
            reliability=outcome.short_reliability() if outcome else None,
        )
        save_extractor(extractor, side.folder, place, note)

    def _calibrate(
        self, extractor: BiomarkerExtractor, rows: np.ndarray, seed: int, outcome: FoldOutcome | None
    ) -> tuple[dict[str, Any] | None, str]:
        """Give the extractor its calibration; what it is, and how it was come by or why there is none."""
        settings = self.settings
        if settings.calibration == "none":
            return None, "none was asked for"
        if settings.tune != "all":
            logits = inner_logits(self.labels, self.patients, rows, settings.calibration_folds, seed, self._inner(seed))
            how = f"on the training clips, in {settings.calibration_folds} inner folds by patient"
        elif outcome is not None:
            logits = np.where(rows[:, None], outcome.predictions.mean_logits(), np.nan)
            how = "on the predictions of the set's folds for clips that they had not seen"
        else:
            return None, "a backbone that is trained as a whole would have to be trained once more for each inner fold"
        if logits is None:
            return None, "all its training clips are of one patient"
        scalings = [fit_platt(logits[:, i], self.labels[:, i]) for i in range(len(settings.biomarkers))]
        if not any(scalings):
            return None, "there are too few patients with positives and negatives"
        chosen = [scaling or PlattScaling(1.0, 0.0) for scaling in scalings]
        extractor.head.calibrate([one.slope for one in chosen], [one.intercept for one in chosen])
        pairs = zip(settings.biomarkers, scalings, strict=True)
        return {name: dataclasses.asdict(scaling) if scaling else None for name, scaling in pairs}, how

    def _inner(self, seed: int) -> Callable[[np.ndarray, np.ndarray, int], np.ndarray]:
        def fit_and_predict(train: np.ndarray, test: np.ndarray, number: int) -> np.ndarray:
            own_seed = int(np.random.SeedSequence([seed, number]).generate_state(1)[0])
            return self.tuning.logits(self.tuning.fit(train, self.labels, own_seed), test)

        return fit_and_predict

    def _outcome(self, sides: Sequence[_Side]) -> FoldOutcome:
        """What the extractors of the folds, as saved, say of their test sides; also written as out_of_fold.csv."""
        assert self.splits is not None
        shared = self.backbone if self.settings.tune == "none" else None
        found = predict_folds(
            self.splits, self.ids, [side.folder for side in sides], lambda folder: load_extractor(folder, shared), self.tuning
        )
        with atomic_path(self.out / "out_of_fold.csv") as temporary:
            found.table(self.ids, self.settings.biomarkers).to_csv(temporary, index=False)
        return score_folds(found, self.labels, self.patients, [side.train for side in sides], self.settings.biomarkers)

    def _is_done(self, side: _Side) -> bool:
        file = side.folder / "extractor.json"
        return file.is_file() and json.loads(file.read_text(encoding="utf-8"))["training"] == self._identity(side.train)

    def _identity(self, train: np.ndarray) -> str:
        """Hash of all that decides the weights: settings, backbone and its past, the training clips' contents and labels."""
        settings = dataclasses.asdict(self.settings)
        cache = dataclasses.asdict(self.clips.settings)
        digest = hashlib.sha256(json.dumps([settings, cache, self.origin, self.seen], sort_keys=True, default=str).encode())
        for row in np.flatnonzero(train):
            digest.update(
                f"{self.ids[row]}\0{self.contents[row]}\0{self.labels[row].tolist()}\0{self.patients[row]}\n".encode()
            )
        return digest.hexdigest()

    def _seen_by(self, rows: np.ndarray) -> dict[str, Any]:
        """Clips, patients and labels that the extractor rests on, those of its backbone among them where labels made that."""
        labelled = self.seen.get("fitted_on_labels", False)
        before = self.seen if labelled else {}
        own = dict(zip(self.ids[rows].tolist(), self.contents[rows].tolist(), strict=True))
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
