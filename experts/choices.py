"""What was chosen inside the folds: head, recipe and settings of each fit that had a choice."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ..evaluation.out_of_fold import FoldRows
from ..evaluation.scores import Task
from .heads import make_head
from .settings import FitSettings


def head_maker(settings: FitSettings, task: Task, fits: int, *, search: bool = True) -> Any:
    """A function that takes the columns of each recipe (None: one recipe) and makes a fresh head.

    Args:
        settings: Heads, and the search of their settings.
        task: What they predict.
        fits: How many fits share the seconds of the search.
        search: Whether settings are searched at all; the floors go without.
    """
    options: dict[str, Any] = {}
    if search and settings.search is not None:
        seconds = settings.search.seconds
        options["search"] = replace(settings.search, seconds=None if seconds is None else seconds / max(1, fits))

    def make(columns: Mapping[str, np.ndarray] | None) -> Any:
        chosen = options if columns is None else {**options, "columns": columns}
        return make_head(settings.heads, task, settings.seed, **chosen)

    return make


def chooses(settings: FitSettings, recipes: tuple[str, ...]) -> bool:
    """Whether a head or a recipe is chosen, beside the settings of a head."""
    return len(settings.heads) > 1 or "auto" in settings.head_names or len(recipes) > 1


@dataclass
class ChoiceLog:
    """Told of each fitted head; keeps nothing of those that had no choice.

    Attributes:
        recipe: The one recipe, for heads that have no choice of it.
        folds: What each fold chose.
        trials: How many candidates were tried in the folds.
        seconds: How long that took.
    """

    recipe: str
    folds: list[dict[str, Any]] = field(default_factory=list)
    trials: int = 0
    seconds: float = 0.0

    def note(self, fold: FoldRows, head: Any) -> None:
        """For ``fitted=`` of a cross-validation."""
        if hasattr(head, "chosen_"):
            self.folds.append({"fold": fold.index, **self._choice(head)})
            self.trials += len(getattr(head, "trials_", ()))
            self.seconds += sum(float(trial.get("seconds") or 0) for trial in getattr(head, "trials_", ()))

    def heads(self) -> dict[str, int]:
        """Head -> how many folds chose it."""
        return dict(sorted(Counter(str(entry["head"]) for entry in self.folds).items()))

    def report(self, final: Any, settings: FitSettings, fits: int) -> dict[str, Any] | None:
        """The key "search" of a report: the same for every run of the same search by trials; None where nothing was chosen.

        Args:
            final: The head that is kept, as it was fitted.
            settings: Whose budget is told.
            fits: How many fits share its seconds.
        """
        if not self.folds:
            return None
        budget = settings.search
        return {
            "trials": self.trials,
            "seconds": None if budget is None or budget.seconds is None else round(budget.seconds / fits, 3),  # a fit
            "trials_a_fit": None if budget is None else budget.trials,
            "chosen": dict(Counter(f"{entry['head']} | {entry['recipe']}" for entry in self.folds).most_common()),
            "folds": self.folds,
            "final": self._choice(final) | {"trials": _without_clock(getattr(final, "trials_", ()))},
        }

    def _choice(self, head: Any) -> dict[str, Any]:
        chosen = getattr(head, "chosen_", None)
        return {
            "head": chosen,
            "recipe": getattr(head, "recipe_", None) or self.recipe,
            "settings": _plain(getattr(head, "settings_", {})),
        }


def _without_clock(trials: Any) -> list[dict[str, Any]]:
    return [_plain({name: value for name, value in trial.items() if name != "seconds"}) for trial in trials]


def _plain(value: Any) -> Any:
    """Values for JSON; nan is None, and what JSON does not know is its text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(held) for name, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(held) for held in value]
    if isinstance(value, (np.floating, float)):
        return float(value) if np.isfinite(value) else None
    if isinstance(value, np.integer):
        return int(value)
    return value if value is None or isinstance(value, (str, int)) else str(value)
