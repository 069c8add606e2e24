"""What a teacher said of views, kept: asked once, then read by as many students as are tried.

    taught = ask(teacher, views, strides=(8, 16), folder=Path("runs/distill/taught"))

The folder holds plain ``.npy`` files, read as memory maps, and ``taught.json`` with a fingerprint of teacher and views; asked
again with the same ones, the teacher does not run. On a shelf the answers to many questions lie side by side, each in a folder
named after its question, so that several studies can read and write there at once. Maps are kept as float16.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ...atomic import atomic_path, write_json
from ..signals.terms import Outputs
from .learners import Learner
from .views import HeatMapTarget, Views

_OF_THE_MOMENT = ("training", "_is_full_backward_hook")  # what a module is doing, not what it is


@dataclass(frozen=True, eq=False)
class Taught:
    """A teacher's outputs for N views.

    Attributes:
        logits: float32 [N, K], or None.
        features: float32 [N, D], or None.
        maps: Stride -> float16 [N, C, h, w].
        heat_maps: Of landmarks, float16 [N, L, h, w], or None.
    """

    logits: np.ndarray | None = None
    features: np.ndarray | None = None
    maps: dict[int, np.ndarray] = field(default_factory=dict)
    heat_maps: np.ndarray | None = None

    def batch(self, rows: np.ndarray | slice, device: torch.device | str = "cpu") -> Outputs:
        """Of some of the views, as float32 tensors."""

        def tensor(values: np.ndarray) -> Tensor:
            return torch.from_numpy(np.array(values[rows])).to(device).float()

        parts = {name: getattr(self, name) for name in ("logits", "features", "heat_maps")}
        plain = {name: None if value is None else tensor(value) for name, value in parts.items()}
        return Outputs(**plain, maps={stride: tensor(one) for stride, one in self.maps.items()})


def ask(
    teacher: Learner,
    views: Views,
    strides: Sequence[int] = (),
    *,
    folder: Path | None = None,
    shelf: Path | None = None,
    batch: int = 64,
    device: torch.device | str = "cpu",
    progress: str | None = None,
) -> Taught:
    """Run the teacher over all views, in evaluation mode and without gradients; it is left in the mode it was in.

    Args:
        teacher: Any learner; gaze and regions of the views reach it.
        views: N views.
        strides: Of the feature maps to keep.
        folder: Where to keep the answers, and from where they are read if teacher, views and strides are the same; None keeps
            them in memory.
        shelf: Instead of ``folder``: the folder of many answers.
        batch: Views in a pass.
        device: Where to work.
        progress: Name of a progress bar on standard error; None for none.
    """
    identity = None if folder is None and shelf is None else _identity(teacher, views, strides)
    if shelf is not None and identity is not None:
        folder = shelf / identity[:32]
    if folder is not None:
        found = _read(folder, identity)
        if found is not None:
            return found
    parts: list[Outputs] = []
    was_training = teacher.training
    teacher.to(device).eval()
    try:
        with torch.inference_mode():
            starts = range(0, len(views), batch)
            for start in tqdm(starts, desc=progress, unit="batch", leave=False, disable=progress is None):
                parts.append(_small(teacher.see(views.batch(slice(start, start + batch), device=device), strides)))
    finally:
        teacher.train(was_training)
    taught = Taught(
        logits=_stacked([one.logits for one in parts]),
        features=_stacked([one.features for one in parts]),
        maps={stride: np.concatenate([one.maps[stride].numpy() for one in parts]) for stride in strides},
        heat_maps=_stacked([one.heat_maps for one in parts]),
    )
    if folder is None:
        return taught
    _write(taught, folder, identity)
    kept = _read(folder, identity)
    assert kept is not None
    return kept


def target_of(taught: Taught | None, views: Views, like: HeatMapTarget) -> HeatMapTarget:
    """``like``, at the stride that the teacher's heat maps have, where it has any."""
    if taught is None or taught.heat_maps is None:
        return like
    return HeatMapTarget(views.size[0] // taught.heat_maps.shape[-1], like.sigma)


def _small(said: Outputs) -> Outputs:
    def half(values: Tensor | None) -> Tensor | None:
        return None if values is None else values.half().cpu()

    plain = {name: None if (v := getattr(said, name)) is None else v.float().cpu() for name in ("logits", "features")}
    maps = {stride: one.half().cpu() for stride, one in said.maps.items()}
    return Outputs(**plain, maps=maps, heat_maps=half(said.heat_maps))


def _stacked(parts: Sequence[Tensor | None]) -> np.ndarray | None:
    there = [one.numpy() for one in parts if one is not None]
    return np.concatenate(there) if there else None


def _identity(teacher: Learner, views: Views, strides: Sequence[int]) -> str:
    digest = hashlib.sha256(json.dumps(["taught 3", type(teacher).__name__, list(strides), _options(teacher)]).encode())
    for name, value in teacher.state_dict().items():
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    for part in fields(views):
        value = getattr(views, part.name)
        if value is not None and part.name != "labels":
            digest.update(part.name.encode() + str(value.shape).encode() + np.ascontiguousarray(value).tobytes())
    return digest.hexdigest()


def _options(teacher: Learner) -> list[tuple[str, str, Any]]:
    """What a teacher's parts were built with and no weight tells: how dark the outside of a region is, where gaze enters."""
    return [
        (place, name, value)
        for place, part in teacher.named_modules()
        for name, value in sorted(vars(part).items())
        if name not in _OF_THE_MOMENT and _is_plain(value)
    ]


def _is_plain(value: Any) -> bool:
    """A plain value, or some of them in a list or tuple, such as which logits are asked for."""
    if isinstance(value, list | tuple):
        return bool(value) and all(isinstance(one, bool | int | float | str) for one in value)
    return isinstance(value, bool | int | float | str)


def _write(taught: Taught, folder: Path, identity: str | None) -> None:
    arrays: dict[str, Any] = {name: getattr(taught, name) for name in ("logits", "features", "heat_maps")}
    arrays |= {f"map_{stride}": one for stride, one in taught.maps.items()}
    there = {name: value for name, value in arrays.items() if value is not None}
    try:
        with atomic_path(folder) as staged:
            staged.mkdir()
            for name, value in there.items():
                np.save(staged / f"{name}.npy", value)
            write_json(staged / "taught.json", {"identity": identity, "arrays": sorted(there)})
    except OSError:
        if _read(folder, identity) is None:  # else another process was first to say the same
            raise


def _read(folder: Path, identity: str | None) -> Taught | None:
    """What lies there whole; None where it answers something else, is damaged or is not there."""
    try:
        said = json.loads((folder / "taught.json").read_text(encoding="utf-8"))
        if said["identity"] != identity:
            return None
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in said["arrays"]}
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    maps = {int(name.removeprefix("map_")): value for name, value in arrays.items() if name.startswith("map_")}
    return Taught(maps=maps, **{name: value for name, value in arrays.items() if not name.startswith("map_")})
