"""How fast pairs for pretraining come, without any network: batches on tensors against PIL and torchvision, image by image.

    python benchmarks/pretrain_input.py [--data ../shared/pocus] [--cache FOLDER] [--threads 2] [--rounds 7]

Both sides begin with decoded grey frames of 224 pixels and end with batches of 32 pairs that a network could take, mixed as
USCL mixes them (three augmented frames of a clip, two views), by the recipe of USCL's reference code: random resized crop
(.8 to 1, ratio .8 to 1.25), horizontal flip, colour jitter (.8, .8, .8, .2), normalised.

- sonokit: the frame cache (memory maps, warm) → ``PairDataset`` and ``pair_loader`` without reading processes → augmentation of
  the whole batch → ``SamplePairs``. One process, two threads. Its own recipe ("ultrasound") is measured beside it.
- The plain alternative: all frames lie in memory as PIL images, a ``Dataset`` gives the pair of a clip by torchvision's
  transforms, and a ``DataLoader`` with two reading processes, kept alive, makes the batches. Its images are RGB, as in the
  reference code and as ImageNet's networks take them (the goal is against this), and then grey, which is a third of the bytes
  and leaves nothing for saturation and hue to do. Normalisation is part of it; ours is folded into the backbone's first layer.

The sides take turns; figures are medians over the rounds, ``speedup_*`` are ratios of pairs a second. The last line is the
result, as JSON. The machine should have nothing else to do: threads that wait for each other suffer more from company than
processes that do not.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sonokit.clips.augment import Augment, augment_named
from sonokit.clips.cache import CacheSettings, prepare
from sonokit.clips.cached_clips import CachedClips
from sonokit.clips.manifest import read_manifest
from sonokit.clips.sampling import Sampling
from sonokit.pretrain.data import PairDataset, PatientBatches, pair_loader
from sonokit.pretrain.pairs import SamplePairs
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms

SIZE, FRAMES, BATCH, ALPHA = 224, 16, 32, 0.5
GOAL = 4.0
WORKERS = 2
MEAN, STD = 0.5, 0.25


def main() -> None:
    """Measure in turns; print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "pocus")
    parser.add_argument("--cache", type=Path, help="a frame cache to use or fill (default: a temporary one)")
    parser.add_argument("--pairs", type=int, default=384, help="of each side in each round, at least")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=2, help="of sonokit's side; 1 where the machine is not idle")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as temporary:
        settings = CacheSettings(SIZE, Sampling(frames=FRAMES))
        clips = prepare(read_manifest(options.data / "manifest.csv"), options.cache or Path(temporary), settings)
        sides = {
            "sonokit_reference": _ours(clips, augment_named("reference", SIZE)),
            "sonokit_ultrasound": _ours(clips, augment_named("ultrasound", SIZE)),
            "pil_rgb": _plain(clips, "RGB", options.pairs),
            "pil_grey": _plain(clips, "L", options.pairs),
        }
        rates = measure(sides, options.pairs, options.rounds)
    print(json.dumps(result(rates)))


def result(rates: dict[str, list[float]]) -> dict[str, Any]:
    """The benchmark's last line, from the pairs a second of each side in each round."""
    figures = {f"pairs_a_second_{name}": round(statistics.median(values), 1) for name, values in rates.items()}
    for ours in ("reference", "ultrasound"):
        for plain in ("rgb", "grey"):
            turns = zip(rates[f"sonokit_{ours}"], rates[f"pil_{plain}"], strict=True)
            figures[f"speedup_{ours}_over_{plain}"] = round(statistics.median(a / b for a, b in turns), 2)
    against = {
        name: f"torchvision's reference recipe on PIL images in {name.rsplit('_', 1)[1]}, {WORKERS} reading processes"
        for name in figures
        if name.startswith("speedup")
    }
    return {
        "name": "pretrain_input",
        "figures": figures,
        "goals": {"speedup_reference_over_rgb": GOAL},
        "against": against,
    }


def measure(sides: dict[str, Callable[[], Iterator[int]]], pairs: int, rounds: int) -> dict[str, list[float]]:
    """Pairs a second of every side, in turns; a first round, in which processes start and pages are read, does not count."""
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(rounds + 1):
        for name, batches in sides.items():
            done, start = 0, time.perf_counter()
            for size in batches():
                done += size
                if done >= pairs:
                    break
            rate = done / (time.perf_counter() - start)
            if turn:
                rates[name].append(rate)
                print(f"round {turn}: {name} {rate:.0f} pairs/s", flush=True)
    return rates


def _ours(clips: CachedClips, augment: Augment) -> Callable[[], Iterator[int]]:
    """The sizes of batches, once their views are made."""
    policy, unlabelled = SamplePairs(ALPHA), np.full(len(clips), -1)
    # every clip for itself: full batches, as the alternative's are
    dataset = PairDataset(clips, policy, unlabelled, np.arange(len(clips)), seed=0)
    sampler = PatientBatches(np.arange(len(clips)), BATCH, seed=0)
    loader = pair_loader(dataset, sampler)
    epochs = iter(range(10**9))

    def batches() -> Iterator[int]:
        generator = torch.Generator().manual_seed(0)
        while True:
            sampler.set_epoch(next(epochs))
            for batch in loader:
                views = policy.views(augment(batch["frames"].unsqueeze(2), generator), batch["lam"])
                assert views[0].shape == (len(batch["lam"]), 1, SIZE, SIZE)
                yield len(batch["lam"])

    return batches


def _plain(clips: CachedClips, mode: str, pairs: int) -> Callable[[], Iterator[int]]:
    """The sizes of batches of the alternative; a round draws just ``pairs``, so that nothing is made ahead for the next."""
    dataset = ImagePairs(clips, mode)
    loader = DataLoader(
        dataset,
        batch_size=BATCH,
        sampler=RandomSampler(dataset, num_samples=-(-pairs // BATCH) * BATCH),
        num_workers=WORKERS,
        persistent_workers=True,
    )

    def batches() -> Iterator[int]:
        for first, second in loader:
            assert first.shape == second.shape == (BATCH, len(dataset.images[0][0].getbands()), SIZE, SIZE)
            yield len(first)

    return batches


class ImagePairs(Dataset[tuple[Tensor, Tensor]]):
    """The pair of a clip, as one writes it with PIL and torchvision: three frames, each augmented, mixed into two views."""

    def __init__(self, clips: CachedClips, mode: str) -> None:
        frames = (clips[i].frames for i in range(len(clips)))
        self.images = [[Image.fromarray(np.asarray(frame)).convert(mode) for frame in clip] for clip in frames]
        channels = len(mode)
        self.transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(SIZE, scale=(0.8, 1.0), ratio=(0.8, 1.25)),
                transforms.RandomHorizontalFlip(),
                transforms.ColorJitter(0.8, 0.8, 0.8, 0.2),
                transforms.ToTensor(),
                transforms.Normalize([MEAN] * channels, [STD] * channels),
            ]
        )

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        images = self.images[i]
        chosen = torch.randperm(len(images))[:3].tolist()
        # stills have fewer than three frames
        first, anchor, second = (self.transform(images[k]) for k in islice(cycle(chosen), 3))
        lam = float(torch.distributions.Beta(ALPHA, ALPHA).sample())
        return lam * first + (1 - lam) * anchor, lam * second + (1 - lam) * anchor


if __name__ == "__main__":
    main()
