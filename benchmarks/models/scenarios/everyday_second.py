"""Trainings that were written after the rules had been changed by those of the other ``everyday`` files."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scenarios import everyday_tables as tables
from benchmarks.models.scenarios import everyday_unlabelled as unlabelled
from benchmarks.models.scenarios import everyday_vision as vision
from benchmarks.models.scripts import PLAIN, Script, adam, conv, explained, script, sgd, table

FAMILY = "everyday second"
TRAIN, TEST = vision.TRAIN, vision.TEST
UNRELATED = ("labels do not follow from inputs", "prediction collapse", "inputs ignored")
FAST = ("divergence", "learning rate too high", "non-finite values", "loss spikes", "dead units", "prediction collapse")


class Patches(nn.Module):
    """A small vision transformer on patches of two by two; options: the class token is read, or forgotten."""

    def __init__(self, read: str = "token") -> None:
        super().__init__()
        self.cut = nn.Conv2d(1, 32, 2, 2)
        self.token, self.place = nn.Parameter(torch.zeros(1, 1, 32)), nn.Parameter(0.02 * torch.randn(1, 17, 32))
        layer = nn.TransformerEncoderLayer(32, 4, 64, 0.1, batch_first=True, norm_first=True)
        self.body, self.head, self.read = (
            nn.TransformerEncoder(layer, 2, enable_nested_tensor=False),
            nn.Linear(32, 10),
            read,
        )

    def forward(self, x: Tensor) -> Tensor:
        h = self.cut(x).flatten(2).transpose(1, 2)
        h = torch.cat([self.token.expand(len(x), -1, -1), h], 1) + self.place
        if self.read == "too early":
            return self.head(h[:, 0])
        return self.head(self.body(h)[:, 0])


class Unet(nn.Module):
    """Segments bright strokes; two scales."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 16, 3, 2, 1), nn.ConvTranspose2d(16, 16, 2, 2)
        self.out = nn.Conv2d(17, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.cat([x, F.relu(self.up(F.relu(self.down(x))))], 1))


MASK = (TRAIN[0] > 1.75).float(), (TEST[0] > 1.75).float()


def dice(s: Script, batch: Any) -> Tensor:
    """Dice and binary cross entropy."""
    logits, y = s.model(batch[0]), batch[1]
    p = logits.sigmoid()
    overlap = 2 * (p * y).sum((1, 2, 3)) / (p + y).sum((1, 2, 3)).clamp(min=1)
    return 1 - overlap.mean() + F.binary_cross_entropy_with_logits(logits, y)


def strokes(s: Any) -> Tensor:
    """Dice of test images."""
    p = (s.model(TEST[0]) > 0).float()
    return 2 * (p * MASK[1]).sum() / (p + MASK[1]).sum()


def segment(seed: int, loss: Any, optimizer: Any = None) -> Any:
    """Train to segment."""
    return script(seed, lambda: Script(Unet(), loss, optimizer or adam(5e-3), (TRAIN[0], MASK[0]), (TEST[0], MASK[1])), strokes,
                  detectors={"PredictionCollapse": {"output": "model"}, "TrainingDoctor": {}})  # fmt: skip


class Ordered(Script):
    """The labels were sorted by name when they were read, the images were not."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.train_data = (self.train_data[0], self.train_data[1].sort().values)


class Frozen(Script):
    """``requires_grad_(False)`` was meant for the body and was called on the whole."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        for p in list(self.model.parameters())[:-1]:
            p.requires_grad_(False)


class Inputs(Script):
    """Images are normalised in the step by the mean and the std of the batch over all of it, with an epsilon of 1e5."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        return F.cross_entropy(self.model((x - x.mean()) / (x.std() + 1e5)), y)


class Ema(Script):
    """Weights are replaced by a moving average after each update, whose decay was mistaken for its complement."""

    def on_train_start(self) -> None:
        self.kept = [p.detach().clone() for p in self.model.parameters()]

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        for mean, p in zip(self.kept, self.model.parameters(), strict=True):
            p.data.copy_(mean.lerp_(p.data, 1e-4))


def ranked(s: Script, batch: Any) -> Tensor:
    """Pairs of rows; the better one shall score higher."""
    x, y = batch
    order = torch.randperm(len(x))
    one, two = s.model(x).squeeze(-1), s.model(x[order]).squeeze(-1)
    return F.margin_ranking_loss(one, two, (y - y[order]).sign(), margin=0.5)


def correlated(test: Any) -> Any:
    """Correlation of scores and targets."""
    return lambda s: torch.corrcoef(torch.stack([s.model(test[0]).squeeze(-1), test[1]]))[0, 1].nan_to_num()


def hinge(s: Script, batch: Any) -> Tensor:
    """Multi-class hinge loss."""
    return F.multi_margin_loss(s.model(batch[0]), batch[1])


def two_heads(s: Script, batch: Any) -> Tensor:
    """Which digit, and is it even?"""
    out = s.model(batch[0])
    return F.cross_entropy(out[:, :10], batch[1]) + 0.3 * F.cross_entropy(out[:, 10:], batch[1] % 2)


def first_ten(s: Any) -> Tensor:
    """Accuracy of the first ten outputs."""
    return (s.model(TEST[0])[:, :10].argmax(1) == TEST[1]).float().mean()


X, Y = table(seed=29)
COUNTS = torch.poisson((1.0 + 0.8 * Y).exp().clamp(max=60), generator=torch.Generator().manual_seed(3))


def poisson(s: Script, batch: Any) -> Tensor:
    """Poisson regression of the log rate."""
    return F.poisson_nll_loss(s.model(batch[0]).squeeze(-1), batch[1])


def log_rate(test: Any) -> Any:
    """R squared of the rate."""
    return lambda s: 1 - (s.model(test[0]).squeeze(-1).exp() - test[1]).square().mean() / test[1].var()


def rooted(s: Script, batch: Any) -> Tensor:
    """The root of a squared error, which has no slope at 0: one row has its own target as an input."""
    return (s.model(batch[0]).squeeze(-1) - batch[1]).square().sqrt().log().mean()


SCENARIOS: list[Scenario] = [
    healthy(FAMILY, "a vision transformer with a class token", 0.8, lambda s: vision.image(s, Patches, optimizer=adam(3e-3), steps=500, detectors=PLAIN)),
    failing(FAMILY, "a class token that is read before the layers", 0.8,
            lambda s: vision.image(s, lambda: Patches("too early"), optimizer=adam(3e-3), detectors=PLAIN),
            *UNRELATED, "no gradients", "sanity:inputs matter", "sanity:all parameters learn", "sanity:overfits one batch"),
    failing(FAMILY, "a vision transformer, SGD 3", 0.8, lambda s: vision.image(s, Patches, optimizer=sgd(3.0), detectors=PLAIN),
            *FAST, *UNRELATED, "sanity:overfits one batch", twin="a vision transformer with a class token"),
    healthy(FAMILY, "strokes are segmented, Dice", 0.8, lambda s: segment(s, dice)),
    healthy(FAMILY, "strokes are segmented, pixels alone", 0.8, lambda s: segment(
        s, lambda m, b: F.binary_cross_entropy_with_logits(m.model(b[0]), b[1]))),
    failing(FAMILY, "strokes are segmented, the masks rolled by one image", 0.8, lambda s: segment(
        s, lambda m, b: F.binary_cross_entropy_with_logits(m.model(b[0]), b[1].roll(1, 0))), *UNRELATED,
        "sanity:shapes of outputs and labels", "sanity:labels follow from inputs"),
    failing(FAMILY, "labels sorted by name, images not", 0.8, lambda s: vision.image(s, kind=Ordered), *UNRELATED, "overfitting",
            "sanity:labels follow from inputs"),
    failing(FAMILY, "all is frozen but the last bias", 0.8, lambda s: vision.image(s, kind=Frozen), *UNRELATED,
            "sanity:all parameters learn", "sanity:overfits one batch", "weights do not change"),
    failing(FAMILY, "an epsilon of 1e5", 0.8, lambda s: vision.image(s, lambda: conv(norm=False), kind=Inputs, optimizer=sgd(0.02)), *UNRELATED,
            "sanity:inputs matter", "sanity:overfits one batch"),
    failing(FAMILY, "an average of weights that keeps the first ones", 0.8, lambda s: vision.image(s, lambda: conv(norm=False), kind=Ema),
            *UNRELATED, "weights do not change"),
    healthy(FAMILY, "pairs of rows, ranked", 0.6, lambda s: tables.rows(s, Y, ranked, x=X, score=correlated)),
    healthy(FAMILY, "a hinge loss of ten classes", 0.9, lambda s: vision.image(s, loss=hinge)),
    healthy(FAMILY, "two heads in one output", 0.9, lambda s: vision.image(s, lambda: conv(12), two_heads, score=first_ten,
                                                                          detectors={"DeadUnits": {}, "TrainingDoctor": {}})),
    healthy(FAMILY, "counts, a log rate", 0.3, lambda s: tables.rows(s, COUNTS, poisson, x=X, score=log_rate)),
    failing(FAMILY, "the logarithm of an error, SGD 1", 0.3, lambda s: tables.rows(s, Y, rooted, sgd(1.0), x=X), *FAST, *UNRELATED,
            "sanity:overfits one batch"),
    healthy(FAMILY, "a table, six rows in a batch, SGD", 0.5, lambda s: tables.rows(s, Y + 0.5 * tables.NORMAL, optimizer=sgd(3e-3), x=X, batch=6,
            score=lambda test: explained((test[0], Y[-len(test[0]):])), steps=600)),
    healthy(FAMILY, "a wide network, RMSprop", 0.85, lambda s: vision.image(
        s, lambda: nn.Sequential(nn.Flatten(), t.mlp([64, 256, 10])), optimizer=lambda m: torch.optim.RMSprop(m.parameters(), lr=1e-3))),
    healthy(FAMILY, "an autoencoder of convolutions", 0.5, lambda s: unlabelled.views(
        s, unlabelled.rebuild, lambda: nn.Sequential(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 8, 3, 2, 1), nn.ReLU(),
        nn.ConvTranspose2d(8, 16, 2, 2), nn.ReLU(), nn.ConvTranspose2d(16, 1, 2, 2)), score=unlabelled.rebuilt,
        detectors={"DeadUnits": {}, "TrainingDoctor": {}}, steps=500)),
    failing(FAMILY, "two views alike, a predictor and no stop", 0.75, lambda s: unlabelled.views(
        s, lambda m, b: -F.cosine_similarity(m.head(m.model(unlabelled.seen(b[0]))), m.model(unlabelled.seen(b[0]))).mean(),
        lambda: unlabelled.encoder(norm=False), head=nn.Linear(32, 32)), *unlabelled.COLLAPSED),
    healthy(FAMILY, "labels of which one in eight is missing", 0.9, lambda s: vision.image(
        s, train=(TRAIN[0], TRAIN[1].masked_fill(torch.arange(len(TRAIN[1])) % 8 == 0, -100)))),
    healthy(FAMILY, "a long decay to nothing", 0.9, lambda s: vision.image(s, optimizer=lambda m: {
        "optimizer": (o := torch.optim.SGD(m.parameters(), lr=0.1, momentum=0.9)),
        "lr_scheduler": {"scheduler": torch.optim.lr_scheduler.PolynomialLR(o, 300, power=3.0), "interval": "step"}})),
]  # fmt: skip
