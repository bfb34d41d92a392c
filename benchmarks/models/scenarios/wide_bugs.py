"""Bugs that people make, and healthy trainings that resemble them.

Written as ``wide_classification.py`` is, with names in the develop half: these scenarios are for development and verify
nothing.
"""

from __future__ import annotations

import itertools
from typing import Any

import lightning.pytorch as L
import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import images, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, UNLEARNED, Data, Loaded, adamw, cut, plain

FAMILY = "wide bugs"
TRAIN, TEST = images(34)
WATCHED: dict[str, dict[str, Any]] = {"PredictionCollapse": {"output": "model"}, "DeadUnits": {}, "TrainingDoctor": {}}


def accuracy(data: Data) -> Any:
    """Return the score: the share of right answers."""
    return lambda m: (m.model(data[0]).argmax(1) == data[1]).float().mean()


class Lenet(nn.Module):
    """A small LeNet; options: a softmax at its end, and a body whose outputs are detached."""

    def __init__(self, softmax: bool = False, detached: bool = False, width: int = 12) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(8, width, 2), nn.ReLU(), nn.Flatten()
        )
        self.classifier = nn.Sequential(nn.Linear(4 * width, 48), nn.ReLU(), nn.Linear(48, 10))
        self.softmax, self.detached = softmax, detached

    def forward(self, x: Tensor) -> Tensor:
        h = self.features(x)
        out = self.classifier(h.detach() if self.detached else h)
        return F.softmax(out, dim=1) if self.softmax else out


class Lit(Loaded):
    """The module of a tutorial: a model, a criterion, an optimizer, accuracy in the log."""

    def __init__(self, model: nn.Module, optimizer: Any, criterion: nn.Module | None = None) -> None:
        super().__init__()
        self.model, self.optimizer, self.criterion = model, optimizer, criterion or nn.CrossEntropyLoss()

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)

    def _shared(self, batch: Data) -> tuple[Tensor, Tensor]:
        x, y = batch
        out = self(x)
        return self.criterion(out, y), (out.argmax(1) == y).float().mean()

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        loss, right = self._shared(batch)
        self.log_dict({"train_loss": loss, "train_acc": right}, prog_bar=True)
        return loss

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        loss, right = self._shared(batch)
        self.log_dict({"val_loss": loss, "val_acc": right})

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.parameters())


class Crops(Lit):
    """Four noisy copies of each image in a row; the labels are repeated as a whole, or one by one."""

    def __init__(self, *args: Any, one_by_one: bool) -> None:
        super().__init__(*args)
        self.one_by_one = one_by_one

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, y = batch
        x = x.repeat_interleave(4, 0)
        y = y.repeat_interleave(4) if self.one_by_one else y.repeat(4)
        return F.cross_entropy(self(x + 0.3 * torch.randn_like(x)), y)


class Manual(L.LightningModule):
    """Manual optimization over batches of 16; after how many of them gradients are cleared and weights updated."""

    def __init__(self, lr: float, updates: int, each: int, cleared: bool) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.lr, self.updates, self.each, self.cleared = lr, updates, each, cleared
        self.model = Lenet()

    def train_dataloader(self) -> Any:
        chosen = torch.randint(len(TRAIN[0]), (16 * self.each * self.updates,))
        return DataLoader(TensorDataset(TRAIN[0][chosen], TRAIN[1][chosen]), batch_size=16)

    def training_step(self, batch: Data, batch_idx: int) -> None:
        loss = F.cross_entropy(self.model(batch[0]), batch[1])
        self.manual_backward(loss / self.each)
        self.log("loss", loss)
        if (batch_idx + 1) % self.each == 0:
            optimizer: Any = self.optimizers()
            optimizer.step()
            if self.cleared:
                optimizer.zero_grad()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.model.parameters(), lr=self.lr, momentum=0.9)


def tutorial(seed: int, model: Any, optimizer: Any, *args: Any, train: Data = TRAIN, test: Data = TEST, batch: int = 64, steps: int = 300,
             kind: Any = Lit, shuffle: bool = True, **more: Any) -> Training:  # fmt: skip
    """Train as in a tutorial; the score is the accuracy."""
    make = lambda: kind(model(), optimizer, *args, **more).use(train, test, batch, shuffle=shuffle)  # noqa: E731
    return script(seed, make, accuracy(test), steps, WATCHED)


def by_hand(seed: int, lr: float, each: int, cleared: bool, updates: int = 250) -> Training:
    """Train by manual optimization."""
    return script(seed, lambda: Manual(lr, updates, each, cleared), accuracy(TEST), updates, WATCHED)


def in_order() -> Data:
    """Return the images class by class, as in folders."""
    order = TRAIN[1].argsort(stable=True)
    return TRAIN[0][order], TRAIN[1][order]


def raw() -> tuple[Data, Data]:
    """569 tumours in the units of the file, from 0.001 to 4,000."""
    x, y = load_breast_cancer(return_X_y=True)
    order = torch.randperm(len(x), generator=seeded(12))
    return cut((torch.tensor(x, dtype=torch.float32)[order], torch.tensor(y)[order]), 430)


class Normalised(nn.Module):
    """Batch normalisation in front of each of four layers; a pretrained part is loaded and put into eval(), or not."""

    def __init__(self, evaluating: bool) -> None:
        super().__init__()
        sizes = (30, 64, 64, 64)
        self.backbone = nn.Sequential(
            *(nn.Sequential(nn.BatchNorm1d(a), nn.Linear(a, b), nn.ReLU()) for a, b in itertools.pairwise(sizes))
        )
        self.out = nn.Linear(64, 2)
        if evaluating:
            self.backbone.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.backbone(x))


def chance(count: int, seed: int) -> Data:
    """Rows that say nothing about their label."""
    g = seeded(seed)
    return torch.randn(count, 20, generator=g), torch.randint(2, (count,), generator=g)


def wide_rows() -> nn.Module:
    """Make a network that can remember 300 rows."""
    return nn.Sequential(nn.Linear(20, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 2))


def leaked(seed: int) -> Training:
    """Train on all rows and validate on some of them; the score is the accuracy for rows that are new."""
    rows = chance(300, 101)
    make = lambda: Lit(wide_rows(), adamw(1e-3)).use(rows, tuple(r[200:] for r in rows), 20)  # noqa: E731
    return script(seed, make, accuracy(chance(2000, 102)), 450, WATCHED)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "LeNet with a softmax, SGD 0.01", 0.7, lambda s: tutorial(s, lambda: Lenet(softmax=True), plain(0.01)),
            *UNLEARNED, "vanishing gradients", "sanity:initial loss", ONE_BATCH),
    healthy(FAMILY, "LeNet, logits, SGD 0.05", 0.85, lambda s: tutorial(s, Lenet, plain(0.05, momentum=0.9))),
    failing(FAMILY, "noisy copies, labels repeated as a whole", 0.6, lambda s: tutorial(
        s, Lenet, adamw(3e-3), kind=Crops, batch=20, one_by_one=False), *UNLEARNED, FOLLOW, ONE_BATCH),
    healthy(FAMILY, "noisy copies with their own labels", 0.85, lambda s: tutorial(
        s, Lenet, adamw(3e-3), kind=Crops, batch=20, one_by_one=True)),
    failing(FAMILY, "one map from a detached body", 0.6, lambda s: tutorial(
        s, lambda: Lenet(detached=True, width=1), plain(0.02, momentum=0.9), steps=250), "weights do not change", "no gradients", *UNLEARNED,
        "sanity:all parameters learn", ONE_BATCH),
    failing(FAMILY, "gradients that are never cleared", 0.7, lambda s: by_hand(s, 0.05, 1, False), *FAST, *UNLEARNED, "dead units"),
    healthy(FAMILY, "four batches before gradients are cleared", 0.8, lambda s: by_hand(s, 0.1, 4, True, 180)),
    failing(FAMILY, "folders in order, never shuffled", 0.5, lambda s: tutorial(
        s, Lenet, plain(0.05, momentum=0.9), train=in_order(), batch=16, steps=261, shuffle=False), "sanity:data are shuffled", *UNLEARNED,
        "loss spikes", "divergence"),
    failing(FAMILY, "256 losses added up, SGD 0.05", 0.8, lambda s: tutorial(
        s, Lenet, plain(0.05, momentum=0.9), nn.CrossEntropyLoss(reduction="sum"), batch=256, steps=120), *FAST, *UNLEARNED, "dead units",
        "sanity:initial loss", ONE_BATCH, twin="256 losses added up, SGD 2e-4"),
    healthy(FAMILY, "256 losses added up, SGD 2e-4", 0.8, lambda s: tutorial(
        s, Lenet, plain(2e-4, momentum=0.9), nn.CrossEntropyLoss(reduction="sum"), batch=256, steps=120)),
    failing(FAMILY, "raw columns, BatchNorm left in eval()", 0.85, lambda s: tutorial(
        s, lambda: Normalised(True), plain(0.05), train=raw()[0], test=raw()[1], batch=32, steps=200),
        "sanity:modules are in training mode", *FAST, *UNLEARNED, "dead units", "sanity:initial loss", ONE_BATCH),
    healthy(FAMILY, "raw columns, BatchNorm in train()", 0.9, lambda s: tutorial(
        s, lambda: Normalised(False), plain(0.05), train=raw()[0], test=raw()[1], batch=32, steps=200)),
    failing(FAMILY, "rows of chance, the validation rows among them", 0.6, leaked, "sanity:validation data are new", *UNLEARNED, FOLLOW, "overfitting"),
]  # fmt: skip
