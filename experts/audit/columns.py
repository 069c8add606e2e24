"""What is known of a clip beside its picture, as few named values; and one value a patient, for exchanging patients."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

COLUMNS = {"site": "site", "probe": "probe", "container": "container", "frame_rate": "frame rate"}
"""The columns that an audit looks at, and what they are called."""

_MOST_NUMBERS = 6
_NUMBER_GROUPS = 4


def column_values(table: pd.DataFrame, column: str) -> np.ndarray:
    """The values of a column as text, str [N], empty where unknown.

    Numbers are rounded to whole ones (29.97 and 30 Hz are one kind of file); of more than six different ones, four groups of
    about as many clips are made.
    """
    if column not in table:
        return np.full(len(table), "", dtype=str)
    if not pd.api.types.is_numeric_dtype(table[column]):
        return table[column].astype("string").fillna("").to_numpy(dtype=str)
    return number_groups(np.round(table[column].to_numpy(dtype=np.float64, na_value=np.nan)), _NUMBER_GROUPS)


def number_groups(numbers: np.ndarray, groups: int) -> np.ndarray:
    """Numbers, float [N], as text, str [N]: themselves, or of more than six different ones ``groups`` ranges "low–high"."""
    known = ~np.isnan(numbers)
    names = np.full(len(numbers), "", dtype=object)
    if len(np.unique(numbers[known])) <= _MOST_NUMBERS:
        names[known] = [f"{value:g}" for value in numbers[known]]
        return names.astype(str)
    edges = np.quantile(numbers[known], np.arange(1, groups) / groups)
    part = np.searchsorted(edges, numbers, side="right")
    for k in np.unique(part[known]):
        inside = known & (part == k)
        ends = sorted({f"{numbers[inside].min():g}", f"{numbers[inside].max():g}"}, key=float)
        names[inside] = "–".join(ends)
    return names.astype(str)


@dataclass(frozen=True)
class PatientValues:
    """One value for each of P patients, the most frequent of their N clips.

    Attributes:
        clips: Which clips of those given have a known value, int [N].
        owner: The patient of each of them, int [N], 0..P-1.
        code: The value of each patient, int [P], 0..G-1.
        names: Of the G values.
    """

    clips: np.ndarray
    owner: np.ndarray
    code: np.ndarray
    names: tuple[str, ...]


def patient_values(values: np.ndarray, patients: np.ndarray, fewest_patients: int = 1) -> PatientValues:
    """Give every patient one value; patients of a value that fewer than ``fewest_patients`` have, take no part.

    Args:
        values: str [·], empty where unknown: such clips take no part.
        patients: Whose each clip is, str [·].
        fewest_patients: Of a value.
    """
    known = np.flatnonzero(values != "")
    people, owner = np.unique(patients[known], return_inverse=True)
    names, code = np.unique(values[known], return_inverse=True)
    counts = np.zeros((len(people), len(names)), dtype=np.int64)  # [P, G]
    np.add.at(counts, (owner, code), 1)
    chosen = counts.argmax(axis=1) if len(names) else np.zeros(0, dtype=np.int64)  # equally frequent ones: the first by name
    enough = np.bincount(chosen, minlength=len(names)) >= max(1, fewest_patients)
    keep = enough[chosen]  # [P]
    rows = keep[owner]
    people_left, codes_left = np.cumsum(keep) - 1, np.cumsum(enough) - 1
    return PatientValues(
        known[rows], people_left[owner[rows]], codes_left[chosen[keep]], tuple(str(name) for name in names[enough])
    )
