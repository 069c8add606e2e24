"""A set of biomarker extractors as a teacher: fold k is taught by the one that the clips which fold k tests are new to."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...clips.splits import Splits, read_splits
from ...errors import SonokitError
from ...features.extractors.folder import load_extractor, read_extractor
from .teacher_networks import ExtractorTeacher


@dataclass(frozen=True, eq=False)
class ExtractorSet:
    """The set.

    Attributes:
        folder: Of the set.
        findings: Those that are asked for.
        splits: That it was trained with.
        size: Side of its frames.
        fingerprint: Of all its extractors.
    """

    folder: Path
    findings: tuple[str, ...]
    splits: Splits
    size: int
    fingerprint: str

    def network(self, fold: int | None) -> ExtractorTeacher:
        """Of a fold; None: the final one."""
        place = self.place(fold)
        return ExtractorTeacher(load_extractor(place), self.findings, str(place))

    def provenance(self, fold: int | None) -> dict[str, Any]:
        """Whose labels that one has seen."""
        seen: dict[str, Any] = read_extractor(self.place(fold))["provenance"]
        return seen

    def place(self, fold: int | None) -> Path:
        """Folder of a fold's extractor; None: of the final one."""
        return self.folder / ("final" if fold is None else f"fold-{fold}")


def is_extractor_set(folder: Path) -> bool:
    """Whether a folder is a set of extractors."""
    try:
        return bool(json.loads((folder / "set.json").read_text(encoding="utf-8"))["kind"] == "extractor-set")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def read_extractor_set(folder: Path, findings: Sequence[str]) -> ExtractorSet:
    """Read a set.

    Args:
        folder: That ``train-biomarkers --splits`` wrote.
        findings: Those that are asked for.

    Raises:
        SonokitError: It is unfinished, or lacks a finding.
    """
    if not (folder / "report.json").is_file():
        raise SonokitError(f"{folder} is unfinished: run the same train-biomarkers command again, it only does what is missing")
    splits = read_splits(folder / "splits.json")
    final = read_extractor(folder / "final")
    absent = [one for one in findings if one not in final["biomarkers"]]
    if absent:
        raise SonokitError(f"{folder} knows {', '.join(final['biomarkers'])}, not {absent[0]}: name labels that it knows")
    places = [folder / f"fold-{k}" for k in range(len(splits.folds))]
    prints = [read_extractor(place)["fingerprint"] for place in (*places, folder / "final")]
    return ExtractorSet(folder, tuple(findings), splits, int(final["size"]), " ".join([splits.fingerprint(), *prints]))
