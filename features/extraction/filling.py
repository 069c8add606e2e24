"""Rows of a store, gathered clip by clip and written part by part."""

import time

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ...clips.cache import CachedClips
from ...clips.streaming import ClipStream
from ..store import EmbeddingStore
from ..store.relabel import refresh_details
from ..store.rows import make_rows
from .forward import Segments
from .models import Target, trained_on

_PART_CLIPS = 256
_PART_SECONDS = 60.0


class Filler:
    """Fills one store with what a target makes of backbone features.

    What the manifest newly says of clips that are there already is brought into their rows at once.

    Args:
        store: Where the rows go.
        target: The head, if any, and what it has seen.
        details: One row a clip, see :func:`clip_details`.

    Attributes:
        missing: Which clips the store lacks, or has from another content, bool [N].
    """

    def __init__(self, store: EmbeddingStore, target: Target, details: pd.DataFrame) -> None:
        self.store, self._target, self._details = store, target, details
        self.missing = ~store.done().holds(details["clip_id"], details["content_hash"])
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
        rows["container"] = np.repeat([s.clip.container for _, s in pending], counts)
        rows["frame_rate"] = np.repeat([s.clip.frame_rate for _, s in pending], counts)
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
    def _output(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features [S, D] → embedding [S, E], probabilities [S, B]."""
        head = self._target.head
        if head is None:
            return features, features.new_zeros(len(features), 0)
        embedding, logits = head(features)
        return embedding, head.probabilities(logits)


def clip_details(clips: CachedClips | ClipStream) -> pd.DataFrame:
    """What each clip's rows say of it before it was decoded: known columns, measurements and labels, in the clips' order.

    ``patient_id`` is the column that stands for the patient, whatever its name is in the manifest.
    """
    manifest = clips.manifest
    details = manifest.table.copy()
    patient = manifest.patient_column
    details["patient_id"] = details[patient].astype("string") if patient else pd.array([pd.NA] * len(details), dtype="string")
    details["content_hash"] = clips.table["content_hash"].to_numpy()
    return details
