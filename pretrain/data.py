"""Batches for contrastive pretraining: every clip a pair, every batch of distinct patients.

Whatever is random here is a function of (seed, epoch, clip), never of a worker, the order of reading, or what came before: a
run that goes on after a kill sees what the undisturbed run would have seen.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from ..errors import SonokitError
from .pairs import PairPolicy

Key = tuple[int, int]  # (epoch, clip)
Batch = dict[str, Tensor]

_PAIRS, _BATCHES = 1, 2  # independent streams of one seed; the training step has the third (loop.py)


class Clip(Protocol):
    """What is needed of a clip: ``frames`` uint8 [T, S, S], ``times_s`` float [T] and ``frame_rate`` in Hz."""

    @property
    def frames(self) -> np.ndarray:
        """All frames of the clip."""
        ...

    @property
    def times_s(self) -> np.ndarray:
        """When each of them was, nan where unknown."""
        ...

    @property
    def frame_rate(self) -> float:
        """Of the clip, nan where unknown."""
        ...


class Clips(Protocol):
    """What is needed of ``clips.cache.CachedClips``."""

    def __len__(self) -> int: ...
    def __getitem__(self, i: int) -> Clip: ...


class PairDataset(Dataset[Batch]):
    """Whole batches of pairs, asked for by their keys.

    An item is a dict: ``frames`` uint8 [B, K, S, S] (K as the policy draws them), ``lam`` float32 [B, 2], ``weights`` float32
    [B], ``labels`` int64 [B] (-1: unknown), ``patients`` int64 [B] and ``clips`` int64 [B].

    Args:
        clips: To draw from.
        policy: What to draw.
        labels: One code a clip, int64 [N].
        patients: One number a clip, int64 [N].
        seed: Of the draws.
    """

    def __init__(self, clips: Clips, policy: PairPolicy, labels: np.ndarray, patients: np.ndarray, seed: int) -> None:
        self.clips, self.policy, self.labels, self.patients, self.seed = clips, policy, labels, patients, seed

    def __len__(self) -> int:
        return len(self.clips)

    def __getitem__(self, keys: Sequence[Key]) -> Batch:
        frames, lam, weights = zip(*(self._pair(epoch, clip) for epoch, clip in keys), strict=True)
        rows = np.array([clip for _, clip in keys], dtype=np.int64)
        return {
            "frames": torch.from_numpy(np.stack(frames)),  # [B, K, S, S]
            "lam": torch.from_numpy(np.stack(lam)),  # [B, 2]
            "weights": torch.tensor(weights, dtype=torch.float32),
            "labels": torch.from_numpy(self.labels[rows]),
            "patients": torch.from_numpy(self.patients[rows]),
            "clips": torch.from_numpy(rows),
        }

    def _pair(self, epoch: int, clip: int) -> tuple[np.ndarray, np.ndarray, float]:
        chosen = self.clips[clip]
        rng = np.random.default_rng([self.seed, _PAIRS, epoch, clip])
        draw = self.policy.draw(chosen.times_s, chosen.frame_rate, rng)
        return np.asarray(chosen.frames[draw.frames]), draw.lam, draw.weight


class PatientBatches(Sampler[list[Key]]):
    """Batches in which no patient occurs twice, so that nobody is pushed away from himself.

    An epoch deals the clips, patient by patient in random order, round robin to its batches: a patient's clips land in
    different batches and all batches are of nearly equal size, at most ``batch_size`` (one more for a batch size below 4, where
    a clip would be left alone). Where a few patients own so many clips that this would take batches of less than half the size
    that is possible, an epoch uses a random selection of their clips, another each time. The number of batches is the same in
    every epoch.

    Args:
        patients: One value a clip.
        batch_size: At least 2.
        seed: Of the order.
        epoch: To begin with; Lightning calls ``set_epoch``.
        ranks: Processes of a distributed run. A batch of ``ranks`` · ``batch_size`` clips is dealt to them in equal parts, so
            that no patient is on two of them; what does not divide waits for another epoch.

    Raises:
        SonokitError: Fewer than two patients, a batch size below 2, or too few patients for so many processes.
    """

    def __init__(
        self, patients: Sequence[str] | np.ndarray, batch_size: int, seed: int, epoch: int = 0, *, ranks: int = 1
    ) -> None:
        names, self._patient = np.unique(np.asarray(patients), return_inverse=True)
        if len(names) < 2:
            raise SonokitError(f"contrast needs clips of at least 2 patients, there are {len(names)}; add clips of others")
        if batch_size < 2:
            raise SonokitError(f"batch_size must be at least 2, it is {batch_size}: a clip needs others to differ from")
        if len(names) < 2 * ranks:
            raise SonokitError(f"{ranks} processes need clips of at least {2 * ranks} patients, there are {len(names)}")
        self.seed, self.epoch, self.rank, self.ranks = seed, epoch, 0, ranks
        self.batches = _number_of_batches(np.bincount(self._patient), batch_size * ranks)

    def __len__(self) -> int:
        return self.batches

    def set_epoch(self, epoch: int) -> None:
        """The epoch that the next iteration is for."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = self.epoch
        rng = np.random.default_rng([self.seed, _BATCHES, epoch])
        order = self._order(rng)
        for batch in rng.permutation(self.batches):
            chosen = rng.permutation(order[batch :: self.batches])  # round robin
            share = len(chosen) // self.ranks
            own = chosen[self.rank * share : (self.rank + 1) * share]
            yield [(epoch, int(clip)) for clip in own]

    def _order(self, rng: np.random.Generator) -> np.ndarray:
        """Clips in random order, patients together, no more of one patient than there are batches."""
        shuffled = rng.permutation(len(self._patient))
        place = rng.permutation(int(self._patient.max()) + 1)[self._patient]  # patients in random order
        grouped = shuffled[np.argsort(place[shuffled], kind="stable")]
        patient = self._patient[grouped]
        starts = np.flatnonzero(np.r_[True, patient[1:] != patient[:-1]])
        rank = np.arange(len(grouped)) - np.repeat(starts, np.diff(np.r_[starts, len(grouped)]))
        return grouped[rank < self.batches]


def pair_loader(
    dataset: PairDataset, batches: PatientBatches, *, workers: int = 0, pin_memory: bool = False
) -> DataLoader[Batch]:
    """A loader of whole batches: ``batches`` is its sampler, whose epoch Lightning sets.

    The reading processes live as long as the loader: an epoch of a hundred clips takes less time than starting them.
    """
    return DataLoader(
        dataset,
        sampler=batches,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
    )


def _number_of_batches(clips_of_patient: np.ndarray, batch_size: int) -> int:
    """As many batches as hold all clips, unless they became small: see ``PatientBatches``."""

    def used(batches: int) -> int:
        return int(np.minimum(clips_of_patient, batches).sum())

    # more batches mean smaller ones: used(b) / b falls with b
    batches = 1
    while used(batches) > batches * batch_size:
        batches = max(batches + 1, -(-used(batches) // batch_size))
    if used(batches) // batches < 2:  # only with a batch_size of 2 or 3: rather one clip too many than a clip alone
        batches -= 1
    enough = max(2, min(batch_size, len(clips_of_patient)) // 2)
    while batches < clips_of_patient.max() and used(batches + 1) // (batches + 1) >= enough:
        batches += 1
    return batches
