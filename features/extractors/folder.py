"""A biomarker extractor on disk: ``extractor.json``, ``head.safetensors``, a card, and a backbone folder inside or beside it.

The folds of an extractor set whose backbone is frozen share ``backbone/``, so ``extractor.json`` names it by a relative path.
``extractor.json`` is written last: a folder without it is unfinished. No pickle is ever read.
"""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from ...atomic import atomic_path, write_json, write_text
from ...backbones.build import Backbone
from ...backbones.folder import backbone_fingerprint, load_backbone
from ...errors import SonokitError
from .biomarkers import BiomarkerExtractor, SegmentPlan
from .card import extractor_card

EXTRACTOR_SCHEMA = 2  # 1: before calibration; pooling mean or lse


@dataclass(frozen=True)
class ExtractorNote:
    """What ``extractor.json`` says beside the network's shape.

    Attributes:
        sampling: The frame cache's ``frames`` and ``rate_hz`` that the extractor was trained on.
        settings: Of the training.
        provenance: ``fitted_on_labels``, ``labels``, ``training_clips`` {clip_id: content_hash}, ``training_patients``; with
            those of the backbone, where labels were used for that.
        training: Hash of everything that decided the weights; equal hashes, nothing to train again.
        fold: Of the splits, None for a final extractor.
        scores: Out-of-fold scores by biomarker, {} where there are none.
        data: Hash of the training clips' contents and labels.
        calibration: By biomarker its slope and intercept, or None for one that could not be calibrated; None: nothing was.
        calibration_note: How that was done, or why not.
        reliability: By biomarker, Brier score and calibration error out of fold, ``before`` and ``after``; {} where unmeasured.
    """

    sampling: dict[str, Any]
    settings: dict[str, Any]
    provenance: dict[str, Any]
    training: str
    fold: int | None = None
    scores: dict[str, Any] | None = None
    data: str | None = None
    calibration: dict[str, Any] | None = None
    calibration_note: str | None = None
    reliability: dict[str, Any] | None = None


def save_extractor(extractor: BiomarkerExtractor, folder: Path, backbone_folder: Path, note: ExtractorNote) -> None:
    """Write an extractor whose backbone is already saved in ``backbone_folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "extractor.json").unlink(missing_ok=True)
    with atomic_path(folder / "head.safetensors") as temporary:
        safetensors.torch.save_file(
            {k: v.detach().cpu().contiguous() for k, v in extractor.head.state_dict().items()}, temporary
        )
    values = {
        "kind": "extractor",
        "schema_version": EXTRACTOR_SCHEMA,
        "biomarkers": list(extractor.biomarkers),
        "segments": extractor.plan.segments,
        "segment_frames": extractor.plan.frames,
        "size": extractor.size,
        "pooling": extractor.pooling,
        "embedding": extractor.head.classify.in_features,
        "backbone": Path(os.path.relpath(backbone_folder, folder)).as_posix(),
        "fingerprint": extractor_fingerprint(extractor),
        "fold": note.fold,
        "sampling": note.sampling,
        "settings": note.settings,
        "training": note.training,
        "data_fingerprint": note.data,
        "scores": note.scores or {},
        "calibration": note.calibration,
        "calibration_note": note.calibration_note,
        "reliability": note.reliability or {},
        "provenance": note.provenance,
    }
    write_text(folder / "README.md", extractor_card(extractor.backbone, values))
    write_json(folder / "extractor.json", values)


def read_extractor(folder: Path) -> dict[str, Any]:
    """``extractor.json`` of an extractor folder.

    Raises:
        SonokitError: There is none, or a newer sonokit wrote it.
    """
    file = folder / "extractor.json"
    if not file.is_file():
        raise SonokitError(f"{folder} is not an extractor folder (no extractor.json; an unfinished run? run its command again)")
    values: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if values["schema_version"] > EXTRACTOR_SCHEMA:
        raise SonokitError(f"{file} has schema version {values['schema_version']}, newer than this sonokit: update sonokit")
    return values


def load_extractor(folder: Path, backbone: Backbone | None = None) -> BiomarkerExtractor:
    """Read an extractor, in evaluation mode.

    Args:
        folder: The extractor folder.
        backbone: Its backbone, where it is loaded already (the extractors of a set share one).

    Raises:
        SonokitError: It is no extractor folder, its backbone is missing, or a file was exchanged.
    """
    values = read_extractor(folder)
    if backbone is None:
        backbone = load_backbone(backbone_folder_of(folder, values))
    extractor = BiomarkerExtractor(
        backbone,
        values["biomarkers"],
        plan=SegmentPlan(values["segments"], values["segment_frames"]),
        size=values["size"],
        pooling=values["pooling"],
        embedding=values["embedding"],
    )
    try:
        extractor.head.load_state_dict(safetensors.torch.load_file(folder / "head.safetensors"))
    except (RuntimeError, OSError, SafetensorError) as fault:
        raise SonokitError(f"{folder}/head.safetensors cannot be loaded: {str(fault).splitlines()[0]}") from fault
    if extractor_fingerprint(extractor) != values["fingerprint"]:
        raise SonokitError(f"{folder}: head or backbone are not those that extractor.json describes; was a file replaced?")
    return extractor.eval()


def backbone_folder_of(folder: Path, values: dict[str, Any]) -> Path:
    """Where an extractor's backbone lies.

    Raises:
        SonokitError: It is not there.
    """
    place = Path(os.path.normpath(folder / values["backbone"]))
    if not place.is_dir():
        raise SonokitError(
            f"the backbone of {folder} is missing: it was at {place}; move extractors with the folder around them"
        )
    return place


def extractor_fingerprint(extractor: BiomarkerExtractor) -> str:
    """16 hex digits that any change of weights, calibration, biomarkers, segments or pooling changes."""
    shape = [list(extractor.biomarkers), extractor.plan.segments, extractor.plan.frames, extractor.size, extractor.pooling]
    digest = hashlib.sha256(json.dumps([backbone_fingerprint(extractor.backbone), shape]).encode())
    tensors = {k: v.detach().cpu().contiguous() for k, v in extractor.head.state_dict().items()}
    if (tensors["calibration_slope"] == 1).all() and (tensors["calibration_intercept"] == 0).all():
        # no calibration: the same extractor as one that was saved before there was any
        del tensors["calibration_slope"], tensors["calibration_intercept"]
    digest.update(safetensors.torch.save(tensors))
    return digest.hexdigest()[:16]
