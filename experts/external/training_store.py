"""Whether a store is the one that an expert was fitted on: nearest cases, floors and thresholds are nothing without it."""

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ...errors import SonokitError
from ...features.store import EmbeddingStore
from .known_clips import content_numbers

if TYPE_CHECKING:
    from ..folder import Expert


def require_training_store(expert: "Expert", store: EmbeddingStore, table: pd.DataFrame, banked: int) -> None:
    """Refuse a store without the clips that the expert learnt from; clips that came to it later do not matter.

    Of an expert whose reference holds no numbers of clips (an older sonokit's, or a store without content hashes) only their
    count is compared; of one without a reference nothing can be checked.

    Args:
        expert: Which.
        store: That is said to be its own.
        table: One row a clip of it.
        banked: How many of them it could have learnt from.

    Raises:
        SonokitError: Training clips are missing.
    """
    reference = expert.reference
    if reference is None:
        return
    learnt = reference.training_contents
    missing = int((~np.isin(learnt, content_numbers(table["content_hash"]))).sum())
    if missing:
        raise _another(store, f"{missing} of its {len(learnt)} training clips are not in it")
    if not len(learnt) and banked < reference.clips:
        raise _another(store, f"it learnt from {reference.clips} {expert.unit}s, of which at most {banked} are there")


def _another(store: EmbeddingStore, why: str) -> SonokitError:
    return SonokitError(
        f"{store.folder} is not what the expert was fitted on: {why}. Give the store that fit-expert read, or none"
    )
