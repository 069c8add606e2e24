import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sonokit.clips.cached_clips import CacheSettings
from sonokit.clips.sampling import Sampling
from sonokit.clips.shards import ShardWriter, StoredFrames
from sonokit.errors import SonokitError
from sonokit.features.search import search
from sonokit.features.search.gallery import Asked, gallery_page, write_gallery
from sonokit.features.store import EmbeddingStore, StoreHeader, make_rows

SIZE = 32


class Cards(HTMLParser):
    """The text of each clip on a page, its label rows, and its pictures."""

    def __init__(self, page):
        super().__init__()
        self.texts, self.rows, self.pictures, self.outside = [], [], [], ""
        self._inside = self._cell = False
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag == "article":
            self._inside = True
            self.texts.append("")
            self.rows.append({})
            self.pictures.append(None)
        if tag == "tr":
            self._row = []
        if tag in ("th", "td"):
            self._row.append("")
            self._cell = True
        if tag == "img":
            assert attributes["alt"]
            kind, _, content = attributes["src"].partition(",")
            assert kind == "data:image/jpeg;base64"
            self.pictures[-1] = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))

    def handle_endtag(self, tag):
        if tag == "article":
            self._inside = False
        if tag in ("th", "td"):
            self._cell = False
        if tag == "tr":
            self.rows[-1][self._row[0]] = tuple(self._row[1:])

    def handle_data(self, data):
        if self._cell:
            self._row[-1] += data
        if self._inside:
            self.texts[-1] = " ".join([*self.texts[-1].split(), *data.split()])
        else:
            self.outside = " ".join([*self.outside.split(), *data.split()])


@pytest.fixture
def store(tmp_path):
    """Clips at growing angles from the first one, two segments each."""
    header = StoreHeader(
        fingerprint="f",
        kind="extractor",
        model="some extractor",
        dimensions=2,
        dtype="float32",
        biomarkers=["b_lines"],
        size=SIZE,
    )
    store = EmbeddingStore.create(tmp_path / "store", header)
    clips = pd.DataFrame(
        {
            "clip_id": ["asked", "near", "middle", "far<b>"],
            "content_hash": ["h0", "h1", "h2", "h3"],
            "patient_id": ["p0", "p1", "p2", None],
            "site": ["s1", "s1", "s2", "s2"],
            "diagnosis": ["covid19", "covid19", "pneumonia", None],
            "severity": [2.0, 3.0, 2.0, 2.0],
            "url": "far away",
            "angle": [0.0, 0.2, 0.5, 1.0],
        }
    )
    rows = clips.loc[clips.index.repeat(2)].reset_index(drop=True).assign(segment=[0, 1] * 4)
    rows["p_b_lines"] = np.float32([0.1, 0.3, 0.5, 0.7, 0.9, 0.9, 0.0, 1.0])
    angle = rows.pop("angle").to_numpy()
    store.append(make_rows(header, rows, np.stack([np.cos(angle), np.sin(angle)], axis=1)))
    return store


@pytest.fixture
def cache(tmp_path):
    """The frames of "near" as the store's settings have them, of "middle" with others; 8 frames that grow brighter."""
    for content, settings in (("h1", CacheSettings(SIZE)), ("h2", CacheSettings(20, Sampling(frames=8)))):
        folder = tmp_path / "cache" / settings.key
        folder.mkdir(parents=True)
        frames = np.stack([np.full((settings.size, settings.size), 20 + 30 * n, np.uint8) for n in range(8)])
        writer = ShardWriter(folder)
        writer.add(StoredFrames(content, frames, np.arange(8), "mp4", 25.0, 8, 8))
        writer.flush()
    return tmp_path / "cache"


def test_gallery__labels_stand_in_words_beside_those_of_the_query(store):
    cards = Cards(gallery_page(store, "asked", search(store, "asked", 3)))
    assert cards.rows[0] == {"diagnosis": ("covid19", ""), "severity": ("2", "")}
    assert cards.rows[1:] == [
        {"diagnosis": ("covid19", "agrees"), "severity": ("3", "differs")},
        {"diagnosis": ("pneumonia", "differs"), "severity": ("2", "agrees")},
        {"diagnosis": ("unknown", ""), "severity": ("2", "agrees")},
    ]
    assert "diagnosis agrees in 1 of 2; severity agrees in 2 of 3" in cards.outside


def test_gallery__each_clip_has_its_similarity_patient_site_and_biomarkers(store):
    cards = Cards(gallery_page(store, "asked", search(store, "asked", 3)))
    for text, angle, patient, site, mean in zip(
        cards.texts[1:], [0.2, 0.5, 1.0], ["p1", "p2", "unknown"], ["s1", "s2", "s2"], ["0.60", "0.90", "0.50"], strict=True
    ):
        assert f"similarity {np.cos(angle):.3f}" in text
        assert f"patient {patient}, site {site}, probe unknown" in text
        assert f"b lines {mean}" in text
    assert "similarity" not in cards.texts[0]
    assert "b lines 0.20" in cards.texts[0]
    assert "far<b>" in cards.texts[3]  # as text, not as markup
    assert "patient ids" in cards.outside


def test_gallery__frames_come_from_the_cache_whatever_its_settings(store, cache):
    cards = Cards(gallery_page(store, "asked", search(store, "asked", 3), cache))
    for picture in cards.pictures[1:3]:
        height, width = picture.shape
        assert width == 4 * height
        middles = picture[height // 2, height // 2 :: height].astype(int)
        np.testing.assert_allclose(middles, [20 + 30 * n for n in (0, 2, 5, 7)], atol=3)
    for place in (0, 3):
        assert cards.pictures[place] is None
        assert "not in the frame cache" in cards.texts[place]
    assert cards.pictures[0] is None


def test_gallery__a_clip_that_is_not_in_the_store(store, tmp_path):
    asked = Asked("new.mp4", np.zeros((3, 8, 8), np.uint8), {"diagnosis": "pneumonia"}, {"b_lines": 0.25})
    write_gallery(store, asked, search(store, np.array([1.0, 0.1]), 4), tmp_path / "page.html")
    cards = Cards((tmp_path / "page.html").read_text())
    assert cards.texts[0].startswith("new.mp4 ")
    assert "b lines 0.25" in cards.texts[0]
    assert cards.pictures[0].shape[1] == 4 * cards.pictures[0].shape[0]
    assert [row["diagnosis"][1] for row in cards.rows[1:]] == ["differs", "differs", "agrees", ""]
    assert "No frame cache was given" in cards.texts[1]


def test_gallery__measurements_are_shown_and_not_compared(tmp_path):
    header = StoreHeader(fingerprint="f", kind="backbone", model="m", dimensions=2)
    store = EmbeddingStore.create(tmp_path, header)
    rows = pd.DataFrame({"clip_id": [f"c{n:02d}" for n in range(12)], "content_hash": "x", "segment": 0})
    store.append(make_rows(header, rows.assign(sf_ratio=np.arange(12) * 30.5, score=np.arange(12) % 2.0), np.ones((12, 2))))
    cards = Cards(gallery_page(store, "c00", search(store, "c00", 2)))
    assert cards.rows[1] == {"sf ratio": ("30.5", ""), "score": ("1", "differs")}


def test_gallery__holds_everything_inside_and_runs_nothing(store, cache):
    page = gallery_page(store, "asked", search(store, "asked", 3), cache)
    assert not re.search(r"<script|https?:|url\(|<link", page)


def test_gallery__faults_are_named(store, tmp_path):
    with pytest.raises(SonokitError, match="no clip 'nobody'"):
        gallery_page(store, "nobody", search(store, "asked", 1))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SonokitError, match="not a frame cache"):
        gallery_page(store, "asked", search(store, "asked", 1), tmp_path / "empty")
