"""Clip labels of biomarkers, and what must be true of clips, labels and splits before anything is trained on them."""

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ...clips.cache import CachedClips
from ...clips.manifest import Manifest
from ...clips.splits import Splits
from ...errors import SonokitError


def binary_labels(manifest: Manifest, biomarkers: Sequence[str]) -> np.ndarray:
    """float32 [N, B]: 1, 0, or nan where unknown.

    Raises:
        SonokitError: A column is missing, or holds something else; all such columns are named.
    """
    faults, columns = [], []
    for name in biomarkers:
        values = pd.to_numeric(manifest.labels(name), errors="coerce").astype("float64").to_numpy()
        empty = manifest.labels(name).isna().to_numpy()
        if not (empty | np.isin(values, (0.0, 1.0))).all():
            faults.append(name)
        columns.append(values.astype(np.float32))
    if faults:
        raise SonokitError(f"{manifest.source}: {', '.join(faults)} must hold 0, 1 or nothing in every row to be a biomarker")
    return np.stack(columns, axis=1)


def data_fingerprint(contents: np.ndarray, labels: np.ndarray) -> str:
    """16 hex digits that change with the clips' contents [N] or their labels [N, B], not with their order."""
    known = [[None if np.isnan(value) else int(value) for value in row] for row in labels]
    return hashlib.sha256(json.dumps(sorted(map(str, zip(contents.tolist(), known, strict=True)))).encode()).hexdigest()[:16]


def require_labelled(clips: CachedClips, biomarkers: Sequence[str]) -> None:
    """Refuse a training without clips, or without a single label."""
    if not len(clips):
        raise SonokitError("none of the manifest's clips could be decoded; rejected.csv in the frame cache says why")
    if np.isnan(binary_labels(clips.manifest, biomarkers)).all():
        raise SonokitError(f"{clips.manifest.source}: no clip has a label in {', '.join(biomarkers)}")


def require_same_clips(clips: CachedClips, splits: Splits | None) -> None:
    """Refuse splits that do not know every clip: one that they lack might be of a held-out patient."""
    if splits is not None:
        splits.check(clips.table["clip_id"].astype(str))


def require_patients_apart(fold: int, patients: np.ndarray, train: np.ndarray, test: np.ndarray) -> None:
    """Refuse a fold that has one patient on both sides. Masks bool [N], patients [N]."""
    both = sorted(set(patients[train]) & set(patients[test]))
    if both:
        raise SonokitError(
            f"fold {fold} of the splits has {', '.join(both[:3])} on both sides: the manifest's patients are not those "
            "that the splits were made with; make the splits anew (sonokit split)"
        )
