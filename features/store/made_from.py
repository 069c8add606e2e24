"""What names somebody elsewhere: manifests, reports, predictions, experts, weights, other stores. Found, never changed.

Looked at are text files (JSON, CSV, TSV, YAML, HTML, Markdown) and Parquet tables up to 50 MB; a damaged one is read as plain
text. A picture is not read, nor is what lies deeper than some folders: what is not found here may still exist.
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from ...clips.mentions import Names
from ...errors import SonokitError
from .files import LEFTOVER, is_local
from .store import EmbeddingStore

_LARGEST = 50 << 20
_DEPTH = 5
_OWN = {"rejected.csv", "config.yaml", "splits.json", "set.json", "store.json", "index.json"}  # of a store: erased from it
_NAMING = "names the patient or a clip"


@dataclass(frozen=True)
class Mention:
    """A file, and what it has to do with them."""

    path: Path
    why: str

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


def find_mentions(
    folders: Iterable[Path], names: Names, *, store: Path, fingerprints: Iterable[str] = (), but: Iterable[Path] = ()
) -> list[Mention]:
    """Look through folders for what names these, or was made from the store.

    Args:
        folders: Local folders.
        names: The patient, clips and contents.
        store: The store that they are erased from; what is erased there is not told again.
        fingerprints: Of the store's headers: experts of the same were fitted on rows like these.
        but: Folders to leave out, such as the frame cache.
    """
    found: dict[Path, Mention] = {}
    made_by = set(fingerprints)
    closed = {path.resolve() for path in but}
    own = store.resolve() if is_local(store) else None
    for folder in folders:
        for path in _files(Path(folder), closed):
            if own is not None and path.is_relative_to(own) and _is_erased_there(path):
                continue
            why = _why(path, names, made_by)
            if why is not None:
                found.setdefault(path, Mention(path, why))
    return [found[path] for path in sorted(found)]


def _is_erased_there(path: Path) -> bool:
    """Whether a file of the store loses the names, or goes as what a killed run left."""
    return path.name in _OWN or path.suffix == ".parquet" or path.name.startswith(LEFTOVER)


def _files(folder: Path, closed: set[Path]) -> Iterator[Path]:
    """Readable files to a bounded depth, without hidden folders and without the parts of stores."""
    start = folder.resolve()
    for place, subfolders, files in os.walk(start):
        here = Path(place)
        depth = len(here.relative_to(start).parts)
        is_store = "store.json" in files
        subfolders[:] = [
            name
            for name in sorted(subfolders)
            if depth < _DEPTH and not name.startswith(".") and here / name not in closed and not (is_store and name == "rows")
        ]
        for name in sorted(files):
            path = here / name
            if path.suffix.lower() in _READERS and path.is_file() and path.stat().st_size <= _LARGEST:
                yield path


def _why(path: Path, names: Names, fingerprints: set[str]) -> str | None:
    try:
        return _READERS[path.suffix.lower()](path, names, fingerprints)
    except (OSError, ValueError, RecursionError, SonokitError, yaml.YAMLError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())[:80]
    unread = f"could not be read ({reason}): look at it yourself"
    if path.suffix.lower() == ".parquet":
        return unread
    try:  # its form is damaged, or one that only its program knows; what it names still stands there
        named = _in_plain_text(path.read_text(encoding="utf-8", errors="replace"), names)
    except OSError:
        return unread
    if named:
        return _NAMING
    return unread if path.name in _TELLING else None


_TELLING = {"expert.json", "extractor.json", "sonokit.json", "store.json", "splits.json"}  # whose silence would mislead
_BETWEEN_CELLS = re.compile(r"""[,;\t\r\n"'\[\]{}]+|:\s""")
_ESCAPED = re.compile(r"\\u([0-9a-fA-F]{4})")


def _in_plain_text(text: str, names: Names) -> bool:
    """Whether one of them stands there as a word, or a short one as all, or a folder, of what might be a cell or a value."""
    text = _ESCAPED.sub(lambda match: chr(int(match[1], 16)), text)
    if names.are_in(text):
        return True
    if not any(name in text for name in names.all | names.paths):
        return False
    return any(names.are_value(cell) or names.are_in_path(cell) for cell in {c.strip() for c in _BETWEEN_CELLS.split(text)})


def _json(path: Path, names: Names, fingerprints: set[str]) -> str | None:
    tree = json.loads(path.read_text(encoding="utf-8"))
    if path.name == "store.json":
        return _other_store(path.parent, names)
    if path.name == "expert.json" and _fingerprint(tree) in fingerprints:
        return "an expert, perhaps fitted on these rows (its store has this store's fingerprint): fit it anew"
    if _has_learnt_from(tree, names):
        return "weights that have learnt from the patient or a clip: train them anew"
    return _NAMING if names.are_in_tree(tree) else None


def _fingerprint(expert: Any) -> str | None:
    """Of the store that an expert was fitted on, if it says so; another program's expert.json may say anything."""
    about = expert.get("store") if isinstance(expert, dict) else None
    value = about.get("fingerprint") if isinstance(about, dict) else None
    return value if isinstance(value, str) else None


def _other_store(folder: Path, names: Names) -> str | None:
    table = EmbeddingStore.open(folder).table(["clip_id", "patient_id", "content_hash"])
    columns = (
        (table["clip_id"], names.clip_ids),
        (table["patient_id"], names.patients),
        (table["content_hash"], names.content_hashes),
    )
    held = any(pc.any(pc.is_in(column, value_set=pa.array(sorted(values), pa.string()))).as_py() for column, values in columns)
    return "another store that holds rows of them: sonokit store drop there, too" if held else None


def _has_learnt_from(tree: Any, names: Names) -> bool:
    """Whether a list of training clips or patients, anywhere inside, has one of them."""
    if isinstance(tree, list):
        return any(_has_learnt_from(value, names) for value in tree)
    if not isinstance(tree, dict):
        return False
    seen = [value for key, value in tree.items() if key in ("training_clips", "training_patients")]
    return names.are_in_tree(seen) or any(_has_learnt_from(value, names) for value in tree.values())


def _lines(path: Path, names: Names, fingerprints: set[str]) -> str | None:
    trees = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return _NAMING if names.are_in_tree(trees) else None


def _yaml(path: Path, names: Names, fingerprints: set[str]) -> str | None:
    return _NAMING if names.are_in_tree(yaml.safe_load(path.read_text(encoding="utf-8"))) else None


def _csv(path: Path, names: Names, fingerprints: set[str]) -> str | None:
    return _NAMING if _in_plain_text(path.read_text(encoding="utf-8", errors="replace"), names) else None


def _text(path: Path, names: Names, fingerprints: set[str]) -> str | None:
    return _NAMING if names.are_in(path.read_text(encoding="utf-8", errors="replace")) else None


def _parquet(path: Path, names: Names, fingerprints: set[str]) -> str | None:
    with path.open("rb") as opened:  # a path with a colon would be taken for a URL
        file = pq.ParquetFile(opened)
        wanted = [name for name in ("clip_id", "patient_id", "content_hash", "path") if name in file.schema_arrow.names]
        table = file.read(columns=wanted)
    values = (value for column in table.columns for value in pc.unique(column.cast(pa.string())).to_pylist() if value)
    return _NAMING if any(names.are_value(value) or names.are_in_path(value) for value in values) else None


_READERS: dict[str, Callable[[Path, Names, set[str]], str | None]] = {
    ".json": _json, ".jsonl": _lines, ".yaml": _yaml, ".yml": _yaml, ".csv": _csv, ".tsv": _csv,
    ".html": _text, ".md": _text, ".txt": _text, ".parquet": _parquet,
}  # fmt: skip
