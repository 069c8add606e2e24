"""A grey stem out of an RGB one: a third of the input, the same features.

A frame of an ultrasound clip is grey; fed to an RGB model it is repeated to three channels, of which channel c is normalised to
(x − mean_c) / std_c. The grey model normalises once, g = (x − m) / s, so that the first convolution sees
(x − mean_c) / std_c = g · s/std_c + (m − mean_c)/std_c, and both parts can be folded into it:

    w'(k) = Σ_c w_c(k) · s/std_c                    the grey kernel
    b'    = Σ_c,k w_c(k) · (m − mean_c)/std_c       a constant, added to the convolution's bias or, where it
                                                    has none, taken from the next BatchNorm's running mean

The fold is exact where all channel means are equal (b' = 0) and for convolutions without padding, such as patch embeddings.
Elsewhere it is exact in the interior only: at a zero-padded border the RGB model pads with its channel means, the grey one
with m, so that outputs within the kernel's reach of the border differ slightly.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..errors import SonokitError


def grey_normalisation(mean: Sequence[float], std: Sequence[float]) -> tuple[float, float]:
    """The grey model's own (m, s): the averages of the channels'."""
    return sum(mean) / len(mean), sum(std) / len(std)


def fold_rgb_to_grey(model: nn.Module, stems: Sequence[str], mean: Sequence[float], std: Sequence[float]) -> dict[str, Tensor]:
    """The state dict of the grey twin of ``model``, which is left as it is.

    Args:
        model: A model whose input has three channels.
        stems: Names of the convolutions that read the input, in ``model``'s module naming.
        mean: Of the RGB normalisation that ``model`` was trained with, one value a channel.
        std: The same.

    Raises:
        SonokitError: A stem is not a convolution over the three channels, or has no place for the constant.
    """
    m, s = grey_normalisation(mean, std)
    # .clone(): the caller may load the result into a model while this one lives on
    state = {key: value.detach().clone() for key, value in model.state_dict().items()}
    gain = torch.tensor([s / c for c in std], dtype=torch.float64)
    shift = torch.tensor([(m - a) / c for a, c in zip(mean, std, strict=True)], dtype=torch.float64)
    for stem in stems:
        conv = model.get_submodule(stem)
        if not isinstance(conv, nn.Conv2d) or conv.in_channels != 3 or conv.groups != 1:
            raise SonokitError(f"the input layer {stem!r} is no plain convolution over RGB; use in_chans=3")
        weight = conv.weight.detach().double()  # [O, 3, K, K]
        state[f"{stem}.weight"] = torch.einsum("ockl,c->okl", weight, gain).unsqueeze(1).to(conv.weight.dtype)  # [O, 1, K, K]
        _place_constant(model, stem, conv, torch.einsum("ockl,c->o", weight, shift), state)
    return state


def _place_constant(model: nn.Module, stem: str, conv: nn.Conv2d, constant: Tensor, state: dict[str, Tensor]) -> None:
    if conv.bias is not None:
        state[f"{stem}.bias"] = (conv.bias.detach().double() + constant).to(conv.bias.dtype)
        return
    norm_name = _next_module(model, stem)
    norm = model.get_submodule(norm_name)
    if isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.num_features == conv.out_channels:
        state[f"{norm_name}.running_mean"] = (norm.running_mean.double() - constant).to(norm.running_mean.dtype)
    elif constant.abs().max() > 1e-6:
        raise SonokitError(f"the input layer {stem!r} has neither bias nor BatchNorm to hold the grey offset; use in_chans=3")


def _next_module(model: nn.Module, name: str) -> str:
    """The module registered after ``name``: in timm's models, registration follows the order of the forward pass."""
    names = [n for n, _ in model.named_modules()]
    position = names.index(name)
    return names[position + 1] if position + 1 < len(names) else name
