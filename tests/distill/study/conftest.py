"""Tiny clips that a study can be made of: moving squares on grey noise, drawn in milliseconds."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sonokit.clips.cache import CacheSettings, prepare
from sonokit.clips.cached_clips import CachedClips
from sonokit.clips.manifest import read_manifest
from sonokit.clips.sampling import Sampling
from sonokit.clips.splits import Splits, make_splits
from sonokit.distill.study import distill as distill_module
from sonokit.distill.study import scoring
from sonokit.distill.study.asked import Asked, asked_classes
from sonokit.distill.study.distill import distill
from sonokit.distill.study.settings import DistillSettings, read_signal_words
from sonokit.distill.training.teachers import Source, open_source
from sonokit.evaluation.floors import MostFrequent
from sonokit.evaluation.probe import LabelledClips

PATIENTS, SIDE, FRAMES = 12, 40, 4
WIDTH, HEIGHT = 60, 40  # of the clips as recorded: the cache's squares have black rows above and below


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """manifest.csv, one clip a patient: class b has a bright square on the left, finding f2 one on the right."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "clips").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for number in range(PATIENTS):
        second, finding = number % 2, (number // 2) % 2
        frames = rng.integers(10, 70, (FRAMES, HEIGHT, WIDTH)).astype(np.uint8)
        if second:
            frames[:, 12:28, 6:22] += 150
        if finding:
            frames[:, 12:28, 38:54] += 150
        pictures = [Image.fromarray(frame) for frame in frames]
        pictures[0].save(folder / f"clips/c{number:02d}.gif", save_all=True, append_images=pictures[1:], duration=100)
        rows.append([f"clips/c{number:02d}.gif", f"c{number:02d}", f"p{number:02d}", "ab"[second], second, finding])
    columns = ["path", "clip_id", "patient_id", "kind", "f1", "f2"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "manifest.csv", index=False)
    return folder


@pytest.fixture(scope="session")
def clips(clip_folder: Path) -> CachedClips:
    """The same in the frame cache."""
    settings = CacheSettings(size=SIDE, sampling=Sampling(frames=FRAMES))
    return prepare(
        read_manifest(clip_folder / "manifest.csv", binary=("f1", "f2")), clip_folder / "cache", settings, progress=False
    )


TINY = DistillSettings(
    student="micro-10k", size=32, frames_per_clip=1, looks=2, epochs=2, teacher_epochs=1, batch=8, folds=2, draws=50
)
Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def tiny() -> DistillSettings:
    """Seconds a fold."""
    return TINY


@pytest.fixture(scope="session")
def asked(clips: CachedClips) -> Asked:
    """Which of two classes."""
    table = clips.table
    codes = (table["kind"] == "b").to_numpy(dtype=np.int64)
    ids, people = table["clip_id"].to_numpy(dtype=str), table["patient_id"].to_numpy(dtype=str)
    return asked_classes(clips, LabelledClips(ids, people, codes, ("a", "b"), np.full(len(ids), "")), "kind")


@pytest.fixture(scope="session")
def splits(clips: CachedClips) -> Splits:
    """Two folds."""
    people = clips.table["patient_id"].to_numpy(dtype=str)
    return make_splits(clips.table, people, label="kind", patient_column="patient_id", folds=2, seed=3)


@pytest.fixture(scope="session")
def finished(asked: Asked, splits: Splits, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A whole study with its page, and what it returned."""
    out = tmp_path_factory.mktemp("finished") / "out"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(scoring, "MetadataForest", _no_forest)
        return out, _run(asked, out, splits=splits)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """``distill``, without the forest and the pictures, which take longer than all that is tested here."""
    monkeypatch.setattr(scoring, "MetadataForest", _no_forest)
    monkeypatch.setattr(distill_module, "page", lambda report: "")
    return _run


def _run(asked: Asked, out: Path, *sources: Source, **options: Any) -> dict[str, Any]:
    settings = options.pop("settings", TINY)
    signals = options.pop("signals", None) or read_signal_words("labels=0.3,response=0.7")
    sources = sources or (open_source("micro-25k", asked.classes, asked.kind),)
    config = {"seed": settings.seed, "out": str(out)}
    return distill(asked, sources, out, settings, signals, config=config, device="cpu", **options)


def _no_forest(seed: int = 0) -> MostFrequent:
    return MostFrequent()
