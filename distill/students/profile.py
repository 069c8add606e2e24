"""What a network costs, counted: the same figures on every machine. What it takes in time is measured in ``measure.py``."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

_HELD_IN_INT8 = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True)
class StudentProfile:
    """Size and work of a network.

    Attributes:
        parameters: Numbers that training sets; one that is shared counts once.
        bytes_fp32: Of its parameters and of the running statistics of its normalisations, 4 bytes a number.
        bytes_int8: The same with the weights of its convolutions and linear layers at 1 byte a number and a scale of 4 bytes
            for each output channel; everything else stays at 4 bytes. Before normalisations are folded into convolutions,
            which makes both sizes smaller: an exported file is to be weighed itself.
        multiply_adds: Of convolutions, linear layers, matrix products and attention for one input; a bias, a normalisation or
            an activation counts nothing.
    """

    parameters: int
    bytes_fp32: int
    bytes_int8: int
    multiply_adds: int


def profile_student(module: nn.Module, input_size: tuple[int, ...]) -> StudentProfile:
    """Count what ``module`` costs; it is left as it was.

    Args:
        module: Takes one tensor, float [1, *input_size].
        input_size: Of one input without the batch, (C, H, W) for frames.
    """
    numbers = sum(tensor.numel() for tensor in _stored(module))
    shared: set[int] = set()
    saved = 0
    for layer in module.modules():
        if isinstance(layer, _HELD_IN_INT8) and id(layer.weight) not in shared:
            shared.add(id(layer.weight))
            saved += 3 * layer.weight.numel() - 4 * layer.weight.shape[0]
    return StudentProfile(
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        bytes_fp32=4 * numbers,
        bytes_int8=4 * numbers - saved,
        multiply_adds=_multiply_adds(module, input_size),
    )


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """``module`` in evaluation mode, each of its parts back in its own mode afterwards."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def blank_input(module: nn.Module, shape: tuple[int, ...]) -> Tensor:
    """Zeros where, and of the type that, the module's parameters are."""
    like = next(module.parameters(), torch.empty(0))
    return torch.zeros(shape, dtype=like.dtype, device=like.device)


def _multiply_adds(module: nn.Module, input_size: tuple[int, ...]) -> int:
    with evaluating(module), torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(blank_input(module, (1, *input_size)))
    return int(counter.get_total_flops()) // 2


def _stored(module: nn.Module) -> Iterator[Tensor]:
    """Parameters, and those buffers that are saved and hold fractions (a counter of batches is of no use later)."""
    yield from module.parameters()
    saved = module.state_dict(keep_vars=True)
    for name, buffer in module.named_buffers():
        if name in saved and buffer.is_floating_point():
            yield buffer
