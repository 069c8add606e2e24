"""Dropout that draws one random byte an element.

On a CPU torch draws a random number for every element one by one; with a thousand features a segment that took more than a
third of the time of fitting a head. Eight bytes of one 64-bit number serve eight elements; the rate is met to 1/256, and what
is kept is scaled by the rate that is really used, so that the expectation is exact.
"""

import torch
from torch import Tensor, nn


class ByteDropout(nn.Module):
    """Like ``torch.nn.Dropout`` (Srivastava et al., 2014), from torch's generator, with the rate rounded to 1/256.

    Args:
        rate: Share of the elements that are set to 0 in training, 0 to below 1.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.below = min(round(256 * rate), 255)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; in evaluation mode as it is."""
        if not self.training or not self.below:
            return x
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        dropped = words.view(torch.uint8)[: x.numel()].view(x.shape) < self.below
        return x.masked_fill(dropped, 0.0).mul_(256 / (256 - self.below))
