"""Where a label comes from, and what it is: classes, ordered levels, or a number."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import SonokitError
from ..evaluation.scores import Task

_NOT_LABELS = {
    "clip_id", "content_hash", "patient_id", "site", "probe", "container", "frame_rate", "extractor_trained_on", "split"
}  # fmt: skip
_MOST_LEVELS = 10
_UNKNOWN = ["", "NA", "na", "N/A", "n/a", "NaN", "nan", "<NA>", "NULL", "null"]  # as in a manifest; "None" may be a class


def label_columns(table: pd.DataFrame) -> list[str]:
    """The columns of a clip table that somebody put there to be predicted."""
    return [str(name) for name in table if name not in _NOT_LABELS]


def find_labels(table: pd.DataFrame, label: str, labels_csv: Path | None = None) -> tuple[pd.Series, list[str]]:
    """The label of each clip, NA where unknown, and what there is to say about it.

    Args:
        table: One row a clip.
        label: Column of ``table``, or of ``labels_csv``.
        labels_csv: A table keyed by ``clip_id`` or ``patient_id``; where it has a value, that one counts.

    Raises:
        SonokitError: No such column, or a CSV that cannot be joined to the store.
    """
    if labels_csv is None:
        if label not in table or label in ("clip_id", "content_hash"):
            known = ", ".join(label_columns(table)) or "none"
            raise SonokitError(f"no label column {label!r} in the store; it has: {known}. Or give a CSV with --labels")
        return table[label], []
    ours = table[label] if label in table else pd.Series(pd.NA, index=table.index, dtype="object")
    key, theirs = _read_labels(labels_csv, label)
    found = table[key].astype("string").map(theirs)
    unused = sorted(set(theirs.index) - set(table[key].dropna().astype(str)))
    if found.isna().all():
        raise SonokitError(
            f"no {key} of {labels_csv} is in the store (first there: {theirs.index[0]!r}); check the column {key}"
        )
    notes = [f"{int(found.notna().sum())} labels come from {labels_csv.name}, keyed by {key}"]
    if unused:
        notes.append(f"{len(unused)} rows of {labels_csv.name} name a {key} that the store lacks, first {unused[0]!r}")
    joined = found.astype("object").where(found.notna(), ours.astype("object"))
    return joined.infer_objects(), notes


def has_label(table: pd.DataFrame, label: str, labels_csv: Path | None = None) -> bool:
    """Whether the clip table or the CSV has such a column."""
    if label in table or labels_csv is None or not labels_csv.is_file():
        return label in table
    return label in pd.read_csv(labels_csv, nrows=0).columns


def infer_task(values: pd.Series) -> Task:
    """Text or two values: classification; up to ten whole numbers: ordinal; other numbers: regression."""
    known = values.dropna()
    if not pd.api.types.is_numeric_dtype(known) or known.nunique() <= 2:
        return "classification"
    whole = bool((known == known.round()).all())
    return "ordinal" if whole and known.nunique() <= _MOST_LEVELS else "regression"


def class_names(values: pd.Series) -> pd.Series:
    """Labels as text: 2.0 is "2"; NA stays NA."""
    if pd.api.types.is_numeric_dtype(values):
        return values.map(lambda value: pd.NA if pd.isna(value) else f"{value:g}").astype("string")
    return values.astype("string")


def order_classes(values: pd.Series, task: Task, classes: Sequence[str] | None) -> list[str]:
    """The classes in the order of their codes: as the user gave them, else by number, else by name.

    Raises:
        SonokitError: A class that no clip has, or text levels of unknown order.
    """
    names = class_names(values).dropna()
    present = sorted(set(names), key=_by_number) if _all_numbers(names) else sorted(set(names))
    if classes is not None:
        absent = [name for name in classes if name not in present]
        if absent:
            raise SonokitError(f"no clip has the class {absent[0]!r}; classes there are: {', '.join(present)}")
        return list(classes)
    if task == "ordinal" and not _all_numbers(names):
        raise SonokitError(
            f"levels given as text need an order: name them from low to high with --classes ({', '.join(present)})"
        )
    return present


def as_numbers(values: pd.Series, clip_ids: pd.Series, label: str) -> np.ndarray:
    """A label as float64 [N], nan where unknown.

    Raises:
        SonokitError: A value that is not a number, with the first such clip.
    """
    numbers = pd.to_numeric(values, errors="coerce")
    text = values.notna() & numbers.isna()
    if text.any():
        row = int(np.flatnonzero(text)[0])
        raise SonokitError(
            f"regression needs numbers, but {label} of clip {clip_ids.iloc[row]!r} is {values.iloc[row]!r} "
            f"({int(text.sum())} such clips): take --task classification, or mend the column"
        )
    return numbers.to_numpy(dtype=np.float64, na_value=np.nan)


def _read_labels(file: Path, label: str) -> tuple[str, pd.Series]:
    if not file.is_file():
        raise SonokitError(f"{file} does not exist: --labels wants a CSV with clip_id or patient_id and {label!r}")
    keys = {"clip_id": "string", "patient_id": "string"}
    rows = pd.read_csv(file, dtype=keys, keep_default_na=False, na_values=_UNKNOWN)
    key = next((name for name in ("clip_id", "patient_id") if name in rows), None)
    if key is None or label not in rows:
        wanted = f"{label!r}" if key else "clip_id or patient_id"
        raise SonokitError(f"{file} has no column {wanted}; it has: {', '.join(map(str, rows.columns))}")
    rows = rows[rows[key].notna() & rows[label].notna()]
    if rows.empty:
        raise SonokitError(f"{file} has no row with both {key} and {label}")
    twice = rows[key][rows[key].duplicated()]
    if len(twice):
        raise SonokitError(f"{file} names {key} {twice.iloc[0]!r} more than once: keep one row for each")
    return key, rows.set_index(key)[label]


def _all_numbers(names: pd.Series) -> bool:
    return bool(pd.to_numeric(names, errors="coerce").notna().all())


def _by_number(name: str) -> float:
    return float(name)
