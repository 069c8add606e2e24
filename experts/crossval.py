"""Predictions of an expert for clips that neither its head nor its extractor was fitted on.

With one store, its rows serve every fold: that is fair while no label of these clips went into the extractor, and refused
otherwise. With a store set, fold k is read from the store that fold k's own extractor made.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from ..clips.splits import Splits
from ..errors import SonokitError
from ..evaluation.nested import Reading, nested_out_of_fold, readouts_of_other_folds
from ..evaluation.out_of_fold import FoldRows, fit_rows, out_of_fold, predicted_values, site_rows
from ..evaluation.predictions import Predictions
from ..evaluation.readout import ReadoutSettings
from ..features.store import EmbeddingStore, StoreSet
from .question import Question
from .recipes import clip_features, feature_names, recipe_columns, union_recipe, usual_recipes

Measured = Predictions | str
"""Predictions, or the reason why there are none."""


class QuestionFeatures:
    """The features of a question's rows, as each fold may see them: every array is [N, F] in the question's order.

    With several recipes F holds the blocks that any of them needs, each once.

    Attributes:
        recipes: Those that were asked for, "auto" resolved.
        columns: Recipe -> its columns, int64 [·].
        names: What each column is, F of them.

    Raises:
        SonokitError: An extractor was fitted on the labels of clips that it would be evaluated on.
    """

    def __init__(
        self,
        stores: EmbeddingStore | StoreSet,
        question: Question,
        recipes: str | Sequence[str],
        splits: Splits | None,
    ) -> None:
        self.stores, self.question = stores, question
        asked = (recipes,) if isinstance(recipes, str) else tuple(recipes)
        self.recipes = tuple(dict.fromkeys(usual_recipes(self.final_store) if "auto" in asked else asked))
        self.union = union_recipe(self.recipes)
        header = self.final_store.header_on_disk
        self.columns = recipe_columns(self.recipes, header.dimensions, len(header.biomarkers))
        self.names = feature_names(self.union, header.dimensions, header.biomarkers)
        if isinstance(stores, StoreSet):
            _require_own_splits(stores, splits)
        elif question.table["extractor_trained_on"].fillna(False).any():
            raise SonokitError(_unfair(stores, int(question.table["extractor_trained_on"].fillna(False).sum())))
        self.floor = stores.floor  # looked at now: what is wrong with it should not come out after the folds
        self._final: np.ndarray | None = None

    @property
    def final_store(self) -> EmbeddingStore:
        """The store that the finished expert reads."""
        return self.stores.final if isinstance(self.stores, StoreSet) else self.stores

    @property
    def final(self) -> np.ndarray:
        """From the final store."""
        if self._final is None:
            self._final = self.read(self.final_store, self.union)
        return self._final

    def of(self, fold: FoldRows) -> np.ndarray:
        """From the store of a fold."""
        if not isinstance(self.stores, StoreSet):
            return self.final
        store = self.stores.folds[fold.index]
        if self._trained_on(store, fold.test):
            raise SonokitError(f"{store.folder} was fitted on clips that fold {fold.index} tests: make the store set again")
        return self.read(store, self.union)

    def read(self, store: EmbeddingStore, recipe: str) -> np.ndarray:
        """What a recipe makes of the question's rows in some store, [N, ·]."""
        question = self.question
        only = question.every_clip[0] if question.unit == "patient" else None
        found = clip_features(store, recipe, question.unit, question.patient_column, only=only)
        return found.rows(question.clip_ids)

    def trained_on(self, rows: np.ndarray) -> bool:
        """Whether the final extractor was fitted on labels of any of these clips; ``rows`` [·]."""
        return self._trained_on(self.final_store, rows)

    def _trained_on(self, store: EmbeddingStore, rows: np.ndarray) -> bool:
        marks = store.frame(["clip_id", "extractor_trained_on"]).drop_duplicates("clip_id").set_index("clip_id")
        return bool(marks["extractor_trained_on"].reindex(self.question.clips_of(rows)).any())


def cross_validate(
    question: Question,
    features: Callable[[FoldRows], np.ndarray],
    make: Callable[[], Any],
    folds: Sequence[FoldRows],
    *,
    fitted: Callable[[FoldRows, Any], None] | None = None,
    progress: str | None = None,
) -> Predictions:
    """Out-of-fold predictions of every clip that a fold tests, for every repeat.

    Args:
        question: Who takes part.
        features: For instance :meth:`QuestionFeatures.of`.
        make: A fresh head.
        folds: From :func:`~sonokit.evaluation.out_of_fold.fold_rows`.
        fitted: Told of each fitted head.
        progress: What a progress bar on standard error calls this; None for no bar.
    """
    shown: Iterable[FoldRows] = tqdm(folds, desc=progress, unit="fold", leave=False) if progress else folds
    values = out_of_fold(
        make,
        features,
        question.truth,
        question.patients,
        list(folds),
        shown=shown,
        task=question.task,
        class_count=len(question.classes),
        fitted=fitted,
    )
    return _predictions(question, values)


def cross_validate_read(
    question: Question,
    features: QuestionFeatures,
    make: Callable[[], Any],
    folds: Sequence[FoldRows],
    settings: ReadoutSettings,
    *,
    fitted: Callable[[FoldRows, Any], None] | None = None,
    progress: str | None = None,
) -> tuple[Predictions, Reading]:
    """As :func:`cross_validate`, and what readouts that had not met the clips say of the same clips, in the same order.

    With one store a fold's readout comes from inner folds of its training side. With a store set it comes from the other test
    sides: the fold's extractor knows the labels of the training side, so predictions made inside it would look too good.
    """
    shown: Iterable[FoldRows] = tqdm(folds, desc=progress, unit="fold", leave=False) if progress else folds
    truth, patients, classes, folds = question.truth, question.patients, question.classes, list(folds)
    if isinstance(features.stores, StoreSet):
        values = out_of_fold(
            make, features.of, truth, patients, folds, shown=shown, task=question.task, class_count=len(classes), fitted=fitted
        )
        reading = readouts_of_other_folds(
            values, truth, patients, folds, task=question.task, classes=classes, settings=settings
        )
    else:
        reading = nested_out_of_fold(
            make, features.of, truth, patients, folds, task=question.task, classes=classes, settings=settings,
            fitted=fitted, shown=shown,
        )  # fmt: skip
    found = _predictions(question, reading.raw)
    return found, reading.select(np.isin(question.clip_ids, found.clip_ids))


def leave_sites_out(question: Question, features: QuestionFeatures, make: Callable[[], Any], usable: np.ndarray) -> Measured:
    """Each site predicted by a head that met none of its patients, pooled over the sites; ``usable`` bool [N]."""
    known = sorted(set(question.sites[usable]) - {""})
    if len(known) < 2:
        return "one site only" if known else "no site is known"
    if features.trained_on(np.flatnonzero(usable)):
        return "the extractor was fitted on labels of every site"
    folds = [fold for fold in site_rows(question.sites, question.patients, usable) if len(fold.train)]
    if not folds:
        return "every patient is at every site"
    return cross_validate(question, lambda _: features.final, make, folds)


def predict_held_out(
    question: Question, features: QuestionFeatures, head: Any, held_out: np.ndarray, *, fitted_rows: np.ndarray
) -> Measured | None:
    """The held-out clips, int [·], as the finished ``head`` sees them; None where nothing is held out."""
    if len(held_out) == 0:
        return None
    if features.trained_on(held_out):
        return "the final extractor was fitted on labels of the held-out clips"
    if np.intersect1d(question.patients[held_out], question.patients[fitted_rows]).size:
        raise SonokitError("the splits hold out clips of patients whom they also train on: make the splits again")
    values = predicted_values(head, features.final[held_out], question.task, len(question.classes))
    whole = np.full((1, len(question.truth), *values.shape[1:]), np.nan)
    whole[0, held_out] = np.round(values, 7)
    return _predictions(question, whole)


def fit_final(question: Question, features: QuestionFeatures, make: Callable[[], Any], rows: np.ndarray) -> Any:
    """The head that is kept: fitted on all clips that are not held out, int [·]."""
    if question.task != "regression" and len(np.unique(question.truth[rows])) < 2:
        raise SonokitError(f"all clips outside the held-out part are of one class of {question.label}: nothing can be learnt")
    return fit_rows(make, features.final, question.truth, question.patients, rows, task=question.task)


def _predictions(question: Question, values: np.ndarray) -> Predictions:
    """Those of the rows that every repeat predicts."""
    axes = (0,) if values.ndim == 2 else (0, 2)
    everyone = Predictions(question.task, question.classes, question.clip_ids, question.patients, question.truth, values)
    return everyone.select(~np.isnan(values).any(axis=axes))


def _unfair(store: EmbeddingStore, clips: int) -> str:
    remedy = (
        "Pretrain without a label, or on other patients"
        if store.header.kind == "backbone"
        else "Make a store set: train-biomarkers --splits, then extract-features with that set"
    )
    return (
        f"the {store.header.kind} of {store.folder} was fitted on labels of {clips} of these clips: no score would be fair. "
        f"{remedy}"
    )


def _require_own_splits(stores: StoreSet, splits: Splits | None) -> None:
    own = stores.splits.fingerprint()
    if splits is not None and splits.fingerprint() != own:
        raise SonokitError(
            f"{stores.folder} was made with other splits ({own}) than those given ({splits.fingerprint()}): "
            "leave --splits out, and the set's own are taken"
        )
    for k, store in enumerate(stores.folds):
        if store.header.fold not in (None, k) or store.header.splits_fingerprint not in (None, own):
            raise SonokitError(f"{store.folder} is not fold {k} of the splits beside it: make the store set again")
