"""What a run learns from: clips, patients, labels; told apart from others, and written down for whoever uses the weights."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..backbones.folder import read_provenance
from ..clips.cached_clips import CachedClips
from .settings import PretrainSettings


def data_fingerprint(clips: CachedClips, label: str | None) -> str:
    """16 hex digits that change with the clips, their order, their patients, or the labels that are learnt from."""
    labels: Iterable[str] = [""] * len(clips)
    if label is not None:
        labels = clips.manifest.labels(label).astype("string").fillna("")
    table = clips.table
    digest = hashlib.sha256()
    lead = "["  # the text of one JSON list, but never all of it in memory
    for row in zip(table["clip_id"], table["content_hash"], clips.manifest.groups(), labels, strict=True):
        digest.update((lead + json.dumps(row)).encode())
        lead = ", "
    digest.update(b"]")
    return digest.hexdigest()[:16]


def provenance(clips: CachedClips, settings: PretrainSettings) -> dict[str, Any]:
    """What the weights have seen, including what the backbone that they began from had seen."""
    folder = Path(settings.backbone)
    before = read_provenance(folder) if (folder / "config.json").exists() else {}
    uses_labels = settings.label is not None and settings.label_weight > 0
    table, manifest = clips.table, clips.manifest
    own = dict(zip(table["clip_id"], table["content_hash"], strict=True))
    # another study's clip of the same name stays on the list: whether a clip was seen is told by its content
    earlier = {
        name if own.get(name, content) == content else f"{name} ({content[:16]})": content
        for name, content in before.get("training_clips", {}).items()
    }
    patients = set(manifest.groups()) if manifest.patient_column is not None else set()
    return {
        "fitted_on_labels": uses_labels or bool(before.get("fitted_on_labels", False)),
        "labels": sorted({*before.get("labels", []), *([settings.label] if uses_labels else [])}),
        "training_clips": {**earlier, **own},
        "training_patients": sorted({*before.get("training_patients", []), *map(str, patients)}),
        "method": f"{settings.objective}, pairs {settings.pair_policy}",
        "began_from": f"{folder.name}, weights {Path(settings.weights).name}",  # names only: cards are published
        "epochs": settings.epochs,
        "image_size": settings.size,
        "seed": settings.seed,
    }
