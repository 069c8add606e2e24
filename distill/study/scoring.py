"""Scores of a study: teacher, students and floors out of fold, and their differences on the same resampled patients."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...clips.splits import Splits
from ...evaluation.biomarker_probe import biomarker_probe
from ...evaluation.biomarker_scores import OutOfFold, compare_macro_auroc, score_biomarkers
from ...evaluation.comparison import compare_predictions
from ...evaluation.floors import TITLES as FLOOR_TITLES
from ...evaluation.floors import MetadataForest, MostFrequent, metadata_features
from ...evaluation.out_of_fold import FoldRows
from ...evaluation.predictions import Predictions
from ...evaluation.probe import probe
from ...evaluation.scores import PRIMARY
from .asked import Asked
from .settings import DistillSettings

TITLES = {"distilled": "distilled student", "labels": "student of labels alone", "teacher": "teacher", **FLOOR_TITLES}
DIFFERENCES = (("distilled", "labels"), ("distilled", "teacher"), ("labels", "teacher"))
"""What is compared with what: first minus second."""

SEVERAL_PRIMARY = "macro_auroc"


@dataclass(frozen=True, eq=False)
class Measured:
    """Out-of-fold predictions of everything on the same folds.

    Attributes:
        asked: The question.
        folds: The folds.
        found: Name -> predictions; of findings with the sides that were trained on.
    """

    asked: Asked
    folds: tuple[FoldRows, ...]
    found: dict[str, Predictions | OutOfFold]


def primary_of(asked: Asked) -> str:
    """The score that is read first."""
    return PRIMARY["classification"] if asked.kind == "classes" else SEVERAL_PRIMARY


def measured(
    asked: Asked, splits: Splits, folds: Sequence[FoldRows], arms: dict[str, np.ndarray], settings: DistillSettings
) -> Measured:
    """Predictions of the arms, and floors on the same folds.

    Args:
        asked: The question.
        splits: The division.
        folds: Those of its folds that were run.
        arms: Name -> probabilities, float64 [R, N, K], nan where a clip was not tested.
        settings: For the seed of the forest.
    """
    found: dict[str, Predictions | OutOfFold] = {}
    metadata = metadata_features(asked.clips.table)
    if asked.labelled is not None:
        labelled = asked.labelled
        found |= {name: labelled.predictions(values) for name, values in arms.items()}
        found["most_frequent"] = probe(labelled, np.zeros((len(labelled), 1)), folds, lambda: MostFrequent(of=labelled.truth))
        found["metadata"] = probe(labelled, metadata, folds, lambda: MetadataForest(seed=settings.seed))
        return Measured(asked, tuple(folds), found)
    sides = [np.isin(np.arange(len(asked)), fold.train) for fold in folds]
    truth = asked.truth.astype(np.float64)
    found |= {name: OutOfFold(values, truth, asked.patients, sides) for name, values in arms.items()}
    shown = replace(splits, folds=tuple(splits.folds[fold.index] for fold in folds))
    table = asked.clips.table.assign(**{splits.patient_column: asked.patients})
    found["metadata"] = biomarker_probe(metadata, table, asked.classes, shown)
    return Measured(asked, tuple(folds), found)


def score_rows(found: Measured, settings: DistillSettings) -> list[dict[str, Any]]:
    """``name``, ``title``, ``scores`` {score: {"value", "low", "high"}}, ``by_repeat`` and ``predictions`` of each."""
    return [{"name": name, "title": TITLES[name], **_scores(found.asked, one, settings)} for name, one in found.found.items()]


def difference_rows(found: Measured, settings: DistillSettings) -> list[dict[str, Any]]:
    """``first``, ``second``, ``title``, ``scores`` of first minus second, for all :data:`DIFFERENCES` and floors."""
    floors = [("distilled", name) for name in found.found if name in FLOOR_TITLES]
    rows = []
    for first, second in (*DIFFERENCES, *floors):
        scores = _difference(found.found[first], found.found[second], settings)
        title = f"{TITLES[first]} minus {TITLES[second]}"
        rows.append({"first": first, "second": second, "title": title, "scores": scores})
    return rows


def _scores(asked: Asked, one: Predictions | OutOfFold, settings: DistillSettings) -> dict[str, Any]:
    if isinstance(one, Predictions):
        intervals = one.intervals(settings.draws, settings.seed, settings.level)
        return {
            "scores": {name: figure.as_dict() for name, figure in intervals.items()},
            "by_repeat": [{k: None if np.isnan(v) else round(v, 6) for k, v in each.items()} for each in one.by_repeat()],
            "predictions": one.as_dict(),
        }
    told = score_biomarkers(one, asked.classes, seed=settings.seed)
    each = {f"auroc {name}": entry["auroc"] for name, entry in told["biomarkers"].items()}
    return {
        "scores": {SEVERAL_PRIMARY: told["macro_auroc"], **each},
        "findings": told["biomarkers"],
        "predictions": {"clip_ids": asked.clip_ids.tolist(), "values": _plain(one.probabilities)},
    }


def _difference(first: Predictions | OutOfFold, second: Predictions | OutOfFold, settings: DistillSettings) -> dict[str, Any]:
    if isinstance(first, Predictions) and isinstance(second, Predictions):
        told = compare_predictions(first, second, n=settings.draws, seed=settings.seed, level=settings.level)
        return {name: figure.as_dict() for name, figure in told.items()}
    assert isinstance(first, OutOfFold)
    assert isinstance(second, OutOfFold)
    if not _any_measurable(first, settings):
        return {SEVERAL_PRIMARY: None}
    return {SEVERAL_PRIMARY: compare_macro_auroc(first, second, seed=settings.seed).as_dict()}


def _any_measurable(one: OutOfFold, settings: DistillSettings) -> bool:
    names = tuple(map(str, range(one.labels.shape[1])))
    return score_biomarkers(one, names, seed=settings.seed)["macro_auroc"] is not None


def _plain(values: np.ndarray) -> list[Any]:
    return [[[None if np.isnan(cell) else round(float(cell), 7) for cell in row] for row in one] for one in values]
