"""The manifest: a table with one row a clip, which is where every command begins.

A CSV or Parquet file. ``path`` is required (relative to the manifest's folder, absolute, or any fsspec URL); ``clip_id``,
``patient_id``, ``site`` and ``probe`` are known names; every other column is a label that a task may ask for. An empty cell
means unknown, never negative. Reading reports all faults together, each with its row.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from ..atomic import atomic_path
from ..errors import SonokitError
from .manifest_cells import Cells, numbers, read_cells
from .manifest_rules import Fault, Rules, find_faults, report
from .scan import default_clip_ids
from .scan import scan_folder as scan_folder

KNOWN_COLUMNS = ("path", "clip_id", "patient_id", "site", "probe")
_NAMED_CLIPS = 10  # how many clips a message names
_AT_THEIR_RISK = "--patient clip_id takes each clip as its own patient; the report will say so."


@dataclass(frozen=True)
class Manifest:
    """The clips of a study, one row each.

    Attributes:
        table: RangeIndex; ``path`` as written, ``clip_id`` (unique), perhaps ``patient_id``, ``site``, ``probe`` (text or
            missing), and the labels: numbers where every value is one, else text.
        folder: What relative paths are relative to.
        patient_column: The column that stands for the patient, None where nobody has said.
        source: The file that it was read from.
    """

    table: pd.DataFrame
    folder: Path
    patient_column: str | None
    source: Path

    def __len__(self) -> int:
        return len(self.table)

    def locate(self, row: int) -> str:
        """The absolute path of the clip in ``row``, or its URL unchanged."""
        return _located(str(self.table["path"].iloc[row]), str(self.folder.absolute()))

    def locations(self) -> pd.Series:
        """:meth:`locate` for every row."""
        folder = str(self.folder.absolute())
        return self.table["path"].map(lambda path: _located(path, folder)).astype("str")

    def patients(self) -> np.ndarray:
        """The patient of every row, as text [len(self)].

        Raises:
            SonokitError: Nobody has said what stands for the patient, or the column has empty cells.
        """
        if self.patient_column is None:
            raise SonokitError(
                f"{self.source} has no column patient_id, and without patients nothing can be evaluated. Name the column "
                f"that stands for the patient with --patient COLUMN; {_AT_THEIR_RISK}"
            )
        cells = self.table[self.patient_column]
        empty = self.table["clip_id"][cells.isna()]
        if len(empty):
            raise SonokitError(
                f"{self.source}: {self.patient_column} is empty for {len(empty)} of {len(self)} clips ({_some(empty)}). "
                f"Fill it in; or {_AT_THEIR_RISK}"
            )
        return cells.to_numpy(dtype=str)

    def groups(self) -> np.ndarray:
        """The patient of every row; a clip whose patient is unknown is a patient of its own. For pretraining only."""
        clip_ids = self.table["clip_id"]
        if self.patient_column is None:
            return clip_ids.to_numpy(dtype=str)
        # the prefix keeps a clip "7" of an unknown patient apart from the patient "7"
        return self.table[self.patient_column].fillna("clip " + clip_ids).to_numpy(dtype=str)

    def group_codes(self) -> np.ndarray:
        """:meth:`groups` as numbers from 0 in the order of their names, int64 [len(self)]: much less memory than names."""
        names = self.table["clip_id"]
        if self.patient_column is not None:
            names = self.table[self.patient_column].fillna("clip " + names)
        return pd.factorize(names, sort=True)[0].astype(np.int64)

    def select(self, keep: np.ndarray) -> "Manifest":
        """The rows where the boolean mask ``keep`` [len(self)] is true."""
        if np.all(keep):
            return self
        return replace(self, table=self.table[np.asarray(keep, dtype=bool)].reset_index(drop=True))

    def labels(self, column: str) -> pd.Series:
        """One label for every row, missing where unknown.

        Raises:
            SonokitError: There is no such column; the message lists those that there are.
        """
        allowed = [*self.label_columns, *(c for c in ("site", "probe") if c in self.table)]
        if column not in allowed:
            raise SonokitError(f"{self.source} has no label column {column!r}. Its columns: {', '.join(allowed) or 'none'}.")
        return self.table[column]

    @property
    def label_columns(self) -> list[str]:
        """Every column but path, clip_id, patient_id, site and probe."""
        return [c for c in self.table.columns if c not in KNOWN_COLUMNS]


def read_manifest(
    path: str | Path,
    *,
    patient: str | None = None,
    binary: Sequence[str] = (),
    numeric: Sequence[str] = (),
    required: Sequence[str] = (),
    check_files: bool = True,
) -> Manifest:
    """Read a manifest and check it; every fault is reported, not only the first.

    Args:
        path: A ``.csv`` (comma, semicolon or tab; UTF-8) or ``.parquet`` file.
        patient: The column that stands for the patient, where it is not ``patient_id``.
        binary: Columns that must hold 0, 1 or nothing.
        numeric: Columns that must hold numbers or nothing.
        required: Further columns that must be there.
        check_files: Whether every clip's file must exist (URLs are not asked for).

    Raises:
        SonokitError: What is wrong, with the row (the line of the CSV; the header is line 1), the column and the value.
    """
    source = Path(path)
    cells = read_cells(source)
    rules = Rules(
        folder=source.absolute().parent,
        binary=tuple(binary),
        numeric=tuple(numeric),
        required=(*required, *([patient] if patient else [])),
        check_files=check_files,
    )
    cells = _with_clip_ids(cells)
    faults = find_faults(cells, rules)
    if faults:
        raise SonokitError(report(source, faults, cells.row_word))
    if cells.table.empty:
        raise SonokitError(f"{source} has no clips: there is no row below the header. sonokit scan FOLDER writes a manifest.")
    patient_column = patient or ("patient_id" if "patient_id" in cells.table else None)
    table = _typed(cells, patient)
    pa.default_memory_pool().release_unused()  # it would keep what checking took: 0.3 GB for a million clips
    return Manifest(table, rules.folder, patient_column, source)


def write_manifest(table: pd.DataFrame, path: Path) -> None:
    """Write a manifest, atomically; the ending ``.csv`` or ``.parquet`` chooses the format.

    Raises:
        SonokitError: Another ending.
    """
    path = Path(path)
    ending = path.suffix.lower()
    if ending not in (".csv", ".parquet"):
        raise SonokitError(f"A manifest is a .csv or a .parquet file, not {path.name!r}. Choose another name.")
    with atomic_path(path) as temporary:
        if ending == ".csv":
            table.to_csv(temporary, index=False)
        else:
            table.to_parquet(temporary, index=False)


def _with_clip_ids(cells: Cells) -> Cells:
    """Fill in empty clip_ids with the path without its ending."""
    if "path" not in cells.table:
        return cells
    table = cells.table.copy()
    names = default_clip_ids(table["path"])
    given = table["clip_id"] if "clip_id" in table else pd.Series(pd.NA, index=table.index, dtype="str")
    table["clip_id"] = given.fillna(names)
    first = ["path", "clip_id"]
    return replace(cells, table=table[[*first, *(c for c in table.columns if c not in first)]])


def _located(path: str, folder: str) -> str:
    return path if "://" in path else os.path.join(folder, path)  # noqa: PTH118  # a Path each takes ten times as long


def _typed(cells: Cells, patient: str | None) -> pd.DataFrame:
    """The text cells as a table of text (what names something) and labels (numbers where every value is one)."""
    columns = {}
    for name, values in cells.table.items():
        columns[name] = values
        if name not in (*KNOWN_COLUMNS, patient):
            as_numbers = numbers(values, cells.decimal)
            # an "inf" is no number here: nothing finite can be fitted on it
            columns[name] = values if (values.notna() & as_numbers.isna()).any() else as_numbers
    return pd.DataFrame(columns).reset_index(drop=True)


def _some(names: pd.Series) -> str:
    named = ", ".join(names.head(_NAMED_CLIPS))
    return named if len(names) <= _NAMED_CLIPS else f"{named} and {len(names) - _NAMED_CLIPS} more"


__all__ = ["KNOWN_COLUMNS", "Fault", "Manifest", "read_manifest", "scan_folder", "write_manifest"]
