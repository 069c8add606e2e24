"""Patients as rows: one label, one set of features, one line of metadata a patient.

A patient's label is that of their labelled clips, which must agree. A patient's metadata (probe, container, frame rate, any
label column) is the value that most of their clips have, of equally frequent ones the first in order. The site alone is
unknown where a patient was seen at several: such a patient belongs to no site that could be left out.
"""

from typing import Any

import numpy as np
import pandas as pd

from ..errors import SonokitError

_OWN_COLUMNS = ("clip_id", "content_hash", "extractor_trained_on", "site")


def spread_over_patients(labels: pd.Series, table: pd.DataFrame, patient: str, label: str) -> pd.Series:
    """Give every clip of a patient the label of the patient's labelled clips.

    Args:
        labels: Of each clip, NA where unknown.
        table: One row a clip.
        patient: The column that says whose a clip is; a clip of unknown patient keeps its own label.
        label: Its name, for the message.

    Raises:
        SonokitError: A patient has two labels; the message names the first such patient and both.
    """
    if patient not in table:
        return labels  # told by name a moment later
    known = pd.DataFrame({"patient": table[patient].astype("string"), "label": labels}).dropna()
    pairs = known.drop_duplicates()
    twice = pairs["patient"][pairs["patient"].duplicated()]
    if len(twice):
        first = twice.min()
        values = pairs["label"][pairs["patient"] == first].tolist()
        raise SonokitError(
            f"patient {first!r} has clips of different {label} ({values[0]!r} and {values[1]!r}; {twice.nunique()} such "
            "patients): take --unit clip, or give one label a patient in a CSV keyed by patient_id (--labels)"
        )
    of_patient = table[patient].astype("string").map(pairs.set_index("patient")["label"])
    return of_patient.astype("object").where(of_patient.notna(), labels.astype("object"))


def one_row_a_patient(
    table: pd.DataFrame, labels: pd.Series, patients: np.ndarray
) -> tuple[pd.DataFrame, pd.Series, pd.DataFrame, list[str]]:
    """Gather clips by patient; see the top of this file for what a patient's metadata are.

    Args:
        table: One row a clip [N].
        labels: Of each clip, one value a patient [N].
        patients: Whose each clip is, str [N].

    Returns:
        One row a patient, sorted by name, ``clip_id`` being that name; their labels; ``clip_id`` and ``patient`` of every clip;
        notes.
    """
    members = pd.DataFrame({"clip_id": table["clip_id"].to_numpy(dtype=str), "patient": patients})
    names = np.unique(patients)
    columns: dict[str, Any] = {"clip_id": names}
    for column in (str(name) for name in table if name not in _OWN_COLUMNS):
        columns[column] = _most_frequent(table[column], patients, names)
    if "site" in table:
        columns["site"] = _the_only(table["site"], patients, names)
    if "extractor_trained_on" in table:
        trained = table["extractor_trained_on"].fillna(False).astype(bool)
        columns["extractor_trained_on"] = trained.groupby(patients).any().reindex(names).to_numpy()
    rows = pd.DataFrame(columns).reset_index(drop=True)
    of_patient = labels.groupby(patients).first().reindex(names).reset_index(drop=True).infer_objects()
    notes = [f"each row is a patient: {len(table)} clips of {len(names)} patients, features over all segments of a patient"]
    if "site" in table:
        several = int((table["site"].groupby(patients).nunique() > 1).sum())
        notes += [f"{several} patients were seen at several sites and count for none"] if several else []
    return rows, of_patient, members, notes


def _most_frequent(values: pd.Series, patients: np.ndarray, names: np.ndarray) -> pd.Series:
    """The most frequent known value a patient, NA where none is known; ties go to the first in order."""
    counts = pd.DataFrame({"patient": patients, "value": values.to_numpy()}).dropna().value_counts(sort=False).reset_index()
    best = counts.sort_values(["patient", "count", "value"], ascending=[True, False, True]).drop_duplicates("patient")
    return best.set_index("patient")["value"].reindex(names).astype(values.dtype).reset_index(drop=True)


def _the_only(values: pd.Series, patients: np.ndarray, names: np.ndarray) -> pd.Series:
    """The known value a patient, NA where there are several."""
    grouped = values.groupby(patients)
    only = grouped.first().where(grouped.nunique() == 1)
    return only.reindex(names).reset_index(drop=True)
