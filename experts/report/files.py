"""report.json and, for very many clips, predictions.parquet beside it: what is written of a report and how it is read again."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...atomic import write_json
from ...errors import SonokitError

PREDICTIONS_FILE = "predictions.parquet"


def write_report(report: dict[str, Any], folder: Path) -> None:
    """Write ``report.json`` into ``folder``, and predictions that came as arrays into ``predictions.parquet``.

    The Parquet file has a row for each clip of each repeat: ``part`` (out_of_fold or held_out), ``repeat``, ``clip_id``,
    ``patient``, ``truth`` (class code or number), and ``p_0`` … ``p_<K-1>`` or ``value``.
    """
    kept, tables = dict(report), []
    for part, holder in _parts(kept):
        told = holder["predictions"]
        if isinstance(told["values"], np.ndarray):
            tables.append(_as_table(part, told))
            holder["predictions"] = {"task": told["task"], "classes": told["classes"], "file": PREDICTIONS_FILE}
    if tables:
        pq.write_table(pa.concat_tables(tables), folder / PREDICTIONS_FILE, compression="zstd")
    write_json(folder / "report.json", kept)


def read_report(folder: str | Path) -> dict[str, Any]:
    """The content of ``report.json`` with its predictions, wherever these lie.

    Raises:
        SonokitError: The folder has no report, or of something else, or the predictions beside it are missing or damaged.
    """
    file = Path(folder) / "report.json"
    try:
        report: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as fault:  # ValueError: not UTF-8, or not JSON
        raise SonokitError(f"{folder} has no readable report.json: give the folder that fit-expert wrote") from fault
    if not isinstance(report, dict) or "task" not in report:
        raise _other_content(folder)
    for part, holder in _parts(report):
        told = holder["predictions"]
        if not isinstance(told, dict):
            raise _other_content(folder)
        if "file" in told:
            holder["predictions"] = _read_part(Path(folder) / told["file"], part, told)
    return report


def _other_content(folder: str | Path) -> SonokitError:
    return SonokitError(f"{folder}: report.json is not an expert's report: give the folder that fit-expert wrote")


def _parts(report: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each place of a report that has predictions, the held-out part's as a copy that is put in its place."""
    if "predictions" in report:
        yield "out_of_fold", report
    held_out = report.get("held_out")
    if isinstance(held_out, dict) and "predictions" in held_out:
        report["held_out"] = dict(held_out)
        yield "held_out", report["held_out"]


def _as_table(part: str, told: dict[str, Any]) -> pa.Table:
    values = np.asarray(told["values"])
    repeats, clips = values.shape[:2]
    flat = values.reshape(repeats * clips, -1)
    names = [f"p_{code}" for code in range(flat.shape[1])] if told["classes"] else ["value"]
    columns = {
        "part": pa.array(np.repeat(part, repeats * clips)).dictionary_encode(),
        "repeat": pa.array(np.repeat(np.arange(repeats, dtype=np.int32), clips)),
        "clip_id": pa.array(np.tile(told["clip_ids"], repeats)).dictionary_encode(),
        "patient": pa.array(np.tile(told["patients"], repeats)).dictionary_encode(),
        "truth": pa.array(np.tile(told["truth"], repeats)),
    }
    # a held-out part of other classes cannot be: both parts have the same columns
    return pa.table(columns | {name: pa.array(flat[:, k]) for k, name in enumerate(names)}).unify_dictionaries()


def _read_part(file: Path, part: str, told: dict[str, Any]) -> dict[str, Any]:
    try:
        table = pq.read_table(file, filters=[("part", "=", part)])
    except FileNotFoundError as fault:
        raise SonokitError(f"{file} is missing, where report.json says the predictions are: copy the whole folder") from fault
    except (OSError, pa.ArrowException) as fault:
        raise SonokitError(f"{file} is damaged ({str(fault).splitlines()[0]}): copy the whole folder anew") from fault
    repeats = int(table["repeat"].to_numpy().max()) + 1
    clips = len(table) // repeats
    names = [f"p_{code}" for code in range(len(told["classes"]))] if told["classes"] else ["value"]
    values = np.stack([table[name].to_numpy() for name in names], axis=1)  # [R·N, K]
    shape = (repeats, clips, len(names)) if told["classes"] else (repeats, clips)
    first = table.slice(0, clips)
    return {
        "task": told["task"],
        "classes": told["classes"],
        "clip_ids": np.asarray(first["clip_id"].to_pylist(), dtype=str),
        "patients": np.asarray(first["patient"].to_pylist(), dtype=str),
        "truth": first["truth"].to_numpy(),
        "values": values.reshape(shape),
    }
