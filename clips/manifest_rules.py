"""The rules of a manifest, in pandera's words, and the report of every fault at once."""

import difflib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pandera.pandas as pa

from .manifest_cells import Cells, numbers

_LISTED = 20
_OF_THE_CACHE = ("content_hash", "container", "frame_rate", "frame_count", "declared_count")
_OF_THE_STORE = ("row_id", "segment", "start_s", "end_s", "embedding", "extractor_trained_on")


@dataclass(frozen=True)
class Rules:
    """What a command asks of a manifest: see :func:`sonokit.clips.manifest.read_manifest`."""

    folder: Path
    binary: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    check_files: bool = True


@dataclass(frozen=True, order=True)
class Fault:
    """One fault: ``row`` is the line of the file, the header being line 1 (0: the header of a Parquet file)."""

    row: int
    column: str
    value: str
    expected: str


def find_faults(cells: Cells, rules: Rules) -> list[Fault]:
    """Every fault of ``cells`` under ``rules``, in the order of the rows."""
    return sorted({*_header_faults(cells), *_ragged_faults(cells), *_rule_faults(cells, rules)})


def report(source: Path, faults: list[Fault], row_word: str) -> str:
    """The faults as text, one a line; beyond the first twenty only their number."""
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    lines = [f"{source} has {count}:"]
    for fault in faults[:_LISTED]:
        where = f"{row_word} {fault.row}" if fault.row else "header"
        column = f", column {fault.column}" if fault.column else ""
        lines.append(f"  {where}{column}: {fault.value}; expected {fault.expected}")
    if len(faults) > _LISTED:
        lines.append(f"  and {len(faults) - _LISTED} more")
    return "\n".join(lines)


def _header_faults(cells: Cells) -> Iterator[Fault]:
    row = _header_row(cells)
    for name, times in Counter(cells.columns).items():
        if not name:
            yield Fault(row, "", "a column has no name", "a name, or no such column")
        elif times > 1:
            yield Fault(row, name, f"stands {times} times", "one column of each name")
        elif name in (*_OF_THE_CACHE, *_OF_THE_STORE):
            yield Fault(row, name, "sonokit writes a column of this name itself", "another name")


def _ragged_faults(cells: Cells) -> Iterator[Fault]:
    for line, count in cells.ragged:
        expected = f'{len(cells.columns)}, as the header has (a value that holds the separator goes in "quotes")'
        yield Fault(line, "", f"{count} cells", expected)


def _rule_faults(cells: Cells, rules: Rules) -> Iterator[Fault]:
    try:
        _schema(cells, rules).validate(cells.table, lazy=True)
    except pa.errors.SchemaErrors as errors:
        cases = errors.failure_cases
    else:
        return
    for column, check, case, row in zip(cases["column"], cases["check"], cases["failure_case"], cases["index"], strict=True):
        if check == "column_in_dataframe":
            yield Fault(_header_row(cells), str(case), "is missing", _missing_column(str(case), cells))
        elif check == "not_nullable":
            yield Fault(int(row), str(column), "is empty", "the path of a clip")
        elif check == _ITS_OWN:
            first = cells.table.index[cells.table["clip_id"] == case][0]
            yield Fault(int(row), str(column), repr(case), f"{check} ({cells.row_word} {first} has it too)")
        else:
            yield Fault(int(row), str(column), repr(case), str(check))


_ITS_OWN = "a clip_id of its own"


def _schema(cells: Cells, rules: Rules) -> pa.DataFrameSchema:
    def is_number(values: pd.Series) -> pd.Series:
        return numbers(values, cells.decimal).notna()

    def is_binary(values: pd.Series) -> pd.Series:
        return numbers(values, cells.decimal).isin([0, 1])

    def is_file(values: pd.Series) -> pd.Series:
        folder = str(rules.folder)  # texts: a Path for each of a million files takes three times as long
        there = ("://" in path or os.path.isfile(os.path.join(folder, path)) for path in values)  # noqa: PTH113, PTH118
        return pd.Series(there, index=values.index, dtype=bool)

    a_file = pa.Check(is_file, error=f"an existing file (paths are relative to {rules.folder}, with / between folders)")
    columns: dict[str, pa.Column] = {name: pa.Column(nullable=True) for name in rules.required}
    for name in rules.numeric:
        columns[name] = pa.Column(nullable=True, checks=pa.Check(is_number, error="a number, or nothing where unknown"))
    for name in rules.binary:
        columns[name] = pa.Column(nullable=True, checks=pa.Check(is_binary, error="0 or 1, or nothing where unknown"))
    columns["path"] = pa.Column(checks=[a_file] if rules.check_files else [])
    if "clip_id" in cells.table:
        once = pa.Check(lambda values: ~values.duplicated(), error=_ITS_OWN)
        columns["clip_id"] = pa.Column(nullable=True, checks=once)
    return pa.DataFrameSchema(columns)


def _missing_column(name: str, cells: Cells) -> str:
    there = [c for c in cells.columns if c]
    near = difflib.get_close_matches(name.lower(), [c.lower() for c in there], n=1)
    meant = next((f"; {c!r} is near" for c in there if near and c.lower() == near[0]), "")
    return f"a column of this name{meant} (there are: {', '.join(there) or 'none'})"


def _header_row(cells: Cells) -> int:
    return 1 if cells.row_word == "line" else 0
