"""How an expert is fitted and evaluated."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import SonokitError
from ..evaluation.calibration import Method
from ..evaluation.conformal import SetKind
from ..evaluation.readout import ReadoutSettings
from ..evaluation.scores import Task
from .oxygenation import LABEL as SF_RATIO
from .oxygenation import RATIO_BOUNDS
from .recipes import Unit

if TYPE_CHECKING:
    from .heads.search_settings import SearchSettings


USUAL_COLUMNS = ("site", "probe")
"""By which the scores are told apart where nobody says by what, if the store has them."""


@dataclass(frozen=True)
class FitSettings:
    """How an expert is fitted and evaluated, under the names of the command's options.

    Attributes:
        task: None: from the label's values.
        heads: One head; several, or ("auto",) for all: one of them is chosen inside the training rows. A name, or an estimator
            with scikit-learn's interface.
        recipes: See :mod:`sonokit.experts.recipes`. Several, or ("auto",): one is chosen inside the training rows.
        where: Only clips whose column has this value.
        classes: Only these classes, in this order.
        patient: The column that says whose a clip is; None: that of the splits, else patient_id.
        folds, repeats: Of the splits, where none are given.
        draws: Resamples of the patients for the intervals, at least 1.
        level: Of the intervals.
        seed: Of the splits, the heads, the forest and the resamples.
        calibration: See :mod:`sonokit.evaluation.calibration`.
        coverage: That conformal sets and intervals promise.
        sets: See :mod:`sonokit.evaluation.conformal`.
        by_class: Whether the coverage is promised for each class.
        columns: By which the scores are told apart, where the store has them.
        unit: What is predicted for: each clip, or each patient from all of their clips.
        search: Of heads' settings inside the training rows; its ``seconds`` are for everything that is fitted here, and are
            divided equally over the fits that search. None: the defaults only.
        spo2, fio2: The columns of an S/F ratio, see :mod:`sonokit.experts.oxygenation`.
        open_held_out: Whether the held-out part is scored, which can be done once.
        teacher: "ensemble", or a fine-tuned network's soft targets, see :mod:`sonokit.experts.distilled`; None: labels alone.
        unlabelled: The store whose clips the teacher speaks of, too; None: those of the store itself.
        teacher_weight: How much the teacher counts beside a clip's own label, 0 to 1.
    """

    task: Task | None = None
    heads: tuple[Any, ...] = ("linear",)
    recipes: tuple[str, ...] = ("mean_std",)
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
    columns: tuple[str, ...] = USUAL_COLUMNS
    unit: Unit = "clip"
    search: "SearchSettings | None" = None
    spo2: str | None = None
    fio2: str | None = None
    open_held_out: bool = False
    teacher: Any = None
    unlabelled: Any = None
    teacher_weight: float = 0.5

    def __post_init__(self) -> None:
        require_draws(self.draws)

    @property
    def recipe(self) -> str:
        """The recipes in words."""
        return ", ".join(self.recipes)

    @property
    def head_names(self) -> tuple[str, ...]:
        """The heads in words: an estimator by the name of its class."""
        return tuple(head if isinstance(head, str) else type(head).__name__ for head in self.heads)

    def readout(self, label: str | None = None) -> ReadoutSettings:
        """How readouts of a label are fitted."""
        bounds = RATIO_BOUNDS if label == SF_RATIO else (-math.inf, math.inf)
        return ReadoutSettings(self.calibration, self.coverage, self.sets, self.by_class, seed=self.seed, bounds=bounds)


def require_draws(draws: int) -> None:
    """Refuse to resample the patients less than once.

    Raises:
        SonokitError: ``draws`` is below 1.
    """
    if draws < 1:
        raise SonokitError(f"--draws {draws}: intervals need at least 1 resample of the patients (2000 are usual)")
