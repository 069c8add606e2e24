"""A page of a clip beside its nearest neighbours: frames, similarity, who and where, labels that agree or differ, biomarkers.

The page holds its pictures inside. Frames come from the frame cache by the clips' content hashes; without a cache, or for a
clip that is not in it, a plain box stands for them. Nothing is shown that is not in the store or the cache; patient ids
and clip names are, and the page says so.
"""

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import jinja2
import numpy as np
import pandas as pd
from PIL import Image

from ...atomic import write_text
from ...clips.cached_clips import CacheSettings
from ...clips.sampling import Sampling
from ...clips.shards import StoredClips, open_shards
from ...errors import SonokitError
from ..store import EmbeddingStore
from ..store.rows import StoreHeader
from .index import open_index
from .index_rows import IndexRows

_STRIP = 4  # frames a clip
_SIDE = 192  # pixels; shown at up to half of that, sharp on dense screens
_NOT_LABELS = ("path", "url", "licence", "row_id")


@dataclass(frozen=True)
class Asked:
    """A clip that is asked about and is not in the store.

    Attributes:
        name: What to call it.
        frames: uint8 [T, S, S], or None.
        facts: Whatever is known of it, by the store's column names (patient_id, site, labels).
        biomarkers: Probabilities by name.
    """

    name: str
    frames: np.ndarray | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    biomarkers: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class _Card:
    """What the page says of one clip."""

    name: str
    picture: str | None
    similarity: float | None
    facts: list[tuple[str, str]]
    labels: list[tuple[str, str, str]]  # name, value, how it stands to the query's
    biomarkers: list[tuple[str, float]]


class CachedFrames:
    """The frames of clips by content hash, from whatever settings the cache was filled with; the store's own come first."""

    def __init__(self, cache: Path, header: StoreHeader) -> None:
        own = CacheSettings(header.size, Sampling(**cast(dict[str, Any], header.sampling))).key
        folders = sorted((p for p in Path(cache).glob("grey-*") if p.is_dir()), key=lambda p: (p.name != own, p.name))
        if not folders:
            raise SonokitError(f"{cache} is not a frame cache; give the --cache that extract-features used")
        self._stores: list[StoredClips] = [open_shards(p, int(p.name.split("-")[1])) for p in folders]

    def of(self, content_hash: str) -> np.ndarray | None:
        """uint8 [T, S, S], or None where the cache lacks this content."""
        for stored in self._stores:
            position = int(stored.find(pd.Series([content_hash], dtype="str"))[0])
            if position >= 0:
                return stored.frames(position)
        return None


def asked_from(store: EmbeddingStore, cache: str | Path) -> Asked:
    """The one clip of ``store``, extracted by itself, as a query; its frames come from ``cache``."""
    header, facts = store.header, store.frame()
    biomarkers = {name: float(facts[f"p_{name}"].mean()) for name in header.biomarkers}
    first = _as_facts(facts.iloc[0])
    return Asked(str(first["clip_id"]), CachedFrames(Path(cache), header).of(first["content_hash"]), first, biomarkers)


def write_gallery(
    store: EmbeddingStore, query: str | Asked, found: pd.DataFrame, out: str | Path, cache: str | Path | None = None
) -> None:
    """Write the page of ``query`` and the clips of ``found``.

    Args:
        store: Where they were found.
        query: A clip_id of the store, or what is known of a clip that is not in it.
        found: As ``search`` returns it.
        out: The HTML file.
        cache: The frame cache; without one the page has no pictures.

    Raises:
        SonokitError: ``query`` is not in the store, or ``cache`` is no frame cache.
    """
    write_text(Path(out), gallery_page(store, query, found, cache))


def gallery_page(store: EmbeddingStore, query: str | Asked, found: pd.DataFrame, cache: str | Path | None = None) -> str:
    """The page as HTML; arguments and errors as for ``write_gallery``."""
    header, rows = store.header, open_index(store).rows
    frames = None if cache is None else CachedFrames(Path(cache), header)
    asked = _asked(query, rows, header, frames) if isinstance(query, str) else query
    names = _labels(rows, header, [*found.columns, *asked.facts])
    cards = [_neighbour(row, asked, rows, header, names, frames) for _, row in found.iterrows()]
    labels = [(name, _shown(asked.facts.get(name)), "") for name in names]
    return _template().render(
        query=_Card(asked.name, _strip(asked.frames), None, _facts(asked.facts), labels, _bars(asked.biomarkers)),
        cards=cards,
        agreement=_agreement(cards, names),
        model=header.model,
        without_cache=cache is None,
    )


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template("gallery.html.j2")


def _asked(clip_id: str, rows: IndexRows, header: StoreHeader, frames: CachedFrames | None) -> Asked:
    clip = rows.code("clip_id", clip_id)
    if clip < 0:
        raise SonokitError(f"there is no clip {clip_id!r} in the store; its clip_id column lists them")
    facts = _as_facts(rows.details(rows.of_clip(clip)[:1]).iloc[0])
    pictures = None if frames is None else frames.of(facts["content_hash"])
    return Asked(clip_id, pictures, facts, _probabilities(clip_id, rows, header))


def _neighbour(
    row: pd.Series, asked: Asked, rows: IndexRows, header: StoreHeader, names: dict[str, bool], frames: CachedFrames | None
) -> _Card:
    facts = _as_facts(row)
    pictures = None if frames is None else frames.of(facts["content_hash"])
    labels = [
        (name, _shown(facts.get(name)), _stands(asked.facts.get(name), facts.get(name)) if compared else "")
        for name, compared in names.items()
    ]
    biomarkers = _bars(_probabilities(facts["clip_id"], rows, header))
    return _Card(facts["clip_id"], _strip(pictures), float(facts["similarity"]), _facts(facts), labels, biomarkers)


def _as_facts(row: pd.Series) -> dict[str, Any]:
    return {str(name): value for name, value in row.items()}


def _probabilities(clip_id: str, rows: IndexRows, header: StoreHeader) -> dict[str, float]:
    """Mean over the clip's segments of each biomarker's probability."""
    if not header.biomarkers:
        return {}
    segments = rows.details(rows.of_clip(rows.code("clip_id", clip_id)))
    return {name: float(segments[f"p_{name}"].mean()) for name in header.biomarkers}


def _labels(rows: IndexRows, header: StoreHeader, columns: list[str]) -> dict[str, bool]:
    """Columns that are labels, in order of first appearance, and whether equal values mean agreement: not for measurements."""
    other = {*header.fixed_schema().names, "rank", "similarity", *_NOT_LABELS}
    return {name: rows.is_category(name) for name in columns if name not in other}


def _facts(facts: dict[str, Any]) -> list[tuple[str, str]]:
    words = {"patient_id": "patient", "site": "site", "probe": "probe"}
    return [(word, _shown(facts.get(name))) for name, word in words.items()]


def _bars(biomarkers: dict[str, float]) -> list[tuple[str, float]]:
    return [(name.replace("_", " "), value) for name, value in biomarkers.items() if np.isfinite(value)]


def _stands(query: Any, neighbour: Any) -> str:
    """How a neighbour's label stands to the query's, in a word; empty where one of them is unknown."""
    if pd.isna(query) or pd.isna(neighbour):
        return ""
    return "agrees" if query == neighbour else "differs"


def _agreement(cards: list[_Card], names: dict[str, bool]) -> list[tuple[str, int, int]]:
    """Of each label in how many neighbours it agrees, and in how many it can be compared."""
    words = [[card.labels[n][2] for card in cards] for n in range(len(names))]
    counted = [(name, w.count("agrees"), w.count("agrees") + w.count("differs")) for name, w in zip(names, words, strict=True)]
    return [row for row in counted if row[2]]


def _shown(value: Any) -> str:
    if value is None or pd.isna(value):
        return "unknown"
    return f"{value:g}" if isinstance(value, float | int | np.number) and not isinstance(value, bool) else str(value)


def _strip(frames: np.ndarray | None) -> str | None:
    """Some frames of a clip side by side, evenly over its length, as the content of a JPEG; None without frames."""
    if frames is None or not len(frames):
        return None
    chosen = np.unique(np.linspace(0, len(frames) - 1, _STRIP).round().astype(int))
    pictures = [Image.fromarray(frames[n]).resize((_SIDE, _SIDE), Image.Resampling.LANCZOS) for n in chosen]
    strip = Image.new("L", (_STRIP * _SIDE, _SIDE), 0)
    for place, picture in enumerate(pictures):
        strip.paste(picture, (place * _SIDE, 0))
    buffer = io.BytesIO()
    strip.save(buffer, format="JPEG", quality=82)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
