"""Soft targets that a network fine-tuned end to end wrote down, one network a fold, and the checks that make them fair.

Two forms are read:

- a folder of ``fold-NNN.json`` as :func:`sonokit.evaluation.fine_tune.fine_tune` writes them (``also`` names the clips that no
  fold tests, with what the fold's network says of them);
- one CSV or Parquet file with a row a fold and clip: ``fold`` (its place in the splits), ``clip_id``, one ``p_<class>`` a class
  (``value`` for a number), and ``trained_on`` (whether that fold's network was trained on the clip), or
  ``splits_fingerprint`` (of the splits by whose training sides the networks were trained), or both.

A teacher that knew labels of the patients whom a fold tests would hand them to the student. So a file that does not say whom
its networks were trained on is refused.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ...clips.splits import Splits
from ...errors import SonokitError

_SLACK = 1e-3  # of a row's sum: files keep a few digits


@dataclass(frozen=True)
class FoldTargets:
    """What one fold's network says.

    Attributes:
        values: Clip -> probabilities float64 [K], or [1] for a number.
        trained_on: The clips that it was trained on.
    """

    values: dict[str, np.ndarray]
    trained_on: frozenset[str]


@dataclass(frozen=True)
class SoftTargets:
    """Soft targets of every fold, which :func:`read_soft_targets` found fair.

    Attributes:
        classes: Names of the K classes; empty for regression.
        folds: One for each fold of the splits, in their order.
        source: Where they were read from.
    """

    classes: tuple[str, ...]
    folds: tuple[FoldTargets, ...]
    source: str

    def of(self, fold: int, clip_ids: np.ndarray) -> np.ndarray:
        """What the network of a fold says of some clips, float64 [N, K] or [N]; nan where it says nothing."""
        values = self.folds[fold].values
        return self._rows([values.get(str(clip)) for clip in clip_ids])

    def final(self, clip_ids: np.ndarray) -> np.ndarray:
        """For the head that is kept: of each clip, the mean over the networks that were not trained on it; as :meth:`of`."""
        rows = []
        for clip in map(str, clip_ids):
            said = [fold.values[clip] for fold in self.folds if clip in fold.values and clip not in fold.trained_on]
            rows.append(np.mean(said, axis=0) if said else None)
        return self._rows(rows)

    def _rows(self, rows: list[np.ndarray | None]) -> np.ndarray:
        width = len(self.classes) or 1
        nothing = np.full(width, np.nan)
        values = np.array([nothing if row is None else row for row in rows]).reshape(-1, width)
        return values if self.classes else values[:, 0]


def read_soft_targets(source: str | Path, classes: Sequence[str], splits: Splits) -> SoftTargets:
    """Read the soft targets of a network a fold, and make sure that they are fair.

    Args:
        source: A folder, a CSV or a Parquet file; see the top of this file.
        classes: Of the question, in the order of their codes; empty for a number.
        splits: Of the expert.

    Raises:
        SonokitError: There is no such file; a fold is missing or one too many; classes or splits are other ones; a row is no
            probability; nobody says whom the networks were trained on; or one was trained on patients whom its fold tests.
    """
    source = Path(source)
    if source.is_dir():
        parts = _read_folder(source)
    elif source.is_file():
        parts = _read_table(source)
    else:
        raise SonokitError(f"there are no soft targets {source}: name a folder of fold-NNN.json, a CSV or a Parquet file")
    numbers = {part.fold for part in parts}
    missing = sorted(set(range(len(splits.folds))) - numbers)
    if missing:
        raise SonokitError(
            f"{source} has no soft targets of fold {missing[0]} ({len(missing)} of {len(splits.folds)} folds are missing): "
            "fine-tune every fold of these splits"
        )
    if len(numbers) > len(splits.folds):
        raise SonokitError(f"{source} has soft targets of fold {max(numbers)}, the splits have {len(splits.folds)} folds only")
    ordered = sorted(parts, key=lambda part: part.fold)
    return SoftTargets(tuple(classes), tuple(_checked(part, classes, splits) for part in ordered), str(source))


@dataclass(frozen=True)
class _Part:
    """A fold as it was read, nothing checked yet."""

    place: str  # for messages
    fold: int
    classes: tuple[str, ...]
    clip_ids: list[str]
    values: np.ndarray  # [n, K]
    trained_on: list[str] | None
    splits_fingerprint: str | None


def _read_folder(folder: Path) -> list[_Part]:
    files = sorted(folder.glob("fold-*.json"))
    if not files:
        raise SonokitError(f"{folder} holds no fold-NNN.json: name the folder that the fine-tuning wrote its folds to")
    return [_read_fold(file) for file in files]


def _read_fold(file: Path) -> _Part:
    try:
        plain = json.loads(file.read_text(encoding="utf-8"))
        classes = tuple(plain["classes"])
        number = int(plain.get("fold", file.stem.removeprefix("fold-")))
        found: dict[str, list[float]] = {}
        for part in (plain.get("also") or {"clip_ids": [], "values": []}, plain):
            found |= dict(zip(part["clip_ids"], part["values"], strict=True))
        values = np.array(list(found.values()), dtype=np.float64).reshape(len(found), -1)
    except (ValueError, KeyError, TypeError, AttributeError) as fault:
        raise SonokitError(
            f"{file} is damaged, or an older sonokit wrote it ({type(fault).__name__}: {fault}): fine-tune this fold again"
        ) from fault
    trained_on, recorded = plain.get("trained_on"), plain.get("splits")
    return _Part(str(file), number, classes, list(found), values, trained_on, recorded)


def _read_table(file: Path) -> list[_Part]:
    try:
        if file.suffix == ".parquet":
            table = pd.read_parquet(file)
        else:
            table = pd.read_csv(file, dtype={"clip_id": "string", "splits_fingerprint": "string"})
    except (ValueError, OSError) as fault:
        raise SonokitError(f"{file} is no CSV or Parquet file that can be read ({fault})") from fault
    columns = [str(name) for name in table]
    classes = [name.removeprefix("p_") for name in columns if name.startswith("p_")]
    wanted = [f"p_{name}" for name in classes] or ["value"]
    absent = [name for name in ("fold", "clip_id", *wanted) if name not in columns]
    if absent:
        raise SonokitError(f"{file} has no column {absent[0]!r}; it has: {', '.join(columns)}")
    try:
        table = table.assign(fold=table["fold"].astype(np.int64), **{name: table[name].astype(np.float64) for name in wanted})
    except (ValueError, TypeError) as fault:
        raise SonokitError(f"{file}: fold and {', '.join(wanted)} must be numbers ({fault})") from fault
    numbers = sorted(set(table["fold"].tolist()))
    return [_part_of_table(file, fold, table[table["fold"] == fold], tuple(classes), wanted) for fold in numbers]


def _part_of_table(file: Path, fold: int, rows: pd.DataFrame, classes: tuple[str, ...], wanted: list[str]) -> _Part:
    place = f"{file}, fold {fold}"
    clip_ids = rows["clip_id"].astype(str).tolist()
    twice = rows["clip_id"][rows["clip_id"].duplicated()]
    if len(twice):
        raise SonokitError(f"{place} names the clip {twice.iloc[0]!r} more than once: keep one row for each")
    trained = None
    if "trained_on" in rows:
        marks = rows["trained_on"].astype(str).str.lower().map({"1": True, "1.0": True, "true": True}).fillna(False)
        trained = [clip for clip, mark in zip(clip_ids, marks, strict=True) if mark]
    recorded = None
    if "splits_fingerprint" in rows:
        said = set(rows["splits_fingerprint"].astype(str))
        recorded = said.pop() if len(said) == 1 else "several"
    return _Part(place, fold, classes, clip_ids, rows[wanted].to_numpy(dtype=np.float64), trained, recorded)


def _checked(part: _Part, classes: Sequence[str], splits: Splits) -> FoldTargets:
    if part.classes != tuple(classes):
        said, wanted = (", ".join(names) or "a number" for names in (part.classes, classes))
        raise SonokitError(f"{part.place} is of the classes {said}; the expert's, in this order, are {wanted}")
    own = splits.fingerprint()
    if part.splits_fingerprint not in (None, own):
        raise SonokitError(
            f"{part.place} is of other splits ({part.splits_fingerprint}) than the expert's ({own}): "
            "give both the same splits.json with --splits"
        )
    values = _checked_values(part, len(classes))
    return FoldTargets(dict(zip(part.clip_ids, values, strict=True)), frozenset(_checked_training(part, splits)))


def _checked_values(part: _Part, class_count: int) -> np.ndarray:
    """Rows of probabilities that sum to one, [n, K], or of numbers [n, 1]."""
    values = part.values
    if len(values) and values.shape[1] != max(1, class_count):
        raise SonokitError(f"{part.place} gives {values.shape[1]} values a clip, {max(1, class_count)} are needed")
    wrong = ~np.isfinite(values).all(axis=1)
    if class_count:
        wrong |= (values < 0).any(axis=1) | (np.abs(values.sum(axis=1) - 1) > _SLACK)
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        kind = "probabilities that sum to one" if class_count else "a finite number"
        raise SonokitError(f"{part.place}: the values of clip {part.clip_ids[row]!r} are not {kind}: {values[row].tolist()}")
    return values / values.sum(axis=1, keepdims=True) if class_count else values


def _checked_training(part: _Part, splits: Splits) -> Sequence[str]:
    """The clips that the network was trained on, none of a patient whom the fold tests or who is held out."""
    if part.trained_on is None:
        if part.splits_fingerprint is None:
            raise SonokitError(
                f"{part.place} does not say whom the network was trained on (trained_on, or the splits' fingerprint): "
                "it may have met the patients that are tested"
            )
        return splits.train_ids(part.fold)
    patient_of = dict(zip(splits.clip_ids, splits.patients or splits.clip_ids, strict=True))
    unknown = [clip for clip in part.trained_on if clip not in patient_of]
    if unknown:
        raise SonokitError(
            f"{part.place}: the network was trained on the clip {unknown[0]!r}, which the splits do not know: "
            "whether its patient is tested cannot be told"
        )
    away = {patient_of[clip] for clip in (*splits.folds[part.fold].test, *splits.held_out)}
    met = [clip for clip in part.trained_on if patient_of[clip] in away]
    if met:
        raise SonokitError(
            f"{part.place}: the network was trained on the clip {met[0]!r} of patient {patient_of[met[0]]!r}, whom this fold "
            "tests or who is held out: its soft targets would give the answer away"
        )
    return part.trained_on
