"""Searching a million rows of 128 numbers: the index that sonokit chooses at that size, beside comparing everything.

    python benchmarks/search.py [--rows 1000000] [--rounds 5] [--folder FOLDER]

The bank is a seeded mixture of 1,000 Gaussians (centres from N(0, 1) in every direction, and as much again around each), one
row a clip, written as a store in 20 parts through ``make_rows`` and ``append`` and indexed by ``build_index``. The queries are
fresh draws of the same mixture, never rows of the bank. Each stage runs in a process of its own:

- ``build_gb``: the most resident memory while the index is built, libraries and mapped pages among it; ``build_s``.
- ``open_s``: opening the store and its index, the libraries being there; ``resident_mb`` after 64 queries, libraries and mapped
  pages among it (``libraries_mb`` of that before).
- ``times_1``, ``times_64``, ``times_1024``: seconds that exact ``faiss.IndexFlatIP`` needs for a batch of so many queries, for
  10 neighbours each, by the seconds of ``search_many``, which also compares again what the index finds, leaves out repeated
  clips, and gives row_ids. The same threads, taken in turn, median of the rounds.
- ``recall``: the share of the 10 truly nearest rows that is among the 10 found, over 1,024 queries.

The last line is the result, as JSON.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

DIMENSIONS, GAUSSIANS, SPREAD = 128, 1000, 1.0
PARTS, CLIPS_A_PATIENT = 20, 10
BATCHES, K = (1, 64, 1024), 10
SINGLE = 32  # queries one by one a round
GOALS = {
    "times_1": 20.0, "times_64": 20.0, "times_1024": 5.0, "recall": 0.95, "build_gb": 4.0, "open_s": 1.0, "resident_mb": 300.0,
}  # fmt: skip


def main() -> None:
    """Generate, build, open and compare, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="keep the store here, and use it again")
    parser.add_argument("--kind", default="auto", help="another kind of index than the one that is chosen by size")
    parser.add_argument("--stage", choices=list(STAGES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        print(json.dumps(STAGES[options.stage](options)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        options.folder = options.folder or Path(temporary)
        figures = {}
        for stage in STAGES:
            figures |= _in_its_own_process(stage, options)
            print(f"{stage}: done", file=sys.stderr, flush=True)
    against = {f"times_{b}": f"faiss.IndexFlatIP, {b} queries at once" for b in BATCHES} | {"recall": "faiss.IndexFlatIP"}
    print(json.dumps({"name": "search", "figures": figures, "goals": GOALS, "against": against}))


def generate(options: argparse.Namespace) -> dict[str, float]:
    """Write the store, and the queries beside it."""
    import pandas as pd
    from sonokit.features.store import EmbeddingStore, StoreHeader, make_rows

    if (options.folder / "queries.npy").exists():
        return {}
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(GAUSSIANS, DIMENSIONS)).astype(np.float32)
    header = StoreHeader(fingerprint="mixture", kind="backbone", model="mixture of Gaussians", dimensions=DIMENSIONS)
    store = EmbeddingStore.create(options.folder / "store", header)
    for part in np.array_split(np.arange(options.rows), PARTS):
        rows = pd.DataFrame({"clip_id": [f"clip-{n:07d}" for n in part], "content_hash": [rng.bytes(32).hex() for _ in part]})
        rows["patient_id"] = [f"patient-{n // CLIPS_A_PATIENT:06d}" for n in part]
        rows["site"] = [f"site-{n % 7}" for n in part]
        rows = rows.assign(segment=0, probe="convex", start_s=0.0, end_s=2.0, b_lines=rng.integers(0, 2, len(part)) * 1.0)
        store.append(make_rows(header, rows, draw(len(part), centres, rng)))
    np.save(options.folder / "queries.npy", draw(max(BATCHES), centres, np.random.default_rng(1)))
    return {}


def draw(count: int, centres: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Points of the mixture, float32 [count, D]."""
    around = rng.standard_normal((count, DIMENSIONS), dtype=np.float32)
    return centres[rng.integers(0, len(centres), count)] + SPREAD * around


def build(options: argparse.Namespace) -> dict[str, float]:
    """Build the index."""
    from sonokit.features.search.index import build_index
    from sonokit.features.store import EmbeddingStore

    start = time.perf_counter()
    build_index(EmbeddingStore.open(options.folder / "store"), options.kind)
    return {"build_s": round(time.perf_counter() - start, 1), "build_gb": round(_status("VmHWM") / 1e9, 3)}


def open_and_ask(options: argparse.Namespace) -> dict[str, float]:
    """Open the index and put 64 queries to it."""
    import faiss  # noqa: F401
    from sonokit.features.search import search_many
    from sonokit.features.search.index import open_index
    from sonokit.features.store import EmbeddingStore

    queries = np.load(options.folder / "queries.npy")[:64]
    libraries = _status("VmRSS")
    start = time.perf_counter()
    index = open_index(EmbeddingStore.open(options.folder / "store"))
    seconds = time.perf_counter() - start
    search_many(index, queries, K)
    resident = _status("VmRSS")
    return {
        "open_s": round(seconds, 3),
        "resident_mb": round(resident / 1e6, 1),
        "libraries_mb": round(libraries / 1e6, 1),
        "recall_at_build": index.tuned.recall,
        "effort": index.tuned.effort,
    }


def compare(options: argparse.Namespace) -> dict[str, float]:
    """Speeds of the exact index and of sonokit's, in turns, and the recall."""
    import faiss
    from sonokit.features.search import search_many
    from sonokit.features.search.index import open_index
    from sonokit.features.search.index_rows import normalised
    from sonokit.features.store import EmbeddingStore

    index = open_index(EmbeddingStore.open(options.folder / "store"))
    exact = faiss.IndexFlatIP(DIMENSIONS)
    for chunk in index.rows.chunks():
        exact.add(index.rows.units(chunk))
    queries = normalised(np.load(options.folder / "queries.npy"))
    _, places = exact.search(queries, K)  # also a first turn of each, which does not count
    truth, found = index.rows.row_ids[places], search_many(index, queries, K).row_ids
    figures = {"recall": float(np.mean([np.isin(t, f).mean() for t, f in zip(truth, found, strict=True)]))}
    for batch in BATCHES:
        times: dict[str, list[float]] = {"exact": [], "ours": []}
        for turn in range(options.rounds if batch < max(BATCHES) else max(2, options.rounds // 2)):
            starts = [((turn * SINGLE + n) * batch) % len(queries) for n in range(SINGLE if batch == 1 else 1)]
            asked = [queries[start : start + batch] for start in starts]
            times["exact"].append(_seconds(lambda some: exact.search(some, K), asked))
            times["ours"].append(_seconds(lambda some: search_many(index, some, K), asked))
        medians = {name: float(np.median(seconds)) for name, seconds in times.items()}
        figures[f"times_{batch}"] = round(medians["exact"] / medians["ours"], 1)
        figures[f"exact_{batch}_ms"], figures[f"ours_{batch}_ms"] = (round(1e3 * m, 2) for m in medians.values())
    return figures


def _seconds(work: Callable[[np.ndarray], object], batches: list[np.ndarray]) -> float:
    """Seconds a batch."""
    start = time.perf_counter()
    for batch in batches:
        work(batch)
    return (time.perf_counter() - start) / len(batches)


def _status(what: str) -> float:
    """Bytes of this process's memory: VmRSS now, VmHWM at most (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return float(line.split()[1]) * 1024
    raise SystemExit(f"this system does not tell {what}; run the benchmark on Linux")


def _in_its_own_process(stage: str, options: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--stage", stage, "--folder", str(options.folder), "--rows", str(options.rows)]
    command += ["--rounds", str(options.rounds), "--kind", options.kind]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


STAGES = {"generate": generate, "build": build, "open": open_and_ask, "compare": compare}


if __name__ == "__main__":
    main()
