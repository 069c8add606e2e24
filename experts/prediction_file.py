"""The file of ``predict --out``: what may be replaced by it, and how it is written."""

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ..atomic import atomic_path
from ..errors import SonokitError

_KEYS = ("clip_id", "patient_id")
_ENDINGS = (".csv", ".json")


def require_replaceable(out: Path, inputs: Mapping[str, Any]) -> None:
    """Refuse a file that predictions may not take the place of; to be asked before the work.

    Args:
        out: Where the predictions are to go.
        inputs: Option -> what the predictions are made of, a path or a URL; None where it is not given.

    Raises:
        SonokitError: ``out`` ends in neither .csv nor .json, is a folder, is one of the inputs, or is there and holds something
            else than predictions.
    """
    if out.suffix.lower() not in _ENDINGS:
        raise SonokitError(f"{out}: predictions are written as CSV or JSON, so let --out end in .csv or .json.")
    for option, given in inputs.items():
        if given is not None and _same_place(out, given):
            raise SonokitError(f"{out} is what the predictions are made of ({option}). Choose another --out.")
    if out.is_dir():
        raise SonokitError(f"{out} is a folder: name a file that ends in .csv or .json as --out.")
    if out.exists() and not _is_predictions(out):
        raise SonokitError(f"{out} is there already and holds no predictions. Choose another --out.")


def write_predictions(table: pd.DataFrame, out: Path) -> None:
    """Write the table of :func:`~sonokit.experts.predict.predict`, as its file's ending says."""
    with atomic_path(out) as temporary:
        if out.suffix.lower() == ".json":
            table.to_json(temporary, orient="records", indent=2, double_precision=15)
        else:
            table.to_csv(temporary, index=False)


def _same_place(out: Path, given: Any) -> bool:
    return Path(out).resolve() == Path(str(given)).resolve()


def _is_predictions(file: Path) -> bool:
    """Whether a file looks like an earlier call's table."""
    try:
        text = file.read_text(encoding="utf-8-sig")
        if text.lstrip().startswith("["):
            rows = json.loads(text)
            return not rows or (isinstance(rows[0], dict) and _are_columns(list(rows[0])))
        return _are_columns(next(csv.reader(text.splitlines()[:1]), []))
    except (OSError, ValueError, csv.Error):
        return False


def _are_columns(names: list[str]) -> bool:
    """The name of a case, then what is said of it: ``prediction``, or of several labels a label beside its own figures."""
    if len(names) < 2 or names[0] not in _KEYS:
        return False
    label = names[1]
    figures = any(name == f"p_{label}" or name.startswith(f"p_{label}_") for name in names[2:])
    return label == "prediction" or figures or {f"low_{label}", f"high_{label}"} <= set(names[2:])
