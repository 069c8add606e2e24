"""skops files, read without constructing anything that is not trusted."""

import json
import sys
import zipfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from ...errors import SonokitError

LIBRARIES = ("builtins", "collections", "numpy", "scipy", "sklearn")
"""Whose types may be in a file at all, unless one is named as trusted."""


def dump(thing: Any, file: Path) -> None:
    """Write a fitted scikit-learn estimator."""
    with _skops() as skops:
        skops.dump(thing, file)


def load_only(file: Path, types: Collection[str], kind: str) -> Any:
    """Read a file that may hold these types and plain values, and nothing else.

    Raises:
        SonokitError: It is missing, no skops file, or holds another type, which is named and not constructed.
    """
    with _skops() as skops:
        # skops itself trusts far more than is needed here, so its list is looked at by our own
        strange = sorted(_types_in(file) - set(types)) or skops.get_untrusted_types(file=file)
        if strange:
            raise SonokitError(f"{file} holds types that no {kind} has ({', '.join(strange)}): it is not loaded")
        return skops.load(file, trusted=[])


def load_estimator(file: Path, trusted: Collection[str] = ()) -> Any:
    """Read any estimator of the numpy, scipy and scikit-learn types that skops trusts, and of those in ``trusted``.

    Raises:
        SonokitError: It is missing, no skops file, or holds another type, which is named and not constructed.
    """
    with _skops() as skops:
        strange = sorted(untrusted_types(file) - set(trusted))
        if strange:
            raise SonokitError(
                f"{file} holds types that are not trusted ({', '.join(strange)}): it is not loaded. Who knows where the file "
                f"is from names them: --trust {','.join(strange)} (in Python trusted=…)"
            )
        return skops.load(file, trusted=skops.get_untrusted_types(file=file))


def untrusted_types(file: Path) -> set[str]:
    """Types in a file that :func:`load_estimator` reads only where they are named; nothing is constructed.

    Raises:
        SonokitError: It is missing, or no skops file.
    """
    foreign = {name for name in _types_in(file) if name.split(".")[0] not in LIBRARIES}
    with _skops() as skops:
        return foreign | set(skops.get_untrusted_types(file=file))


def _types_in(file: Path) -> set[str]:
    """Every type that a skops file would construct, read from its schema without constructing any."""
    try:
        with zipfile.ZipFile(file) as archive:
            schema = json.loads(archive.read("schema.json"))
    except (OSError, KeyError, zipfile.BadZipFile, json.JSONDecodeError) as fault:
        raise SonokitError(f"{file} is missing or not a skops file: fit the expert again") from fault
    return {name for name in _walk(schema) if not name.startswith("builtins.")}


def _walk(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "__class__" in node and "__module__" in node:
            yield f"{node['__module__']}.{node['__class__']}"
        for child in node.values():
            yield from _walk(child)
    elif isinstance(node, list):
        for child in node:
            yield from _walk(child)


@contextmanager
def _skops() -> Iterator[ModuleType]:
    """``skops.io``, imported without torch.

    To list scikit-learn's estimators skops imports every module of it, one of which would pull torch in (several seconds,
    and torch need not be there for a linear head); that module alone is skipped while torch looks absent.
    """
    hide = "torch" not in sys.modules and "skops.io" not in sys.modules
    if hide:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        import skops.io

        yield skops.io
    finally:
        if hide:
            del sys.modules["torch"]
