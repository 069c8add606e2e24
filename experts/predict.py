"""Predictions of a finished expert for every clip of a store."""

from pathlib import Path

import numpy as np
import pandas as pd

from ..features.store import EmbeddingStore, StoreSet
from .folder import Expert, load_expert
from .recipes import clip_features


def predict(expert: Expert | str | Path, store: EmbeddingStore | StoreSet) -> pd.DataFrame:
    """One row a clip, in the store's order.

    Args:
        expert: A fitted expert, or its folder.
        store: A store of the extractor that the expert was fitted on; of a store set the final store is read.

    Returns:
        clip_id, prediction (name of the class, or a number), and for classes ``p_<class>``, which sum to 1.

    Raises:
        SonokitError: Not an expert folder, or a store of another extractor.
    """
    found = expert if isinstance(expert, Expert) else load_expert(expert)
    final = store.final if isinstance(store, StoreSet) else store
    found.require_same_store(final)
    features = clip_features(final, found.recipe)
    values = found.values(features.X)
    if found.task == "regression":
        return pd.DataFrame({"clip_id": features.clip_ids, "prediction": values})
    names = np.asarray(found.classes, dtype=object)
    table = pd.DataFrame({"clip_id": features.clip_ids, "prediction": names[values.argmax(axis=1)]})
    return table.assign(**{f"p_{name}": values[:, code] for code, name in enumerate(found.classes)})
