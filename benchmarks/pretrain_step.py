"""A USCL training step from cached real clips against the paper's loop and a plain one; a whole run against bare steps.

    make bench NAME=pretrain_step

ResNet-18, 224 pixels, 32 clips a step (64 views), images a second, with everything between the cached frames and the
optimiser's step. Three loops take turns, and the median of their ratios is printed:

- ours: what ``sonokit pretrain`` does in a step, in the precision that suits the device (bf16 where it can multiply in it);
- (a) the paper's loop: PIL and torchvision per image, RGB, and both views passed twice through the network, once for their
  projections and once for their class scores, as in its reference code;
- (b) a competent plain loop: the same transforms in a DataLoader with a worker a core, one forward a view.

The frames of the plain loops are decoded beforehand, as PIL images in memory. A turn is a whole epoch of every loop, so that no
worker prepares batches while another loop is timed. Last, a run of ``pretrain`` through Lightning, with its logs and
checkpoints, against forward, backward and step of the same network on tensors that are there.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import chain, count, repeat
from pathlib import Path

import numpy as np
import torch
from lightly.loss import NTXentLoss
from lightly.models.modules import SimCLRProjectionHead
from PIL import Image
from sonokit.backbones.build import build_backbone
from sonokit.clips.augment import augment_named
from sonokit.clips.cache import prepare
from sonokit.clips.cached_clips import CachedClips, CacheSettings
from sonokit.clips.manifest import read_manifest
from sonokit.clips.sampling import Sampling
from sonokit.pretrain.data import PairDataset, PatientBatches, pair_loader
from sonokit.pretrain.objectives.objective import Views
from sonokit.pretrain.objectives.uscl import USCL
from sonokit.pretrain.pairs import SamplePairs
from sonokit.pretrain.run import pretrain
from sonokit.pretrain.settings import PretrainSettings
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import models, transforms

SIZE, BATCH, FRAMES, CLASSES = 224, 32, 16, 3
REPEATS = 2  # of every clip in an epoch
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
Step = Callable[[], int]  # does one step, gives the number of images (two a clip)


def main() -> None:
    """Time, and print one JSON object as the last line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/pocus"))
    parser.add_argument("--cache", type=Path, default=Path("runs/bench-cache"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6, help="of the whole run")
    options = parser.parse_args()
    settings = CacheSettings(SIZE, Sampling(frames=FRAMES))
    clips = prepare(read_manifest(options.data / "manifest.csv"), options.cache, settings)
    bf16 = has_bf16()
    loops = {"ours": our_step(clips, bf16), "ours_fp32": our_step(clips, False)} if bf16 else {"ours": our_step(clips, False)}
    loops |= {"paper": paper_step(clips), "plain": plain_step(clips)}
    rates = interleaved(loops, options.rounds, REPEATS * len(clips) // BATCH)
    whole = whole_run(clips, bf16, options.epochs)
    figures = {
        "step_against_paper": median_ratio(rates["ours"], rates["paper"]),
        "step_against_plain": median_ratio(rates["ours"], rates["plain"]),
        "whole_run_against_bare": whole,
        **{f"{name}_images_per_second": statistics.median(rate) for name, rate in rates.items()},
    }
    if bf16:
        figures["step_fp32_against_paper"] = median_ratio(rates["ours_fp32"], rates["paper"])
        figures["step_fp32_against_plain"] = median_ratio(rates["ours_fp32"], rates["plain"])
    goals = {
        "step_against_paper": 2.5,
        "step_against_plain": 3.0 if DEVICE.type == "cuda" else 1.2,
        "whole_run_against_bare": 0.85,
    }
    against = {
        "step_against_paper": "PIL and torchvision per image, RGB, four forwards a step, fp32",
        "step_against_plain": "the same transforms in worker processes, two forwards, fp32",
        "whole_run_against_bare": "forward, backward and step on synthetic tensors, same network, precision and batches",
    }
    rounded = {name: round(value, 3) for name, value in figures.items()}
    print(json.dumps({"name": "pretrain_step", "figures": rounded, "goals": goals, "against": against}))


def has_bf16() -> bool:
    """Whether the device multiplies bf16 faster than float32."""
    if DEVICE.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu.get_capabilities().get("avx512_bf16", False))


def interleaved(loops: dict[str, Step], rounds: int, steps: int) -> dict[str, list[float]]:
    """Images a second of each loop in each round of ``steps``, an epoch; a first round is thrown away."""
    rates: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(1 + rounds):
        for name, step in loops.items():
            start = time.perf_counter()
            images = sum(step() for _ in range(steps))
            if DEVICE.type == "cuda":
                torch.cuda.synchronize()
            rates[name].append(images / (time.perf_counter() - start))
            print(f"{name}: {rates[name][-1]:.1f} images/s", flush=True)
    return {name: rate[1:] for name, rate in rates.items()}


def median_ratio(ours: list[float], theirs: list[float]) -> float:
    """Median over the rounds of the ratio within a round."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def our_step(clips: CachedClips, bf16: bool) -> Step:
    """The parts of sonokit, put together as ``PretrainLoop.training_step`` does."""
    policy, augment = SamplePairs(), augment_named("reference", SIZE)
    codes = np.arange(len(clips))
    dataset = PairDataset(clips, policy, np.full(len(clips), -1), codes, 0)
    epochs = (pair_loader(dataset, PatientBatches(codes, BATCH, 0, epoch)) for epoch in count())
    batches = chain.from_iterable(epochs)
    objective = USCL(build_backbone("resnet18")).to(DEVICE).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-4, fused=True)
    generator = torch.Generator(device=DEVICE).manual_seed(0)

    def step() -> int:
        batch = {name: value.to(DEVICE) for name, value in next(batches).items()}
        first, second = policy.views(augment(batch["frames"].unsqueeze(2), generator), batch["lam"])
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
            outcome = objective(Views(first, second, batch["labels"], batch["patients"], batch["weights"]))
        optimizer.zero_grad(set_to_none=True)
        outcome.loss.backward()
        optimizer.step()
        return 2 * len(first)

    return step


class PilPairs(Dataset[tuple[Tensor, Tensor]]):
    """USCL's dataset as its code does it: three PIL frames of a clip, each transformed, mixed into two views."""

    def __init__(self, clips: CachedClips) -> None:
        self.frames = [[Image.fromarray(frame).convert("RGB") for frame in clips[i].frames] for i in range(len(clips))]
        self.transform = transforms.Compose(
            [
                transforms.Resize((SIZE, SIZE)),
                transforms.RandomResizedCrop(SIZE, scale=(0.8, 1.0), ratio=(0.8, 1.25)),
                transforms.RandomHorizontalFlip(),
                transforms.ColorJitter(0.8, 0.8, 0.8, 0.2),
                transforms.ToTensor(),
                transforms.Normalize((0.5,) * 3, (0.25,) * 3),
            ]
        )

    def __len__(self) -> int:
        return REPEATS * len(self.frames)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        i = number % len(self.frames)
        rng = np.random.default_rng()
        chosen = rng.choice(len(self.frames[i]), 3, replace=False)
        a, anchor, c = (self.transform(self.frames[i][k]) for k in chosen)
        lam = float(rng.beta(0.5, 0.5))
        return lam * a + (1 - lam) * anchor, lam * c + (1 - lam) * anchor


class PlainUSCL(nn.Module):
    """ResNet-18, the projector, and the classifier on the projection."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = models.resnet18(weights=None)
        self.backbone.fc = nn.Identity()
        self.projector = SimCLRProjectionHead(512, 512, 256, batch_norm=False)
        self.classifier = nn.Linear(256, CLASSES)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Projection and class scores."""
        z = self.projector(self.backbone(images))
        return z, self.classifier(z)


def paper_step(clips: CachedClips) -> Step:
    """(a): both views pass twice."""
    return _plain_loop(clips, passes=2)


def plain_step(clips: CachedClips) -> Step:
    """(b): both views pass once."""
    return _plain_loop(clips, passes=1)


def _plain_loop(clips: CachedClips, passes: int) -> Step:
    workers = max(2, torch.get_num_threads())
    loader = DataLoader(PilPairs(clips), BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=True)
    batches = chain.from_iterable(repeat(loader))
    network = PlainUSCL().to(DEVICE)
    contrast = NTXentLoss(temperature=0.5)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-4, weight_decay=1e-4)
    labels = torch.arange(BATCH, device=DEVICE) % CLASSES

    def step() -> int:
        first, second = (views.to(DEVICE) for views in next(batches))
        (z1, scores1), (z2, scores2) = network(first), network(second)
        if passes == 2:
            scores1, scores2 = network(first)[1], network(second)[1]
        classes = nn.functional.cross_entropy(scores1, labels) + nn.functional.cross_entropy(scores2, labels)
        loss = contrast(z1, z2) + 0.2 * classes
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        return 2 * BATCH

    return step


def whole_run(clips: CachedClips, bf16: bool, epochs: int) -> float:
    """Images a second of a run of ``pretrain`` over those of bare steps.

    The time of a run of one epoch is taken off, logs and checkpoints of the others being in what remains.
    """
    before = bare_rate(bf16)
    seconds = _run_seconds(clips, bf16, 1 + epochs) - _run_seconds(clips, bf16, 1)
    rate = 2 * len(clips) * epochs / seconds
    after = bare_rate(bf16)
    bare = (before + after) / 2
    print(f"whole run: {rate:.1f} images/s; bare: {before:.1f} before, {after:.1f} after", flush=True)
    return rate / bare


def _run_seconds(clips: CachedClips, bf16: bool, epochs: int) -> float:
    settings = PretrainSettings(
        size=SIZE, batch_size=BATCH, epochs=epochs, same_patient="together", precision="bf16" if bf16 else "32"
    )
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        pretrain(clips, Path(folder) / "run", settings, config={}, progress=False)
        return time.perf_counter() - start


def bare_rate(bf16: bool, steps: int = 10) -> float:
    """Images a second of forward, backward and step on tensors that are there."""
    objective = USCL(build_backbone("resnet18"), temperature=0.5).to(DEVICE).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(objective.parameters(), lr=3e-4, fused=True)
    first, second = torch.rand(2, BATCH, 1, SIZE, SIZE, device=DEVICE)
    nothing = torch.full((BATCH,), -1, device=DEVICE)
    views = Views(first, second, nothing, torch.arange(BATCH, device=DEVICE), torch.ones(BATCH, device=DEVICE))
    times = []
    for _ in range(steps + 1):
        start = time.perf_counter()
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
            loss = objective(views).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 2 * BATCH / statistics.mean(times[1:])


if __name__ == "__main__":
    main()
