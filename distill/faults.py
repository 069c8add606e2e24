"""What is wrong in a file of expert knowledge: counted and told, never mended on the way."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from ..errors import SonokitError

_EXAMPLES = 3  # of each kind; a file of a million samples has as many faults


@dataclass
class Faults:
    """Counts of faults by kind, with the first places where each was met.

    Attributes:
        source: The file, as it is told to the user.
        checked: How many things (samples, regions, points) were looked at.
        counts: Kind -> how often; a kind that never occurred is absent.
        examples: Kind -> at most three places, such as "line 7" or "scan12.png".
    """

    source: str = ""
    checked: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, kind: str, count: int = 1, places: Iterable[object] = ()) -> None:
        """Count a fault ``count`` times; 0 leaves no trace."""
        if count <= 0:
            return
        self.counts[kind] = self.counts.get(kind, 0) + int(count)
        known = self.examples.setdefault(kind, [])
        for place in places:
            if len(known) >= _EXAMPLES:
                break
            known.append(str(place))

    def __getitem__(self, kind: str) -> int:
        return self.counts.get(kind, 0)

    def __bool__(self) -> bool:
        return bool(self.counts)

    def lines(self) -> list[str]:
        """One line a kind, the most frequent first, for a person."""
        ordered = sorted(self.counts, key=lambda kind: (-self.counts[kind], kind))
        return [f"{kind.replace('_', ' ')}: {self.counts[kind]} of {self.checked}{self._where(kind)}" for kind in ordered]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a report."""
        return {"source": self.source, "checked": self.checked, "counts": dict(self.counts), "examples": dict(self.examples)}

    def refuse(self, *kinds: str) -> None:
        """Stop if one of these kinds occurred, or any kind where none is named.

        Raises:
            SonokitError: It did.
        """
        met = [kind for kind in (kinds or self.counts) if self[kind]]
        if met:
            told = "; ".join(f"{self[kind]} × {kind.replace('_', ' ')}{self._where(kind)}" for kind in met)
            raise SonokitError(f"{self.source or 'the data'}: {told}. Mend the file, or say how to treat them.")

    def merge(self, other: "Faults") -> None:
        """Take over what another part of the same data has counted."""
        self.checked += other.checked
        for kind, count in other.counts.items():
            self.add(kind, count, other.examples.get(kind, ()))

    def _where(self, kind: str) -> str:
        places = self.examples.get(kind)
        return f" ({', '.join(places)}{', …' if self[kind] > len(places) else ''})" if places else ""
