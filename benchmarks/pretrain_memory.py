"""How much memory a million clips need: opened as ``sonokit pretrain`` opens them, then an epoch of pairs.

    python benchmarks/pretrain_memory.py [--clips 1000000] [--read 100000] [--folder FOLDER]

Generated are, in a temporary folder: a manifest (Parquet), a file for every clip of it (empty: it is asked for its size and
date, and never read), the memory of which content lies behind which path, and the frame cache, laid out as ``sonokit prepare``
lays it out for 16 frames of 224 pixels: 80 clips a shard, each shard with its index. The shards are sparse files, 800 GB to
whoever asks and next to nothing on the disk, so that all frames are black; reading them takes the same maps and the same pages.

Reported, in GB of resident memory: ``peak_gb`` of opening and reading, all libraries and every page of a mapped file among it;
``own_peak_gb`` without the pages of mapped files (libraries, shards), which the system takes back at will; ``libraries_gb`` of
that before anything is opened; ``open_gb`` once open; ``epoch_growth_gb``, and for mapped pages ``epoch_growth_mapped_gb``,
between the first tenth of the reading and its end; ``worker_gb`` that a reading process has for itself. And ``open_s`` until
the first batch could be asked for, ``manifest_s`` of it for reading and checking the manifest. The last line is the result, as
JSON.
"""

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from threading import Event, Thread
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet

SIZE, FRAMES = 224, 16  # what prepare does unless told otherwise
CLIPS_A_SHARD = 80  # 64 MB
CLIPS_A_PATIENT = 10
BATCH = 64
GOALS = {"peak_gb": 2.0, "epoch_growth_gb": 0.1}


def main() -> None:
    """Generate in one process, measure in another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--read", type=int, default=100_000, help="clips of the epoch that are read")
    parser.add_argument("--folder", type=Path, help="keep the generated files here, and use them again")
    parser.add_argument("--only-generate", action="store_true")
    options = parser.parse_args()
    if options.only_generate:
        generate(options.folder, options.clips)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "manifest.parquet").exists():
            command = [sys.executable, __file__, "--only-generate", "--folder", str(folder), "--clips", str(options.clips)]
            subprocess.run(command, check=True)  # in a process of its own: what it needs is not measured
        figures = measure(folder, options.read)
    print(json.dumps({"name": "pretrain_memory", "figures": figures, "goals": GOALS, "against": {}}))


def generate(folder: Path, clips: int) -> None:
    """Write the manifest, the clips' files, and the cache that ``prepare`` would have made of them."""
    from sonokit.clips.cached_clips import CacheSettings

    rng = np.random.default_rng(0)
    rows = np.arange(clips)
    patients = rng.integers(0, max(2, clips // CLIPS_A_PATIENT), clips)
    paths = pd.Series([f"site-{p % 100:02d}/patient-{p:06d}/clip-{i:07d}.mp4" for p, i in zip(patients, rows, strict=True)])
    content = pd.Series([rng.bytes(32).hex() for _ in rows])
    stamps = _make_sources(folder, paths)
    located = str(folder.absolute()) + "/" + paths
    cache = folder / "cache"
    _make_shards(cache / CacheSettings().key, content, rng)
    pd.DataFrame({"path": located, "stamp": stamps, "content_hash": content}).to_parquet(cache / "sources.parquet", index=False)
    columns = {
        "path": paths,
        "patient_id": pd.Series(patients).map("P{:06d}".format),
        "site": pd.Series(patients % 100).map("site-{:02d}".format),
        "probe": np.where(rng.random(clips) < 0.5, "convex", "linear"),
        "diagnosis": rng.choice(["healthy", "pneumonia", None], clips),
        "b_lines": rng.choice([0.0, 1.0, np.nan], clips),
    }
    pd.DataFrame(columns).to_parquet(folder / "manifest.parquet", index=False)


def _make_sources(folder: Path, paths: pd.Series) -> list[str]:
    for place in sorted({path.rpartition("/")[0] for path in paths}):
        (folder / place).mkdir(parents=True, exist_ok=True)
    stamps = []
    for path in paths:
        file = folder / path
        file.touch()
        stamps.append(f"0-{file.stat().st_mtime_ns}")
    return stamps


def _make_shards(shards: Path, content: pd.Series, rng: np.random.Generator) -> None:
    from sonokit.clips.shards import INDEX_SCHEMA

    shards.mkdir(parents=True)
    clip_bytes = FRAMES * SIZE**2
    order = rng.permutation(len(content))  # decoders finish in no order
    for start in range(0, len(order), CLIPS_A_SHARD):
        rows = order[start : start + CLIPS_A_SHARD]
        name = f"shard-{rng.bytes(16).hex()}"
        with open(shards / f"{name}.bin", "wb") as file:
            file.truncate(len(rows) * clip_bytes)
        table = {
            "content_hash": content.iloc[rows].tolist(),
            "shard": [name] * len(rows),
            "offset": (np.arange(len(rows)) * clip_bytes).tolist(),
            "indices": [np.sort(rng.choice(200, FRAMES, replace=False)).tolist() for _ in rows],
            "container": ["mp4"] * len(rows),
            "frame_rate": [30.0] * len(rows),
            "frame_count": [200] * len(rows),
            "declared_count": [200] * len(rows),
        }
        pa.parquet.write_table(pa.Table.from_pydict(table, schema=INDEX_SCHEMA), shards / f"{name}.parquet")


def measure(folder: Path, read: int) -> dict[str, float]:
    """Open the generated clips and read ``read`` of them; gigabytes and seconds."""
    import sonokit.pretrain.run  # noqa: F401  # all that a run imports: torch, lightly, Lightning, timm
    from sonokit.clips.cache import CacheSettings, prepare
    from sonokit.clips.manifest import read_manifest
    from sonokit.pretrain.data import PairDataset, PatientBatches, pair_loader
    from sonokit.pretrain.pairs import SamplePairs

    with _watched() as memory:
        figures = {"libraries_gb": memory.own()}
        start = time.perf_counter()
        manifest = read_manifest(folder / "manifest.parquet")
        figures["manifest_s"] = time.perf_counter() - start
        clips = prepare(manifest, folder / "cache", CacheSettings(), progress=False)
        del manifest
        patients = clips.manifest.group_codes()
        batches = PatientBatches(patients, BATCH, seed=0)
        dataset = PairDataset(clips, SamplePairs(), np.full(len(clips), -1), patients, seed=0)
        figures["open_s"] = time.perf_counter() - start
        gc.collect()
        figures["open_gb"] = memory.own()
        steps = min(len(batches), read // BATCH)
        start, seen, before = time.perf_counter(), 0, (0.0, 0.0)
        for step, batch in enumerate(islice(pair_loader(dataset, batches), steps)):
            seen += len(batch["clips"])
            if step == steps // 10:
                before = memory.own(), memory.mapped()
        figures["pairs_per_s"] = seen / (time.perf_counter() - start)
        figures["epoch_growth_gb"] = memory.own() - before[0]
        figures["epoch_growth_mapped_gb"] = memory.mapped() - before[1]
        figures["peak_gb"], figures["own_peak_gb"] = memory.peak("rss"), memory.peak("own")
    figures["worker_gb"] = _worker_memory(pair_loader(dataset, batches, workers=2), steps // 10)
    return {name: round(value, 3) for name, value in figures.items()} | {"clips": len(clips), "pairs_read": seen}


@contextmanager
def _watched() -> Iterator[SimpleNamespace]:
    """This process's memory, in GB, and the most that there was of it, looked at fifty times a second."""
    process, done, most = psutil.Process(), Event(), {"own": 0, "rss": 0}

    def look() -> None:
        while not done.wait(0.02):
            about = process.memory_info()
            most["own"] = max(most["own"], about.rss - about.shared)
            most["rss"] = max(most["rss"], about.rss)

    thread = Thread(target=look, daemon=True)
    thread.start()
    yield SimpleNamespace(
        own=lambda: (process.memory_info().rss - process.memory_info().shared) / 1e9,
        mapped=lambda: process.memory_info().shared / 1e9,
        peak=lambda which: most[which] / 1e9,
    )
    done.set()
    thread.join()


def _worker_memory(loader: Any, steps: int) -> float:
    """GB that a reading process has for itself after ``steps`` batches, without what it shares with this one."""
    reading = iter(loader)
    for _ in islice(reading, steps):
        pass
    return max(child.memory_full_info().uss for child in psutil.Process().children()) / 1e9


if __name__ == "__main__":
    main()
