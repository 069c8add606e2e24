"""Contrast that knows patients: NT-Xent in which no clip is pushed away from another clip of the same patient.

NT-Xent (Chen et al., ICML 2020, 2002.05709) takes every other image of the batch for a negative. Two clips of one patient often
show the same finding, and to push them apart is to forget it; the reference code of USCL, which knows no patients, does so.
"""

import torch
import torch.nn.functional as F
from lightly.utils import dist
from torch import Tensor, nn


class PatientNTXent(nn.Module):
    """NT-Xent over 2N anchors; views of the same patient's other clips are no negatives. No parameters.

    For an anchor i of patient p(i), whose other view is j, with the cosine s and the temperature τ:

        l(i) = −log( e^{s(i,j)/τ} / ( e^{s(i,j)/τ} + Σ_{k: p(k) ≠ p(i)} e^{s(i,k)/τ} ) )

    With patients all different this is NT-Xent (lightly's ``NTXentLoss``). Computed in float32, under autocast too.

    Args:
        temperature: τ, above 0.
    """

    def __init__(self, temperature: float = 0.5) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, z1: Tensor, z2: Tensor, patients: Tensor, weights: Tensor | None = None) -> Tensor:
        """The mean over the anchors of this process; the candidates are those of all processes, with their gradient.

        The mean of this over the ranks of a distributed run, which is what DDP minimises, is the loss of the joint batch.

        Args:
            z1: Projections of the first views, shape [N, P], normalised here; N is the same on every rank.
            z2: Projections of the second views, [N, P].
            patients: int64 [N], numbered alike on every rank.
            weights: How much each pair counts, [N]: l(i) of both of its views is multiplied by it, and the sum divided by 2N,
                not by the sum of the weights, as in the SimCLR loss of IVPP's reference code (VanBerlo et al. 2024, 2403.07715;
                bvanberl/IVPP: src/losses/losses.py, where the two views' terms are added instead of averaged).

        Returns:
            A scalar, float32; 0 where nobody is left to be pushed away.
        """
        with torch.autocast(z1.device.type, enabled=False):
            z1, z2 = F.normalize(z1.float(), dim=1), F.normalize(z2.float(), dim=1)
            n, first = len(z1), dist.rank() * len(z1)
            all1, all2, everyone = gather_rows(z1), gather_rows(z2), gather_rows(patients)  # [M, P], [M, P], [M]
            logits = torch.cat([z1, z2]) @ torch.cat([all1, all2]).T / self.temperature  # [2N, 2M]
            own = torch.arange(first, first + n, device=z1.device)
            positive = torch.cat([own + len(everyone), own])  # [2N]
            no_negative = (patients[:, None] == everyone).repeat(2, 2)  # [2N, 2M]; the anchor itself among them
            no_negative.scatter_(1, positive[:, None], False)
            terms = F.cross_entropy(logits.masked_fill(no_negative, -torch.inf), positive, reduction="none")  # [2N]
            return weighted_mean(terms, None if weights is None else weights.repeat(2))


def gather_rows(x: Tensor) -> Tensor:
    """The rows of ``x`` [N, ...] of all ranks one after the other, [N·world, ...], with gradients; ``x`` without ranks."""
    return torch.cat(dist.gather(x.contiguous())) if dist.world_size() > 1 else x


def weighted_mean(terms: Tensor, weights: Tensor | None) -> Tensor:
    """Mean of ``terms`` [N] times ``weights`` [N], divided by N."""
    return terms.mean() if weights is None else (terms * weights.to(terms.dtype)).mean()
