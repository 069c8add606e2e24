"""How an expert is fitted and evaluated."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..evaluation.calibration import Method
from ..evaluation.conformal import SetKind
from ..evaluation.readout import ReadoutSettings
from ..evaluation.scores import Task


@dataclass(frozen=True)
class FitSettings:
    """How an expert is fitted and evaluated, under the names of the command's options.

    Attributes:
        task: None: from the label's values.
        heads: One head; several, or ("auto",) for all: one of them is chosen inside the training rows.
        recipe: See :mod:`sonokit.experts.recipes`.
        where: Only clips whose column has this value.
        classes: Only these classes, in this order.
        patient: The column that says whose a clip is; None: that of the splits, else patient_id.
        folds, repeats: Of the splits, where none are given.
        draws: Resamples of the patients for the intervals.
        level: Of the intervals.
        seed: Of the splits, the heads, the forest and the resamples.
        calibration: See :mod:`sonokit.evaluation.calibration`.
        coverage: That conformal sets and intervals promise.
        sets: See :mod:`sonokit.evaluation.conformal`.
        by_class: Whether the coverage is promised for each class.
        columns: By which the scores are told apart, where the store has them.
    """

    task: Task | None = None
    heads: tuple[str, ...] = ("linear",)
    recipe: str = "mean_std"
    where: Mapping[str, str] | None = None
    classes: tuple[str, ...] | None = None
    patient: str | None = None
    folds: int = 5
    repeats: int = 10
    draws: int = 2000
    level: float = 0.95
    seed: int = 0
    calibration: Method = "platt"
    coverage: float = 0.9
    sets: SetKind = "lac"
    by_class: bool = False
    columns: tuple[str, ...] = ("site", "probe")

    def readout(self) -> ReadoutSettings:
        """How readouts are fitted."""
        return ReadoutSettings(self.calibration, self.coverage, self.sets, self.by_class, seed=self.seed)
