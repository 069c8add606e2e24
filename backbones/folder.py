"""A backbone on disk: timm's own ``local-dir`` layout, so that plain timm opens it.

``timm.create_model("local-dir:FOLDER", pretrained=True)`` gives the model (normalisation: its ``pretrained_cfg``). The folder
holds ``config.json`` and ``model.safetensors`` (timm's), ``README.md`` (the model card) and ``sonokit.json`` (what timm has no
place for: where the weights come from, which clips and labels they have seen, the temporal shift). No pickle is ever read.
"""

import hashlib
import json
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import safetensors.torch
import timm
import torch
from huggingface_hub import ModelCard, ModelCardData
from safetensors import SafetensorError
from timm.models import save_for_hf

from ..atomic import atomic_path
from ..errors import SonokitError
from .build import Backbone, build_backbone, declare_input, to_grey

_UNKNOWN_PROVENANCE: dict[str, Any] = {"fitted_on_labels": False, "labels": [], "training_clips": {}, "training_patients": []}
_FILES_BESIDE = ("model.safetensors", "README.md", "sonokit.json")


def open_backbone(spec: str, *, weights: str | Path = "none", seed: int = 0, temporal_shift: float = 0.0) -> Backbone:
    """A grey backbone from what a user names.

    Args:
        spec: A backbone folder, ours or any of timm's ``local-dir`` layout (RGB is folded to grey), or a timm name.
        weights: For a timm name only: "none", "timm" or a local .safetensors file.
        seed: Of a random initialisation.
        temporal_shift: For a timm name, or to switch it on in a folder's model.

    Raises:
        SonokitError: Neither a folder nor a timm name, or options that do not go together.
    """
    folder = Path(spec)
    if folder.is_dir() and ((folder / "config.json").exists() or not timm.is_model(spec)):
        if str(weights) != "none":
            raise SonokitError(f"{spec} is a backbone folder with weights of its own; leave --weights {weights} out")
        backbone = load_backbone(folder)
        shift = temporal_shift or backbone.temporal_shift
        model, mean, std = backbone.model, backbone.mean.flatten().tolist(), backbone.std.flatten().tolist()
        if backbone.in_chans == 3:
            model = to_grey(model, backbone.name, mean, std)
            mean, std = model.pretrained_cfg["mean"], model.pretrained_cfg["std"]
        elif shift == backbone.temporal_shift:
            return backbone
        return Backbone(backbone.name, model, mean, std, shift)
    if folder.is_file() or len(folder.parts) > 1:
        raise SonokitError(f"there is no backbone folder {spec}; give one, or a timm name (with --weights)")
    return build_backbone(spec, weights=weights, seed=seed, temporal_shift=temporal_shift)


def save_backbone(backbone: Backbone, folder: Path, *, provenance: dict[str, Any]) -> None:
    """Write ``backbone`` into ``folder``, which may hold other files.

    ``config.json``, without which a folder is no backbone, is taken away first and put in place last: at whatever moment the
    process dies, the folder is a whole backbone or none.

    Args:
        backbone: The backbone.
        folder: Made where missing.
        provenance: JSON values: ``fitted_on_labels``, ``labels``, ``training_clips`` {clip_id: content_hash},
            ``training_patients``, and whatever else tells where the weights come from.
    """
    folder.mkdir(parents=True, exist_ok=True)
    provenance = {**_UNKNOWN_PROVENANCE, **provenance}
    extra = {
        "schema": 1,
        "name": backbone.name,
        "temporal_shift": backbone.temporal_shift,
        "fingerprint": backbone_fingerprint(backbone),
        "provenance": provenance,
    }
    arguments: dict[str, Any] = {"in_chans": backbone.in_chans}
    if getattr(backbone.model, "dynamic_img_size", False):
        arguments["dynamic_img_size"] = True
    # inside `folder`, so that the files only need renaming
    with TemporaryDirectory(dir=folder, prefix=".tmp-") as temporary:
        staged = Path(temporary)
        save_for_hf(backbone.model, staged, model_args=arguments, safe_serialization=True)
        (staged / "sonokit.json").write_text(json.dumps(extra, indent=2) + "\n", encoding="utf-8")
        _model_card(backbone, provenance).save(staged / "README.md")
        (staged / "model.safetensors").chmod((staged / "sonokit.json").stat().st_mode)  # safetensors makes it private
        (folder / "config.json").unlink(missing_ok=True)
        for name in (*_FILES_BESIDE, "config.json"):
            with atomic_path(folder / name) as place:
                os.replace(staged / name, place)


def load_backbone(folder: Path) -> Backbone:
    """Read a backbone folder.

    Raises:
        SonokitError: ``folder`` is no backbone folder, is incomplete or damaged, or was made by a newer sonokit.
    """
    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise SonokitError(f"{folder} is no backbone folder: {name} is missing (an unfinished run? run its command again)")
    extra = _read_extra(folder)
    try:
        # random numbers are drawn for weights that are then overwritten
        with torch.random.fork_rng(devices=[]):
            model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
    except (RuntimeError, KeyError, ValueError, SafetensorError) as fault:
        raise SonokitError(f"{folder} cannot be loaded: {str(fault).splitlines()[0]}") from fault
    config = model.pretrained_cfg
    in_chans = int(config["input_size"][0])
    declare_input(model, in_chans)
    name = extra.get("name") or ".".join(part for part in (config["architecture"], config.get("tag")) if part)
    backbone = Backbone(name, model, config["mean"], config["std"], extra.get("temporal_shift", 0.0))
    if extra and extra["fingerprint"] != backbone_fingerprint(backbone):
        raise SonokitError(f"{folder}: the weights are not those that sonokit.json describes; was one of the files replaced?")
    return backbone.eval()


def backbone_fingerprint(backbone: Backbone) -> str:
    """16 hex digits that any change of name, weights, normalisation or temporal shift changes."""
    digest = hashlib.sha256(f"{backbone.name} {backbone.temporal_shift}".encode())
    tensors = {**backbone.model.state_dict(), "mean": backbone.mean, "std": backbone.std}
    for key in sorted(tensors):
        value = tensors[key].detach().cpu().contiguous()
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(safetensors.torch.save({"x": value}))
    return digest.hexdigest()[:16]


def read_provenance(folder: Path) -> dict[str, Any]:
    """What a backbone folder says about its weights; for a folder of another maker, that no clip of ours was used."""
    return {**_UNKNOWN_PROVENANCE, **_read_extra(Path(folder)).get("provenance", {})}


def _read_extra(folder: Path) -> dict[str, Any]:
    file = folder / "sonokit.json"
    if not file.is_file():
        return {}
    try:
        extra: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        schema, whole = extra["schema"], "fingerprint" in extra
    except (ValueError, KeyError, TypeError):
        schema, whole = 1, False
    if schema != 1:
        raise SonokitError(f"{file} was written by a newer sonokit (schema {schema}); update this one")
    if not whole:
        raise SonokitError(f"{file} is damaged; make the folder again, or remove that file to open it as plain timm's")
    return extra


def _model_card(backbone: Backbone, provenance: dict[str, Any]) -> ModelCard:
    data = ModelCardData(library_name="timm", tags=["ultrasound", "feature-extraction", "sonokit"])
    parameters = sum(p.numel() for p in backbone.parameters())
    mean, std = backbone.mean.flatten().tolist(), backbone.std.flatten().tolist()
    labels = ", ".join(provenance["labels"]) if provenance["fitted_on_labels"] else "none"
    told = {k: v for k, v in provenance.items() if k not in _UNKNOWN_PROVENANCE and isinstance(v, str | int | float)}
    lines = [f"- {key.replace('_', ' ')}: {value}" for key, value in told.items()]
    return ModelCard(
        f"---\n{data.to_yaml()}\n---\n\n# {backbone.name}, an ultrasound backbone\n\n"
        f"- input: {backbone.in_chans} channel(s) in [0, 1], mean {mean}, std {std}\n"
        f"- output: {backbone.num_features} features a frame; {parameters / 1e6:.2f} M parameters\n"
        f"- temporal shift: {backbone.temporal_shift or 'off'}\n"
        f"- clips seen in training: {len(provenance['training_clips'])} of {len(provenance['training_patients'])} patients\n"
        f"- labels used: {labels}\n" + "\n".join(lines) + "\n\n"
        'Opens in plain timm: `timm.create_model("local-dir:THIS_FOLDER", pretrained=True)`'
        f"{_registered_by(backbone)}. Not a medical device; evaluate\n"
        "only on patients whose clips were not used in training (`sonokit.json` lists them).\n"
    )


def _registered_by(backbone: Backbone) -> str:
    """What must be imported before timm knows the architecture: the module that registered it, where that is ours."""
    module = type(backbone.model).__module__
    return f", after `import {module}`" if module.split(".")[0] == __name__.split(".")[0] else ""
