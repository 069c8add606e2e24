"""How often each clip counts in each resample of the patients, without writing the whole matrix down.

All clips of a patient are drawn together, so that a sum over N clips under B resamples is a sum over P patients of what each
patient's clips bring: ``weights @ cells`` costs B·P instead of B·N. The scores take these weights or a plain matrix [B, N].
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array


@dataclass(frozen=True, eq=False)
class PatientWeights:
    """Weights of N clips under B resamples: ``counts[:, owner] * amounts``.

    Attributes:
        counts: How often each patient is drawn, float64 [B, P].
        owner: The patient of each clip, int64 [N].
        amounts: How much each clip counts by itself, float64 [N].
    """

    counts: np.ndarray
    owner: np.ndarray
    amounts: np.ndarray

    __array_ufunc__ = None  # an array on the left must not spread itself over this object

    @property
    def shape(self) -> tuple[int, int]:
        """B, N."""
        return len(self.counts), len(self.owner)

    @cached_property
    def _by_patient(self) -> csr_array:
        """Sums clips into patients, [P, N]."""
        rows = np.arange(len(self.owner))
        return csr_array((self.amounts, (self.owner, rows)), shape=(self.counts.shape[1], len(self.owner)))

    def __matmul__(self, cells: np.ndarray) -> np.ndarray:
        """Weighted sums of what each clip has: [B] of cells [N], [B, M] of cells [N, M]."""
        with np.errstate(invalid="ignore"):  # an infinite cell of a patient who is not drawn is nan, which is what it is worth
            return self.counts @ (self._by_patient @ np.asarray(cells, dtype=np.float64))

    def __mul__(self, factor: np.ndarray) -> "PatientWeights":
        """The same with each clip's amount multiplied by ``factor`` [N], for instance a mask."""
        return PatientWeights(self.counts, self.owner, self.amounts * factor)

    def sum(self, axis: int = 1, keepdims: bool = False) -> np.ndarray:
        """Total weight of each resample, [B] or [B, 1]."""
        if axis != 1:
            raise ValueError("only the sum over the clips is known")
        total = self @ np.ones(len(self.owner))
        return total[:, None] if keepdims else total

    def sum_into(self, places: np.ndarray, count: int, amounts: np.ndarray) -> np.ndarray:
        """Weight that falls into each of ``count`` places, [B, count]; ``places`` int [N], ``amounts`` [N]."""
        held = self.amounts * amounts
        cells = csr_array(
            (held, (self.owner, places)), shape=(self.counts.shape[1], count)
        )  # [P, count], equal cells are summed
        return (cells.T @ self.counts.T).T

    def dense(self) -> np.ndarray:
        """The matrix, float64 [B, N]."""
        return self.counts[:, self.owner] * self.amounts


Weights = PatientWeights | np.ndarray
"""How often each of N clips counts in each of B resamples, [B, N]."""


def sum_into(weights: Weights, places: np.ndarray, count: int, amounts: np.ndarray) -> np.ndarray:
    """As :meth:`PatientWeights.sum_into`, of these or of a matrix [B, N]."""
    if isinstance(weights, PatientWeights):
        return weights.sum_into(places, count, amounts)
    cells = csr_array((amounts.astype(np.float64), (np.arange(len(places)), places)), shape=(len(places), count))
    return weights @ cells


def dense(weights: Weights) -> np.ndarray:
    """The matrix [B, N] of either."""
    return weights.dense() if isinstance(weights, PatientWeights) else np.asarray(weights, dtype=np.float64)
