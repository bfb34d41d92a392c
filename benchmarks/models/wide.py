"""What the scenarios of ``wide_*.py`` share: modules that bring their loaders, and scores.

The modules are written out in those files, as people write them: each with its own step, optimizer and way of returning
its loss. Only what says nothing about a style is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

Data = tuple[Tensor, ...]

# what an expert would accept for a training that never learns its labels
UNLEARNED = ("labels do not follow from inputs", "prediction collapse", "inputs ignored")
FAST = ("learning rate too high", "divergence", "non-finite values", "loss spikes")
FOLLOW, ONE_BATCH, SHAPES = (
    "sanity:labels follow from inputs",
    "sanity:overfits one batch",
    "sanity:shapes of outputs and labels",
)


class Named(Dataset[Any]):
    """Rows as dictionaries."""

    def __init__(self, tensors: Data, keys: Sequence[str]) -> None:
        self.tensors, self.keys = tensors, keys

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {key: tensor[index] for key, tensor in zip(self.keys, self.tensors, strict=True)}


class Loaded(L.LightningModule):
    """A module that brings its loaders."""

    def use(
        self, train: Data, test: Data = (), batch: int = 32, *, shuffle: bool = True, keys: Sequence[str] = ()
    ) -> Loaded:
        """Say which tensors are trained on and which are validated on, as tuples or under keys."""
        make = (lambda tensors: Named(tensors, keys)) if keys else (lambda tensors: TensorDataset(*tensors))
        self.train_set, self.val_set = make(train), make(test) if test else None
        self.batch, self.shuffle = batch, shuffle
        return self

    def train_dataloader(self) -> Any:
        return DataLoader(self.train_set, batch_size=self.batch, shuffle=self.shuffle, drop_last=True)

    def val_dataloader(self) -> Any:
        return [] if self.val_set is None else DataLoader(self.val_set, batch_size=256)


def cut(data: Data, rows: int) -> tuple[Data, Data]:
    """Divide into the first rows and the others."""
    return tuple(d[:rows] for d in data), tuple(d[rows:] for d in data)


def neighbours(train: Tensor, labels: Tensor, test: Tensor, answers: Tensor, k: int = 5) -> Tensor:
    """Return the accuracy of a vote of the nearest rows, by cosine."""
    similar = nn.functional.normalize(test, dim=1) @ nn.functional.normalize(train, dim=1).T
    votes = labels[similar.topk(k, 1).indices]
    return (votes.mode(1).values == answers).float().mean()


def rmsprop(lr: float, **more: Any) -> Any:
    """RMSprop."""
    return lambda p: torch.optim.RMSprop(p, lr=lr, **more)


def adamw(lr: float, **more: Any) -> Any:
    """AdamW."""
    return lambda p: torch.optim.AdamW(p, lr=lr, **more)


def plain(lr: float, **more: Any) -> Any:
    """SGD."""
    return lambda p: torch.optim.SGD(p, lr=lr, **more)
