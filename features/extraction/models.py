"""What a user may name as a model, opened as passes: one backbone, and the stores that its features fill.

a timm name, or a backbone folder     one pass, one store of backbone features
an extractor folder                   one pass, one store of embeddings and biomarkers
an extractor set                      one store a fold and a final one; one pass in all where the folds share a backbone
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from ...backbones.build import Backbone, build_backbone
from ...backbones.folder import backbone_fingerprint, load_backbone, open_backbone, read_provenance
from ...clips.cache import CachedClips, CacheSettings
from ...clips.sampling import Sampling
from ...clips.splits import Splits, read_splits
from ...clips.streaming import ClipStream
from ...errors import SonokitError
from ...evaluation.seen import clips_seen
from ..extractors.biomarkers import BiomarkerExtractor, BiomarkerHead, SegmentPlan
from ..extractors.folder import backbone_folder_of, extractor_fingerprint, load_extractor, read_extractor
from ..extractors.head_fitting import seeded
from ..store import StoreHeader

_BACKBONE_SEGMENTS = 16


@dataclass(frozen=True)
class Target:
    """A store to fill: its place below the output folder, its header, the head that reads the features, what that has seen."""

    place: str
    header: StoreHeader
    head: BiomarkerHead | None
    provenance: dict[str, Any]


@dataclass(frozen=True)
class Pass:
    """A backbone that runs once over the clips, and all that is made of its features."""

    backbone: Backbone
    plan: SegmentPlan
    targets: list[Target]


@dataclass(frozen=True)
class OpenedModel:
    """A model's passes, and for an extractor set its splits."""

    passes: list[Pass]
    splits: Splits | None


@dataclass(frozen=True)
class ExtractionChoices:
    """What a user may choose about the rows.

    Attributes:
        segments, segment_frames: None: an extractor's own; 16 segments of one frame for a backbone.
        dtype: Of the embeddings.
        weights: For a timm name: "none", "timm" or a .safetensors file.
        seed: Of random weights.
    """

    segments: int | None = None
    segment_frames: int | None = None
    dtype: Literal["float16", "float32"] = "float16"
    weights: str | Path = "none"
    seed: int = 0


def frame_settings(model: str | Path) -> CacheSettings | None:
    """The frames that an extractor, or a set of them, was trained on; None for a backbone, which takes any."""
    folder = Path(model)
    if (folder / "set.json").is_file():
        folder = folder / "final"
    if not (folder / "extractor.json").is_file():
        return None
    values = read_extractor(folder)
    return CacheSettings(size=values["size"], sampling=Sampling(**values["sampling"]))


def open_model(model: str | Path | Backbone, clips: CachedClips | ClipStream, choices: ExtractionChoices) -> OpenedModel:
    """Open whatever ``model`` names.

    Raises:
        SonokitError: It is none of the four, is unfinished, or does not fit the clips' frames or the choices.
    """
    if isinstance(model, Backbone):
        return _opened_backbone(model, {}, clips, choices)
    folder = Path(model)
    if (folder / "set.json").is_file():
        return _opened_set(folder, clips, choices)
    if (folder / "extractor.json").is_file():
        return OpenedModel(_extractor_passes([("", folder)], clips, choices, None), None)
    backbone = open_backbone(str(model), weights=choices.weights, seed=choices.seed)
    return _opened_backbone(backbone, read_provenance(folder) if folder.is_dir() else {}, clips, choices)


def random_twin(opened: OpenedModel, seed: int) -> Pass:
    """The same network with random weights, as the floor that learning is measured against."""
    like = opened.passes[-1]  # of a set: the final extractor's
    target = like.targets[-1]
    backbone = build_backbone(
        like.backbone.name, in_chans=like.backbone.in_chans, temporal_shift=like.backbone.temporal_shift, seed=seed
    )
    backbone.mean.copy_(like.backbone.mean)
    backbone.std.copy_(like.backbone.std)
    head = None
    model_fingerprint = backbone_fingerprint(backbone)
    if target.head is not None:
        with seeded(seed):
            head = BiomarkerHead(
                backbone.num_features, len(target.header.biomarkers), embedding=target.header.dimensions
            ).eval()
        model_fingerprint += f"-head-{seed}"
    header = dataclasses.replace(
        target.header,
        model=f"{backbone.name} with random weights",
        fingerprint=_fingerprint(model_fingerprint, like.plan, target.header.size, target.header.sampling),
        fold=None,
        splits_fingerprint=None,
        fitted_on_labels=False,
    )
    return Pass(backbone, like.plan, [Target("floor", header, head, {})])


def trained_on(provenance: dict[str, Any], content_hashes: pd.Series, patients: pd.Series) -> np.ndarray:
    """Of which clips labels were used in the making of a model: theirs (by content) or others of their patients. bool [N]."""
    if not provenance.get("fitted_on_labels", False):
        return np.zeros(len(content_hashes), dtype=bool)
    return clips_seen(provenance, content_hashes, patients.to_numpy(dtype=str, na_value=""))


def _opened_backbone(
    backbone: Backbone, provenance: dict[str, Any], clips: CachedClips | ClipStream, choices: ExtractionChoices
) -> OpenedModel:
    plan = SegmentPlan(choices.segments or _BACKBONE_SEGMENTS, choices.segment_frames or 1)
    sampling = dataclasses.asdict(clips.settings.sampling)
    header = StoreHeader(
        fingerprint=_fingerprint(backbone_fingerprint(backbone), plan, clips.settings.size, sampling),
        kind="backbone",
        model=backbone.name,
        dimensions=backbone.num_features,
        dtype=choices.dtype,
        segments=plan.segments,
        segment_frames=plan.frames,
        size=clips.settings.size,
        sampling=sampling,
        fitted_on_labels=bool(provenance.get("fitted_on_labels", False)),
    )
    return OpenedModel([Pass(backbone, plan, [Target("", header, None, provenance)])], None)


def _opened_set(folder: Path, clips: CachedClips | ClipStream, choices: ExtractionChoices) -> OpenedModel:
    values = json.loads((folder / "set.json").read_text(encoding="utf-8"))
    if values.get("kind") != "extractor-set":
        raise SonokitError(f"{folder} is a {values.get('kind')}, not a model; name the extractors that it was made with")
    if not (folder / "report.json").is_file():
        raise SonokitError(f"{folder} is unfinished: run the same train-biomarkers command again, it only does what is missing")
    splits = read_splits(folder / "splits.json")
    places = [(f"fold-{k}", folder / f"fold-{k}") for k in range(int(values["folds"]))]
    passes = _extractor_passes([*places, ("final", folder / "final")], clips, choices, splits.fingerprint())
    return OpenedModel(passes, splits)


def _extractor_passes(
    places: list[tuple[str, Path]], clips: CachedClips | ClipStream, choices: ExtractionChoices, splits_fingerprint: str | None
) -> list[Pass]:
    """One pass a backbone folder, in the order given."""
    if str(choices.weights) != "none":
        raise SonokitError("an extractor has weights of its own; leave weights out")
    passes: dict[Path, Pass] = {}
    for place, folder in places:
        values = read_extractor(folder)
        backbone_folder = backbone_folder_of(folder, values)
        known = passes.get(backbone_folder)
        extractor = load_extractor(folder, known.backbone if known else load_backbone(backbone_folder))
        _require_same_frames(folder, extractor, clips)
        plan = SegmentPlan(choices.segments or extractor.plan.segments, choices.segment_frames or extractor.plan.frames)
        sampling = dataclasses.asdict(clips.settings.sampling)
        header = StoreHeader(
            fingerprint=_fingerprint(extractor_fingerprint(extractor), plan, extractor.size, sampling),
            kind="extractor",
            model=f"{', '.join(extractor.biomarkers)} on {extractor.backbone.name}",
            dimensions=values["embedding"],
            dtype=choices.dtype,
            biomarkers=list(extractor.biomarkers),
            segments=plan.segments,
            segment_frames=plan.frames,
            size=extractor.size,
            sampling=sampling,
            fold=values["fold"],
            splits_fingerprint=splits_fingerprint,
            fitted_on_labels=True,
        )
        passes.setdefault(backbone_folder, Pass(extractor.backbone, plan, []))
        passes[backbone_folder].targets.append(Target(place, header, extractor.head.eval(), values["provenance"]))
    return list(passes.values())


def _require_same_frames(folder: Path, extractor: BiomarkerExtractor, clips: CachedClips | ClipStream) -> None:
    if extractor.size != clips.settings.size:
        raise SonokitError(
            f"the extractor {folder} was trained on frames of {extractor.size} pixels, these clips are prepared at "
            f"{clips.settings.size}: prepare them with size {extractor.size}"
        )


def _fingerprint(model: str, plan: SegmentPlan, size: int, sampling: dict[str, Any]) -> str:
    """Of model and cutting together: rows of equal fingerprints may be compared."""
    text = json.dumps([model, plan.segments, plan.frames, size, sampling], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
