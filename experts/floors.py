"""What stands beside an expert's score: each floor on the same clips, patients and folds, and the paired difference to it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.base import clone

from ..evaluation.bootstrap import interval
from ..evaluation.floors import TITLES, MetadataForest, MostFrequent, metadata_features
from ..evaluation.out_of_fold import FoldRows
from ..evaluation.predictions import Predictions
from .crossval import Measured, QuestionFeatures, cross_validate, leave_sites_out
from .question import Question
from .recipes import recipe_blocks, recipe_columns, union_recipe

HeadMaker = Callable[[Mapping[str, np.ndarray] | None], Any]
"""Makes a fresh head for features whose recipes have these columns; None: there is one recipe."""

_REPEATS_OF_A_CHOICE = 2


def measure_floors(
    question: Question,
    features: QuestionFeatures,
    make: Callable[[], Any],
    folds: Sequence[FoldRows],
    usable: np.ndarray,
    *,
    seed: int = 0,
    make_for: HeadMaker | None = None,
    chooses: bool = False,
    progress: bool = False,
) -> dict[str, Measured]:
    """Predictions of every floor, or why there are none.

    Args:
        question: Who takes part.
        features: What the expert sees.
        make: The expert's head, fresh, without a search of its settings, for the expert's features.
        folds: The expert's folds.
        usable: False for the held-out clips, bool [N].
        seed: Of the forest.
        make_for: The same for features of other recipes, as a random network has them; None: ``make`` does for those too.
        chooses: Whether the head is chosen among several: then the random-initialised network, whose head is chosen by the same
            procedure, is measured on the first two repeats of the folds only.
        progress: Whether to show bars on standard error.

    Returns:
        Name of the floor (see :mod:`sonokit.evaluation.floors`) -> its predictions.
    """
    nothing, metadata = np.zeros((len(question.truth), 1)), metadata_features(question.table)
    shown = {name: TITLES[name] if progress else None for name in TITLES}
    forest = MetadataForest(question.task, seed)
    return {
        "most_frequent": cross_validate(
            question, lambda _: nothing, lambda: MostFrequent(question.task, of=question.truth[usable]), folds
        ),
        "metadata": cross_validate(question, lambda _: metadata, lambda: clone(forest), folds, progress=shown["metadata"]),
        "random_init": _random_init(
            question, features, make_for or (lambda _: make()), few_folds(folds, chooses), shown["random_init"]
        ),
        "site_left_out": leave_sites_out(question, features, make, usable),
    }


def floor_entries(
    expert: Predictions, floors: dict[str, Measured], *, draws: int, seed: int, level: float
) -> list[dict[str, Any]]:
    """The floors as a report keeps them: scores, and expert − floor on the clips that both predict, with intervals."""
    entries = []
    for name, measured in floors.items():
        entry: dict[str, Any] = {"name": name, "title": TITLES[name]}
        if isinstance(measured, str):
            entries.append(entry | {"reason": f"not measured: {measured}"})
            continue
        same = expert.select(np.isin(expert.clip_ids, measured.clip_ids))
        ours, theirs = same.draws(draws, seed), measured.draws(draws, seed)
        if name == "most_frequent":
            # A constant ranks nothing; over pooled folds its rank correlation would only mirror the folds' means.
            ours.pop("spearman", None), theirs.pop("spearman", None)
        patients = measured.patients
        entry["clips"] = len(measured.clip_ids)
        entry["scores"] = {score: interval(drawn, patients, level).as_dict() for score, drawn in theirs.items()}
        entry["expert_minus_floor"] = {
            score: interval(ours[score] - drawn, patients, level).as_dict() for score, drawn in theirs.items()
        }
        entries.append(entry)
    return entries


def few_folds(folds: Sequence[FoldRows], chooses: bool) -> list[FoldRows]:
    """The folds on which a floor is measured that has to choose its head."""
    return [fold for fold in folds if not chooses or fold.repeat < _REPEATS_OF_A_CHOICE]


def columns_of(features: QuestionFeatures) -> dict[str, np.ndarray] | None:
    """The columns of each recipe, None where there is one recipe."""
    return features.columns if len(features.recipes) > 1 else None


def _random_init(
    question: Question, features: QuestionFeatures, make: HeadMaker, folds: Sequence[FoldRows], progress: str | None
) -> Measured:
    store = features.floor
    if store is None:
        return "no floor/ beside the store (extract-features --floor)"
    if store.header_on_disk.fingerprint == features.final_store.header_on_disk.fingerprint:
        return "the store's own network has these same random weights: it is its own floor"
    # a random network has no biomarkers to add
    blocks = [[block for block in recipe_blocks(recipe) if block != "biomarkers"] for recipe in features.recipes]
    recipes = tuple(dict.fromkeys("+".join(named) for named in blocks if named))
    if not recipes:
        return "the recipe reads biomarkers only, which a random network has not"
    inputs = features.read(store, union_recipe(recipes))
    columns = recipe_columns(recipes, store.header_on_disk.dimensions, 0) if len(recipes) > 1 else None
    return cross_validate(question, lambda _: inputs, lambda: make(columns), folds, progress=progress)
