"""What several tests of schedules train or compare: modules, data and functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


def closed_form(k: int, total: int, warmup: int, decay: str = "cosine", final: float = 0.0) -> float:
    """The multiplier at update k, written down anew."""
    if k < warmup:
        return (k + 1) / warmup
    x = min(1.0, (k - warmup) / (total - warmup))
    height = {"cosine": 0.5 * (1 + math.cos(math.pi * x)), "linear": 1 - x, "constant": 1.0}[decay]
    return final + (1 - final) * height


X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))


def data(n: int = 64) -> Any:
    return DataLoader(TensorDataset(X[:n], X[:n].sum(1)), batch_size=8)


class Net(L.LightningModule):
    """Notes the rate of every update; ``by_hand`` writes them without any callback."""

    def __init__(self, make: Callable[[Any], Any], by_hand: list[float] | None = None, scale: float = 1.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 1))
        self.make, self.by_hand, self.scale = make, by_hand, scale
        self.rates: list[float] = []
        self.count = 0

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if self.by_hand is not None:
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] = self.by_hand[self.count]
        return self.scale * nn.functional.mse_loss(self.net(batch[0]).squeeze(1), batch[1])

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        self.rates.append(float(optimizer.param_groups[0]["lr"]))
        self.count += 1

    def configure_optimizers(self) -> Any:
        return self.make(self.parameters())
