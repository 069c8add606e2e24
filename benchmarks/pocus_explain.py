"""Do the maps of ``sonokit explain`` mean anything? Every clip by the extractor of a fold that has not seen its patient.

For one division of an extractor set (its first repeat) each clip is explained by Grad-CAM as on the command line. Besides the
checks that the command writes itself, the deletion test: the quarter of the cells that the map ranks highest is made black in
the most positive frame, and the logit compared with that after blackening as many cells of the sector at random.
The tables go into docs/explain.md, the figures into docs/results/NAME.json.
"""

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from pocus_data import data_fingerprint
from sonokit.atomic import write_json, write_text
from sonokit.backbones.folder import load_backbone
from sonokit.clips.augment_sector import sector_mask
from sonokit.clips.letterbox import letterbox
from sonokit.clips.manifest import read_manifest
from sonokit.clips.splits import read_splits
from sonokit.evaluation.bootstrap import patient_bootstrap
from sonokit.features.explain.explanation import Explanation, explain_clip
from sonokit.features.explain.folder import read_for_explaining
from sonokit.features.explain.maps import make_maps
from sonokit.features.extraction.models import frame_settings
from sonokit.features.extractors.biomarkers import BiomarkerExtractor
from sonokit.features.extractors.folder import backbone_folder_of, load_extractor, read_extractor
from sonokit.run_folder import environment
from torch import Tensor

DOCS = Path(__file__).resolve().parents[1] / "docs"
RANDOM_DRAWS = 5
FIGURES = {
    "in_sector": "map in sector",
    "sector_area": "sector's area",
    "brightness": "likeness to brightness",
    "random_head": "to random heads'",
    "random_network": "to a random network's",
    "deletion": "fall of the logit: map's cells − random cells",
    "deletion_wins": "map's cells win",
}


def main() -> None:
    """Explain what is asked for, then write figures and table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder with manifest.csv and clips/")
    parser.add_argument("--model", type=Path, required=True, help="an extractor set of these clips")
    parser.add_argument("--name", default="pocus_explain")
    options = parser.parse_args()
    rows = explain_all(options.data, options.model)
    figures = {"all": summary(rows), "positive": summary([row for row in rows if row["label"] == 1])}
    write_json(
        DOCS / "results" / f"{options.name}.json",
        {
            "command": f"python benchmarks/pocus_explain.py --data DATA --model SET --name {options.name}",
            "data": data_fingerprint(options.data),
            "seed": 0,
            "clips": len({row["clip_id"] for row in rows}),
            "extractors": sorted({row["fingerprint"] for row in rows}),
            "environment": environment(),
            **figures,
        },
    )
    write_table(DOCS / "explain.md", options.name, figures)


def explain_all(data: Path, model: Path) -> list[dict[str, Any]]:
    """A row a clip and biomarker."""
    manifest, splits = read_manifest(data / "manifest.csv"), read_splits(model / "splits.json")
    place = {str(name): i for i, name in enumerate(manifest.table["clip_id"])}
    settings = frame_settings(model)
    assert settings is not None  # an extractor set has frames of its own
    backbones: dict[Path, Any] = {}
    rows = []
    for number, fold in enumerate(splits.folds):
        if fold.repeat:
            continue
        folder = model / f"fold-{number}"
        where = backbone_folder_of(folder, read_extractor(folder))
        backbones.setdefault(where, load_backbone(where))
        extractor = load_extractor(folder, backbones[where])
        fingerprint = read_extractor(folder)["fingerprint"]
        for clip_id in fold.test:
            row = place[str(clip_id)]
            clip = read_for_explaining(manifest.locate(row), settings.sampling)
            explanation = explain_clip(extractor, clip)
            about = {"clip_id": clip_id, "patient": manifest.patients()[row], "fingerprint": fingerprint}
            labels = manifest.table.iloc[row]
            rows += [{**about, "label": labels[r["biomarker"]], **r} for r in figures_of(extractor, explanation, clip.frames)]
            print(f"fold {number}: {clip_id}", flush=True)
    return rows


def figures_of(extractor: BiomarkerExtractor, explanation: Explanation, frames: np.ndarray) -> list[dict[str, Any]]:
    """Checks and deletion test of every biomarker of a clip with frames [T, H, W]."""
    squares = torch.from_numpy(np.stack([letterbox(frame, extractor.size) for frame in frames]))  # [T, S, S]
    sector = sector_mask(squares[None, :, None])[0]  # [S, S]
    rows = []
    for number, (name, check) in enumerate(zip(explanation.explained, explanation.checks, strict=True)):
        moment = int(explanation.probabilities[:, number].argmax())
        frame = squares[int(explanation.frame_numbers[moment])]
        rows.append({"biomarker": name, **check.as_dict(), **deletion(extractor, frame, sector, number)})
    return rows


def deletion(extractor: BiomarkerExtractor, frame: Tensor, sector: Tensor, biomarker: int) -> dict[str, float]:
    """How much more the logit of one frame [S, S] falls without the map's best quarter than without random cells."""
    whole = torch.zeros(1, extractor.plan.frames, dtype=torch.int64)  # that frame, as often as a segment has frames
    cells = make_maps(extractor, frame[None], "gradcam").maps(whole, 0, [biomarker])[0, 0]  # [h, w]
    allowed = F.adaptive_avg_pool2d(sector[None].float(), cells.shape)[0].flatten() > 0.5  # [h·w]
    places = torch.nonzero(allowed).flatten()
    count = max(1, len(places) // 4)
    best = places[cells.flatten()[places].argsort(descending=True)[:count]]
    generator = torch.Generator().manual_seed(0)
    chosen = [best, *(places[torch.randperm(len(places), generator=generator)[:count]] for _ in range(RANDOM_DRAWS))]
    frames = torch.stack([frame, *(_blackened(frame, some, cells.shape) for some in chosen)])  # [2 + R, S, S]
    every = torch.arange(len(frames))[:, None].expand(-1, extractor.plan.frames)
    logits = make_maps(extractor, frames, "gradcam").outputs(every)[1][:, biomarker]  # [2 + R]
    falls = logits[0] - logits[1:]
    return {"deletion": float(falls[0] - falls[1:].mean()), "deletion_wins": float((falls[0] > falls[1:]).float().mean())}


def _blackened(frame: Tensor, cells: Tensor, shape: torch.Size) -> Tensor:
    """``frame`` [S, S] with some cells of a raster of ``shape`` in black."""
    mask = torch.zeros(shape.numel())
    mask[cells] = 1
    fine = F.interpolate(mask.view(1, 1, *shape), size=frame.shape, mode="nearest")[0, 0]
    return frame * (fine == 0)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean of every figure by biomarker, with its interval by patient."""
    found: dict[str, Any] = {}
    for name in dict.fromkeys(row["biomarker"] for row in rows):
        some = [row for row in rows if row["biomarker"] == name]
        found[name] = {"clips": len(some), "patients": len({row["patient"] for row in some})}
        for figure in FIGURES:
            known = [row for row in some if row[figure] is not None]
            values = np.array([row[figure] for row in known])
            found[name][figure] = patient_bootstrap(
                lambda drawn, values=values: float(values[drawn].mean()) if len(drawn) else np.nan,
                np.array([row["patient"] for row in known]),
            ).as_dict() | {"clips": len(known)}
    return found


def write_table(page: Path, name: str, figures: dict[str, Any]) -> None:
    """Put the tables between the marks that bear their names."""
    text = page.read_text(encoding="utf-8")
    for group, found in figures.items():
        lines = [f"| biomarker | clips | {' | '.join(FIGURES.values())} |", "| --- " * (len(FIGURES) + 2) + "|"]
        for biomarker, row in found.items():
            cells = [_cell(row[figure], share=figure in ("in_sector", "sector_area", "deletion_wins")) for figure in FIGURES]
            lines.append(f"| {biomarker} | {row['clips']} | {' | '.join(cells)} |")
        marks = f"<!-- {name} {group} -->", f"<!-- end of {name} {group} -->"
        table = "\n".join((marks[0], "", *lines, "", marks[1]))
        text = re.sub(f"{marks[0]}.*?{marks[1]}", lambda _, table=table: table, text, flags=re.DOTALL)
    write_text(page, text)


def _cell(figure: dict[str, Any], *, share: bool) -> str:
    if figure["value"] is None:
        return "-"
    form = "{:.0%}" if share else "{:.2f}"
    if figure["low"] is None:
        return form.format(figure["value"])
    return f"{form.format(figure['value'])} ({form.format(figure['low'])} to {form.format(figure['high'])})"


if __name__ == "__main__":
    main()
