"""The picture docs/pictures/gallery.png: a gallery page of simulated clips, as ``sonokit search --gallery`` writes it.

    python benchmarks/docs_gallery.py [--weights FILE] [--browser chromium] [--out docs/pictures/gallery.png]

Simulates clips, learns biomarkers on frozen features (EfficientNet-Lite0, of ImageNet where ``--weights`` is given), fills a
store, searches, writes the page, and has a headless browser take its picture. No real clip is used, so the picture may be
committed. The extractor has seen all of these clips: its bars show how the page looks, not how good it is.
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

from sonokit import cli
from sonokit.features.search import search
from sonokit.features.search.gallery import write_gallery
from sonokit.features.store import EmbeddingStore

NEIGHBOURS = 3
WIDTH, HEIGHT = 1040, 1560


def main() -> None:
    """Make the clips, the store, the page, the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "docs" / "pictures" / "gallery.png")
    parser.add_argument("--weights", default="none")
    parser.add_argument("--browser", default="chromium")
    parser.add_argument("--folder", type=Path, help="keep everything here, and use the store that is there")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        page = (folder / "gallery.html").absolute()
        store = fill(folder, options.weights)
        query = _first_ill(store)
        write_gallery(store, query, search(store, query, NEIGHBOURS, one_per_patient=True), page, folder / "cache")
        take_picture(page, options.out, options.browser, folder)


def fill(folder: Path, weights: str) -> EmbeddingStore:
    """A store of simulated clips with biomarker probabilities."""
    if not (folder / "store" / "store.json").exists():
        manifest = folder / "clips" / "manifest.csv"
        common = {"manifest": manifest, "cache": folder / "cache", "frames": 8, "size": 160}
        cli.simulate(folder / "clips", patients=20)
        extractor = folder / "extractor"
        cli.train_biomarkers(out=extractor, backbone="tf_efficientnet_lite0", weights=weights, segments=4, **common)
        cli.extract_features(model=str(extractor), out=folder / "store", **common)
    return EmbeddingStore.open(folder / "store")


def take_picture(page: Path, out: Path, browser: str, folder: Path) -> None:
    """Have a headless browser show the page, and keep what it shows."""
    out.parent.mkdir(parents=True, exist_ok=True)
    quiet = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    quiet += ["--disable-component-update", "--disable-sync", f"--user-data-dir={folder / 'browser'}", "--hide-scrollbars"]
    place = [f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={out.absolute()}", page.as_uri()]
    subprocess.run([browser, *quiet, *place], check=True, capture_output=True, timeout=120)


def _first_ill(store: EmbeddingStore) -> str:
    clips = store.frame().drop_duplicates("clip_id")
    ill = clips[clips["diagnosis"].ne("normal")]
    return str(ill["clip_id"].iloc[0])


if __name__ == "__main__":
    main()
