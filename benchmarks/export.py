"""An exported student beside the same student in eager PyTorch: throughput, what it says, start-up, memory.

    python benchmarks/export.py [--size 112] [--rounds 15] [--students micro-10k,…]

Micro networks and one of timm's, trained for a moment on the labels of the real clips so that their probabilities are not all
alike (nothing is scored here), saved, exported by ``export_model`` in the form that it chooses. Then, a process each:

- ``times_STUDENT_bN_tT``: eager PyTorch's seconds by the exported model's, N frames at once on T threads, in turns of a few
  passes, each side in a process of its own, median of the rounds. PyTorch runs the student in evaluation and inference mode on
  float frames that are there, in the faster of the two memory layouts (contiguous, channels last); the exported model takes
  bytes and gives probabilities.
- ``gap``: the greatest change of a probability from the file on, of any student and clip: PyTorch by the road of training, the
  exported model in a process where an import of torch fails.
- ``resident_mb``: the most resident memory of that process, libraries and decoded frames among it; ``start_s`` from its first
  line to a model that is ready, ``clip_ms`` a clip from the file to the answer, decoding among it (median), ``model_ms`` from
  its frames on. ``torch_resident_mb`` and so on: the same by PyTorch, in a process of its own. Worst of the students.

Median of ``--processes`` processes where times of a start are meant. The last line is the result, as JSON. Nothing else should
run.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

STARTED = time.perf_counter()
STUDENTS = "micro-10k,micro-25k,micro-50k,micro-100k,mobilenetv3_small_050"
BATCHES, THREADS = (1, 16), (1, 2)
PASSES = 7  # a turn
SAMPLING = {"frames": 16, "rate_hz": None}
RATIO = 3.0


def main() -> None:
    """Train, export, then each measurement in processes of its own."""
    root = Path(__file__).parents[1]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=root.parent / "shared" / "pocus")
    parser.add_argument("--cache", type=Path, default=root / "runs" / "bench-cache")
    parser.add_argument("--students", default=STUDENTS)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--processes", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="keep students and exports here, and use them again")
    parser.add_argument("--stage", choices=list(STAGES), help=argparse.SUPPRESS)
    parser.add_argument("--name", help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        print(json.dumps(STAGES[options.stage](options)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        options.folder = options.folder or Path(temporary)
        figures: dict[str, float | str] = {}
        runs = []
        for name in options.students.split(","):
            figures |= _process("make", name, options)
            for threads in THREADS:
                figures |= _process("compare", name, options, threads)
            runs.append(_whole_road(name, options))
            print(f"{name}: done", file=sys.stderr, flush=True)
    figures |= {key: round(max(run[key] for run in runs), 6) for key in runs[0]}
    times = [key for key in figures if key.startswith("times_")]
    goals = dict.fromkeys(times, RATIO) | {"gap": 0.02, "resident_mb": 300.0}
    against = dict.fromkeys(times, "eager PyTorch, inference mode, same threads") | {"gap": "PyTorch from the same files"}
    print(json.dumps({"name": "export", "figures": figures, "goals": goals, "against": against}))


def make(options: argparse.Namespace) -> dict[str, float | str]:
    """A student that has learnt something, and its export."""
    import numpy as np
    from sonokit.clips.cache import CacheSettings, prepare
    from sonokit.clips.manifest import read_manifest
    from sonokit.distill.export.choice import Limits
    from sonokit.distill.export.export import export_model, parted
    from sonokit.distill.export.sources import frame_settings, open_source
    from sonokit.distill.signals.weighted import read_signals
    from sonokit.distill.students.build import build_student
    from sonokit.distill.students.folder import StudentNote, save_student
    from sonokit.distill.training.learners import Classifier
    from sonokit.distill.training.loop import LoopSettings, train
    from sonokit.distill.training.views import clip_views

    student, exported = options.folder / f"student-{options.name}", options.folder / f"export-{options.name}"
    manifest = read_manifest(options.data / "manifest.csv")
    if not (student / "student.json").exists():
        clips = prepare(manifest, options.cache, CacheSettings(), progress=False)
        labels = clips.table["diagnosis"]
        classes = tuple(sorted(labels.dropna().unique()))
        codes = np.array([classes.index(value) if value in classes else -1 for value in labels])
        views = clip_views(clips, np.flatnonzero(codes >= 0), codes, size=options.size, frames_per_clip=4)
        learner = Classifier(build_student(options.name), classes)
        train(learner, views, read_signals({"labels": {}}), settings=LoopSettings(options.epochs, learning_rate=3e-3))
        save_student(learner, student, StudentNote("classes", classes, "diagnosis", options.size, SAMPLING, 224))
    if not (exported / "export.json").exists():
        source = open_source(student)
        calibration, checks = parted(prepare(manifest, options.cache, frame_settings(source), progress=False), most=32)
        export_model(source, calibration, checks, exported, limits=Limits())
    note = json.loads((exported / "export.json").read_text())
    int8 = [row for row in note["forms"] if row["form"] != "fp32" and row["difference"] is not None]
    return {
        f"form_{options.name}": note["form"],
        f"bytes_{options.name}": note["bytes"],
        f"int8_least_change_{options.name}": round(min(row["difference"] for row in int8), 4),
        f"int8_best_times_fp32_b1_{options.name}": _int8_speed(note, int8, "1"),
        f"int8_best_times_fp32_b16_{options.name}": _int8_speed(note, int8, "16"),
    }


def compare(options: argparse.Namespace) -> dict[str, float]:
    """The sides in turns, a process each: threads of one that wait for work by spinning would slow another in the same."""
    sides = {name: _Side(name, options) for name in ("exported", "contiguous", "channels_last")}
    figures = {}
    for batch in BATCHES:
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(options.rounds):
            for name, side in sides.items():
                times[name].append(side.turn(batch))
        seconds = {name: statistics.median(turns) for name, turns in times.items()}
        eager = min(seconds["contiguous"], seconds["channels_last"])
        suffix = f"{options.name}_b{batch}_t{os.environ['OMP_NUM_THREADS']}"
        figures[f"times_{suffix}"] = round(eager / seconds["exported"], 2)
        figures[f"eager_ms_{suffix}"] = round(1000 * eager, 3)
        figures[f"exported_ms_{suffix}"] = round(1000 * seconds["exported"], 3)
    for side in sides.values():
        side.end()
    return figures


class _Side:
    """A process that runs one side when it is told to."""

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        command = _command("serve", options.name, options)
        self._process = subprocess.Popen([*command, "--side", name], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def turn(self, batch: int) -> float:
        """Seconds a pass."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{batch}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def end(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve(options: argparse.Namespace) -> dict[str, float]:
    """A turn for every line on standard input that names a batch: the median of the passes after the first two."""
    import numpy as np

    threads = int(os.environ["OMP_NUM_THREADS"])
    frames = np.random.default_rng(0).integers(0, 256, (max(BATCHES), options.size, options.size)).astype(np.uint8)
    if options.side == "exported":
        from sonokit.distill.export.run import ExportedModel

        model = ExportedModel(options.folder / f"export-{options.name}", threads=threads)
        passes: dict[int, Callable[[], object]] = {batch: partial(model.run, frames[:batch]) for batch in BATCHES}
    else:
        import torch
        from sonokit.distill.students.folder import load_student

        torch.set_num_threads(threads)
        layout = getattr(torch, "contiguous_format" if options.side == "contiguous" else options.side)
        network = load_student(options.folder / f"student-{options.name}")[0].to(memory_format=layout)
        grey = torch.from_numpy(frames)[:, None].float().div(255).to(memory_format=layout)
        passes = {batch: _eager(network, grey[:batch]) for batch in BATCHES}
    for line in sys.stdin:
        times = []
        for _ in range(PASSES):
            begin = time.perf_counter()
            passes[int(line)]()
            times.append(time.perf_counter() - begin)
        print(statistics.median(times[2:]), flush=True)
    return {}


def deployed(options: argparse.Namespace) -> dict[str, object]:
    """File to answer with ONNX Runtime, where an import of torch fails."""

    class Refuse:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name.split(".")[0] in ("torch", "timm"):
                raise ImportError(f"refused: {name}")

    sys.meta_path.insert(0, Refuse())
    from sonokit.distill.export.run import ExportedModel

    model = ExportedModel(options.folder / f"export-{options.name}", threads=int(os.environ["OMP_NUM_THREADS"]))
    started = time.perf_counter() - STARTED
    return _road(options, started, model.clip_frames, model.predict_frames)


def eager_road(options: argparse.Namespace) -> dict[str, object]:
    """File to answer by PyTorch, as in training."""
    import numpy as np
    import torch
    from sonokit.clips.augment import resize
    from sonokit.clips.decode import read_clip
    from sonokit.clips.letterbox import letterbox
    from sonokit.clips.sampling import Sampling
    from sonokit.distill.students.folder import load_student

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    classifier, note = load_student(options.folder / f"student-{options.name}")
    started = time.perf_counter() - STARTED

    def frames_of(path: str) -> torch.Tensor:
        frames = read_clip(path, Sampling(**note.sampling).choose).frames
        grey = torch.from_numpy(np.stack([letterbox(frame, note.cache_size) for frame in frames]))[:, None].float().div_(255)
        return resize(grey, note.size).mul_(255).round_().div_(255)

    def answer(frames: torch.Tensor) -> np.ndarray:
        with torch.inference_mode():
            return classifier(frames).softmax(dim=1).mean(dim=0).numpy()

    return _road(options, started, frames_of, answer)


def _road(options: argparse.Namespace, started: float, frames_of: Callable, answer: Callable) -> dict[str, object]:
    import csv
    import resource

    with open(options.data / "manifest.csv", encoding="utf-8", newline="") as handle:
        paths = [row["path"] for row in csv.DictReader(handle)]
    said, whole, model = [], [], []
    for path in paths:
        begin = time.perf_counter()
        frames = frames_of(str(options.data / path))
        middle = time.perf_counter()
        said.append([float(value) for value in answer(frames)])
        model.append(1000 * (time.perf_counter() - middle))
        whole.append(1000 * (time.perf_counter() - begin))
    return {
        "said": said,
        "start_s": started,
        "clip_ms": statistics.median(whole),
        "model_ms": statistics.median(model),
        "resident_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6,  # Linux counts in KiB
    }


def _whole_road(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Both roads, in turns, a process each time: how far apart their answers are, and medians of what they take."""
    found: dict[str, list[dict]] = {"deployed": [], "eager_road": []}
    for _ in range(options.processes):
        for stage, runs in found.items():
            runs.append(_process(stage, name, options))
    pairs = zip(found["deployed"][0].pop("said"), found["eager_road"][0].pop("said"), strict=True)
    gap = max(abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True))
    figures = {"gap": gap}
    for key in ("resident_mb", "start_s", "clip_ms", "model_ms"):
        figures[key] = statistics.median(run[key] for run in found["deployed"])
        figures[f"torch_{key}"] = statistics.median(run[key] for run in found["eager_road"])
    return figures


def _eager(network: Callable, frames: object) -> Callable[[], object]:
    import torch

    def run() -> object:
        with torch.inference_mode():
            return network(frames).softmax(dim=1)

    return run


def _int8_speed(note: dict, rows: list[dict], batch: str) -> float:
    plain = next(row for row in note["forms"] if row["form"] == "fp32")
    return round(plain["latency_ms"][batch] / min(row["latency_ms"][batch] for row in rows), 2)


def _process(stage: str, name: str, options: argparse.Namespace, threads: int = 1) -> dict:
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(_command(stage, name, options), check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _command(stage: str, name: str, options: argparse.Namespace) -> list[str]:
    command = [sys.executable, __file__, "--stage", stage, "--name", name]
    for option in ("data", "cache", "size", "epochs", "rounds", "folder"):
        command += [f"--{option}", str(getattr(options, option))]
    return command


STAGES = {"make": make, "compare": compare, "serve": serve, "deployed": deployed, "eager_road": eager_road}


if __name__ == "__main__":
    main()
