"""Two processes that train together (gloo, on the CPU). Executed as a script, this file is such a run."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import torch

RANKS = 2
SETTINGS = {
    "backbone": "test_resnet", "size": 32, "batch_size": 3, "epochs": 3, "warmup_epochs": 1, "learning_rate": 3e-3,
    "devices": RANKS,
}  # fmt: skip


def start(out: Path, **change: object) -> subprocess.CompletedProcess[str]:
    """The run as a user's script, on one thread a process."""
    quiet = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, __file__, str(out), json.dumps({**SETTINGS, **change})]
    return subprocess.run(command, env={**os.environ, **quiet}, capture_output=True, text=True, timeout=300)


def weights(out: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(out / "model.safetensors")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ranks") / "whole"
    done = start(out, objective="moco", queue=8)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("finished") == RANKS  # both came to the end
    return out


def test_pretrain__two_ranks_leave_one_record(whole: Path) -> None:
    table = pd.read_csv(whole / "metrics.csv")
    assert table["epoch"].tolist() == [0, 1, 2]
    assert table["loss"].notna().all()
    assert (whole / "config.json").exists()


def test_pretrain__two_ranks_go_on_after_a_kill_to_the_same_weights(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "killed"
    killed = start(out, objective="moco", queue=8, die_at=2)
    assert killed.returncode != 0
    assert (out / "last.ckpt").exists()
    assert not (out / "config.json").exists()
    done = start(out, objective="moco", queue=8)
    assert done.returncode == 0, done.stderr
    first, second = weights(whole), weights(out)
    assert all(torch.equal(first[name], second[name]) for name in first)


def run(out: Path, change: dict[str, object]) -> None:
    from sonokit.pretrain.loop import PretrainLoop
    from sonokit.pretrain.run import pretrain
    from sonokit.pretrain.settings import PretrainSettings

    sys.path.insert(0, str(Path(__file__).parent))
    from test_pretrain_run import Clips

    die_at = change.pop("die_at", None)
    if die_at is not None:
        step = PretrainLoop.training_step

        def training_step(self, batch, number):
            if self.current_epoch == die_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return step(self, batch, number)

        PretrainLoop.training_step = training_step
    settings = PretrainSettings(**change)
    pretrain(Clips(patients=7), out, settings, config=dataclasses.asdict(settings), progress=False)
    print("finished", flush=True)


if __name__ == "__main__":
    run(Path(sys.argv[1]), json.loads(sys.argv[2]))
