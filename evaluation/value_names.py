"""How a value of a column is written wherever it is a name: of a class, of a group, in a condition."""

from typing import Any

import numpy as np
import pandas as pd


def value_names(values: pd.Series) -> pd.Series:
    """Values as text, of which two are alike only where the values are: 2.0 is "2", 0.1 is "0.1", NA stays NA.

    Args:
        values: Any [N]; of float32 the shortest text is taken that means the same float32.

    Returns:
        string [N].
    """
    if not pd.api.types.is_numeric_dtype(values):
        return values.astype("string")
    kind = getattr(values.dtype, "numpy_dtype", values.dtype)  # of a column that may hold NA that of its values
    return values.map(lambda value: pd.NA if pd.isna(value) else _number(kind.type(value))).astype("string")


def _number(value: Any) -> str:
    if isinstance(value, np.floating):
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else str(value)
    return str(int(value))
