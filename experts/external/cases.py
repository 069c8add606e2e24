"""Who takes part: which clips of a training store are an expert's cases, and which of another hospital's can answer for it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ...clips.held_out_column import held_out_by_column
from ...errors import SonokitError
from ...features.store import EmbeddingStore
from ..labels import as_numbers, class_names
from ..patient_rows import one_row_a_patient, spread_over_patients
from ..question import _labels as labels_of  # the same labels, refusals and notes as in a fit
from ..question import _patients as patients_of
from ..question import _where as rows_where
from ..recipes import clip_table
from .known_clips import content_numbers
from .training_store import require_training_store

if TYPE_CHECKING:
    from ..folder import Expert


_BY_CLIP = (
    "intervals are by clip, not by patient: where a patient has several clips they are too narrow, so the verdict does not say "
    "that the expert holds; name the column of the patients with --patient"
)


def banked_clips(expert: "Expert", store: EmbeddingStore) -> pd.DataFrame:
    """The clips of its training store that an expert may be compared with, one row each.

    Those that its ``where`` lets in and whose label it could learn from, and none that is held out. Where the labels came from
    a CSV and the store has no such column, all that ``where`` lets in. Names of the clips that it was fitted on are not kept
    with an expert.

    Raises:
        SonokitError: There is none, or the store is not what the expert was fitted on, or its column ``split`` has a patient on
            both sides.
    """
    table = clip_table(store)
    keep, _ = rows_where(table, {} if expert.reference is None else expert.reference.where)
    if expert.label in table:
        names = class_names(table[expert.label])
        known = (names.isin(list(expert.classes)) if expert.classes else names.notna()).to_numpy(dtype=bool)
        if expert.unit == "patient":
            owners = table[expert.patient].astype("string")
            known = owners.isin(owners[known].dropna()).to_numpy(dtype=bool)
        keep &= known if known.any() else True
    keep &= ~table["clip_id"].isin(held_out_by_column(table, expert.patient)[0]).to_numpy(dtype=bool)
    if expert.reference is not None:
        keep &= ~np.isin(content_numbers(table["content_hash"]), expert.reference.held_out_contents)
    if not keep.any():
        raise SonokitError(f"{store.folder} has no clip that the expert for {expert.label} could have learnt from")
    require_training_store(expert, store, table, int(keep.sum()))
    return table[keep].reset_index(drop=True)


@dataclass(frozen=True)
class ExternalCases:
    """The N clips (or patients) of another hospital that an expert is asked about.

    Attributes:
        rows: One row a case: what is known of it beside its picture, RangeIndex.
        clips: One row a clip that takes part; its column ``case`` names the case. Of an expert for clips the same clips.
        names: What the expert calls each case: clip_ids, or patients, str [N].
        patients: Whose each is, str [N].
        patient_column: Which column says so.
        truth: Class codes int64 [N], or float64 [N].
        notes: Who was left out, and why.
        unknown_classes: Values that the expert does not know -> cases.
    """

    rows: pd.DataFrame
    clips: pd.DataFrame
    names: np.ndarray
    patients: np.ndarray
    patient_column: str
    truth: np.ndarray
    notes: tuple[str, ...] = ()
    unknown_classes: dict[str, int] = field(default_factory=dict)

    def select(self, keep: np.ndarray, *notes: str) -> "ExternalCases":
        """Some of the cases, bool [N]; clips of those that go, go too."""
        stay = self.clips["case"].isin(self.names[keep].tolist()).to_numpy(dtype=bool)
        return replace(
            self, rows=self.rows[keep].reset_index(drop=True), clips=self.clips[stay].reset_index(drop=True),
            names=self.names[keep], patients=self.patients[keep], truth=self.truth[keep], notes=(*self.notes, *notes),
        )  # fmt: skip


def external_cases(
    expert: "Expert", store: EmbeddingStore, *, label: str | None = None, labels_csv: Path | None = None,
    where: Mapping[str, str] | None = None, patient: str | None = None, spo2: str | None = None, fio2: str | None = None,
) -> ExternalCases:  # fmt: skip
    """Choose the clips of another hospital's store that can answer for an expert.

    Args:
        expert: Whose classes the labels are mapped to, by name.
        store: The other hospital's.
        label: The column there, or in ``labels_csv``; None: the expert's own label.
        labels_csv: Labels keyed by clip_id or patient_id.
        where: Only clips whose column has this value.
        patient: The column that says whose a clip is; None: the expert's.
        spo2: The column of the oxygen saturation, for an S/F ratio (see :mod:`sonokit.experts.oxygenation`).
        fio2: The column of the inspired oxygen fraction, for an S/F ratio.

    Raises:
        SonokitError: No clip is left; the message says what there is.
    """
    column, owner, table = label or expert.label, patient or expert.patient, clip_table(store)
    keep, _ = rows_where(table, where or {})
    labels, notes = labels_of(table, column, labels_csv, spo2, fio2, keep, owner)
    if expert.unit == "patient":
        labels = spread_over_patients(labels.where(keep), table, owner, column)
    trained_on = keep & table["extractor_trained_on"].fillna(False).to_numpy(dtype=bool)
    if trained_on.any():
        notes.append(f"{int(trained_on.sum())} clips are left out: the extractor was fitted on their labels")
    known = labels.notna().to_numpy() & keep & ~trained_on
    if not known.any():
        raise SonokitError(
            f"no clip of {store.folder} that may be evaluated has a value in {column!r}: name the column with --label"
        )
    without = int((keep & ~trained_on & ~known).sum())
    notes += [f"{without} clips have no {column} and take no part"] if without else []
    table, labels = table[known].reset_index(drop=True), labels[known].reset_index(drop=True).infer_objects()
    owners, said = patients_of(table, owner)
    said = [_BY_CLIP] if owner == "clip_id" else said  # instead of what a fit says of its folds
    rows, clips, labels, owners = _by_case(expert, table, labels, owners)
    truth, unknown = _truth(expert, labels, rows, column)
    names, told = rows["clip_id"].to_numpy(dtype=str), ~np.isnan(truth)
    if not told.any():
        raise SonokitError(
            f"no clip of {store.folder} is of a class that the expert knows ({', '.join(expert.classes)}); "
            f"{column!r} there is: {', '.join(unknown)}. Rename them in a CSV for --labels"
        )
    if unknown:
        listed = ", ".join(f"{name} ({count})" for name, count in unknown.items())
        notes.append(f"left out, because the expert does not know their class: {listed}")
    codes = np.where(told, truth, 0).astype(np.float64 if expert.task == "regression" else np.int64)
    cases = ExternalCases(rows, clips, names, owners, owner, codes, (*notes, *said), unknown)
    return cases.select(told)


def _by_case(
    expert: "Expert", table: pd.DataFrame, labels: pd.Series, owners: np.ndarray
) -> tuple[pd.DataFrame, pd.DataFrame, pd.Series, np.ndarray]:
    """Rows, clips, labels and owners: clips as they are, or gathered by patient."""
    if expert.unit == "clip":
        return table, table.assign(case=table["clip_id"]), labels, owners
    rows, of_patient, _, _ = one_row_a_patient(table, labels, owners)
    return rows, table.assign(case=owners), of_patient, rows["clip_id"].to_numpy(dtype=str)


def _truth(expert: "Expert", labels: pd.Series, rows: pd.DataFrame, column: str) -> tuple[np.ndarray, dict[str, int]]:
    """Class codes or values, float [N], nan for a class that the expert does not know; and these with how many they are."""
    if expert.task == "regression":
        return as_numbers(labels, rows["clip_id"], column), {}
    names = class_names(labels)
    codes = names.map({name: float(code) for code, name in enumerate(expert.classes)})
    truth = codes.to_numpy(dtype=np.float64, na_value=np.nan)
    unknown = names[np.isnan(truth)].value_counts()
    return truth, {str(name): int(count) for name, count in sorted(unknown.items())}
