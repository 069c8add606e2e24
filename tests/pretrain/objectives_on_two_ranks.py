"""What one of two processes makes of its half of a batch: run by test_objectives_ranks.py as FOLDER RANK."""

import sys
from pathlib import Path

import torch
from sonokit.pretrain.objectives.contrast import PatientNTXent
from sonokit.pretrain.objectives.moco import MoCo
from sonokit.pretrain.objectives.objective import Views


class Flat(torch.nn.Module):
    """Stands in for a backbone: the pixels are the features."""

    num_features = 4

    def forward(self, frames):
        return frames.flatten(1)


def moco() -> MoCo:
    torch.manual_seed(0)
    return MoCo(Flat(), queue=20, projection=3).train()


def main(folder: Path, rank: int) -> None:
    given = torch.load(folder / "given.pt")
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    half = len(given["patients"]) // 2
    rows = slice(rank * half, (rank + 1) * half)
    patients, weights = given["patients"][rows], given["weights"][rows]

    z1, z2 = (z[rows].clone().requires_grad_() for z in given["z"])
    loss = PatientNTXent(0.2)(z1, z2, patients, weights)
    loss.backward()

    objective = moco()
    first, second = given["views"]
    objective(Views(first[rows], second[rows], torch.full((half,), -1), patients, weights))
    result = {"loss": loss.detach(), "gradients": torch.stack([z1.grad, z2.grad]), "queue": objective.queue.state_dict()}
    torch.save(result, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
