"""Classifiers of tables, images and pixels: failures that combine what is seldom combined, and healthy look-alikes.

Written as somebody would who holds trainings back and judges the detectors by them. The names were chosen so that all of
them are in the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import lightning.pytorch as L
import torch
from sklearn.datasets import load_breast_cancer, load_iris
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import auc, images, noisy, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, UNLEARNED, Data, Loaded, cut

FAMILY = "drawn classification"
TRAIN, TEST = images(71)
ROWS_LEAK, ORDERED = "sanity:samples do not leak", "sanity:data are shuffled"


# -- tables -----------------------------------------------------------------------------------------------------------


def shuffled(x: Any, y: Any, rows: int, seed: int, standardise: bool = True) -> tuple[Data, Data]:
    """Shuffle a table and divide it; the columns are standardised by what is trained on."""
    features, labels = torch.as_tensor(x, dtype=torch.float32), torch.as_tensor(y)
    order = torch.randperm(len(features), generator=seeded(seed))
    train, test = cut((features[order], labels[order]), rows)
    if standardise:
        mean, std = train[0].mean(0), train[0].std(0)
        train, test = ((train[0] - mean) / std, train[1]), ((test[0] - mean) / std, test[1])
    return train, test


WINE = shuffled(*t.wine(), 120, 72)
IRIS = shuffled(*load_iris(return_X_y=True), 105, 73, standardise=False)
TUMOURS = shuffled(*load_breast_cancer(return_X_y=True), 420, 74)


class TableNet(Loaded):
    """A classifier of rows in a dictionary, as from a reader of tables."""

    def __init__(
        self,
        sizes: tuple[int, ...],
        lr: float,
        weight_decay: float = 0.01,
        smoothing: float = 0.0,
        dropout: float = 0.0,
        sgd: bool = False,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        layers: list[nn.Module] = []
        for a, b in pairwise(sizes[:-1]):
            layers += [nn.Linear(a, b), nn.ReLU(), nn.Dropout(dropout)]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(*sizes[-2:])

    def forward(self, features: Tensor) -> Tensor:
        return self.head(self.body(features))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        logits = self(batch["features"])
        loss = F.cross_entropy(logits, batch["label"], label_smoothing=self.hparams["smoothing"])
        self.log("train/loss", loss)
        return {"loss": loss, "logits": logits.detach()}

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch["features"]), batch["label"]))

    def configure_optimizers(self) -> Any:
        lr, weight_decay = self.hparams["lr"], self.hparams["weight_decay"]
        kind = torch.optim.SGD if self.hparams["sgd"] else torch.optim.AdamW
        return kind(self.parameters(), lr=lr, weight_decay=weight_decay)


TABLE: dict[str, dict[str, Any]] = {
    "PredictionCollapse": {"output": "logits", "target": "label"}, "DeadUnits": {}, "TrainingDoctor": {},
}  # fmt: skip


def tabular(
    seed: int,
    data: tuple[Data, Data],
    sizes: tuple[int, ...],
    lr: float,
    batch: int = 16,
    steps: int = 300,
    **more: Any,
) -> Training:
    """Train on a table; the score is the accuracy."""
    train, test = data
    make = lambda: TableNet(sizes, lr, **more).use(train, test, batch, keys=("features", "label"))  # noqa: E731
    return script(seed, make, lambda m: (m(test[0]).argmax(1) == test[1]).float().mean(), steps, TABLE)


def encoded_twice() -> tuple[Data, Data]:
    """Return the flowers with species that were numbered in another order for validation than for training."""
    train, (x, y) = IRIS
    return train, (x, (y + 1) % 3)


# -- many labels, few positives ---------------------------------------------------------------------------------------


class Flags(Loaded):
    """Ten flags of an image; the network ends with a sigmoid of its own, or not."""

    def __init__(self, own_sigmoid: bool, lr: float) -> None:
        super().__init__()
        end: list[nn.Module] = [nn.Sigmoid()] if own_sigmoid else []
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10), *end)
        self.loss_fn, self.lr = nn.BCEWithLogitsLoss(), lr

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        images_, flags = batch
        loss = self.loss_fn(self.net(images_), flags)
        self.log("loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self.loss_fn(self.net(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def flags_of(y: Tensor) -> Tensor:
    """A flag for the digit itself, and one for the last place of three times the digit."""
    return (F.one_hot(y, 10) | F.one_hot(3 * y % 10, 10)).float()


def flagged(seed: int, own_sigmoid: bool, lr: float, steps: int = 400) -> Training:
    """Train on ten flags; the score is the mean F1."""
    train, test = (TRAIN[0], flags_of(TRAIN[1])), (TEST[0], flags_of(TEST[1]))
    make = lambda: Flags(own_sigmoid, lr).use(train, test, 24)  # noqa: E731

    def score(m: Any) -> Tensor:
        out = m.net(test[0])
        picked = out > (0.5 if own_sigmoid else 0.0)
        hit = (picked * test[1]).sum(0)
        return (2 * hit / (picked.sum(0) + test[1].sum(0)).clamp(min=1)).mean()

    return script(
        seed, make, score, steps, {"PredictionCollapse": {"output": "net"}, "DeadUnits": {}, "TrainingDoctor": {}}
    )


class RareDigit(Loaded):
    """One logit for a digit that is nearly never there, with its prior in the bias; option: a ReLU behind the logit."""

    def __init__(self, prior: float, relu: bool) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.logit = nn.Linear(144, 1)
        nn.init.constant_(self.logit.bias, prior)
        self.last = nn.ReLU() if relu else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.logit(self.conv(x))).squeeze(-1)

    def _loss(self, batch: Data) -> Tensor:
        return F.binary_cross_entropy_with_logits(self(batch[0]), batch[1])

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        return self._loss(batch)

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def rare(digit: int, keep: int) -> tuple[Data, Data]:
    """Keep so many images of one digit among all others; the test keeps all of them."""
    x, y = TRAIN
    there = (y == digit).nonzero().squeeze(1)
    kept = torch.cat([(y != digit).nonzero().squeeze(1), there[:keep]])
    return (x[kept], (y[kept] == digit).float()), (TEST[0], (TEST[1] == digit).float())


def seldom(seed: int, digit: int, keep: int, prior: float, relu: bool = False) -> Training:
    """Train on a rare digit; the score is the area under the curve."""
    train, test = rare(digit, keep)
    make = lambda: RareDigit(prior, relu).use(train, test, 64)  # noqa: E731
    watched: dict[str, dict[str, Any]] = {
        "PredictionCollapse": {"output": "last"},
        "DeadUnits": {},
        "TrainingDoctor": {},
    }
    return script(seed, make, lambda m: auc(m(test[0]), test[1]), 400, watched)


# -- weak signal ------------------------------------------------------------------------------------------------------


def clicks(count: int, seed: int) -> Data:
    """Users, offers and an hour; whether somebody clicks hangs a little on each of them."""
    g = seeded(seed)
    tastes = 0.22 * torch.randn(40 + 25, generator=seeded(75))
    users, offers = torch.randint(40, (count,), generator=g), torch.randint(25, (count,), generator=g)
    hours = torch.rand(count, generator=g)
    log_odds = tastes[users] + tastes[40 + offers] + 0.15 * torch.sin(6.28 * hours) - 1.1
    return users, offers, hours, (torch.rand(count, generator=g) < log_odds.sigmoid()).float()


CLICKS, LATER = clicks(24_000, 76), clicks(12_000, 77)


class Clicks(Loaded):
    """Embeddings and a linear layer over them."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.offer, self.out = nn.Embedding(40, 8), nn.Embedding(25, 8), nn.Linear(17, 1)
        for table in (self.user, self.offer):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, users: Tensor, offers: Tensor, hours: Tensor) -> Tensor:
        return self.out(torch.cat([self.user(users), self.offer(offers), hours[:, None] * 2 - 1], 1)).squeeze(1)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        *columns, clicked = batch
        loss = F.binary_cross_entropy_with_logits(self(*columns), clicked)
        self.log("bce", loss, on_step=True)
        return loss

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        *columns, clicked = batch
        self.log("val_loss", F.binary_cross_entropy_with_logits(self(*columns), clicked))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def clicking(seed: int, late: int) -> Training:
    """Train on clicks that were joined so many rows late; the score is the area under the curve."""
    train = (*CLICKS[:3], CLICKS[3].roll(late))
    make = lambda: Clicks().use(train, tuple(c[:1000] for c in LATER), 256)  # noqa: E731
    watched = {"PredictionCollapse": {"output": "out"}, "TrainingDoctor": {}}
    return script(seed, make, lambda m: auc(m(*LATER[:3]), LATER[3]), 350, watched)


# -- classes that arrive one after the other --------------------------------------------------------------------------


class Arriving(IterableDataset[Any]):
    """Images in five tasks of two digits each; what has been seen is kept and mixed in, or thrown away."""

    def __init__(self, keep: bool, per_task: int, batch: int) -> None:
        self.keep, self.per_task, self.batch = keep, per_task, batch

    def __iter__(self) -> Any:
        x, y = TRAIN
        for task in range(5):
            seen = (y // 2 <= task) if self.keep else (y // 2 == task)
            pool = seen.nonzero().squeeze(1)
            for _ in range(self.per_task):
                chosen = pool[torch.randint(len(pool), (self.batch,))]
                yield {"image": x[chosen], "digit": y[chosen], "task": task}


class Continual(L.LightningModule):
    """A small network that learns the tasks in turn."""

    def __init__(self, keep: bool, lr: float) -> None:
        super().__init__()
        self.keep, self.lr = keep, lr
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.ReLU(), nn.Linear(96, 10)
        )

    def train_dataloader(self) -> Any:
        return DataLoader(Arriving(self.keep, 70, 32), batch_size=None)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        logits = self.net(batch["image"])
        return {"loss": F.cross_entropy(logits, batch["digit"]), "logits": logits}

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


def arriving(seed: int, keep: bool) -> Training:
    """Train task by task; the score is the accuracy over all ten digits."""
    watched = {"PredictionCollapse": {"output": "logits", "target": "digit"}, "DeadUnits": {}, "TrainingDoctor": {}}
    score = lambda m: (m.net(TEST[0]).argmax(1) == TEST[1]).float().mean()  # noqa: E731
    return script(seed, lambda: Continual(keep, 0.02), score, 350, watched)


# -- pixels -----------------------------------------------------------------------------------------------------------


def slides(count: int, seed: int) -> Data:
    """Tiles of 16 x 16 in three colours with a bright cell of ten pixels, so that 96 % are background."""
    g = seeded(seed)
    x = 0.5 * torch.randn(count, 3, 16, 16, generator=g)
    mask = torch.zeros(count, 16, 16, dtype=torch.long)
    rows, columns = (torch.randint(0, n, (count,), generator=g) for n in (15, 12))
    for i in range(count):
        mask[i, rows[i] : rows[i] + 2, columns[i] : columns[i] + 5] = 1
    return x + mask.unsqueeze(1) * torch.tensor([1.0, 0.5, -1.0])[:, None, None], mask


SLIDES, MORE_SLIDES = slides(600, 78), slides(150, 79)


class Segmenter(Loaded):
    """A network for pixels; its logits are flattened for the loss in the right order or not, or Dice is the loss."""

    def __init__(self, flatten: str) -> None:
        super().__init__()
        self.flatten = flatten
        self.down = nn.Sequential(nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU())
        self.up = nn.Conv2d(12, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))

    def _loss(self, batch: Data) -> Tensor:
        logits, mask = self(batch[0]), batch[1]
        if self.flatten == "dice":
            p, there = logits.softmax(1)[:, 1], mask.float()
            return 1 - (2 * (p * there).sum() + 1) / (p.sum() + there.sum() + 1)
        if self.flatten == "view":
            return F.cross_entropy(logits.view(-1, 2), mask.view(-1))
        return F.cross_entropy(logits.permute(0, 2, 3, 1).reshape(-1, 2), mask.view(-1))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        return self._loss(batch)

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=5e-3)
        return [optimizer], [torch.optim.lr_scheduler.StepLR(optimizer, 5, 0.5)]


def segmented(seed: int, flatten: str) -> Training:
    """Train on slides; the score is the intersection over the union of the cells."""

    def score(m: Any) -> Tensor:
        guess, there = m(MORE_SLIDES[0]).argmax(1) == 1, MORE_SLIDES[1] == 1
        return (guess & there).sum() / (guess | there).sum()

    make = lambda: Segmenter(flatten).use(SLIDES, MORE_SLIDES, 24)  # noqa: E731
    return script(
        seed, make, score, 250, {"PredictionCollapse": {"output": "up"}, "DeadUnits": {}, "TrainingDoctor": {}}
    )


# -- images -----------------------------------------------------------------------------------------------------------


class Tutorial(Loaded):
    """The class of a tutorial, with a schedule by name; options: mixing of images, and the dimension of a softmax."""

    def __init__(self, schedule: str = "", mix: float = 0.0, softmax: int | None = None, lr: float = 0.05) -> None:
        super().__init__()
        self.schedule, self.mix, self.softmax, self.lr = schedule, mix, softmax, lr
        self.model = nn.Sequential(
            nn.Conv2d(1, 12, 3), nn.GELU(), nn.Conv2d(12, 16, 3, stride=2), nn.GELU(), nn.Flatten(), nn.Linear(64, 10)
        )

    def forward(self, x: Tensor) -> Tensor:
        out = self.model(x)
        return out if self.softmax is None else torch.softmax(out, dim=self.softmax)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, y = batch
        if self.mix:
            share = float(torch.distributions.Beta(self.mix, self.mix).sample())
            other = torch.randperm(len(x))
            out = self(share * x + (1 - share) * x[other])
            return share * F.cross_entropy(out, y) + (1 - share) * F.cross_entropy(out, y[other])
        return F.cross_entropy(self(x), y)

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        out = self(batch[0])
        self.log_dict(
            {"val_loss": F.cross_entropy(out, batch[1]), "val_acc": (out.argmax(1) == batch[1]).float().mean()}
        )

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9, nesterov=True)
        if self.schedule != "restarts":
            return optimizer
        warm = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 60)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": warm, "interval": "step"}}


def tutorial(seed: int, train: Data = TRAIN, batch: int = 32, steps: int = 350, **more: Any) -> Training:
    """Train on digits; the score is the accuracy on images whose labels are right."""
    make = lambda: Tutorial(**more).use(train, TEST, batch)  # noqa: E731
    watched = {"PredictionCollapse": {"output": "model"}, "DeadUnits": {}, "TrainingDoctor": {}}
    return script(seed, make, lambda m: (m.model(TEST[0]).argmax(1) == TEST[1]).float().mean(), steps, watched)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "wines under a weight decay of 30", 0.75, lambda s: tabular(
        s, WINE, (13, 32, 32, 3), 0.01, 16, 300, weight_decay=30.0, sgd=True),
            "shrinking weights", *UNLEARNED, ONE_BATCH),
    healthy(FAMILY, "wines, a decay of 1 and smoothed labels", 0.85, lambda s: tabular(
        s, WINE, (13, 32, 32, 3), 3e-3, 8, 300, weight_decay=1.0, smoothing=0.2)),
    failing(FAMILY, "labels of irises encoded anew for validation", 0.75, lambda s: tabular(s, encoded_twice(), (4, 32, 3), 1e-2, 15, 280),
            "overfitting", "evaluation differs", *UNLEARNED, FOLLOW, onset=0.1),
    healthy(FAMILY, "wines one by one, dropout of 0.8", 0.85, lambda s: tabular(s, WINE, (13, 128, 3), 1e-3, 1, 600, dropout=0.8)),
    failing(FAMILY, "ten flags, a sigmoid before the loss with logits", 0.3, lambda s: flagged(s, True, 0.05), *UNLEARNED,
            "vanishing gradients", "sanity:initial loss", ONE_BATCH),
    healthy(FAMILY, "ten flags of digits, most of them off", 0.6, lambda s: flagged(s, False, 0.5)),
    healthy(FAMILY, "five eights among 1,200 others", 0.8, lambda s: seldom(s, 8, 5, -5.0)),
    failing(FAMILY, "a ReLU over the logit of a rare digit", 0.75, lambda s: seldom(s, 5, 14, -4.5, relu=True), *UNLEARNED, "dead units",
            "no gradients", "weights do not change", "sanity:units are alive", "sanity:all parameters learn", "sanity:inputs matter", ONE_BATCH),
    healthy(FAMILY, "clicks that hang a little on who and what", 0.56, lambda s: clicking(s, 0)),
    failing(FAMILY, "clicks joined one row late", 0.545, lambda s: clicking(s, 1), *UNLEARNED, FOLLOW, "overfitting"),
    healthy(FAMILY, "two digits at a time, the old ones kept", 0.8, lambda s: arriving(s, True)),
    failing(FAMILY, "two digits at a time, the old ones gone", 0.5, lambda s: arriving(s, False), ORDERED, *UNLEARNED, "loss spikes", "divergence",
            "overfitting", onset=0.2),
    healthy(FAMILY, "cells on 4 % of a slide, Dice alone", 0.5, lambda s: segmented(s, "dice")),
    failing(FAMILY, "cells on a slide, channels viewed last", 0.2, lambda s: segmented(s, "view"), *UNLEARNED, FOLLOW, ONE_BATCH,
            "sanity:shapes of outputs and labels"),
    failing(FAMILY, "digits, a softmax over the batch axis", 0.75, lambda s: tutorial(s, softmax=0, lr=0.01), *UNLEARNED, ROWS_LEAK,
            "vanishing gradients", "sanity:initial loss", ONE_BATCH),
    healthy(FAMILY, "mixed digits, the loss stays high", 0.85, lambda s: tutorial(s, mix=1.0)),
    healthy(FAMILY, "six labels in ten are drawn by lot", 0.75, lambda s: tutorial(s, (TRAIN[0], noisy(TRAIN[1], 0.6)), lr=0.01)),
    healthy(FAMILY, "five warm restarts at 0.2", 0.85, lambda s: tutorial(s, schedule="restarts", lr=0.2, steps=300)),
    failing(FAMILY, "digits, a rate of 5", 0.6, lambda s: tutorial(s, lr=5.0), *FAST, *UNLEARNED, "dead units",
            twin="digits at a rate of 0.05"),
    healthy(FAMILY, "digits at a rate of 0.05", 0.85, lambda s: tutorial(s, lr=0.05)),
]  # fmt: skip
