"""What an expert's score at another hospital must be read against: floors that learnt at home, tested on the same clips.

``most_frequent`` needs the reference only. ``metadata`` and ``random_init`` are fitted on the training store, which may not be
at hand: then they say so.
"""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ...evaluation.floors import MetadataForest, metadata_features
from ...evaluation.out_of_fold import fit_rows, predicted_values
from ...evaluation.predictions import Predictions
from ...features.store import EmbeddingStore
from ..crossval import Measured
from ..folder import Expert
from ..heads import HEADS, head_name, make_head
from ..labels import as_numbers, class_names
from ..predict import expert_features
from .cases import ExternalCases

_NO_STORE = "the training store was not given (--against)"


@dataclass(frozen=True)
class Training:
    """The store that an expert was fitted on, where it is at hand, and the clips that count as its cases.

    Attributes:
        store: All of it.
        clips: One row a case, none of them held out.
        held_out_contents: What its column ``split`` holds out, see :mod:`~sonokit.experts.external.known_clips`; uint64 [·].
    """

    store: EmbeddingStore
    clips: pd.DataFrame
    held_out_contents: np.ndarray

    @property
    def clip_ids(self) -> np.ndarray:
        """Names of these clips, str [C]."""
        return self.clips["clip_id"].to_numpy(dtype=str)

    def owners(self, expert: Expert) -> np.ndarray:
        """Whose each is, str [C], empty where unknown."""
        return self.clips[expert.patient].astype("string").fillna("").str.strip().to_numpy(dtype=str)


def external_floors(
    expert: Expert, cases: ExternalCases, predictions: Predictions, store: EmbeddingStore, training: Training | None,
    *, seed: int = 0,
) -> dict[str, Measured]:  # fmt: skip
    """Predictions of every floor, or why there are none; names as in :mod:`sonokit.evaluation.floors`.

    Args:
        expert: What they stand beside; it has a reference.
        cases: Who is asked.
        predictions: The expert's, of ``cases``.
        store: The other hospital's.
        training: None where it is not at hand.
        seed: Of what is fitted.
    """
    assert expert.reference is not None
    constant = np.broadcast_to(expert.reference.constant, predictions.values.shape)
    floors: dict[str, Measured] = {"most_frequent": replace(predictions, values=constant.copy())}
    if training is None:
        return floors | {"metadata": _NO_STORE, "random_init": _NO_STORE}
    if expert.unit == "patient":
        why = "measured for experts that predict for clips only"
    elif expert.label not in training.clips:
        why = f"the training store has no column {expert.label}"
    else:
        return floors | {
            "metadata": _metadata(expert, cases, predictions, training, seed),
            "random_init": _random_init(expert, cases, predictions, store, training, seed),
        }
    return floors | {"metadata": why, "random_init": why}


def _metadata(expert: Expert, cases: ExternalCases, found: Predictions, training: Training, seed: int) -> Measured:
    both = pd.concat([training.clips[["container", "frame_rate"]], cases.rows[["container", "frame_rate"]]], ignore_index=True)
    inputs = metadata_features(both)  # together, so that a container has the same column on both sides
    truth, rows = _home_truth(expert, training)
    home = inputs[: len(training.clips)]
    forest = fit_rows(lambda: MetadataForest(expert.task, seed), home, truth, training.owners(expert), rows, task=expert.task)
    values = predicted_values(forest, inputs[len(home) :], expert.task, len(expert.classes))
    return replace(found, values=np.round(values, 7)[None])


def _random_init(
    expert: Expert, cases: ExternalCases, found: Predictions, store: EmbeddingStore, training: Training, seed: int
) -> Measured:
    """The same kind of head on the floor of the training store, tested on that of the other."""
    if "biomarkers" in expert.recipe:
        return "the recipe reads biomarkers, which a random network has not"
    here, there = store.floor, training.store.floor
    if here is None or there is None:
        return "no floor/ beside both stores (extract-features --floor)"
    if here.header_on_disk.fingerprint != there.header_on_disk.fingerprint:
        return "the floors of the two stores are of different networks"
    truth, rows = _home_truth(expert, training)
    kind = head_name(expert.head)
    inputs = expert_features(expert, there).rows(training.clip_ids)
    fitted = fit_rows(
        lambda: make_head((kind if kind in HEADS else "linear",), expert.task, seed),
        inputs, truth, training.owners(expert), rows, task=expert.task,
    )  # fmt: skip
    values = predicted_values(fitted, expert_features(expert, here).rows(cases.names), expert.task, len(expert.classes))
    return replace(found, values=np.round(values, 7)[None])


def _home_truth(expert: Expert, training: Training) -> tuple[np.ndarray, np.ndarray]:
    """Class codes or values of the training clips [C], and the rows whose are known, int [·]."""
    labels = training.clips[expert.label]
    if expert.task == "regression":
        numbers = as_numbers(labels, training.clips["clip_id"], expert.label)
        return numbers, np.flatnonzero(~np.isnan(numbers))
    codes = class_names(labels).map({name: code for code, name in enumerate(expert.classes)})
    known = codes.notna().to_numpy(dtype=bool)
    return codes.fillna(-1).to_numpy(dtype=np.int64), np.flatnonzero(known)
