"""Any timm model as a backbone: grey frames in [0, 1] go in, one feature vector a frame comes out.

timm (Wightman, https://github.com/huggingface/pytorch-image-models) gives the architectures; ours are the normalisation inside
the model, the grey stem (``grey_stem.py``), the clip axis and the temporal shift (``temporal_shift.py``).
"""

import difflib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from ..errors import SonokitError
from .grey_stem import fold_rgb_to_grey, grey_normalisation
from .temporal_shift import insert_temporal_shift

TimmModel = Any  # an nn.Module with timm's attributes (pretrained_cfg, num_features), of which timm has no common type


class Backbone(nn.Module):
    """A timm model without its classifier, with its own normalisation.

    Attributes:
        name: The timm name.
        model: The timm model; its state dict keys are timm's.
        in_chans: 1 (grey) or 3.
        num_features: Length D of a feature vector.
        mean, std: The normalisation, shape [1, C, 1, 1].
        temporal_shift: Fraction of the channels moved each way in time; 0 is off.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, name: str, model: TimmModel, mean: Sequence[float], std: Sequence[float], temporal_shift: float = 0.0
    ) -> None:
        super().__init__()
        self.name = name
        self.model = model
        self.in_chans = len(mean)
        self.num_features = int(getattr(model, "head_hidden_size", None) or model.num_features)
        self.temporal_shift = float(temporal_shift)
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1), persistent=False)
        self._shift = insert_temporal_shift(model, name, temporal_shift) if temporal_shift else None

    def forward(self, frames: Tensor) -> Tensor:
        """Features of frames or clips.

        Args:
            frames: Float in [0, 1], shape [B, C, H, W], or [B, T, C, H, W], over whose T the temporal shift acts.

        Returns:
            Shape [B, D], or [B, T, D].
        """
        if frames.ndim not in (4, 5) or frames.shape[-3] != self.in_chans:
            raise ValueError(f"expected [B, {self.in_chans}, H, W] or [B, T, {self.in_chans}, H, W], got {tuple(frames.shape)}")
        flat = frames.flatten(0, -4)  # [N, C, H, W]; N = B or B·T
        clips = self._shift.over(frames.shape[1]) if self._shift and frames.ndim == 5 else nullcontext()
        with clips:
            features: Tensor = self.model((flat - self.mean) / self.std)  # [N, D]
        return features.unflatten(0, frames.shape[:-3])  # [B, D] or [B, T, D]

    @property
    def map_channels(self) -> dict[int, int]:
        """Channels of the feature maps that ``forward_maps`` gives, by stride; empty where timm offers none."""
        return {stride: self._maps[stride][1] for stride in self._maps}

    def forward_maps(self, frames: Tensor, strides: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Features of frames, and in the same pass the feature maps on the way to them.

        Args:
            frames: Float in [0, 1], shape [B, C, H, W].
            strides: Of the maps, keys of ``map_channels`` in rising order.

        Returns:
            Features [B, D], the same as ``forward``'s, and for each stride a map [B, C_s, about H/s, about W/s].
        """
        features, maps, _ = self.forward_all(frames, strides)
        return features, maps

    def forward_all(self, frames: Tensor, strides: Sequence[int]) -> tuple[Tensor, list[Tensor], Tensor]:
        """As ``forward_maps``, and the last map, float [B, D', h, w], of which the features are made."""
        places = [self._maps[stride][0] for stride in strides]
        last, maps = self.model.forward_intermediates((frames - self.mean) / self.std, indices=places)
        return self.model.forward_head(last), maps, last

    @property
    def _maps(self) -> dict[int, tuple[int, int]]:
        """Place among timm's intermediate maps and number of channels, by stride; the last of those that share a stride."""
        if not hasattr(self.model, "forward_intermediates"):
            return {}
        return {int(info["reduction"]): (i, int(info["num_chs"])) for i, info in enumerate(self.model.feature_info)}


def build_backbone(
    name: str, *, weights: str | Path = "none", in_chans: int = 1, temporal_shift: float = 0.0, seed: int = 0
) -> Backbone:
    """A new backbone.

    Args:
        name: Any timm model name.
        weights: "none" (random, from ``seed``), "timm" (timm's pretrained weights, which need a network the first time), or a
            local .safetensors file in timm's naming for ``name``. RGB weights are folded to grey for ``in_chans=1``.
        in_chans: 1 for grey, 3 for RGB.
        temporal_shift: Fraction of the channels moved each way in time, 0 (off) to 0.5.
        seed: Of the random initialisation; the global generator is left undisturbed.

    Raises:
        SonokitError: Unknown name, weights that cannot be had or do not fit, or an unsupported option.
    """
    if in_chans not in (1, 3):
        raise SonokitError(f"in_chans must be 1 (grey) or 3 (RGB), it is {in_chans}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if str(weights) == "none":
            model = create_timm(name, in_chans)
        elif str(weights) == "timm":
            model = _with_timm_weights(name, in_chans)
        else:
            model = _with_file_weights(name, Path(weights), in_chans)
    return Backbone(name, model, model.pretrained_cfg["mean"], model.pretrained_cfg["std"], temporal_shift)


def create_timm(name: str, in_chans: int, *, pretrained: bool = False) -> TimmModel:
    """The timm model without classifier, its ``pretrained_cfg`` saying what this model, not its ancestor, expects."""
    require_known(name)
    options: dict[str, Any] = {"num_classes": 0, "in_chans": in_chans, "pretrained": pretrained}
    if timm.get_pretrained_cfg_value(name, "fixed_input_size"):
        # position embeddings that follow the frame's size, where the architecture can
        try:
            model = timm.create_model(name, dynamic_img_size=True, **options)
        except TypeError:  # this one has no such argument
            model = timm.create_model(name, **options)
    else:
        model = timm.create_model(name, **options)
    return declare_input(model, in_chans)


def declare_input(model: TimmModel, in_chans: int) -> TimmModel:
    """Make ``pretrained_cfg`` tell the truth about input channels, normalisation and the missing classifier."""
    config = model.pretrained_cfg
    mean, std = tuple(config["mean"]), tuple(config["std"])
    if in_chans == 1 and len(mean) != 1:
        m, s = grey_normalisation(mean, std)
        mean, std = (m,), (s,)
    sizes = {k: (in_chans, *config[k][1:]) for k in ("input_size", "test_input_size", "min_input_size") if config.get(k)}
    model.pretrained_cfg = {**config, **sizes, "mean": mean, "std": std, "num_classes": 0}
    return model


def to_grey(rgb: TimmModel, name: str, mean: Sequence[float], std: Sequence[float]) -> TimmModel:
    """The grey twin of a timm model over RGB with normalisation ``mean``, ``std``."""
    grey = create_timm(name, 1)
    m, s = grey_normalisation(mean, std)
    grey.pretrained_cfg = {**grey.pretrained_cfg, "mean": (m,), "std": (s,)}
    grey.load_state_dict(fold_rgb_to_grey(rgb, _stems(rgb, name), mean, std))
    return grey


def _with_timm_weights(name: str, in_chans: int) -> TimmModel:
    try:
        rgb = create_timm(name, 3, pretrained=True)
    except OSError as fault:
        reason = str(fault).splitlines()[0][:120]
        raise SonokitError(
            f"timm's weights of {name} cannot be fetched ({reason}). Give a local file instead: --weights FILE.safetensors"
        ) from fault
    except RuntimeError as fault:
        raise SonokitError(f"timm offers no usable weights of {name}: {str(fault).splitlines()[0]}") from fault
    return rgb if in_chans == 3 else to_grey(rgb, name, rgb.pretrained_cfg["mean"], rgb.pretrained_cfg["std"])


def _with_file_weights(name: str, file: Path, in_chans: int) -> TimmModel:
    require_known(name)
    state = _read_safetensors(file)
    rgb = create_timm(name, 3)
    stem = _stems(rgb, name)[0]
    for classifier in _as_tuple(rgb.pretrained_cfg.get("classifier")):
        state.pop(f"{classifier}.weight", None)
        state.pop(f"{classifier}.bias", None)
    weight = state.get(f"{stem}.weight")
    if in_chans == 1 and weight is not None and weight.ndim == 4 and weight.shape[1] == 1:  # grey already
        return _load_exactly(create_timm(name, 1), state, file, name)
    _load_exactly(rgb, state, file, name)
    return rgb if in_chans == 3 else to_grey(rgb, name, rgb.pretrained_cfg["mean"], rgb.pretrained_cfg["std"])


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise SonokitError(f'there is no weights file {file}; weights is "none", "timm" or a .safetensors file')
    try:
        return safetensors.torch.load_file(file)
    except SafetensorError as fault:
        raise SonokitError(f"{file} is not a safetensors file ({fault}); pickles are never loaded: convert it") from fault


def _load_exactly(model: TimmModel, state: Mapping[str, Tensor], file: Path, name: str) -> TimmModel:
    own = model.state_dict()
    faults = [f"{key} missing" for key in own if key not in state]
    faults += [f"{key} unexpected" for key in state if key not in own]
    faults += [
        f"{key} {list(state[key].shape)} in the file, {list(own[key].shape)} in the model"
        for key in own
        if key in state and own[key].shape != state[key].shape
    ]
    if faults:
        more = f"; and {len(faults) - 3} more" if len(faults) > 3 else ""
        raise SonokitError(f"{file} does not hold weights of {name}: {'; '.join(faults[:3])}{more}")
    model.load_state_dict(state)
    return model


def _stems(model: TimmModel, name: str) -> tuple[str, ...]:
    stems = _as_tuple(model.pretrained_cfg.get("first_conv"))
    if not stems:
        raise SonokitError(f"timm does not say which layer of {name} reads the input, so its weights cannot be made grey")
    return stems


def _as_tuple(value: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)


def require_known(name: str) -> None:
    """Refuse a name that timm does not know.

    Raises:
        SonokitError: With the names that are most like it.
    """
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(close)}?" if close else "timm.list_models() lists them"
        raise SonokitError(f"timm has no model {name!r}; {hint}")
    known = [n.partition(".")[2] for n in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in known:
        raise SonokitError(f"timm has no weights {tag!r} of {architecture}; it has {', '.join(known) or 'none'}")
