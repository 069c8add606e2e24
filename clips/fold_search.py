"""Assigns patients to folds: scikit-learn's stratified folds by patient, searched until our rules hold.

The rules, in this order: no empty test side; every class of two or more patients on every training side; every class of as many
patients as folds on every test side. One call of ``StratifiedGroupKFold`` often breaks them where patients are few, so derived
seeds are tried and the best try is kept; what still breaks the second rule is mended by moving single patients.
"""

import warnings

import numpy as np
import pandas as pd
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from ..errors import SonokitError

_TRIES = 24
_MOST_CLASSES = 10  # a numeric label of more values is cut into quantiles
_QUANTILES = 4

_Splitter = StratifiedGroupKFold | GroupKFold


def classes_of(labels: pd.Series) -> np.ndarray:
    """Labels as class numbers, int64 [N]; those without a label are a class of their own, the last."""
    if pd.api.types.is_numeric_dtype(labels) and labels.nunique() > _MOST_CLASSES:
        labels = pd.qcut(labels, _QUANTILES, labels=False, duplicates="drop")
    codes, names = pd.factorize(labels, sort=True)  # missing: -1
    return np.where(codes < 0, len(names), codes).astype(np.int64)


def search_folds(classes: np.ndarray, patients: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """The fold of every clip, int64 [N]; the same for all clips of a patient.

    Raises:
        SonokitError: Fewer patients than folds, or classes that no try keeps on every training side.
    """
    people, person = np.unique(patients, return_inverse=True)
    if len(people) < folds:
        raise SonokitError(f"{len(people)} patients do not make {folds} folds. Use at most {len(people)} folds.")
    held = np.zeros((len(people), int(classes.max()) + 1), dtype=bool)  # [P, classes]: who has which
    held[person, classes] = True
    best, best_faults = np.empty(0, dtype=np.int64), None
    for attempt in range(_TRIES):
        try_seed = seed if attempt == 0 else int(np.random.SeedSequence([seed, attempt]).generate_state(1)[0])
        fold_of = _try(classes, person, len(people), folds, try_seed)  # [P]
        fold_of = _mend(fold_of, held, folds)
        faults = _faults(fold_of, held, folds)
        if best_faults is None or faults < best_faults:
            best, best_faults = fold_of, faults
        if not any(faults):
            break
    if best_faults is not None and best_faults[1]:
        raise SonokitError(
            f"With {folds} folds no division keeps every class on every training side: too few patients have the rare classes. "
            "Use more folds, or merge classes."
        )
    return best[person]


def choose_held_out(classes: np.ndarray, patients: np.ndarray, share: float, seed: int) -> np.ndarray:
    """The clips of ``share`` of the patients, spread over the classes, bool [N].

    No class of two or more patients is left with fewer than two, so a bit less than ``share`` may be put aside.

    Raises:
        SonokitError: The share is no whole patient.
    """
    people, person = np.unique(patients, return_inverse=True)
    wanted = round(share * len(people))
    if share > 0 and wanted == 0:
        raise SonokitError(f"held_out {share} of {len(people)} patients is nobody. Use at least {1 / len(people):.2f}, or 0.")
    held = np.zeros((len(people), int(classes.max()) + 1), dtype=bool)  # [P, classes]
    held[person, classes] = True
    left = held.sum(0)  # patients of each class that are not put aside
    rarest = np.where(held, left, len(people) + 1).argmin(1)  # each patient counts as its rarest class
    random = np.random.default_rng([seed, 1])
    order = np.lexsort((random.random(len(people)), rarest))  # [P]: the classes one after another, shuffled inside
    # every (P / wanted)-th patient of that order is a proportional draw; the others are its reserve
    first = order[((np.arange(wanted) + 0.5) * len(people) / max(wanted, 1)).astype(int)]
    reserve = random.permutation(np.setdiff1d(order, first))
    chosen = np.zeros(len(people), dtype=bool)
    for one in np.concatenate([first, reserve]).astype(int):
        if chosen.sum() == wanted:
            break
        if (left[held[one]] != 2).all():
            chosen[one] = True
            left = left - held[one]
    return chosen[person]


def _try(classes: np.ndarray, person: np.ndarray, people: int, folds: int, seed: int) -> np.ndarray:
    """One division by scikit-learn: the fold of every patient, int64 [P]."""
    if np.bincount(classes).max() >= folds:
        stratified = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)  # our rules say more
            fold_of = _fold_of_person(stratified, classes, person, people)
        if len(np.unique(fold_of)) == folds:
            return fold_of
    # scikit-learn refuses where every class has fewer clips than folds, and may leave a fold empty where patients are few
    return _fold_of_person(GroupKFold(folds, shuffle=True, random_state=seed), classes, person, people)


def _fold_of_person(
    splitter: StratifiedGroupKFold | GroupKFold, classes: np.ndarray, person: np.ndarray, people: int
) -> np.ndarray:
    fold_of = np.full(people, -1, dtype=np.int64)
    for fold, (_, test) in enumerate(splitter.split(np.zeros(len(person)), classes, groups=person)):
        fold_of[person[test]] = fold
    return fold_of


def _mend(fold_of: np.ndarray, held: np.ndarray, folds: int) -> np.ndarray:
    """Take one patient out of every fold that holds the whole of a class, as long as that makes fewer faults."""
    while True:
        counts = _counts(fold_of, held, folds)  # [folds, classes]
        trapped = np.argwhere((counts == counts.sum(0)) & (counts.sum(0) > 1))
        moved = None
        for fold, kind in trapped:
            moved = moved if moved is not None else _move_out(fold_of, held, folds, int(fold), int(kind))
        if moved is None:
            return fold_of
        fold_of = moved


def _move_out(fold_of: np.ndarray, held: np.ndarray, folds: int, fold: int, kind: int) -> np.ndarray | None:
    now = _faults(fold_of, held, folds)
    best = None
    for one in np.flatnonzero((fold_of == fold) & held[:, kind]):
        for other in np.argsort(np.bincount(fold_of, minlength=folds), kind="stable"):
            trial = fold_of.copy()
            trial[one] = other
            faults = _faults(trial, held, folds)
            if faults[:2] < now[:2] and (best is None or faults < best[0]):
                best = faults, trial
    return None if best is None else best[1]


def _faults(fold_of: np.ndarray, held: np.ndarray, folds: int) -> tuple[int, int, int]:
    """How often each rule is broken: empty test sides, classes missing in training, classes missing in a test side."""
    counts = _counts(fold_of, held, folds)  # [folds, classes]
    total = counts.sum(0)
    empty = folds - len(np.unique(fold_of))
    untrained = ((counts == total) & (total > 1)).sum()
    untested = ((counts == 0) & (total >= folds)).sum()
    return int(empty), int(untrained), int(untested)


def _counts(fold_of: np.ndarray, held: np.ndarray, folds: int) -> np.ndarray:
    """Patients of each class in each fold, int64 [folds, classes]."""
    return np.stack([held[fold_of == fold].sum(0) for fold in range(folds)])
