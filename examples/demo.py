"""The whole road, from clips to a prediction: simulate or scan, split, pretrain, biomarkers, features, experts, predict.

Run by ``make demo`` (simulated clips) and ``make demo DATA=FOLDER`` (the clips there). It calls the commands' own functions in
one process, prints the command line of each, and ends with a table and a page of pictures. What is finished is not done again.
"""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from demo_page import Study, write_page
from sonokit import cli, cli_experts
from sonokit.clips.manifest import Manifest, read_manifest
from sonokit.errors import SonokitError

BIOMARKERS = ("a_lines", "b_lines", "consolidation", "effusion", "pleural_irregularity")
FOLDS, REPEATS = 5, 10


@dataclass
class Road:
    """What the demo drives on: where things lie and what the manifest allows."""

    out: Path
    manifest: Path
    weights: str
    backbone: str
    epochs: int
    size: int = 224
    commands: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.clips: Manifest = read_manifest(self.manifest)
        self.patient = None if self.clips.patient_column else "clip_id"
        table = self.clips.table
        self.biomarkers = [name for name in BIOMARKERS if name in table and _patients_with(self.clips, name) >= 2]
        self.tasks = [name for name in ("diagnosis", "severity", "sf_ratio") if name in table and table[name].notna().any()]
        # one probe at a time: a score over several could be one of telling the probes apart
        probes = table["probe"].value_counts() if "probe" in table else {}
        self.where = f"probe={probes.index[0]}" if len(probes) > 1 else None
        self.pictures = {} if self.size == 224 else {"size": self.size}

    def run(self, command: Callable[..., None], **options: Any) -> None:
        """Say, then do."""
        line = _command_line(command, options)
        self.commands.append(line)
        print(f"\n$ {line}", flush=True)
        started = time.perf_counter()
        command(**options)
        print(f"  ({time.perf_counter() - started:.0f} s)", flush=True)


def drive(road: Road) -> Study:
    """All steps that the manifest allows."""
    out, manifest, patient = road.out, road.manifest, road.patient
    common = {"cache": out / "cache"} | ({"patient": patient} if patient else {})
    splits = out / "splits.json"
    if road.tasks:
        road.run(cli.split, manifest=manifest, label=road.tasks[0], out=splits, folds=FOLDS, repeats=REPEATS,
                 **({"patient": patient} if patient else {}))  # fmt: skip
    before = "untrained" if road.weights == "none" else "imagenet"
    road.run(cli.pretrain, manifest=manifest, out=out / "backbone", backbone=road.backbone, weights=road.weights,
             epochs=road.epochs, temperature=0.2, **common)  # fmt: skip
    road.run(cli.extract_features, manifest=manifest, model=road.backbone, out=out / "stores" / before, weights=road.weights,
             floor=True, **road.pictures, **common)  # fmt: skip
    road.run(cli.extract_features, manifest=manifest, model=str(out / "backbone"), out=out / "stores" / "pretrained",
             floor=True, **road.pictures, **common)  # fmt: skip
    stores = {before: out / "stores" / before, "pretrained": out / "stores" / "pretrained"}
    if road.tasks and road.biomarkers:
        stores["biomarkers"] = learn_biomarkers(road, splits, common)
    experts = fit_experts(road, stores, splits) if road.tasks else {}
    signs = {}
    for name in road.biomarkers if road.tasks else []:  # what each is worth without an extractor, and its floors
        signs[name] = out / "experts" / f"{name}-{before}"
        road.run(cli_experts.fit_expert, store=stores[before], label=name, out=signs[name], splits=splits, classes="0,1")
    if experts:
        name, store = ("biomarkers", stores["biomarkers"]) if "biomarkers" in stores else ("pretrained", stores["pretrained"])
        road.run(
            cli_experts.predict, expert=out / "experts" / f"{road.tasks[0]}-{name}", out=out / "predictions.csv", store=store
        )
    query = str(road.clips.table["clip_id"].iloc[0])
    road.run(cli.search, store=stores["pretrained"], query=query)
    return Study(road.clips, out, stores, experts, _biomarker_report(out), signs, road.commands)


def learn_biomarkers(road: Road, splits: Path, common: dict[str, Any]) -> Path:
    """Extractors inside the folds, and a store a fold."""
    out = road.out
    road.run(cli.train_biomarkers, manifest=road.manifest, out=out / "extractor", backbone=str(out / "backbone"),
             biomarkers=",".join(road.biomarkers), splits=splits, **road.pictures, **common)  # fmt: skip
    road.run(cli.extract_features, manifest=road.manifest, model=str(out / "extractor"), out=out / "stores" / "biomarkers",
             floor=True, **road.pictures, **common)  # fmt: skip
    return out / "stores" / "biomarkers"


def fit_experts(road: Road, stores: dict[str, Path], splits: Path) -> dict[str, dict[str, Path]]:
    """An expert for each task on each store: task -> store's name -> folder."""
    experts: dict[str, dict[str, Path]] = {}
    for task in road.tasks:
        for name, store in stores.items():
            folder = road.out / "experts" / f"{task}-{name}"
            options = {"where": road.where} if road.where else {}
            options |= {"task": "ordinal"} if task == "severity" else {}
            road.run(cli_experts.fit_expert, store=store, label=task, out=folder, splits=splits, **options)
            experts.setdefault(task, {})[name] = folder
    return experts


def _patients_with(clips: Manifest, biomarker: str) -> int:
    return len(set(clips.groups()[(clips.table[biomarker] == 1).fillna(False).to_numpy(dtype=bool)]))


def _biomarker_report(out: Path) -> dict[str, Any] | None:
    file = out / "extractor" / "report.json"
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def _command_line(command: Callable[..., None], options: dict[str, Any]) -> str:
    words = ["sonokit", command.__name__.replace("_", "-")]
    positional = {"manifest", "label", "model", "store", "expert", "query"} - (
        {"store"} if command is cli_experts.predict else set()
    )
    for name, value in options.items():
        if name in positional:
            words.append(str(value))
        else:
            words += [f"--{name}", str(value).lower() if isinstance(value, bool) else str(value)]
    return shlex.join(words)


def _manifest(data: Path | None, out: Path) -> Path:
    """The manifest of ``data``, scanned where there is none, or of freshly simulated clips."""
    if data is None:
        print("$ sonokit simulate --out", out / "clips", "--patients 30")
        cli.simulate(out / "clips", patients=30, clips_per_patient=2)
        return out / "clips" / "manifest.csv"
    if (data / "manifest.csv").exists():
        return data / "manifest.csv"
    if not (out / "manifest.csv").exists():
        cli.scan(data, out=out / "manifest.csv")
    return out / "manifest.csv"


def main() -> int:
    """Read the arguments, drive, report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--data", type=Path, help="a folder of clips, with a manifest.csv for labels (default: simulated clips)"
    )
    parser.add_argument("--weights", default="none", help="ImageNet weights for tf_efficientnet_lite0, a .safetensors file")
    parser.add_argument("--out", type=Path, default=Path("demo-out"))
    options = parser.parse_args()
    try:
        manifest = _manifest(options.data, options.out)
        small = options.data is None
        road = Road(
            out=options.out,
            manifest=manifest,
            weights=options.weights,
            backbone="resnet10t" if small else "tf_efficientnet_lite0",
            epochs=20 if small else 60,
            size=128 if small else 224,
        )
        study = drive(road)
        print("\n" + write_page(study, options.out / "report.html"))
    except SonokitError as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ndemo: stopped. The same command goes on from here.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
