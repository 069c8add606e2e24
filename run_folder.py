"""The record that every command leaves beside what it made: its settings, its measurements, the software it ran on."""

import importlib.metadata
import json
import platform
import sys
from pathlib import Path
from typing import Any

import yaml

from .atomic import write_json, write_text
from .errors import SonokitError

_RECORDED_PACKAGES = (
    "sonokit", "torch", "timm", "lightly", "pytorch-lightning", "numpy", "pandas", "pyarrow", "scikit-learn", "xgboost",
    "faiss-cpu", "av", "decord2", "pydicom", "openvino", "onnxruntime", "ray", "captum", "cleanlab",
)  # fmt: skip

_INDIFFERENT = {"out", "cache", "workers"}  # where things lie and who reads them does not change what they are


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write the resolved settings of a command to ``folder/config.yaml`` and the software versions to ``environment.json``.

    ``config`` holds plain values (str, int, float, bool, None, lists, dicts; paths as str), under the names of the command's
    options, so that ``sonokit COMMAND --config folder/config.yaml`` repeats the run.
    """
    write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    write_json(folder / "environment.json", environment())


def require_same_config(folder: Path, config: dict[str, Any]) -> None:
    """Refuse to go on in a folder that another setting has begun.

    Raises:
        SonokitError: ``folder/config.yaml`` exists and differs from ``config``; the message names the differing options.
    """
    file = folder / "config.yaml"
    if not file.exists():
        return
    before = yaml.safe_load(file.read_text(encoding="utf-8")) or {}
    keys = (before.keys() | config.keys()) - _INDIFFERENT
    differing = sorted(k for k in keys if before.get(k) != config.get(k))
    if differing:
        changes = ", ".join(f"{k}: {before.get(k)!r} there, {config.get(k)!r} now" for k in differing)
        raise SonokitError(f"{folder} was begun with other settings ({changes}). Choose another --out, or remove that folder.")


def append_metrics(folder: Path, row: dict[str, Any]) -> None:
    """Append one JSON object to ``folder/metrics.jsonl``."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "metrics.jsonl", "a", encoding="utf-8") as handle:
        handle.write(json.dumps(row) + "\n")


def environment() -> dict[str, Any]:
    """Versions of Python and of the packages that results depend on, and the platform."""
    versions: dict[str, str | None] = {}
    for name in _RECORDED_PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {"python": sys.version.split()[0], "platform": platform.platform(), "packages": versions}
