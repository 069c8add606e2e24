"""One way to any student: our own micro networks and whatever timm has."""

import difflib
from pathlib import Path

from ...backbones.build import Backbone, build_backbone
from ...errors import SonokitError
from .micro import MICRO_NETWORKS


def build_student(name: str, *, weights: str | Path = "none", in_chans: int = 1, seed: int = 0) -> Backbone:
    """A student: frames [B, C, H, W] in [0, 1] → features [B, D], and ``forward_maps`` for its maps at several depths.

    Args:
        name: A micro network (micro-10k, micro-25k, micro-50k, micro-100k) or any timm model name.
        weights: "none" (random, from ``seed``), "timm" (for a timm name: its pretrained weights), or a .safetensors file.
        in_chans: 1 for grey, 3 for RGB.
        seed: Of the random initialisation; the global generator is left undisturbed.

    Raises:
        SonokitError: Unknown name, or weights that cannot be had or do not fit.
    """
    known = name.replace("-", "_")
    if known in MICRO_NETWORKS:
        if str(weights) == "timm":
            raise SonokitError(f"{name} is our own and has no pretrained weights; give a .safetensors file, or none")
        return build_backbone(known, weights=weights, in_chans=in_chans, seed=seed)
    if known.startswith("micro_"):
        close = difflib.get_close_matches(known, MICRO_NETWORKS, n=1, cutoff=0.0)[0]
        raise SonokitError(f"there is no micro network {name!r}, did you mean {close}? All: {', '.join(MICRO_NETWORKS)}")
    return build_backbone(name, weights=weights, in_chans=in_chans, seed=seed)
