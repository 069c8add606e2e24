"""Several yes-or-no labels read from frozen features, and one figure of them all: the mean of their AUROCs, out of fold."""

from typing import Any

import numpy as np
import pandas as pd

from ..clips.splits import Splits
from ..errors import SonokitError
from .biomarker_scores import OutOfFold, score_biomarkers
from .out_of_fold import FoldRows, fold_rows, out_of_fold
from .probe import Features, LinearProbe, of_fold


def macro_auroc(
    features: Features, table: pd.DataFrame, columns: tuple[str, ...], splits: Splits, *, seed: int = 0
) -> dict[str, Any]:
    """Mean over ``columns`` of the out-of-fold AUROC of a linear probe, with the patient-bootstrap interval of that mean.

    Arguments and errors as for :func:`biomarker_probe`; ``seed`` is that of the bootstrap.

    Returns:
        ``macro_auroc`` {"value", "low", "high"}, ``biomarkers`` with the same for each column and its counts: see
        :func:`~sonokit.evaluation.biomarker_scores.score_biomarkers`.
    """
    return score_biomarkers(biomarker_probe(features, table, columns, splits), tuple(columns), seed=seed)


def biomarker_probe(features: Features, table: pd.DataFrame, columns: tuple[str, ...], splits: Splits) -> OutOfFold:
    """A linear probe of each column: fitted on the clips of the training side that have a value, asked on the test side.

    Two such outcomes are compared by :func:`~sonokit.evaluation.biomarker_scores.compare_macro_auroc`.

    Args:
        features: [N, F] in the table's order, or one such matrix a fold (then called once a column and fold).
        table: One row a clip: ``clip_id``, the splits' patient column, and the columns: 1, 0 or empty (unknown).
        columns: Which to probe.
        splits: The study's division.

    Raises:
        SonokitError: A column is missing, holds something else, or the splits do not fit the clips.
    """
    needed = ("clip_id", splits.patient_column, *columns)
    missing = [name for name in needed if name not in table]
    if missing:
        raise SonokitError(f"there is no column {missing[0]!r} to probe with; there are: {', '.join(map(str, table))}")
    patients = table[splits.patient_column].to_numpy(dtype=str)
    folds = fold_rows(splits, table["clip_id"].to_numpy(dtype=str), patients)
    labels = np.stack([_zero_or_one(table[name], name) for name in columns], axis=1)  # [N, B]
    found = [_probabilities(of_fold(features, len(table)), labels[:, k], patients, folds) for k in range(len(columns))]
    sides = [np.isin(np.arange(len(table)), fold.train) for fold in folds]
    return OutOfFold(np.stack(found, axis=2), labels, patients, sides)


def _probabilities(features: Any, labels: np.ndarray, patients: np.ndarray, folds: list[FoldRows]) -> np.ndarray:
    """Probabilities of 1, [R, N]; nan where a clip is not tested, or no clip of the training side has a value."""
    known = ~np.isnan(labels)
    usable = [FoldRows(fold.index, fold.repeat, fold.train[known[fold.train]], fold.test) for fold in folds]
    usable = [fold for fold in usable if len(fold.train)]
    found = np.full((1 + max(fold.repeat for fold in folds), len(labels)), np.nan)
    if usable:
        truth = np.nan_to_num(labels).astype(np.int64)
        values = out_of_fold(LinearProbe, features, truth, patients, usable, task="classification", class_count=2)
        found[: len(values)] = values[:, :, 1]
    return found


def _zero_or_one(values: pd.Series, name: str) -> np.ndarray:
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    strange = values[(values.notna().to_numpy() & np.isnan(numbers)) | ~np.isin(np.nan_to_num(numbers), (0, 1))]
    if len(strange):
        raise SonokitError(f"a biomarker is 1, 0 or empty, but in {name} there is {strange.iloc[0]}; mend that cell")
    return numbers
