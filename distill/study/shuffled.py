"""The control of a region study: every image keeps its label and its frame, and is given another image's regions.

What regions teach beyond "some part of the frame is dark" is gone then; the masks themselves are the same ones, so that their
sizes, shapes and places are distributed as before.
"""

from dataclasses import replace

import numpy as np

from ...errors import SonokitError
from ..training.views import Views


def exchanged(units: np.ndarray, *, seed: int = 0) -> np.ndarray:
    """An order of rows in which none stands in the place of a row of its own unit, int64 [N].

    The units are put in an order drawn by lot, the rows of each in an order of their own, and all are moved on by the size of
    the largest unit.

    Args:
        units: What each row belongs to (a patient, an image), [N].
        seed: Of the lot.

    Raises:
        SonokitError: More than half of the rows are one unit's.
    """
    names, owner = np.unique(np.asarray(units), return_inverse=True)
    if not len(owner):
        return np.zeros(0, dtype=np.int64)
    owner = owner.reshape(-1)
    largest = int(np.bincount(owner).max())
    if 2 * largest > len(owner):
        raise SonokitError(f"{largest} of {len(owner)} regions are of one patient: they cannot be exchanged with others'")
    rng = np.random.default_rng(seed)
    place = rng.permutation(len(names))[owner]
    order = np.lexsort((rng.permutation(len(owner)), place))  # by unit, and within it by lot
    given = np.empty(len(owner), dtype=np.int64)
    given[order] = np.roll(order, largest)
    return given


def shuffled_regions(views: Views, *, units: np.ndarray | None = None, seed: int = 0) -> Views:
    """The views with their regions exchanged among those that have any; no view keeps its own.

    Args:
        views: With regions, before they are augmented.
        units: Between whose views nothing is exchanged (patients), [N]; None: ``views.items``.
        seed: Of the lot.

    Raises:
        SonokitError: There are no regions, or they cannot be exchanged.
    """
    if views.regions is None:
        raise SonokitError("there are no regions to exchange")
    units = views.items if units is None else np.asarray(units)
    rows = np.arange(len(views)) if views.annotated is None else np.flatnonzero(views.annotated)
    regions = views.regions.copy()
    regions[rows] = views.regions[rows[exchanged(units[rows], seed=seed)]]
    return replace(views, regions=regions)
