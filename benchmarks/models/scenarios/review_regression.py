"""Regression of many kinds with the bugs that reviews of code find, and healthy look-alikes.

Answers of several columns, a spread, counts, lifetimes, forecasts, quantiles, heavy tails and stars of films. The names
were chosen so that all of them are in the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import lightning.pytorch as L
import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import auc, lines, script, seeded, table
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, SHAPES, UNLEARNED, Data, Loaded, cut

FAMILY = "reviewed regression"
WATCHED: dict[str, dict[str, Any]] = {"PredictionCollapse": {"output": "net"}, "DeadUnits": {}, "TrainingDoctor": {}}
DOCTOR: dict[str, dict[str, Any]] = {"TrainingDoctor": {}, "DeadUnits": {}}


def r_squared(guess: Tensor, y: Tensor) -> Tensor:
    """Mean R squared of the columns."""
    return (1 - (guess - y).square().mean(0) / y.var(0)).mean()


# -- ten answers for each tumour --------------------------------------------------------------------------------------


class Worst(Loaded):
    """Ten means of the cells of a tumour say the ten worst values; both are made flat before they are compared."""

    def __init__(self, by_column: bool) -> None:
        super().__init__()
        self.by_column = by_column
        self.net = nn.Sequential(nn.Linear(10, 64), nn.GELU(), nn.Linear(64, 10))
        self.criterion = nn.SmoothL1Loss()

    def _shared(self, batch: dict[str, Tensor], stage: str) -> Tensor:
        answers = batch["worst"].T if self.by_column else batch["worst"]
        loss = self.criterion(self.net(batch["mean"]).flatten(), answers.flatten())
        self.log(f"{stage}_loss", loss)
        return loss

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        return {"loss": self._shared(batch, "train")}

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self._shared(batch, "val")

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=5e-3, weight_decay=0.01)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 400)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def ten_answers(seed: int, by_column: bool) -> Training:
    """Train on tumours; the score is the mean R squared."""
    x, _ = t.cancer()
    x = x[torch.randperm(len(x), generator=seeded(201))]
    train, test = cut((x[:, :10], x[:, 20:]), 420)
    make = lambda: Worst(by_column).use(train, test, 30, keys=("mean", "worst"))  # noqa: E731
    watched = {**WATCHED, "PredictionCollapse": {"output": "net", "target": "worst"}}
    return script(seed, make, lambda m: r_squared(m.net(test[0]), test[1]), 400, watched)


# -- a spread ---------------------------------------------------------------------------------------------------------


class Spread(Loaded):
    """Mean and logarithm of the variance of the area of a tumour; its sign in the likelihood, and the beta of beta-NLL."""

    def __init__(self, sign: float, beta: float) -> None:
        super().__init__()
        self.sign, self.beta = sign, beta
        self.body = nn.Sequential(nn.Linear(14, 48), nn.SiLU(), nn.Linear(48, 48), nn.SiLU())
        self.mean, self.log_variance = nn.Linear(48, 1), nn.Linear(48, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.mean(h).squeeze(-1), self.log_variance(h).squeeze(-1)

    def nll(self, batch: Data) -> Tensor:
        mean, log_variance = self(batch[0])
        each = 0.5 * (self.sign * log_variance + (batch[1] - mean).square() * (-log_variance).exp())
        return (each * log_variance.detach().exp() ** self.beta).mean()

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        loss = self.nll(batch)
        self.log("train_nll", loss, on_epoch=True, on_step=False)
        return loss

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self.nll(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=5e-3)


def spread(seed: int, sign: float, beta: float) -> Training:
    """Train on tumours: from the shape and texture of cells to their area, which has a long tail."""
    x, _ = t.cancer()
    x = x[torch.randperm(len(x), generator=seeded(202))]
    shape = [1, 4, 5, 6, 7, 8, 9, 21, 24, 25, 26, 27, 28, 29]
    train, test = cut((x[:, shape], x[:, 3]), 420)
    watched = {**WATCHED, "PredictionCollapse": {"output": "mean"}}
    make = lambda: Spread(sign, beta).use(train, test, 35)  # noqa: E731
    return script(seed, make, lambda m: r_squared(m(test[0])[0], test[1]), 350, watched)


# -- counts -----------------------------------------------------------------------------------------------------------


class Mentions(nn.Module):
    """How often a word occurs in a window of text: convolutions, added up over the window."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.conv, self.act = nn.Embedding(32, 12), nn.Conv1d(12, 24, 4), nn.ReLU()
        self.out = nn.Linear(24, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.act(self.conv(self.embed(x).mT)).sum(2) / 4).squeeze(1)


class Counting(Loaded):
    """Poisson regression; whether what the network says is a logarithm is an argument of the criterion."""

    def __init__(self, **criterion: Any) -> None:
        super().__init__()
        self.net, self.criterion = Mentions(), nn.PoissonNLLLoss(**criterion)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Any]:
        signs, count = batch
        rate = self(signs)
        return {"loss": self.criterion(rate, count), "rate": rate.detach()}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self.criterion(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.RAdam(self.parameters(), lr=1e-2)


@lru_cache
def mentions() -> tuple[Data, Data]:
    """Windows of source of 32 signs, and how often they say "self": not at all in nine of ten."""
    both = []
    for (x,) in lines(32, 3000):
        found = (x.unfold(1, 4, 1) == torch.tensor([18, 4, 11, 5])).all(2)
        both.append((x, found.sum(1).float()))
    return both[0], both[1]


def counting(seed: int, **criterion: Any) -> Training:
    """Train on windows; the score is the AUC of windows with the word against those without."""
    train, test = mentions()
    make = lambda: Counting(**criterion).use(train, test, 64)  # noqa: E731
    return script(seed, make, lambda m: auc(m.net(test[0]), test[1]), 350, WATCHED)


# -- lifetimes --------------------------------------------------------------------------------------------------------


class Weibull(nn.Module):
    """Likelihood of times of which some are seen and the others only known to be longer."""

    def __init__(self, negative: bool) -> None:
        super().__init__()
        self.negative = negative
        self.log_scale = nn.Parameter(torch.zeros(()))

    def forward(self, location: Tensor, times: Tensor, seen: Tensor) -> Tensor:
        z = (times.log() - location) / self.log_scale.exp()
        likelihood = torch.where(seen > 0, z - self.log_scale, torch.zeros_like(z)) - z.exp()
        return -likelihood.mean() if self.negative else likelihood.mean()


class Lifetimes(Loaded):
    """An accelerated failure time model with a one-cycle schedule."""

    def __init__(self, negative: bool) -> None:
        super().__init__()
        self.net, self.criterion = t.mlp([10, 32, 1], nn.Tanh), Weibull(negative)

    def _step(self, batch: Data) -> Tensor:
        x, times, seen = batch
        return self.criterion(self.net(x).squeeze(1), times, seen)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        return self._step(batch)

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self._step(batch))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-2)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=301)
        return [optimizer], [{"scheduler": cycle, "interval": "step"}]


@lru_cache
def patients() -> tuple[Tensor, Tensor]:
    """Ten standardised numbers of 442 patients in a fixed random order, and how the disease went on."""
    x, y = (torch.tensor(a, dtype=torch.float32) for a in load_diabetes(return_X_y=True))
    order = torch.randperm(len(x), generator=seeded(203))
    return (x / x.std(0))[order], y[order]


def lifetimes(seed: int, negative: bool, unseen: float) -> Training:
    """Train on patients whose times are made up; the score is the concordance of new patients."""
    x, _ = patients()
    g = seeded(204)
    risk = 0.9 * x[:, 2] - 0.7 * x[:, 6] + 0.6 * x[:, 8]
    times = (torch.empty(len(x)).exponential_(generator=g) * (-risk).exp()).clamp(min=1e-3)
    end = times.quantile(1 - unseen)
    train, (x, times, seen) = cut((x, times.clamp(max=float(end)), (times < end).float()), 320)

    def concordance(m: Any) -> Tensor:
        location = m.net(x).squeeze(1)
        earlier = (times[:, None] < times) & (seen[:, None] > 0)
        return (location[:, None] < location)[earlier].float().mean()

    return script(seed, lambda: Lifetimes(negative).use(train, (x, times, seen), 40), concordance, 300, DOCTOR)


# -- forecasts --------------------------------------------------------------------------------------------------------


def sales(count: int, generator: torch.Generator) -> Data:
    """Sales of 28 days, in pieces between 3,000 and 30,000 with a week and a trend, and of the next seven."""
    day = torch.arange(35.0)
    draw = lambda: torch.rand(count, 1, generator=generator)  # noqa: E731
    level, trend, phase, swing = 3000 + 27000 * draw(), 0.01 * (draw() - 0.5), 7 * draw(), 0.1 + 0.3 * draw()
    curve = 1 + trend * day + swing * torch.sin(2 * math.pi * (day + phase) / 7)
    whole = level * (curve + 0.03 * torch.randn(count, 35, generator=generator))
    return whole[:, :28], whole[:, 28:]


class Stream(IterableDataset[Any]):
    """Shops without an end."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def __iter__(self) -> Any:
        generator = seeded(self.seed)
        while True:
            past, future = sales(64, generator)
            yield from zip(past, future, strict=True)


class Forecaster(L.LightningModule):
    """An LSTM over the days; each window is standardised and the forecast brought back, or neither."""

    def __init__(self, scaled: bool, seed: int) -> None:
        super().__init__()
        self.scaled, self.seed = scaled, seed
        self.lstm, self.head = nn.LSTM(1, 32, batch_first=True), nn.Linear(32, 7)

    def forward(self, past: Tensor) -> Tensor:
        middle, width = past.mean(1, keepdim=True), past.std(1, keepdim=True)
        if not self.scaled:
            middle, width = torch.zeros_like(middle), torch.ones_like(width)
        states, _ = self.lstm(((past - middle) / width)[..., None])
        return middle + width * self.head(states[:, -1])

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        past, future = batch
        loss = F.l1_loss(self(past), future)
        self.log("mae", loss, prog_bar=True)
        return loss

    def train_dataloader(self) -> Any:
        return DataLoader(Stream(self.seed), batch_size=32)

    def val_dataloader(self) -> Any:
        return DataLoader(TensorDataset(*sales(100, seeded(205))), batch_size=100)

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", F.l1_loss(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def forecasting(seed: int, scaled: bool) -> Training:
    """Train on shops; the score is the share of the error of "as the mean of the last days" that is taken away."""
    past, future = sales(300, seeded(206))
    base = (future - past.mean(1, keepdim=True)).abs().mean()
    watched = {"PredictionCollapse": {"output": "head"}, "TrainingDoctor": {}}
    score = lambda m: 1 - (m(past) - future).abs().mean() / base  # noqa: E731
    return script(seed, lambda: Forecaster(scaled, seed), score, 300, watched, val_check_interval=100)


# -- quantiles --------------------------------------------------------------------------------------------------------


class Quantiles(Loaded):
    """Many quantiles of how a disease goes on; each is the one before it and something positive."""

    def __init__(self, levels: Tensor) -> None:
        super().__init__()
        self.register_buffer("levels", levels)
        self.net = nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, len(levels)))

    def forward(self, x: Tensor) -> Tensor:
        first, steps = self.net(x).tensor_split([1], dim=1)
        return torch.cat([first, first + F.softplus(steps - 2).cumsum(1)], 1)

    def pinball(self, batch: Data) -> Tensor:
        error = batch[1][:, None] - self(batch[0])
        return torch.maximum(self.levels * error, (self.levels - 1) * error).sum(1).mean()

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        return self.pinball(batch)

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self.pinball(batch))

    def configure_optimizers(self) -> Any:
        return torch.optim.NAdam(self.parameters(), lr=3e-3)


def quantiles(seed: int, levels: Tensor) -> Training:
    """Train on patients; the score is one less how far the share between the outer quantiles is from 0.9."""
    x, y = patients()
    train, (x, y) = cut((x, (y - 150) / 75), 320)

    def covered(m: Any) -> Tensor:
        guess = m(x)
        return 1 - (((y > guess[:, 0]) & (y < guess[:, -1])).float().mean() - 0.9).abs()

    return script(seed, lambda: Quantiles(levels).use(train, (x, y), 32), covered, 350, DOCTOR)


# -- heavy tails ------------------------------------------------------------------------------------------------------


class LogCosh(Loaded):
    """The logarithm of the hyperbolic cosine of the error, as its name says or as softplus."""

    def __init__(self, literal: bool) -> None:
        super().__init__()
        self.literal = literal
        self.net = t.mlp([12, 64, 64, 1])

    def forward(self, x: Tensor) -> Tensor:
        return 50 * self.net(x).squeeze(-1)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        error = self(batch[0]) - batch[1]
        each = error.cosh().log() if self.literal else error + F.softplus(-2 * error) - math.log(2.0)
        return each.mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def heavy(seed: int, literal: bool) -> Training:
    """Train on answers of some fifty with Cauchy noise of five, two batches for an update; the score is R squared."""
    x, y = table()
    train, (x, y) = cut((x, 50 * y), 3200)
    noise = torch.empty(3200).cauchy_(0, 5, generator=seeded(207))
    make = lambda: LogCosh(literal).use((train[0], train[1] + noise), (), 32)  # noqa: E731
    return script(seed, make, lambda m: r_squared(m(x), y), 350, WATCHED, accumulate_grad_batches=2)


# -- stars ------------------------------------------------------------------------------------------------------------


class Stars(Loaded):
    """Users, films and biases: the logit of a share of five stars."""

    def __init__(self, divided: bool) -> None:
        super().__init__()
        self.divided = divided
        self.users, self.films = nn.Embedding(120, 8), nn.Embedding(80, 8)
        self.generous, self.liked = nn.Embedding(120, 1), nn.Embedding(80, 1)
        self.match = nn.Identity()
        for table_of in (self.users, self.films, self.generous, self.liked):
            nn.init.normal_(table_of.weight, std=0.1)

    def forward(self, user: Tensor, film: Tensor) -> Tensor:
        product = (self.users(user) * self.films(film)).sum(1)
        return self.match(product + self.generous(user).squeeze(1) + self.liked(film).squeeze(1))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        logit = self(batch["user"], batch["film"])
        return F.binary_cross_entropy_with_logits(logit, batch["stars"] / (5 if self.divided else 1))

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.training_step(batch, batch_idx))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.02, weight_decay=0.1)


@lru_cache
def stars() -> tuple[Data, Data]:
    """Half of the stars that 120 users gave to 80 films."""
    g = seeded(208)
    normal = lambda *shape: torch.randn(*shape, generator=g)  # noqa: E731
    taste = 0.9 * normal(120, 3) @ normal(3, 80) + 0.7 * normal(120, 1) + 0.7 * normal(80)
    given = (3 + 0.8 * taste + 0.3 * normal(120, 80)).round().clamp(1, 5)
    chosen = torch.randperm(9600, generator=g)[:4800]
    return cut((chosen // 80, chosen % 80, given.flatten()[chosen]), 4200)


def films(seed: int, divided: bool) -> Training:
    """Train on stars; the score is R squared for pairs of a user and a film that are new."""
    train, test = stars()
    make = lambda: Stars(divided).use(train, test, 128, keys=("user", "film", "stars"))  # noqa: E731
    watched = {"PredictionCollapse": {"output": "match", "target": "stars"}, "TrainingDoctor": {}}
    return script(seed, make, lambda m: r_squared(5 * m(test[0], test[1]).sigmoid(), test[2]), 500, watched)


NINETEEN = torch.arange(1, 20) / 20
SCENARIOS: list[Scenario] = [
    failing(FAMILY, "ten answers for each tumour, flattened by column", 0.4, lambda s: ten_answers(s, True), SHAPES, *UNLEARNED, FOLLOW,
            ONE_BATCH),
    healthy(FAMILY, "ten answers for a tumour, flattened by row", 0.6, lambda s: ten_answers(s, False)),
    failing(FAMILY, "areas of cells, sign of the log variance", 0.3, lambda s: spread(s, -1.0, 0.0), "divergence", "vanishing gradients",
            *UNLEARNED, FOLLOW, ONE_BATCH),
    healthy(FAMILY, "areas of cells, beta-NLL below zero", 0.5, lambda s: spread(s, 1.0, 0.5)),
    failing(FAMILY, "counts of a word, the logarithm of a negative rate", 0.7, lambda s: counting(s, log_input=False), *FAST, *UNLEARNED,
            "sanity:initial loss", ONE_BATCH),
    healthy(FAMILY, "nine of ten counts of a word are zero", 0.9, counting),
    failing(FAMILY, "Weibull lifetimes, the likelihood is minimised", 0.6, lambda s: lifetimes(s, False, 0.3), *FAST, *UNLEARNED, FOLLOW, ONE_BATCH),
    healthy(FAMILY, "lifetimes, three in four never seen to end", 0.65, lambda s: lifetimes(s, True, 0.75)),
    failing(FAMILY, "sales in thousands, raw in an LSTM", 0.2, lambda s: forecasting(s, False), *UNLEARNED, "saturated units",
            "vanishing gradients", "sanity:initial loss", "sanity:inputs matter", ONE_BATCH),
    healthy(FAMILY, "sales in thousands, windows standardised", 0.4, lambda s: forecasting(s, True)),
    failing(FAMILY, "nineteen quantiles, their levels in per cent", 0.6, lambda s: quantiles(s, 100 * NINETEEN), *FAST, *UNLEARNED, ONE_BATCH),
    healthy(FAMILY, "nineteen quantiles in order", 0.7, lambda s: quantiles(s, NINETEEN)),
    failing(FAMILY, "Cauchy noise, cosh is infinite", 0.4, lambda s: heavy(s, True), "non-finite values", "divergence",
            "sanity:initial loss", ONE_BATCH),
    healthy(FAMILY, "Cauchy noise, a stable log-cosh", 0.6, lambda s: heavy(s, False)),
    failing(FAMILY, "stars from 1 to 5 as shares of one", 0.2, lambda s: films(s, False), *FAST, *UNLEARNED, "saturated units",
            "vanishing gradients", "sanity:initial loss", ONE_BATCH),
    healthy(FAMILY, "stars from 1 to 5 as shares of five", 0.4, lambda s: films(s, True)),
]  # fmt: skip
