"""Every objective on simulated clips, through the whole run."""

import pandas as pd
import pytest
import torch
from sonokit.clips.cache import prepare
from sonokit.clips.cached_clips import CachedClips, CacheSettings
from sonokit.clips.manifest import read_manifest
from sonokit.clips.sampling import Sampling
from sonokit.clips.simulation.simulate import simulate
from sonokit.errors import SonokitError
from sonokit.pretrain.objectives.contrast import PatientNTXent
from sonokit.pretrain.run import pretrain
from sonokit.pretrain.settings import PretrainSettings

TINY = {
    "backbone": "test_resnet", "size": 32, "batch_size": 8, "epochs": 12, "learning_rate": 2e-3, "warmup_epochs": 2,
    "augment_strength": 0.5,
}  # fmt: skip


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> CachedClips:
    folder = tmp_path_factory.mktemp("simulated")
    manifest = simulate(folder / "clips", patients=8, clips_per_patient=1, seconds=0.4, size=64, progress=False)
    return prepare(read_manifest(manifest), folder / "cache", CacheSettings(32, Sampling(frames=8)), progress=False)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "change",
    [
        {"objective": "uscl"},
        {"objective": "uscl", "label": "b_lines", "independent_lam": True},
        {"objective": "simclr", "pairs": "nearby_frames", "pair_seconds": 0.2},
        {"objective": "moco", "queue": 16, "momentum": 0.9},
        {"objective": "byol", "momentum": 0.9},
        {"objective": "dino", "momentum": 0.9, "dino_outputs": 64},
        {"objective": "hico", "label": "b_lines"},
        {"objective": "uscl", "mask_sector": True, "shadows": 1.0},
    ],
    ids=lambda change: "-".join(map(str, change.values())),
)
def test_pretrain__the_loss_falls_on_simulated_clips(clips, tmp_path, change):
    out = pretrain(clips, tmp_path / "out", PretrainSettings(**(TINY | change)), config={}, progress=False)
    table = pd.read_csv(out / "metrics.csv")
    first = table["loss"][1 if change["objective"] == "moco" else 0]  # its queue is empty at first, and the loss 0
    assert table["loss"][9:].max() < first
    assert table["feature_rank"].iloc[-1] > 2


def test_pretrain__a_run_that_collapses_stops_and_says_why(clips, tmp_path, monkeypatch):
    """Positives that attract, and nothing that pushes apart: all embeddings become one."""
    attract = lambda self, z1, z2, patients, weights: (1 - torch.cosine_similarity(z1, z2)).mean()  # noqa: E731
    monkeypatch.setattr(PatientNTXent, "forward", attract)
    settings = PretrainSettings(**TINY | {"epochs": 400, "learning_rate": 1e-2, "objective": "simclr"})
    with pytest.raises(SonokitError, match="collapsed"):
        pretrain(clips, tmp_path / "out", settings, config={}, progress=False)
    assert not (tmp_path / "out" / "config.json").exists()
    assert len(pd.read_csv(tmp_path / "out" / "metrics.csv")) < 400


def test_pretrain__the_online_probe_watches_and_changes_nothing(tmp_path_factory, tmp_path):
    folder = tmp_path_factory.mktemp("probe")
    manifest = simulate(folder / "clips", patients=20, clips_per_patient=1, seconds=0.2, size=64, progress=False)
    clips = prepare(read_manifest(manifest), folder / "cache", CacheSettings(32, Sampling(frames=3)), progress=False)
    settings = PretrainSettings(**TINY | {"epochs": 4})
    plain = pretrain(clips, tmp_path / "plain", settings, config={}, progress=False)
    watched = PretrainSettings(**TINY | {"epochs": 4, "probe_label": "b_lines", "probe_every": 2})
    seen = pretrain(clips, tmp_path / "watched", watched, config={}, progress=False)
    assert (plain / "model.safetensors").read_bytes() == (seen / "model.safetensors").read_bytes()
    looked = pd.read_csv(seen / "metrics.csv")["probe_linear_balanced_accuracy"]
    assert looked.notna().tolist() == [True, False, True, True]
    assert looked.dropna().between(0, 1).all()
