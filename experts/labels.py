"""Where a label comes from, and what it is: classes, ordered levels, or a number."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..errors import SonokitError
from ..evaluation.scores import Task
from ..evaluation.value_names import value_names

_NOT_LABELS = {
    "clip_id", "content_hash", "patient_id", "site", "probe", "container", "frame_rate", "extractor_trained_on", "split"
}  # fmt: skip
_MOST_LEVELS = 10
_UNKNOWN = ["", "NA", "na", "N/A", "n/a", "NaN", "nan", "<NA>", "NULL", "null"]  # as in a manifest; "None" may be a class


def label_columns(table: pd.DataFrame) -> list[str]:
    """The columns of a clip table that somebody put there to be predicted."""
    return [str(name) for name in table if name not in _NOT_LABELS]


def find_labels(
    table: pd.DataFrame, label: str, labels_csv: Path | None = None, patient: str = "patient_id"
) -> tuple[pd.Series, list[str]]:
    """The label of each clip, NA where unknown, and what there is to say about it.

    Args:
        table: One row a clip.
        label: Column of ``table``, or of ``labels_csv``.
        labels_csv: A table keyed by ``clip_id``, ``patient`` or ``patient_id``; where it has a value, that one counts.
        patient: The column of ``table`` that says whose a clip is.

    Raises:
        SonokitError: No such column, or a CSV that cannot be read or joined to the store.
    """
    if labels_csv is None:
        if label not in table or label in ("clip_id", "content_hash"):
            known = ", ".join(label_columns(table)) or "none"
            raise SonokitError(f"no label column {label!r} in the store; it has: {known}. Or give a CSV with --labels")
        return table[label], []
    ours = table[label] if label in table else pd.Series(pd.NA, index=table.index, dtype="object")
    key, theirs = _read_labels(labels_csv, label, table, patient)
    keys = value_names(table[key])
    found = keys.map(theirs)
    unused = sorted(set(theirs.index) - set(keys.dropna()))
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
    """Whether the clip table or the CSV has such a column.

    Raises:
        SonokitError: The CSV cannot be read.
    """
    if label in table or labels_csv is None:
        return label in table
    return label in _read_csv(labels_csv, label, nrows=0)


def infer_task(values: pd.Series) -> Task:
    """Text or two values: classification; up to ten whole numbers: ordinal; other numbers: regression."""
    known = values.dropna()
    if not pd.api.types.is_numeric_dtype(known) or known.nunique() <= 2:
        return "classification"
    whole = bool((known == known.round()).all())
    return "ordinal" if whole and known.nunique() <= _MOST_LEVELS else "regression"


def class_names(values: pd.Series) -> pd.Series:
    """Labels as text: 2.0 is "2"; NA stays NA."""
    return value_names(values)


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


def as_numbers(
    values: pd.Series, clip_ids: pd.Series, label: str, remedy: str = "take --task classification, or mend the column"
) -> np.ndarray:
    """A label as float64 [N], nan where unknown.

    Args:
        values: Of each clip, [N].
        clip_ids: Their names, [N].
        label: The column, for the message.
        remedy: What to do about a value that is no number.

    Raises:
        SonokitError: A value that is not a number or not finite, with the first such clip.
    """
    numbers = pd.to_numeric(values, errors="coerce")
    text = values.notna() & numbers.isna()
    if text.any():
        row = int(np.flatnonzero(text)[0])
        raise SonokitError(
            f"numbers are needed, but {label} of clip {clip_ids.iloc[row]!r} is {values.iloc[row]!r} "
            f"({int(text.sum())} such clips): {remedy}"
        )
    require_finite(numbers, clip_ids, label)
    return numbers.to_numpy(dtype=np.float64, na_value=np.nan)


def require_finite(values: pd.Series, clip_ids: pd.Series, label: str) -> None:
    """Refuse infinite labels, which are no level, no class and nothing to come near to; text and NA pass.

    Raises:
        SonokitError: With the first such clip.
    """
    if not pd.api.types.is_numeric_dtype(values):
        return
    infinite = np.isinf(values.to_numpy(dtype=np.float64, na_value=np.nan))
    if infinite.any():
        row = int(np.flatnonzero(infinite)[0])
        raise SonokitError(
            f"{label} of clip {clip_ids.iloc[row]!r} is {values.iloc[row]} ({int(infinite.sum())} such clips), which nothing "
            "can learn: mend it, or leave it empty where it is unknown"
        )


def _read_labels(file: Path, label: str, table: pd.DataFrame, patient: str) -> tuple[str, pd.Series]:
    """The column that the rows are keyed by, and their labels by its names."""
    keys = [name for name in dict.fromkeys(("clip_id", patient, "patient_id")) if name in table and name != label]
    rows = _read_csv(file, label, dtype=dict.fromkeys(keys, "string"), keep_default_na=False, na_values=_UNKNOWN)
    key = next((name for name in keys if name in rows), None)
    if key is None or label not in rows:
        wanted = f"{label!r}" if key else " or ".join(keys)
        raise SonokitError(f"{file} has no column {wanted}; it has: {', '.join(map(str, rows.columns))}")
    rows = rows[rows[key].notna() & rows[label].notna()]
    if rows.empty:
        raise SonokitError(f"{file} has no row with both {key} and {label}")
    if pd.api.types.is_numeric_dtype(table[key]):  # 7, 7.0 and 007 are one number
        rows = rows.assign(**{key: value_names(pd.to_numeric(rows[key], errors="coerce")).fillna(rows[key])})
    twice = rows[key][rows[key].duplicated()]
    if len(twice):
        raise SonokitError(f"{file} names {key} {twice.iloc[0]!r} more than once: keep one row for each")
    return key, rows.set_index(key)[label]


def _read_csv(file: Path, label: str, **how: Any) -> pd.DataFrame:
    """A CSV as pandas reads it, or in one line why not."""
    wanted = f"--labels wants a CSV with clip_id or patient_id and {label!r}"
    if not file.is_file():
        raise SonokitError(f"{file} {'is a folder' if file.is_dir() else 'does not exist'}: {wanted}")
    try:
        rows = pd.read_csv(file, **how)
    except pd.errors.EmptyDataError as fault:
        raise SonokitError(f"{file} is empty: {wanted}") from fault
    except UnicodeDecodeError as fault:
        raise SonokitError(f"{file} is not UTF-8 text: save it anew as 'CSV UTF-8'") from fault
    except (pd.errors.ParserError, OSError) as fault:
        raise SonokitError(f"{file} cannot be read as CSV ({' '.join(str(fault).split())}): mend that line") from fault
    if not isinstance(rows.index, pd.RangeIndex):  # pandas takes what the header does not name for names of the rows
        raise SonokitError(f"{file} has more cells in its lines than columns in its first line: mend that line")
    return rows


def _all_numbers(names: pd.Series) -> bool:
    return bool(pd.to_numeric(names, errors="coerce").notna().all())


def _by_number(name: str) -> float:
    return float(name)
