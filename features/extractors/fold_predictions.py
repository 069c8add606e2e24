"""What the extractors of a set say of clips that they have not seen: logits out of fold, AUROC, reliability.

AUROC is that of the probabilities as trained. Calibrating a fold does not change the order of its clips, but it moves folds
against each other, so that figures would no longer be comparable with those of extractors that are not calibrated.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ...clips.splits import Splits
from ...evaluation.biomarker_scores import OutOfFold, score_biomarkers
from .biomarkers import BiomarkerExtractor
from .calibration import reliability_report
from .folder import read_extractor
from .tuning import Tuning


@dataclass(frozen=True)
class FoldPredictions:
    """For N clips in R repeats; nan where a clip was on no test side.

    Attributes:
        logits: float32 [R, N, B].
        calibrated: Probabilities, float32 [R, N, B]; nan, too, where the fold's extractor has no calibration.
        folds: The fold that tested the clip, int64 [R, N], -1 for none.
    """

    logits: np.ndarray
    calibrated: np.ndarray
    folds: np.ndarray

    @property
    def probabilities(self) -> np.ndarray:
        """As trained, float32 [R, N, B]."""
        return torch.from_numpy(self.logits).sigmoid().numpy()

    def mean_logits(self) -> np.ndarray:
        """Over the repeats, [N, B]."""
        counts = (~np.isnan(self.logits)).sum(axis=0)
        return np.where(counts > 0, np.nansum(self.logits, axis=0) / np.maximum(counts, 1), np.nan)

    def table(self, ids: np.ndarray, biomarkers: Sequence[str]) -> pd.DataFrame:
        """One row a repeat and clip: clip_id [N], repeat, fold, and by biomarker ``p_`` as trained and ``p_calibrated_``."""
        repeat, clip = np.nonzero(self.folds >= 0)
        order = np.lexsort((clip, self.folds[repeat, clip]))
        repeat, clip = repeat[order], clip[order]
        raw = self.probabilities
        columns = {"clip_id": ids[clip], "repeat": repeat, "fold": self.folds[repeat, clip]}
        columns |= {f"p_{name}": raw[repeat, clip, i] for i, name in enumerate(biomarkers)}
        if not np.isnan(self.calibrated).all():
            columns |= {f"p_calibrated_{name}": self.calibrated[repeat, clip, i] for i, name in enumerate(biomarkers)}
        return pd.DataFrame(columns)


@dataclass(frozen=True)
class FoldOutcome:
    """Predictions, and in plain values their AUROC (``scores``) and reliability (``calibration``)."""

    predictions: FoldPredictions
    scores: dict[str, Any]
    calibration: dict[str, Any]

    def short_reliability(self) -> dict[str, Any]:
        """By biomarker without the curves, for the card."""
        return {
            name: {when: one and {key: one[key] for key in ("brier", "ece")} for when, one in measured.items()}
            for name, measured in self.calibration["biomarkers"].items()
        }


def predict_folds(
    splits: Splits,
    ids: np.ndarray,
    folders: Sequence[Path],
    load: Callable[[Path], BiomarkerExtractor],
    tuning: Tuning,
) -> FoldPredictions:
    """Let the extractor of every fold predict its test side.

    Args:
        splits: The division.
        ids: Of the N clips.
        folders: The extractor of each fold.
        load: Reads one.
        tuning: Runs it over clips.
    """
    biomarkers: list[str] = read_extractor(folders[0])["biomarkers"]
    shape = (splits.repeats, len(ids))
    logits = np.full((*shape, len(biomarkers)), np.nan, dtype=np.float32)
    calibrated, folds = np.full_like(logits, np.nan), np.full(shape, -1)
    for number, (fold, folder) in enumerate(zip(splits.folds, folders, strict=True)):
        test = np.isin(ids, fold.test)
        if not test.any():
            continue
        extractor = load(folder)
        found = tuning.logits(extractor, test)  # [M, B]
        scalings = read_extractor(folder).get("calibration") or {}
        has_one = [scalings.get(name) is not None for name in biomarkers]
        with torch.inference_mode():
            adjusted = extractor.probabilities(torch.from_numpy(found)).numpy()
        logits[fold.repeat, test] = found
        calibrated[fold.repeat, test] = np.where(has_one, adjusted, np.nan)
        folds[fold.repeat, test] = number
    return FoldPredictions(logits, calibrated, folds)


def score_folds(
    predictions: FoldPredictions,
    labels: np.ndarray,
    patients: np.ndarray,
    training_sides: list[np.ndarray],
    biomarkers: tuple[str, ...],
) -> FoldOutcome:
    """Measure them.

    Args:
        predictions: Of N clips.
        labels: 1, 0 or nan, [N, B].
        patients: [N].
        training_sides: One bool mask [N] a fold.
        biomarkers: B names.
    """
    probabilities = predictions.probabilities
    scores = score_biomarkers(OutOfFold(probabilities, labels, patients, training_sides), biomarkers)
    measured = reliability_report(probabilities, predictions.calibrated, labels, biomarkers)
    method = "Platt scaling: a slope and an intercept a biomarker; bins of equally many predictions"
    return FoldOutcome(predictions, scores, {"method": method, "biomarkers": measured})
