"""Distillation as the options of a fit ask for it: from their words to teacher, unlabelled clips and the report's entry."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...evaluation.predictions import Predictions
from ...features.store import EmbeddingStore, StoreSet, open_stores
from ..study import Study
from .fitting import Distillation
from .gain import distillation_gain
from .soft_targets import read_soft_targets
from .teachers import EnsembleTeacher, NetworkTeacher, Teacher
from .unlabelled import find_unlabelled

ENSEMBLE = "ensemble"


def distillation_for(
    study: Study,
    teacher: str | Path | Teacher,
    *,
    unlabelled: EmbeddingStore | StoreSet | str | Path | None = None,
    weight: float = 0.5,
    temperature: float = 1.0,
    where: Mapping[str, str] | None = None,
    labels_csv: Path | None = None,
    seed: int = 0,
) -> Distillation:
    """What is wrong with a teacher or its clips comes out here, before the long work.

    Args:
        study: What is evaluated.
        teacher: "ensemble"; the folder or file of a fine-tuned network's soft targets (see
            :mod:`~sonokit.experts.distilled.soft_targets`); or a teacher itself.
        unlabelled: Another store, or its folder, whose clips are learnt from; None: the study's own.
        weight: Of the teacher on labelled rows, from 0 to 1.
        temperature: At which the teacher speaks.
        where: Only unlabelled clips whose column has this value, usually the question's.
        labels_csv: The question's.
        seed: Of the ensemble.

    Raises:
        SonokitError: The soft targets are not fair or not whole, or the other store does not fit.
    """
    if isinstance(unlabelled, (str, Path)):
        unlabelled = open_stores(unlabelled)
    if teacher == ENSEMBLE:
        teacher = EnsembleTeacher(seed=seed)
    elif isinstance(teacher, (str, Path)):
        teacher = NetworkTeacher(read_soft_targets(teacher, study.question.classes, study.splits))
    clips = find_unlabelled(
        study.features, study.splits,
        where=where, labels_csv=labels_csv, held_out=study.held_out_clips, unlabelled=unlabelled,
    )  # fmt: skip
    return Distillation(teacher, clips, weight, temperature)


def distilled_entry(
    how: Distillation, plain: Predictions, distilled: Predictions, *, draws: int = 2000, seed: int = 0, level: float = 0.95
) -> dict[str, Any]:
    """The report's entry ``distilled``; see :func:`~sonokit.experts.distilled.gain.distillation_gain`."""
    clips = how.unlabelled
    return distillation_gain(
        plain, distilled, teacher=how.teacher.name, unlabelled_clips=0 if clips is None else len(clips), weight=how.weight,
        temperature=how.temperature, notes=() if clips is None else clips.notes, draws=draws, seed=seed, level=level,
    )  # fmt: skip
