"""A clinical question put to a store: which clips take part, what is true of each, whose they are.

A row is a clip, or with ``unit="patient"`` a patient with all of their clips (see :mod:`sonokit.experts.patient_rows`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import SonokitError
from ..evaluation.scores import Task
from .labels import as_numbers, class_names, find_labels, infer_task, order_classes, require_finite
from .oxygenation import LABEL as SF_RATIO
from .oxygenation import ratio_labels
from .patient_rows import one_row_a_patient, spread_over_patients
from .recipes import Unit

_MOST_LISTED = 12  # classes in a message


@dataclass(frozen=True)
class Question:
    """The N clips, or N patients, that take part in one expert.

    Attributes:
        label: Its column.
        task: What kind of label it is.
        classes: Names of the K classes in the order of their codes; empty for regression.
        table: One row a clip, RangeIndex; with patients as rows ``clip_id`` is the patient's name.
        truth: Class codes int64 [N], or float64 [N].
        patients: Whose each clip is, str [N].
        patient_column: The column that says so.
        notes: What a reader of the report must know: who was left out, and why.
        unit: What a row is.
        members: With patients as rows: clip_id and patient of each of their clips; None where rows are clips.
    """

    label: str
    task: Task
    classes: tuple[str, ...]
    table: pd.DataFrame
    truth: np.ndarray
    patients: np.ndarray
    patient_column: str
    notes: tuple[str, ...]
    unit: Unit = "clip"
    members: pd.DataFrame | None = None

    @property
    def clip_ids(self) -> np.ndarray:
        """Names of the rows, str [N]: of the clips, or of the patients."""
        return self.table["clip_id"].to_numpy(dtype=str)

    @property
    def every_clip(self) -> tuple[np.ndarray, np.ndarray]:
        """Every clip behind the rows and whose it is, str [M] each; M is N where rows are clips."""
        if self.members is None:
            return self.clip_ids, self.patients
        inside = self.members[self.members["patient"].isin(self.patients)]
        return inside["clip_id"].to_numpy(dtype=str), inside["patient"].to_numpy(dtype=str)

    def clips_of(self, rows: np.ndarray) -> np.ndarray:
        """The clips behind some rows, str [·]; ``rows`` int or bool."""
        if self.members is None:
            return self.clip_ids[rows]
        clips, patients = self.every_clip
        return clips[np.isin(patients, self.patients[rows])]

    @property
    def sites(self) -> np.ndarray:
        """Site of each clip, str [N], empty where unknown."""
        return self.table["site"].astype("string").fillna("").to_numpy(dtype=str)


def pose(
    table: pd.DataFrame,
    label: str,
    *,
    task: Task | None = None,
    classes: Sequence[str] | None = None,
    where: Mapping[str, str] | None = None,
    labels_csv: Path | None = None,
    patient: str = "patient_id",
    fewest_patients: int = 5,
    unit: Unit = "clip",
    spo2: str | None = None,
    fio2: str | None = None,
    held_out: Sequence[str] | np.ndarray = (),
) -> Question:
    """Choose the clips of ``table`` (one row a clip) that can answer for ``label``.

    Args:
        table: From :func:`~sonokit.experts.recipes.clip_table`.
        label: What is predicted; ``sf_ratio`` is made of two columns where it is not there, see
            :mod:`~sonokit.experts.oxygenation`.
        task: None: see :func:`~sonokit.experts.labels.infer_task`.
        classes: Only these, in this order (for an ordinal label from low to high).
        where: Only clips whose column has this value.
        labels_csv: See :func:`~sonokit.experts.labels.find_labels`.
        patient: The column that says whose a clip is.
        fewest_patients: A class of fewer patients cannot be in every fold and is left out (ordered levels stay, and so
            do classes named in ``classes`` if each has two patients). Held-out patients do not count.
        unit: "patient": one row a patient, whose clips must agree in the label.
        spo2: The column of the oxygen saturation in per cent, for ``sf_ratio``.
        fio2: The column of the inspired oxygen fraction, for ``sf_ratio``.
        held_out: Clips that no fold and no fit will see, str [·]; they take part, to be scored at the end.

    Raises:
        SonokitError: The question cannot be asked of this store; the message says why.
    """
    keep, said = _where(table, where or {})
    labels, notes = _labels(table, label, labels_csv, spo2, fio2, keep, patient)
    known = labels.notna().to_numpy() & keep
    if not known.any():
        raise SonokitError(f"no clip has a value in {label!r}{said and f' where {said}'}")
    require_finite(labels[known].infer_objects(), table["clip_id"][known], label)
    if unit == "patient":
        labels = spread_over_patients(labels.where(known), table, patient, label)
        known = labels.notna().to_numpy() & keep
    if (keep & ~known).any():
        notes.append(f"{int((keep & ~known).sum())} clips have no {label} and take no part")
    table, labels = table[known].reset_index(drop=True), labels[known].reset_index(drop=True).infer_objects()
    patients, said_patient = _patients(table, patient)
    members, inside = None, ~np.isin(table["clip_id"].to_numpy(dtype=str), np.asarray(held_out, dtype=str))
    if unit == "patient":
        away = patients[~inside]
        table, labels, members, said_rows = one_row_a_patient(table, labels, patients)
        patients = table["clip_id"].to_numpy(dtype=str)
        inside = ~np.isin(patients, away)
        notes += said_rows
    task = task or ("regression" if label == SF_RATIO else infer_task(labels))
    notes += said_patient
    if task == "regression":
        if classes is not None:
            raise SonokitError(
                f"{label!r} is a number, which has no classes: leave --classes out, or say --task classification"
            )
        truth = as_numbers(labels, table["clip_id"], label)
        return Question(label, task, (), table, truth, patients, patient, tuple(notes), unit, members)
    names, said_classes = _usable_classes(labels, patients, inside, task, classes, fewest_patients)
    codes = class_names(labels).map({name: code for code, name in enumerate(names)})
    rows = codes.notna().to_numpy()
    notes += said_classes
    table, truth = table[rows].reset_index(drop=True), codes[rows].to_numpy(dtype=np.int64)
    return Question(label, task, tuple(names), table, truth, patients[rows], patient, tuple(notes), unit, members)


def _labels(
    table: pd.DataFrame,
    label: str,
    labels_csv: Path | None,
    spo2: str | None,
    fio2: str | None,
    keep: np.ndarray,
    patient: str = "patient_id",
) -> tuple[pd.Series, list[str]]:
    if label == SF_RATIO:
        return ratio_labels(table, labels_csv, spo2, fio2, keep, patient)
    if spo2 is not None or fio2 is not None:
        raise SonokitError(f"--spo2 and --fio2 make the label {SF_RATIO}, and {label!r} is asked for: leave them out")
    return find_labels(table, label, labels_csv, patient)


def _where(table: pd.DataFrame, where: Mapping[str, str]) -> tuple[np.ndarray, str]:
    keep = np.ones(len(table), dtype=bool)
    for column, value in where.items():
        if column not in table:
            raise SonokitError(
                f"--where {column}={value}: the store has no column {column!r}; it has: {', '.join(map(str, table))}"
            )
        names = class_names(table[column])
        matches = (names == str(value)).fillna(False).to_numpy(dtype=bool)
        if not matches.any():
            values = ", ".join(sorted(set(names.dropna()))[:12])
            raise SonokitError(f"--where {column}={value}: no clip has that; values there are: {values}")
        keep &= matches
    return keep, ", ".join(f"{column}={value}" for column, value in where.items())


def _patients(table: pd.DataFrame, column: str) -> tuple[np.ndarray, list[str]]:
    if column not in table:
        raise SonokitError(f"--patient {column}: the store has no such column; it has: {', '.join(map(str, table))}")
    names = table[column].astype("string")
    unknown = table["clip_id"][names.str.strip().fillna("") == ""]
    if len(unknown):
        raise SonokitError(
            f"{column} is unknown for {len(unknown)} clips (first {unknown.iloc[0]!r}), so nothing can be evaluated by "
            "patient: fill it in, or take --patient clip_id at your own risk"
        )
    notes = []
    if column == "clip_id":
        notes.append("folds and intervals are by clip, not by patient: clips of one patient may be on both sides of a fold")
    return names.to_numpy(dtype=str), notes


def _usable_classes(
    labels: pd.Series, patients: np.ndarray, inside: np.ndarray, task: Task, classes: Sequence[str] | None, fewest: int
) -> tuple[list[str], list[str]]:
    """The classes that can be evaluated, and a note on each that cannot or hardly can; ``inside`` is nowhere held out."""
    wanted = order_classes(labels, task, classes)
    names = class_names(labels).to_numpy(dtype=object)
    counts = {name: len(np.unique(patients[inside & (names == name)])) for name in wanted}
    closed = [name for name in wanted if not counts[name] and (names == name).any()]
    notes = [f"class {name} is left out: all its patients are held out, nothing could learn it" for name in closed]
    wanted = [name for name in wanted if name not in closed]
    few = [name for name in wanted if counts[name] < fewest]
    asked_for = classes is not None and all(counts[name] >= 2 for name in wanted)  # so that every training side can have it
    if task == "ordinal" or asked_for:
        kind = "level" if task == "ordinal" else "class"
        notes += [f"{kind} {name} has {_patients_in_words(counts[name])} only: some folds do not test it" for name in few]
        usable = wanted
    else:
        notes += [f"class {name} is left out: {_patients_in_words(counts[name])}, too few for {fewest} folds" for name in few]
        usable = [name for name in wanted if name not in few]
    if len(usable) < 2:
        listed = ", ".join(f"{name}: {count}" for name, count in list(counts.items())[:_MOST_LISTED])
        more = f" and {len(counts) - _MOST_LISTED} more" if len(counts) > _MOST_LISTED else ""
        text = pd.to_numeric(pd.Series(wanted), errors="coerce").isna()
        stray = (
            f"; the column would be numbers but for {wanted[int(text.argmax())]!r}" if 0 < text.sum() <= len(text) // 4 else ""
        )
        raise SonokitError(
            f"at least two classes of {fewest} patients are needed; patients a class here: {listed}{more}{stray}. "
            "Use fewer folds, or name the classes with --classes to keep those of two patients or more"
        )
    return usable, notes


def _patients_in_words(count: int) -> str:
    return "1 patient" if count == 1 else f"{count} patients"
