"""Is a score better than chance? A permutation test of out-of-fold predictions that exchanges labels among patients.

The interval of a patient bootstrap says how far a score would move with other patients; read as "does it hold chance?" it is a
little too narrow. Here the predictions stay, and patients exchange their labels, all clips of a patient together; chance is
what the score then is. Nothing is fitted again, so this is cheap, and not quite the test of Ojala and Garriga (2010, test 1),
which refits. Two things pull: a head that was fitted on all other patients leans a little away from the left-out one's label
(it saw fewer of them), so that without any signal the score lies slightly below the exchanged ones; and heads that share their
training patients err together, so that it scatters more than they do. In simulations without signal (36 patients, three
classes, linear heads) p was 0.05 or less in 6 % of 700 with one repeat of the folds, and in 8 % of 550 with three or five
repeats: a p near 0.05 is no proof.

A patient takes over the labels of another in their order. Where the other has more or fewer clips, its sequence of labels is
stretched: a clip gets the label at the same relative place. With one label a patient, or as many clips from each, labels only
change hands; patients with several labels and different numbers of clips make that an approximation, and the result says how
many have several.
"""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from .predictions import Predictions
from .scores import LOWER_IS_BETTER, PRIMARY, Task

_CELLS_AT_ONCE = 4_000_000  # labels in memory at one time, some 32 MB
_MOST_CELLS = 200_000_000  # of all exchanges together: a second or two
_FEWEST_EXCHANGES = 199
_TIED = 1e-12  # sums of the same numbers in another order differ by this little


@dataclass(frozen=True)
class Chance:
    """A score against its values under exchanged labels.

    Attributes:
        name: The task's primary score.
        score: Mean over the repeats, with the real labels.
        p: Share of the exchanges that are as good or better, the real order counted among them.
        exchanges: How many there were, without the real order.
        exhaustive: Whether these were all there are, and the p-value therefore exact.
        null_mean: Mean of the score over the exchanges.
        null_high: What 97.5 % of the exchanges do not surpass; of a score of which less is better, do not fall below.
        patients: How many exchanged.
        several_labels: How many of them have clips of different labels.
    """

    name: str
    score: float
    p: float
    exchanges: int
    exhaustive: bool
    null_mean: float
    null_high: float
    patients: int
    several_labels: int

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Blocks:
    """The labels of P patients, patient after patient.

    Attributes:
        labels: Of the N clips in this order, [N].
        starts: Where each patient's begin, int [P].
        clips: How many each has, int [P].
        owner: The patient of each clip in the order of the predictions, int [N].
        place: Which of the owner's clips it is, int [N].
        several: Whether a patient's labels differ, bool [P].
    """

    labels: np.ndarray
    starts: np.ndarray
    clips: np.ndarray
    owner: np.ndarray
    place: np.ndarray
    several: np.ndarray


def chance(predictions: Predictions, *, exchanges: int = 1000, seed: int = 0) -> Chance | str:
    """The primary score's p-value under "the predictions say nothing of the labels".

    Args:
        predictions: Out of fold, over any number of repeats.
        exchanges: How many to draw; fewer (no less than 199) of so many clips that it would take long, and all there are where
            these are no more.
        seed: Of the exchanges.

    Returns:
        The figures, or why there are none.
    """
    blocks = _blocks(predictions)
    count = len(blocks.clips)
    if count < 2 or len(np.unique(blocks.labels)) < 2:
        return "no two patients can exchange different labels"
    scored = _scorer(predictions)
    real = float(scored(np.asarray(predictions.truth)[None])[0])
    if math.isnan(real):
        return f"{PRIMARY[predictions.task]} is not defined for these predictions"
    exhaustive = math.factorial(min(count, 20)) <= exchanges + 1
    drawn = math.factorial(count) - 1 if exhaustive else _affordable(predictions, exchanges)
    orders = _every_order(count) if exhaustive else _drawn_orders(count, drawn, seed, len(predictions.truth))
    null = np.concatenate([scored(_exchanged(blocks, order)) for order in orders])
    null = null[1:] if exhaustive else null  # the first of all orders is the real one
    sign = -1 if PRIMARY[predictions.task] in LOWER_IS_BETTER else 1
    reached = int((sign * null >= sign * real - _TIED * max(1.0, abs(real))).sum())
    return Chance(
        name=PRIMARY[predictions.task],
        score=real,
        p=(1 + reached) / (1 + drawn),
        exchanges=drawn,
        exhaustive=exhaustive,
        null_mean=float(np.nanmean(null)),
        null_high=float(np.nanquantile(null, 0.975 if sign > 0 else 0.025)),
        patients=count,
        several_labels=int(blocks.several.sum()),
    )


def _blocks(predictions: Predictions) -> _Blocks:
    truth, owner = np.asarray(predictions.truth), np.unique(predictions.patients, return_inverse=True)[1].reshape(-1)
    clips = np.bincount(owner)  # [P]
    starts = np.cumsum(clips) - clips
    order = np.argsort(owner, kind="stable")
    place = np.empty(len(owner), dtype=np.int64)
    place[order] = np.arange(len(owner)) - np.repeat(starts, clips)
    labels = truth[order]
    several = np.bincount(owner, weights=truth != labels[starts][owner]) > 0
    return _Blocks(labels, starts, clips, owner, place, several)


def _affordable(predictions: Predictions, exchanges: int) -> int:
    wide = len(predictions.classes) if predictions.task == "classification" else len(predictions.values)
    return min(exchanges, max(_FEWEST_EXCHANGES, _MOST_CELLS // (len(predictions.truth) * max(1, wide))))


def _every_order(count: int) -> Iterator[np.ndarray]:
    """One block of all arrangements of the patients, the real one first, int [P!, P]."""
    yield np.array(list(itertools.permutations(range(count))))


def _drawn_orders(count: int, drawn: int, seed: int, clips: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    step = max(1, _CELLS_AT_ONCE // clips)
    for start in range(0, drawn, step):
        yield rng.permuted(np.tile(np.arange(count), (min(step, drawn - start), 1)), axis=1)


def _exchanged(blocks: _Blocks, order: np.ndarray) -> np.ndarray:
    """The labels of all clips, [B, N], when each patient takes over those of another; ``order`` int [B, P]."""
    giver = order[:, blocks.owner]  # [B, N]
    if not blocks.several.any():
        return blocks.labels[blocks.starts][giver]
    place = (2 * blocks.place + 1) * blocks.clips[giver] // (2 * blocks.clips[blocks.owner])  # of the middle of each clip
    return blocks.labels[blocks.starts[giver] + place]


def _scorer(predictions: Predictions) -> Callable[[np.ndarray], np.ndarray]:
    """The primary score of the predictions, mean over the repeats, under labels [B, N] -> [B]."""
    scorers: dict[Task, Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]]] = {
        "classification": _balanced_accuracy,
        "ordinal": _quadratic_kappa,
        "regression": _mean_absolute_error,
    }
    return scorers[predictions.task](predictions.values)


def _balanced_accuracy(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A class's clips are the same in every repeat, so that the mean of the recalls is the recall of the mean hits."""
    classes = values.shape[2]
    hits = np.mean(values.argmax(axis=2)[:, :, None] == np.arange(classes), axis=0)  # [N, K]

    def score(labels: np.ndarray) -> np.ndarray:
        recalls = np.full((len(labels), classes), np.nan)
        for code in range(classes):
            members = (labels == code).astype(np.float64)  # [B, N]
            np.divide(members @ hits[:, code], members.sum(axis=1), out=recalls[:, code], where=members.any(axis=1))
        return np.nanmean(recalls, axis=1)

    return score


def _quadratic_kappa(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Squared distances by their sums of squares and products, so that no confusion matrix is needed."""
    predicted = values.argmax(axis=2).astype(np.float64)  # [R, N]
    squares, sums, clips = (predicted**2).sum(axis=1), predicted.sum(axis=1), predicted.shape[1]

    def score(labels: np.ndarray) -> np.ndarray:
        truth = labels.astype(np.float64)  # [B, N]
        both = (truth**2).sum(axis=1)[:, None] + squares  # [B, R]
        expected = both - 2 * truth.sum(axis=1)[:, None] * sums / clips
        kappa = np.full(both.shape, np.nan)
        np.divide(both - 2 * truth @ predicted.T, expected, out=kappa, where=expected > 0)
        return 1 - kappa.mean(axis=1)

    return score


def _mean_absolute_error(values: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    def score(labels: np.ndarray) -> np.ndarray:
        return np.mean([np.abs(labels - predicted).mean(axis=1) for predicted in values], axis=0)

    return score
