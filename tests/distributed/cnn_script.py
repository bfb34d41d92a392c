"""What ``torchrun`` starts: a network under DDP with all callbacks of ``recipe("cnn")``.

    torchrun --nproc_per_node 2 -m tests.distributed.cnn_script FOLDER

Each rank writes its weights into the folder, and the rows of its log.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from lightning_tricks import recipe
from tests.distributed.everyone import share
from tests.problems import Classifier, Memory, digits, sgd, trainer

GLOBAL_BATCH, UPDATES = 64, 12


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10))


def train(world: int, rank: int) -> dict[str, Any]:
    """Train on this rank's part of the batches; return weights and the rows of the log."""
    module, memory = Classifier(lambda p: sgd(p, lr=0.1, momentum=0.9), net=network()), Memory()
    strategy: Any = DDPStrategy() if world > 1 else "auto"
    t = trainer(
        recipe("cnn", output="net", TrainingDoctor={"every_n_steps": 4}), strategy=strategy, devices=world,
        logger=memory, use_distributed_sampler=False,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        t.fit(module, share(digits(GLOBAL_BATCH * UPDATES), world, rank, GLOBAL_BATCH))
    rows = [(step, sorted(row)) for step, row in memory.rows]
    return {"weights": torch.cat([p.detach().reshape(-1) for p in module.parameters()]), "rows": rows}


if __name__ == "__main__":
    given = train(int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"]))
    torch.save(given, Path(sys.argv[1]) / f"rank{os.environ['RANK']}.pt")
    torch.distributed.destroy_process_group()
