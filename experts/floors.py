"""What stands beside an expert's score: each floor on the same clips, patients and folds, and the paired difference to it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.base import clone

from ..evaluation.bootstrap import interval
from ..evaluation.floors import TITLES, MetadataForest, MostFrequent, metadata_features
from ..evaluation.out_of_fold import FoldRows
from ..evaluation.predictions import Predictions
from .crossval import Measured, QuestionFeatures, cross_validate, leave_sites_out
from .question import Question
from .recipes import clip_features


def measure_floors(
    question: Question,
    features: QuestionFeatures,
    make: Callable[[], Any],
    folds: Sequence[FoldRows],
    usable: np.ndarray,
    *,
    seed: int = 0,
    progress: bool = False,
) -> dict[str, Measured]:
    """Predictions of every floor, or why there are none.

    Args:
        question: Who takes part.
        features: What the expert sees.
        make: The expert's head, fresh.
        folds: The expert's folds.
        usable: False for the held-out clips, bool [N].
        seed: Of the forest.
        progress: Whether to show bars on standard error.

    Returns:
        Name of the floor (see :mod:`sonokit.evaluation.floors`) -> its predictions.
    """
    nothing, metadata = np.zeros((len(question.truth), 1)), metadata_features(question.table)
    shown = {name: TITLES[name] if progress else None for name in TITLES}
    forest = MetadataForest(question.task, seed)
    return {
        "most_frequent": cross_validate(question, lambda _: nothing, lambda: MostFrequent(question.task), folds),
        "metadata": cross_validate(question, lambda _: metadata, lambda: clone(forest), folds, progress=shown["metadata"]),
        "random_init": _random_init(question, features, make, folds, shown["random_init"]),
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


def _random_init(
    question: Question, features: QuestionFeatures, make: Callable[[], Any], folds: Sequence[FoldRows], progress: str | None
) -> Measured:
    store = features.floor
    if store is None:
        return "no floor/ beside the store (extract-features --floor)"
    recipe = features.recipe.split("+")[0]  # a random network has no biomarkers to add
    if recipe == "biomarkers":
        return "the recipe reads biomarkers only, which a random network has not"
    inputs = clip_features(store, recipe).rows(question.clip_ids)
    return cross_validate(question, lambda _: inputs, make, folds, progress=progress)
