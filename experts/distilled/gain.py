"""What a teacher was worth: the taught head against the same head without it, on the same resampled patients."""

from typing import Any

from ...evaluation.comparison import compare_predictions
from ...evaluation.predictions import Predictions


def distillation_gain(
    plain: Predictions,
    distilled: Predictions,
    *,
    teacher: str,
    unlabelled_clips: int,
    weight: float | None = None,
    temperature: float | None = None,
    notes: tuple[str, ...] = (),
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Any]:
    """The report's entry ``distilled``.

    Args:
        plain: Out-of-fold predictions of the head that learnt from its labels alone.
        distilled: Those of the same head with a teacher, on the same folds.
        teacher: What it is called.
        unlabelled_clips: How many clips without a label there were.
        weight: Of the teacher on labelled rows, to be told; None: not told.
        temperature: The same.
        notes: Who had to stay away.
        draws: Resamples of the patients.
        seed: Of the resampling.
        level: Of the intervals.

    Returns:
        ``teacher``, ``unlabelled_clips``, ``weight``, ``temperature``, ``notes``; ``plain``: score -> interval of the plain
        head; ``gain``: score -> interval of distilled − plain, paired. Of an error (mae, rmse) a gain is below 0.

    Raises:
        SonokitError: The two are not of the same clips and labels.
    """
    gain = compare_predictions(distilled, plain, n=draws, seed=seed, level=level)
    return {
        "teacher": teacher,
        "unlabelled_clips": unlabelled_clips,
        "weight": weight,
        "temperature": temperature,
        "notes": list(notes),
        "plain": {name: found.as_dict() for name, found in plain.intervals(draws, seed, level).items()},
        "gain": {name: found.as_dict() for name, found in gain.items()},
    }
