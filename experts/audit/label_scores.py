"""How well the label is predicted, and what must be put beside that: floors, whole sites left out, pairs within a site."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...clips.splits import Splits
from ...errors import SonokitError
from ...evaluation.bootstrap import Interval
from ...evaluation.comparison import compare_predictions
from ...evaluation.out_of_fold import FoldRows, fold_rows
from ...evaluation.predictions import Predictions
from ...evaluation.scores import LOWER_IS_BETTER, PRIMARY
from ..crossval import Measured, QuestionFeatures, cross_validate
from ..floors import floor_entries, measure_floors
from ..heads import make_head
from ..question import Question
from .ranking import Ranking, rank_within


@dataclass(frozen=True)
class LabelScores:
    """What was measured of the label; every difference is turned so that more than 0 means better.

    Attributes:
        predictions: Of the linear head, out of fold.
        scores: With intervals.
        floors: As a report keeps them, see :func:`~sonokit.experts.floors.floor_entries`.
        over_most_frequent: The head less the most frequent class.
        over_metadata: Less the forest on container and frame rate.
        metadata_over_most_frequent: That forest less the most frequent class.
        over_random_init: The head less the same on a random network; or why there is none.
        over_sites_left_out: The head less itself on sites that it never met; or why there is none.
        sites_left_out_over_most_frequent: That less the most frequent class, on the same clips; or why.
        ranking: Pairs of clips everywhere and within sites; or why.
        level: Of all intervals.
    """

    predictions: Predictions
    scores: dict[str, Interval]
    floors: list[dict[str, Any]]
    over_most_frequent: Interval
    over_metadata: Interval
    metadata_over_most_frequent: Interval
    over_random_init: Interval | str
    over_sites_left_out: Interval | str
    sites_left_out_over_most_frequent: Interval | str
    ranking: Ranking | str
    level: float

    @property
    def primary(self) -> str:
        """Name of the score that all differences are in."""
        return PRIMARY[self.predictions.task]


def score_label(
    features: QuestionFeatures, question: Question, splits: Splits, *, draws: int, level: float, seed: int
) -> LabelScores:
    """Cross-validate the linear head, which nobody tuned, beside its floors; held-out clips stay closed.

    Args:
        features: Of the question's clips.
        question: Who takes part.
        splits: The folds.
        draws: Resamples of the patients.
        level: Of the intervals.
        seed: Of the forest and the resamples.

    Raises:
        SonokitError: The splits do not fit the clips.
    """
    folds = fold_rows(splits, question.clip_ids, question.patients)
    usable = ~np.isin(question.clip_ids, np.asarray(splits.held_out, dtype=str))
    _require_classes(question, usable, folds)

    def make() -> Any:
        return make_head(("linear",), question.task, seed)

    head = cross_validate(question, features.of, make, folds)
    floors = measure_floors(question, features, make, folds, usable, seed=seed)

    def less(first: Measured, second: Measured) -> Interval | str:
        return _better_by(first, second, draws=draws, level=level, seed=seed)

    most_frequent, metadata, sites = floors["most_frequent"], floors["metadata"], floors["site_left_out"]
    return LabelScores(
        predictions=head,
        scores=head.intervals(draws, seed, level),
        floors=floor_entries(head, floors, draws=draws, seed=seed, level=level),
        over_most_frequent=_measured(less(head, most_frequent)),
        over_metadata=_measured(less(head, metadata)),
        metadata_over_most_frequent=_measured(less(metadata, most_frequent)),
        over_random_init=less(head, floors["random_init"]),
        over_sites_left_out=less(head, sites),
        sites_left_out_over_most_frequent=less(sites, most_frequent),
        ranking=rank_within(head, question.sites[_rows(question, head)], draws=draws, level=level, seed=seed),
        level=level,
    )


def _better_by(first: Measured, second: Measured, *, draws: int, level: float, seed: int) -> Interval | str:
    """``first`` less ``second`` in the primary score, on the clips that both predict, turned so that more is better."""
    if isinstance(first, str) or isinstance(second, str):
        return first if isinstance(first, str) else str(second)
    both = np.intersect1d(first.clip_ids, second.clip_ids)
    sides = [side.select(np.isin(side.clip_ids, both)) for side in (first, second)]
    name = PRIMARY[first.task]
    found = compare_predictions(sides[0], sides[1], n=draws, seed=seed, level=level)[name]
    if name not in LOWER_IS_BETTER:
        return found
    return Interval(-found.value, -found.high, -found.low, found.reason)


def _measured(found: Interval | str) -> Interval:
    """Where both sides are always there."""
    if isinstance(found, str):
        raise TypeError(found)
    return found


def _rows(question: Question, predictions: Predictions) -> np.ndarray:
    """Which clips of the question are predicted, bool [N]; the order is the same."""
    return np.isin(question.clip_ids, predictions.clip_ids)


def _require_classes(question: Question, usable: np.ndarray, folds: list[FoldRows]) -> None:
    if question.task != "regression" and len(np.unique(question.truth[usable])) < 2:
        raise SonokitError(f"all clips outside the held-out part are of one class of {question.label}: nothing can be learnt")
    if not any(len(fold.test) for fold in folds):
        raise SonokitError("no fold of the splits tests any of these clips: make the splits again from this store's clips")
