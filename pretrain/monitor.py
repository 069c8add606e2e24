"""Is it learning? Figures of the embeddings of an epoch, and a guard that stops a run whose embeddings have collapsed.

A network that gives every image the same embedding, or embeddings along a line, has a fine loss with some objectives and has
learnt nothing. ``alignment`` and ``uniformity`` are Wang & Isola's (ICML 2020, 2005.10242), ``effective_rank`` is Roy &
Vetterli's (EUSIPCO 2007), used to judge embeddings as RankMe (Garrido et al., ICML 2023, 2210.02885), ``spread`` is Chen &
He's (SimSiam, CVPR 2021, 2011.10566).
"""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from lightly.utils.debug import std_of_l2_normalized
from torch import Tensor

from ..errors import SonokitError
from .objectives.objective import Outcome

_HINTS = {
    "uscl": "a lower learning_rate, a larger batch_size, a lower temperature, or augmentation that is less strong",
    "simclr": "a lower learning_rate, a larger batch_size, a lower temperature, or augmentation that is less strong",
    "moco": "a lower learning_rate, a momentum nearer to 1, a lower temperature, or a longer queue",
    "byol": "a momentum nearer to 1, a lower learning_rate, less weight_decay, or a larger batch_size (for its BatchNorm)",
    "dino": "a lower teacher temperature with a longer warm-up of it, a momentum nearer to 1, or a lower learning_rate",
    "hico": "a lower learning_rate, a larger batch_size, a lower temperature, or augmentation that is less strong",
}
_ANY_HINT = "a lower learning_rate, less weight_decay, or a larger batch_size"
_TINY = {  # figure → its least value, and below what it is tiny
    "projection_spread": (0.0, 0.05),
    "feature_spread": (0.0, 0.05),
    "projection_rank": (1.0, 1.5),
    "feature_rank": (1.0, 1.5),
}
_LEAST_STEPS = 100  # that a figure must have been tiny: an epoch of few clips has three
_STAGNANT_STEPS = 300


def alignment(z1: Tensor, z2: Tensor) -> Tensor:
    """Mean squared distance of positive pairs on the sphere: 0 where they coincide, 2 where they are unrelated.

    Args:
        z1: Float, shape [N, D]; row i belongs to row i of ``z2``.
        z2: The same shape.
    """
    return (F.normalize(z1, dim=1) - F.normalize(z2, dim=1)).square().sum(dim=1).mean()


def uniformity(z: Tensor) -> Tensor:
    """Log of the mean of exp(−2·distance²) over all pairs of rows on the sphere: 0 in a single point, towards −4 spread out.

    Args:
        z: Float, shape [N, D], N at least 2.
    """
    return torch.pdist(F.normalize(z, dim=1)).square().mul(-2).exp().mean().log()


def effective_rank(features: Tensor) -> Tensor:
    """How many dimensions the rows really use: exp of the entropy of the singular values, between 1 and min(N − 1, D).

    Of rows that are all the same it is 1. The mean of the rows is taken off first.

    Args:
        features: Float, shape [N, D].
    """
    values = torch.linalg.svdvals((features - features.mean(dim=0)).float())
    total = values.sum()
    rounding = torch.finfo(values.dtype).eps * features.float().norm() * len(values) ** 0.5
    if total <= rounding:
        return torch.ones_like(total)
    return torch.special.entr(values / total).sum().exp()


def spread(features: Tensor) -> Tensor:
    """Standard deviation of the rows on the sphere, times √D: 1 where they point everywhere, 0 where all point one way.

    Args:
        features: Float, shape [N, D], N at least 2.
    """
    return std_of_l2_normalized(features) * features.shape[1] ** 0.5


class EmbeddingMonitor:
    """Collects an epoch's last embeddings, and gives their figures at its end. A resumed run needs nothing of it.

    In a distributed run each process sees its own share of the clips, and gives the figures of that.

    Args:
        rows: How many embeddings, both views counted, the figures are of; fewer where an epoch has fewer.

    Attributes:
        images: How many were seen since :meth:`reset`, both views counted.
    """

    def __init__(self, rows: int = 512) -> None:
        self.rows = rows
        self._first: tuple[Tensor, Tensor] | None = None
        self.reset()

    def reset(self) -> None:
        """Begin an epoch."""
        self.images = 0
        self._held = 0
        self._batches: deque[tuple[Tensor, Tensor]] = deque()

    def add(self, outcome: Outcome) -> None:
        """Take in a batch; nothing is computed and nothing is copied from the device."""
        self._batches.append((outcome.features.detach(), outcome.projections.detach()))
        if self._first is None:
            self._first = self._batches[0]
        self.images += len(outcome.features)
        self._held += len(outcome.features)
        while self._held - len(self._batches[0][0]) >= self.rows:
            self._held -= len(self._batches.popleft()[0])

    def figures(self) -> dict[str, float]:
        """The figures of the epoch's last embeddings.

        Returns:
            ``alignment``, ``uniformity`` (of the projections), ``projection_rank``, ``projection_spread``, ``feature_rank``,
            ``feature_spread``; all nan where an embedding is no number, and nothing where nothing was added.
        """
        return _figures(list(self._batches), self.rows // 2) if self._batches else {}

    def first_figures(self) -> dict[str, float]:
        """:meth:`figures` of the very first batch that was added, before any :meth:`reset`; nothing where there was none."""
        return _figures([self._first], self.rows // 2) if self._first is not None else {}


def _figures(batches: list[tuple[Tensor, Tensor]], pairs: int) -> dict[str, float]:
    h1, h2 = _both_views([features for features, _ in batches], pairs)  # [N, D] each
    z1, z2 = _both_views([projections for _, projections in batches], pairs)  # [N, P] each
    h, z = torch.cat([h1, h2]), torch.cat([z1, z2])
    names = ("alignment", "uniformity", "projection_rank", "projection_spread", "feature_rank", "feature_spread")
    if not (z.isfinite().all() and h.isfinite().all()):
        return dict.fromkeys(names, math.nan)
    values = [
        alignment(z1, z2),
        (uniformity(z1) + uniformity(z2)) / 2,  # each view on its own: a positive pair is none of the pairs
        *(measure(rows) for rows in (z, h) for measure in (effective_rank, spread)),
    ]
    return {name: float(value) for name, value in zip(names, values, strict=True)}


def _both_views(batches: list[Tensor], pairs: int) -> tuple[Tensor, Tensor]:
    """The last ``pairs`` first and second views out of batches [2B, D], each of which has its first views first."""
    halves = [batch.float().chunk(2) for batch in batches]
    first, second = (torch.cat(views)[-pairs:] for views in zip(*halves, strict=True))
    return first, second


class CollapseGuard:
    """Stops a run whose embeddings have collapsed, with an explanation.

    An untrained network gives all images nearly the same embedding too (a cosine of .99 is usual), so that a small spread
    alone says nothing. A figure counts as collapsed where it is tiny (a spread below 0.05, a rank below 1.5) *and* the training
    is why: it is less than half of what it was at the first step, or it has not grown by half after ``grace`` epochs. It must
    stay so for ``patience`` epochs and 100 steps, because BYOL and its like pass through a dip early on.

    Args:
        method: The objective's name, for the advice.
        patience: Consecutive epochs.
        grace: Epochs that embeddings which began as good as equal have to come apart; warm-up should be over by then.
    """

    def __init__(self, method: str = "", *, patience: int = 3, grace: int = 10) -> None:
        self.method, self.patience, self.grace = method, patience, grace
        self._start: dict[str, float] = {}
        self._since: dict[str, list[int]] = {}  # name → [epoch, step]

    def check(self, epoch: int, figures: Mapping[str, float], *, step: int, first: Mapping[str, float] | None = None) -> None:
        """Judge the end of an epoch.

        Args:
            epoch: That has ended, from 0.
            figures: ``EmbeddingMonitor.figures``.
            step: Steps of the optimiser so far, of the whole run.
            first: ``EmbeddingMonitor.first_figures``: how the run began; used at the first call only, and without them that
                call's figures are taken.

        Raises:
            SonokitError: The embeddings have collapsed.
        """
        if not self._start:
            began = first or figures
            self._start = {name: began[name] for name in _TINY}
        for name in _TINY:
            if not self._is_collapsed(name, figures[name], epoch, step):
                self._since.pop(name, None)
                continue
            since_epoch, since_step = self._since.setdefault(name, [epoch, step])
            if epoch - since_epoch + 1 >= self.patience and step - since_step >= _LEAST_STEPS:
                raise SonokitError(self._explanation(name, figures[name], since_epoch))

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as plain values."""
        return {"start": dict(self._start), "since": {name: list(when) for name, when in self._since.items()}}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state``."""
        self._start = dict(state["start"])
        self._since = {name: list(when) for name, when in state["since"].items()}

    def _is_collapsed(self, name: str, value: float, epoch: int, step: int) -> bool:
        least, tiny = _TINY[name]
        above, above_at_start = value - least, self._start[name] - least
        fallen = above < above_at_start / 2
        stagnant = epoch + 1 >= self.grace and step >= _STAGNANT_STEPS and above < above_at_start * 1.5
        return value < tiny and (fallen or stagnant)

    def _explanation(self, name: str, value: float, since: int) -> str:
        meaning = (
            "all images get nearly the same embedding"
            if name.endswith("spread")
            else "the embeddings of all images lie on a line"
        )
        return (
            f"The embeddings have collapsed: {name} is {value:.3g} (below {_TINY[name][1]} since epoch {since}, "
            f"{self._start[name]:.3g} at the start): {meaning}, so that nothing more is learnt. Begin anew in another --out "
            f"with {_HINTS.get(self.method, _ANY_HINT)}."
        )
