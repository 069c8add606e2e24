"""Hospitals made by hand: what their stores hold, and what an expert of one must find in another, is known."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sonokit.evaluation.nested import inner_out_of_fold
from sonokit.evaluation.predictions import Predictions
from sonokit.evaluation.readout import ReadoutSettings, readout_of
from sonokit.experts.external.reference import make_reference
from sonokit.experts.folder import Expert
from sonokit.experts.heads import make_head
from sonokit.experts.recipes import clip_features, clip_table
from sonokit.features.store import EmbeddingStore, StoreHeader, make_rows

Hospital = Callable[..., EmbeddingStore]
FitHere = Callable[..., Expert]

_DIMENSIONS = 8


@pytest.fixture(scope="session")
def hospital(tmp_path_factory: pytest.TempPathFactory) -> Hospital:
    """Write a store of patients whose binary finding moves the first dimension by ``signal``, and all of them by ``shift``."""

    def write(
        name: str, patients: int = 60, *, signal: float = 2.0, shift: float = 0.0, share: float = 0.5, seed: int = 0,
        per_patient: int = 2, segments: int = 2, prefix: str | None = None,
        fingerprint: str = "0123456789abcdef", base: float = 0.0, **columns: Any,
    ) -> EmbeddingStore:  # fmt: skip
        rng = np.random.default_rng(seed)
        owner = np.repeat(np.arange(patients), per_patient)
        sick = (rng.random(patients) < share)[owner]
        own = rng.normal(size=(patients, _DIMENSIONS))[owner]  # what the clips of a patient share
        place = own + 0.5 * rng.normal(size=(len(owner), _DIMENSIONS))
        place[:, 0] += signal * (2 * sick - 1)
        place[:, 1:] += base
        place[:, -1] += shift
        prefix = prefix or name
        clips = pd.DataFrame(
            {
                "clip_id": [f"{prefix}-{k:03d}" for k in range(len(owner))],
                "content_hash": [f"{prefix}{k:012x}" for k in range(len(owner))],
                "patient_id": [f"{prefix}-p{k:03d}" for k in owner],
                "site": name, "probe": np.where(owner % 3 == 0, "linear", "convex"), "container": "mp4", "frame_rate": 25.0,
                "finding": np.where(sick, "ill", "well"), "amount": own[:, 0] + 2 * place[:, 0],
                **columns,
            }
        )  # fmt: skip
        header = StoreHeader(
            fingerprint=fingerprint, kind="backbone", model="handmade", dimensions=_DIMENSIONS, dtype="float32"
        )
        rows = clips.loc[clips.index.repeat(segments)].reset_index(drop=True)
        rows["segment"] = np.tile(np.arange(segments), len(clips))
        embeddings = np.repeat(place, segments, axis=0) + 0.1 * rng.normal(size=(len(rows), _DIMENSIONS))
        store = EmbeddingStore.create(tmp_path_factory.mktemp("hospital") / name, header)
        store.append(make_rows(header, rows, embeddings))
        return store

    return write


@pytest.fixture(scope="session")
def fit_here() -> FitHere:
    """A linear expert with readout and reference, as fit-expert makes it, from one division of the patients."""

    def fit(
        store: EmbeddingStore,
        label: str = "finding",
        recipe: str = "mean",
        draws: int = 100,
        **settings: Any,
    ) -> Expert:
        table = clip_table(store)
        regression = label == "amount"
        task = "regression" if regression else "classification"
        classes = () if regression else tuple(sorted(table[label].unique()))
        truth = table[label].to_numpy() if regression else table[label].map({name: k for k, name in enumerate(classes)})
        truth = np.asarray(truth, dtype=np.float64 if regression else np.int64)
        patients, features = table["patient_id"].to_numpy(dtype=str), clip_features(store, recipe)
        inputs, names = features.rows(table["clip_id"].to_numpy(dtype=str)), table["clip_id"].to_numpy(dtype=str)
        values = inner_out_of_fold(
            lambda: make_head(("linear",), task), inputs, truth, patients, task=task, class_count=len(classes)
        )
        found = Predictions(task, classes, names, patients, truth, values[None])
        head = make_head(("linear",), task).fit(inputs, truth, groups=patients)
        reference = make_reference(
            store, names, patients, truth, classes, inputs, found, names=features.names, draws=draws, **settings
        )
        return Expert(
            label, task, classes, recipe, store.header, head, readout_of(found, ReadoutSettings()), reference=reference
        )

    return fit


@pytest.fixture(scope="session")
def home(hospital: Hospital) -> EmbeddingStore:
    """Sixty patients, two clips each; only read."""
    return hospital("home")


@pytest.fixture(scope="session")
def expert(home: EmbeddingStore, fit_here: FitHere) -> Expert:
    return fit_here(home)


@pytest.fixture
def folder(expert: Expert, tmp_path: Path) -> Path:
    from sonokit.experts.folder import save_expert

    (tmp_path / "expert").mkdir()
    save_expert(expert, tmp_path / "expert")
    return tmp_path / "expert"
