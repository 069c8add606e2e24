"""What a user writes after a command: as plain values, as words, as pairs."""

from pathlib import Path
from typing import Any

from .errors import SonokitError


def plain_options(values: dict[str, Any]) -> dict[str, Any]:
    """A command's options as plain values, the form in which config.yaml repeats them."""
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def words(text: str) -> tuple[str, ...]:
    """What stands between the commas."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def pairs(text: str | None) -> dict[str, str]:
    """column=value,column=value as a dict."""
    parts = [word.partition("=") for word in words(text or "")]
    broken = [name for name, sign, _ in parts if not sign]
    if broken:
        raise SonokitError(f"--where takes COLUMN=VALUE, separated by commas; {broken[0]!r} has no '='.")
    names = [name.strip() for name, _, _ in parts]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SonokitError(f"--where names {', '.join(twice)} more than once: a column takes one value.")
    return {name.strip(): value.strip() for name, _, value in parts}
