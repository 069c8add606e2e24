"""Pretraining: cached clips in, a backbone folder out.

The run folder holds ``config.yaml``, ``environment.json``, ``data.json`` (what tells these clips, patients and labels from
others), ``metrics.jsonl`` and ``metrics.csv`` (a line an epoch), ``events/`` (TensorBoard), ``last.ckpt`` (to go on from; safe
to delete once finished), and at the end the backbone (``backbones/folder.py``), whose ``config.json`` is the sign that the run
is finished.
"""

import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import MisconfigurationException  # type: ignore[attr-defined]

from ..atomic import write_json
from ..backbones.build import Backbone
from ..backbones.folder import open_backbone, save_backbone
from ..clips.augment import Operations, augment_named
from ..clips.cached_clips import CachedClips
from ..errors import SonokitError
from ..run_folder import require_same_config, write_config
from .data import PairDataset, PatientBatches
from .loop import Optimisation, PretrainLoop
from .monitor import CollapseGuard
from .objectives.build import OBJECTIVES, build_objective
from .objectives.objective import UNLABELLED
from .online_probe import OnlineProbe
from .pairs import NearbyFrames, pair_policy_named
from .provenance import data_fingerprint, provenance
from .record import CHECKPOINT, CheckpointFile, MetricsFile, ProgressBar
from .settings import Precision, PretrainSettings

_DATA = "data.json"
_REMEDY = "Choose another --out, or remove that folder."


def pretrain(
    clips: CachedClips,
    out: Path,
    settings: PretrainSettings,
    *,
    config: dict[str, Any],
    progress: bool = True,
    workers: int | None = None,
) -> Path:
    """Train a backbone on ``clips``; go on where an earlier run in ``out`` stopped, to the same weights bit for bit.

    With several ``devices`` or ``nodes`` Lightning starts this program once for each (or finds that torchrun or SLURM has done
    so); the negatives of all ranks are gathered, and only rank 0 writes.

    Args:
        clips: Of at least two patients (without patients, each clip counts as one).
        out: The run folder; on several machines, on a disk that they share.
        settings: What to do.
        config: The command's resolved options, kept as ``out/config.yaml``.
        progress: Show a bar on standard error.
        workers: Reading processes; by default none on a CPU, where they would take the cores from training, else four at most.
            They do not change the result.

    Returns:
        ``out``, which is a backbone folder now.

    Raises:
        SonokitError: Settings that cannot be met; ``out`` was begun with others or with other clips, or holds a backbone of
            another maker; the loss is no longer a number; or the embeddings have collapsed.
    """
    out = Path(out)
    require_same_config(out, config)
    finished, ours = (out / "config.json").exists(), (out / "config.yaml").exists()
    if finished and not ours:
        raise SonokitError(f"{out} holds a backbone that did not come from this command. Choose another --out.")
    data = data_fingerprint(clips, settings.label)
    _require_same_data(out, data)
    if finished:
        return out
    loop = _build_loop(clips, settings, _default_workers() if workers is None else workers)
    record = [MetricsFile(out, CollapseGuard(settings.objective)), CheckpointFile(out), ProgressBar(progress)]
    callbacks = [*_online_probe(clips, settings), *record]
    if is_first_process():
        write_config(out, config)
        write_json(out / _DATA, {"fingerprint": data, "clips": len(clips)})
    _fit(loop, out, settings, callbacks)
    if is_first_process():
        backbone = loop.objective.result.cpu().eval().to(memory_format=torch.contiguous_format)
        save_backbone(backbone, out, provenance=provenance(clips, settings))
    return out


def is_first_process() -> bool:
    """Whether this process speaks and writes for the run; false in the others of a distributed one."""
    return int(getattr(rank_zero_only, "rank", 0) or 0) == 0


def _fit(loop: PretrainLoop, out: Path, settings: PretrainSettings, callbacks: list[pl.Callback]) -> None:
    checkpoint = out / CHECKPOINT
    several = settings.devices * settings.nodes > 1
    with torch.random.fork_rng(), _quiet_lightning():
        trainer = _trainer(
            max_epochs=settings.epochs,
            accelerator="auto",
            devices=settings.devices,
            num_nodes=settings.nodes,
            strategy="ddp" if several else "auto",
            sync_batchnorm=several and torch.cuda.is_available(),  # torch has it for GPUs only
            precision=_lightning_precision(settings.precision),
            gradient_clip_val=settings.clip_norm or None,
            accumulate_grad_batches=settings.accumulate,
            logger=TensorBoardLogger(out, name="", version="events", purge_step=_steps_done(checkpoint)),
            callbacks=callbacks,
            enable_checkpointing=False,  # ours is atomic
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,  # ours knows ranks
            deterministic="warn" if torch.cuda.is_available() else None,
            default_root_dir=out,
        )
        try:
            trainer.fit(loop, ckpt_path=checkpoint if checkpoint.exists() else None, weights_only=True)
        except SystemExit as stop:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from stop
        except torch.OutOfMemoryError as fault:
            raise SonokitError(
                "the device has too little memory for this: lower --batch_size (--accumulate makes up for it) or --size"
            ) from fault
    if trainer.global_step < loop.optimisation.total_steps:
        raise KeyboardInterrupt


def encode_labels(column: pd.Series) -> tuple[np.ndarray, list[str]]:
    """Codes int64 (-1: unknown) and the class names in order.

    Raises:
        SonokitError: Fewer than two classes.
    """
    text = column.astype("string")
    codes, classes = pd.factorize(text, sort=True)
    if len(classes) < 2:
        raise SonokitError(f"label {column.name!r} has {len(classes)} known class(es) among these clips; two are needed")
    return codes.astype(np.int64), [str(c) for c in classes]


def _trainer(**options: Any) -> pl.Trainer:
    """Lightning's trainer.

    Raises:
        SonokitError: More devices than there are, or torchrun or SLURM has started another number of processes.
    """
    try:
        return pl.Trainer(**options)
    except (MisconfigurationException, ValueError) as fault:
        reason = " ".join(str(fault).split())
        raise SonokitError(f"training cannot start: {reason} Look at --devices and --nodes.") from fault


def _build_loop(clips: CachedClips, settings: PretrainSettings, workers: int) -> PretrainLoop:
    settings.check()
    ranks = settings.devices * settings.nodes
    patients = clips.manifest.group_codes()  # the same on every rank
    _require_two_patients(patients, settings)
    dealt = patients if settings.same_patient == "apart" else np.arange(len(clips))
    batches = PatientBatches(dealt, settings.batch_size, settings.seed, ranks=ranks)
    labels, classes = np.full(len(clips), UNLABELLED, dtype=np.int64), list[str]()
    if settings.label is not None:
        labels, classes = encode_labels(clips.manifest.labels(settings.label))
    policy = pair_policy_named(
        settings.pair_policy, alpha=settings.alpha, independent=settings.independent_lam, seconds=settings.pair_seconds
    )
    if isinstance(policy, NearbyFrames) and not clips.table["frame_rate"].notna().any():
        raise SonokitError("pairs nearby_frames need clips with a frame rate, and these are all stills; use two_views")
    backbone = open_backbone(
        settings.backbone, weights=settings.weights, seed=settings.seed, temporal_shift=settings.temporal_shift
    )
    _require_size(backbone, settings.size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        objective = build_objective(settings.method, backbone, len(classes))
    if settings.compile:
        objective.backbone.compile()
    mixed = _lightning_precision(settings.precision) != "32-true"
    steps = -(-len(batches) // settings.accumulate)  # of the optimiser, each epoch
    return PretrainLoop(
        objective.train().to(memory_format=torch.channels_last),  # a ResNet-18 step takes a quarter less on a CPU
        augment_named(
            settings.augment,
            settings.size,
            settings.augment_strength,
            operations=Operations(shadows=settings.shadows),
            mask_sector=settings.mask_sector,
        ),
        policy,
        PairDataset(clips, policy, labels, patients, settings.seed),
        batches,
        optimisation=Optimisation(
            learning_rate=settings.learning_rate,
            weight_decay=settings.weight_decay,
            warmup_steps=min(settings.warmup_epochs, settings.epochs // 2) * steps,
            total_steps=settings.epochs * steps,
            fused=not (mixed and settings.clip_norm),
        ),
        seed=settings.seed,
        workers=workers,
    )


def _require_two_patients(patients: np.ndarray, settings: PretrainSettings) -> None:
    """Without a second patient a method with negatives has nobody to push away, and would learn nothing without a word."""
    if OBJECTIVES[settings.objective].negatives and len(np.unique(patients)) < 2:
        raise SonokitError(
            "contrast needs clips of at least 2 patients, there are 1; add clips of others, or choose byol or dino"
        )


def _online_probe(clips: CachedClips, settings: PretrainSettings) -> list[pl.Callback]:
    if settings.probe_label is None:
        return []
    labels = clips.manifest.labels(settings.probe_label)
    encode_labels(labels)  # refuses a column that tells nothing
    return [OnlineProbe(clips, labels, clips.manifest.groups(), every=settings.probe_every, size=settings.size)]


def _lightning_precision(precision: Precision) -> Literal["32-true", "bf16-mixed", "16-mixed"]:
    """What is asked for in Lightning's words.

    Raises:
        SonokitError: fp16 without a GPU.
    """
    gpu = torch.cuda.is_available()
    if precision == "fp16" and not gpu:
        raise SonokitError("precision fp16 needs a GPU; on this machine use bf16 or 32")
    if precision == "fp16":
        return "16-mixed"
    if precision == "bf16" or (precision == "auto" and gpu and torch.cuda.is_bf16_supported()):
        return "bf16-mixed"
    return "32-true"


def _require_same_data(out: Path, fingerprint: str) -> None:
    """The manifest's name, which the config holds, does not tell whether its clips are still the same."""
    file = out / _DATA
    if file.exists() and json.loads(file.read_text(encoding="utf-8"))["fingerprint"] != fingerprint:
        raise SonokitError(f"{out} was begun with other clips, patients or labels than the manifest gives now. {_REMEDY}")


def _require_size(backbone: Backbone, size: int) -> None:
    was_training = backbone.training
    try:
        with torch.inference_mode():
            backbone.eval()(torch.zeros(1, backbone.in_chans, size, size))
    except (AssertionError, RuntimeError) as fault:
        raise SonokitError(f"{backbone.name} does not take images of {size} pixels: {str(fault).splitlines()[0]}") from fault
    finally:
        backbone.train(was_training)


def _steps_done(checkpoint: Path) -> int | None:
    if not checkpoint.exists():
        return None
    return int(torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)["global_step"])


def _default_workers() -> int:
    return min(4, (os.cpu_count() or 1) - 1) if torch.cuda.is_available() else 0


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Without Lightning's notes on hardware and on itself, and its advice on workers, which are chosen with care here."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*logging interval.*")
            warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")  # Lightning's own affair
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
