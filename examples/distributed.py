"""Train on two processes, one of which has three times the images of the other, and get what one process would get.

What you have: nothing but this checkout. Run:
.venv/bin/python -m torch.distributed.run --standalone --nproc_per_node 2 examples/distributed.py
What you get: the gradient's norm beside that of plain torch on one process, and runs/distributed.png.
"""

from __future__ import annotations

import argparse
import csv
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import GradientAccumulation, GradientClip, GradientMonitor, LRSchedule

RUNS = Path(__file__).parent.parent / "runs"
RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))  # torch.distributed.run sets them
IMAGES, MICRO, WINDOW, LR = 1340, 32, 2, 0.5


class Net(L.LightningModule):
    """Two layers; no BatchNorm, whose statistics would be those of each process."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=LR, momentum=0.9)


def digits() -> TensorDataset:
    bunch = load_digits()
    return TensorDataset(torch.tensor(bunch.data / 16.0, dtype=torch.float32), torch.tensor(bunch.target))


def shares() -> list[list[int]]:
    """The images of this process, batch by batch: the first of two has three quarters of each batch."""
    cut = MICRO if WORLD == 1 else 3 * MICRO // 4
    batches = [range(i, min(i + MICRO, IMAGES)) for i in range(0, IMAGES, MICRO)]
    return [list(batch[:cut] if RANK == 0 else batch[cut:][RANK - 1 :: WORLD - 1]) for batch in batches]


def train(name: str, epochs: int, tricks: list[Any], **arguments: Any) -> list[float]:
    """Train on all processes; the first one returns the norms that it logged."""
    logger = L.loggers.CSVLogger(RUNS, name="distributed", version=name)
    trainer = L.Trainer(
        accelerator="cpu", devices=WORLD, strategy="ddp" if WORLD > 1 else "auto", max_epochs=epochs, logger=logger,
        log_every_n_steps=1, use_distributed_sampler=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **arguments,
        callbacks=[GradientMonitor(), GradientClip(1.0), LRSchedule("cosine", warmup="10%"), *tricks],
    )  # fmt: skip
    trainer.fit(Net(), DataLoader(digits(), batch_sampler=shares()))
    logged = csv.DictReader((Path(logger.log_dir) / "metrics.csv").open()) if RANK == 0 else ()
    return [float(row["grad/norm"]) for row in logged]


def plain_torch(epochs: int) -> list[float]:
    """The same on one process without Lightning, with the whole window as one batch."""
    module, norms = Net(), []
    optimizer = module.configure_optimizers()
    windows = [slice(i, min(i + WINDOW * MICRO, IMAGES)) for i in range(0, IMAGES, WINDOW * MICRO)] * epochs
    for window, multiplier in zip(windows, LRSchedule("cosine", warmup="10%").values(len(windows)), strict=True):
        optimizer.param_groups[0]["lr"] = LR * multiplier
        optimizer.zero_grad()
        module.training_step(digits()[window], 0).backward()
        norms.append(float(nn.utils.clip_grad_norm_(module.parameters(), 1.0)))
        optimizer.step()
    return norms


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch.utilities.rank_zero", "pytorch_lightning.utilities.rank_zero", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    ways = {
        "GradientAccumulation(2)": train("ours", options.epochs, [GradientAccumulation(WINDOW)]),
        "Trainer(accumulate_grad_batches=2)": train("theirs", options.epochs, [], accumulate_grad_batches=WINDOW),
    }
    if RANK > 0:
        return  # the first process alone prints and draws
    plain = plain_torch(options.epochs)
    norm, apart = (figure := Figure(figsize=(5.4, 7.2), layout="constrained")).subplots(2, 1)
    norm.plot(plain, color="black", alpha=0.3, linewidth=5, label="plain torch, one process")
    for (name, norms), color in zip(ways.items(), ("tab:orange", "tab:green"), strict=True):
        errors = [abs(a / b - 1) for a, b in zip(norms, plain, strict=True)]
        print(f"processes: {WORLD}; {name}: norms are at most {max(errors):.1e} off those of plain torch")
        norm.plot(norms, "--", color=color, label=name)
        apart.plot([max(error, 1e-9) for error in errors], color=color, label=name)
    norm.set(title=f"processes: {WORLD}", xlabel="update", ylabel="gradient norm before the clip", yscale="log")
    apart.set(title="distance to plain torch", xlabel="update", ylabel="relative error of the norm", yscale="log")
    for ax in (norm, apart):
        ax.grid(alpha=0.3)
        ax.legend(fontsize="small")
    figure.savefig(RUNS / "distributed.png", dpi=180)
    print(f"picture: {RUNS / 'distributed.png'}")
    if WORLD == 1:
        print("for two: python -m torch.distributed.run --standalone --nproc_per_node 2 examples/distributed.py")


if __name__ == "__main__":
    main()
