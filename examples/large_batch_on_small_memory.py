"""Train with a large batch on a device whose memory does not hold it: accumulation, and splitting when memory runs out.

What you have: nothing but this checkout. Run: .venv/bin/python examples/large_batch_on_small_memory.py
What you get: how far each way is from the gradient of the large batch itself, and runs/large_batch.png. Without a GPU the
shortage is played: more than 24 samples at once raise the error that a full GPU raises.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import GradientAccumulation, GradientClip

RUNS = Path(__file__).parent.parent / "runs"


class Net(L.LightningModule):
    """A small network with room for so many samples at once."""

    def __init__(self, room: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 10))
        self.room = room
        self.gradients: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        if len(batch[0]) > self.room:
            raise torch.OutOfMemoryError(f"out of memory: room for {self.room} samples")
        return cross_entropy(self.net(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Note(L.Callback):
    """Keeps the gradient of every update; the last of the callbacks, so that the tricks have written."""

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        pl_module.gradients.append(torch.cat([p.grad.flatten() for p in pl_module.net.parameters()]))


def gradients(batch_size: int, room: int, callbacks: list[Any], **arguments: Any) -> list[Tensor]:
    """Train one epoch on 900 digits and return the gradient of every update."""
    bunch = load_digits()
    images = torch.tensor(bunch.data[:900] / 16.0, dtype=torch.float32)
    data = DataLoader(TensorDataset(images, torch.tensor(bunch.target[:900])), batch_size)
    trainer = L.Trainer(
        max_epochs=1, callbacks=[*callbacks, Note()], logger=False, enable_checkpointing=False, devices=1,
        enable_model_summary=False, enable_progress_bar=False, accelerator="cpu", **arguments,
    )  # fmt: skip
    module = Net(room)
    trainer.fit(module, data)
    return module.gradients


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--micro-batch", type=int, default=25, help="samples per micro-batch; 10 of them make an update"
    )
    options = parser.parse_args()
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name + ".utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers|.*LeafSpec|.*no memory for a batch")

    micro = options.micro_batch
    large = gradients(10 * micro, 10**6, [])
    ways = {
        "Lightning: accumulate_grad_batches=10": gradients(micro, 10**6, [], accumulate_grad_batches=10),
        "GradientAccumulation(10)": gradients(micro, 10**6, [GradientAccumulation(10)]),
        f"GradientAccumulation(target_batch_size={10 * micro})": gradients(
            micro, 10**6, [GradientAccumulation(target_batch_size=10 * micro)]
        ),
        "GradientAccumulation(10, on_oom='split'), room for 24": gradients(
            micro, 24, [GradientAccumulation(10, on_oom="split"), GradientClip(1e6)]
        ),
        "GradientAccumulation(on_oom='split'), no micro-batches": gradients(
            10 * micro, 24, [GradientAccumulation(on_oom="split")]
        ),
    }
    table = Table("way", "updates", "largest relative error of a gradient", title=f"against batches of {10 * micro}")
    figure = Figure(figsize=(5.4, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for name, found in ways.items():
        errors = [float((a - b).norm() / b.norm()) for a, b in zip(found, large, strict=True)]
        table.add_row(name, str(len(found)), f"{max(errors):.1e}")
        axes.plot(range(1, len(errors) + 1), [max(e, 1e-9) for e in errors], marker="o", label=name)
    axes.set(xlabel="update", ylabel="relative error of the gradient", yscale="log", xticks=range(1, len(large) + 1))
    figure.legend(loc="outside lower center", fontsize="small", frameon=False)
    axes.grid(alpha=0.3)
    Console(width=100).print(table)
    RUNS.mkdir(exist_ok=True)
    figure.savefig(RUNS / "large_batch.png", dpi=180)
    Console().print(f"picture  {RUNS / 'large_batch.png'}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
