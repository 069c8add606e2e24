"""Stores written by hand, so that what an expert should find in them is known."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sonokit.features.store import EmbeddingStore, StoreHeader, make_rows


def write_store(folder: Path, clips: pd.DataFrame, embeddings: np.ndarray, **header: Any) -> EmbeddingStore:
    """A store of clips [C] with embeddings [C, segments, D]; further columns of ``clips`` are labels."""
    count, segments, dimensions = embeddings.shape
    settings = {
        "fingerprint": "0123456789abcdef",
        "kind": "backbone",
        "model": "handmade",
        "dimensions": dimensions,
        "dtype": "float32",
    }
    settings |= header
    head = StoreHeader(**settings)
    rows = clips.loc[clips.index.repeat(segments)].reset_index(drop=True)
    rows["segment"] = np.tile(np.arange(segments), count)
    store = EmbeddingStore.create(folder, head)
    store.append(make_rows(head, rows, embeddings.reshape(count * segments, dimensions)))
    return store


def make_clips(patients: int = 30, per_patient: int = 2, classes: int = 3, sites: int = 3, seed: int = 0) -> pd.DataFrame:
    """Clips whose diagnosis goes by patient; severity is the same as a number, ratio falls with it."""
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(patients), per_patient)
    code = owner % classes
    return pd.DataFrame(
        {
            "clip_id": [f"clip-{k:03d}" for k in range(len(owner))],
            "content_hash": [f"{k:016x}" for k in range(len(owner))],
            "patient_id": [f"p{k:02d}" for k in owner],
            "site": [f"s{(k // classes) % sites}" for k in owner],
            "probe": np.where(owner % 5 == 0, "linear", "convex"),
            "container": np.where(rng.random(len(owner)) < 0.5, "mp4", "avi"),
            "frame_rate": rng.choice([25.0, 30.0], len(owner)),
            "diagnosis": np.array(["normal", "covid19", "pneumonia", "edema"])[code],
            "severity": code.astype(float),
            "binary": (code > 0).astype(float),
            "ratio": 450.0 - 100 * code + rng.normal(0, 5, len(owner)),
        }
    )


def embed(clips: pd.DataFrame, signal: float, dimensions: int = 16, segments: int = 3, seed: int = 1) -> np.ndarray:
    """Noise [C, segments, D] around a class mean of the given strength."""
    rng = np.random.default_rng(seed)
    codes = clips["severity"].to_numpy(dtype=int)
    directions = rng.normal(size=(codes.max() + 1, dimensions))
    place = signal * (directions[codes] + codes[:, None] * directions[0])
    return (place[:, None, :] + rng.normal(size=(len(clips), segments, dimensions))).astype(np.float32)


@pytest.fixture
def write() -> Callable[..., EmbeddingStore]:
    return write_store


@pytest.fixture
def clips() -> pd.DataFrame:
    return make_clips()


@pytest.fixture
def make() -> Any:
    return make_clips


@pytest.fixture
def embedding() -> Any:
    return embed


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> EmbeddingStore:
    """Sixty separable clips of thirty patients with a floor of noise; only read."""
    folder, clips = tmp_path_factory.mktemp("handmade") / "store", make_clips()
    made = write_store(folder, clips, embed(clips, 1.0))
    write_store(folder / "floor", clips, embed(clips, 0.0), fingerprint="f100f100f100f100")
    return made
