"""How far a choice among heads, recipes and settings goes."""

import math
from dataclasses import dataclass

from ...errors import SonokitError


@dataclass(frozen=True)
class SearchSettings:
    """The budget of one fit's search.

    The candidates come in an order that the seed alone decides: first every head at its defaults on every recipe, then settings
    that are drawn. ``trials`` says how many of the drawn ones are tried, which repeats a run exactly. ``seconds`` says how long
    to go on drawing, which does not: how far one comes depends on the machine. The defaults are always tried.

    Attributes:
        trials: Drawn candidates at most; 0 with ``seconds``: as many as there is time for.
        seconds: From the start of a fit until no further candidate is drawn; None: no limit.
        inner_folds: Of the training rows, grouped by patient.
    """

    trials: int = 0
    seconds: float | None = None
    inner_folds: int = 5

    def __post_init__(self) -> None:
        if self.trials < 0 or (self.seconds is not None and not (math.isfinite(self.seconds) and self.seconds >= 0)):
            raise SonokitError(f"a search of {self.trials} trials in {self.seconds} seconds cannot be: give 0 or more")
        if self.inner_folds < 2:
            raise SonokitError(f"a search on {self.inner_folds} inner folds cannot be: give 2 or more")

    @property
    def wanted(self) -> bool:
        """Whether anything but the defaults is asked for."""
        return self.trials > 0 or self.seconds is not None
