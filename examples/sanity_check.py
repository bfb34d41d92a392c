"""Five trainings on handwritten digits, four of them with a usual mistake, and what SanityCheck says before they begin.

What you have: nothing but this checkout. Run: .venv/bin/python examples/sanity_check.py
What you get: a table for each, and runs/sanity_check.png.
"""

from __future__ import annotations

import argparse
import logging
import textwrap
import time
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import SanityCheck

RUNS = Path(__file__).parent.parent / "runs"
MISTAKES = ("none", "labels shuffled", "mean over the batch", "dead from the start", "head replaced too late")
COLORS = {"pass": "#d5efd5", "FAIL": "#f6c6c6", "?": "#faf0c8"}


class Net(L.LightningModule):
    """A small network with one mistake."""

    def __init__(self, mistake: str) -> None:
        super().__init__()
        self.mistake = mistake
        self.body = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU())
        self.head = nn.Linear(64, 10)
        if mistake == "dead from the start":
            nn.init.constant_(self.body[1].bias, -20.0)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        if self.mistake == "mean over the batch":
            images = images - images.mean(0)  # (meant: over the pixels)
        return nn.functional.cross_entropy(self.head(self.body(images)), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)
        if self.mistake == "head replaced too late":
            self.head = nn.Linear(64, 10)  # (the optimizer holds the parameters of the old one)
        return optimizer


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name + ".utilities.rank_zero").setLevel(logging.WARNING)
    bunch = load_digits()
    images, labels = torch.tensor(bunch.data / 16.0, dtype=torch.float32), torch.tensor(bunch.target)
    results = {}
    for mistake in MISTAKES:
        L.seed_everything(0, verbose=False)
        print(f"\nmistake: {mistake}")
        order = torch.randperm(len(labels)) if mistake == "labels shuffled" else torch.arange(len(labels))
        check = SanityCheck()
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
        trainer = L.Trainer(accelerator="cpu", max_steps=1, enable_model_summary=False, callbacks=[check], **quiet)
        begun = time.perf_counter()
        trainer.fit(Net(mistake), DataLoader(TensorDataset(images, labels[order]), batch_size=64, shuffle=True))
        print(f"checked in {time.perf_counter() - begun:.1f} s")
        results[mistake] = {c.name: c.mark for c in check.checks}
    names = list(results["none"])
    figure = Figure(figsize=(5.4, 5.2), layout="constrained")  # legible on a telephone, 400 pixels wide
    ax = figure.subplots()
    ax.axis("off")
    cells = [[results[m].get(n, "") for m in MISTAKES] for n in names]
    colors = [[COLORS.get(c, "white") for c in row] for row in cells]
    table = ax.table(
        cells,
        cellColours=colors,
        rowLabels=[textwrap.fill(n, 18) for n in names],
        colLabels=[textwrap.fill(m, 9) for m in MISTAKES],
        cellLoc="center",
        loc="center",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    table.scale(1, 2.6)
    for column in range(len(MISTAKES)):
        table[0, column].set_height(1.6 * table[0, column].get_height())
    RUNS.mkdir(exist_ok=True)
    figure.savefig(RUNS / "sanity_check.png", dpi=180)
    print(f"picture: {RUNS / 'sanity_check.png'}")


if __name__ == "__main__":
    main()
