"""Train a small convolutional network on scikit-learn's handwritten digits: checks, LR finder, schedule, clipping, doctor.

What you have: nothing but this checkout. Run: ./dev demo. What you get: a table, pictures and TensorBoard logs.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import GradientClip, GradientMonitor, LRFinder, LRSchedule, SanityCheck, TrainingDoctor

RUNS = Path(__file__).parent.parent / "runs"


def digits() -> tuple[TensorDataset, TensorDataset]:
    """1,797 images of 8 x 8 pixels, bundled with scikit-learn: three quarters to train on, one to validate."""
    bunch = load_digits()
    parts = train_test_split(bunch.images / 16.0, bunch.target, test_size=0.25, random_state=0, stratify=bunch.target)
    images = [torch.tensor(p, dtype=torch.float32).unsqueeze(1) for p in parts[:2]]
    labels = [torch.tensor(p) for p in parts[2:]]
    return TensorDataset(images[0], labels[0]), TensorDataset(images[1], labels[1])


class Net(L.LightningModule):
    """Three convolutions and a linear head."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr
        sizes = ((1, 32), (32, 64), (64, 64))
        blocks = [nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU()) for i, o in sizes]
        self.body = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(256, 10)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        images, labels = batch
        loss = cross_entropy(self.head(self.body(images)), labels)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        images, labels = batch
        guess = self.head(self.body(images)).argmax(dim=1)
        self.log("val/accuracy", (guess == labels).float().mean(), prog_bar=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr, fused=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--lr", type=float, default=None, help="peak learning rate; without it LRFinder finds one")
    parser.add_argument("--clip", type=float, default=1.0, help="threshold of the global gradient norm")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    for name in ("lightning.pytorch", "pytorch_lightning"):
        logging.getLogger(name + ".utilities.rank_zero").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers|.*LeafSpec")
    L.seed_everything(options.seed, verbose=False)
    train, val = digits()
    clip, schedule = GradientClip(options.clip), LRSchedule("cosine", warmup="5%")
    monitor = GradientMonitor(groups={"body": "^body", "head": "^head"})
    doctor = TrainingDoctor(every_n_steps=20)
    finder = LRFinder() if options.lr is None else None
    logger = L.loggers.TensorBoardLogger(RUNS, name="demo")
    trainer = L.Trainer(
        max_epochs=options.epochs,
        precision="16-mixed" if torch.cuda.is_available() else "32-true",
        devices=1,
        log_every_n_steps=1,
        logger=logger,
        enable_checkpointing=False,
        enable_model_summary=False,
        callbacks=[SanityCheck(), monitor, clip, schedule, doctor, *([finder] if finder else [])],
    )
    begun = time.perf_counter()
    trainer.fit(Net(options.lr or 1e-3), DataLoader(train, 64, shuffle=True), DataLoader(val, 512))
    seconds = time.perf_counter() - begun
    from picture import show  # (matplotlib and TensorBoard take a moment to import)

    show(trainer, clip, finder, schedule, Path(logger.log_dir), seconds)
    for finding in doctor.findings or ["nothing"]:
        print(f"TrainingDoctor found {finding}")


if __name__ == "__main__":
    main()
