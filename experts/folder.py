"""The expert folder: what is needed to predict, in formats that execute nothing when read.

expert.json     question, classes, recipe, how the store that it reads was made, and the readout (numbers only)
head/           the head in its own format (see heads/)
reference.*     what its training clips were like (numbers only, see external/reference.py)
report.json, report.html, CARD.md, config.yaml, environment.json, metrics.jsonl

The folder of several labels (task multi_label) holds an expert.json that names them, and ``labels/<name>/``, each such a
folder.
"""

import dataclasses
import json
from collections.abc import Collection
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
from .external.reference import Reference, load_reference, save_reference
from .heads import head_name, load_head
from .recipes import Unit

SCHEMA_VERSION = 3
"""1: no readout. 2: no unit, no patient column, no reference. Both are read still."""


@dataclass(frozen=True)
class Expert:
    """A fitted head and all that says what it may be given.

    Attributes:
        label: What it predicts.
        task: What kind of label that is.
        classes: Names of the K classes; empty for regression.
        recipe: How segments become features.
        store: Header of the store it was fitted on; it reads those of the same fingerprint only.
        head: See :mod:`sonokit.experts.heads`.
        readout: Calibrator, conformal set and operating points; None for an expert that an older sonokit wrote.
        unit: Whether it predicts for clips, or for patients from all of their clips.
        patient: The column that says whose a clip is.
        reference: What its training clips were like; None for an expert that an older sonokit wrote.
    """

    label: str
    task: Task
    classes: tuple[str, ...]
    recipe: str
    store: StoreHeader
    head: Any
    readout: Readout | None = None
    unit: Unit = "clip"
    patient: str = "patient_id"
    reference: Reference | None = None

    def values(self, features: np.ndarray) -> np.ndarray:
        """Class probabilities [C, K], or values [C], of features [C, F]."""
        return predicted_values(self.head, features, self.task, len(self.classes))

    def require_same_store(self, store: EmbeddingStore) -> None:
        """Refuse a store that another extractor made.

        Raises:
            SonokitError: It names both.
        """
        there = store.header_on_disk.fingerprint
        if there != self.store.fingerprint:
            raise SonokitError(
                f"this expert reads stores of the extractor {self.store.fingerprint} ({self.store.model}), but "
                f"{store.folder} was made by {there} ({store.header_on_disk.model}): "
                "extract the clips with the extractor that the expert was fitted on"
            )


@dataclass(frozen=True)
class MultiExpert:
    """One binary expert a label, fitted on the same folds.

    Attributes:
        experts: Label -> its expert, in the order in which they were asked for.
    """

    experts: dict[str, Expert]

    @property
    def labels(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.experts)

    @property
    def store(self) -> StoreHeader:
        """Header of the store that all of them were fitted on."""
        return next(iter(self.experts.values())).store


def save_expert(expert: Expert | MultiExpert, folder: Path) -> None:
    """Write ``expert.json``, ``head/`` and the reference into ``folder``; of several labels each into ``labels/<name>/``."""
    if isinstance(expert, MultiExpert):
        for label, one in expert.experts.items():
            save_expert(one, folder / "labels" / label)
        labels = {"schema_version": SCHEMA_VERSION, "task": "multi_label", "labels": list(expert.labels)}
        write_json(folder / "expert.json", labels)
        return
    expert.head.save(folder / "head")
    if expert.reference is not None:
        save_reference(expert.reference, folder)
    plain = {
        "schema_version": SCHEMA_VERSION,
        "label": expert.label,
        "task": expert.task,
        "classes": list(expert.classes),
        "recipe": expert.recipe,
        "unit": expert.unit,
        "patient": expert.patient,
        "head": head_name(expert.head),
        "store": dataclasses.asdict(expert.store),
        "readout": None if expert.readout is None else expert.readout.as_dict(),
    }
    write_json(folder / "expert.json", plain)


def load_expert(folder: str | Path, trusted: Collection[str] = ()) -> Expert | MultiExpert:
    """Read an expert folder.

    Args:
        folder: That ``fit-expert`` wrote.
        trusted: Types that a user's own head may hold, see :func:`~sonokit.experts.heads.by_name.load_head`.

    Raises:
        SonokitError: It is not one, a newer version wrote it, or its head is not to be trusted.
    """
    folder = Path(folder)
    plain = _read(folder)
    if plain["task"] != "multi_label":
        return _one(folder, plain, trusted)
    experts = {}
    for label in plain["labels"]:
        if Path(label).name != label:
            raise SonokitError(f"{folder / 'expert.json'} names the label {label!r}, which is no plain name: fit it again")
        experts[label] = _one(folder / "labels" / label, _read(folder / "labels" / label), trusted)
    return MultiExpert(experts)


def load_single_expert(folder: str | Path, trusted: Collection[str] = ()) -> Expert:
    """Read an expert folder of one label; arguments as for :func:`load_expert`.

    Raises:
        SonokitError: As for :func:`load_expert`, or the folder has several labels.
    """
    found = load_expert(folder, trusted)
    if isinstance(found, MultiExpert):
        raise SonokitError(
            f"{folder} holds an expert for each of several labels: name one of them, for instance "
            f"{Path(folder) / 'labels' / found.labels[0]}"
        )
    return found


def _read(folder: Path) -> dict[str, Any]:
    file = folder / "expert.json"
    if not file.is_file():
        raise SonokitError(f"{folder} is not an expert folder (it has no expert.json); fit-expert makes one")
    try:
        plain: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        version = int(plain["schema_version"])
        if version > SCHEMA_VERSION:
            raise SonokitError(f"{file} has schema version {version}, this sonokit knows {SCHEMA_VERSION}: update sonokit")
        wanted = "labels" if plain["task"] == "multi_label" else "label"
        if not plain[wanted]:
            raise ValueError(f"{wanted} is empty")
    except (OSError, ValueError, KeyError, TypeError) as fault:
        raise _damaged(folder, fault) from fault
    return plain


def _one(folder: Path, plain: dict[str, Any], trusted: Collection[str]) -> Expert:
    try:
        settings = {name: plain[name] for name in ("label", "task", "recipe")}
        settings |= {name: plain[name] for name in ("unit", "patient") if name in plain}
        store = StoreHeader(**plain["store"])
        classes = tuple(plain["classes"])
        readout = readout_from_dict(plain["readout"]) if plain.get("readout") else None
    except (ValueError, KeyError, TypeError) as fault:
        raise _damaged(folder, fault) from fault
    head = load_head(folder / "head", trusted)
    known = getattr(head, "classes_", None)
    if classes and (known is None or len(known) == 0 or max(known) >= len(classes)):
        raise _damaged(folder, ValueError(f"it names {len(classes)} classes, its head knows others"))
    return Expert(**settings, classes=classes, store=store, head=head, readout=readout, reference=load_reference(folder))


def _damaged(folder: Path, fault: Exception) -> SonokitError:
    return SonokitError(f"{folder / 'expert.json'} is damaged ({fault}): fit the expert again")
