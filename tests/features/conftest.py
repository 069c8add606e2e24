"""What the feature tests share: small clips in memory whose brightness follows their labels, and a division of them."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sonokit.clips.cache import CachedClip, CacheSettings
from sonokit.clips.manifest import Manifest
from sonokit.clips.splits import Fold, Splits

torch.set_num_threads(1)

SIZE = 32


class MemoryClips:
    """Stands in for the frame cache; the same attributes, frames made from a seed."""

    def __init__(self, manifest, frames, *, size=SIZE):
        self.manifest = manifest
        self.settings = CacheSettings(size=size)
        self.rejected = pd.DataFrame({"clip_id": ["broken"], "path": ["broken.mp4"], "reason": ["the file is empty"]})
        self.frames = frames
        self.table = manifest.table.assign(
            content_hash=[hashlib.sha256(f.tobytes()).hexdigest() for f in frames],
            container="mp4",
            frame_rate=25.0,
            frame_count=[len(f) for f in frames],
            declared_count=[len(f) for f in frames],
        )

    def __len__(self):
        return len(self.frames)

    def __getitem__(self, i):
        frames = self.frames[i]
        row = self.table.iloc[i]
        times = np.arange(len(frames), dtype=np.float32) / 25
        return CachedClip(row["clip_id"], row["content_hash"], frames, times, 25.0, "mp4", len(frames), len(frames))

    def select(self, keep):
        kept = [f for f, k in zip(self.frames, keep, strict=True) if k]
        return MemoryClips(self.manifest.select(keep), kept, size=self.settings.size)

    def with_labels(self, **columns):
        manifest = dataclasses.replace(self.manifest, table=self.manifest.table.assign(**columns))
        return MemoryClips(manifest, self.frames, size=self.settings.size)


def make(patients=8, clips_per_patient=2, lengths=(16, 5, 1), seed=0):
    """Clips of two biomarkers: "bright" makes the frame bright, "split" makes its left half bright; some are unknown."""
    rng = np.random.default_rng(seed)
    count = patients * clips_per_patient
    bright, split = np.arange(count) % 2, np.arange(count) // clips_per_patient // 4 % 2
    frames = []
    for i in range(count):
        clip = rng.integers(0, 90, size=(lengths[i % len(lengths)], SIZE, SIZE))
        clip[:, :, : SIZE // 2] += 80 * split[i]
        frames.append((clip + 80 * bright[i]).astype(np.uint8))
    table = pd.DataFrame(
        {
            "path": [f"clip-{i}.mp4" for i in range(count)],
            "clip_id": [f"clip-{i:02d}" for i in range(count)],
            "patient_id": [f"patient-{i // clips_per_patient}" for i in range(count)],
            "site": "here",
            "bright": bright.astype(float),
            "split": np.where(np.arange(count) == 1, np.nan, split),
            "diagnosis": np.where(bright == 1, "ill", "well"),
        }
    )
    return MemoryClips(Manifest(table, Path(), "patient_id", Path("manifest.csv")), frames)


def deal(clips, folds=2, repeats=1, held_out=()):
    """Patients dealt out in turn; another turn for another repeat."""
    table = clips.table
    number = table["patient_id"].str.split("-").str[1].astype(int).to_numpy()
    parts = []
    for repeat in range(repeats):
        side = (number // (1 + repeat)) % folds
        for k in range(folds):
            test = table["clip_id"][(side == k) & ~table["patient_id"].isin(held_out)]
            parts.append(Fold(repeat, k, tuple(test)))
    held = tuple(table["clip_id"][table["patient_id"].isin(held_out)])
    patients = tuple(table["patient_id"])
    return Splits(tuple(table["clip_id"]), "bright", "patient_id", 0, tuple(parts), {}, held, patients)


@pytest.fixture
def make_clips():
    """The function that makes clips: (patients, clips_per_patient, lengths, seed)."""
    return make


@pytest.fixture
def divide():
    """The function that divides clips: (clips, folds, repeats, held_out)."""
    return deal


@pytest.fixture
def clips():
    return make()


@pytest.fixture(scope="session")
def backbone():
    from sonokit.backbones.build import build_backbone

    return build_backbone("test_resnet", seed=3).eval()


@pytest.fixture
def small_splits():
    return deal(make(patients=4, clips_per_patient=1))
