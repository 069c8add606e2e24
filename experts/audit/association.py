"""How far a column tells the label, without any picture: Cramér's V, and its p-value by exchanging patients."""

from dataclasses import dataclass

import numpy as np

from .columns import PatientValues, patient_values


@dataclass(frozen=True)
class Association:
    """A column against the label.

    Attributes:
        v: Cramér's V, 0 to 1, corrected for its bias upwards in small tables (Bergsma 2013).
        plain_v: Without that correction.
        chance_v: Mean of ``plain_v`` over the exchanged patients.
        p: Share of the exchanges that reach ``plain_v``, the real order counted among them.
        patients: P.
        values: Names of the column's G values.
        table: Patients by value and class, float [G, K]; a patient of two classes counts half in each.
    """

    v: float
    plain_v: float
    chance_v: float
    p: float
    patients: int
    values: tuple[str, ...]
    table: np.ndarray

    @property
    def w(self) -> float:
        """Cohen's effect size w, from the corrected V: unlike V it does not shrink because there are more classes."""
        filled = (int((self.table.sum(axis=0) > 0).sum()), int((self.table.sum(axis=1) > 0).sum()))
        return self.v * float(np.sqrt(min(filled) - 1))


def associate(
    values: np.ndarray, codes: np.ndarray, patients: np.ndarray, *, permutations: int = 1999, seed: int = 0
) -> Association | str:
    """Measure how a column goes with the label, every patient counted once.

    Args:
        values: The column, str [N], empty where unknown.
        codes: The label's classes, int [N].
        patients: Whose each clip is, str [N].
        permutations: How often the patients exchange their values, a patient's clips staying together.
        seed: Of the exchanges.

    Returns:
        The figures, or why there are none.
    """
    known = patient_values(values, patients)
    if len(known.names) < 2:
        return "unknown for every clip" if not known.names else f"the same for all patients ({known.names[0]})"
    shares = _class_shares(known, codes)  # [P, K]
    if shares.shape[1] < 2:
        return "all clips where it is known are of one class"
    count = len(known.code)
    v, rng = plain_v(_cross_table(known.code, shares)), np.random.default_rng(seed)
    drawn = np.array([plain_v(_cross_table(rng.permutation(known.code), shares)) for _ in range(permutations)])
    reached = int((drawn >= v - 1e-12).sum())
    table = _cross_table(known.code, shares)
    return Association(
        v=corrected_v(table),
        plain_v=v,
        chance_v=float(drawn.mean()) if permutations else float("nan"),
        p=(1 + reached) / (1 + permutations),
        patients=count,
        values=known.names,
        table=_cross_table(known.code, _class_shares(known, codes, classes=int(codes.max()) + 1)),
    )


def plain_v(table: np.ndarray) -> float:
    """Cramér's V of a table of counts, [G, K], both of at least two filled lines."""
    return float(np.sqrt(_phi_squared(table) / (min(table.shape) - 1)))


def corrected_v(table: np.ndarray) -> float:
    """Cramér's V of counts [G, K] without its bias (Bergsma 2013, J. Korean Statistical Society), 0 where that is negative."""
    count = table.sum()
    if count <= 2:
        return 0.0
    lines = np.array(table.shape, dtype=np.float64)
    excess = max(0.0, _phi_squared(table) - np.prod(lines - 1) / (count - 1))
    smallest = float((lines - (lines - 1) ** 2 / (count - 1)).min()) - 1
    return float(min(1.0, np.sqrt(excess / smallest))) if smallest > 0 else 0.0


def _phi_squared(table: np.ndarray) -> float:
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0, keepdims=True) / table.sum()
    return float(((table - expected) ** 2 / expected).sum() / table.sum())


def _class_shares(known: PatientValues, codes: np.ndarray, classes: int | None = None) -> np.ndarray:
    """Which share of a patient's clips is of which class, [P, K]; only classes that occur, or the first ``classes``."""
    there, code = np.unique(codes[known.clips], return_inverse=True)
    if classes is not None:
        there, code = np.arange(classes), codes[known.clips]
    counts = np.zeros((len(known.code), len(there)))
    np.add.at(counts, (known.owner, code), 1)
    return counts / counts.sum(axis=1, keepdims=True)


def _cross_table(code: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Patients by value and class, [G, K]."""
    return (np.arange(code.max() + 1)[:, None] == code[None, :]).astype(np.float64) @ shares
