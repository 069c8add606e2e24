"""``extract-features`` on the real clips against the loop that one would write, what its parts allow, and Ray against local.

    make bench NAME=extract

16 frames a clip at 224 pixels through EfficientNet-Lite0 into an embedding store with its index. In turns, on the same clips:

- plain: one clip after the other: PyAV decodes it, 16 evenly spaced frames become RGB images, Pillow brings them to 224 pixels,
  timm's network (eager, channels-last, inference mode) takes all 16 at once; the features are saved at the end;
- cold: the same from the files with nothing cached; the frame cache is written on the way. ``cached``: from that cache;
- decode: the frame cache alone, from the files; forward: the network alone in the fastest runtime, from frames in memory.
  On a CPU, where both share the cores, 1 / (1 / decode + 1 / forward) is what they allow; on a GPU the slower one is;
- ray: the cold extraction by two workers of a local Ray cluster that runs already. Workers start and compile first; what that
  costs is found by extracting two clips, one a worker, on the same cluster, and is taken off.

Starting costs of ours (compiling, writing the index) are in. The last line is the result, as JSON. Nothing else should run.
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from sonokit.backbones.build import build_backbone
from sonokit.clips.cache import CacheSettings, prepare
from sonokit.clips.manifest import Manifest, read_manifest
from sonokit.clips.sampling import Sampling
from sonokit.clips.streaming import stream
from sonokit.features.extraction.extract import extract_features
from sonokit.features.extraction.forward import FeaturePass, choose_device
from sonokit.features.extractors.biomarkers import SegmentPlan

MODEL, SIZE, FRAMES = "tf_efficientnet_lite0", 224, 16
SETTINGS = CacheSettings(SIZE, Sampling(frames=FRAMES))
GOALS = {"cold_over_plain": 1.9, "cached_over_plain": 4.0, "share_of_bound": 0.85, "ray_over_local": 0.9}


def main() -> None:
    """Measure in turns; print the figures."""
    shared = Path(__file__).parents[2] / "shared"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=shared / "pocus")
    parser.add_argument("--weights", type=Path, default=shared / "weights" / "tf_efficientnet_lite0.imagenet.safetensors")
    parser.add_argument("--clips", type=int, default=1000, help="at most, spread over the manifest")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ray", type=int, default=2, help="workers; 0 leaves Ray out")
    options = parser.parse_args()
    manifest = some_of(read_manifest(options.data / "manifest.csv"), options.clips)
    with tempfile.TemporaryDirectory() as temporary:
        sides = sides_of(manifest, options.weights, Path(temporary))
        seconds = measure(sides, options.rounds)
        figures = figures_of(seconds, len(manifest))
        if options.ray:
            figures |= ray_figures(manifest, options.weights, Path(temporary), options.ray, options.rounds)
    against = {
        "cold_over_plain": "one clip at a time: PyAV, Pillow, timm eager, channels-last",
        "cached_over_plain": "the same",
        "share_of_bound": "the slower of decoding alone and forward alone"
        if choose_device().type == "cuda"
        else "1 / (1 / decoding alone + 1 / forward alone), both with all cores",
        "ray_over_local": "--engine local with as many threads, both beyond start-up",
    }
    goals = {name: goal for name, goal in GOALS.items() if name in figures}
    print(json.dumps({"name": "extract", "figures": figures, "goals": goals, "against": against}))


def some_of(manifest: Manifest, count: int) -> Manifest:
    """``count`` clips, evenly spaced; all of them where there are fewer."""
    chosen = np.zeros(len(manifest), dtype=bool)
    chosen[np.linspace(0, len(manifest) - 1, min(count, len(manifest))).astype(int)] = True
    return manifest.select(chosen)


def sides_of(manifest: Manifest, weights: Path, place: Path) -> dict[str, Callable[[], None]]:
    """What takes turns; each does all clips."""
    cache = place / "cache"
    network = plain_network(weights)
    device = choose_device()
    memory = prepare(manifest, place / "in-memory", SETTINGS, progress=False)
    clips = [memory[i] for i in range(len(memory))]
    backbone = build_backbone(MODEL, weights=weights)
    ready = FeaturePass(backbone, SegmentPlan(FRAMES, 1), device, "auto")
    list(ready.over(clips[:2]))  # compiled

    def extract(fresh: bool) -> None:
        remove(place / "store", *([cache] if fresh else []))
        found = stream(manifest, cache, SETTINGS, progress=False)
        extract_features(found, MODEL, place / "store", weights=weights, runtime="auto", progress=False)

    def decode() -> None:
        remove(place / "decoded")
        prepare(manifest, place / "decoded", SETTINGS, progress=False)

    return {
        "plain": lambda: plain_loop(manifest, network, place / "plain.npz"),
        "cold": lambda: extract(fresh=True),
        "cached": lambda: extract(fresh=False),
        "decode": decode,
        "forward": lambda: sum(1 for _ in ready.over(clips)) and None,
    }


def measure(sides: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every side in every round; a first round, in which files are read into memory, does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, side in sides.items():
            start = time.perf_counter()
            side()
            took = time.perf_counter() - start
            if turn:
                seconds[name].append(took)
            print(f"round {turn}: {name} {took:.1f} s", flush=True)
    return seconds


def figures_of(seconds: dict[str, list[float]], clips: int) -> dict[str, float]:
    """Medians over the rounds of the ratios within a round, and clips a second."""
    figures = {f"{name}_clips_per_second": round(clips / statistics.median(took), 2) for name, took in seconds.items()}
    for ours in ("cold", "cached"):
        turns = zip(seconds["plain"], seconds[ours], strict=True)
        figures[f"{ours}_over_plain"] = round(statistics.median(a / b for a, b in turns), 2)
    both: Callable[[float, float], float] = max if choose_device().type == "cuda" else lambda a, b: a + b
    turns = zip(seconds["decode"], seconds["forward"], seconds["cold"], strict=True)
    figures["share_of_bound"] = round(statistics.median(both(a, b) / c for a, b, c in turns), 3)
    return figures


def ray_figures(manifest: Manifest, weights: Path, place: Path, workers: int, rounds: int) -> dict[str, float]:
    """Ray's throughput as a share of that of ``local`` in the same turns; of both, the start-up is taken off."""
    import ray

    few = some_of(manifest, workers)
    torch.set_num_threads(workers)

    def extract(clips: Manifest, engine: str) -> float:
        remove(place / "store", place / "cache")
        start = time.perf_counter()
        found = stream(clips, place / "cache", SETTINGS, workers=workers, progress=False)
        # by name: "auto" would choose by the number of clips, and the few must start what the many start
        options = {"weights": weights, "runtime": runtime, "engine": engine, "progress": False}
        if engine == "ray":
            options["ray_workers"] = workers
        extract_features(found, MODEL, place / "store", **options)
        return time.perf_counter() - start

    runtime = FeaturePass(build_backbone(MODEL), SegmentPlan(FRAMES, 1), choose_device(), "auto").runtime
    ray.init("local", num_cpus=workers, include_dashboard=False, log_to_driver=False)
    shares, starts = [], []
    try:
        for turn in range(rounds):
            took = {(e, n): extract(c, e) for e in ("local", "ray") for n, c in (("few", few), ("all", manifest))}
            working = {e: took[e, "all"] - took[e, "few"] for e in ("local", "ray")}
            shares.append(working["local"] / working["ray"])
            starts.append(took["ray", "few"])
            print(f"round {turn + 1}: {', '.join(f'{e} {n} {s:.1f} s' for (e, n), s in took.items())}", flush=True)
    finally:
        ray.shutdown()
    return {"ray_over_local": round(statistics.median(shares), 3), "ray_start_seconds": round(statistics.median(starts), 1)}


def plain_network(weights: Path) -> torch.nn.Module:
    """The network as timm's documentation says."""
    network = timm.create_model(MODEL, num_classes=0)
    state = {k: v for k, v in load_file(weights).items() if not k.startswith("classifier.")}
    network.load_state_dict(state)
    return network.eval().to(choose_device(), memory_format=torch.channels_last)


def plain_loop(manifest: Manifest, network: torch.nn.Module, target: Path) -> None:
    """One clip at a time."""
    device = next(network.parameters()).device
    config = timm.data.resolve_model_data_config(network)
    mean, std = (torch.tensor(config[name], device=device).view(1, 3, 1, 1) for name in ("mean", "std"))
    features = {}
    for clip_id, path in zip(manifest.table["clip_id"], manifest.locations(), strict=True):
        with av.open(path) as container:
            container.streams.video[0].thread_type = "AUTO"
            decoded = list(container.decode(video=0))
        chosen = np.linspace(0, len(decoded) - 1, FRAMES).round().astype(int)
        images = [decoded[i].to_image().resize((SIZE, SIZE), Image.Resampling.BILINEAR) for i in chosen]
        batch = torch.from_numpy(np.stack([np.asarray(image) for image in images])).to(device)  # [T, H, W, 3]
        batch = batch.permute(0, 3, 1, 2).float().div_(255)  # channels-last already
        with torch.inference_mode():
            features[clip_id] = network((batch - mean) / std).cpu().numpy()  # [T, D]
    np.savez(target, **features)


def remove(*folders: Path) -> None:
    """Begin anew."""
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
