"""The findings in one word and one last sentence."""

from collections.abc import Sequence

from .columns import COLUMNS
from .finding import Finding, Level

_ORDER: tuple[Level, ...] = ("stop", "look", "fine")
_LEAKS = {"same_content", "splits", "extractor"}


def overall(findings: Sequence[Finding]) -> Level:
    """The gravest level of any check; what was not measured weighs nothing."""
    levels = {finding.level for finding in findings}
    return next((level for level in _ORDER if level in levels), "not measured")


def closing(findings: Sequence[Finding], label: str, patients: int) -> str:
    """What all of it means for a score on these rows.

    Args:
        findings: All checks.
        label: What would be predicted.
        patients: How many there are.
    """
    stops = {finding.name for finding in findings if finding.level == "stop"}
    sentences = []
    if stops & _LEAKS:
        sentences.append(
            "The same patients or films are on both sides, or the extractor knew their labels: no score on these rows counts "
            "until that is put right."
        )
    shortcuts = [words for name, words in COLUMNS.items() if name in stops]
    if shortcuts:
        sentences.append(
            f"{_listed(shortcuts)} {'tell' if len(shortcuts) > 1 else 'tells'} the {label}: a score on these rows says little "
            "about the patients themselves until it clears whole sites left out and the file metadata."
        )
    elif stops - _LEAKS:
        sentences.append(
            f"Beside what the file and the site say, the pictures are not shown to tell the {label}: a score on these rows "
            "means little by itself."
        )
    if sentences:
        return " ".join(sentences)
    if overall(findings) == "look":
        return f"Nothing here forbids a score for {label}; read it beside what there is to look at."
    return (
        f"By these checks nothing gives the {label} away; {patients} patients show strong effects only, so absence is no proof."
    )


def _listed(words: list[str]) -> str:
    named = [f"the {word}" for word in words]
    text = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
    return text[0].upper() + text[1:]
