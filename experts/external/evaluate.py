"""A finished expert at another hospital: nothing is fitted, calibrated or thresholded on the clips that it is scored on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...clips.held_out_column import held_out_by_column
from ...errors import SonokitError
from ...evaluation.bootstrap import interval
from ...evaluation.by_group import group_names
from ...evaluation.calibration_scores import calibration_intervals, chance_error
from ...evaluation.nested import Reading, read_values
from ...evaluation.predictions import Predictions
from ...evaluation.scores import weighted_confusion
from ...features.store import EmbeddingStore, StoreSet
from ..floors import floor_entries
from ..folder import Expert, load_single_expert
from ..predict import expert_features, predicted_table, raw_values
from ..recipes import ClipFeatures, clip_table
from ..report.trust import trust_entries
from ..settings import require_draws
from .bank import open_bank, read_units
from .cases import ExternalCases, banked_clips, external_cases
from .drift import (
    exchanged_share,
    feature_shift,
    label_shift,
    metadata_shift,
    out_of_distribution,
    prediction_shift,
    some_rows,
    tell_apart,
)
from .floors import Training, external_floors
from .known_clips import fair_cases, known_contents
from .reference import Reference
from .verdict import verdict

SCHEMA_VERSION = 1

_ERROR_DRAWS = 199
_FEWEST_AT_HOME = 2  # patients, to be told apart from those here by folds of patients


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes:
        content: All figures as plain values, as in evaluation.json.
        predictions: One row a case: what the expert says, ``truth``, and with the training store ``out_of_distribution``.
    """

    content: dict[str, Any]
    predictions: pd.DataFrame


def evaluate(
    expert: Expert | str | Path, store: EmbeddingStore | StoreSet, *, label: str | None = None,
    labels_csv: str | Path | None = None, where: Mapping[str, str] | None = None,
    against: EmbeddingStore | StoreSet | None = None, patient: str | None = None,
    spo2: str | None = None, fio2: str | None = None, columns: Sequence[str] = ("site", "probe"),
    draws: int = 2000, level: float = 0.95, seed: int = 0,
) -> Evaluation:  # fmt: skip
    """Score a finished expert on another hospital's labelled store.

    Patients whom the expert learnt from, or who are held out from it, are left out: this is no way to the held-out part.

    Args:
        expert: The expert, or its folder.
        store: The other hospital's, made by the extractor that the expert reads; of a store set the final one.
        label: The column of the truth; None: named as the expert's label. Its values are mapped to the classes by name.
        labels_csv: Labels keyed by clip_id or patient_id, which add to the store's and override them.
        where: Only clips whose column has this value.
        against: The store that the expert was fitted on, for what cannot be told without it: who is in both, floors that are
            fitted at home, which clips lie beyond the training clips, how well the two can be told apart.
        patient: The column that says whose a clip is; None: the expert's.
        spo2: The column of the oxygen saturation, for an S/F ratio (see :mod:`sonokit.experts.oxygenation`).
        fio2: The column of the inspired oxygen fraction, for an S/F ratio.
        columns: By which the scores are told apart, where the store has them.
        draws: Resamples of the patients, at least 1.
        level: Of the intervals.
        seed: Of all that is drawn; the same seed gives the same figures.

    Raises:
        SonokitError: The expert cannot be asked of this store; the message says why and what to do.
    """
    require_draws(draws)
    found = expert if isinstance(expert, Expert) else load_single_expert(expert)
    if found.reference is None:
        raise SonokitError("this expert does not say what its training clips were like: fit it again with this sonokit")
    here = store.final if isinstance(store, StoreSet) else store
    found.require_same_store(here)
    training = _training(found, against)
    cases = external_cases(
        found, here, label=label, labels_csv=Path(labels_csv) if labels_csv else None, where=where, patient=patient,
        spo2=spo2, fio2=fio2,
    )  # fmt: skip
    cases = fair_cases(found, cases, here, training)
    drawing: dict[str, Any] = {"n": draws, "seed": seed, "level": level}
    clip_ids = cases.clips["clip_id"].to_numpy(dtype=str)
    features = expert_features(found, here, patient=cases.patient_column, only=clip_ids)
    told = ClipFeatures(cases.names, features.rows(cases.names), features.names)
    values = raw_values(found, told)
    predictions = Predictions(found.task, found.classes, cases.names, cases.patients, cases.truth, values[None])
    reading = None if found.readout is None else read_values(found.readout, found.task, found.classes, predictions.values)
    groups = _groups(cases, columns)
    floors = external_floors(found, cases, predictions, here, training, seed=seed)
    beyond = None if training is None else _beyond(found, here, cases, training)
    content: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "label": found.label,
        "label_here": label or found.label,
        "task": found.task,
        "classes": list(found.classes),
        "unit": found.unit,
        "patient": cases.patient_column,
        "primary": found.reference.primary,
        "where": dict(where or {}),
        "settings": {"draws": draws, "seed": seed, "level": level, "against": training is not None},
        "store": {"fingerprint": found.store.fingerprint, "model": found.store.model},
        "data": _data(found, cases),
        "scores": {name: figure.as_dict() for name, figure in predictions.intervals(draws, seed, level).items()},
        "home": _home(found.reference),
        "here_minus_home": _here_minus_home(found.reference, predictions, draws, seed, level),
        "floors": floor_entries(predictions, floors, draws=draws, seed=seed, level=level),
        "trust": (
            None if reading is None else trust_entries(predictions, reading, groups, draws=draws, seed=seed, level=level)
        ),
        "calibration_error": None if reading is None else _calibration_error(found.reference, predictions, reading, seed),
        "drift": _drift(found, cases, told, values, training, beyond, drawing),
        "confusion": _confusion(predictions),
        "notes": [*cases.notes, *_notes(found, cases, training is not None), *_unknown_at_home(found, training)],
    }
    content["verdict"] = verdict(content)
    return Evaluation(content, _table(found, told, cases, beyond))


def _training(expert: Expert, against: EmbeddingStore | StoreSet | None) -> Training | None:
    if against is None:
        return None
    there = against.final if isinstance(against, StoreSet) else against
    expert.require_same_store(there)
    table = clip_table(there)
    return Training(there, banked_clips(expert, there), known_contents(table, held_out_by_column(table, expert.patient)[0]))


def _groups(cases: ExternalCases, columns: Sequence[str]) -> dict[str, np.ndarray]:
    return {column: group_names(cases.rows[column], column) for column in columns if column in cases.rows}


def _data(expert: Expert, cases: ExternalCases) -> dict[str, Any]:
    sites = set(cases.rows["site"].dropna().astype(str)) - {""}
    classes = [
        {
            "name": name,
            "clips": int((cases.truth == code).sum()),
            "patients": len(np.unique(cases.patients[cases.truth == code])),
        }
        for code, name in enumerate(expert.classes)
    ]
    return {
        "clips": len(cases.names), "patients": len(np.unique(cases.patients)), "sites": len(sites), "classes": classes,
        "unknown_classes": cases.unknown_classes,
    }  # fmt: skip


def _home(reference: Reference) -> dict[str, Any]:
    """The expert's own cross-validated scores."""
    scores = {name: {key: figure[key] for key in ("value", "low", "high")} for name, figure in reference.scores.items()}
    return {"clips": reference.clips, "patients": reference.patients, "scores": scores}


def _here_minus_home(reference: Reference, predictions: Predictions, draws: int, seed: int, level: float) -> dict[str, Any]:
    """Unpaired: other patients on either side, resampled independently."""
    found = {}
    for name, drawn in predictions.draws(draws, seed).items():
        home = reference.score_draws(name, draws, seed + 1)
        if home is not None:
            found[name] = interval(drawn - home, predictions.patients, level).as_dict()
    return found


def _calibration_error(reference: Reference, raw: Predictions, reading: Reading, seed: int) -> dict[str, Any] | None:
    """Whether calibrated probabilities are further from the truth than chance puts right ones; Brier of the prior."""
    if raw.task == "regression":
        return None
    calibrated = replace(raw, values=reading.calibrated)
    error = calibration_intervals(calibrated, n=1, seed=seed)["ece"].value
    chance = np.array([chance_error(calibrated, draws=1, seed=seed + draw) for draw in range(_ERROR_DRAWS)])
    prior = replace(raw, values=np.broadcast_to(reference.prior, raw.values.shape))
    brier = calibration_intervals(prior, n=1, seed=seed)["brier"].value
    return {
        "ece": error, "by_chance": float(chance.mean()), "p": float((1 + (chance >= error).sum()) / (1 + len(chance))),
        "brier_of_home_prior": brier,
    }  # fmt: skip


def _beyond(expert: Expert, here: EmbeddingStore, cases: ExternalCases, training: Training) -> np.ndarray | str:
    """Which cases lie beyond the training clips, bool [N], or why that cannot be said."""
    nearness = None if expert.reference is None else expert.reference.nearness
    if nearness is None or nearness.threshold is None:
        return "the expert was fitted on too few patients for a threshold"
    bank = open_bank(training.store, training.clip_ids, patient=expert.patient)
    units = read_units(here, cases.names, unit=expert.unit, patient=cases.patient_column)
    return nearness.beyond(bank.nearest(units, nearness.neighbour).distances[:, -1])


def _drift(
    expert: Expert, cases: ExternalCases, told: ClipFeatures, values: np.ndarray, training: Training | None,
    beyond: np.ndarray | str | None, drawing: dict[str, Any],
) -> dict[str, Any]:  # fmt: skip
    reference = expert.reference
    assert reference is not None
    found: dict[str, Any] = {
        "labels": label_shift(reference, cases.truth, cases.patients, **drawing),
        "predictions": prediction_shift(reference, values, cases.patients, **drawing),
        "features": feature_shift(reference, told.X, cases.patients),
        "metadata": metadata_shift(reference, cases.clips),
    }
    if training is None or reference.nearness is None:
        return found
    found["out_of_distribution"] = (
        {"reason": f"not measured: {beyond}"}
        if isinstance(beyond, str) or beyond is None
        else out_of_distribution(beyond, reference.nearness.false_alarms, cases.patients, **drawing)
    )
    seed = drawing["seed"]
    home, owners = _home_features(expert, training)
    if len(np.unique(owners)) < _FEWEST_AT_HOME:
        return found
    at_home, now = some_rows(owners, seed), some_rows(cases.patients, seed)
    sides = home[at_home], owners[at_home], told.X[now], cases.patients[now]
    found["features"]["exchanged"] = exchanged_share(*sides, seed=seed)
    found["told_apart"] = tell_apart(*sides, **drawing).as_dict()
    return found


def _home_features(expert: Expert, training: Training) -> tuple[np.ndarray, np.ndarray]:
    """Features [M, F] of the training cases whose patients are known, and whose they are [M]."""
    owners = training.owners(expert)
    known = owners != ""
    if not known.any():
        return np.empty((0, 0)), owners[known]
    features = expert_features(expert, training.store, only=training.clip_ids[known])
    if expert.unit == "patient":
        return features.X, features.clip_ids
    return features.rows(training.clip_ids[known]), owners[known]


def _unknown_at_home(expert: Expert, training: Training | None) -> list[str]:
    """A note where clips of the training store are nobody's: together they would look like one large patient."""
    owners = np.empty(0, dtype=str) if training is None else training.owners(expert)
    without = int((owners == "").sum())
    if not without:
        return []
    return [
        f"{without} clips of the training store have no {expert.patient}: how well the two hospitals can be told apart, and "
        "what exchanging patients gives, is measured without them"
    ]


def _confusion(found: Predictions) -> list[list[float]] | None:
    """Truth in rows; None for regression."""
    if found.task == "regression":
        return None
    ones = np.ones((1, len(found.truth)))
    return weighted_confusion(found.truth, found.values[0].argmax(axis=1), len(found.classes), ones)[0].tolist()


def _notes(expert: Expert, cases: ExternalCases, has_training: bool) -> list[str]:
    notes = []
    absent = [name for code, name in enumerate(expert.classes) if not (cases.truth == code).any()]
    if absent:
        notes.append(
            f"no case here is of class {' or '.join(absent)}: the scores are over the other classes, unlike those at home"
        )
    if not has_training:
        notes.append(
            "without the training store (--against) patients of the training are known by identical files only, not by name, "
            "and it could not be checked which clips lie beyond the training clips, nor what file metadata or a random network "
            "would reach"
        )
    if expert.readout is None:
        notes.append("the expert is of an older sonokit: it has no calibrated probabilities, sets or operating points to check")
    return notes


def _table(expert: Expert, told: ClipFeatures, cases: ExternalCases, beyond: np.ndarray | str | None) -> pd.DataFrame:
    table = predicted_table(expert, told)
    truth = cases.truth if expert.task == "regression" else np.asarray(expert.classes, dtype=object)[cases.truth]
    table.insert(1, "truth", truth)
    return table if beyond is None or isinstance(beyond, str) else table.assign(out_of_distribution=beyond.astype(np.int64))
