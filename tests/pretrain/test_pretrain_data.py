import pickle
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sonokit.errors import SonokitError
from sonokit.pretrain.data import PairDataset, PatientBatches, pair_loader
from sonokit.pretrain.pairs import SamplePairs


def epoch_of(batches: PatientBatches, epoch: int) -> list[list[int]]:
    batches.set_epoch(epoch)
    drawn = list(batches)
    assert {e for batch in drawn for e, _ in batch} == {epoch}
    return [[clip for _, clip in batch] for batch in drawn]


@settings(max_examples=200, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 12), min_size=2, max_size=20),
    batch_size=st.integers(2, 16),
    seed=st.integers(0, 99),
    epoch=st.integers(0, 3),
)
def test_patient_batches__rules(sizes, batch_size, seed, epoch):
    patients = np.repeat(np.arange(len(sizes)), sizes).astype(str)
    batches = PatientBatches(patients, batch_size, seed)
    drawn = epoch_of(batches, epoch)
    assert len(drawn) == len(batches)
    lengths = [len(batch) for batch in drawn]
    assert min(lengths) >= 2
    assert max(lengths) <= max(batch_size, 3)
    assert max(lengths) - min(lengths) <= 1
    for batch in drawn:
        assert len(set(patients[batch])) == len(batch)  # no patient twice
    clips = [clip for batch in drawn for clip in batch]
    assert len(clips) == len(set(clips))
    used = Counter(patients[clips])
    assert set(used) == set(patients)  # every patient in every epoch
    # a patient's clips are left out only where there are more of them than batches
    assert all(used[p] == min(n, len(batches)) for p, n in Counter(patients).items())


@settings(max_examples=50, deadline=None)
@given(patients=st.integers(2, 60), clips=st.integers(1, 4), batch_size=st.integers(8, 32))
def test_patient_batches__all_clips_are_used_where_patients_have_equally_many(patients, clips, batch_size):
    names = np.repeat(np.arange(patients), clips)
    drawn = epoch_of(PatientBatches(names, batch_size, 0), 0)
    if patients >= 4:
        assert sorted(c for b in drawn for c in b) == list(range(patients * clips))


def test_patient_batches__one_patient_with_most_clips_does_not_shrink_the_batches():
    patients = ["big"] * 200 + [f"p{i}" for i in range(40)]
    batches = PatientBatches(patients, 16, 0)
    lengths = [len(b) for b in epoch_of(batches, 0)]
    assert min(lengths) >= 8
    seen = {c for e in range(60) for b in epoch_of(batches, e) for c in b}
    assert len(seen) > 190  # another selection each time


def test_patient_batches__a_function_of_seed_and_epoch():
    patients = [f"p{i // 2}" for i in range(20)]
    first, again, other = (PatientBatches(patients, 6, seed) for seed in (1, 1, 2))
    epoch_of(first, 0)
    assert epoch_of(first, 5) == epoch_of(again, 5)
    assert epoch_of(first, 5) != epoch_of(first, 6)
    assert epoch_of(first, 5) != epoch_of(other, 5)


@pytest.mark.parametrize(("patients", "batch_size", "message"), [(["a"] * 5, 4, "2 patients"), (["a", "b"], 1, "batch_size")])
def test_patient_batches__faults(patients, batch_size, message):
    with pytest.raises(SonokitError, match=message):
        PatientBatches(patients, batch_size, 0)


class Memory:
    """Clips in memory, of the lengths given; every pixel tells its clip and frame."""

    def __init__(self, lengths):
        self.lengths = lengths

    def __len__(self):
        return len(self.lengths)

    def __getitem__(self, i):
        frames = np.arange(self.lengths[i], dtype=np.uint8).reshape(-1, 1, 1) + np.uint8(20 * i)
        n = self.lengths[i]
        return SimpleNamespace(frames=np.broadcast_to(frames, (n, 4, 4)), times_s=np.arange(n) / 10, frame_rate=10.0)


def dataset(seed: int = 0) -> PairDataset:
    return PairDataset(Memory([5, 2, 1, 9]), SamplePairs(), np.array([1, -1, 0, 1]), np.array([0, 1, 1, 2]), seed)


def test_pair_dataset__batch():
    batch = dataset()[[(0, 3), (0, 1), (0, 2)]]
    assert batch["frames"].shape == (3, 3, 4, 4)
    assert batch["frames"].dtype == torch.uint8
    assert batch["lam"].shape == (3, 2)
    assert batch["labels"].tolist() == [1, -1, 0]
    assert batch["clips"].tolist() == [3, 1, 2]
    shown = batch["frames"][:, :, 0, 0].long() - 20 * batch["clips"].view(-1, 1)
    assert len(set(shown[0].tolist())) == 3
    assert {shown[1, 0].item(), shown[1, 2].item()} == {0, 1}
    assert shown[2].tolist() == [0, 0, 0]


def test_pair_dataset__an_item_depends_on_seed_epoch_and_clip_only():
    alone = dataset()[[(4, 3)]]
    in_company = dataset()[[(4, 0), (4, 3)]]
    assert torch.equal(alone["frames"][0], in_company["frames"][1])
    assert torch.equal(alone["lam"][0], in_company["lam"][1])
    assert not torch.equal(alone["lam"], dataset()[[(5, 3)]]["lam"])
    assert not torch.equal(alone["lam"], dataset(1)[[(4, 3)]]["lam"])
    pickle.loads(pickle.dumps(dataset()))


@pytest.mark.parametrize("workers", [0, 1])
def test_pair_loader__workers_change_nothing(workers):
    batches = PatientBatches(["a", "b", "b", "c"], 2, 0)
    loader = pair_loader(dataset(), batches, workers=workers)
    for epoch in (3, 4):  # the second one with the same processes
        batches.set_epoch(epoch)
        loaded = [(b["clips"].tolist(), b["lam"].tolist()) for b in loader]
        expected = epoch_of(PatientBatches(["a", "b", "b", "c"], 2, 0), epoch)
        assert loaded == [(clips, dataset()[[(epoch, clip) for clip in clips]]["lam"].tolist()) for clips in expected]


@pytest.mark.parametrize(("ranks", "batch_size"), [(2, 4), (3, 2), (4, 2)])
def test_patient_batches__ranks_share_one_batch_without_a_patient_in_common(ranks, batch_size):
    patients = np.repeat(np.arange(11), [1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2])
    parts = []
    for rank in range(ranks):
        batches = PatientBatches(patients, batch_size, 0, ranks=ranks)
        batches.rank = rank
        parts.append([epoch_of(batches, e) for e in range(20)])
    for epoch in range(20):
        for together in zip(*(part[epoch] for part in parts), strict=True):
            clips = [clip for own in together for clip in own]
            assert len({len(own) for own in together}) == 1  # gathering needs equal parts
            assert len(together[0]) >= 1
            assert len({patients[c] for c in clips}) == len(clips)
    seen = {c for part in parts for epoch in part for batch in epoch for c in batch}
    assert seen == set(range(len(patients)))  # what does not divide in one epoch comes in another


def test_patient_batches__one_rank_is_the_default():
    patients = list("aabbccdd")
    plain, ranked = PatientBatches(patients, 3, 5), PatientBatches(patients, 3, 5, ranks=1)
    assert [epoch_of(plain, e) for e in range(4)] == [epoch_of(ranked, e) for e in range(4)]


def test_patient_batches__too_few_patients_for_the_ranks():
    with pytest.raises(SonokitError, match="3 processes need clips of at least 6 patients, there are 5"):
        PatientBatches(list("abcde"), 4, 0, ranks=3)
