"""Runs of a tiny network on a few clips in memory. Executed as a script, this file dies in the middle of such runs."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
from sonokit.backbones.build import build_backbone
from sonokit.backbones.folder import load_backbone, read_provenance, save_backbone
from sonokit.clips.manifest import Manifest
from sonokit.errors import SonokitError
from sonokit.pretrain import run as run_module
from sonokit.pretrain.loop import PretrainLoop
from sonokit.pretrain.record import CheckpointFile
from sonokit.pretrain.run import encode_labels, pretrain
from sonokit.pretrain.settings import PretrainSettings

TINY = PretrainSettings(
    backbone="test_resnet",
    size=32,
    batch_size=4,
    epochs=4,
    warmup_epochs=1,
    learning_rate=3e-3,
    label="sign",
    temporal_shift=0.125,
)


class Clips:
    """Clips in memory that look like ``CachedClips``: bars whose width is the patient's."""

    def __init__(self, patients: int = 5, per_patient: int = 2, patient_column: str | None = "patient_id") -> None:
        n = patients * per_patient
        owner = np.repeat(np.arange(patients), per_patient)
        self.table = pd.DataFrame(
            {
                "path": [f"{i}.mp4" for i in range(n)],
                "clip_id": [f"c{i}" for i in range(n)],
                "patient_id": [f"p{i}" for i in owner],
                "sign": [[0, 1, None][i % 3] for i in range(n)],
                "content_hash": [f"hash{i}" for i in range(n)],
            }
        )
        self.manifest = Manifest(self.table.drop(columns="content_hash"), Path(), patient_column, Path("manifest.csv"))
        self.settings = SimpleNamespace(size=40)
        rng = np.random.default_rng(0)
        bars = [np.sin(np.linspace(0, 3 + 4 * o, 40)) for o in owner]
        noise = rng.normal(0, 0.2, (n, 6, 40, 40))
        self.frames = [np.uint8(127 * (1 + b * 0.7 + e).clip(0, 2)) for b, e in zip(bars, noise, strict=True)]

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, i: int) -> SimpleNamespace:
        frames = self.frames[i][: [6, 6, 2, 1][i % 4]]
        return SimpleNamespace(frames=frames, times_s=np.arange(len(frames)) / 10, frame_rate=10.0)


def go(out: Path, settings: PretrainSettings = TINY, clips=None, **options) -> Path:
    clips = clips or Clips()
    return pretrain(clips, out, settings, config=dataclasses.asdict(settings), progress=False, **options)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(out / "model.safetensors")


def same(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def epochs(out: Path) -> list[int]:
    return [json.loads(line)["epoch"] for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    return go(tmp_path_factory.mktemp("run") / "out")


def test_pretrain__leaves_a_backbone_and_its_record(undisturbed):
    backbone = load_backbone(undisturbed)
    assert (backbone.name, backbone.in_chans, backbone.temporal_shift) == ("test_resnet", 1, 0.125)
    names = {p.name for p in undisturbed.iterdir()}
    assert names == {
        "config.json", "config.yaml", "environment.json", "events", "last.ckpt", "metrics.jsonl", "metrics.csv",
        "model.safetensors", "README.md", "data.json", "sonokit.json",
    }  # fmt: skip
    rows = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [0, 1, 2, 3]
    assert [row["step"] for row in rows] == [3, 6, 9, 12]  # 10 clips, 4 a batch
    assert rows[-1]["contrastive"] < rows[0]["contrastive"]
    assert rows[0]["loss"] == pytest.approx(rows[0]["contrastive"] + 0.2 * rows[0]["classification"], abs=1e-4)
    assert rows[-1]["learning_rate"] < rows[1]["learning_rate"]
    table = pd.read_csv(undisturbed / "metrics.csv")
    assert table["loss"].tolist() == pytest.approx([row["loss"] for row in rows])
    assert {"alignment", "uniformity", "images_s"} <= set(table)


def test_pretrain__provenance_names_labels_clips_and_patients(undisturbed):
    provenance = read_provenance(undisturbed)
    assert provenance["fitted_on_labels"] is True
    assert provenance["labels"] == ["sign"]
    assert provenance["training_clips"] == {f"c{i}": f"hash{i}" for i in range(10)}
    assert provenance["training_patients"] == [f"p{i}" for i in range(5)]


def test_pretrain__leaves_the_global_generator_alone(tmp_path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    go(tmp_path / "out", dataclasses.replace(TINY, epochs=1, label=None))
    assert torch.equal(torch.get_rng_state(), before)
    provenance = read_provenance(tmp_path / "out")
    assert provenance["fitted_on_labels"] is False
    assert len(provenance["training_clips"]) == 10


def test_pretrain__a_finished_run_returns_at_once(undisturbed, monkeypatch):
    monkeypatch.setattr(run_module, "_build_loop", lambda *a: pytest.fail("trained again"))
    before = (undisturbed / "model.safetensors").stat().st_mtime_ns
    assert go(undisturbed) == undisturbed
    assert (undisturbed / "model.safetensors").stat().st_mtime_ns == before


def test_pretrain__other_settings_are_refused(undisturbed):
    with pytest.raises(SonokitError, match="epochs: 4 there, 5 now"):
        go(undisturbed, dataclasses.replace(TINY, epochs=5))


def clips_of_another_patient() -> Clips:
    clips = Clips()
    clips.manifest.table.loc[0, "patient_id"] = "p4"
    return clips


@pytest.mark.parametrize("other", [Clips(patients=6), clips_of_another_patient()])
def test_pretrain__other_clips_under_the_same_settings_are_refused(undisturbed, tmp_path, monkeypatch, other):
    with pytest.raises(SonokitError, match="other clips, patients or labels"):  # a finished run
        go(undisturbed, clips=other)
    with monkeypatch.context() as patch:
        patch.setattr(PretrainLoop, "training_step", lambda *a: (_ for _ in ()).throw(RuntimeError("out of memory")))
        with pytest.raises(RuntimeError, match="out of memory"):
            go(tmp_path / "out")
    with pytest.raises(SonokitError, match="other clips, patients or labels"):  # one that would go on
        go(tmp_path / "out", clips=other)


def test_pretrain__does_not_replace_another_makers_backbone(tmp_path):
    save_backbone(build_backbone("test_resnet"), tmp_path / "theirs", provenance={"note": "theirs"})
    for backbone in ("test_resnet", str(tmp_path / "theirs")):
        with pytest.raises(SonokitError, match="did not come from this command"):
            go(tmp_path / "theirs", dataclasses.replace(TINY, backbone=backbone))
    assert read_provenance(tmp_path / "theirs")["note"] == "theirs"


def test_pretrain__a_loss_that_is_no_number_leaves_no_backbone(tmp_path):
    with pytest.raises(SonokitError, match="lower learning_rate"):
        go(tmp_path / "out", dataclasses.replace(TINY, learning_rate=1e12))
    assert not (tmp_path / "out" / "config.json").exists()


def test_pretrain__reading_processes_change_nothing(undisturbed, tmp_path):
    assert same(go(tmp_path / "out", workers=1), undisturbed)


def test_pretrain__the_seed_changes_the_weights(undisturbed, tmp_path):
    assert not same(go(tmp_path / "out", dataclasses.replace(TINY, seed=1)), undisturbed)


# moment of the kill: steps that are left to do (of 12, 3 an epoch)
MOMENTS = {
    "before a checkpoint": 12,
    "in an epoch": 6,
    "in a checkpoint": 6,
    "before the next checkpoint": 6,
    "in the backbone": 0,
}


def die_in_a_run(out: Path, moment: str) -> None:
    """Run until ``moment`` of the run, then SIGKILL."""
    calls = {"step": 0, "checkpoint": 0}
    step, save, put = PretrainLoop.training_step, CheckpointFile.on_train_epoch_end, run_module.save_backbone

    def kill() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def training_step(self, batch, number):
        calls["step"] += 1
        if calls["step"] == {"before a checkpoint": 2, "in an epoch": 8}.get(moment):
            kill()
        return step(self, batch, number)

    def on_train_epoch_end(self, trainer, module):
        calls["checkpoint"] += 1
        self._next = 0.0  # at every epoch
        if calls["checkpoint"] == 3 and moment == "in a checkpoint":

            def save_half(file):
                Path(file).write_bytes(b"half")
                kill()

            trainer.save_checkpoint = save_half
        if calls["checkpoint"] == 3 and moment == "before the next checkpoint":
            with open(out / "metrics.jsonl", "a") as handle:
                handle.write('{"epoch": 3, "st')
            kill()
        save(self, trainer, module)

    def save_half_backbone(backbone, folder, *, provenance):
        put(backbone, folder, provenance=provenance)
        (folder / "config.json").unlink()
        kill()

    PretrainLoop.training_step, CheckpointFile.on_train_epoch_end = training_step, on_train_epoch_end
    if moment == "in the backbone":
        run_module.save_backbone = save_half_backbone
    go(out)


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    subprocess.run([sys.executable, __file__, folder], check=True)
    return folder


@pytest.mark.parametrize("moment", MOMENTS)
def test_pretrain__goes_on_after_a_kill_to_the_same_weights(undisturbed, killed, monkeypatch, moment):
    out = killed / moment
    steps = []
    step = PretrainLoop.training_step
    monkeypatch.setattr(PretrainLoop, "training_step", lambda *args: steps.append(1) or step(*args))
    assert not (out / "config.json").exists()
    assert (out / "last.ckpt").exists() == (moment != "before a checkpoint")
    go(out)
    assert len(steps) == MOMENTS[moment]
    assert same(out, undisturbed)
    assert epochs(out) == [0, 1, 2, 3]
    assert [p.name for p in out.glob(".tmp-*")] in ([], [p.name for p in out.glob(".tmp-*-last.ckpt")])


def test_pretrain__interrupted_by_the_user_is_not_finished(tmp_path, undisturbed, monkeypatch):
    def training_step(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(PretrainLoop, "training_step", training_step)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            go(tmp_path / "out")
    assert not (tmp_path / "out" / "config.json").exists()
    assert same(go(tmp_path / "out"), undisturbed)


def test_pretrain__goes_on_from_another_backbone_and_keeps_its_provenance(tmp_path):
    start = tmp_path / "start"
    save_backbone(
        build_backbone("test_resnet"),
        start,
        provenance={
            "fitted_on_labels": True,
            "labels": ["old"],
            "training_clips": {"x": "y", "c0": "old", "c1": "hash1"},
            "training_patients": ["q"],
        },
    )
    settings = dataclasses.replace(TINY, backbone=str(start), epochs=1, label=None, temporal_shift=0.0, pairs="two_views")
    provenance = read_provenance(go(tmp_path / "out", settings))
    assert provenance["fitted_on_labels"] is True
    assert provenance["labels"] == ["old"]
    # c0 is another clip than the earlier study's, c1 the same
    assert sorted(provenance["training_clips"].values()) == sorted(["y", "old", *(f"hash{i}" for i in range(10))])
    assert "q" in provenance["training_patients"]
    assert provenance["method"] == "uscl, pairs two_views"


@pytest.mark.parametrize(
    ("change", "clips", "message"),
    [
        ({}, Clips(patients=1, per_patient=4), "2 patients"),
        ({"label": "nothing"}, None, "nothing"),
        ({"label": "patient_id"}, None, "patient_id"),
        ({"epochs": 0}, None, "epochs must be at least 1"),
        ({"augment": "strong"}, None, "ultrasound, reference, none"),
        ({"backbone": "test_vit", "temporal_shift": 0.0, "size": 30}, None, "30 pixels"),
        ({"precision": "fp16"}, None, "fp16 needs a GPU"),
        ({"probe_label": "sign"}, None, "learnt from, so watching it tells nothing"),
        ({"label": None, "probe_label": "patient"}, None, "patient"),
        ({"label": None, "objective": "hico", "backbone": "test_vit", "temporal_shift": 0.0}, None, "test_vit"),
        ({"objective": "moco"}, None, "label"),
        ({"same_patient": "together"}, Clips(patients=1, per_patient=4), "2 patients, there are 1"),
        ({"alpha": 2.0, "pairs": "two_views"}, None, "alpha does nothing but with sample_pairs"),
        ({"queue": 8, "shadows": 1.0, "augment": "none"}, None, "queue does nothing but with moco.*shadows does nothing but"),
        ({"label_weight": 0.0}, None, "nothing is learnt from sign"),
        ({"mask_sector": True, "pairs": "two_views"}, None, "mask_sector finds the sector by what moves"),
        ({"objective": "byol", "label": None, "temperature": 0.1}, None, "byol has no temperature"),
        ({"devices": 3}, None, "3 processes need clips of at least 6 patients, there are 5"),
        ({"accumulate": 0, "clip_norm": -1.0}, None, "clip_norm must be at least 0, it is -1.0; accumulate must be at least 1"),
    ],
)
def test_pretrain__faults(tmp_path, change, clips, message):
    with pytest.raises(SonokitError, match=message):
        go(tmp_path / "out", dataclasses.replace(TINY, **change), clips)
    assert not (tmp_path / "out").exists()


def test_pretrain__without_patients_each_clip_is_its_own(tmp_path):
    settings = dataclasses.replace(TINY, epochs=1, label=None)
    out = go(tmp_path / "out", settings, Clips(patients=1, per_patient=4, patient_column=None))
    assert read_provenance(out)["training_patients"] == []


def test_pretrain__accumulated_gradients_are_one_step(tmp_path):
    out = go(tmp_path / "out", dataclasses.replace(TINY, accumulate=2, epochs=2))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [2, 4]  # three batches an epoch: two together, and the last


def test_pretrain__clipping_bounds_the_gradient_of_every_step(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        PretrainLoop,
        "on_before_zero_grad",
        lambda self, _: seen.append([p.grad.norm() for p in self.objective.parameters() if p.grad is not None]),
    )
    go(tmp_path / "out", dataclasses.replace(TINY, clip_norm=0.01, epochs=2))
    lengths = [float(torch.stack(norms).norm()) for norms in seen if norms]
    assert len(lengths) >= 5
    assert max(lengths) <= 0.01 * 1.001


def test_pretrain__bf16_learns_as_well(undisturbed, tmp_path):
    out = go(tmp_path / "out", dataclasses.replace(TINY, precision="bf16"))
    first, second = (pd.read_csv(folder / "metrics.csv")["loss"] for folder in (undisturbed, out))
    assert second.tolist() == pytest.approx(first.tolist(), rel=0.1)
    assert not same(out, undisturbed)
    assert all(tensor.dtype != torch.bfloat16 for tensor in weights(out).values())


def test_pretrain__batches_of_all_clips_alike_may_hold_a_patient_twice(tmp_path, monkeypatch):
    batches = []
    step = PretrainLoop.training_step

    def training_step(self, batch, number):
        batches.append(batch["patients"].tolist())
        return step(self, batch, number)

    monkeypatch.setattr(PretrainLoop, "training_step", training_step)
    go(tmp_path / "apart", dataclasses.replace(TINY, batch_size=8, epochs=2))
    assert all(len(set(batch)) == len(batch) for batch in batches)
    batches.clear()
    go(tmp_path / "together", dataclasses.replace(TINY, batch_size=10, epochs=2, same_patient="together"))
    assert sorted(batches[0]) == sorted([*range(5), *range(5)])  # all ten clips of the five patients


@pytest.mark.parametrize("objective", ["simclr", "moco", "byol", "dino", "hico"])
def test_pretrain__every_objective_goes_on_after_a_fault_to_the_same_weights(tmp_path, monkeypatch, objective):
    settings = dataclasses.replace(TINY, objective=objective, label=None, temporal_shift=0.0)
    if objective == "moco":
        settings = dataclasses.replace(settings, queue=8)
    whole = go(tmp_path / "whole", settings)
    calls = []
    step = PretrainLoop.training_step

    def training_step(self, batch, number):
        calls.append(number)
        if len(calls) == 8:  # in the third epoch
            raise RuntimeError("out of memory")
        return step(self, batch, number)

    with monkeypatch.context() as patch:
        patch.setattr(PretrainLoop, "training_step", training_step)
        with pytest.raises(RuntimeError, match="out of memory"):
            go(tmp_path / "halted", settings)
    assert not (tmp_path / "halted" / "config.json").exists()
    assert same(go(tmp_path / "halted", settings), whole)
    assert read_provenance(whole)["method"] == f"{objective}, pairs {'sample_pairs' if objective == 'hico' else 'two_views'}"


def test_encode_labels__unknown_is_minus_1():
    codes, classes = encode_labels(pd.Series(["b", None, "a", "b"], name="x"))
    assert codes.tolist() == [1, -1, 0, 1]
    assert classes == ["a", "b"]
    with pytest.raises(SonokitError, match="'x' has 1 known"):
        encode_labels(pd.Series(["a", None], name="x"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in MOMENTS:
        if (child := os.fork()) == 0:
            die_in_a_run(Path(sys.argv[1]) / name, name)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, name


def test_pretrain__ctrl_c_comes_through_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning turns it into an exit with status 1, after which nobody would tell the user how to go on."""
    handler = signal.getsignal(signal.SIGINT)

    def press(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PretrainLoop, "training_step", press)
    try:
        with pytest.raises(KeyboardInterrupt):
            go(tmp_path / "run")
    finally:
        signal.signal(signal.SIGINT, handler)  # Lightning ignores it from here on
    assert not (tmp_path / "run" / "model.safetensors").exists()
