"""The S/F ratio: peripheral oxygen saturation in per cent over the inspired oxygen fraction.

SpO2/FiO2 stands in for PaO2/FiO2 where no arterial blood was drawn: 235 and 315 correspond to PaO2/FiO2 of 200 and 300 (Rice
et al., Chest 2007, whose model is of saturations up to 97 %: above it the dissociation curve is flat, and the ratio follows
the oxygen that was given rather than the lung). Units are never guessed: SpO2 is in per cent (50 to 100), FiO2 a fraction
(0.21, room air, to 1), and values in another unit are an error that says how to mend them.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import SonokitError
from .labels import as_numbers, find_labels, has_label

LABEL = "sf_ratio"
"""The name of the label that is made from the two columns."""

_SATURATION = (50.0, 100.0)  # per cent
_FRACTION = (0.21, 1.0)
RATIO_BOUNDS = (50.0, 100 / 0.21)
"""All that saturations and fractions like these can make."""
_FLAT_ABOVE = 97.0
_ROUNDING = 1e-6


def sf_ratio(
    spo2: np.ndarray, fio2: np.ndarray, clip_ids: np.ndarray, *, spo2_name: str = "spo2", fio2_name: str = "fio2"
) -> tuple[np.ndarray, list[str]]:
    """The ratio of each clip, and what there is to say about it.

    Args:
        spo2: Oxygen saturation in per cent, float [N], nan where unknown.
        fio2: Inspired oxygen as a fraction, float [N], nan where unknown.
        clip_ids: str [N].
        spo2_name: The column of the first, for messages.
        fio2_name: The column of the second.

    Returns:
        float64 [N], nan where either is unknown; notes.

    Raises:
        SonokitError: A column in another unit, in several units, or out of range; the message names column, clip and value.
    """
    spo2, fio2 = np.asarray(spo2, dtype=np.float64), np.asarray(fio2, dtype=np.float64)
    _require_per_cent(spo2, clip_ids, spo2_name)
    _require_fraction(fio2, clip_ids, fio2_name)
    ratio = spo2 / fio2
    used = ~np.isnan(ratio)
    if not used.any():
        raise SonokitError(f"no clip has both {spo2_name} and {fio2_name}: there is no S/F ratio to predict")
    notes = [f"{LABEL} is {spo2_name} in per cent over {fio2_name} as a fraction, for {int(used.sum())} clips"]
    flat = int((spo2[used] > _FLAT_ABOVE).sum())
    if flat:
        notes.append(
            f"{flat} of {int(used.sum())} clips have an oxygen saturation above {_FLAT_ABOVE:g} %, where the S/F ratio says "
            "little of the lung (Rice et al. 2007)"
        )
    return ratio, notes


def require_ratio(values: np.ndarray, clip_ids: np.ndarray, name: str = LABEL) -> None:
    """Refuse S/F ratios that no saturation in per cent over a fraction can make; ``values`` float [N], nan where unknown.

    Raises:
        SonokitError: With the first such clip.
    """
    wrong = _outside(np.asarray(values, dtype=np.float64), RATIO_BOUNDS)
    if not wrong.any():
        return
    row = int(np.flatnonzero(wrong)[0])
    raise SonokitError(
        f"{name} of clip {str(clip_ids[row])!r} is {values[row]:g} ({int(wrong.sum())} such clips), but SpO2 in per cent over "
        f"FiO2 as a fraction lies from {RATIO_BOUNDS[0]:g} to {RATIO_BOUNDS[1]:.0f}: the column is in other units; compute it "
        "anew, or give the columns spo2 and fio2 instead"
    )


def ratio_labels(
    table: pd.DataFrame,
    labels_csv: Path | None,
    spo2: str | None,
    fio2: str | None,
    keep: np.ndarray,
    patient: str = "patient_id",
) -> tuple[pd.Series, list[str]]:
    """The S/F ratio of each clip of a table: a ready column ``sf_ratio``, checked, or made of two columns.

    A CSV that holds both columns, and no ready ratio, is taken before a ready ratio of the table.

    Args:
        table: One row a clip.
        labels_csv: A CSV keyed by clip or patient that may hold any of the columns.
        spo2: The column of the oxygen saturation; named, it is taken even where a ready ratio is; None: ``spo2``.
        fio2: The column of the inspired oxygen fraction; None: ``fio2``.
        keep: Which clips may take part, bool [N]; the others are not looked at.
        patient: The column that says whose a clip is.

    Returns:
        The ratio, NA where unknown; notes.

    Raises:
        SonokitError: A column is not there, or in other units.
    """
    clips = table["clip_id"]
    bare = table.iloc[:, :0]  # what the CSV has by itself
    both = all(has_label(bare, name, labels_csv) for name in ("spo2", "fio2")) and not has_label(bare, LABEL, labels_csv)
    if spo2 is None and fio2 is None and not both and has_label(table, LABEL, labels_csv):
        ready, notes = find_labels(table, LABEL, labels_csv, patient)
        require_ratio(as_numbers(ready.where(keep), clips, LABEL), clips.to_numpy(dtype=str))
        return ready, notes
    names, columns, notes = (spo2 or "spo2", fio2 or "fio2"), [], []
    for name in names:
        there = labels_csv if has_label(table.iloc[:, :0], name, labels_csv) else None
        values, said = find_labels(table, name, there, patient)
        columns.append(as_numbers(values.where(keep), clips, name, "write a bare number with a point, or leave it empty"))
        notes += said
    ratio, said = sf_ratio(columns[0], columns[1], clips.to_numpy(dtype=str), spo2_name=names[0], fio2_name=names[1])
    return pd.Series(ratio, index=table.index, name=LABEL), [*notes, *said]


def _require_per_cent(spo2: np.ndarray, clip_ids: np.ndarray, name: str) -> None:
    known, fraction = ~np.isnan(spo2), (spo2 > 0) & (spo2 <= 1)
    if known.any() and fraction[known].all():
        remedy = (
            "a fraction, and oxygen saturation is wanted in per cent: multiply by 100, unless --spo2 and --fio2 are swapped"
        )
        raise _fault(name, spo2, fraction, clip_ids, remedy)
    if fraction.any():
        raise _fault(name, spo2, fraction, clip_ids, "a fraction among per cents: bring the whole column to per cent")
    wrong = _outside(spo2, _SATURATION)
    if wrong.any():
        raise _fault(name, spo2, wrong, clip_ids, "no oxygen saturation from 50 to 100 per cent: mend it, or leave it empty")


def _require_fraction(fio2: np.ndarray, clip_ids: np.ndarray, name: str) -> None:
    known, per_cent = ~np.isnan(fio2), (fio2 >= 21) & (fio2 <= 100)
    if known.any() and per_cent[known].all():
        raise _fault(name, fio2, per_cent, clip_ids, "in per cent, and inspired oxygen is wanted as a fraction: divide by 100")
    if per_cent.any():
        raise _fault(name, fio2, per_cent, clip_ids, "in per cent among fractions: bring the whole column to fractions")
    wrong = _outside(fio2, _FRACTION)
    if wrong.any():
        remedy = "no inspired oxygen fraction from 0.21 (room air) to 1: mend it (L/min is none), or leave it empty"
        raise _fault(name, fio2, wrong, clip_ids, remedy)


def _outside(values: np.ndarray, bounds: tuple[float, float]) -> np.ndarray:
    """Known values beyond the bounds, bool [N]; what is not finite is beyond."""
    low, high = bounds[0] - _ROUNDING, bounds[1] + _ROUNDING
    return ~np.isnan(values) & ~((values >= low) & (values <= high))


def _fault(name: str, values: np.ndarray, wrong: np.ndarray, clip_ids: np.ndarray, words: str) -> SonokitError:
    row = int(np.flatnonzero(wrong)[0])
    return SonokitError(f"{name} of clip {str(clip_ids[row])!r} is {values[row]:g} ({int(wrong.sum())} such clips): {words}")
