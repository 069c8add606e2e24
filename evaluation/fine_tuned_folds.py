"""The files of fine-tuned folds: when one may be taken as finished, and what it says to those who come after.

``fold-NNN.json``: ``clip_ids`` and ``values`` of the test clips; ``trained_on``, the clips of the training side; ``splits``,
the fingerprint of the splits where it was given; ``also``, clips without label with their ``values``, where they were asked
for; ``cost``, in seconds. Files of an older sonokit have the test clips only.
"""

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SonokitError
from .embedding import FrameClips


@dataclass(frozen=True)
class MoreClips:
    """Clips that every fold's network predicts besides its test clips; nothing is known of their label.

    Attributes:
        clip_ids: str [U].
        clips: Their frames, in the same order.
    """

    clip_ids: np.ndarray
    clips: FrameClips

    def __post_init__(self) -> None:
        if len(self.clip_ids) != len(self.clips):
            raise SonokitError(f"{len(self.clips)} more clips but {len(self.clip_ids)} names: give both in the same order")

    def identity(self) -> str:
        """Hash of the names and the frames."""
        return _hash(list(zip(map(str, self.clip_ids), contents(self.clips), strict=True)))


@dataclass(frozen=True)
class FineTunedFold:
    """One finished fold; what an older file does not say is None or empty.

    Attributes:
        fold: Its place among the folds of the splits.
        repeat: Of which division.
        classes: Names of the K classes.
        clip_ids: The test clips, str [M].
        values: Their class probabilities, float64 [M, K].
        trained_on: The clips of the training side, str [·].
        splits: Fingerprint of the splits.
        also_ids: Clips that were predicted besides, str [U].
        also_values: Their class probabilities, float64 [U, K].
        cost: "train", "predict" and "also" → "cpu_seconds" (of the process, all its threads) and "wall_seconds".
    """

    fold: int
    repeat: int
    classes: tuple[str, ...]
    clip_ids: np.ndarray
    values: np.ndarray
    trained_on: np.ndarray | None
    splits: str | None
    also_ids: np.ndarray
    also_values: np.ndarray
    cost: Mapping[str, Mapping[str, float]]

    def seconds(self, kind: str = "cpu_seconds", steps: Sequence[str] = ("train", "predict")) -> float:
        """What some steps took together, nan where nobody measured it."""
        return sum(self.cost.get(step, {}).get(kind, float("nan")) for step in steps)


def read_fine_tuned(folder: str | Path) -> list[FineTunedFold]:
    """Every finished fold of a folder, in the folds' order.

    Raises:
        SonokitError: There is none, or a file is damaged.
    """
    files = sorted(Path(folder).glob("fold-*.json"))
    if not files:
        raise SonokitError(f"{folder} has no fold-NNN.json: fine-tune into this folder first")
    return sorted(map(_read, files), key=lambda found: found.fold)


def finished(file: Path | None, identity: str, more: str | None) -> dict[str, Any] | None:
    """What a file says, where it is of this fold and has the further clips that are asked for; else None.

    Args:
        file: May be missing.
        identity: From :func:`fold_identity`.
        more: From :meth:`MoreClips.identity`; None where no further clips are asked for.
    """
    if file is None or not file.is_file():
        return None
    found = json.loads(file.read_text(encoding="utf-8"))
    complete = more is None or found.get("also", {}).get("identity") == more
    return found if found["identity"] == identity and complete else None


def fold_identity(
    settings: Mapping[str, Any],
    backbone: str,
    classes: Sequence[str],
    place: tuple[int, int],
    training: Sequence[tuple[str, int]],
    tested: Sequence[tuple[str, str]],
) -> str:
    """Hash of all that decides a fold's figures.

    Args:
        settings: How it is trained.
        backbone: Fingerprint of the weights at the start.
        classes: Names, in the order of the codes.
        place: Number of the fold, of the division.
        training: Content and class code of each training clip.
        tested: Name and content of each test clip.
    """
    return _hash([settings, backbone, classes, *place, training, tested])


def contents(clips: FrameClips) -> list[str]:
    """Hash of every clip's frames, [T, S, S]."""
    return [_content(clips[row].frames) for row in range(len(clips))]


class Watch:
    """Seconds since the last lap: of this process's CPU, in all its threads and without its children, and of the wall clock."""

    def __init__(self) -> None:
        self._last = time.process_time(), time.perf_counter()

    def lap(self) -> dict[str, float]:
        """``cpu_seconds`` and ``wall_seconds`` since the last one."""
        now = time.process_time(), time.perf_counter()
        cpu, wall = (round(after - before, 3) for after, before in zip(now, self._last, strict=True))
        self._last = now
        return {"cpu_seconds": cpu, "wall_seconds": wall}


def _read(file: Path) -> FineTunedFold:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        also = found.get("also", {"clip_ids": [], "values": []})
        classes, trained_on = tuple(found.get("classes", ())), found.get("trained_on")
        values = np.asarray(found["values"], dtype=np.float64)
        return FineTunedFold(
            fold=int(file.stem.removeprefix("fold-")),
            repeat=int(found["repeat"]),
            classes=classes,
            clip_ids=np.asarray(found["clip_ids"], dtype=str),
            values=values,
            trained_on=None if trained_on is None else np.asarray(trained_on, dtype=str),
            splits=found.get("splits"),
            also_ids=np.asarray(also["clip_ids"], dtype=str),
            also_values=np.asarray(also["values"], dtype=np.float64).reshape(-1, len(classes) or values.shape[-1]),
            cost=found.get("cost", {}),
        )
    except (ValueError, KeyError, TypeError, IndexError) as fault:
        raise SonokitError(f"{file} is damaged ({fault}): remove it, and the fold is trained again") from fault


def _content(frames: np.ndarray) -> str:
    return hashlib.sha256(str(frames.shape).encode() + np.ascontiguousarray(frames).tobytes()).hexdigest()


def _hash(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
