"""The same extraction on Ray: blocks of clips go through ``map_batches`` of Ray Data over workers that keep the network.

A worker reads or decodes its clips, puts new frames into the frame cache (which all machines must reach under one path, as they
must the clips) and runs the very pass that runs here. Only features and times come back; heads, rows and parts are made here.
So the rows are those of a local run. On a CPU a worker has one core, as a unit of the queue has here.
"""

import dataclasses
import importlib.util
import logging
import os
import pickle
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...clips.cache import CachedClips, locked
from ...clips.shards import open_shards, remove_unfinished
from ...clips.streaming import ClipStream, Share
from ...errors import SonokitError
from .engines import Runtime, choose_runtime
from .forward import FeaturePass, Segments
from .models import Pass

_BLOCK_CLIPS = 64  # at most: their frames become one shard, and are what a kill can cost
_BLOCKS_A_WORKER = 8  # at least, for an even end
_log = logging.getLogger(__name__)


def require_ray() -> None:
    """Refuse to begin without Ray.

    Raises:
        SonokitError: It is not installed.
    """
    if importlib.util.find_spec("ray") is None:
        raise SonokitError("engine ray needs Ray, which is not installed: pip install 'sonokit[ray]', or say --engine local")


def ray_segments(
    one: Pass,
    clips: CachedClips | ClipStream,
    wanted: np.ndarray,
    *,
    runtime: Runtime,
    device: str | None,
    workers: int | None,
    used: dict[str, str],
) -> Generator[tuple[int, Segments]]:
    """Positions and segments (their clips without frames) of the clips at ``wanted`` that can be decoded, as they come.

    Args:
        one: The backbone and how clips are cut.
        clips: All clips.
        wanted: Positions, int64.
        runtime: What computes on a CPU.
        device: "cpu" or "cuda"; None: GPUs where the cluster has some.
        workers: How many; None: one a core, or one a GPU.
        used: Gets the names of device and runtime.

    Raises:
        SonokitError: A worker met a fault that a user can mend, or there is no such device in the cluster.
    """
    with _cluster(workers) as ray, ExitStack() as stack:
        kind, count = _device(ray.cluster_resources(), device, workers)
        chosen = choose_runtime(runtime, torch.device(kind))
        size = max(1, min(_BLOCK_CLIPS, len(wanted) // (_BLOCKS_A_WORKER * count)))
        blocks = [wanted[start : start + size] for start in range(0, len(wanted), size)]
        count = min(count, len(blocks))
        shares = _shares(clips, blocks, stack)
        setup = ray.put(pickle.dumps((one.backbone, one.plan, kind, chosen)))
        dataset = ray.data.from_items([{"share": pickle.dumps(share)} for share in shares], override_num_blocks=len(blocks))
        dataset = dataset.map_batches(
            _Worker, batch_size=1, concurrency=count, num_cpus=1, num_gpus=int(kind == "cuda"), fn_constructor_args=(setup,)
        )
        used |= {"device": kind, "runtime": chosen}
        for row in dataset.iter_rows():
            answer: _Answer = pickle.loads(row["answer"])
            if answer.fault:
                raise SonokitError(answer.fault)
            if answer.runtime != used["runtime"]:
                _log.warning("%s was not right on a Ray worker: %s was used there", chosen, answer.runtime)
                used["runtime"] = answer.runtime
            if isinstance(clips, ClipStream):
                clips.reject(answer.reasons)
            for position, segments in answer.found:
                if isinstance(clips, ClipStream):
                    clips.note(segments.clip)
                yield position, segments


@dataclasses.dataclass(frozen=True)
class _Answer:
    """What a worker made of a share."""

    found: list[tuple[int, Segments]]
    reasons: dict[str, str]
    runtime: str
    fault: str | None = None


class _Worker:
    """One process of the cluster; keeps the network from share to share."""

    def __init__(self, setup: Any) -> None:
        import ray

        backbone, plan, device, runtime = pickle.loads(ray.get(setup))
        if device == "cpu":
            torch.set_num_threads(1)
        self._features = FeaturePass(backbone, plan, torch.device(device), runtime)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[bytes]]:
        return {"answer": [pickle.dumps(self._answer(pickle.loads(share))) for share in batch["share"]]}

    def _answer(self, share: Share) -> _Answer:
        found: list[tuple[int, Segments]] = []
        try:
            with closing(self._features.numbered(share.over())) as results:
                for position, segments in results:
                    clip = dataclasses.replace(segments.clip, frames=segments.clip.frames[:0])
                    found.append((position, dataclasses.replace(segments, clip=clip)))
        except SonokitError as error:  # told by whoever started us, without this process's own trace
            return _Answer([], {}, self._features.runtime, str(error))
        return _Answer(found, share.reasons, self._features.runtime)


def _shares(clips: CachedClips | ClipStream, blocks: list[np.ndarray], stack: ExitStack) -> list[Share]:
    """The work as blocks; where something is to be decoded, the frame cache is locked until ``stack`` ends."""
    if not isinstance(clips, ClipStream):
        everything = np.arange(len(clips))
        return [Share(clips.select(np.isin(everything, block)), block, [], {}, Path(), clips.settings) for block in blocks]
    stored = open_shards(clips.shards, clips.settings.size)
    if (stored.find(clips.table["content_hash"].iloc[np.concatenate(blocks)]) < 0).any():
        stack.enter_context(locked(clips.shards))
        remove_unfinished(clips.shards)
        stored = open_shards(clips.shards, clips.settings.size)  # another process may have been at it
    return [clips.share(block, stored) for block in blocks]


def _device(resources: dict[str, float], device: str | None, workers: int | None) -> tuple[str, int]:
    """Kind of device and number of workers."""
    gpus = int(resources.get("GPU", 0))
    kind = device or ("cuda" if gpus else "cpu")
    if kind == "cuda" and not gpus:
        raise SonokitError("the Ray cluster has no GPU: leave --device out, or say --device cpu")
    return kind, workers or (gpus if kind == "cuda" else max(1, int(resources.get("CPU", 1))))


@contextmanager
def _cluster(workers: int | None) -> Iterator[Any]:
    """Ray, connected to the cluster of RAY_ADDRESS, or to one of this machine that ends with this; a running one is left."""
    require_ray()
    # read when Ray starts: it reports its use to its makers, and Ray Data has an error printed that is none (ray issue 57733)
    with _environment(RAY_USAGE_STATS_ENABLED="0", RAY_BACKEND_LOG_LEVEL="fatal"):
        import ray
        import ray.data

        mine = not ray.is_initialized()
        if mine:
            address = os.environ.get("RAY_ADDRESS")
            local: dict[str, Any] = {} if address else {"num_cpus": workers, "include_dashboard": False}
            ray.init(address or "local", logging_level=logging.ERROR, log_to_driver=False, **local)
    context = ray.data.DataContext.get_current()
    bars, context.enable_progress_bars = context.enable_progress_bars, False  # ours counts the clips
    logger = logging.getLogger("ray.data")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield ray
    finally:
        context.enable_progress_bars = bars
        logger.setLevel(level)
        if mine:
            ray.shutdown()


@contextmanager
def _environment(**defaults: str) -> Iterator[None]:
    """Within this, these variables have these values, unless somebody chose others."""
    ours = {name: value for name, value in defaults.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            del os.environ[name]
