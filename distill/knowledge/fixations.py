"""Fixations out of raw samples: by dispersion (I-DT) or by velocity (I-VT), Salvucci and Goldberg, ETRA 2000.

A missing sample is never filled in: what lies on its two sides belongs together only if the gap between them is no longer than
``longest_gap_s``.
"""

import math
from itertools import pairwise

import numpy as np

from ...errors import SonokitError
from .gaze import Gaze


def fixations_by_dispersion(gaze: Gaze, *, dispersion: float, shortest_s: float = 0.1, longest_gap_s: float = 0.075) -> Gaze:
    """I-DT: the longest runs of samples that stay within a small field.

    A run begins with as many samples as last ``shortest_s``; if their dispersion is at most ``dispersion`` it grows until it
    is not, else its first sample is a saccade's and the next is tried. A fixation lies at the mean of its samples and lasts
    from its first to its last.

    Args:
        gaze: Raw samples, times not decreasing.
        dispersion: (largest x - smallest x) + (largest y - smallest y), pixels. A usual field is one degree of visual angle.
        shortest_s: What lasts less is no fixation.
        longest_gap_s: A longer time between two samples ends a fixation; 75 ms is shorter than a blink.

    Raises:
        SonokitError: These are fixations already, times go backward, or a threshold is not positive.
    """
    times, points = _trace(gaze, dispersion=dispersion, shortest_s=shortest_s, longest_gap_s=longest_gap_s)
    runs: list[tuple[int, int]] = []
    for start, stop in _stretches(times, longest_gap_s):
        runs += _compact_runs(times, points, (start, stop), dispersion, shortest_s)
    return _as_fixations(gaze, times, points, runs)


def fixations_by_velocity(gaze: Gaze, *, velocity: float, shortest_s: float = 0.1, longest_gap_s: float = 0.075) -> Gaze:
    """I-VT: the runs of samples between which the eye moves slowly.

    Args:
        gaze: Raw samples, times not decreasing.
        velocity: Pixels a second; a step that is slower belongs to a fixation. A usual limit is 30 degrees a second.
        shortest_s: What lasts less is left out.
        longest_gap_s: A longer time between two samples ends a fixation.

    Raises:
        SonokitError: These are fixations already, times go backward, or a threshold is not positive.
    """
    times, points = _trace(gaze, velocity=velocity, shortest_s=shortest_s, longest_gap_s=longest_gap_s)
    steps, lasting = np.hypot(*np.diff(points, axis=0).T), np.diff(times)
    slow = (steps < velocity * lasting) & (lasting <= longest_gap_s)  # [M - 1]
    edges = np.flatnonzero(np.diff(np.concatenate([[0], slow.astype(int), [0]])))
    runs = [(int(first), int(last) + 1) for first, last in edges.reshape(-1, 2)]  # samples first … last
    long_enough = [(first, stop) for first, stop in runs if times[stop - 1] - times[first] >= shortest_s - 1e-9]
    return _as_fixations(gaze, times, points, long_enough)


def _trace(gaze: Gaze, **thresholds: float) -> tuple[np.ndarray, np.ndarray]:
    for name, value in thresholds.items():
        if not (math.isfinite(value) and value > 0):
            raise SonokitError(f"{name} must be a positive number, it is {value}")
    if gaze.durations is not None:
        raise SonokitError("these are fixations already: they have durations; use them as they are")
    times, points = gaze.times[gaze.valid], gaze.points[gaze.valid]
    backward = int((np.diff(times) < 0).sum())
    if backward:
        raise SonokitError(f"{backward} times go backward; look at the recording, or order it: mend(gaze, order='sort')")
    return times, points


def _stretches(times: np.ndarray, longest_gap_s: float) -> list[tuple[int, int]]:
    """(first, one beyond the last) of what no gap interrupts."""
    if len(times) == 0:
        return []
    cuts = [0, *(np.flatnonzero(np.diff(times) > longest_gap_s) + 1).tolist(), len(times)]
    return list(pairwise(cuts))


def _compact_runs(
    times: np.ndarray, points: np.ndarray, stretch: tuple[int, int], dispersion: float, shortest_s: float
) -> list[tuple[int, int]]:
    runs = []
    first, end = stretch
    while first < end:
        # 1e-9 s: 0.1 - 0.0 and 0.4 - 0.3 last alike
        stop = first + 1 + int(np.searchsorted(times[first + 1 : end] - times[first], shortest_s - 1e-9))
        if stop >= end:  # what is left lasts too short
            break
        low, high = points[first : stop + 1].min(axis=0), points[first : stop + 1].max(axis=0)
        if (high - low).sum() > dispersion:
            first += 1
            continue
        stop += 1
        while stop < end:
            wider_low, wider_high = np.minimum(low, points[stop]), np.maximum(high, points[stop])
            if (wider_high - wider_low).sum() > dispersion:
                break
            low, high, stop = wider_low, wider_high, stop + 1
        runs.append((first, stop))
        first = stop
    return runs


def _as_fixations(gaze: Gaze, times: np.ndarray, points: np.ndarray, runs: list[tuple[int, int]]) -> Gaze:
    centres = np.array([points[first:stop].mean(axis=0) for first, stop in runs]).reshape(-1, 2)
    begin = np.array([times[first] for first, _ in runs], dtype=np.float64)
    lasting = np.array([times[stop - 1] - times[first] for first, stop in runs], dtype=np.float64)
    return Gaze(begin, centres, lasting, gaze.size)
