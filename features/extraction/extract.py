"""Clips through a model into embedding stores; what is there already is not done again, nor even decoded.

Whatever stops a run, what it has done is kept: rows go to disk in whole parts, and a clip is done when its content is there.
The rows do not depend on how often the work was interrupted, nor on which processes did it. Two processes may fill one store;
what both did is there once. What the manifest newly says of clips that are done (a mended label) is brought into their rows.
"""

import tempfile
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from tqdm import tqdm

from ...backbones.build import Backbone
from ...clips.cache import CachedClip, CachedClips
from ...clips.splits import Splits, write_splits
from ...clips.streaming import ClipStream
from ...errors import SonokitError
from ...run_folder import environment
from ..search.index import build_index, index_is_current
from ..store import EmbeddingStore
from ..store.files import as_folder, put_bytes, put_json
from ..store.rows import StoreHeader
from .engines import Runtime, choose_runtime
from .filling import Filler, clip_details
from .forward import FeaturePass, Segments, choose_device
from .models import ExtractionChoices, OpenedModel, Pass, open_model, random_twin

_BEGUN = (".", "fold-", "final", "floor")  # all that a run which was killed at once may have left
_WORTH_COMPILING = 320  # frames: for fewer torch is done before another runtime is ready, or nearly so


def extract_features(
    clips: CachedClips | ClipStream,
    model: str | Path | Backbone,
    out: str | Path,
    *,
    segments: int | None = None,
    segment_frames: int | None = None,
    floor: bool = False,
    dtype: Literal["float16", "float32"] = "float16",
    weights: str | Path = "none",
    seed: int = 0,
    device: str | None = None,
    runtime: Runtime = "auto",
    engine: Literal["local", "ray"] = "local",
    ray_workers: int | None = None,
    config: dict[str, Any] | None = None,
    progress: bool = True,
) -> Path:
    """Fill the store, or for an extractor set the store set, in ``out``.

    Args:
        clips: Cached clips, or a stream, of which those that the store lacks are decoded while others are worked on; those that
            could not be decoded are listed in ``out/rejected.csv``.
        model: A timm name, a backbone folder, an extractor folder, an extractor set, or a backbone in memory that has seen no
            labels.
        out: The folder to make, or to add to.
        segments: Rows a clip at most, see :class:`~sonokit.features.extractors.biomarkers.SegmentPlan`; None: an extractor's
            own, 16 for a backbone.
        segment_frames: Frames a row; None: an extractor's own, 1 for a backbone.
        floor: Also fill ``out/floor`` through the same network with random weights.
        dtype: Of the embeddings.
        weights: For a timm name: "none" (random), "timm" or a .safetensors file.
        seed: Of random weights.
        device: "cpu" or "cuda"; None: a GPU where there is one.
        runtime: What computes on a CPU. "auto": OpenVINO or ONNX Runtime where one is installed and the clips are many enough.
        engine: "local": here. "ray": on a Ray cluster, the one of RAY_ADDRESS or one of this machine.
        ray_workers: Of Ray; None: one a core of the cluster, on GPUs one a GPU.
        config: The command's resolved options, for config.yaml.
        progress: Show bars.

    Returns:
        ``out``.

    Raises:
        SonokitError: No clip could be decoded, ``out`` holds something else, model, clips and choices do not go together, or a
            package is missing.
    """
    out = as_folder(out)
    if not len(clips):
        raise SonokitError("none of the manifest's clips could be decoded; rejected.csv in the frame cache says why")
    forward = _Forward(clips, device, runtime, engine, ray_workers)
    opened = open_model(model, clips, ExtractionChoices(segments, segment_frames, dtype, weights, seed))
    passes = [*opened.passes, *([random_twin(opened, seed)] if floor else [])]
    for one in passes:
        for target in one.targets:
            _require_free_names(clips, target.header)
    _require_kind(out, opened)
    stores = [[EmbeddingStore.create(out / t.place, t.header) for t in one.targets] for one in passes]  # refuses others' stores
    if opened.splits is not None:
        _write_set(out, opened.splits)
    if config is not None:
        put_bytes(out / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True).encode())
    try:
        for one, its_stores in zip(passes, stores, strict=True):
            _run_pass(one, its_stores, clips, forward, progress)
    finally:
        put_bytes(out / "rejected.csv", clips.rejected.to_csv(index=False, lineterminator="\n").encode())
        if config is not None:
            put_json(out / "environment.json", {**environment(), "forward": forward.used})
    if isinstance(clips, ClipStream):
        clips.finish()
    _finish(stores)
    return out


class _Forward:
    """Where and in what the backbone runs; the choice is made once for all passes.

    Attributes:
        used: Names of engine, device and runtime, as far as known.
    """

    def __init__(
        self, clips: CachedClips | ClipStream, device: str | None, runtime: Runtime, engine: str, ray_workers: int | None
    ) -> None:
        if engine not in ("local", "ray"):
            raise SonokitError(f"engine must be local or ray, it is {engine!r}")
        self._clips, self._runtime, self._engine, self._workers = clips, runtime, engine, ray_workers
        self._device_name = device
        self.used = {"engine": engine}
        if ray_workers is not None and (engine == "local" or ray_workers < 1):
            raise SonokitError("ray_workers counts the workers of engine ray: at least 1, and nothing for engine local")
        if engine == "local":
            choose_runtime(runtime, choose_device(device))  # told before hours of work
        else:
            from .ray_extract import require_ray

            require_ray()

    def over(self, one: Pass, wanted: np.ndarray) -> Generator[tuple[int, Segments]]:
        """Positions and segments of the clips at ``wanted`` that can be decoded."""
        runtime = self._resolved(one)
        if self._engine == "ray":
            from .ray_extract import ray_segments

            return ray_segments(
                one, self._clips, wanted, runtime=runtime, device=self._device_name, workers=self._workers, used=self.used
            )
        return _local_segments(one, self._clips, wanted, choose_device(self._device_name), runtime, self.used)

    def _resolved(self, one: Pass) -> Runtime:
        """Decided by all clips, not by those that are left: a resumed run must go on as it began."""
        frames = len(self._clips) * one.plan.segments * one.plan.frames
        return "torch" if self._runtime == "auto" and frames < _WORTH_COMPILING else self._runtime


def _local_segments(
    one: Pass,
    clips: CachedClips | ClipStream,
    wanted: np.ndarray,
    device: torch.device,
    runtime: Runtime,
    used: dict[str, str],
) -> Generator[tuple[int, Segments]]:
    features = FeaturePass(one.backbone, one.plan, device, runtime)
    with closing(features.numbered(_clips_at(clips, wanted))) as results:
        yield from results
    used |= {"device": device.type, "runtime": features.runtime}


def _clips_at(clips: CachedClips | ClipStream, wanted: np.ndarray) -> Generator[tuple[int, CachedClip]]:
    if isinstance(clips, ClipStream):
        return clips.over(wanted)
    return ((i, clips[i]) for i in wanted.tolist())


def _run_pass(
    one: Pass, stores: list[EmbeddingStore], clips: CachedClips | ClipStream, forward: _Forward, progress: bool
) -> None:
    details = clip_details(clips)
    fillers = [Filler(store, target, details) for store, target in zip(stores, one.targets, strict=True)]
    wanted = np.flatnonzero(np.any([f.missing for f in fillers], axis=0))
    if not len(wanted):
        return
    names = ", ".join(t.place for t in one.targets if t.place) or one.backbone.name
    try:
        with (
            tqdm(total=len(wanted), desc=f"features ({names})", unit="clip", disable=not progress) as bar,
            closing(forward.over(one, wanted)) as results,
        ):
            for position, segments in results:
                for filler in fillers:
                    filler.add(position, segments)
                bar.update()
    finally:  # also after Ctrl-C: what is done is kept
        for filler in fillers:
            filler.flush()


def _finish(stores: list[list[EmbeddingStore]]) -> None:
    for store in (store for its_stores in stores for store in its_stores):
        store.update_counts()
        if not index_is_current(store):
            build_index(store)


def _require_kind(out: Path, opened: OpenedModel) -> None:
    """Refuse a folder that holds a set where a store is made, or the other way round."""
    ours = (out / "store.json").exists() or (out / "set.json").exists()
    strangers = [] if ours or not out.is_dir() else sorted(p.name for p in out.iterdir() if not p.name.startswith(_BEGUN))
    if strangers:
        raise SonokitError(f"{out} holds other things ({', '.join(strangers[:3])} …) and is no store; choose another --out")
    if opened.splits is None:
        if (out / "set.json").exists():
            raise SonokitError(f"{out} holds a set of stores or extractors, this model makes one store; choose another --out")
        return
    if (out / "store.json").exists():
        raise SonokitError(f"{out} holds a single store, an extractor set makes one a fold; choose another --out")


def _write_set(out: Path, splits: Splits) -> None:
    """What makes a folder a store set."""
    with tempfile.TemporaryDirectory() as folder:  # ``out`` may be a URL
        write_splits(splits, Path(folder, "splits.json"))
        put_bytes(out / "splits.json", Path(folder, "splits.json").read_bytes())
    values = {"kind": "store-set", "splits_fingerprint": splits.fingerprint(), "folds": len(splits.folds)}
    put_json(out / "set.json", values)


def _require_free_names(clips: CachedClips | ClipStream, header: StoreHeader) -> None:
    reserved = set(header.fixed_schema().names) - {"clip_id", "patient_id", "site", "probe"}
    taken = sorted(reserved & set(clips.manifest.table.columns))
    if taken:
        raise SonokitError(
            f"{clips.manifest.source} has columns whose names the store needs for itself: {', '.join(taken)}; rename them there"
        )
