"""Pretraining: cached clips in, a backbone folder out.

The run folder holds ``config.yaml``, ``environment.json``, ``data.json`` (what tells these clips, patients and labels from
others), ``metrics.jsonl`` (a line an epoch), ``events/`` (TensorBoard), ``last.ckpt`` (to go on from; safe to delete once
finished), and at the end the backbone (``backbones/folder.py``), whose ``config.json`` is the sign that the run is finished.
"""

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger

from ..atomic import write_json
from ..backbones.build import Backbone
from ..backbones.folder import open_backbone, read_provenance, save_backbone
from ..clips.augment import augment_named
from ..clips.cached_clips import CachedClips
from ..errors import SonokitError
from ..run_folder import require_same_config, write_config
from .data import PairDataset, PatientBatches
from .loop import CHECKPOINT, CheckpointFile, MetricsFile, PretrainLoop, ProgressBar
from .objectives.uscl import UNLABELLED, USCL
from .pairs import pair_policy_named

_DATA = "data.json"
_REMEDY = "Choose another --out, or remove that folder."


@dataclass(frozen=True)
class PretrainSettings:
    """What decides a pretraining run.

    Attributes:
        backbone: A timm name or a backbone folder.
        weights: For a timm name: "none", "timm" or a local .safetensors file.
        size: Side of the training images in pixels.
        batch_size: Clips a step, each of another patient.
        epochs: Passes over the clips.
        learning_rate: Of AdamW, after the warm-up.
        weight_decay: Of AdamW; biases and scales have none.
        warmup_epochs: Linear warm-up, at most half of the run; then a cosine.
        pairs: "sample_pairs" (USCL) or "two_views" (SimCLR).
        alpha: Of the Beta distribution of sample pairs' coefficients.
        independent_lam: A coefficient for each view (the paper) instead of a shared one (the reference code).
        temperature: Of NT-Xent.
        label: A label column to learn from as well, where it is known; None uses no labels.
        label_weight: λ of its cross-entropy.
        classify: What the classifier sees: "projection" (the reference) or "features".
        augment: "ultrasound", "reference" or "none".
        augment_strength: Of "ultrasound".
        temporal_shift: Fraction of channels moved each way in clips (not used by frame pairs; kept in the backbone).
        seed: Of everything random.
    """

    backbone: str = "resnet18"
    weights: str = "none"
    size: int = 112
    batch_size: int = 32
    epochs: int = 100
    learning_rate: float = 3e-4
    weight_decay: float = 1e-4
    warmup_epochs: int = 5
    pairs: Literal["sample_pairs", "two_views"] = "sample_pairs"
    alpha: float = 0.5
    independent_lam: bool = False
    temperature: float = 0.5
    label: str | None = None
    label_weight: float = 0.2
    classify: Literal["projection", "features"] = "projection"
    augment: Literal["ultrasound", "reference", "none"] = "ultrasound"
    augment_strength: float = 1.0
    temporal_shift: float = 0.0
    seed: int = 0


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

    Args:
        clips: Of at least two patients (without patients, each clip counts as one).
        out: The run folder.
        settings: What to do.
        config: The command's resolved options, kept as ``out/config.yaml``.
        progress: Show a bar on standard error.
        workers: Reading processes; by default none on a CPU, where they would take the cores from training, else four at most.
            They do not change the result.

    Returns:
        ``out``, which is a backbone folder now.

    Raises:
        SonokitError: Settings that cannot be met; ``out`` was begun with others or with other clips, or holds a backbone of
            another maker; or the loss is no longer a number.
    """
    out = Path(out)
    require_same_config(out, config)
    finished, ours = (out / "config.json").exists(), (out / "config.yaml").exists()
    if finished and not ours:
        raise SonokitError(f"{out} holds a backbone that did not come from this command. Choose another --out.")
    data = _data_fingerprint(clips, settings)
    _require_same_data(out, data)
    if finished:
        return out
    loop = _build_loop(clips, settings, _default_workers() if workers is None else workers)
    write_config(out, config)
    write_json(out / _DATA, {"fingerprint": data, "clips": len(clips)})
    checkpoint = out / CHECKPOINT
    with torch.random.fork_rng(), _quiet_lightning():
        trainer = pl.Trainer(
            max_epochs=settings.epochs,
            accelerator="auto",
            devices=1,
            logger=TensorBoardLogger(out, name="", version="events", purge_step=_steps_done(checkpoint)),
            callbacks=[MetricsFile(out), CheckpointFile(out), ProgressBar(progress)],
            enable_checkpointing=False,  # ours is atomic
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            deterministic="warn" if torch.cuda.is_available() else None,
            default_root_dir=out,
        )
        try:
            trainer.fit(loop, ckpt_path=checkpoint if checkpoint.exists() else None, weights_only=True)
        except SystemExit as stop:  # what Lightning makes of Ctrl-C
            raise KeyboardInterrupt from stop
    if trainer.global_step < loop.optimisation["total_steps"]:
        raise KeyboardInterrupt
    assert isinstance(loop.objective.backbone, Backbone)
    backbone = loop.objective.backbone.cpu().eval().to(memory_format=torch.contiguous_format)
    save_backbone(backbone, out, provenance=_provenance(clips, settings))
    return out


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


def _build_loop(clips: CachedClips, settings: PretrainSettings, workers: int) -> PretrainLoop:
    _require_sane(settings)
    batches = PatientBatches(clips.manifest.groups(), settings.batch_size, settings.seed)
    labels, classes = np.full(len(clips), UNLABELLED, dtype=np.int64), list[str]()
    if settings.label is not None:
        labels, classes = encode_labels(clips.manifest.labels(settings.label))
    policy = pair_policy_named(settings.pairs, alpha=settings.alpha, independent=settings.independent_lam)
    backbone = open_backbone(
        settings.backbone, weights=settings.weights, seed=settings.seed, temporal_shift=settings.temporal_shift
    )
    _require_size(backbone, settings.size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        objective = USCL(
            backbone,
            len(classes),
            temperature=settings.temperature,
            label_weight=settings.label_weight,
            classify=settings.classify,
        )
    return PretrainLoop(
        objective.train().to(memory_format=torch.channels_last),  # a ResNet-18 step takes a quarter less on a CPU
        augment_named(settings.augment, settings.size, settings.augment_strength),
        policy,
        PairDataset(clips, policy, labels, settings.seed),
        batches,
        optimisation={
            "learning_rate": settings.learning_rate,
            "weight_decay": settings.weight_decay,
            "warmup_steps": min(settings.warmup_epochs, settings.epochs // 2) * len(batches),
            "total_steps": settings.epochs * len(batches),
        },
        seed=settings.seed,
        workers=workers,
    )


def _data_fingerprint(clips: CachedClips, settings: PretrainSettings) -> str:
    """16 hex digits that change with the clips, their order, their patients, or the labels that are learnt from."""
    labels = (
        clips.manifest.labels(settings.label).astype("string").fillna("") if settings.label is not None else [""] * len(clips)
    )
    rows = zip(clips.table["clip_id"], clips.table["content_hash"], clips.manifest.groups().tolist(), labels, strict=True)
    return hashlib.sha256(json.dumps(list(rows)).encode()).hexdigest()[:16]


def _require_same_data(out: Path, fingerprint: str) -> None:
    """The manifest's name, which the config holds, does not tell whether its clips are still the same."""
    file = out / _DATA
    if file.exists() and json.loads(file.read_text(encoding="utf-8"))["fingerprint"] != fingerprint:
        raise SonokitError(f"{out} was begun with other clips, patients or labels than the manifest gives now. {_REMEDY}")


def _require_sane(settings: PretrainSettings) -> None:
    at_least = {
        "epochs": 1,
        "size": 8,
        "seed": 0,
        "warmup_epochs": 0,
        "label_weight": 0,
        "augment_strength": 0,
        "weight_decay": 0,
    }
    faults = [
        f"{k} must be at least {v}, it is {getattr(settings, k)}" for k, v in at_least.items() if getattr(settings, k) < v
    ]
    faults += [f"{k} must be above 0" for k in ("learning_rate", "temperature") if not getattr(settings, k) > 0]
    if faults:
        raise SonokitError("; ".join(faults))


def _require_size(backbone: Backbone, size: int) -> None:
    was_training = backbone.training
    try:
        with torch.inference_mode():
            backbone.eval()(torch.zeros(1, backbone.in_chans, size, size))
    except (AssertionError, RuntimeError) as fault:
        raise SonokitError(f"{backbone.name} does not take images of {size} pixels: {str(fault).splitlines()[0]}") from fault
    finally:
        backbone.train(was_training)


def _provenance(clips: CachedClips, settings: PretrainSettings) -> dict[str, Any]:
    """What the weights have seen, including what the backbone that they began from had seen."""
    folder = Path(settings.backbone)
    before = read_provenance(folder) if (folder / "config.json").exists() else {}
    uses_labels = settings.label is not None and settings.label_weight > 0
    table, manifest = clips.table, clips.manifest
    own = dict(zip(table["clip_id"], table["content_hash"], strict=True))
    # another study's clip of the same name stays on the list: whether a clip was seen is told by its content
    earlier = {
        name if own.get(name, content) == content else f"{name} ({content[:16]})": content
        for name, content in before.get("training_clips", {}).items()
    }
    patients = set(manifest.groups()) if manifest.patient_column is not None else set()
    return {
        "fitted_on_labels": uses_labels or bool(before.get("fitted_on_labels", False)),
        "labels": sorted({*before.get("labels", []), *([settings.label] if uses_labels else [])}),
        "training_clips": {**earlier, **own},
        "training_patients": sorted({*before.get("training_patients", []), *map(str, patients)}),
        "method": "USCL" if settings.pairs == "sample_pairs" else "SimCLR",
        "began_from": f"{folder.name}, weights {Path(settings.weights).name}",  # names only: cards are published
        "epochs": settings.epochs,
        "image_size": settings.size,
        "seed": settings.seed,
    }


def _steps_done(checkpoint: Path) -> int | None:
    if not checkpoint.exists():
        return None
    return int(torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)["global_step"])


def _default_workers() -> int:
    return min(4, (os.cpu_count() or 1) - 1) if torch.cuda.is_available() else 0


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Without Lightning's notes on hardware, and its advice on workers, which are chosen with care here."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "pytorch_lightning.utilities.rank_zero")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            warnings.filterwarnings("ignore", message=".*logging interval.*")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
