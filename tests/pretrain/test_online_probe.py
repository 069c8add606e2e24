import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sonokit.backbones.build import build_backbone
from sonokit.clips.augment import augment_named
from sonokit.errors import SonokitError
from sonokit.evaluation.embedding import embed_clips
from sonokit.evaluation.probe import quick_probe
from sonokit.pretrain.data import PairDataset, PatientBatches
from sonokit.pretrain.loop import Optimisation, PretrainLoop
from sonokit.pretrain.objectives.simclr import SimCLR
from sonokit.pretrain.online_probe import OnlineProbe, select_clips
from sonokit.pretrain.pairs import TwoViews
from sonokit.pretrain.record import MetricsFile

PATIENTS = np.array([f"p{i % 12}" for i in range(24)])
LABELS = pd.Series(["bright" if i % 12 < 6 else "dark" for i in range(24)])


class Clips:
    """Two clips of each of twelve patients, of whom the first six are bright."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.frames = [rng.integers(90 if label == "bright" else 0, 190, (20, 32, 32), np.uint8) for label in LABELS]

    def __len__(self) -> int:
        return 24

    def __getitem__(self, i: int) -> SimpleNamespace:
        return SimpleNamespace(frames=self.frames[i], times_s=np.arange(20) / 10, frame_rate=10.0)


def fit(out: Path, *probes: OnlineProbe) -> tuple[SimCLR, list[dict]]:
    """The objective after five epochs, and the lines of metrics.jsonl."""
    torch.manual_seed(0)
    objective = SimCLR(build_backbone("test_resnet"))
    objective.projector = torch.nn.Sequential(
        objective.projector, torch.nn.Dropout(0.2)
    )  # which draws from the global generator
    batches = PatientBatches(PATIENTS, 6, seed=0)
    loop = PretrainLoop(
        objective,
        augment_named("reference", 32, 1.0),
        TwoViews(),
        PairDataset(Clips(), TwoViews(), np.full(24, -1), np.arange(24) % 12, seed=0),
        batches,
        optimisation=Optimisation(3e-3, 1e-4, 2, 5 * len(batches)),
        seed=0,
    )
    trainer = pl.Trainer(
        max_epochs=5,
        accelerator="cpu",
        callbacks=[*probes, MetricsFile(out)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        default_root_dir=out,
    )
    trainer.fit(loop)
    return objective, [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def test_online_probe__says_how_it_goes_and_changes_nothing(tmp_path):
    probe = OnlineProbe(Clips(), LABELS, PATIENTS, every=3, size=32)
    with_probe, lines = fit(tmp_path / "with", probe)
    without, plain = fit(tmp_path / "without")
    state, other = with_probe.state_dict(), without.state_dict()
    assert state.keys() == other.keys()
    assert all(torch.equal(state[name], other[name]) for name in state)  # running means of BatchNorm among them
    assert with_probe.training
    assert [line["loss"] for line in lines] == [line["loss"] for line in plain]
    names = {"probe_knn_balanced_accuracy", "probe_linear_balanced_accuracy"}
    assert [names <= line.keys() for line in lines] == [True, False, False, True, True]  # and nothing stale between
    assert not any(names & line.keys() for line in lines[1:3])
    features = embed_clips(with_probe.result, probe.clips, size=32)
    expected = {f"probe_{name}": value for name, value in quick_probe(features, LABELS, PATIENTS).items()}
    assert {name: lines[-1][name] for name in names} == pytest.approx(expected, abs=1e-6)  # of the last epoch's weights
    assert lines[-1]["probe_linear_balanced_accuracy"] > 0.9  # bright from dark


def test_online_probe__few_frames_evenly_spaced():
    clips = Clips()
    few = OnlineProbe(clips, LABELS, PATIENTS, every=1, size=32).clips
    assert len(few) == 24
    np.testing.assert_array_equal(few[3].frames, clips.frames[3][[1, 3, 6, 8, 11, 13, 16, 18]])
    clips.frames[3] = clips.frames[3][:5]
    np.testing.assert_array_equal(few[3].frames, clips.frames[3])


def test_online_probe__too_few_patients_are_told_before_the_run():
    with pytest.raises(SonokitError, match="two classes of 5 patients"):
        OnlineProbe(Clips(), LABELS.where(PATIENTS != "p1").where(PATIENTS != "p2"), PATIENTS, every=1, size=32)


@settings(max_examples=50, deadline=None)
@given(
    labels=st.lists(st.sampled_from(["a", "b", "c", None]), min_size=1, max_size=60),
    owners=st.integers(1, 9),
    limit=st.integers(4, 20),
    seed=st.integers(0, 9),
)
def test_select_clips__rules(labels, owners, limit, seed):
    patients = np.array([f"p{i % owners}" for i in range(len(labels))])
    table = pd.DataFrame({"label": pd.Series(labels, dtype="str"), "patient": patients})
    chosen = select_clips(table["label"], patients, limit, seed)
    known = table.dropna(subset="label")
    assert chosen.tolist() == sorted(set(chosen.tolist()))
    assert set(chosen) <= set(known.index)
    if len(known) <= limit:
        assert len(chosen) == len(known)
        return
    assert len(chosen) <= limit
    assert chosen.tolist() == select_clips(table["label"], patients, limit, seed).tolist()
    share = limit // known["label"].nunique()
    for label, own in known.groupby("label"):
        taken = own.loc[own.index.intersection(chosen)]
        assert len(taken) == min(share, len(own)), label
        assert taken["patient"].nunique() == min(share, own["patient"].nunique())  # of as many patients as there are


def test_select_clips__another_seed_another_choice():
    labels = pd.Series(["a", "b"] * 100)
    patients = np.arange(200).astype(str)
    assert select_clips(labels, patients, 20, 0).tolist() != select_clips(labels, patients, 20, 1).tolist()
