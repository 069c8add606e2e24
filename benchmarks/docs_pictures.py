"""Makes the pictures of docs/explain.md from simulated clips: no real clip is in the documentation.

Simulates clips, trains a set of extractors on them (a few minutes on two cores) and explains clips by the extractor of a fold
that has not seen their patient. What lies in --work already is not made again.
"""

import argparse
from pathlib import Path

import av
from PIL import Image
from sonokit import cli
from sonokit.features.explain.folder import explain

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
FOLD = 0
CLIPS = {"lines": "patient-0033_clip-1", "linear": "patient-0004_clip-1"}
"""Of the test side of fold 0: A-lines beside B-lines, with maps on them; A-lines under a linear probe, with maps beside it."""
_WIDTH = 1000  # of a strip on a page, in pixels


def main() -> None:
    """Make what is missing, then the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", required=True, help="a .safetensors file of tf_efficientnet_lite0")
    parser.add_argument("--work", type=Path, default=Path("runs/docs_pictures"))
    options = parser.parse_args()
    explain_pictures(trained_set(options.work, options.weights), options.work)


def trained_set(work: Path, weights: str) -> Path:
    """An extractor set of simulated clips in ``work``."""
    manifest, splits, out = work / "sim" / "manifest.csv", work / "splits.json", work / "ex"
    if not manifest.exists():
        cli.simulate(manifest.parent, patients=40, clips_per_patient=2, seconds=3.0, seed=5)
    if not splits.exists():
        cli.split(manifest, "diagnosis", splits, folds=4, repeats=1)
    if not (out / "report.json").exists():
        cli.train_biomarkers(
            manifest,
            out,
            backbone="tf_efficientnet_lite0",
            weights=weights,
            splits=splits,
            cache=work / "cache",
        )
    return out


def explain_pictures(model: Path, work: Path) -> None:
    """``explain-NAME.png`` for every clip, and ``explain-video.png``, a frame of a video."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name, clip_id in CLIPS.items():
        (clip,) = (work / "sim" / "clips").glob(f"{clip_id}.*")
        out = work / f"explain-{name}"
        explain(str(clip), model / f"fold-{FOLD}", out)
        strip = Image.open(out / "strip.png").convert("RGB")
        small = strip.resize((_WIDTH, round(strip.height * _WIDTH / strip.width)), Image.Resampling.LANCZOS)
        small.save(PICTURES / f"explain-{name}.png", optimize=True)
    with av.open(str(work / "explain-lines" / "explanation.mp4")) as film:
        frames = [frame.to_image() for frame in film.decode(video=0)]
    frames[len(frames) // 2].save(PICTURES / "explain-video.png", optimize=True)


if __name__ == "__main__":
    main()
