"""From the logits of a clip's segments to the logit of the clip, which alone has a label (multiple-instance learning).

"mean"        the mean of the logits: a finding must last
"lse"         log of the mean of exponentials: nearer the highest logit, because seen once makes a clip positive
"attention"   gated attention (Ilse, Tomczak and Welling, ICML 2018, 1802.04712), with a set of weights for each biomarker:
              pleural irregularity and effusion are seen in different moments of a clip. The clip's logit is the weighted mean
              of the segments' logits, which, the classifier being linear, is the classifier on the weighted mean embedding
"noisy_or"    p = 1 − Π(1 − p_s): each segment is a chance of its own to have seen it (Maron and Lozano-Pérez 1998)

In all of them a clip of one segment has that segment's logit, and segments that are not present count for nothing.
"""

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...errors import SonokitError

Pooling = Literal["mean", "lse", "attention", "noisy_or"]

_FAR_BELOW = -10.0  # where softplus(x) is exp(x) − exp(2x)/2 to the last digit of a float32
_SMALL = 0.1  # below it, the series of log((exp(n) − 1)/n) is exact to 1e-7


def pool_logits(logits: Tensor, present: Tensor | None, pooling: Pooling, scores: Tensor | None = None) -> Tensor:
    """Segment logits → clip logits.

    Args:
        logits: Shape [N, S, B].
        present: Which segments a clip has, bool [N, S], at least one each; None: all.
        pooling: "mean", "lse", "attention" or "noisy_or".
        scores: What the attention weights are made of (:class:`GatedAttention`), shape [N, S, B]; for "attention" only.

    Returns:
        Shape [N, B].

    Raises:
        SonokitError: Unknown pooling, or attention without scores.
    """
    if pooling not in get_args(Pooling):
        raise SonokitError(f"pooling must be one of {', '.join(get_args(Pooling))}, it is {pooling!r}")
    if present is None:
        present = torch.ones(logits.shape[:2], dtype=torch.bool, device=logits.device)
    count = present.sum(dim=1, keepdim=True).to(logits.dtype)  # [N, 1]
    if pooling == "mean":
        return (logits * present[..., None]).sum(dim=1) / count
    if pooling == "noisy_or":
        return _noisy_or(logits, present)
    absent = torch.where(present, 0.0, float("-inf"))[..., None]  # [N, S, 1]
    if pooling == "lse":
        return (logits + absent).logsumexp(dim=1) - count.log()
    if scores is None:
        raise SonokitError("attention pools by the segments' embeddings: give clip_logits the embedding too")
    weights = (scores + absent).softmax(dim=1)  # [N, S, B]
    return (weights * logits).sum(dim=1)


class GatedAttention(nn.Module):
    """Scores of segments, whose softmax over a clip are its attention weights: w · (tanh(V h) ⊙ σ(U h)).

    Args:
        embedding: Length E of a segment's embedding h.
        biomarkers: B; each has its own w, all share V and U.
        hidden: Rows of V and U.
    """

    def __init__(self, embedding: int, biomarkers: int, hidden: int = 64) -> None:
        super().__init__()
        self.content = nn.Linear(embedding, hidden)
        self.gate = nn.Linear(embedding, hidden)
        self.score = nn.Linear(hidden, biomarkers, bias=False)  # a constant would fall out of the softmax
        nn.init.zeros_(self.score.weight)  # every segment weighs the same until the labels say otherwise

    def forward(self, embedding: Tensor) -> Tensor:
        """Embedding [..., E] → scores [..., B]."""
        return self.score(self.content(embedding).tanh() * self.gate(embedding).sigmoid())


def even_odds(segments: int) -> float:
    """The logit that every one of ``segments`` segments must have for noisy-or to call the clip with probability one half."""
    missed = 0.5 ** (1 / segments)
    return float(torch.logit(torch.tensor(1 - missed, dtype=torch.float64)))


def _noisy_or(logits: Tensor, present: Tensor) -> Tensor:
    """The logit of 1 − Π(1 − p_s), without ever forming a probability.

    With n = Σ softplus(logit_s) = −log Π(1 − p_s), the odds are exp(n) − 1.
    """
    there = present[..., None]  # [N, S, 1]
    n = torch.where(there, F.softplus(logits), 0.0).sum(dim=1)  # [N, B]
    far = torch.minimum(logits, logits.new_tensor(_FAR_BELOW))
    near = F.softplus(logits.clamp_min(_FAR_BELOW)).log()
    log_each = torch.where(logits < _FAR_BELOW, far - far.exp() / 2, near)  # log softplus, [N, S, B]
    log_n = log_each.masked_fill(~there, float("-inf")).logsumexp(dim=1)  # [N, B]
    little = log_n + n / 2 + n**2 / 24
    large = n.clamp_min(_SMALL)  # the branch that is not taken must have a finite gradient, too
    return torch.where(n < _SMALL, little, large + torch.log1p(-torch.exp(-large)))
