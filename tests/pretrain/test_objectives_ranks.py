"""Two gloo processes, each with half of a batch, against one process with all of it."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from sonokit.pretrain.objectives.contrast import PatientNTXent
from sonokit.pretrain.objectives.moco import MoCo

PATIENTS = [0, 1, 2, 2, 3, 0, 2, 4]  # patients 0 and 2 are on both ranks
WEIGHTS = [1.0, 0.5, 1.0, 1.0, 0.2, 1.0, 1.0, 0.7]
SCRIPT = Path(__file__).with_name("objectives_on_two_ranks.py")


@pytest.fixture(scope="module")
def given() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "z": torch.randn(2, 8, 6, generator=generator),
        "views": torch.rand(2, 8, 1, 2, 2, generator=generator),
        "patients": torch.tensor(PATIENTS),
        "weights": torch.tensor(WEIGHTS),
    }


@pytest.fixture(scope="module")
def ranks(given, tmp_path_factory) -> list[dict]:
    folder = tmp_path_factory.mktemp("ranks")
    torch.save(given, folder / "given.pt")
    processes = [subprocess.Popen([sys.executable, SCRIPT, folder, str(rank)]) for rank in (0, 1)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    return [torch.load(folder / f"{rank}.pt") for rank in (0, 1)]


def test_patient_ntxent__two_ranks_are_one_batch(given, ranks):
    z = given["z"].clone().requires_grad_()
    joint = PatientNTXent(0.2)(*z, given["patients"], given["weights"])
    joint.backward()
    torch.testing.assert_close(torch.stack([r["loss"] for r in ranks]).mean(), joint.detach())
    # DDP divides the sum of the ranks' gradients by their number
    torch.testing.assert_close(torch.cat([r["gradients"] for r in ranks], dim=1) / 2, z.grad)


def test_patient_ntxent__the_same_patient_on_the_other_rank_is_no_negative(given, ranks):
    """By hand for the first rank, anchor by anchor."""
    z = F.normalize(given["z"].double(), dim=2).flatten(0, 1)  # 8 first views, 8 second ones
    who = PATIENTS * 2
    total = 0.0
    for clip in range(4):
        for anchor in (clip, clip + 8):
            similar = [math.exp(float(z[anchor] @ z[k]) / 0.2) for k in range(16)]
            positive = similar[(anchor + 8) % 16]
            others = sum(similar[k] for k in range(16) if who[k] != who[anchor])
            total -= WEIGHTS[clip] * math.log(positive / (positive + others)) / 8
    assert float(ranks[0]["loss"]) == pytest.approx(total, abs=1e-6)


def test_moco__keys_of_all_ranks_enter_every_queue(given, ranks):
    queues = [r["queue"] for r in ranks]
    assert all(torch.equal(queues[0][k], queues[1][k]) for k in queues[0])
    # each rank's clips come as first, then as second views
    order = [0, 1, 2, 3, 0, 1, 2, 3, 4, 5, 6, 7, 4, 5, 6, 7]
    assert queues[0]["patients"][:16].tolist() == [PATIENTS[i] for i in order]
    assert int(queues[0]["entered"]) == 16

    torch.manual_seed(0)
    projector = MoCo(_Flat(), queue=20, projection=3).momentum_projector
    views = given["views"].flatten(2)
    images = torch.cat([views[v, half] for half in (slice(0, 4), slice(4, 8)) for v in (0, 1)])
    with torch.no_grad():
        torch.testing.assert_close(queues[0]["keys"][:16], F.normalize(projector(images), dim=1))


class _Flat(torch.nn.Module):
    num_features = 4
