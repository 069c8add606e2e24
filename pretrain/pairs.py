"""Which frames of a clip become a positive pair, and how.

A pair policy says how many frames it draws from a clip, draws them, and makes two views of them once they are augmented; what
a loss does with the views is the objective's affair. ``SamplePairs`` is USCL's sample pair generation (Chen et al., MICCAI
2021, 2011.13066): three frames of a clip, the second of which is the anchor,

    v1 = λ·first + (1 − λ)·anchor,    v2 = λ·second + (1 − λ)·anchor,    λ ~ Beta(α, α),

λ shared by the views as in the reference code, or one for each as in the paper. A clip of two frames is not mixed, and one of a
single frame gives two augmentations of it: both are λ = 1. ``TwoViews`` is SimCLR's: two augmentations of one frame.
``NearbyFrames`` is IVPP's (VanBerlo et al., 2024, 2403.07715): two frames at most δ seconds apart, the nearer the heavier.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
import torch
from torch import Tensor

from ..errors import SonokitError

PairName = Literal["sample_pairs", "two_views", "nearby_frames"]


@dataclass(frozen=True)
class PairDraw:
    """What is drawn for one clip.

    Attributes:
        frames: Positions in the clip, int64 [K].
        lam: Mixing coefficients, one a view, float32 [2].
        weight: How much the pair counts in the loss, above 0.
    """

    frames: np.ndarray
    lam: np.ndarray
    weight: float = 1.0


class PairPolicy(Protocol):
    """How positive pairs come about."""

    def draw(self, times_s: np.ndarray, frame_rate: float, rng: np.random.Generator) -> PairDraw:
        """Choose K frames (the same K for every clip) of a clip.

        Args:
            times_s: When each of its frames was, seconds, [T]; nan where the file does not tell.
            frame_rate: Of the clip, Hz; nan where the file does not tell.
            rng: The only source of chance.
        """
        ...

    def views(self, frames: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
        """Two views [B, 1, H, W] out of augmented ``frames`` [B, K, 1, H, W] and ``lam`` [B, 2]."""
        ...


@dataclass(frozen=True)
class SamplePairs:
    """USCL's sample pair generation.

    Attributes:
        alpha: Of Beta(alpha, alpha); 0.5 in the reference code.
        independent: A coefficient for each view, as in the paper, instead of a shared one.
    """

    alpha: float = 0.5
    independent: bool = False

    def draw(self, times_s: np.ndarray, frame_rate: float, rng: np.random.Generator) -> PairDraw:
        """Frames (first, anchor, second), distinct where there are three."""
        frame_count = len(times_s)
        chosen = draw_frames(frame_count, 3, rng)
        lam = rng.beta(self.alpha, self.alpha, size=2)
        if not self.independent:
            lam[1] = lam[0]
        if frame_count < 3:
            # Without mixing the anchor has no part: two frames are the two views, one frame is both.
            chosen = np.array([chosen[0], chosen[0], chosen[-1]])
            lam[:] = 1.0
        return PairDraw(chosen, lam.astype(np.float32))

    def views(self, frames: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
        """Mix ``frames`` [B, 3, 1, H, W] into two views [B, 1, H, W]."""
        first, anchor, second = frames.unbind(dim=1)
        return sample_pair_generation(anchor, first, second, (lam[:, 0], lam[:, 1]))


@dataclass(frozen=True)
class TwoViews:
    """SimCLR's pairs: one frame, augmented twice."""

    def draw(self, times_s: np.ndarray, frame_rate: float, rng: np.random.Generator) -> PairDraw:
        """One frame, twice."""
        return PairDraw(np.repeat(draw_frames(len(times_s), 1, rng), 2), np.ones(2, dtype=np.float32))

    def views(self, frames: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
        """The two frames of [B, 2, 1, H, W]."""
        first, second = frames.unbind(dim=1)
        return first, second


@dataclass(frozen=True)
class NearbyFrames:
    """IVPP's pairs: two frames of a clip at most ``seconds`` apart, a pair weighing the more the nearer they are.

    With D = ⌊δ·frame rate⌋ frames, the weight of a pair is (D − |distance in frames| + 1) / (D + 1): 1 for one frame twice,
    1 / (D + 1) at the far end. Where the file does not tell its frame rate, and in stills, the pair is one frame twice.

    Attributes:
        seconds: δ; 1.5 in the paper's SimCLR runs.
    """

    seconds: float = 1.5

    def draw(self, times_s: np.ndarray, frame_rate: float, rng: np.random.Generator) -> PairDraw:
        """A frame, and any frame (itself among them) within reach of it."""
        (first,) = draw_frames(len(times_s), 1, rng)
        lam = np.ones(2, dtype=np.float32)
        if not np.isfinite(frame_rate):
            return PairDraw(np.array([first, first]), lam)
        reach = int(self.seconds * frame_rate)  # D
        distance = np.rint(np.abs(times_s - times_s[first]) * frame_rate)  # frames [T]
        second = rng.choice(np.flatnonzero(distance <= reach))
        return PairDraw(np.array([first, second]), lam, float((reach - distance[second] + 1) / (reach + 1)))

    def views(self, frames: Tensor, lam: Tensor) -> tuple[Tensor, Tensor]:
        """The two frames of [B, 2, 1, H, W]."""
        first, second = frames.unbind(dim=1)
        return first, second


def pair_policy_named(name: str, *, alpha: float = 0.5, independent: bool = False, seconds: float = 1.5) -> PairPolicy:
    """The policy "sample_pairs", "two_views" or "nearby_frames".

    Raises:
        SonokitError: Unknown name, ``alpha`` not above 0, or ``seconds`` below 0.
    """
    if name == "sample_pairs":
        if not alpha > 0:
            raise SonokitError(f"alpha of the Beta distribution must be above 0, it is {alpha}")
        return SamplePairs(alpha, independent)
    if name == "two_views":
        return TwoViews()
    if name == "nearby_frames":
        if seconds < 0:
            raise SonokitError(f"two frames cannot be {seconds} seconds apart; pair_seconds must be 0 or more")
        return NearbyFrames(seconds)
    raise SonokitError(f"unknown pairs {name!r}; choose one of {', '.join(get_args(PairName))}")


def draw_frames(frame_count: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """Positions of ``n`` distinct frames in random order, int64; of all frames where there are fewer."""
    return rng.choice(frame_count, size=min(n, frame_count), replace=False).astype(np.int64)


def sample_pair_generation(
    anchor: Tensor, first: Tensor, second: Tensor, lam: Tensor | tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor]:
    """Interpolate two frames with an anchor frame into a positive pair.

    Args:
        anchor: Augmented frames, shape [B, 1, H, W].
        first: The same, mixed into the first view.
        second: The same, mixed into the second view.
        lam: Weight of ``first`` and ``second``, shape [B], shared by both views; or one such tensor for each view.
    """
    lam1, lam2 = lam if isinstance(lam, tuple) else (lam, lam)
    lam1, lam2 = lam1.view(-1, 1, 1, 1), lam2.view(-1, 1, 1, 1)
    return torch.lerp(anchor, first, lam1), torch.lerp(anchor, second, lam2)
