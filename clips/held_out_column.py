"""A column ``split`` that somebody else wrote: which clips it holds out, and a division that leaves them out."""

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from ..errors import SonokitError
from .splits import Splits, make_splits

HELD_OUT_WORDS = ("test", "held_out", "heldout", "held-out", "holdout", "hold_out")
"""What a column ``split`` calls the held-out part, in any case; every other word trains."""

_COLUMN = "split"


def held_out_by_column(table: pd.DataFrame, patient: str) -> tuple[np.ndarray, list[str]]:
    """The clips that a column ``split`` of the clip table holds out, and a note on it; none where there is no such column.

    Args:
        table: One row a clip.
        patient: The column that says whose a clip is.

    Returns:
        clip_ids, str [·]; notes.

    Raises:
        SonokitError: A patient is on both sides, or everything is held out.
    """
    if _COLUMN not in table or table[_COLUMN].isna().all():
        return np.empty(0, dtype=str), []
    words = table[_COLUMN].astype("string").str.strip().str.lower()
    out = words.isin(HELD_OUT_WORDS).fillna(False).to_numpy(dtype=bool)
    if not out.any():
        return np.empty(0, dtype=str), [f"the column split holds nothing out: its values are {_listed(words)}, and all train"]
    if out.all():
        raise SonokitError(f"the column split holds all clips out ({_listed(words)}): nothing is left to train on")
    if patient in table:
        owners = table[patient].astype("string")
        both = sorted(set(owners[out].dropna()) & set(owners[~out].dropna()))
        if both:
            raise SonokitError(
                f"the column split has {len(both)} patients on both sides, first {both[0]!r}: give all clips of a patient the "
                "same split, or take the column away"
            )
    trains = words[~out]
    note = f"the column split holds {int(out.sum())} clips out ({_listed(words[out])}); {_listed(trains)} train"
    if trains.isna().any():
        note += f", and so do {int(trains.isna().sum())} clips of which it says nothing"
    return table.loc[out, "clip_id"].to_numpy(dtype=str), [note]


def divide_as_told(
    table: pd.DataFrame, patients: np.ndarray, *, held_out: float = 0.0, patient_column: str, **how: Any
) -> tuple[Splits, list[str]]:
    """:func:`~sonokit.clips.splits.make_splits` of the clips that the column does not hold out, which are added as held out.

    Args:
        table: One row a clip.
        patients: The patient of every row [len(table)].
        held_out: Share of the patients; not with a column that names them.
        patient_column: The column that says whose a clip is.
        how: Label, folds, repeats and seed of ``make_splits``.

    Returns:
        The splits, and notes on the column.

    Raises:
        SonokitError: Both are asked for, a patient is on both sides, or what ``make_splits`` raises.
    """
    out, notes = held_out_by_column(table.assign(**{patient_column: patients}), patient_column)
    if len(out) and held_out:
        raise SonokitError("the column split says who is held out already: leave --held_out out, or take the column away")
    kept = ~np.isin(table["clip_id"].to_numpy(dtype=str), out)
    splits = make_splits(table[kept], patients[kept], held_out=held_out, patient_column=patient_column, **how)
    return with_held_out(splits, table["clip_id"].to_numpy(dtype=str)[~kept], patients[~kept]), notes


def require_held_out(splits: Splits, out: np.ndarray, taking_part: np.ndarray) -> None:
    """Refuse splits that test or train on what the column holds out.

    Args:
        splits: That somebody named.
        out: From :func:`held_out_by_column`, str [·].
        taking_part: The clips that are to be divided, str [N].

    Raises:
        SonokitError: Some of these clips are held out by the column and not by the splits.
    """
    inside = sorted({*out.tolist()}.intersection(taking_part.tolist()) - {*splits.held_out})
    if inside:
        raise SonokitError(
            f"the column split holds {len(inside)} clips out that the splits do not (first {inside[0]!r}): make the splits "
            "again with sonokit split, which honours the column, or take the column away"
        )


def with_held_out(splits: Splits, clips: np.ndarray, patients: np.ndarray) -> Splits:
    """Splits of the other clips with these added as the held-out part; ``clips`` and ``patients`` str [·]."""
    if not len(clips):
        return splits
    owner = dict(zip(splits.clip_ids, splits.patients, strict=True)) | dict(zip(clips.tolist(), patients.tolist(), strict=True))
    everyone = tuple(sorted(owner))
    return replace(
        splits, clip_ids=everyone, patients=tuple(owner[clip] for clip in everyone), held_out=tuple(sorted(clips.tolist()))
    )


def _listed(words: pd.Series) -> str:
    return ", ".join(sorted(set(words.dropna()))) or "nothing"
