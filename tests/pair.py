"""A stage that one process runs, or two: in a file of its own, because spawned processes import it."""

from pathlib import Path

import torch
from torch import nn

from namesake.picturebook.optim import MuonAndAdamW
from namesake.picturebook.train import Stage, run_stage
from namesake.train.pretrain import launched


def line(folder: Path, diverges: bool = False) -> None:
    """Three steps on 8 rows a step, each process with its share of them; the averaged weights go into `folder`."""
    accelerator = launched(cpu=True)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    optimizer = MuonAndAdamW(model.named_parameters(), 0.01, 0.01, plain=("0.weight",))

    def batches(rng, count, step):
        rows = torch.randn(8, 3, generator=torch.Generator().manual_seed(step))
        return rows[accelerator.process_index * count :][:count]

    def loss(module, batch):
        return (module(batch) - batch[:, :2] * (torch.nan if diverges else 3)).square().mean(), {}

    stage = Stage(3, 8, 0.01, 0.01, warmup=1, decay=0.5, average=0.5)
    averaged = run_stage("line", stage, model, optimizer, loss, batches, folder, accelerator)
    if accelerator.is_main_process:
        torch.save(averaged.state_dict() | {"processes": torch.tensor(accelerator.num_processes)}, folder / "line.pt")
