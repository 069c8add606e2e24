"""A manifest file as cells of text, each row with its line: what spreadsheets of hospitals really contain.

A byte-order mark, semicolons or tabs instead of commas, decimal commas beside semicolons, spaces round a header, rows of
nothing but separators: all of that is read as it was meant. Python's own ``csv`` is used because it alone tells the line of a
row.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from ..errors import SonokitError

_UNKNOWN = ("", "na", "n/a", "nan", "<na>", "null")  # in any case; "none" is left alone: it may be a class
_NAMES = ("path", "clip_id")  # where only an empty cell is empty: "NA" may be a file
_NUMBERED_ROWS = re.compile(r"__index_level_\d+__")  # what pandas calls an index without a name, in Parquet


@dataclass(frozen=True)
class Cells:
    """The text of a manifest.

    Attributes:
        table: Text or missing; the index is the line of the file (CSV) or the number of the row, from 1 (Parquet).
        row_word: What the index counts, "line" or "row".
        decimal: The decimal sign of its numbers.
        ragged: (line, number of cells) of the rows that have more cells than the header.
        columns: The header as written, stripped; may repeat names or hold empty ones.
    """

    table: pd.DataFrame
    row_word: str
    columns: tuple[str, ...]
    decimal: str = "."
    ragged: list[tuple[int, int]] = field(default_factory=list)


def read_cells(source: Path) -> Cells:
    """Read ``source`` (.csv or .parquet) as text.

    Raises:
        SonokitError: There is no such file, or it is neither, or no UTF-8 text.
    """
    if not source.is_file():
        raise SonokitError(f"There is no manifest {source}. sonokit scan FOLDER writes one from a folder of clips.")
    ending = source.suffix.lower()
    if ending == ".parquet":
        return _read_parquet(source)
    if ending not in (".csv", ".tsv", ".txt"):
        raise SonokitError(f"{source} is no manifest: a .csv or .parquet file is needed. Save a spreadsheet as CSV (UTF-8).")
    return _read_csv(source)


def numbers(cells: pd.Series, decimal: str = ".") -> pd.Series:
    """Text as numbers; NaN where it is none or not finite. Whole numbers without gaps stay integers."""
    text = cells.str.replace(",", ".", regex=False) if decimal == "," else cells
    values = pd.to_numeric(text.astype(object), errors="coerce")
    return (
        values
        if pd.api.types.is_integer_dtype(values)
        else values.astype(np.float64).where(np.isfinite(values.astype(np.float64)))
    )


def _read_csv(source: Path) -> Cells:
    text = _decode(source)
    separator = _separator(text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
    header: tuple[str, ...] = ()
    rows: list[list[str]] = []
    lines: list[int] = []
    ragged = []
    line = 1
    for row in _readable(reader, source):
        row = [cell.strip() for cell in row]
        while len(row) > len(header) > 0 and not row[-1]:  # separators at the end of a line
            row.pop()
        if not header:
            header = tuple(row)
        elif len(row) > len(header):
            ragged.append((line, len(row)))
        elif any(row):
            rows.append(row + [""] * (len(header) - len(row)))
            lines.append(line)
        line = reader.line_num + 1
    if not any(header):
        raise SonokitError(f"{source} is empty: its first line must name the columns, among them path.")
    columns: list[tuple[str, ...]] = list(zip(*rows, strict=True)) if rows else [()] * len(header)
    table = _table(dict(_named(header, columns)), pd.Index(lines, dtype=np.int64))
    return Cells(table, "line", _without_trailing(header), "," if separator == ";" else ".", ragged)


def _decode(source: Path) -> str:
    data = source.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise SonokitError(
            f"{source}, line {line}: not UTF-8 text. Save it anew as 'CSV UTF-8' (Excel: Save as, file type)."
        ) from None
    if "\0" in text:
        raise SonokitError(f"{source} is no CSV text (it holds zero bytes). Save it anew as 'CSV UTF-8'.")
    return text


def _separator(text: str) -> str:
    header = next((line for line in text.splitlines() if line.strip()), "")
    return max(",;\t", key=header.count)  # a comma where none occurs


def _readable(reader, source: Path):  # type: ignore[no-untyped-def]  # csv's reader has no public type
    try:
        yield from reader
    except csv.Error as error:
        raise SonokitError(f"{source}, line {reader.line_num}: not readable as CSV ({error}). Mend that line.") from None


def _named(header: tuple[str, ...], columns: list[tuple[str, ...]]) -> list[tuple[str, tuple[str, ...]]]:
    return [(name, values) for name, values in zip(header, columns, strict=True) if name]


def _without_trailing(header: tuple[str, ...]) -> tuple[str, ...]:
    end = max(i for i, name in enumerate(header) if name) + 1
    return header[:end]


def _read_parquet(source: Path) -> Cells:
    try:
        # pandas' own reader hides a column that was an index (patient_id, say) and may make floats of whole numbers beside gaps
        content = pa.parquet.ParquetFile(source).read()
    except (OSError, ValueError) as error:  # pyarrow's errors are kinds of these
        raise SonokitError(f"{source} is not readable as Parquet ({error}). Write it anew.") from None
    content = content.select([i for i, name in enumerate(content.column_names) if not _NUMBERED_ROWS.fullmatch(name)])
    header = tuple(name.strip() for name in content.column_names)
    columns = {name: _as_texts(values) for name, values in zip(header, content.columns, strict=True)}
    return Cells(_table(columns, pd.RangeIndex(1, content.num_rows + 1)), "row", header)


def _as_texts(column: pa.ChunkedArray) -> Sequence[str]:
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return column.cast(pa.large_string()).combine_chunks().to_pandas().array  # no object for each of a million texts
    try:
        values = column.combine_chunks().dictionary_encode()
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):  # lists and the like
        return [_as_text(value) for value in column.to_pylist()]
    texts = pa.array([_as_text(value) for value in values.dictionary.to_pylist()], pa.large_string())
    return texts.take(values.indices).to_pandas().array


def _as_text(value: Any) -> str:
    if value is None or value != value:  # NaN
        return ""
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))  # patient 7.0 is patient 7: an empty cell elsewhere made the column floats
    return str(value)


def _table(columns: Mapping[str, Sequence[str]], index: pd.Index) -> pd.DataFrame:
    table = pd.DataFrame({name: pd.Series(values, index=index, dtype="str") for name, values in columns.items()}, index=index)
    for name in table.columns:
        text = table[name].str.strip()
        unknown = text == "" if name in _NAMES else text.str.lower().isin(_UNKNOWN)
        table[name] = text.mask(unknown)
    return table
