"""What an expert folder keeps of its training clips, so that it can tell elsewhere whether clips are still like them.

Numbers over all clips: counts, means, quantiles, a threshold; and of each clip a number made of its file's hash, by which its
file is recognised where somebody has it. No name of a clip or a patient, and no clip's embedding, so that the folder can leave
the hospital where the training store cannot.

    reference.json    counts, distributions, scores
    reference.npz     statistics of each feature and each dimension of the embedding, the numbers (read without pickles)
"""

import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ...atomic import atomic_path, write_json
from ...errors import SonokitError
from ...evaluation.bootstrap import interval
from ...evaluation.predictions import Predictions
from ...evaluation.scores import PRIMARY, Task
from ...features.store import EmbeddingStore
from ..recipes import clip_features, clip_table
from .bank import Nearness, measure_nearness, nearness_from_dict
from .known_clips import known_contents

SCHEMA_VERSION = 1
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
TOP_BINS = 10
METADATA = ("site", "probe", "container")

_ARRAYS, _CONTENTS = ("features", "embedding"), ("training_contents", "held_out_contents")
_DRAWN = 101  # points at which the distribution of a resampled score is kept


@dataclass(frozen=True)
class Reference:
    """Of N training clips (or patients, where a patient is what is predicted).

    Attributes:
        task: What kind of label it is.
        classes: Names of the K classes; empty for regression.
        where: Only clips whose column had this value took part.
        clips, patients: How many.
        label: For classes ``classes``, name -> {"clips", "patients"}; for a number ``mean`` and ``quantiles``.
        feature_names: F of them.
        features: Mean, standard deviation and the ``QUANTILES`` of each feature, float64 [F, 9].
        embedding: The same of each dimension of the clips' mean embedding, float64 [D, 9].
        predicted: Of the raw out-of-fold predictions. Classes: ``mean`` probability of each, ``share`` of clips that each was
            predicted for, and ``top``, the histogram of the highest probability (ten bins from 0 to 1, shares). A number:
            ``mean`` and ``quantiles``.
        metadata: Column -> value -> share of the clips, and ``frame_rate`` -> ``quantiles`` and ``unknown`` (share).
        scores: Score -> ``value``, ``low``, ``high``, and ``quantiles`` of its resamples (at 0, 1, … 100 %; None where it has
            none), out of fold.
        nearness: See :class:`~sonokit.experts.external.bank.Nearness`; None with one patient.
        training_contents: Numbers of the clips that were learnt from, uint64 [·], see
            :mod:`~sonokit.experts.external.known_clips`; none in folders of an older sonokit.
        held_out_contents: Those of the clips that were held out, uint64 [·].
    """

    task: Task
    classes: tuple[str, ...]
    where: dict[str, str]
    clips: int
    patients: int
    label: dict[str, Any]
    feature_names: tuple[str, ...]
    features: np.ndarray
    embedding: np.ndarray
    predicted: dict[str, Any]
    metadata: dict[str, Any]
    scores: dict[str, Any]
    nearness: Nearness | None
    training_contents: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.uint64))
    held_out_contents: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.uint64))

    @property
    def primary(self) -> str:
        """The score that is shown first."""
        return PRIMARY[self.task]

    @property
    def constant(self) -> np.ndarray:
        """What always saying the same predicts: the most frequent class with probability 1, float [K]; or the mean, []."""
        if self.task == "regression":
            return np.asarray(float(self.label["mean"]))
        counts = [self.label["classes"][name]["clips"] for name in self.classes]
        return np.eye(len(counts))[int(np.argmax(counts))]

    @property
    def prior(self) -> np.ndarray:
        """Share of each class among the training clips, float [K]."""
        counts = np.array([self.label["classes"][name]["clips"] for name in self.classes], dtype=np.float64)
        return counts / counts.sum()

    def score_draws(self, score: str, n: int, seed: int) -> np.ndarray | None:
        """The score (first) and ``n`` draws from the distribution of its resamples, [1 + n]; None where it has none."""
        kept = self.scores.get(score)
        if kept is None or kept["value"] is None or kept["quantiles"] is None:
            return None
        at = np.random.default_rng(seed).random(n)
        drawn = np.interp(at, np.linspace(0, 1, len(kept["quantiles"])), kept["quantiles"])
        return np.concatenate([[kept["value"]], drawn])


def make_reference(
    store: EmbeddingStore, clip_ids: np.ndarray, patients: np.ndarray, truth: np.ndarray, classes: tuple[str, ...],
    features: np.ndarray, predictions: Predictions, *, names: tuple[str, ...], where: Mapping[str, str] | None = None,
    unit: str = "clip", patient: str = "patient_id", banked: np.ndarray | None = None,
    held_out: np.ndarray | None = None, draws: int = 2000, level: float = 0.95, seed: int = 0,
) -> Reference:  # fmt: skip
    """Sum up the clips that an expert was fitted on.

    Args:
        store: That the expert reads; nothing is written into it.
        clip_ids: The training clips, none of them held out, str [N]; with ``unit="patient"`` the patients.
        patients: Whose each is, str [N].
        truth: Class codes int [N], or float [N].
        classes: Names of the K classes; empty for regression.
        features: The expert's own, float [N, F].
        predictions: Out of fold, raw.
        names: Of the features, F of them.
        where: Only clips whose column had this value took part.
        unit: What a row is, "clip" or "patient".
        patient: The column that says whose a clip is.
        banked: Every clip behind these rows, str [M]; None: ``clip_ids``, or all clips of the patients.
        held_out: The clips that are held out, str [·]; None for none.
        draws: Resamples of the patients for the scores' distribution.
        level: Of their intervals.
        seed: Of the resampling.
    """
    table = clip_table(store)
    if banked is None:
        key = patient if unit == "patient" else "clip_id"
        banked = table["clip_id"].to_numpy(dtype=str)[table[key].astype("string").isin(clip_ids.tolist()).to_numpy(dtype=bool)]
    closed = known_contents(table, np.empty(0, dtype=str) if held_out is None else held_out)
    table = table[table["clip_id"].isin(banked.tolist())]
    return Reference(
        task=predictions.task, classes=tuple(classes), where=dict(where or {}), clips=len(clip_ids),
        patients=len(np.unique(patients)), label=_label(truth, patients, tuple(classes)), feature_names=tuple(names),
        features=column_statistics(features), embedding=column_statistics(clip_features(store, "mean").rows(banked)),
        predicted=predicted_distribution(predictions.task, predictions.values),
        metadata=metadata_distribution(table),
        scores=_scores(predictions, draws, level, seed),
        nearness=measure_nearness(store, np.asarray(clip_ids), banked, unit=unit, patient=patient, seed=seed),
        training_contents=known_contents(table, banked), held_out_contents=closed,
    )  # fmt: skip


def save_reference(reference: Reference, folder: Path) -> None:
    """Write the two files into ``folder``."""
    plain = {
        "schema_version": SCHEMA_VERSION, "task": reference.task, "classes": list(reference.classes),
        "where": reference.where, "clips": reference.clips, "patients": reference.patients, "label": reference.label,
        "feature_names": list(reference.feature_names), "predicted": reference.predicted, "metadata": reference.metadata,
        "scores": reference.scores, "nearness": None if reference.nearness is None else reference.nearness.as_dict(),
    }  # fmt: skip
    write_json(folder / "reference.json", plain)
    with atomic_path(folder / "reference.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, **{name: getattr(reference, name) for name in (*_ARRAYS, *_CONTENTS)})


def load_reference(folder: Path) -> Reference | None:
    """What :func:`save_reference` wrote; None where there is none, as in folders of an older sonokit.

    Raises:
        SonokitError: It is damaged, or a newer version wrote it.
    """
    file = folder / "reference.json"
    if not file.is_file():
        return None
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
        version = int(plain.pop("schema_version"))
        if version > SCHEMA_VERSION:
            raise SonokitError(f"{file} has schema version {version}, this sonokit knows {SCHEMA_VERSION}: update sonokit")
        with np.load(folder / "reference.npz", allow_pickle=False) as arrays:
            plain |= {name: arrays[name] for name in (*_ARRAYS, *_CONTENTS) if name in arrays or name in _ARRAYS}
        nearness = plain.pop("nearness")
        plain |= {name: tuple(plain[name]) for name in ("classes", "feature_names")}
        return Reference(**plain, nearness=None if nearness is None else nearness_from_dict(nearness))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as fault:
        raise SonokitError(f"{file} or reference.npz is damaged ({fault}): fit the expert again") from fault


def column_statistics(values: np.ndarray) -> np.ndarray:
    """Mean, standard deviation and the ``QUANTILES`` of each column of ``values`` [N, F], float64 [F, 9]."""
    values = np.asarray(values, dtype=np.float64)
    return np.concatenate([[values.mean(axis=0)], [values.std(axis=0)], np.quantile(values, QUANTILES, axis=0)]).T


def predicted_distribution(task: Task, values: np.ndarray) -> dict[str, Any]:
    """As in :class:`Reference`, from raw predictions [R, N, K] or [R, N]."""
    if task == "regression":
        return {"mean": float(values.mean()), "quantiles": np.quantile(values, QUANTILES).tolist()}
    flat = values.reshape(-1, values.shape[-1])
    top, _ = np.histogram(flat.max(axis=1), bins=TOP_BINS, range=(0, 1))
    share = np.bincount(flat.argmax(axis=1), minlength=flat.shape[1]) / len(flat)
    return {"mean": flat.mean(axis=0).tolist(), "share": share.tolist(), "top": (top / len(flat)).tolist()}


def metadata_distribution(table: pd.DataFrame) -> dict[str, Any]:
    """As in :class:`Reference`, from one row a clip."""
    found: dict[str, Any] = {}
    for column in METADATA:
        values = table[column].astype("string").fillna("").to_numpy(dtype=str)
        names, counts = np.unique(values, return_counts=True)
        found[column] = {str(name): float(count / len(values)) for name, count in zip(names, counts, strict=True)}
    rate = pd.to_numeric(table["frame_rate"], errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    known = rate[~np.isnan(rate)]
    quantiles = np.quantile(known, QUANTILES).tolist() if len(known) else None
    return found | {"frame_rate": {"quantiles": quantiles, "unknown": float(np.isnan(rate).mean())}}


def _label(truth: np.ndarray, patients: np.ndarray, classes: tuple[str, ...]) -> dict[str, Any]:
    if not classes:
        return {"mean": float(np.mean(truth)), "quantiles": np.quantile(truth, QUANTILES).tolist()}
    counted = {
        name: {"clips": int((truth == code).sum()), "patients": len(np.unique(patients[truth == code]))}
        for code, name in enumerate(classes)
    }
    return {"classes": counted}


def _scores(predictions: Predictions, draws: int, level: float, seed: int) -> dict[str, Any]:
    found = {}
    for name, drawn in predictions.draws(draws, seed).items():
        figure = interval(drawn, predictions.patients, level)
        has_one = not math.isnan(figure.low)
        quantiles = np.nanquantile(drawn[1:], np.linspace(0, 1, _DRAWN)).tolist() if has_one else None
        found[name] = figure.as_dict() | {"quantiles": quantiles}
    return found
