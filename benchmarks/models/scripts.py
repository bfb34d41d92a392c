"""Trainings as people write them: a DataLoader over a TensorDataset, a module that returns its loss, a `model`.

The scenarios of ``everyday_*.py`` are made of them. Data: scikit-learn's digits as images, rows that are made up, and
the text of ``trainings.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.models import trainings as t
from benchmarks.models.trainings import Batches, Training

Loss = Callable[["Script", Any], Any]
Optimizer = Callable[["Script"], Any]
Data = tuple[Tensor, ...]


class Script(L.LightningModule):
    """A model, a loss of a batch, an optimizer, and the tensors that are trained on.

    Args:
        model: what is trained.
        loss: ``loss(script, batch)``: what ``training_step`` returns.
        optimizer: ``optimizer(script)``: what ``configure_optimizers`` returns.
        train: tensors of the training data.
        val: tensors of the validation data; empty for none.
        batch: samples in a batch.
        shuffle: whether the loader shuffles.
        parts: further modules, by name, or anything else that the loss needs.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        optimizer: Optimizer,
        train: Data,
        val: Data = (),
        *,
        batch: int = 32,
        shuffle: bool = True,
        **parts: Any,
    ) -> None:
        super().__init__()
        self.model, self.compute, self.make, self.batch, self.shuffle = model, loss, optimizer, batch, shuffle
        self.train_data, self.val_data = train, val
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.compute(self, batch)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        result = self.compute(self, batch)
        self.log("val_loss", result["loss"] if isinstance(result, dict) else result, prog_bar=True)

    def configure_optimizers(self) -> Any:
        return self.make(self)

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(*self.train_data), self.batch, shuffle=self.shuffle, drop_last=True)

    def val_dataloader(self) -> Any:
        return DataLoader(TensorDataset(*self.val_data), 64) if self.val_data else []


def adam(lr: float = 1e-3, **more: Any) -> Optimizer:
    """AdamW of all parameters."""
    return lambda script: torch.optim.AdamW(script.parameters(), lr=lr, **more)


def sgd(lr: float, momentum: float = 0.9, **more: Any) -> Optimizer:
    """SGD of all parameters."""
    return lambda script: torch.optim.SGD(script.parameters(), lr=lr, momentum=momentum, **more)


def seeded(seed: int) -> torch.Generator:
    """Return a generator of random numbers of its own."""
    return torch.Generator().manual_seed(seed)


CLASSES: dict[str, dict[str, Any]] = {"PredictionCollapse": {"output": "model"}, "DeadUnits": {}, "TrainingDoctor": {}}
PLAIN: dict[str, dict[str, Any]] = {"PredictionCollapse": {"output": "model"}, "TrainingDoctor": {}}
DOCTOR: dict[str, dict[str, Any]] = {"TrainingDoctor": {}}


def script(
    seed: int,
    make: Callable[[], L.LightningModule],
    score: Callable[[Any], float],
    steps: int = 300,
    detectors: dict[str, dict[str, Any]] | None = None,
    **arguments: Any,
) -> Training:
    """Return a training whose module brings its own data; the score is computed in eval mode, without gradients."""
    torch.manual_seed(seed)
    module = make()

    @torch.no_grad()
    def scored(trained: Any) -> float:
        trained.eval()
        return float(score(trained))

    watched = PLAIN if detectors is None else detectors
    length = {"max_steps": steps, **arguments}
    return Training(module, Batches(0, lambda g, i: None, 0), steps, watched, score=scored, arguments=length)


def fitted(
    seed: int, model: Any, loss: Any, score: Any, data: Any, optimizer: Any = None, rate: float = 3e-3, **more: Any
) -> Training:
    """Train a model on tensors (training and test), by AdamW of that rate unless an optimizer is given."""
    options = {k: more.pop(k) for k in ("steps", "detectors", "gradient_clip_val") if k in more}
    make = lambda: Script(model(), loss, optimizer or adam(rate), *data, **more)  # noqa: E731
    return script(seed, make, score, **options)


# -- data -------------------------------------------------------------------------------------------------------------


@lru_cache
def images(seed: int = 5) -> tuple[Data, Data]:
    """Digits as ``[n, 1, 8, 8]`` with mean 0, and labels: 1,400 to train on and 397 to test."""
    x, y = t.digits()
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    x, y = ((x - 0.3) / 0.38).view(-1, 1, 8, 8)[order], y[order]
    return (x[:1400], y[:1400]), (x[1400:], y[1400:])


def noisy(labels: Tensor, share: float, classes: int = 10, seed: int = 3) -> Tensor:
    """Replace a share of the labels by random ones."""
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.rand(labels.shape, generator=generator) < share
    return torch.where(wrong, torch.randint(classes, labels.shape, generator=generator), labels)


@lru_cache
def table(count: int = 4000, width: int = 12, seed: int = 11) -> tuple[Tensor, Tensor]:
    """Rows of standard normal numbers, and a smooth function of them with mean 0 and std about 1."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, width, generator=generator)
    f = torch.sin(x[:, 0]) + 0.5 * x[:, 1] * x[:, 2] + 0.7 * x[:, 3] - 0.4 * x[:, 4].abs()
    return x, (f - f.mean()) / f.std()


def halves(data: Sequence[Tensor], share: float = 0.8) -> tuple[Data, Data]:
    """Divide tensors into training and test rows."""
    cut = int(share * len(data[0]))
    return tuple(d[:cut] for d in data), tuple(d[cut:] for d in data)


@lru_cache
def lines(length: int = 24, count: int = 4000) -> tuple[Data, Data]:
    """Windows of text ``[n, length]``, to train on and from elsewhere to test."""
    whole = t.text()
    starts = torch.randperm(len(whole) - length, generator=torch.Generator().manual_seed(2))
    cut = int(0.9 * len(whole))
    train, test = starts[starts < cut - length][:count], starts[starts > cut][:400]
    return tuple((whole[s[:, None] + torch.arange(length)],) for s in (train, test))  # type: ignore[return-value]


def right(data: Data) -> Callable[[Any], Tensor]:
    """Accuracy of ``model`` on data."""
    return lambda script: (script.model(data[0]).argmax(1) == data[1]).float().mean()


def explained(data: Data) -> Callable[[Any], Tensor]:
    """R squared of ``model`` on data, of outputs ``[n]`` or ``[n, 1]``."""
    return lambda s: 1 - (s.model(data[0]).reshape(len(data[1])) - data[1]).square().mean() / data[1].var()


def auc(scores: Tensor, labels: Tensor) -> Tensor:
    """Chance that a positive has a higher score than a negative."""
    positive, negative = scores[labels > 0], scores[labels <= 0]
    difference = positive[:, None] - negative
    return (difference > 0).double().mean() + 0.5 * (difference == 0).double().mean()


def conv(classes: int = 10, width: int = 16, norm: bool = True) -> nn.Sequential:
    """Two convolutions and a linear layer."""

    def block(a: int, b: int) -> list[nn.Module]:
        return [nn.Conv2d(a, b, 3, padding=1), *([nn.BatchNorm2d(b)] if norm else []), nn.ReLU(), nn.MaxPool2d(2)]

    return nn.Sequential(*block(1, width), *block(width, 2 * width), nn.Flatten(), nn.Linear(8 * width, classes))


def trained(net: nn.Module, data: Data, updates: int = 150, lr: float = 3e-3) -> nn.Module:
    """Train a network that others start from."""
    optimizer = torch.optim.Adam(net.parameters(), lr=lr)
    for k in range(updates):
        rows = torch.arange(64 * k, 64 * k + 64) % len(data[0])
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(data[0][rows]), data[1][rows]).backward()
        optimizer.step()
    return net
