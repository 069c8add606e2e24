"""What a student is asked: one of several classes, or several findings each of which may be there; of which clips."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...clips.cached_clips import CachedClips
from ...errors import SonokitError
from ...evaluation.probe import LabelledClips
from ...features.extractors.weak_labels import binary_labels
from ..signals.response import Kind


@dataclass(frozen=True, eq=False)
class Asked:
    """The question, and the N clips that can answer for it.

    Attributes:
        kind: "classes" or "several".
        label: The column; of several, joined by commas.
        classes: Names of the K classes or findings.
        clips: Their frames, and the manifest's columns.
        truth: Class codes int64 [N]; or float32 [N, K] of 0, 1 and nan where unknown.
        patients: Whose each clip is, str [N].
        labelled: The same as the scores of classes want it; None for findings.
    """

    kind: Kind
    label: str
    classes: tuple[str, ...]
    clips: CachedClips
    truth: np.ndarray
    patients: np.ndarray
    labelled: LabelledClips | None = None

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def clip_ids(self) -> np.ndarray:
        """Names of the clips, str [N]."""
        return self.clips.table["clip_id"].to_numpy(dtype=str)

    @property
    def contents(self) -> np.ndarray:
        """Hash of each clip's file, str [N]."""
        return self.clips.table["content_hash"].to_numpy(dtype=str)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the labels: the one column, or each finding."""
        return (self.label,) if self.kind == "classes" else self.classes

    def fingerprint(self, rows: np.ndarray) -> str:
        """Hash of question, frames and labels of some clips; ``rows`` int64 [M]."""
        digest = hashlib.sha256(json.dumps([self.kind, self.label, self.classes, self.clips.settings.key]).encode())
        digest.update(json.dumps([self.clip_ids[rows].tolist(), self.contents[rows].tolist()]).encode())
        digest.update(np.ascontiguousarray(self.truth[rows]).tobytes())
        return digest.hexdigest()[:16]


def asked_classes(clips: CachedClips, labelled: LabelledClips, label: str) -> Asked:
    """One of several classes.

    Args:
        clips: The clips that take part, and no others.
        labelled: What is true of each, in the same order.
        label: The column that this comes from.

    Raises:
        SonokitError: Clips and labels differ.
    """
    if not np.array_equal(clips.table["clip_id"].to_numpy(dtype=str), labelled.clip_ids):
        raise SonokitError("clips and labels are not of the same clips: give both in the same order")
    return Asked("classes", label, labelled.classes, clips, labelled.truth, labelled.patients, labelled)


def asked_findings(clips: CachedClips, columns: Sequence[str]) -> tuple[Asked, tuple[str, ...]]:
    """Several findings; clips of which none is known take no part.

    Args:
        clips: Cached clips of a manifest that says whose each is.
        columns: Of the manifest: 1, 0, or empty where unknown.

    Returns:
        The question, and notes on who was left out.

    Raises:
        SonokitError: A column is missing or holds something else, no clip has a label, or patients are not known.
    """
    truth = binary_labels(clips.manifest, columns)
    known = ~np.isnan(truth).all(axis=1)
    if not known.any():
        raise SonokitError(f"{clips.manifest.source}: no clip has a label in {', '.join(columns)}")
    notes = (f"{int((~known).sum())} clips have none of {', '.join(columns)} and take no part",) if not known.all() else ()
    chosen = clips.select(known)
    return Asked("several", ",".join(columns), tuple(columns), chosen, truth[known], chosen.manifest.patients()), notes
