"""Experts on a large store and on a small one: how long a new question takes, and what a shorter search gives away.

    python benchmarks/experts.py [--rows 100000] [--untimed 24] [--folder FOLDER] [--only STAGE]

Everything is simulated from a seed: 100,000 clips of 10,000 patients, 128 dimensions, three classes that lie partly on curved
surfaces, so that neither a straight line nor a default is the last word. Each stage runs in a process of its own:

- ``fit_minutes``, ``fit_gb``: ``fit_expert`` with all three heads, one chosen on inner folds, five folds, floors, intervals,
  page; the whole command, and the most resident memory.
- ``points_below_untimed``: balanced accuracy of an untimed search (24 more settings a fold) on the same folds, minus that
  of the timed one, in percentage points. The plain alternative, and its minutes.
- ``small_seconds``: one expert on a store as small and as wide as real ones (91 clips of 36 patients, 1,280 dimensions), ten
  divisions into five folds, with floors, intervals and page.
- ``rows_per_s`` and ``rows_per_s_nearest``: prediction of 10,000 clips from a store, probabilities only, and with conformal
  sets and the nearest banked cases; ``times_plain``: against a loop over the clips with pandas and scikit-learn.

The last line is the result, as JSON.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

DIMENSIONS, CLASSES, CLIPS_A_PATIENT, FOLDS = 128, 3, 10, 5
GOALS = {
    "fit_minutes": 10.0, "fit_gb": 3.0, "points_below_untimed": 1.0, "small_seconds": 60.0, "rows_per_s": 50_000.0,
    "rows_per_s_nearest": 2_000.0,
}  # fmt: skip


def main() -> None:
    """Generate, fit, search without a clock, and predict, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--untimed", type=int, default=24, help="settings that the untimed search tries in a fold")
    parser.add_argument("--seconds", type=float, default=150.0, help="the timed search's budget")
    parser.add_argument("--folder", type=Path, help="keep everything here, and use it again")
    parser.add_argument("--only", choices=list(STAGES), help="one stage; needs --folder")
    parser.add_argument("--stage", choices=list(STAGES), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        print(json.dumps(STAGES[options.stage](options)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        options.folder = options.folder or Path(temporary)
        figures: dict[str, Any] = {}
        for stage in [options.only] if options.only else STAGES:
            figures |= _in_its_own_process(stage, options)
            print(f"{stage}: {figures}", file=sys.stderr, flush=True)
    if {"untimed_score", "fit_score"} <= figures.keys():
        figures["points_below_untimed"] = round(100 * (figures["untimed_score"] - figures["fit_score"]), 2)
    against = {
        "points_below_untimed": "the same search without a clock",
        "times_plain": "a loop over the clips with pandas and scikit-learn",
    }
    print(json.dumps({"name": "experts", "figures": figures, "goals": GOALS, "against": against}))


def generate(options: argparse.Namespace) -> dict[str, float]:
    """Write the large store, the small one with its random twin, and the clips to predict."""
    if (options.folder / "done").exists():
        return {}
    rng = np.random.default_rng(0)
    directions = rng.normal(size=(12, DIMENSIONS)) / np.sqrt(DIMENSIONS)
    _write(options.folder / "large", options.rows, CLIPS_A_PATIENT, DIMENSIONS, directions, rng, parts=10)
    _write(options.folder / "new", 10_000, CLIPS_A_PATIENT, DIMENSIONS, directions, rng, prefix="new-")
    wide = rng.normal(size=(12, 1280)) / np.sqrt(1280)
    _write(options.folder / "small", 91, 2.5, 1280, wide, rng, segments=2)
    (options.folder / "done").touch()
    return {}


def fit(options: argparse.Namespace) -> dict[str, float]:
    """All three heads on the large store, one chosen inside the folds."""
    from sonokit.experts.fit import fit_expert
    from sonokit.experts.heads import SearchSettings
    from sonokit.features.store import EmbeddingStore

    start = time.perf_counter()
    folder = fit_expert(
        EmbeddingStore.open(options.folder / "large"), "diagnosis", options.folder / "expert", heads="auto", recipe="mean",
        folds=FOLDS, repeats=1, search=SearchSettings(seconds=options.seconds), progress=True,
    )  # fmt: skip
    minutes = (time.perf_counter() - start) / 60
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return {
        "fit_minutes": round(minutes, 2),
        "fit_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "fit_score": report["scores"]["balanced_accuracy"]["value"],
    }


def search_without_clock(options: argparse.Namespace) -> dict[str, float]:
    """The same folds, every setting of a long search tried to the end."""
    from sonokit.clips.splits import make_splits
    from sonokit.evaluation.out_of_fold import fold_rows, out_of_fold
    from sonokit.evaluation.scores import score
    from sonokit.experts.heads import SearchSettings, make_head
    from sonokit.experts.question import pose
    from sonokit.experts.recipes import clip_features, clip_table
    from sonokit.features.store import EmbeddingStore

    store = EmbeddingStore.open(options.folder / "large")
    start = time.perf_counter()
    question = pose(clip_table(store), "diagnosis")
    X = clip_features(store, "mean").rows(question.clip_ids)
    table = question.table.assign(diagnosis=np.asarray(question.classes, dtype=object)[question.truth])
    splits = make_splits(
        table, question.patients, label="diagnosis", patient_column="patient_id", folds=FOLDS, repeats=1, seed=0
    )
    values = out_of_fold(
        lambda: make_head(("auto",), question.task, search=SearchSettings(trials=options.untimed)),
        lambda _: X, question.truth, question.patients, fold_rows(splits, question.clip_ids, question.patients),
        task=question.task, class_count=CLASSES,
    )  # fmt: skip
    found = score(question.task, question.truth, values[0])["balanced_accuracy"]
    return {"untimed_score": round(found, 4), "untimed_minutes": round((time.perf_counter() - start) / 60, 1)}


def fit_small(options: argparse.Namespace) -> dict[str, float]:
    """One expert on a small wide store, its whole cross-validation."""
    from sonokit.experts.fit import fit_expert
    from sonokit.features.store import EmbeddingStore

    figures = {}
    for name, heads in (("small_seconds_linear", "linear"), ("small_seconds", "auto")):
        start = time.perf_counter()
        store = EmbeddingStore.open(options.folder / "small")
        fit_expert(store, "diagnosis", options.folder / f"expert-{name}", heads=heads)
        figures[name] = round(time.perf_counter() - start, 1)
    return figures


def predict_rows(options: argparse.Namespace) -> dict[str, float]:
    """Prediction of 10,000 clips: a loop, probabilities only, sets and nearest cases."""
    from sonokit.experts.fit import fit_expert
    from sonokit.experts.folder import load_expert
    from sonokit.experts.predict import predict
    from sonokit.features.store import EmbeddingStore

    bank = EmbeddingStore.open(options.folder / "large")
    new = EmbeddingStore.open(options.folder / "new")
    folder = options.folder / "expert-linear"
    if not folder.exists():
        fit_expert(bank, "diagnosis", folder, heads="linear", recipe="mean", folds=FOLDS, repeats=1, draws=100)
    expert = load_expert(folder)
    rows = len(predict(expert, new))  # also the first turn, which does not count
    plain = min(_seconds(lambda: _plain(expert, options.folder / "new")) for _ in range(2))
    alone = min(_seconds(lambda: predict(expert, new)) for _ in range(5))
    predict(expert, new, bank=bank)
    nearest = min(_seconds(lambda: predict(expert, new, bank=bank)) for _ in range(2))
    return {
        "rows_per_s": round(rows / alone),
        "rows_per_s_nearest": round(rows / nearest),
        "rows_per_s_plain": round(rows / plain),
        "times_plain": round(plain / alone, 1),
    }


def _plain(expert: Any, folder: Path) -> np.ndarray:
    """What one writes first: the table with pandas, a clip at a time, scikit-learn's own pipeline."""
    import pandas as pd

    rows = pd.read_parquet(folder / "rows")
    told = [
        expert.head.predict_proba(np.stack(clip["embedding"].to_list()).mean(axis=0, keepdims=True))
        for _, clip in rows.groupby("clip_id", sort=False)
    ]
    return np.concatenate(told)


def _write(
    folder: Path,
    clips: int,
    clips_a_patient: float,
    dimensions: int,
    directions: np.ndarray,
    rng: np.random.Generator,
    *,
    parts: int = 1,
    segments: int = 1,
    prefix: str = "",
) -> None:
    """A store of simulated clips; class, patient and clip each add their part to an embedding."""
    import pandas as pd
    from sonokit.features.store import EmbeddingStore, StoreHeader, make_rows

    header = StoreHeader(fingerprint=f"simulated-{dimensions}", kind="backbone", model="simulated", dimensions=dimensions)
    store = EmbeddingStore.create(folder, header)
    patient = (np.arange(clips) / clips_a_patient).astype(np.int64)  # [N]
    classes = rng.integers(0, CLASSES, patient[-1] + 1)
    for part in np.array_split(np.arange(clips), parts):
        truth = classes[patient[part]]
        hidden = rng.normal(size=(len(part), 12))
        hidden[:, 0] += 1.1 * (truth == 1)
        hidden[:, 1] *= np.where(truth == 2, 2.2, 1.0)  # a class that spreads further: no straight line tells it
        hidden[:, 2] += 0.8 * (truth == 2) * np.sign(hidden[:, 3])  # and one that only two directions tell together
        patients = np.random.default_rng(7).normal(size=(patient[-1] + 1, 12))[patient[part]]
        embedding = (2 * hidden + 0.6 * patients) @ directions + 0.15 * rng.normal(size=(len(part), dimensions))
        names = [f"{prefix}clip-{n:06d}" for n in part]
        rows = pd.DataFrame({"clip_id": np.repeat(names, segments)})
        rows["content_hash"] = np.repeat([rng.bytes(32).hex() for _ in part], segments)
        rows["patient_id"] = np.repeat([f"{prefix}patient-{n:05d}" for n in patient[part]], segments)
        rows["site"] = np.repeat([f"site-{n % 4}" for n in patient[part]], segments)
        rows["diagnosis"] = np.repeat(np.asarray(["normal", "oedema", "pneumonia"])[truth], segments)
        rows["segment"] = np.tile(np.arange(segments), len(part))
        rows = rows.assign(probe="convex", frame_rate=30.0, container="mp4", start_s=2.0 * rows["segment"])
        rows["end_s"] = rows["start_s"] + 2.0
        spread = np.repeat(embedding, segments, axis=0)
        spread = spread + 0.05 * rng.normal(size=spread.shape) * (segments > 1)
        store.append(make_rows(header, rows, spread.astype(np.float32)))


def _seconds(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _in_its_own_process(stage: str, options: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--stage", stage, "--rows", str(options.rows), "--folder", str(options.folder)]
    command += ["--untimed", str(options.untimed), "--seconds", str(options.seconds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


STAGES = {
    "generate": generate,
    "fit": fit,
    "search_without_clock": search_without_clock,
    "fit_small": fit_small,
    "predict": predict_rows,
}

if __name__ == "__main__":
    main()
