"""Whether a text names a patient or one of their clips: what erasing somebody looks for, wherever it looks."""

import html
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

_ALONE = re.compile(r"\d{0,7}|.{0,3}", re.DOTALL)
"""Names that would be found by chance in any text ("7", "no"): they count where a whole value is the name, or a folder."""

_DIGIT = re.compile(r"\d")


@dataclass(frozen=True)
class Names:
    """What somebody is called in files.

    Attributes:
        patients: Names of the patient.
        clip_ids: Of their clips.
        content_hashes: Of the clips' files.
        paths: Of the clips' files, absolute ones and URLs, or relative as a manifest has them.
    """

    patients: frozenset[str] = frozenset()
    clip_ids: frozenset[str] = frozenset()
    content_hashes: frozenset[str] = frozenset()
    paths: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        patients: Iterable[str] = (),
        clip_ids: Iterable[str] = (),
        content_hashes: Iterable[str] = (),
        paths: Iterable[str] = (),
    ) -> "Names":
        """From any iterables."""
        return cls(frozenset(patients), frozenset(clip_ids), frozenset(content_hashes), frozenset(paths))

    @cached_property
    def all(self) -> frozenset[str]:
        """Every name; a content's first 16 digits are one, too, as lists of training clips shorten them."""
        return self.patients | self.clip_ids | self.content_hashes | {h[:16] for h in self.content_hashes if len(h) > 16}

    def are_value(self, value: str) -> bool:
        """Whether ``value`` is one of the names, or a text with one as a word of its own (``p-07`` is not in ``p-071``)."""
        return value in self.all or bool(self._pattern is not None and self._pattern.search(value))

    def are_in_path(self, path: str) -> bool:
        """Whether ``path``, or a clip_id in the form of one, is of the patient or a clip.

        The patient counts, however short the name, as a whole folder, or as a file without its ending; a name with a digit, if
        it is long enough, also as a word (``p-07_view1.mp4``). A clip counts with its folder (``p-07/view1``): ``video1`` alone
        is a file of everybody's, for which the whole value or the known path must be the clip's.
        """
        if path in self.paths or path in self.all:
            return True
        return bool(self._in_paths is not None and self._in_paths.search(path))

    def are_in(self, text: str) -> bool:
        """Whether a name stands in ``text`` as a word; a short one, which any text has, as a cell of an HTML table."""
        if any(f">{html.escape(name)}<" in text for name in self.all):
            return True
        if self._pattern is None:
            return False
        return bool(self._pattern.search(text) or ("&" in text and self._pattern.search(html.unescape(text))))

    def are_in_tree(self, tree: Any) -> bool:
        """Whether one is a value or a key, or in a path, anywhere in nested lists and dicts."""
        if isinstance(tree, dict):
            return any(self.are_in_tree(str(key)) or self.are_in_tree(value) for key, value in tree.items())
        if isinstance(tree, list):
            return any(self.are_in_tree(value) for value in tree)
        return isinstance(tree, str) and (self.are_value(tree) or self.are_in_path(tree))

    def erased_from(self, tree: Any, by: str = "erased") -> Any:
        """Nested lists and dicts with ``by`` in the place of every name that stands in their texts."""
        if isinstance(tree, dict):
            return {key: self.erased_from(value, by) for key, value in tree.items()}
        if isinstance(tree, list):
            return [self.erased_from(value, by) for value in tree]
        if not isinstance(tree, str):
            return tree
        if tree in self.all or tree in self.paths:
            return by
        text = tree if self._pattern is None else self._pattern.sub(by, tree)
        return text if self._in_paths is None else self._in_paths.sub(by, text)

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        looked_for = sorted((name for name in self.all if not _ALONE.fullmatch(name)), key=len, reverse=True)
        if not looked_for:
            return None
        return re.compile(rf"(?<![^\W_])(?:{_any_of(looked_for)})(?![^\W_])")

    @cached_property
    def _in_paths(self) -> re.Pattern[str] | None:
        with_folders = {name for name in self.clip_ids | self.paths if "/" in name.strip("/")}
        whole = sorted({*self.patients, *with_folders} - {""}, key=len, reverse=True)
        if not whole:
            return None
        patterns = [rf"(?:(?<=[/\\])|^)(?:{_any_of(whole)})(?=[/\\]|\.[^/\\.]+$|$)"]
        words = [name for name in self.patients if _DIGIT.search(name) and not _ALONE.fullmatch(name)]
        if words:
            patterns.append(rf"(?<![^\W_])(?:{_any_of(words)})(?![^\W_])")
        return re.compile("|".join(patterns))


def _any_of(names: Iterable[str]) -> str:
    return "|".join(map(re.escape, names))
