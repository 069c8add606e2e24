"""What an expert costs beside end-to-end fine-tuning of the same cross-validation, in CPU seconds on the same machine.

Both sides begin with decoded frames in the cache, and both are counted with ``time.process_time`` (all threads of the process).
The expert's side is told three times: its heads alone, which is what the fine-tuned side does (predictions of every test clip);
with calibrators, conformal sets and operating points of every fold; and the whole of ``fit_expert`` with floors, intervals and
report. Extraction runs once for all folds and all questions; it is added to each of the three and left out again.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pocus_expert_stores import Stores, first_divisions
from pocus_fine_tuned import DIVISIONS, NETWORK, SEED, TASKS, WHERE, FineTuning
from sonokit.clips.cache import prepare
from sonokit.clips.cached_clips import CacheSettings
from sonokit.clips.sampling import Sampling
from sonokit.clips.splits import Splits
from sonokit.evaluation.fine_tuned_folds import Watch, read_fine_tuned
from sonokit.evaluation.out_of_fold import fold_rows
from sonokit.experts.crossval import QuestionFeatures, cross_validate, cross_validate_read
from sonokit.experts.fit import fit_expert
from sonokit.experts.heads import make_head
from sonokit.experts.question import pose
from sonokit.experts.recipes import clip_table
from sonokit.experts.settings import FitSettings
from sonokit.features.extraction.extract import extract_features
from sonokit.features.store import EmbeddingStore

RECIPE, HEADS = "mean_std", ("linear",)
STEPS = ("heads", "with_readouts", "everything")


def costs(stores: Stores, tuning: FineTuning, out: Path) -> dict[str, Any]:
    """Seconds of every side and their ratios, for each task."""
    store, few = stores.open("imagenet"), first_divisions(stores.splits, DIVISIONS)
    assert isinstance(store, EmbeddingStore)
    warm = first_divisions(stores.splits, 1)
    _cross_validation(store, "diagnosis", warm, readouts=True)()  # imports and caches are nobody's cost
    extraction = _extraction(tuning, out)
    return {
        "extraction": extraction,
        "tasks": {label: _of_task(store, tuning, label, few, stores.splits, out, extraction) for label in TASKS},
    }


def _of_task(
    store: EmbeddingStore, tuning: FineTuning, label: str, few: Splits, every: Splits, out: Path, extraction: dict[str, float]
) -> dict[str, Any]:
    folds = [fold for fold in read_fine_tuned(tuning.folder / label) if fold.repeat < DIVISIONS]
    tuned = {kind: sum(fold.seconds(kind) for fold in folds) for kind in ("cpu_seconds", "wall_seconds")}
    expert = {
        "heads": _seconds(_cross_validation(store, label, few, readouts=False)),
        "with_readouts": _seconds(_cross_validation(store, label, few, readouts=True)),
        "everything": _seconds(lambda: _whole(store, label, few, out)),
    }
    over = _seconds(_cross_validation(store, label, every, readouts=True))
    mean = tuned["cpu_seconds"] / len(folds)
    return {
        "folds": len(folds),
        "fine_tuned": tuned,
        "expert": expert,
        "ratios": {name: _ratios(tuned["cpu_seconds"], expert[name]["cpu_seconds"], extraction) for name in STEPS},
        "all_divisions": {
            "folds": len(every.folds),
            "expert_with_readouts": over,
            "fine_tuned_extrapolated_cpu_seconds": mean * len(every.folds),
            "ratios": _ratios(mean * len(every.folds), over["cpu_seconds"], extraction),
        },
    }


def _ratios(tuned: float, expert: float, extraction: dict[str, float]) -> dict[str, float]:
    """How many times as much the fine-tuned side takes."""
    return {"without_extraction": tuned / expert, "with_extraction": tuned / (expert + extraction["cpu_seconds"])}


def _cross_validation(store: EmbeddingStore, label: str, splits: Splits, *, readouts: bool) -> Callable[[], Any]:
    """The cross-validation that ``fit_expert`` does, from the store to out-of-fold predictions."""
    task, settings = TASKS[label], FitSettings(seed=SEED)

    def run() -> Any:
        question = pose(clip_table(store), label, task=task, where=WHERE)
        features = QuestionFeatures(store, question, RECIPE, splits)
        folds = fold_rows(splits, question.clip_ids, question.patients)

        def make() -> Any:
            return make_head(HEADS, task, SEED)

        if readouts:
            return cross_validate_read(question, features, make, folds, settings.readout())
        return cross_validate(question, features.of, make, folds)

    return run


def _whole(store: EmbeddingStore, label: str, splits: Splits, out: Path) -> None:
    folder = out / "cost" / f"{label}-expert"
    shutil.rmtree(folder, ignore_errors=True)
    fit_expert(store, label, folder, task=TASKS[label], where=WHERE, heads=HEADS, recipe=RECIPE, splits=splits, seed=SEED)


def _extraction(tuning: FineTuning, out: Path) -> dict[str, float]:
    """Of the frozen ImageNet store, as the road study makes it, without a floor."""
    folder = out / "cost" / "store"
    shutil.rmtree(folder, ignore_errors=True)
    clips = prepare(tuning.clips.manifest, out / "cache", CacheSettings(size=224, sampling=Sampling(frames=16)))

    def run() -> None:
        extract_features(clips, NETWORK, folder, weights=tuning.weights, seed=SEED, progress=False)

    return _seconds(run) | {"clips": len(clips)}


def _seconds(run: Callable[[], Any]) -> dict[str, float]:
    watch = Watch()
    run()
    return watch.lap()
