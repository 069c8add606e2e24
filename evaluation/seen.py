"""What a backbone had met before it was tested: with labels, which no score survives, or without, which a report must say."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from ..errors import SonokitError


def clips_seen(provenance: Mapping[str, Any], content_hashes: pd.Series, patients: np.ndarray) -> np.ndarray:
    """Which clips (by content), or others of their patients, a backbone was trained on, with or without labels: bool [N]."""
    contents = set(provenance.get("training_clips", {}).values())
    people = set(provenance.get("training_patients", []))
    return np.isin(content_hashes.to_numpy(dtype=str), list(contents)) | np.isin(patients, list(people))


def require_unseen(provenance: Mapping[str, Any], content_hashes: pd.Series, patients: np.ndarray) -> None:
    """Refuse a backbone that was fitted on labels of clips, or of patients, that it would be tested on.

    Any label counts, not only the one that is asked for: a severity tells much of a diagnosis. Clips that were seen without
    labels are no reason to refuse (a hospital may pretrain on the very clips that it will ask about), but the report says so.

    Args:
        provenance: Of the backbone; for one of a set, together with the clips that its own fold tests.
        content_hashes: Of the clips to be tested, [M].
        patients: Whose they are, [M].

    Raises:
        SonokitError: At least one of them.
    """
    if not provenance.get("fitted_on_labels", False):
        return
    count = int(clips_seen(provenance, content_hashes, patients).sum())
    if count:
        raise SonokitError(
            f"the backbone was fitted on labels ({', '.join(provenance.get('labels', []))}) of {count} of these clips or their "
            "patients: no score would be fair. Probe other patients, or pretrain without a label, or once a fold (pretrain "
            "--splits --fold) and probe the set from Python"
        )
