"""What several tests of resume train or compare: modules, data and functions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from torch import nn
from torch.utils.data import Dataset

from tests.problems import digits, precision_arguments

BATCHES = 11  # of an epoch


class Augmented(Dataset[Any]):
    """Digits with noise from torch's, numpy's and Python's generators."""

    def __init__(self, n: int = 4 * BATCHES) -> None:
        self.x, self.y = digits(n).tensors

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> Any:
        import random

        import numpy

        return self.x[i] + 0.1 * torch.randn(64) + 0.01 * random.random() + 0.01 * numpy.random.rand(), self.y[i]


class Net(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.net = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 10))

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)


class PowerCut(L.Callback):
    def __init__(self, at: int, path: Path) -> None:
        self.at, self.path, self.count = at, path, 0

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        self.count += 1
        if self.count == self.at:
            trainer.save_checkpoint(self.path)
            raise InterruptedError


def trainer(callbacks: list[Any], precision: str = "32-true", **arguments: Any) -> L.Trainer:
    quiet = {
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "logger": False,
    }
    settings = {
        "accelerator": "cpu",
        "max_epochs": 3,
        "log_every_n_steps": 2,
        **quiet,
        **precision_arguments(precision),
    }
    return L.Trainer(callbacks=callbacks, **{**settings, **arguments})


def usable(path: Path, beside: Path) -> bool:
    return path.is_dir() and os.access(path, os.W_OK) and path.stat().st_dev != beside.stat().st_dev
