"""Masks as run lengths: COCO's (down the columns, as numbers or as its compressed text) and CVAT's (along the rows of a box).

The compressed text is that of pycocotools' ``maskApi.c``: each number as groups of five bits, the lowest first, a sixth bit
for "more follows", 48 added; from the fourth number on the difference to the one two places before.
"""

import numpy as np


def run_lengths(mask: np.ndarray) -> np.ndarray:
    """Lengths of the runs of a mask, int64 [K]: background first (0 if the mask begins with foreground), down the columns.

    Args:
        mask: bool [H, W].
    """
    flat = mask.ravel(order="F")
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], changes, [flat.size]]))
    return np.concatenate([[0], runs]) if flat.size and flat[0] else runs


def mask_of_runs(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """The mask of such runs, bool [H, W].

    Raises:
        ValueError: The runs do not fill the frame exactly, or one is negative or no whole number.
    """
    try:
        lengths = np.asarray(runs, dtype=np.float64)  # whole numbers far beyond any frame's pixels are exact
    except OverflowError:
        raise ValueError("a run is longer than any frame") from None
    if not np.isfinite(lengths).all() or (lengths < 0).any() or (lengths % 1).any() or lengths.sum() != height * width:
        raise ValueError(f"runs of {lengths.sum():g} pixels do not fill {width} × {height}")
    runs = lengths.astype(np.int64)
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape((height, width), order="F")


def row_runs(mask: np.ndarray) -> np.ndarray:
    """As :func:`run_lengths`, along the rows: CVAT's order."""
    return run_lengths(mask.T)


def mask_of_row_runs(runs: np.ndarray, height: int, width: int) -> np.ndarray:
    """As :func:`mask_of_runs`, along the rows."""
    return mask_of_runs(runs, width, height).T


def decode_text(text: str) -> np.ndarray:
    """COCO's compressed run lengths as numbers, int64 [K].

    Raises:
        ValueError: The text is no such thing.
    """
    numbers: list[int] = []
    value = shift = 0
    for letter in text:
        group = ord(letter) - 48
        if not 0 <= group < 64:
            raise ValueError(f"{letter!r} cannot be part of compressed run lengths")
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift  # a negative difference
        numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
        value = shift = 0
    if shift:
        raise ValueError("the compressed run lengths break off")
    try:
        return np.array(numbers, dtype=np.int64)
    except OverflowError:
        raise ValueError("the compressed run lengths have a run that is longer than any frame") from None


def encode_text(runs: np.ndarray) -> str:
    """Run lengths as COCO's compressed text."""
    letters = []
    for place, run in enumerate(runs):
        value = int(run) - (int(runs[place - 2]) if place > 2 else 0)
        while True:
            group, value = value & 31, value >> 5
            more = value != (-1 if group & 16 else 0)
            letters.append(chr(48 + (group | 32 if more else group)))
            if not more:
                break
    return "".join(letters)
