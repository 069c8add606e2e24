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
        clip_id and prediction (name of the class, or a number). For classes ``p_<class>``, calibrated, which sum to 1;
        ``set``, the names of the conformal set with a bar between them; ``<finding> at …`` 1 or 0 for each operating point.
        The prediction is the head's, to which all classes are equally frequent; where they are not, another may have the
        highest ``p_``. For a number ``low`` and ``high``. An expert of an older sonokit has its own probabilities and nothing
        more.

    Raises:
        SonokitError: Not an expert folder, or a store of another extractor.
    """
    found = expert if isinstance(expert, Expert) else load_expert(expert)
    final = store.final if isinstance(store, StoreSet) else store
    found.require_same_store(final)
    features = clip_features(final, found.recipe)
    values = np.round(found.values(features.X), 7)  # as they were when the readout was fitted
    if found.task == "regression":
        table = pd.DataFrame({"clip_id": features.clip_ids, "prediction": values})
        if found.readout is None or found.readout.interval is None:
            return table
        low, high = found.readout.interval.apply(values)
        return table.assign(low=low, high=high)
    names = np.asarray(found.classes, dtype=object)
    table = pd.DataFrame({"clip_id": features.clip_ids, "prediction": names[values.argmax(axis=1)]})
    shown = values if found.readout is None else found.readout.calibrated(values)
    table = table.assign(**{f"p_{name}": shown[:, code] for code, name in enumerate(found.classes)})
    if found.readout is None:
        return table
    if found.readout.sets is not None:
        inside = found.readout.sets.apply(values)  # of the raw ones
        table["set"] = ["|".join(names[row]) for row in inside]
    calls = {point.name: point.apply(shown) for point in found.readout.points if point.threshold is not None}
    return table.assign(**{name: called.astype(np.int64) for name, called in calls.items()})
