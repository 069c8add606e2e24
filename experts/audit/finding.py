"""One check of an audit: what was asked, how it came out, and the figure that says so."""

from dataclasses import dataclass, field
from typing import Any, Literal

Level = Literal["fine", "look", "stop", "not measured"]
"""How a check came out: nothing found; somebody should look; no score counts until it is dealt with; could not be asked."""


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes:
        name: For programs: "site", "near_duplicates", … .
        title: For people.
        level: How it came out.
        reason: One sentence with the figure.
        figures: What the sentence stands on, plain values.
        rows: What is listed under it (pairs of clips, candidates), each with the same keys.
    """

    name: str
    title: str
    level: Level
    reason: str
    figures: dict[str, Any] = field(default_factory=dict)
    rows: tuple[dict[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "name": self.name, "title": self.title, "level": self.level, "reason": self.reason, "figures": self.figures,
            "rows": list(self.rows),
        }  # fmt: skip
