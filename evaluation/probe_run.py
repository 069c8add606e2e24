"""``sonokit probe``: everything that is measured of one backbone on one label, beside what it must be read against."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..atomic import write_json
from ..backbones.build import Backbone, build_backbone
from ..backbones.folder import backbone_fingerprint, open_backbone, read_provenance
from ..clips.cached_clips import CachedClips
from ..clips.held_out_column import divide_as_told, held_out_by_column, require_held_out
from ..clips.splits import Splits
from ..errors import SonokitError
from ..run_folder import require_same_config, write_config
from .biomarker_probe import macro_auroc
from .embedding import embed_clips
from .fine_tune import FineTuneSettings, fine_tune
from .floors import TITLES, MetadataForest, MostFrequent, metadata_features
from .out_of_fold import FoldRows, fold_rows
from .predictions import Predictions
from .probe import LabelledClips, knn_probe, linear_probe, probe, sites_left_out
from .probe_report import Measurements, make_report
from .seen import clips_seen, require_unseen

_FINE_TUNED = "fine-tune"


@dataclass(frozen=True)
class ProbeSettings:
    """What is measured, and how.

    Attributes:
        size: Side of the frames that the backbone sees, in pixels.
        fine_tune: Fine-tune end to end as well; None: the frozen probe only.
        fine_tune_repeats: In how many of the divisions: a fold takes a minute or so.
        biomarkers: Columns of 0, 1 or empty, whose macro AUROC is measured.
        folds, repeats: Of the splits, where none are given.
        draws, level: Resamples of the patients, and level of the intervals.
        seed: Of the splits, the random twin, the forest, the fine-tuning and the resamples.
    """

    size: int = 224
    fine_tune: FineTuneSettings | None = None
    fine_tune_repeats: int = 1
    biomarkers: tuple[str, ...] = ()
    folds: int = 5
    repeats: int = 10
    draws: int = 2000
    level: float = 0.95
    seed: int = 0


@dataclass(frozen=True)
class ProbedBackbone:
    """A backbone, and what it has seen.

    Attributes:
        backbone: As it is probed; it stays as it is.
        provenance: See :func:`~sonokit.backbones.folder.save_backbone`; empty: nothing of these clips.
        random: It has random weights, so that there is no floor below it.
    """

    backbone: Backbone
    provenance: Mapping[str, Any] = field(default_factory=dict)
    random: bool = False


def open_probed(spec: str, *, weights: str = "none", seed: int = 0) -> ProbedBackbone:
    """What a user names: a backbone folder, or a timm name with weights; errors as for ``open_backbone``."""
    folder = Path(spec)
    backbone = open_backbone(spec, weights=weights, seed=seed)
    if folder.is_dir() and (folder / "config.json").exists():
        return ProbedBackbone(backbone, read_provenance(folder))
    return ProbedBackbone(backbone, random=weights == "none")


def run_probe(
    probed: ProbedBackbone,
    clips: CachedClips,
    labelled: LabelledClips,
    out: Path,
    settings: ProbeSettings,
    *,
    label: str,
    splits: Splits | None = None,
    where: Mapping[str, str] | None = None,
    notes: tuple[str, ...] = (),
    config: dict[str, Any],
    device: str | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Measure, and write ``out/report.json``; killed while fine-tuning, the same call goes on at the fold where it was.

    Args:
        probed: The backbone.
        clips: The clips that take part, and no others.
        labelled: What is true of each, in the same order.
        out: The folder to make.
        settings: What and how.
        label: The column that ``labelled`` comes from.
        splits: The study's; None: made from the clips. What a column ``split`` holds out stays out either way.
        where: How the clips were chosen, for the report.
        notes: What a reader must know about the choice of clips.
        config: The command's resolved options, for config.yaml.
        device: "cpu" or "cuda"; None: a GPU where there is one.
        progress: Show bars on standard error.

    Returns:
        The report; see :mod:`sonokit.evaluation.probe_report`.

    Raises:
        SonokitError: Labels of these clips went into the backbone, splits and clips do not belong together, the splits divide
            what a column ``split`` holds out, or ``out`` holds something else.
    """
    _require_free(out, config)
    hashes = clips.table["content_hash"]
    require_unseen(probed.provenance, hashes, labelled.patients)
    used, said = _splits(splits, clips, labelled, settings, label)
    folds = fold_rows(used, labelled.clip_ids, labelled.patients)
    write_config(out, config)
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    work = _Work(probed, clips, labelled, folds, settings, place, progress)
    usable = ~np.isin(labelled.clip_ids, np.asarray(used.held_out, dtype=str))
    features = work.embed(probed.backbone, "features")
    measured = Measurements(
        linear=linear_probe(labelled, features, folds, progress="linear probe" if progress else None),
        knn=knn_probe(labelled, features, folds, progress="kNN probe" if progress else None),
        fine_tuned=work.fine_tune(out / _FINE_TUNED) if settings.fine_tune else None,
        floors={**work.floors(), "site_left_out": sites_left_out(labelled, features, usable=usable)},
        biomarkers=_biomarkers(features, clips, used, settings),
    )
    about = {
        "label": label,
        "where": dict(where or {}),
        "backbone": _described(probed, hashes, labelled.patients),
        "size": settings.size,
        "frames": clips.settings.key,
        "splits_given": splits is not None,
        "notes": [*notes, *said, *_notes(probed, hashes, labelled, splits)],
    }
    report = make_report(measured, labelled, used, about, draws=settings.draws, seed=settings.seed, level=settings.level)
    write_json(out / "report.json", report)
    return report


def random_twin(backbone: Backbone, seed: int) -> Backbone:
    """The same network with random weights and the same normalisation: the floor that learning is measured against."""
    twin = build_backbone(backbone.name, in_chans=backbone.in_chans, temporal_shift=backbone.temporal_shift, seed=seed)
    twin.mean.copy_(backbone.mean)
    twin.std.copy_(backbone.std)
    return twin


@dataclass(frozen=True)
class _Work:
    """What the measurements of one run share."""

    probed: ProbedBackbone
    clips: CachedClips
    labelled: LabelledClips
    folds: list[FoldRows]
    settings: ProbeSettings
    device: torch.device
    progress: bool

    def embed(self, backbone: Backbone, title: str) -> np.ndarray:
        placed = copy.deepcopy(backbone).to(self.device)
        return embed_clips(placed, self.clips, size=self.settings.size, progress=title if self.progress else None)

    def floors(self) -> dict[str, Predictions | str]:
        """Those that are run on the same folds."""
        labelled, folds, seed = self.labelled, self.folds, self.settings.seed
        nothing, metadata = np.zeros((len(labelled), 1)), metadata_features(self.clips.table)
        shown = TITLES["metadata"] if self.progress else None
        return {
            "most_frequent": probe(labelled, nothing, folds, lambda: MostFrequent(of=labelled.truth)),
            "metadata": probe(labelled, metadata, folds, lambda: MetadataForest(seed=seed), progress=shown),
            "random_init": self._random_init(),
        }

    def fine_tune(self, folder: Path) -> Predictions:
        assert self.settings.fine_tune is not None
        chosen = replace(self.settings.fine_tune, size=self.settings.size, seed=self.settings.seed)
        if self.probed.random:
            chosen = replace(chosen, batch_norm="batch")
        folds = [fold for fold in self.folds if fold.repeat < self.settings.fine_tune_repeats]
        return fine_tune(
            lambda _: copy.deepcopy(self.probed.backbone), self.clips, self.labelled, folds, chosen,
            folder=folder, device=self.device, progress=self.progress,
        )  # fmt: skip

    def _random_init(self) -> Predictions | str:
        if self.probed.random:
            return "the probed backbone itself has random weights"
        twin = random_twin(self.probed.backbone, self.settings.seed)
        return linear_probe(self.labelled, self.embed(twin, TITLES["random_init"]), self.folds)


def _biomarkers(features: np.ndarray, clips: CachedClips, splits: Splits, settings: ProbeSettings) -> dict[str, Any] | None:
    if not settings.biomarkers:
        return None
    return macro_auroc(features, clips.table, settings.biomarkers, splits, seed=settings.seed)


def _splits(
    given: Splits | None, clips: CachedClips, labelled: LabelledClips, settings: ProbeSettings, label: str
) -> tuple[Splits, list[str]]:
    """The study's splits, or folds by patient, stratified by class; and notes on a column ``split``."""
    column = clips.manifest.patient_column or "clip_id"
    table = clips.table[["clip_id", *(name for name in ("site", "split") if name in clips.table)]].copy()
    if given is not None:
        out, said = held_out_by_column(table.assign(**{column: labelled.patients}), column)
        require_held_out(given, out, labelled.clip_ids)
        return given, said
    table[label] = np.asarray(labelled.classes, dtype=object)[labelled.truth]
    return divide_as_told(
        table, labelled.patients, label=label, patient_column=column,
        folds=settings.folds, repeats=settings.repeats, seed=settings.seed,
    )  # fmt: skip


def _described(probed: ProbedBackbone, content_hashes: pd.Series, patients: np.ndarray) -> dict[str, Any]:
    """The backbone as a report names it; ``setting`` is "transductive" where it saw these clips, or patients, unlabelled."""
    seen = int(clips_seen(probed.provenance, content_hashes, patients).sum())
    return {
        "model": probed.backbone.name,
        "fingerprint": backbone_fingerprint(probed.backbone),
        "dimensions": probed.backbone.num_features,
        "random_weights": probed.random,
        "fitted_on_labels": bool(probed.provenance.get("fitted_on_labels", False)),
        "clips_seen_unlabelled": seen,
        "setting": "transductive" if seen else "unseen clips",
    }


def _notes(probed: ProbedBackbone, content_hashes: pd.Series, labelled: LabelledClips, splits: Splits | None) -> list[str]:
    seen = clips_seen(probed.provenance, content_hashes, labelled.patients)
    notes = []
    if seen.any():
        people, count = len(np.unique(labelled.patients[seen])), int(seen.sum())
        notes.append(f"transductive: the backbone saw {count} of these clips, or their {people} patients, without labels")
    if splits is None:
        notes.append("the folds were made from these clips; write them once with `sonokit split` to share them over a study")
    return notes


def _require_free(out: Path, config: dict[str, Any]) -> None:
    """Only a probe of the same settings may be gone on with or replaced."""
    strange = out.is_dir() and any(out.iterdir()) and not (out / "config.yaml").exists()
    if out.is_file() or strange or (out / "config.json").exists() or (out / "store.json").exists():
        raise SonokitError(f"{out} is there already and is no folder of a probe: choose another --out")
    require_same_config(out, config)
