"""One division of a study by patient, which every command shares: folds, sites left out, a held-out part.

The folds are scikit-learn's ``StratifiedGroupKFold`` over patients, with rules of ours on top (see ``fold_search.py``). The
file ``splits.json`` lists the patients with their clips, so that what it claims can be checked whenever it is read.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ..atomic import write_json
from ..errors import SonokitError
from .fold_search import choose_held_out, classes_of, search_folds

_SCHEMA = 1
_NAMED = 5  # how many clips a message names
_REMEDY = "Make the splits again from this manifest: sonokit split."


@dataclass(frozen=True)
class Fold:
    """One test side: the clips of the patients that are tested in fold ``fold`` of division ``repeat``."""

    repeat: int
    fold: int
    test: tuple[str, ...]


@dataclass(frozen=True)
class Splits:
    """A study's division. "Fold k" is ``folds[k]``, ordered by repeat, then fold.

    Attributes:
        clip_ids: Every clip, sorted.
        label: The column whose classes were spread evenly, None for none.
        patient_column: What stood for the patient.
        seed: Repeat r was drawn with seed + r.
        folds: The test sides.
        sites: Site → its clips, held-out ones apart; empty where there are not two sites.
        held_out: Clips in no fold, for one final test.
        patients: The patient of every clip, as in ``clip_ids``.
    """

    clip_ids: tuple[str, ...]
    label: str | None
    patient_column: str
    seed: int
    folds: tuple[Fold, ...]
    sites: dict[str, tuple[str, ...]]
    held_out: tuple[str, ...]
    patients: tuple[str, ...] = ()

    def train_ids(self, k: int) -> tuple[str, ...]:
        """Every clip but those of fold ``k``'s test side and the held-out ones."""
        return self._without({*self.folds[k].test, *self.held_out})

    def site_train_ids(self, site: str) -> tuple[str, ...]:
        """What may be trained on when ``site`` is left out.

        All clips of a patient who was also seen at ``site`` stay out, and so do clips of which nobody knows the site.

        Raises:
            SonokitError: There is no such site.
        """
        if site not in self.sites:
            raise SonokitError(f"The splits have no site {site!r}. Their sites: {', '.join(self.sites) or 'none'}.")
        seen_there = {self._patient_of[clip] for clip in self.sites[site]}
        elsewhere = {clip for name, clips in self.sites.items() if name != site for clip in clips}
        return tuple(c for c in self.clip_ids if c in elsewhere and self._patient_of[c] not in seen_there)

    @property
    def repeats(self) -> int:
        """How many divisions there are."""
        return 1 + max(fold.repeat for fold in self.folds)

    def fingerprint(self) -> str:
        """16 hexadecimal digits that differ as soon as anything in the splits does."""
        return hashlib.sha256(json.dumps(_to_json(self), sort_keys=True).encode()).hexdigest()[:16]

    def check(self, clip_ids: Iterable[str], patients: Iterable[str] | None = None) -> tuple[str, ...]:
        """Make sure that these clips can be divided by these splits; return the clips of the splits that are not among them.

        Those are no fault (a clip may have been rejected, or left out by ``--where``).

        Args:
            clip_ids: The clips at hand; a clip may occur more than once.
            patients: Their patients, where known; they must be those of the splits.

        Raises:
            SonokitError: Some clips are unknown to the splits, or belong to another patient there.
        """
        ids = list(clip_ids)
        known = set(self.clip_ids)
        unknown = sorted({c for c in ids if c not in known})
        if unknown:
            raise SonokitError(f"The splits do not know {len(unknown)} of {len(set(ids))} clips ({_some(unknown)}). {_REMEDY}")
        if patients is not None and self.patients:
            pairs = zip(ids, patients, strict=True)
            moved = sorted({c for c, patient in pairs if self._patient_of[c] != str(patient)})
            if moved:
                raise SonokitError(
                    f"{len(moved)} clips belong to another patient than in the splits ({_some(moved)}): one could "
                    f"stand on both sides. {_REMEDY}"
                )
        return tuple(sorted(known.difference(ids)))

    def _without(self, left_out: set[str]) -> tuple[str, ...]:
        return tuple(c for c in self.clip_ids if c not in left_out)

    @cached_property
    def _patient_of(self) -> dict[str, str]:
        return dict(zip(self.clip_ids, self.patients or self.clip_ids, strict=True))


def make_splits(
    table: pd.DataFrame,
    patients: np.ndarray,
    *,
    label: str | None,
    patient_column: str,
    folds: int = 5,
    repeats: int = 1,
    seed: int = 0,
    held_out: float = 0.0,
) -> Splits:
    """Divide clips by patient, so that the classes of ``label`` are spread evenly. The order of the rows does not matter.

    No patient is on both sides. Every class of at least two patients is on every training side, and, where the search finds
    a way, a class of as many patients as folds is on every test side. Clips without a label are divided like a class of their
    own. A numeric label of more than ten values is cut into quarters.

    Args:
        table: ``clip_id``, and perhaps ``site`` and ``label``; several rows of one clip (segments) count once.
        patients: The patient of every row [len(table)].
        label: The column to stratify by, None for none.
        patient_column: What stands for the patient; recorded only.
        folds: Test sides of one division.
        repeats: Divisions; repeat r uses ``seed + r``.
        seed: The same seed gives the same splits.
        held_out: Share of the patients that stay out of every fold.

    Raises:
        SonokitError: Too few patients, or rows of one clip that disagree.
    """
    if label is not None and label not in table:
        raise SonokitError(f"There is no column {label!r} to split by. The columns: {', '.join(map(str, table.columns))}.")
    if not 0 <= held_out < 1:
        raise SonokitError(f"held_out is a share of the patients, from 0 to below 1, not {held_out}.")
    if folds < 2 or repeats < 1:
        raise SonokitError(f"At least 2 folds and 1 repeat are needed, not {folds} and {repeats}.")
    clips = _one_row_a_clip(table, np.asarray(patients, dtype=str), label)
    if label is not None and clips[label].nunique() < 2:
        raise SonokitError(
            f"All clips with a {label!r} have the same one: there is nothing to divide evenly. Name another label."
        )
    classes = classes_of(clips[label]) if label else np.zeros(len(clips), dtype=np.int64)
    names = clips["_patient"].to_numpy(dtype=str)
    out = choose_held_out(classes, names, held_out, seed)  # bool [clips]
    ids, inside = clips["clip_id"].to_numpy(dtype=str), ~out
    divisions: list[Fold] = []
    for repeat in range(repeats):
        fold_of = search_folds(classes[inside], names[inside], folds, seed + repeat)
        divisions += [Fold(repeat, k, tuple(ids[inside][fold_of == k].tolist())) for k in range(folds)]
    splits = Splits(
        clip_ids=tuple(ids.tolist()),
        label=label,
        patient_column=patient_column,
        seed=seed,
        folds=tuple(divisions),
        sites=_sites(clips[inside]),
        held_out=tuple(ids[out].tolist()),
        patients=tuple(names.tolist()),
    )
    _require_sound(splits, "The splits")
    return splits


def write_splits(splits: Splits, path: str | Path) -> None:
    """Write ``splits.json``, atomically."""
    write_json(Path(path), {"schema": _SCHEMA, **_to_json(splits)})


def is_splits(path: str | Path) -> bool:
    """Whether the file is one that ``write_splits`` wrote."""
    try:
        return "folds" in json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def read_splits(path: str | Path) -> Splits:
    """Read ``splits.json`` and check it: each division holds every clip once, and no patient is on both sides.

    Raises:
        SonokitError: No such file, no splits, a newer schema, or a division that breaks the rules.
    """
    path = Path(path)
    if not path.is_file():
        raise SonokitError(f"There are no splits {path}. sonokit split MANIFEST LABEL writes them.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        schema = int(content["schema"])
    except (ValueError, KeyError, TypeError):
        raise SonokitError(f"{path} holds no splits. {_REMEDY}") from None
    if schema > _SCHEMA:
        raise SonokitError(f"{path} has schema {schema}; this sonokit reads up to {_SCHEMA}. Use the sonokit that wrote it.")
    try:
        splits = _from_json(content)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SonokitError(f"{path} holds no whole splits (schema {schema}). {_REMEDY}") from None
    _require_sound(splits, str(path))
    return splits


def _one_row_a_clip(table: pd.DataFrame, patients: np.ndarray, label: str | None) -> pd.DataFrame:
    """clip_id, patient, perhaps site and label; sorted by clip_id, so that the order of the rows changes nothing."""
    columns = ["clip_id", *(c for c in ("site", label) if c is not None and c in table)]
    rows = table[list(dict.fromkeys(columns))].assign(_patient=patients)
    rows = rows.assign(clip_id=rows["clip_id"].astype(str)).drop_duplicates()
    disagreeing = sorted(rows.loc[rows["clip_id"].duplicated(), "clip_id"].unique())
    if disagreeing:
        raise SonokitError(
            f"The rows of {len(disagreeing)} clips disagree about patient, site or {label} ({_some(disagreeing)}). "
            "Give every clip one of each."
        )
    return rows.sort_values("clip_id", ignore_index=True)


def _sites(clips: pd.DataFrame) -> dict[str, tuple[str, ...]]:
    if "site" not in clips:
        return {}
    known = clips[clips["site"].notna()]
    sites = {str(site): tuple(rows["clip_id"].tolist()) for site, rows in known.groupby("site", sort=True)}
    return sites if len(sites) > 1 else {}


def _require_sound(splits: Splits, where: str) -> None:
    """The promises of a division, asserted: nothing lost, nothing twice, no patient on both sides."""
    ids = set(splits.clip_ids)
    patient_of = splits._patient_of
    held_out = set(splits.held_out)
    divisions: dict[int, list[Fold]] = {}
    for fold in splits.folds:
        divisions.setdefault(fold.repeat, []).append(fold)
    for repeat, folds in divisions.items():
        sides = [held_out, *(set(fold.test) for fold in folds)]
        listed = len(splits.held_out) + sum(len(fold.test) for fold in folds)
        if listed != len(ids) or set().union(*sides) != ids or not all(sides[1:]):
            raise SonokitError(f"{where}: division {repeat} loses or repeats clips. {_REMEDY}")
        people = [{patient_of[c] for c in side} for side in sides]
        if sum(map(len, people)) != len(set().union(*people)):
            both = sorted(p for p in set().union(*people) if sum(p in side for side in people) > 1)
            raise SonokitError(f"{where}: division {repeat} has patients on both sides ({_some(both)}). {_REMEDY}")
    if not divisions:
        raise SonokitError(f"{where}: there is no fold. {_REMEDY}")


def _to_json(splits: Splits) -> dict[str, Any]:
    people: dict[str, list[str]] = {}
    for clip, patient in zip(splits.clip_ids, splits.patients or splits.clip_ids, strict=True):
        people.setdefault(patient, []).append(clip)
    return {
        "label": splits.label,
        "patient_column": splits.patient_column,
        "seed": splits.seed,
        "folds": [{**asdict(fold), "test": list(fold.test)} for fold in splits.folds],
        "held_out": list(splits.held_out),
        "sites": {site: list(clips) for site, clips in splits.sites.items()},
        "patients": people,
    }


def _from_json(content: dict[str, Any]) -> Splits:
    pairs = sorted((clip, patient) for patient, clips in content["patients"].items() for clip in clips)
    folds = [Fold(int(f["repeat"]), int(f["fold"]), tuple(f["test"])) for f in content["folds"]]
    return Splits(
        clip_ids=tuple(clip for clip, _ in pairs),
        label=content["label"],
        patient_column=content["patient_column"],
        seed=int(content["seed"]),
        folds=tuple(sorted(folds, key=lambda fold: (fold.repeat, fold.fold))),
        sites={site: tuple(clips) for site, clips in content["sites"].items()},
        held_out=tuple(content["held_out"]),
        patients=tuple(patient for _, patient in pairs),
    )


def _some(names: Sequence[str]) -> str:
    named = ", ".join(names[:_NAMED])
    return named if len(names) <= _NAMED else f"{named} and {len(names) - _NAMED} more"
