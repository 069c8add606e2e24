"""The expert folder: what is needed to predict, in formats that execute nothing when read.

expert.json     question, classes, recipe, how the store that it reads was made, and the readout (numbers only)
head/           the head in its own format (see heads.py)
report.json, report.html, CARD.md, config.yaml, environment.json, metrics.jsonl
"""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic import write_json
from ..errors import SonokitError
from ..evaluation.out_of_fold import predicted_values
from ..evaluation.readout import Readout, readout_from_dict
from ..evaluation.scores import Task
from ..features.store import EmbeddingStore, StoreHeader
from .heads import head_name, load_head

SCHEMA_VERSION = 2


@dataclass(frozen=True)
class Expert:
    """A fitted head and all that says what it may be given.

    Attributes:
        label: What it predicts.
        task: What kind of label that is.
        classes: Names of the K classes; empty for regression.
        recipe: How a clip's segments become its features.
        store: Header of the store it was fitted on; it reads those of the same fingerprint only.
        head: See :mod:`sonokit.experts.heads`.
        readout: Calibrator, conformal set and operating points; None for an expert that an older sonokit wrote.
    """

    label: str
    task: Task
    classes: tuple[str, ...]
    recipe: str
    store: StoreHeader
    head: Any
    readout: Readout | None = None

    def values(self, features: np.ndarray) -> np.ndarray:
        """Class probabilities [C, K], or values [C], of features [C, F]."""
        return predicted_values(self.head, features, self.task, len(self.classes))

    def require_same_store(self, store: EmbeddingStore) -> None:
        """Refuse a store that another extractor made.

        Raises:
            SonokitError: It names both.
        """
        there = store.header.fingerprint
        if there != self.store.fingerprint:
            raise SonokitError(
                f"this expert reads stores of the extractor {self.store.fingerprint} ({self.store.model}), but "
                f"{store.folder} was made by {there} ({store.header.model}): "
                "extract the clips with the extractor that the expert was fitted on"
            )


def save_expert(expert: Expert, folder: Path) -> None:
    """Write ``expert.json`` and ``head/`` into ``folder``."""
    expert.head.save(folder / "head")
    plain = {
        "schema_version": SCHEMA_VERSION,
        "label": expert.label,
        "task": expert.task,
        "classes": list(expert.classes),
        "recipe": expert.recipe,
        "head": head_name(expert.head),
        "store": dataclasses.asdict(expert.store),
        "readout": None if expert.readout is None else expert.readout.as_dict(),
    }
    write_json(folder / "expert.json", plain)


def load_expert(folder: str | Path) -> Expert:
    """Read an expert folder.

    Raises:
        SonokitError: It is not one, a newer version wrote it, or its head is not to be trusted.
    """
    folder = Path(folder)
    file = folder / "expert.json"
    if not file.is_file():
        raise SonokitError(f"{folder} is not an expert folder (it has no expert.json); fit-expert makes one")
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
        version = int(plain["schema_version"])
        if version > SCHEMA_VERSION:
            raise SonokitError(f"{file} has schema version {version}, this sonokit knows {SCHEMA_VERSION}: update sonokit")
        settings = {name: plain[name] for name in ("label", "task", "recipe")}
        store = StoreHeader(**plain["store"])
        classes = tuple(plain["classes"])
        readout = readout_from_dict(plain["readout"]) if plain.get("readout") else None
    except (ValueError, KeyError, TypeError) as fault:
        raise SonokitError(f"{file} is damaged ({fault}): fit the expert again") from fault
    return Expert(**settings, classes=classes, store=store, head=load_head(folder / "head"), readout=readout)
