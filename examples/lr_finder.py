"""Find the learning rate of a network on scikit-learn's handwritten digits, and train with it.

What you have: nothing but this checkout. Run: .venv/bin/python examples/lr_finder.py
What you get: the suggestions of five rules, the accuracy with the rate that was set and with the one that was found, and
runs/lr_finder.png.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import LRFinder, LRSchedule

RUNS = Path(__file__).parent.parent / "runs"


def digits() -> list[TensorDataset]:
    """1,797 handwritten digits of 8 x 8 pixels: two thirds to train on."""
    bunch = load_digits()
    parts = train_test_split(bunch.data / 16.0, bunch.target, test_size=0.33, random_state=0, stratify=bunch.target)
    x, y = [torch.tensor(p, dtype=torch.float32) for p in parts[:2]], [torch.tensor(p) for p in parts[2:]]
    return [TensorDataset(x[i], y[i]) for i in range(2)]


class Net(L.LightningModule):
    """Two hidden layers with BatchNorm and dropout; the body learns at a tenth of the head's rate."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.body = nn.Sequential(nn.Linear(64, 128), nn.BatchNorm1d(128), nn.ReLU(), nn.Dropout(0.2))
        self.head = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return cross_entropy(self.head(self.body(batch[0])), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        guess = self.head(self.body(batch[0])).argmax(dim=1)
        self.log("accuracy", (guess == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        groups = [{"params": self.head.parameters()}, {"params": self.body.parameters(), "lr": 0.1 * self.lr}]
        return torch.optim.SGD(groups, lr=self.lr, momentum=0.9)


def accuracy(lr: float, callbacks: list[Any], options: argparse.Namespace) -> float:
    """Train from the same weights and return the accuracy on unseen digits."""
    L.seed_everything(options.seed, verbose=False)
    train, val = digits()
    trainer = L.Trainer(
        max_epochs=options.epochs, callbacks=callbacks, logger=False, enable_checkpointing=False,
        enable_model_summary=False, enable_progress_bar=False, devices=1,
    )  # fmt: skip
    trainer.fit(Net(lr), DataLoader(train, 32, shuffle=True), DataLoader(val, 600))
    return float(trainer.callback_metrics["accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lr", type=float, default=1e-4, help="the rate without the finder")
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name + ".utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers|.*LeafSpec|.*smaller than the logging")

    without = accuracy(options.lr, [LRSchedule("cosine")], options)
    finder = LRFinder(refine=True)
    found = accuracy(options.lr, [finder, LRSchedule("cosine")], options)
    result = finder.result
    assert result is not None
    table = Table("rule", "learning rate", title=f"{len(result.lrs)} rates up to {result.lrs[-1]:.2g}")
    for name, lr in result.suggestions.items():
        table.add_row(name, f"{lr:.2g}")
    table.add_row("[bold]after the bake-off", f"[bold]{result.suggestion:.2g}")
    console = Console()
    console.print(table)
    console.print(f"accuracy with {options.lr:g}: {without:.1%}; with the rate found: {found:.1%}", highlight=False)
    RUNS.mkdir(exist_ok=True)
    result.plot().savefig(RUNS / "lr_finder.png", dpi=180)
    console.print(f"picture  {RUNS / 'lr_finder.png'}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
