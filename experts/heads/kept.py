"""What a head has in common with others that keep one fitted head and the features it reads."""

from pathlib import Path
from typing import Any

import numpy as np


class KeptHead:
    """Answers as the head that was kept.

    Attributes:
        head_: Fitted; it reads ``X[:, columns_]``.
        columns_: int [·]; None for all features.
    """

    head_: Any
    columns_: np.ndarray | None

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Class codes or values, [N]; X [N, F] has all features that ``fit`` was given."""
        return self.head_.predict(self._read(X))

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Probabilities [N, len(classes_)]; X [N, F] as for :meth:`predict`."""
        return self.head_.predict_proba(self._read(X))

    def save(self, folder: Path) -> None:
        """Write the kept head; loading gives that head itself, which reads its own features only."""
        self.head_.save(folder)

    def _read(self, X: np.ndarray) -> np.ndarray:
        # in the order of memory that a store's features have: what is loaded later must say the same to the last digit
        return X if self.columns_ is None else np.ascontiguousarray(X[:, self.columns_])
