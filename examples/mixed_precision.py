"""A network that float16 cannot train: what Lightning says, what the doctor says, and three ways out.

What you have: nothing but this checkout. Run: .venv/bin/python examples/mixed_precision.py
What you get: for each way the accuracy, updates that happened and what was found, and runs/mixed_precision.png. On a CPU
float16 is emulated with a real GradScaler, so that everything happens as on a GPU, only slower.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.plugins import MixedPrecision
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Column, Table
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import FP32Islands, LossScaleGuard, NonFiniteError, PrecisionDoctor

RUNS = Path(__file__).parent.parent / "runs"


class Energy(nn.Module):
    """Squares and sums, as a spectrogram or a distance does: 64 x (40 x 16)^2 is far beyond 65,504."""

    def forward(self, pixels: Tensor) -> Tensor:
        return torch.cat([pixels, (40 * pixels).square().cumsum(1) / 1e6], 1)


class Digits(L.LightningModule):
    """A small network behind hand-made features."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.scale, self.energy = nn.Linear(64, 64), Energy()
        self.head = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
        self.scales: list[float] = []

    def forward(self, pixels: Tensor) -> Tensor:
        return self.head(self.energy(self.scale(pixels)))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        scaler = self.trainer.precision_plugin.scaler if hasattr(self.trainer.precision_plugin, "scaler") else None
        self.scales.append(float("nan") if scaler is None else scaler.get_scale())  # (a host read: for the picture)
        return cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def data() -> tuple[TensorDataset, TensorDataset]:
    bunch = load_digits()
    pixels, labels = torch.tensor(bunch.data, dtype=torch.float32), torch.tensor(bunch.target)
    return TensorDataset(pixels[:1400], labels[:1400]), TensorDataset(pixels[1400:], labels[1400:])


def train(callbacks: list[Any], epochs: int) -> tuple[Digits, float, int, str]:
    """Train in float16; return the module, its accuracy, updates that changed weights, and how it ended."""
    train_set, judge = data()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    trainer = L.Trainer(
        max_epochs=epochs, callbacks=callbacks, plugins=[MixedPrecision("16-mixed", device)], logger=False, devices=1,
        accelerator="gpu" if device == "cuda" else "cpu", enable_checkpointing=False, enable_model_summary=False,
        enable_progress_bar=False, log_every_n_steps=10,
    )  # fmt: skip
    module, ended = Digits(), "finished"
    try:
        trainer.fit(module, DataLoader(train_set, 64, shuffle=True, generator=torch.Generator().manual_seed(0)))
    except NonFiniteError as error:
        ended = str(error)
    states = trainer.optimizers[0].state.values()
    updates = max((int(state["step"]) for state in states), default=0)
    with torch.no_grad():
        right = (module.cpu().float()(judge.tensors[0]).argmax(1) == judge.tensors[1]).float().mean()
    return module, float(right), updates, ended


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=4)
    epochs = parser.parse_args().epochs
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name + ".utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore")

    islands = FP32Islands(["auto"])
    ways: dict[str, list[Any]] = {
        "Lightning alone": [],
        "LossScaleGuard, PrecisionDoctor": [LossScaleGuard(), PrecisionDoctor()],
        "and FP32Islands(['auto'])": [LossScaleGuard(), PrecisionDoctor(), islands],
        "LossScaleGuard(on_failure='bf16')": [LossScaleGuard(on_failure="bf16")],
    }
    columns = [Column(name, overflow="fold") for name in ("callbacks", "accuracy", "updates", "how it ended")]
    table = Table(*columns, title="Digits in float16")
    figure = Figure(figsize=(5.4, 4.4), layout="constrained")
    axes = figure.add_subplot()
    for (name, callbacks), style in zip(ways.items(), ("-", "--", "-", ":"), strict=True):
        module, accuracy, updates, ended = train(callbacks, epochs)
        table.add_row(name, f"{accuracy:.1%}", str(updates), ended)
        axes.plot(module.scales, style, label=f"{name}: {accuracy:.0%}, {updates} updates")
    axes.set(xlabel="batch", ylabel="loss scale", yscale="symlog", title="Loss scale of four runs in float16")
    figure.legend(loc="outside lower center", fontsize="small", frameon=False)
    Console().print(table, f"islands: {', '.join(islands.islands)}")
    RUNS.mkdir(exist_ok=True)
    figure.savefig(RUNS / "mixed_precision.png", dpi=180)
    Console().print(f"picture  {RUNS / 'mixed_precision.png'}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
