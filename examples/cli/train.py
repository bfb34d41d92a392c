"""A digit classifier with LightningCLI: every trick comes from config.yaml, none from this file.

What you have: this checkout, and the extra "cli" (jsonargparse), once: .venv/bin/pip install -e ".[cli]"
Run: .venv/bin/python examples/cli/train.py fit --config examples/cli/config.yaml
What you get: the accuracy, runs/cli/.../report.html, and runs/cli.png. Other things to try:
  .venv/bin/lightning-tricks check examples/cli/config.yaml
  ... train.py fit --config ... --trainer.callbacks+=PrecisionDoctor
  ... train.py fit --config ... --model.tricks=cnn
  ... train.py fit --trainer.callbacks.help=GradientClip
  ... train.py fit --print_config
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from lightning.pytorch.cli import LightningCLI
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from lightning_tricks import TricksMixin
from lightning_tricks.publishing.events import events
from lightning_tricks.report.all_keys import ALL_KEYS
from lightning_tricks.report.figures import draw_lines
from lightning_tricks.report.logs import read_logs
from lightning_tricks.report.page import write_report

RUNS = Path(__file__).parents[2] / "runs"


class Digits(L.LightningDataModule):
    """1,797 images of 8 x 8 pixels, bundled with scikit-learn.

    Args:
        batch_size: samples in a training batch.
    """

    def __init__(self, batch_size: int = 64) -> None:
        super().__init__()
        self.batch_size = batch_size

    def setup(self, stage: str) -> None:
        bunch = load_digits()
        parts = train_test_split(bunch.images / 16.0, bunch.target, test_size=0.25, random_state=0)
        images = [torch.tensor(p, dtype=torch.float32).unsqueeze(1) for p in parts[:2]]
        self.train, self.val = (TensorDataset(x, torch.tensor(y)) for x, y in zip(images, parts[2:], strict=True))

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.train, self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.val, 512)


class Net(TricksMixin, L.LightningModule):
    """Three convolutions and a linear head; the optimizer is the recipe's.

    Args:
        width: channels of the first layer.
        tricks: name of a recipe, or a dict of settings; beside it the callbacks of the Trainer.
    """

    def __init__(self, width: int = 32, tricks: str | dict[str, Any] | None = None) -> None:
        super().__init__(tricks=tricks)
        self.save_hyperparameters()
        sizes = ((1, width), (width, 2 * width), (2 * width, 2 * width))
        blocks = [nn.Sequential(nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU()) for i, o in sizes]
        self.net = nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(8 * width, 10))

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        loss = cross_entropy(self.net(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/accuracy", (self.net(batch[0]).argmax(dim=1) == batch[1]).float().mean(), prog_bar=True)


def main() -> None:
    warnings.filterwarnings("ignore", message=".*does not have many workers|.*LeafSpec|.*logging interval")
    settings = {"overwrite": True}
    cli = LightningCLI(Net, Digits, save_config_kwargs=settings, trainer_defaults={"default_root_dir": str(RUNS)})
    if "val/accuracy" not in cli.trainer.callback_metrics or cli.trainer.log_dir is None:
        return
    print(f"validation accuracy: {float(cli.trainer.callback_metrics['val/accuracy']):.1%}")
    print(*(f"report: {path}" for path in write_report(Path(cli.trainer.log_dir))), sep="\n")
    scalars = read_logs(Path(cli.trainer.log_dir)).scalars
    figure = draw_lines({"train/loss": scalars["train/loss"]}, "loss", events(scalars, ALL_KEYS), smooth=True)
    figure.axes[0].set_title("digits, trained from config.yaml")
    figure.savefig(RUNS / "cli.png", dpi=110)
    print(f"picture: {RUNS / 'cli.png'}")


if __name__ == "__main__":
    main()
