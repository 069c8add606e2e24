"""How long a network takes on this machine, and how much memory its tensors take at the worst moment.

Apart from the counting of ``profile.py``, because a time is true of one machine, one load and one number of threads only.
"""

import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ...errors import SonokitError
from .profile import blank_input, evaluating


@dataclass(frozen=True)
class StudentSpeed:
    """What one machine took.

    Attributes:
        latency_ms: Median time of a forward pass over the batch.
        latency_quartiles_ms: First and third quartile of it.
        peak_bytes: Of the tensors that live at once during a pass: parameters, buffers, input, everything between. Without
            the scratch memory that the kernels take for themselves.
        batch: Inputs in a pass.
        threads: That torch was given.
    """

    latency_ms: float
    latency_quartiles_ms: tuple[float, float]
    peak_bytes: int
    batch: int
    threads: int


def measure_student(
    module: nn.Module, input_size: tuple[int, ...], *, batch: int = 1, threads: int = 1, repeats: int = 30, warm_up: int = 5
) -> StudentSpeed:
    """Time ``module`` on the CPU, in eager PyTorch; it is left as it was, and so is torch's number of threads.

    Args:
        module: Takes one tensor, float [batch, *input_size]; on the CPU.
        input_size: Of one input without the batch.
        batch: Inputs in a pass.
        threads: For torch.
        repeats: Passes that are timed.
        warm_up: Passes before, not timed.

    Raises:
        SonokitError: A count is below its least value, or the module is not on the CPU.
    """
    if min(batch, threads, repeats) < 1 or warm_up < 0:
        raise SonokitError(
            f"batch, threads, repeats must be 1 or more, warm_up 0; got {batch}, {threads}, {repeats}, {warm_up}"
        )
    if any(parameter.device.type != "cpu" for parameter in module.parameters()):
        raise SonokitError("the latency that is measured is the CPU's: move the network there first")
    given = blank_input(module, (batch, *input_size))
    times = []
    with evaluating(module), torch.inference_mode(), _threads(threads):
        for _ in range(warm_up):
            module(given)
        for _ in range(repeats):
            start = time.perf_counter()
            module(given)
            times.append(1000 * (time.perf_counter() - start))
    low, middle, high = (float(value) for value in np.percentile(times, (25, 50, 75)))
    return StudentSpeed(middle, (low, high), peak_bytes(module, input_size, batch=batch), batch, threads)


def peak_bytes(module: nn.Module, input_size: tuple[int, ...], *, batch: int = 1) -> int:
    """Bytes of the tensors that live at once at the worst moment of a forward pass; the same on every run.

    Args:
        module: Takes one tensor, float [batch, *input_size].
        input_size: Of one input without the batch.
        batch: Inputs in the pass.
    """
    given = blank_input(module, (batch, *input_size))
    live = _LiveTensors()
    for tensor in (*module.parameters(), *module.buffers(), given):
        live.meet(tensor)
    with evaluating(module), torch.no_grad(), live:
        module(given)
    return live.peak


class _LiveTensors(TorchDispatchMode):
    """Sees every operation's results, and when their memory goes."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[int, Any] = {}
        self._live = 0
        self.peak = 0

    def meet(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._known:  # a view shares its base's memory
            self._known[key] = weakref.ref(storage, lambda _: self._part(key, size))
            self._live += size
            self.peak = max(self.peak, self._live)

    def _part(self, key: int, size: int) -> None:
        self._known.pop(key, None)
        self._live -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        for result in tree_leaves(results):
            if isinstance(result, Tensor):
                self.meet(result)
        return results


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
