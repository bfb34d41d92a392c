"""What several tests of accumulation train or compare: modules, data and functions."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from lightning_tricks import GradientAccumulation
from tests.problems import Classifier, digits, network, trainer

Batch = tuple[Tensor, Tensor]


def ragged(sizes: Sequence[int]) -> list[Batch]:
    """Micro-batches of these sizes from the digits."""
    data = digits(sum(sizes))
    x, y = data.tensors
    return list(zip(x.split(list(sizes)), y.split(list(sizes)), strict=True))


def feed(batches: list[Any]) -> DataLoader[Any]:
    return DataLoader(batches, batch_size=None)


class Gradients(L.Callback):
    """Notes the gradients with which each step is made; the last in the list, so after the tricks have written."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.rows.append(flat(pl_module.net))


def flat(net: nn.Module) -> Tensor:
    found = [p.grad.double().flatten() for p in net.parameters() if p.grad is not None]
    return torch.cat(found) if found else torch.zeros(0)


def big_batches(
    batches: list[Batch], windows: Sequence[int], lr: float = 0.05, loss: Any = cross_entropy
) -> list[Tensor]:
    """The oracle: plain torch with the big batches themselves."""
    net = copy.deepcopy(network())
    rows, at = [], 0
    for n in windows:
        x, y = (torch.cat(part) for part in zip(*batches[at : at + n], strict=True))
        at += n
        net.zero_grad()
        loss(net(x), y).backward()
        rows.append(flat(net))
        with torch.no_grad():
            for p in net.parameters():
                p -= lr * p.grad
    return rows


def errors(measured: list[Tensor], expected: list[Tensor]) -> list[float]:
    assert len(measured) == len(expected)
    return [float((a - b).norm() / b.norm()) for a, b in zip(measured, expected, strict=True)]


def run(
    trick: GradientAccumulation, batches: list[Any], *callbacks: Any, module: Any = None, **arguments: Any
) -> tuple[list[Tensor], L.Trainer]:
    noted = Gradients()
    t = trainer([*callbacks, trick, noted], **arguments)
    t.fit(module or Classifier(), feed(batches))
    return noted.rows, t


class Hungry(Classifier):
    """Fails with the error of a full GPU when more than ``room`` samples are in memory at once."""

    def __init__(self, room: int, where: str = "forward", **arguments: Any) -> None:
        super().__init__(**arguments)
        self.room, self.where, self.tries = room, where, 0
        self.noise: list[Tensor] = []
        self.drop, self.norm = nn.Dropout(0.0), nn.BatchNorm1d(64)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        self.tries += 1
        self.norm(torch.cat([x, x]))  # its running statistics must not remember a failed try
        self.noise.append(torch.rand(3))
        logits = self.net(x)
        loss = cross_entropy(logits, y)
        self.log("loss", loss, on_step=True)
        if len(x) > self.room:
            if self.where == "forward":
                raise torch.OutOfMemoryError("CUDA out of memory (a test)")
            logits.register_hook(self.fail)
        return {"loss": loss, "logits": logits.detach(), "note": "kept"}

    @staticmethod
    def fail(gradient: Tensor) -> None:
        raise RuntimeError("HIP out of memory (a test)")
