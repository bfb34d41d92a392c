"""Classify handwritten digits with a convolutional network: one cycle of the learning rate against the usual steps down.

Both have the same few epochs, at each of several peak rates, with several seeds, on 300 images; 1,497 others are the judge.

What you have: nothing but this checkout. Run: .venv/bin/python examples/image_classification.py
What you get: a table of accuracies, and runs/image_classification.png with rates, accuracies and the confusion matrix.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import lightning.pytorch as L
import torch
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from sklearn.metrics import ConfusionMatrixDisplay
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import LRSchedule

RUNS = Path(__file__).parent.parent / "runs"


class Net(L.LightningModule):
    """Three convolutions and a linear head; with ``steps`` it brings torch's own schedule along."""

    def __init__(self, lr: float, steps: bool) -> None:
        super().__init__()
        self.lr, self.steps, self.accuracy = lr, steps, 0.0
        self.rates: list[float] = []
        sizes = ((1, 16), (16, 32), (32, 32))
        blocks = [nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU()) for i, o in sizes]
        self.net = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.rates.append(self.optimizers().param_groups[0]["lr"])
        return cross_entropy(self.net(batch[0]), batch[1], label_smoothing=0.1)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.guess = self.net(batch[0]).argmax(dim=1)  # (all images are one batch)
        self.accuracy = float((self.guess == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, weight_decay=5e-4)
        if not self.steps:
            return optimizer  # LRSchedule does the rest
        total = int(self.trainer.estimated_stepping_batches)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [total // 2, 3 * total // 4])
        return [optimizer], [{"scheduler": scheduler, "interval": "step"}]


def digits() -> tuple[TensorDataset, TensorDataset]:
    """300 images of 8 x 8 pixels to train on, 1,497 to validate."""
    bunch = load_digits()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(bunch.images / 16.0, dtype=torch.float32)[order].unsqueeze(1)
    labels = torch.tensor(bunch.target)[order]
    return TensorDataset(images[:300], labels[:300]), TensorDataset(images[300:], labels[300:])


def train(lr: float, steps: bool, epochs: int, seed: int, data: tuple[TensorDataset, TensorDataset]) -> Net:
    L.seed_everything(seed, verbose=False)
    module = Net(lr, steps)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "num_sanity_val_steps": 0}
    tricks = [] if steps else [LRSchedule("one_cycle", momentum=(0.95, 0.85))]
    trainer = L.Trainer(accelerator="cpu", max_epochs=epochs, enable_model_summary=False, callbacks=tricks, **quiet)
    trainer.fit(module, DataLoader(data[0], 32, shuffle=True), DataLoader(data[1], len(data[1])))
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--lr", type=float, nargs="+", default=[0.03, 0.1, 0.3, 1.0], help="peak rates")
    options = parser.parse_args()
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name + ".utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers|.*LeafSpec")
    data = digits()
    rate, error, confusion = (figure := Figure(figsize=(5.4, 11), layout="constrained")).subplots(3, 1)
    table = Table("schedule", *(f"peak {lr:g}" for lr in options.lr), title=f"accuracy after {options.epochs} epochs")
    for steps, color in ((True, "tab:gray"), (False, "tab:blue")):
        title = "MultiStepLR" if steps else "one cycle"
        runs = [[train(lr, steps, options.epochs, seed, data) for seed in range(options.seeds)] for lr in options.lr]
        found = [[net.accuracy for net in nets] for nets in runs]
        table.add_row(title, *(f"{mean(x):.1%} ± {stdev(x):.1%}" if len(x) > 1 else f"{x[0]:.1%}" for x in found))
        low, high = [1 - max(x) for x in found], [1 - min(x) for x in found]
        error.plot(options.lr, [1 - mean(x) for x in found], marker="o", color=color, label=title)
        error.fill_between(options.lr, low, high, color=color, alpha=0.2)
        best = max(runs, key=lambda nets: mean(net.accuracy for net in nets))[0]
        rate.plot(best.rates, color=color, label=f"{title}, peak {best.lr:g}")
    Console().print(table)
    rate.set(title="learning rate, at each one's best peak", xlabel="update", ylabel="learning rate")
    error.set(title=f"mean and range of {options.seeds} seeds", xlabel="peak learning rate", ylabel="wrong answers")
    error.set(xscale="log", yscale="log", xticks=options.lr, xticklabels=options.lr)
    error.set(yticks=[0.03, 0.1, 0.3, 1], yticklabels=["3%", "10%", "30%", "100%"])
    error.minorticks_off()
    for ax in (rate, error):
        ax.grid(alpha=0.3)
        ax.legend(fontsize="small")
    ConfusionMatrixDisplay.from_predictions(data[1].tensors[1], best.guess, ax=confusion, colorbar=False, cmap="Blues")
    confusion.set(title=f"{title}: {best.accuracy:.1%} right", xlabel="digit that was said", ylabel="true digit")
    RUNS.mkdir(exist_ok=True)
    figure.savefig(RUNS / "image_classification.png", dpi=180)
    print(f"picture: {RUNS / 'image_classification.png'}")


if __name__ == "__main__":
    main()
