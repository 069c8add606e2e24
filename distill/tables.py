"""Tables of expert knowledge: the cells of a CSV or Parquet file, numbers read strictly, every fault told with its line."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from ..clips.manifest_cells import Cells, numbers, read_cells
from ..errors import SonokitError

_ENDINGS = (".csv", ".tsv", ".txt", ".parquet")


class Table:
    """Cells by column name, in any case.

    Args:
        source: The file: .csv, .tsv, .txt or .parquet, UTF-8.

    Raises:
        SonokitError: No such file, not readable as a table, a row with more cells than the header, or a repeated column.
    """

    def __init__(self, source: Path) -> None:
        self.source = Path(source)
        if not self.source.is_file():
            raise SonokitError(f"There is no file {source}.")
        if self.source.suffix.lower() not in _ENDINGS or self.source.stat().st_size == 0:
            raise SonokitError(
                f"{source} is no table: {', '.join(_ENDINGS)} with the columns named in the first line is needed."
            )
        self._cells: Cells = read_cells(self.source)
        if self._cells.ragged:
            line, count = self._cells.ragged[0]
            raise SonokitError(f"{source}, line {line}: {count} cells, but {len(self._cells.columns)} columns. Mend that line.")
        self._text = self._cells.table.rename(columns=str.lower)
        repeated = sorted({name for name in map(str.lower, self._cells.columns) if self._count(name) > 1})
        if repeated:
            raise SonokitError(f"{source}: column {repeated[0]!r} is there more than once. Rename one.")

    def __len__(self) -> int:
        return len(self._text)

    @property
    def columns(self) -> list[str]:
        """Names in lower case, in the order of the file."""
        return list(self._text.columns)

    def find(self, names: Iterable[str]) -> str | None:
        """The first of these names that is a column."""
        return next((name for name in names if name in self._text.columns), None)

    def require(self, *names: str) -> str:
        """The first of these names that is a column.

        Raises:
            SonokitError: None is.
        """
        column = self.find(names)
        if column is None:
            raise SonokitError(
                f"{self.source}: no column {names[0]!r} among {', '.join(self.columns)}. Rename it in the header."
            )
        return column

    def texts(self, column: str) -> list[str]:
        """The cells of a column; "" where one is empty."""
        return ["" if pd.isna(cell) else str(cell) for cell in self._text[column]]

    def numbers(self, column: str) -> np.ndarray:
        """The cells of a column as float64 [rows]; nan where one is empty, ``nan``, ``NA`` or a single dot.

        Raises:
            SonokitError: A cell is no number.
        """
        text = self._text[column]
        text = text.mask(text == ".")
        values = numbers(text, self._cells.decimal).to_numpy(dtype=np.float64, na_value=np.nan)
        wrong = np.flatnonzero(np.isnan(values) & text.notna().to_numpy())
        if len(wrong):
            row = int(wrong[0])
            raise SonokitError(f"{self.source}, {self.place(row)}: {column} is {text.iloc[row]!r}, no number. Mend that cell.")
        return values

    def place(self, row: int) -> str:
        """Where a row stands in the file, such as "line 7"."""
        return f"{self._cells.row_word} {self._text.index[row]}"

    def _count(self, name: str) -> int:
        return sum(other.lower() == name for other in self._cells.columns if other)
