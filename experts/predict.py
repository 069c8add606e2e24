"""Predictions of a finished expert for every clip of a store, and what they resemble among the training clips."""

from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import SonokitError
from ..features.store import EmbeddingStore, StoreSet
from .external.bank import NEIGHBOUR, Bank, open_bank, read_units
from .external.cases import banked_clips
from .folder import Expert, MultiExpert, load_expert
from .labels import class_names
from .recipes import ClipFeatures, clip_features

NEAREST = 5
"""How many banked cases are named."""


def predict(
    expert: Expert | MultiExpert | str | Path,
    store: EmbeddingStore | StoreSet,
    *,
    bank: EmbeddingStore | StoreSet | None = None,
    nearest: int = NEAREST,
    why: int = 0,
) -> pd.DataFrame:
    """One row a clip, in the store's order; of an expert that predicts for patients one row a patient.

    Args:
        expert: A fitted expert, or its folder.
        store: A store of the extractor that the expert was fitted on; of a store set the final store is read.
        bank: The store that the expert was fitted on, or its set, for the columns that compare with training clips; one that
            lacks clips which the expert learnt from is refused. Its clips with a known label count (those of the expert's
            ``where`` and classes, none that is held out), or, where the labels came from a CSV and are not in it, all of the
            expert's ``where``. A folder of schema version 1 or 2 keeps neither its ``where`` nor its training clips: all clips
            of its classes count, and it is not checked whose store it is.
        nearest: How many banked cases to name.
        why: How many contributions to each answer to name, see :mod:`sonokit.experts.report.why`.

    Returns:
        clip_id (or patient_id) and prediction (name of the class, or a number). For classes ``p_<class>``, calibrated, which
        sum to 1; ``set``, the names of the conformal set with a bar between them; ``<finding> at …`` 1 or 0 for each
        operating point. The prediction is the head's, to which all classes are equally frequent; where they are not, another
        may have the highest ``p_``. For a number ``low`` and ``high``. An expert of an older sonokit has its own probabilities
        and nothing more.

        With a bank, the most similar training clips, never of the same patient: ``nearest_1`` … (clip_id), each followed by
        ``…_distance`` (one minus the cosine between the clip's mean direction and the banked clip's most similar segment) and,
        where the bank has it, ``…_label``; then ``distance``, to the fifth nearest, and ``out_of_distribution``, 1 where that
        is beyond the threshold of the fit, which at most 5 % of new patients' clips like the training ones exceed, each patient
        counted once (see :mod:`sonokit.experts.external.bank`; absent where the expert keeps no threshold).

        For several labels the columns are ``<label>``, ``p_<label>`` (of the second class; of more than two
        ``p_<label>_<class>``), ``set_<label>`` and ``<label> at …``, or ``low_<label>`` and ``high_<label>``. With ``why``,
        ``why_1`` … follow (of one label only).

    Raises:
        SonokitError: Not an expert folder, a store or a bank of another extractor, a bank that it was not fitted on, or a head
            that cannot say why.
    """
    found = expert if isinstance(expert, Expert | MultiExpert) else load_expert(expert)
    final = store.final if isinstance(store, StoreSet) else store
    parts, first = _predicted(found, final, why)
    if bank is not None:
        label = first.label if isinstance(found, Expert) else None
        parts.append(_compared(first, final, bank, nearest, parts[0].iloc[:, 0].to_numpy(), label))
    return parts[0] if len(parts) == 1 else pd.concat(parts, axis=1)


def expert_features(
    expert: Expert, store: EmbeddingStore, *, patient: str | None = None, only: np.ndarray | None = None
) -> ClipFeatures:
    """What the expert reads of a store: one row a clip, or a patient.

    Args:
        expert: Whose recipe it is.
        store: Of its extractor.
        patient: The column that says whose a clip is; None: the expert's.
        only: Names of the clips that are looked at, str [·]; None: all.
    """
    return clip_features(store, expert.recipe, expert.unit, patient or expert.patient, only=only)


def raw_values(expert: Expert, features: ClipFeatures) -> np.ndarray:
    """The head's own [C, K] or [C], to seven digits, as they were when the readout was fitted."""
    return np.round(expert.values(features.X), 7) + 0.0  # no -0.0 of a rounded probability


def predicted_table(expert: Expert, features: ClipFeatures) -> pd.DataFrame:
    """The columns of :func:`predict` that need no bank."""
    values = raw_values(expert, features)
    columns: dict[str, object] = {_key(expert): features.clip_ids}
    if expert.task == "regression":
        columns["prediction"] = values
        if expert.readout is not None and expert.readout.interval is not None:
            columns["low"], columns["high"] = expert.readout.interval.apply(values)
        return pd.DataFrame(columns)
    columns["prediction"] = np.asarray(expert.classes, dtype=object)[values.argmax(axis=1)]
    shown = values if expert.readout is None else expert.readout.calibrated(values) + 0.0
    columns |= {f"p_{name}": shown[:, code] for code, name in enumerate(expert.classes)}
    if expert.readout is None:
        return pd.DataFrame(columns)
    if expert.readout.sets is not None:
        columns["set"] = set_names(expert.readout.sets.apply(values), expert.classes)  # of the raw ones
    for point in expert.readout.points:
        if point.threshold is not None:
            columns[point.name] = point.apply(shown).astype(np.int64)
    return pd.DataFrame(columns)


def set_names(inside: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """The names of each set with a bar between them, object [C], from bool [C, K]."""
    packed = np.packbits(inside, axis=1)  # few different sets, however many clips
    codes = packed[:, 0] if packed.shape[1] == 1 else packed
    _, first, which = np.unique(codes, axis=0, return_index=True, return_inverse=True)
    names = np.asarray(classes, dtype=object)
    return np.array(["|".join(names[inside[row]]) for row in first], dtype=object)[which.reshape(-1)]


def _predicted(found: Expert | MultiExpert, store: EmbeddingStore, why: int) -> tuple[list[pd.DataFrame], Expert]:
    """What needs no bank, and the expert (of several, one) whose training clips a bank is asked for."""
    if isinstance(found, MultiExpert):
        if why:
            raise SonokitError("--why is for an expert of one label: name the folder of one, such as EXPERT/labels/NAME")
        return [_predict_labels(found, store)], next(iter(found.experts.values()))
    found.require_same_store(store)
    features = expert_features(found, store)
    parts = [predicted_table(found, features)]
    if why:
        from .report.why import case_contributions  # which reads this expert's folder too

        parts.append(case_contributions(found, features, why))
    return parts, found


def _key(expert: Expert) -> str:
    return "patient_id" if expert.unit == "patient" else "clip_id"


def _predict_labels(expert: MultiExpert, store: EmbeddingStore) -> pd.DataFrame:
    """The experts of several labels side by side; features that two of them share are read once."""
    read: dict[str, ClipFeatures] = {}
    parts: list[pd.DataFrame] = []
    for label, one in expert.experts.items():
        one.require_same_store(store)
        if one.recipe not in read:
            read[one.recipe] = expert_features(one, store)
        table = predicted_table(one, read[one.recipe])
        names = _names_of_label(label, one, table)
        kept = [_key(one), *names] if not parts else list(names)
        parts.append(table[kept].rename(columns=names))
    return pd.concat(parts, axis=1)


def _names_of_label(label: str, expert: Expert, table: pd.DataFrame) -> dict[str, str]:
    """Column of one label's table -> its name beside those of others. Of two classes the second speaks for both."""
    plain = {"prediction": label, **{name: f"{name}_{label}" for name in ("set", "low", "high")}}
    if len(expert.classes) == 2:
        second = expert.classes[1]
        plain[f"p_{second}"] = f"p_{label}"
        plain |= {name: f"{label}{name.removeprefix(second)}" for name in map(str, table) if name.startswith(f"{second} at ")}
    else:
        plain |= {f"p_{name}": f"p_{label}_{name}" for name in expert.classes}
        plain |= {name: f"{label} {name}" for name in map(str, table) if " at " in name and name not in plain}
    return {name: plain[name] for name in map(str, table) if name in plain}


def _compared(
    expert: Expert, store: EmbeddingStore, bank: EmbeddingStore | StoreSet, nearest: int, names: np.ndarray, label: str | None
) -> pd.DataFrame:
    """The columns of :func:`predict` that a bank gives."""
    if nearest < 1:
        raise SonokitError(f"at least one nearest case has to be asked for, not {nearest}")
    training = bank.final if isinstance(bank, StoreSet) else bank
    expert.require_same_store(training)
    clips = banked_clips(expert, training)
    opened: Bank = open_bank(training, clips["clip_id"].to_numpy(dtype=str), patient=expert.patient)
    nearness = None if expert.reference is None else expert.reference.nearness
    neighbour = NEIGHBOUR if nearness is None else nearness.neighbour
    units = read_units(store, names, unit=expert.unit, patient=expert.patient)
    cases = opened.nearest(units, max(nearest, neighbour))
    columns: dict[str, object] = {}
    labels = _labels(clips, label)
    for place in range(nearest):
        found = cases.clip_ids[:, place]
        columns[f"nearest_{place + 1}"] = found
        columns[f"nearest_{place + 1}_distance"] = cases.distances[:, place]
        if labels is not None:
            columns[f"nearest_{place + 1}_label"] = labels.reindex(found).to_numpy(dtype=object)
    columns["distance"] = cases.distances[:, neighbour - 1]
    if nearness is not None and nearness.threshold is not None:
        columns["out_of_distribution"] = nearness.beyond(cases.distances[:, neighbour - 1]).astype(np.int64)
    return pd.DataFrame(columns)


def _labels(clips: pd.DataFrame, label: str | None) -> pd.Series | None:
    """The label of each banked clip by its name; None where the bank has none."""
    if label is None or label not in clips:
        return None
    return pd.Series(class_names(clips[label]).to_numpy(dtype=object), index=clips["clip_id"].to_numpy(dtype=object))
