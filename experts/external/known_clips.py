"""Clips that a finished expert knows or must not see: what it learnt from, and what was held out from it.

An expert keeps numbers made of its clips' content hashes, no names. So its own clips are recognised in any store, under any
name, with or without the training store at hand.
"""

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from ...clips.held_out_column import held_out_by_column
from ...errors import SonokitError
from ...features.store import EmbeddingStore

if TYPE_CHECKING:
    from ..folder import Expert
    from .cases import ExternalCases
    from .floors import Training
    from .reference import Reference

_DIGITS = 12  # hexadecimal; of a million clips against a million strange ones, less than one in a hundred runs errs
_MOST_OF = 0.5  # a store with this share of an expert's training clips is the one that it was fitted on


def content_numbers(hashes: pd.Series) -> np.ndarray:
    """48 bits of the SHA-256 of each content hash, uint64 [N]; 0 where there is none."""
    names = hashes.astype("string").fillna("").to_numpy(dtype=str)
    return np.array([_number(name) if name else 0 for name in names.tolist()], dtype=np.uint64)


def known_contents(table: pd.DataFrame, clip_ids: np.ndarray) -> np.ndarray:
    """The numbers of some clips of ``table`` (one row a clip), uint64 [·], sorted, each once and none 0."""
    numbers = np.unique(content_numbers(table.loc[table["clip_id"].isin(clip_ids.tolist()), "content_hash"]))
    return numbers[numbers > 0]


def fair_cases(expert: "Expert", cases: "ExternalCases", store: EmbeddingStore, training: "Training | None") -> "ExternalCases":
    """Leave out every patient whom the expert learnt from, or who is held out from it.

    A patient is known by a file that the expert knows, and with the training store by name, too. In the store that the expert
    was fitted on, its column ``split`` counts as well; that of another hospital is its own affair.

    Args:
        expert: It has a reference.
        cases: Who could be asked.
        store: Where they are from.
        training: None where it is not at hand.

    Raises:
        SonokitError: Nobody is left.
    """
    assert expert.reference is not None
    columns = {"clip_id", "content_hash", "split", cases.patient_column}.intersection(store.columns())
    table = store.frame(sorted(columns)).drop_duplicates("clip_id").reset_index(drop=True)
    numbers, owners = content_numbers(table["content_hash"]), table[cases.patient_column].astype("string")
    fitted_here = _is_training_store(expert.reference, numbers)
    closed, said = _closed(expert.reference, table, numbers, cases.patient_column, training, fitted_here)
    learnt = np.isin(numbers, expert.reference.training_contents)
    names: set[str] = set()
    if training is not None:
        learnt |= table["content_hash"].isin(training.clips["content_hash"].dropna()).to_numpy(dtype=bool)
        names = set(training.clips[expert.patient].dropna().astype(str))
    away = np.isin(cases.patients, _people(owners[closed]))
    by_file = ~away & np.isin(cases.patients, _people(owners[learnt]))
    by_name = ~away & np.isin(cases.patients, sorted(names))
    left = ~(away | by_file | by_name)
    if not left.any():
        raise SonokitError(_nobody_left(away, fitted_here))
    return cases.select(left, *said, *_notes(cases.patients, away, by_name, by_file))


def _is_training_store(reference: "Reference", numbers: np.ndarray) -> bool:
    learnt = reference.training_contents
    return bool(len(learnt) and np.isin(learnt, numbers).mean() >= _MOST_OF)


def _closed(
    reference: "Reference", table: pd.DataFrame, numbers: np.ndarray, patient: str, training: "Training | None",
    fitted_here: bool,
) -> tuple[np.ndarray, list[str]]:  # fmt: skip
    """Which clips of the table are held out from the expert, bool [C]; a note on a column ``split`` that does not count."""
    closed, notes = np.isin(numbers, reference.held_out_contents), []
    if training is not None:
        closed |= np.isin(numbers, training.held_out_contents)
    if fitted_here:
        return closed | table["clip_id"].isin(held_out_by_column(table, patient)[0]).to_numpy(dtype=bool), []
    try:
        count = len(held_out_by_column(table, patient)[0])
    except SonokitError:
        count = 0  # all of them, or a muddle, which is no matter here
    if count:
        notes = [f"the column split of this store holds {count} clips out; they are nothing to this expert, and all are scored"]
    return closed, notes


def _nobody_left(away: np.ndarray, fitted_here: bool) -> str:
    if fitted_here:
        closed = ", or is held out and stays closed (fit-expert scores that part, once)" if away.any() else ""
        return (
            f"this is the store that the expert was fitted on, and everybody in it was learnt from{closed}: this is no "
            "external evidence. Name another hospital's store; what cross-validation said of this one is in report.json"
        )
    return (
        "every patient here is among the training clips, or held out from the expert (by name or by an identical file): this "
        "is no external evidence. If only the names coincide, give the patients of one hospital a prefix"
    )


def _notes(patients: np.ndarray, away: np.ndarray, by_name: np.ndarray, by_file: np.ndarray) -> list[str]:
    both = by_name | by_file
    people, named, filed = (len(np.unique(patients[rows])) for rows in (both, by_name, by_file))
    notes = []
    if away.any():
        notes.append(
            f"{len(np.unique(patients[away]))} patients are held out from this expert and are left out: fit-expert scores "
            "them, once (--open_held_out true)"
        )
    if both.any():
        notes.append(
            f"{people} patients are among the training clips too ({named} by name, {filed} by an identical file) and are left "
            "out: they are no external evidence"
        )
    return notes


def _people(owners: pd.Series) -> np.ndarray:
    return np.unique(owners.dropna().to_numpy(dtype=str))


def _number(name: str) -> int:
    return int(hashlib.sha256(name.encode()).hexdigest()[:_DIGITS], 16)
