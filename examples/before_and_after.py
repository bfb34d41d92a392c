"""One damaged image among 1,347: the same training with Lightning alone, and with the pack.

What you have: nothing but this checkout. Run: .venv/bin/python examples/before_and_after.py
What you get: the accuracy of both, what the pack says about the damaged batches, and runs/before_and_after.png.
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
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import GradientClip

RUNS = Path(__file__).parent.parent / "runs"
DAMAGED = 700  # the row of the training data that holds NaN


def digits() -> tuple[TensorDataset, TensorDataset]:
    """scikit-learn's handwritten digits, one image of which a broken file has filled with NaN."""
    bunch = load_digits()
    parts = train_test_split(bunch.data / 16.0, bunch.target, test_size=0.25, random_state=0, stratify=bunch.target)
    train, val = (torch.tensor(part, dtype=torch.float32) for part in parts[:2])
    train[DAMAGED] = float("nan")
    return TensorDataset(train, torch.tensor(parts[2])), TensorDataset(val, torch.tensor(parts[3]))


class Net(L.LightningModule):
    """Two hidden layers."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
        self.losses: list[float] = []
        self.accuracies: list[tuple[int, float]] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = cross_entropy(self.net(batch[0]), batch[1])
        self.losses.append(loss.item())
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        accuracy = (self.net(batch[0]).argmax(dim=1) == batch[1]).float().mean()
        self.accuracies.append((self.global_step, float(accuracy)))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def train(epochs: int, callbacks: list[L.Callback], **arguments: Any) -> Net:
    """Train from the same weights on the same order of batches."""
    L.seed_everything(0, verbose=False)
    module, (data, held) = Net(), digits()
    trainer = L.Trainer(
        max_epochs=epochs, callbacks=callbacks, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_model_summary=False, enable_progress_bar=False, num_sanity_val_steps=0, **arguments,
    )  # fmt: skip
    trainer.fit(module, DataLoader(data, 64, shuffle=True), DataLoader(held, 450))
    return module


def draw(runs: dict[str, Net]) -> Figure:
    """Draw loss and accuracy of both runs side by side, with a band where the loss is NaN."""
    figure = Figure(figsize=(5.4, 3.2), layout="constrained")  # legible on a telephone, 400 pixels wide
    for axes, (title, module) in zip(figure.subplots(1, 2, sharey=True), runs.items(), strict=True):
        losses = torch.tensor(module.losses)
        for step in losses.isnan().nonzero().flatten().tolist():
            axes.axvspan(step - 0.5, step + 0.5, color="tab:red", alpha=0.25, linewidth=0)
        axes.plot(losses, color="tab:blue", linewidth=1, label="training loss")
        axes.plot(*zip(*module.accuracies, strict=True), "o-", color="tab:green", label="validation accuracy")
        axes.set_title(f"{title}:\naccuracy {module.accuracies[-1][1]:.0%}", fontsize="small")
        axes.set(xlabel="step", ylim=(0, 2.5))
        axes.set_xlim(0, len(losses))
        axes.plot([], color="tab:red", alpha=0.4, linewidth=6, label="the loss is NaN")
        axes.grid(alpha=0.3)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize="small", frameon=False
    )
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=12)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", message=".*does not have many workers|.*LeafSpec|.*logging interval")
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name + ".utilities.rank_zero").setLevel(logging.WARNING)
    runs = {
        "Lightning, gradient_clip_val=1.0": train(options.epochs, [], gradient_clip_val=1.0),
        "GradientClip(1.0, nonfinite='skip')": train(options.epochs, [GradientClip(1.0, nonfinite="skip")]),
    }
    for name, module in runs.items():
        lost = sum(loss != loss for loss in module.losses)
        print(f"{name}: accuracy {module.accuracies[-1][1]:.1%}, NaN in {lost} of {len(module.losses)} losses")
    RUNS.mkdir(exist_ok=True)
    draw(runs).savefig(RUNS / "before_and_after.png", dpi=180)
    print(f"picture: {RUNS / 'before_and_after.png'}")


if __name__ == "__main__":
    main()
