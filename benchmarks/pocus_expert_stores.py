"""The stores that ``pocus_experts.py`` asks: copied from the road study where it was run, else made by its own steps.

    imagenet      the frozen ImageNet backbone
    transductive  pretrained without labels on all clips, those of the test patients among them
    inductive     a store set: one backbone a fold, pretrained on that fold's training clips only; one division
    extractor     a store set: biomarker extractors on the transductive backbone, trained inside the folds; ten divisions

Copies, because an audit builds an index beside the rows, and another study's stores stay as they are.
"""

import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from pocus_fine_tuned import NETWORK
from sonokit.atomic import atomic_path
from sonokit.clips.splits import Splits, read_splits
from sonokit.features.store import EmbeddingStore, StoreSet, open_stores

STORES = ("imagenet", "transductive", "inductive", "extractor")
_NAMES = {"imagenet": "imagenet", "transductive": "pretrained", "extractor": "biomarkers"}  # in the road study
_EPOCHS = 60


@dataclass(frozen=True)
class Stores:
    """Where they lie, and the study's division."""

    folder: Path
    splits: Splits

    def open(self, name: str) -> EmbeddingStore | StoreSet:
        """One of :data:`STORES`."""
        if name != "inductive":
            return open_stores(self.folder / name)
        own = read_splits(self.folder / name / "splits.json")
        if [fold.test for fold in own.folds] != [fold.test for fold in self.splits.folds[: len(own.folds)]]:
            raise SystemExit(
                f"{self.folder / name} was divided otherwise than {len(own.folds)} folds of the study: make it again"
            )
        folds = [EmbeddingStore.open(self.folder / name / f"store-{fold}") for fold in range(len(own.folds))]
        final = EmbeddingStore.open(self.folder / "transductive")
        # the network and its random weights are the same for every pretraining, so that store serves as the floor
        return StoreSet(self.folder / name, own, folds, final, floor=final.floor)

    def divided(self, name: str, divisions: int | None) -> Splits | None:
        """The study's first divisions for a single store; a set insists on its own, and takes None."""
        if name in ("inductive", "extractor"):
            return None
        return first_divisions(self.splits, divisions)


def open_expert_stores(data: Path, weights: str, road_folder: Path, out: Path) -> Stores:
    """Make what is missing: hours without the road study, seconds with it."""
    there = [road_folder / "stores" / name for name in _NAMES.values()] + [road_folder / "inductive" / "store-4"]
    if not all(store.is_dir() for store in there):
        _run_road(data, weights, road_folder)
    for name, there in _NAMES.items():
        _copy(road_folder / "stores" / there, out / name)
    for there in sorted((road_folder / "inductive").glob("store-*")):
        _copy(there, out / "inductive" / there.name)
    splits = out / "inductive" / "splits.json"
    if not splits.is_file():
        shutil.copyfile(road_folder / "inductive" / "splits.json", splits)
    return Stores(out, read_splits(road_folder / "splits.json"))


def _run_road(data: Path, weights: str, folder: Path) -> None:
    """The steps of ``pocus_road.py`` that make the stores; what is finished is not done again."""
    import pocus_road  # brings the demo with it, which nobody else needs here
    from demo import Road, drive

    road = Road(folder, data / "manifest.csv", weights, NETWORK, _EPOCHS)
    drive(road)
    pocus_road._inductive(road)


def first_divisions(splits: Splits, divisions: int | None) -> Splits:
    """The same splits with their first divisions only; None: all."""
    if divisions is None:
        return splits
    return replace(splits, folds=tuple(fold for fold in splits.folds if fold.repeat < divisions))


def _copy(there: Path, here: Path) -> None:
    if not here.exists():
        here.parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(here) as temporary:
            shutil.copytree(there, temporary, dirs_exist_ok=True)
