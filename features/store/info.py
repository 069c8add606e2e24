"""What is in a store, or a set of stores, in words."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .files import as_folder
from .rows import StoreHeader
from .store import EmbeddingStore, StoreSet, open_stores

_VALUES = 12  # of a label that are counted one by one; a label of more is told by its range


def describe(folder: str | Path) -> list[str]:
    """Lines that say what a store or store set holds.

    Raises:
        SonokitError: ``folder`` is neither.
    """
    opened = open_stores(as_folder(folder))
    if isinstance(opened, StoreSet):
        first = f"{opened.folder}: a set of {len(opened.folds)} stores, one a fold, and a final one; the final one:"
        return [first, *_lines(opened.final), f"floor        {_floor(opened.floor)}", _size(opened.folder)]
    return [f"{opened.folder}: a store", *_lines(opened), f"floor        {_floor(opened.floor)}", _size(opened.folder)]


def _lines(store: EmbeddingStore) -> list[str]:
    header, catalogue = store.header, store.parts.catalogue()
    all_rows = header.row_count + catalogue.superseded_rows
    share = catalogue.superseded_rows / all_rows if all_rows else 0.0
    counts = _counted(store)
    patients = len(counts.pop("patient_id")) or "unknown"
    lines = [
        f"made by      {header.kind} {header.model}, fingerprint {header.fingerprint}"
        + (", fitted on labels" if header.fitted_on_labels else ", without labels"),
        f"rows         {header.row_count} of {header.clip_count} clips of {patients} patients",
        f"embedding    {header.dimensions} x {header.dtype}; {_cut(header)}",
        f"parts        {len(catalogue.parts)}, {share:.1%} of the rows superseded",
        f"index        {_index(store)}",
        f"sites        {_values(counts.pop('site'))}",
    ]
    return lines + [f"label        {name}: {_values(values)}" for name, values in counts.items()]


def _cut(header: StoreHeader) -> str:
    return f"up to {header.segments} segments of {header.segment_frames} frames at {header.size} pixels a clip"


def _counted(store: EmbeddingStore) -> dict[str, Counter[Any]]:
    """Clips by value of every label, of the site and of the patient; unknown values are left out."""
    fixed = set(store.header_on_disk.fixed_schema().names)
    columns = ["patient_id", "site", *(name for name in store.columns() if name not in fixed)]
    counts: dict[str, Counter[Any]] = {name: Counter() for name in columns}
    for table in _one_row_a_clip(store, columns):
        for name in columns:
            for pair in pc.value_counts(table[name].drop_null()).to_pylist():
                counts[name][pair["values"]] += pair["counts"]
    return counts


def _one_row_a_clip(store: EmbeddingStore, columns: list[str]) -> Iterator[pa.Table]:
    for table in store.tables(["clip_id", *columns]):
        encoded = table["clip_id"].combine_chunks().dictionary_encode()
        first = pc.index_in(encoded.dictionary, value_set=table["clip_id"])
        yield table.take(first)


def _values(counts: Counter[Any]) -> str:
    if not counts:
        return "unknown"
    if len(counts) > _VALUES:
        known = sum(counts.values())
        if all(isinstance(value, float) for value in counts):
            return f"{min(counts):g} to {max(counts):g}, known of {known} clips"
        return f"{len(counts)} values, known of {known} clips"
    ordered = sorted(counts.items(), key=lambda pair: str(pair[0]))
    return ", ".join(f"{value:g} ({n})" if isinstance(value, float) else f"{value} ({n})" for value, n in ordered)


def _index(store: EmbeddingStore) -> str:
    try:
        values = dict(json.loads((store.folder / "index.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        values = {}
    if "kind" not in values:
        return "none; the next search makes it"
    recall = values.get("recall_at_10")
    state = "" if values.get("stamp") == store.stamp() else ", older than the rows: the next search makes it anew"
    return f"{values.get('kind')}" + (f", recall@10 {recall:.3f} against exact search" if recall is not None else "") + state


def _floor(floor: EmbeddingStore | None) -> str:
    return (
        "none"
        if floor is None
        else f"{floor.header.clip_count} clips through {floor.header.model}, fingerprint {floor.header.fingerprint}"
    )


def _size(folder: Path) -> str:
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"on disk      {total / 1e6:.1f} MB"
