"""Whether a text names a patient or one of their clips: what erasing somebody looks for, wherever it looks."""

import html
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

_ALONE = re.compile(r"\d{0,7}|.{0,3}", re.DOTALL)
"""Names that would be found by chance in any text ("7", "no"): they count where a whole value is the name."""


@dataclass(frozen=True)
class Names:
    """What somebody is called in files.

    Attributes:
        patients: Names of the patient.
        clip_ids: Of their clips.
        content_hashes: Of the clips' files.
    """

    patients: frozenset[str] = frozenset()
    clip_ids: frozenset[str] = frozenset()
    content_hashes: frozenset[str] = frozenset()

    @classmethod
    def of(cls, patients: Iterable[str] = (), clip_ids: Iterable[str] = (), content_hashes: Iterable[str] = ()) -> "Names":
        """From any iterables."""
        return cls(frozenset(patients), frozenset(clip_ids), frozenset(content_hashes))

    @cached_property
    def all(self) -> frozenset[str]:
        """Every name; a content's first 16 digits are one, too, as lists of training clips shorten them."""
        return self.patients | self.clip_ids | self.content_hashes | {h[:16] for h in self.content_hashes if len(h) > 16}

    def are_value(self, value: str) -> bool:
        """Whether ``value`` is one of the names, or a text with one as a word of its own (``p-07`` is not in ``p-071``)."""
        return value in self.all or bool(self._pattern is not None and self._pattern.search(value))

    def are_in(self, text: str) -> bool:
        """Whether a name stands in ``text`` as a word; a short one, which any text has, as a cell of an HTML table."""
        if any(f">{html.escape(name)}<" in text for name in self.all):
            return True
        if self._pattern is None:
            return False
        return bool(self._pattern.search(text) or ("&" in text and self._pattern.search(html.unescape(text))))

    def are_in_tree(self, tree: Any) -> bool:
        """Whether one is a value or a key anywhere in nested lists and dicts."""
        if isinstance(tree, dict):
            return any(self.are_value(str(key)) or self.are_in_tree(value) for key, value in tree.items())
        if isinstance(tree, list):
            return any(self.are_in_tree(value) for value in tree)
        return isinstance(tree, str) and self.are_value(tree)

    def erased_from(self, tree: Any, by: str = "erased") -> Any:
        """Nested lists and dicts with ``by`` in the place of every name that stands in their texts."""
        if isinstance(tree, dict):
            return {key: self.erased_from(value, by) for key, value in tree.items()}
        if isinstance(tree, list):
            return [self.erased_from(value, by) for value in tree]
        if not isinstance(tree, str) or not self.are_value(tree):
            return tree
        return by if tree in self.all or self._pattern is None else self._pattern.sub(by, tree)

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        looked_for = sorted((name for name in self.all if not _ALONE.fullmatch(name)), key=len, reverse=True)
        if not looked_for:
            return None
        return re.compile(rf"(?<![^\W_])(?:{'|'.join(map(re.escape, looked_for))})(?![^\W_])")
