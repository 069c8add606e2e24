"""What something else said of clips, as a teacher: a CSV such as ``sonokit predict`` writes.

Every frame of a clip is taught the clip's probabilities. So an expert, an ensemble of experts or any other software can teach
without being opened here.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import SonokitError
from ..signals.response import Kind
from ..tables import Table

_LEAST = 1e-6  # of a probability, so that its logarithm is a number


@dataclass(frozen=True, eq=False)
class SoftLabels:
    """Probabilities of clips.

    Attributes:
        source: The file.
        kind: "classes": they sum to 1. "several": each is of a finding.
        rows: clip_id -> place in ``values``.
        values: float64 [M, K].
    """

    source: str
    kind: Kind
    rows: dict[str, int]
    values: np.ndarray

    @property
    def fingerprint(self) -> str:
        """Changes with any clip or probability."""
        digest = hashlib.sha256("\n".join(self.rows).encode())
        digest.update(np.ascontiguousarray(self.values).tobytes())
        return digest.hexdigest()[:16]

    def probabilities(self, clip_ids: Sequence[str] | np.ndarray) -> np.ndarray:
        """Of some clips, float64 [M, K].

        Raises:
            SonokitError: The file lacks one.
        """
        absent = [str(clip) for clip in clip_ids if str(clip) not in self.rows]
        if absent:
            raise SonokitError(f"{self.source} lacks {len(absent)} of the clips (first {absent[0]}): predict for all of them")
        return self.values[[self.rows[str(clip)] for clip in clip_ids]]

    def logits(self, clip_ids: Sequence[str] | np.ndarray) -> np.ndarray:
        """The same as logits, float32 [M, K]."""
        likely = np.clip(self.probabilities(clip_ids), _LEAST, 1 - _LEAST)
        return (np.log(likely) - (np.log1p(-likely) if self.kind == "several" else 0)).astype(np.float32)


def read_soft_labels(file: Path, classes: Sequence[str], kind: Kind) -> SoftLabels:
    """Read ``clip_id`` and ``p_<class>`` of every class; other columns are not looked at.

    Args:
        file: The CSV.
        classes: Names of the K classes or findings.
        kind: Of the question.

    Raises:
        SonokitError: No such file or column, a clip stands twice, or a probability is none; classes that do not sum to 1.
    """
    table = Table(file)
    clips = table.texts(table.require("clip_id"))
    values = np.stack([table.numbers(table.require(f"p_{name}".lower())) for name in classes], axis=1)  # [M, K]
    rows: dict[str, int] = {}
    for place, clip in enumerate(clips):
        if clip in rows:
            raise SonokitError(f"{file}, {table.place(place)}: the clip {clip} stands twice; keep one row a clip")
        rows[clip] = place
    broken = np.flatnonzero(~((values >= 0) & (values <= 1)).all(axis=1))
    if len(broken):
        raise SonokitError(f"{file}, {table.place(int(broken[0]))}: a probability lies between 0 and 1; mend that row")
    sums = values.sum(axis=1)
    if kind == "classes" and (strange := np.flatnonzero(np.abs(sums - 1) > 0.01)).size:
        where = table.place(int(strange[0]))
        raise SonokitError(f"{file}, {where}: the probabilities sum to {sums[strange[0]]:.3f}, not 1; ask for all its classes")
    return SoftLabels(str(file), kind, rows, values / sums[:, None] if kind == "classes" else values)
