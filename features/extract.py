"""Clips through a model into embedding stores; what is there already is not done again.

Whatever stops a run, what it has done is kept: rows go to disk in whole parts, and a clip is done when its content is there.
The rows do not depend on how often the work was interrupted. Two processes may fill one store; what both did is there once.
What the manifest newly says of clips that are done (a mended label) is brought into their rows.
"""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from ..atomic import atomic_path, write_json
from ..backbones.build import Backbone
from ..clips.cache import CachedClips
from ..clips.splits import Splits, write_splits
from ..errors import SonokitError
from ..run_folder import write_config
from .forward import FeaturePass, Segments, choose_device
from .index import build_index, index_is_current
from .models import ExtractionChoices, OpenedModel, Pass, Target, open_model, random_twin, trained_on
from .relabel import refresh_details
from .rows import StoreHeader, make_rows
from .store import EmbeddingStore

_PART_CLIPS = 256
_PART_SECONDS = 60.0
_BEGUN = (".", "fold-", "final", "floor")  # all that a run which was killed at once may have left


def extract_features(
    clips: CachedClips,
    model: str | Path | Backbone,
    out: Path,
    *,
    segments: int | None = None,
    segment_frames: int | None = None,
    floor: bool = False,
    dtype: Literal["float16", "float32"] = "float16",
    weights: str | Path = "none",
    seed: int = 0,
    device: str | None = None,
    config: dict[str, Any] | None = None,
    progress: bool = True,
) -> Path:
    """Fill the store, or for an extractor set the store set, in ``out``.

    Args:
        clips: Cached clips; those that could not be decoded are listed in ``out/rejected.csv``.
        model: A timm name, a backbone folder, an extractor folder, an extractor set, or a backbone in memory that has seen no
            labels.
        out: The folder to make, or to add to.
        segments: Rows a clip at most, see :class:`~sonokit.features.biomarkers.SegmentPlan`; None: an extractor's own, 16 for a
            backbone.
        segment_frames: Frames a row; None: an extractor's own, 1 for a backbone.
        floor: Also fill ``out/floor`` through the same network with random weights.
        dtype: Of the embeddings.
        weights: For a timm name: "none" (random), "timm" or a .safetensors file.
        seed: Of random weights.
        device: "cpu" or "cuda"; None: a GPU where there is one.
        config: The command's resolved options, for config.yaml.
        progress: Show bars.

    Returns:
        ``out``.

    Raises:
        SonokitError: No clip could be decoded, ``out`` holds something else, or model, clips and choices do not go together.
    """
    out = Path(out)
    if not len(clips):
        raise SonokitError("none of the manifest's clips could be decoded; rejected.csv in the frame cache says why")
    opened = open_model(model, clips, ExtractionChoices(segments, segment_frames, dtype, weights, seed))
    passes = [*opened.passes, *([random_twin(opened, seed)] if floor else [])]
    for one in passes:
        for target in one.targets:
            _require_free_names(clips, target.header)
    _require_kind(out, opened)
    stores = [[EmbeddingStore.create(out / t.place, t.header) for t in one.targets] for one in passes]  # refuses others' stores
    if opened.splits is not None:
        _write_set(out, opened.splits)
    if config is not None:
        write_config(out, config)
    _write_rejected(clips, out)
    details = clip_details(clips)
    for one, its_stores in zip(passes, stores, strict=True):
        _run_pass(one, its_stores, clips, details, choose_device(device), progress)
    return out


def clip_details(clips: CachedClips) -> pd.DataFrame:
    """What each clip's rows say of it: known columns, measurements and labels, one row a clip in the clips' order.

    ``patient_id`` is the column that stands for the patient, whatever its name is in the manifest.
    """
    manifest = clips.manifest
    details = manifest.table.copy()
    patient = manifest.patient_column
    details["patient_id"] = details[patient].astype("string") if patient else pd.array([pd.NA] * len(details), dtype="string")
    for name in ("content_hash", "container", "frame_rate"):
        details[name] = clips.table[name].to_numpy()
    return details


def _require_kind(out: Path, opened: OpenedModel) -> None:
    """Refuse a folder that holds a set where a store is made, or the other way round."""
    ours = (out / "store.json").exists() or (out / "set.json").exists()
    strangers = [] if ours or not out.is_dir() else sorted(p.name for p in out.iterdir() if not p.name.startswith(_BEGUN))
    if strangers:
        raise SonokitError(f"{out} holds other things ({', '.join(strangers[:3])} …) and is no store; choose another --out")
    if opened.splits is None:
        if (out / "set.json").exists():
            raise SonokitError(f"{out} holds a set of stores or extractors, this model makes one store; choose another --out")
        return
    if (out / "store.json").exists():
        raise SonokitError(f"{out} holds a single store, an extractor set makes one a fold; choose another --out")


def _write_set(out: Path, splits: Splits) -> None:
    """What makes a folder a store set."""
    write_splits(splits, out / "splits.json")
    values = {"kind": "store-set", "splits_fingerprint": splits.fingerprint(), "folds": len(splits.folds)}
    write_json(out / "set.json", values)


def _run_pass(
    one: Pass, stores: list[EmbeddingStore], clips: CachedClips, details: pd.DataFrame, device: torch.device, progress: bool
) -> None:
    fillers = [_Filler(store, target, details) for store, target in zip(stores, one.targets, strict=True)]
    wanted = np.flatnonzero(np.any([f.missing for f in fillers], axis=0))
    try:
        for position, segments in zip(wanted, _segments(one, clips, wanted, device, progress), strict=True):
            for filler in fillers:
                filler.add(int(position), segments)
    finally:  # also after Ctrl-C: what is done is kept
        for filler in fillers:
            filler.flush()
    for filler in fillers:
        filler.store.update_counts()
        if not index_is_current(filler.store):
            build_index(filler.store)


def _segments(one: Pass, clips: CachedClips, wanted: np.ndarray, device: torch.device, progress: bool) -> Iterator[Segments]:
    if not len(wanted):
        return
    names = ", ".join(t.place for t in one.targets if t.place) or one.backbone.name
    features = FeaturePass(one.backbone, one.plan, device).over(clips[int(i)] for i in wanted)
    yield from tqdm(features, total=len(wanted), desc=f"features ({names})", unit="clip", disable=not progress)


class _Filler:
    """Gathers a store's rows and writes them in parts."""

    def __init__(self, store: EmbeddingStore, target: Target, details: pd.DataFrame) -> None:
        self.store, self._target, self._details = store, target, details
        done = store.done()
        pairs = zip(details["clip_id"], details["content_hash"], strict=True)
        self.missing = np.array([pair not in done for pair in pairs], dtype=bool)  # [N]
        self._seen = trained_on(target.provenance, details["content_hash"], details["patient_id"])  # [N]
        refresh_details(store, details, self._seen)
        self._pending: list[tuple[int, Segments]] = []
        self._since = time.monotonic()

    def add(self, position: int, segments: Segments) -> None:
        """Take one clip's segments, if this store lacks it."""
        if not self.missing[position]:
            return
        self._pending.append((position, segments))
        if len(self._pending) >= _PART_CLIPS or time.monotonic() - self._since > _PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what was gathered as one part."""
        pending, self._pending = self._pending, []
        self._since = time.monotonic()
        if not pending:
            return
        counts = [len(s.features) for _, s in pending]
        positions = np.repeat([position for position, _ in pending], counts)
        rows = self._details.iloc[positions].reset_index(drop=True)
        rows["segment"] = np.concatenate([np.arange(count) for count in counts])
        rows["start_s"] = torch.cat([s.start_s for _, s in pending]).numpy()
        rows["end_s"] = torch.cat([s.end_s for _, s in pending]).numpy()
        rows["extractor_trained_on"] = self._seen[positions]
        # clip by clip, so that the last bits do not depend on which clips share a part
        outputs = [self._output(s.features) for _, s in pending]
        embeddings = torch.cat([embedding for embedding, _ in outputs]).numpy()  # [R, E]
        probabilities = torch.cat([p for _, p in outputs]).numpy()  # [R, B]
        for column, name in enumerate(self._target.header.biomarkers):
            rows[f"p_{name}"] = probabilities[:, column]
        self.store.append(make_rows(self._target.header, rows, embeddings))

    @torch.inference_mode()
    def _output(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features [S, D] → embedding [S, E], probabilities [S, B]."""
        if self._target.head is None:
            return features, features.new_zeros(len(features), 0)
        embedding, logits = self._target.head(features)
        return embedding, logits.sigmoid()


def _require_free_names(clips: CachedClips, header: StoreHeader) -> None:
    reserved = set(header.fixed_schema().names) - {"clip_id", "patient_id", "site", "probe"}
    taken = sorted(reserved & set(clips.manifest.table.columns))
    if taken:
        raise SonokitError(
            f"{clips.manifest.source} has columns whose names the store needs for itself: {', '.join(taken)}; rename them there"
        )


def _write_rejected(clips: CachedClips, out: Path) -> None:
    with atomic_path(out / "rejected.csv") as temporary:
        clips.rejected.to_csv(temporary, index=False)
