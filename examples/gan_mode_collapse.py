"""Train a GAN on eight places on a circle, once with a rate that loses modes, once with a gradient penalty.

What you have: nothing but this checkout. Run: .venv/bin/python examples/gan_mode_collapse.py
What you get: what the detector says about each, and runs/gan_mode_collapse.png.
"""

from __future__ import annotations

import argparse
import logging
import math
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import softplus
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import ModeCollapse

RUNS = Path(__file__).parent.parent / "runs"


def circle(count: int) -> Tensor:
    """Points around eight places."""
    angle = torch.randint(8, (count,)) * (2 * math.pi / 8)
    return 2 * torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(count, 2)


class GAN(L.LightningModule):
    """Two small networks, manual optimization."""

    def __init__(self, generator_rate: float, penalty: float, beta: float) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
        act = nn.LeakyReLU(0.2)
        self.discriminator = nn.Sequential(nn.Linear(2, 64), act, nn.Linear(64, 64), act, nn.Linear(64, 1))
        self.generator_rate, self.penalty, self.beta = generator_rate, penalty, beta

    def training_step(self, batch: Any, batch_idx: int) -> None:
        one, two = self.optimizers()
        real = batch[0].requires_grad_()
        made = self.generator(torch.randn(len(real), 8))
        scores = self.discriminator(real)
        loss = (softplus(-scores) + softplus(self.discriminator(made.detach()))).mean()
        (slope,) = torch.autograd.grad(scores.sum(), real, create_graph=True)
        loss = loss + self.penalty / 2 * slope.square().sum(1).mean()
        two.zero_grad()
        self.manual_backward(loss)
        two.step()
        one.zero_grad()
        self.manual_backward(softplus(-self.discriminator(made)).mean())
        one.step()

    def configure_optimizers(self) -> Any:
        rates = ((self.generator, self.generator_rate), (self.discriminator, 1e-3))
        return [torch.optim.Adam(net.parameters(), lr=rate, betas=(self.beta, 0.9)) for net, rate in rates]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1200)
    options = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name + ".utilities.rank_zero").setLevel(logging.WARNING)
    figure = Figure(figsize=(5.4, 6.4), layout="constrained")
    axes = figure.subplots(2, 2)
    settings = (("generator's rate 8e-3, no penalty", 8e-3, 0.0, 0.5), ("rate 1e-3, R1 penalty", 1e-3, 1.0, 0.0))
    for row, (title, rate, penalty, beta) in zip(axes, settings, strict=True):
        L.seed_everything(0, verbose=False)
        module, detector = GAN(rate, penalty, beta), ModeCollapse("generator", every_n_steps=20, action="log")
        trainer = L.Trainer(
            accelerator="cpu",
            max_epochs=1,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[detector],
        )
        trainer.fit(module, DataLoader(TensorDataset(circle(128 * options.steps)), batch_size=128))
        print(f"{title}: {detector.verdict}")
        with torch.no_grad():
            made, real = module.generator(torch.randn(500, 8)), circle(500)
        row[0].scatter(*real.T, s=6, color="tab:gray", alpha=0.5, label="real")
        row[0].scatter(*made.T, s=6, color="tab:red", alpha=0.5, label="generated")
        row[0].set_title(title.replace(", ", ",\n"), fontsize="medium")
        row[0].set(xlim=(-3, 3), ylim=(-3, 3))
        for name in ("recall", "coverage", "pairwise_distance_ratio"):
            points = [(step, values[name]) for step, values in detector.history]
            row[1].plot(*zip(*points, strict=True), label=name.replace("_", " "))
        if detector.verdict.alarmed:
            row[1].axvline(detector.verdict.step, color="tab:red", label=f"alarm: {detector.verdict.cause}")
        row[1].set(xlabel="step", ylim=(0, 1.6))
        row[1].grid(alpha=0.3)
        for ax in row:
            ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.25), fontsize="small", frameon=False)
    RUNS.mkdir(exist_ok=True)
    figure.savefig(RUNS / "gan_mode_collapse.png", dpi=180)
    print(f"picture: {RUNS / 'gan_mode_collapse.png'}")


if __name__ == "__main__":
    main()
