"""How far a column can be read from the embedding: a discriminant of equal priors on folds of patients, against exchanged ones.

Features are standardised on the training side. A clip goes to the value whose mean over the training patients is nearest in the
metric of the regularised total covariance: linear discriminant analysis of equal priors; the ridge is a tenth of the kernel's
mean diagonal, as the linear head has it for numbers. In its dual form what depends on the values is one small product, so that
the discriminant is fitted anew for every exchange. The folds are drawn without looking at the values: under the hypothesis
that these say nothing, every exchange is as likely as what was seen, and the p-value is exact (Ojala and Garriga 2010, test 1).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ...evaluation.bootstrap import Interval
from ...evaluation.predictions import Predictions
from .columns import PatientValues, patient_values

FEWEST_PATIENTS = 3
_RIDGE = 0.1
_EXCHANGES_AT_ONCE = 250


@dataclass(frozen=True)
class Readable:
    """A column predicted from the embedding.

    Attributes:
        balanced_accuracy: Out of fold, with its patient-bootstrap interval.
        chance: Its mean over the exchanged patients.
        p: Share of the exchanges that reach it, the real order counted among them.
        values: What was told apart, G names.
        patients, clips: How many took part.
    """

    balanced_accuracy: Interval
    chance: float
    p: float
    values: tuple[str, ...]
    patients: int
    clips: int


@dataclass(frozen=True)
class _Fold:
    """The discriminant of one fold before any value is known.

    Attributes:
        tested: Rows, int [M].
        train: Which patients train, bool [P].
        near: Similarity of tested rows and training patients under the ridge, [M, P].
        own: Of training patients with each other, [P, P].
    """

    tested: np.ndarray
    train: np.ndarray
    near: np.ndarray
    own: np.ndarray


def read_column(
    inputs: np.ndarray, values: np.ndarray, patients: np.ndarray, *, folds: int = 5, repeats: int = 2,
    permutations: int = 1999, draws: int = 2000, level: float = 0.95, seed: int = 0,
) -> Readable | str:  # fmt: skip
    """Predict a column from the embedding.

    Args:
        inputs: Features of the clips, float [N, F].
        values: The column, str [N], empty where unknown; values of fewer than three patients take no part.
        patients: Whose each clip is, str [N]; the most frequent value of a patient's clips stands for all of them.
        folds: Parts of the patients, each tested once a repeat.
        repeats: How often the patients are divided.
        permutations: How often the patients exchange their values.
        draws: Resamples of the patients for the interval.
        level: Of the interval.
        seed: Of all that is drawn.

    Returns:
        The figures, or why there are none.
    """
    known = patient_values(values, patients, FEWEST_PATIENTS)
    if len(known.names) < 2:
        return f"there are no two values with {FEWEST_PATIENTS} patients each"
    rng = np.random.default_rng(seed)
    with threadpool_limits(1, user_api="blas"):  # as for every small matrix here, see evaluation/out_of_fold.py
        divisions = [list(_folds(inputs[known.clips], known, folds, rng)) for _ in range(repeats)]
        exchanged = np.stack([rng.permutation(known.code) for _ in range(permutations)])  # [B, P]
        found = np.mean([_balanced_accuracy(division, known, known.code[None]) for division in divisions], axis=0)[0]
        blocks = [exchanged[start : start + _EXCHANGES_AT_ONCE] for start in range(0, permutations, _EXCHANGES_AT_ONCE)]
        chance = np.concatenate(
            [np.mean([_balanced_accuracy(division, known, block) for division in divisions], axis=0) for block in blocks]
        )
        predicted = Predictions(
            "classification", known.names, patients[known.clips], patients[known.clips], known.code[known.owner],
            np.stack([_assigned(division, known) for division in divisions]),
        )  # fmt: skip
    return Readable(
        balanced_accuracy=predicted.intervals(draws, seed, level)["balanced_accuracy"],
        chance=float(chance.mean()),
        p=(1 + int((chance >= found - 1e-9).sum())) / (1 + permutations),
        values=known.names,
        patients=len(known.code),
        clips=len(known.clips),
    )


def _folds(inputs: np.ndarray, known: PatientValues, count: int, rng: np.random.Generator) -> Iterator[_Fold]:
    """One division of the patients; ``inputs`` [N, F] of the known clips."""
    people = len(known.code)
    part = rng.permutation(people) % min(count, people)  # [P]
    clips_of = np.bincount(known.owner, minlength=people)
    for k in range(min(count, people)):
        train = part != k
        rows, tested = np.flatnonzero(train[known.owner]), np.flatnonzero(~train[known.owner])
        scaled = _standardised(inputs, rows)
        kernel = scaled @ scaled[rows].T / scaled.shape[1]  # [N, R]
        factor = cho_factor(kernel[rows] + _RIDGE * np.eye(len(rows)), lower=True)
        mean_of = np.zeros((len(rows), people))  # [R, P]: each patient's mean clip
        mean_of[np.arange(len(rows)), known.owner[rows]] = 1 / clips_of[known.owner[rows]]
        smoothed = cho_solve(factor, mean_of)
        yield _Fold(tested, train, kernel[tested] @ smoothed, mean_of.T @ (kernel[rows] @ smoothed))


def _standardised(inputs: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """All rows, by the mean and spread of the training rows."""
    inputs = inputs.astype(np.float64)
    spread = inputs[rows].std(axis=0)
    return (inputs - inputs[rows].mean(axis=0)) / np.where(spread > 0, spread, 1.0)


def _discriminants(fold: _Fold, codes: np.ndarray, count: int) -> np.ndarray:
    """How near each tested row is to each value, [B, M, G], -inf for one without a training patient; codes [B, P]."""
    members = (codes[:, :, None] == np.arange(count)) & fold.train[None, :, None]  # [B, P, G]
    sizes = members.sum(axis=1, keepdims=True)  # [B, 1, G]
    weights = members / np.maximum(sizes, 1)
    lengths = np.einsum("bpg,bpg->bg", weights, np.matmul(fold.own, weights))  # [B, G]
    return np.where(sizes > 0, np.matmul(fold.near, weights) - lengths[:, None, :] / 2, -np.inf)


def _balanced_accuracy(division: list[_Fold], known: PatientValues, codes: np.ndarray) -> np.ndarray:
    """Of each of B assignments of values to patients, [B]."""
    count = len(known.names)
    hits, clips = np.zeros((len(codes), count)), np.zeros((len(codes), count))
    for fold in division:
        truth = codes[:, known.owner[fold.tested]]  # [B, M]
        right = _discriminants(fold, codes, count).argmax(axis=2) == truth
        for value in range(count):
            is_value = truth == value
            hits[:, value] += (right & is_value).sum(axis=1)
            clips[:, value] += is_value.sum(axis=1)
    return (hits / clips).mean(axis=1)


def _assigned(division: list[_Fold], known: PatientValues) -> np.ndarray:
    """1 for the value that each clip was given, [N, G]."""
    chosen = np.zeros((len(known.clips), len(known.names)))
    for fold in division:
        chosen[fold.tested, _discriminants(fold, known.code[None], len(known.names))[0].argmax(axis=1)] = 1
    return chosen
