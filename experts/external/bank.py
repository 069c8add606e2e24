"""The training clips as cases to compare with: the nearest ones to a new clip, and whether it lies beyond them.

A clip is asked about with the mean of its L2-normalised segment embeddings, and a banked clip answers with its most similar
segment, as in :mod:`sonokit.features.search`; the distance is one minus the cosine. A clip is out of distribution where the
distance to its k-th nearest banked clip is beyond a threshold (k-th nearest neighbour of normalised features: Sun, Ming, Zhu
and Li, ICML 2022). The threshold is a quantile of the training clips' own distances to clips of *other* patients, each patient
weighing the same, so that its promise (one false alarm in twenty) is about new patients like these; an expert keeps it from its
fit on, and nothing at the other hospital can move it.
"""

import dataclasses
import math
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from ...evaluation.conformal import patient_quantile
from ...features.search import search_many
from ...features.search.index import OpenIndex, index_is_current, normalised, open_index
from ...features.store import EmbeddingStore
from ...features.store.files import is_local
from ...features.store.rows import embedding_matrix

NEIGHBOUR = 5
"""The distance to which nearest clip counts."""

FALSE_ALARMS = 0.05
"""How often a clip of a new patient like those of the training may be called out of distribution."""

_MOST_ASKED = 2000  # training clips that the threshold rests on; of more, those of patients drawn at random
_ASKED_AT_ONCE = 2048


@dataclass(frozen=True)
class Units:
    """What is asked about, U clips or patients.

    Attributes:
        names: str [U].
        patients: Whose each is, str [U], empty where unknown.
        directions: Mean of the L2-normalised segment embeddings, float64 [U, D].
    """

    names: np.ndarray
    patients: np.ndarray
    directions: np.ndarray

    def select(self, rows: np.ndarray) -> "Units":
        """Some of them; ``rows`` is a mask or numbers."""
        return Units(self.names[rows], self.patients[rows], self.directions[rows])


@dataclass(frozen=True)
class Cases:
    """The nearest banked clips of U units, nearest first.

    Attributes:
        clip_ids: object [U, k], None where the bank has no more.
        distances: One minus the cosine similarity, float64 [U, k], nan there.
    """

    clip_ids: np.ndarray
    distances: np.ndarray


@dataclass(frozen=True)
class Bank:
    """Banked clips that are open for searching."""

    index: OpenIndex
    _place: "tempfile.TemporaryDirectory[str] | None" = None  # of a copy; goes with this object

    @property
    def clip_count(self) -> int:
        """How many clips may answer."""
        return len(self._names)

    @property
    def _names(self) -> pa.Array:
        return self.index.rows.table["clip_id"].chunk(0).dictionary

    def nearest(self, units: Units, k: int) -> Cases:
        """The k nearest clips of other patients; a clip never answers itself, and unknown patients are nobody's own."""
        known = {
            column: set(self.index.rows.table[column].chunk(0).dictionary.to_pylist()) for column in ("clip_id", "patient_id")
        }
        names = self._names.to_numpy(zero_copy_only=False)
        clip_ids = np.full((len(units.names), k), None, dtype=object)
        distances = np.full((len(units.names), k), np.nan)
        for start in range(0, len(units.names), _ASKED_AT_ONCE):
            some = slice(start, start + _ASKED_AT_ONCE)
            found = search_many(
                self.index,
                units.directions[some],
                k,
                clips=_if_known(units.names[some], known["clip_id"]),
                patients=_if_known(units.patients[some], known["patient_id"]),
            )
            there = found.positions >= 0
            clip_ids[some][there] = names[self.index.rows.clips[found.positions[there]]]
            distances[some] = 1 - found.similarities
        return Cases(clip_ids, distances)


def open_bank(
    store: EmbeddingStore, clip_ids: np.ndarray | None = None, *, patient: str = "patient_id", copy: bool = False
) -> Bank:
    """Open a store, or some of its clips, for searching; the store's own index is built where it serves and is missing.

    Args:
        store: The rows.
        clip_ids: Only these may answer, str [C]; None for all. Fewer than all are copied to a temporary folder, because a
            filtered search of many queries is slow.
        patient: The column that says whose a clip is.
        copy: Never write an index into the store's folder.

    Raises:
        SonokitError: The store is empty.
    """
    whole = clip_ids is None or len(clip_ids) == store.header.clip_count
    if whole and patient == "patient_id" and not copy and (index_is_current(store, None) or _writable(store.folder)):
        return Bank(open_index(store))
    place = tempfile.TemporaryDirectory(prefix="sonokit-bank-")
    return Bank(open_index(_copied(store, None if whole else clip_ids, patient, Path(place.name))), place)


def read_units(store: EmbeddingStore, names: np.ndarray, *, unit: str = "clip", patient: str = "patient_id") -> Units:
    """Clips, or with ``unit="patient"`` patients, as a bank is asked about them.

    Args:
        store: Where they are.
        names: Their names, str [U], each in the store.
        unit: What they are.
        patient: The column that says whose a clip is; where the store has none, that is unknown.
    """
    has_patients = patient in store.columns()
    table = store.table(list(dict.fromkeys(["clip_id", *([patient] if has_patients else []), "embedding"])))
    owners = _text(table, patient) if has_patients else np.full(table.num_rows, "", dtype=object)  # [rows]
    place = pd.Index(names).get_indexer(owners if unit == "patient" else _text(table, "clip_id"))  # [rows], -1 for others
    order = np.argsort(place, kind="stable")[np.count_nonzero(place < 0) :]
    starts = np.searchsorted(place[order], np.arange(len(names)))
    rows = normalised(embedding_matrix(table, store.header_on_disk.dimensions))[order]
    sums = np.add.reduceat(rows, starts, dtype=np.float64)  # [U, D]
    counts = np.diff(np.append(starts, len(order)))
    return Units(np.asarray(names), owners[order][starts], sums / counts[:, None])


@dataclass(frozen=True)
class Nearness:
    """How near training clips are to those of other patients, and from where on a clip is out of distribution.

    Attributes:
        neighbour: The distance to which nearest clip it is.
        false_alarms: How often a clip of a new patient may lie beyond the threshold.
        threshold: On the distance; None where there are too few patients for that promise (fewer than 19 for one in twenty).
        quantiles: Of the training clips' distances at 0, 5, 25, 50, 75, 95 and 100 %.
        patients: How many the threshold rests on.
    """

    neighbour: int
    false_alarms: float
    threshold: float | None
    quantiles: tuple[float, ...]
    patients: int

    def beyond(self, distances: np.ndarray) -> np.ndarray:
        """Which distances [U] are out of distribution, bool [U]; none without a threshold."""
        return distances > (math.inf if self.threshold is None else self.threshold)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self) | {"quantiles": list(self.quantiles)}


def measure_nearness(
    store: EmbeddingStore, names: np.ndarray, clip_ids: np.ndarray, *, unit: str = "clip", patient: str = "patient_id",
    neighbour: int = NEIGHBOUR, false_alarms: float = FALSE_ALARMS, seed: int = 0,
) -> Nearness | None:  # fmt: skip
    """Each training clip's distance to its k-th nearest training clip of another patient, and the threshold from them.

    Args:
        store: The training store; nothing is written into it.
        names: The training clips, or with ``unit="patient"`` the patients, str [U].
        clip_ids: The clips that are banked, str [C].
        unit: What ``names`` are.
        patient: The column that says whose a clip is.
        neighbour: k; less where there are not so many clips of other patients.
        false_alarms: Of new patients.
        seed: Of the choice of patients where there are very many clips.

    Returns:
        None where there is one patient only.
    """
    bank = open_bank(store, clip_ids, patient=patient, copy=True)
    units = read_units(store, names, unit=unit, patient=patient)
    units = units.select(_some_patients(units.patients, seed))
    distances = bank.nearest(units, neighbour).distances  # [U, k]
    reached = int((~np.isnan(distances)).all(axis=0).sum())  # neighbours that every clip has
    if not reached:
        return None
    own = distances[:, reached - 1]
    threshold = patient_quantile(own, units.patients, 1 - false_alarms)
    quantiles = np.quantile(own, (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1))
    return Nearness(
        reached, false_alarms, None if math.isinf(threshold) else threshold, tuple(map(float, quantiles)),
        len(np.unique(units.patients)),
    )  # fmt: skip


def nearness_from_dict(plain: dict[str, Any]) -> Nearness:
    """What :meth:`Nearness.as_dict` wrote."""
    return Nearness(**plain | {"quantiles": tuple(map(float, plain["quantiles"]))})


def _some_patients(patients: np.ndarray, seed: int) -> np.ndarray:
    """Row numbers of all, or of those of patients drawn at random until the next would exceed the limit."""
    if len(patients) <= _MOST_ASKED:
        return np.arange(len(patients))
    people, owner = np.unique(patients, return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(people))
    inside = np.cumsum(np.bincount(owner)[order]) <= _MOST_ASKED
    inside[0] = True
    return np.flatnonzero(np.isin(owner, order[inside]))


def _copied(store: EmbeddingStore, clip_ids: np.ndarray | None, patient: str, folder: Path) -> EmbeddingStore:
    """A store of some clips, their fixed columns only, ``patient`` in the place of patient_id."""
    fixed = store.header_on_disk.fixed_schema().names
    table = store.table(list(dict.fromkeys([*fixed, patient])))
    if clip_ids is not None:
        table = table.filter(pc.is_in(table["clip_id"], value_set=pa.array(clip_ids.tolist(), pa.string())))
    if patient != "patient_id":
        owners = pa.array(table[patient].to_pandas().astype("string"), pa.string(), from_pandas=True)
        table = table.set_column(table.schema.get_field_index("patient_id"), "patient_id", owners)
    copy = EmbeddingStore.create(folder, dataclasses.replace(store.header_on_disk, row_count=0, clip_count=0))
    copy.append(table.select(fixed))
    return copy


def _text(table: pa.Table, column: str) -> np.ndarray:
    """A column as text, object [rows], empty where unknown."""
    return table[column].to_pandas().astype("string").fillna("").to_numpy(dtype=object)


def _if_known(names: np.ndarray, known: set[str]) -> list[str | None]:
    """Names that the bank has; None for others, which would be looked up in vain one by one."""
    return [str(name) if name in known else None for name in names]


def _writable(folder: Path) -> bool:
    return not is_local(folder) or os.access(folder, os.W_OK)
