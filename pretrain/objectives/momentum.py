"""The slowly moving copy of a network that MoCo, BYOL and DINO compare with."""

import copy
import math
from typing import TypeVar

from lightly.models.utils import deactivate_requires_grad
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def frozen_copy(network: Network) -> Network:
    """A copy of ``network`` whose parameters get no gradients; lightly's ``update_momentum`` moves it."""
    twin = copy.deepcopy(network)
    deactivate_requires_grad(twin)
    return twin


def rising_momentum(start: float, progress: float) -> float:
    """1 − (1 − ``start``)·(cos(π·``progress``) + 1)/2: from ``start`` to 1 along a cosine (Grill et al. 2020, 2006.07733)."""
    return 1 - (1 - start) * (math.cos(math.pi * progress) + 1) / 2
