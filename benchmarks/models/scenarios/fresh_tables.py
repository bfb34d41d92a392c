"""Equations, ratings, lifetimes, decisions and tables in seldom combined forms: half fail, half are healthy look-alikes.

Written as somebody would who holds trainings back and judges the detectors by them. The names were chosen so that all of
them are in the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

import copy
import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import images, script, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, UNLEARNED, Data, Loaded, cut

FAMILY = "fresh tables"
TRAIN, TEST = images(331)
FLAT, FLAT_TEST = TRAIN[0].flatten(1), TEST[0].flatten(1)
NUMBERS: dict[str, dict[str, Any]] = {
    "PredictionCollapse": {"output": "prediction", "target": "labels"},
    "TrainingDoctor": {},
}
CLASSES: dict[str, dict[str, Any]] = {
    "PredictionCollapse": {"output": "logits", "target": "labels"},
    "DeadUnits": {},
    "TrainingDoctor": {},
}


def explained(guess: Tensor, y: Tensor) -> Tensor:
    """R squared."""
    return 1 - (guess.reshape(y.shape) - y).square().mean() / y.var()


# -- an equation ------------------------------------------------------------------------------------------------------


class Oscillator(Loaded):
    """A PINN of u'' + u' / 2 + 4 u = 0 with u(0) = 1 and u'(0) = 0 on [0, 3]; points are drawn anew for each update."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.net = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))

    def derivatives(self, time: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        time = time.requires_grad_(True)
        u = self.net(time)
        (first,) = torch.autograd.grad(u.sum(), time, create_graph=True)
        (second,) = torch.autograd.grad(first.sum(), time, create_graph=True)
        return u, first, second

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        u, first, second = self.derivatives(batch[0])
        equation = (second + 0.5 * first + 4 * u).square().mean()
        start, speed, _ = self.derivatives(torch.zeros(1, 1))
        boundary = (start - 1).square().mean() + speed.square().mean()
        self.log_dict({"equation": equation, "boundary": boundary})
        return equation + 20 * boundary

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def oscillating(seed: int, lr: float) -> Training:
    """Train on the equation; the score is R squared against its solution."""
    time = torch.linspace(0, 3, 200).unsqueeze(1)
    pulse = (4 - 1 / 16) ** 0.5
    truth = (-time / 4).exp() * ((pulse * time).cos() + (pulse * time).sin() / (4 * pulse))
    points = 3 * torch.rand(4000, 1, generator=seeded(332))
    watched: dict[str, dict[str, Any]] = {"DeadUnits": {}, "TrainingDoctor": {}}
    return script(
        seed, lambda: Oscillator(lr).use((points,), (), 64), lambda m: explained(m.net(time), truth), 700, watched
    )


# -- ratings ----------------------------------------------------------------------------------------------------------


@lru_cache
def ratings() -> tuple[Data, Data]:
    """Who rates what how, from 1 to 5, by four tastes of 120 people and 80 films."""
    g = seeded(333)
    people, films = torch.randn(120, 4, generator=g), torch.randn(80, 4, generator=g)
    who, what = torch.randint(120, (6000,), generator=g), torch.randint(80, (6000,), generator=g)
    stars = 3 + 0.7 * (people[who] * films[what]).sum(1) + 0.3 * torch.randn(6000, generator=g)
    return cut((who, what, stars.clamp(1, 5)), 5000)


class Factors(Loaded):
    """Matrix factorisation with a bias for each person and film."""

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.people, self.films = nn.Embedding(120, 8), nn.Embedding(80, 8)
        self.person_bias, self.film_bias = nn.Embedding(120, 1), nn.Embedding(80, 1)
        for table in (self.people, self.films):
            nn.init.normal_(table.weight, std=0.3)
        for table in (self.person_bias, self.film_bias):
            nn.init.zeros_(table.weight)

    def forward(self, who: Tensor, what: Tensor) -> Tensor:
        match = (self.people(who) * self.films(what)).sum(1)
        return 3.0 + match + self.person_bias(who).squeeze(1) + self.film_bias(what).squeeze(1)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        guess = self(batch["person"], batch["film"])
        loss = F.mse_loss(guess, batch["stars"])
        self.log("rmse", loss.sqrt(), prog_bar=True)
        return {"loss": loss, "prediction": guess, "labels": batch["stars"]}

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("val_loss", F.mse_loss(self(batch["person"], batch["film"]), batch["stars"]))

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=0.01, weight_decay=self.decay)


def rating(seed: int, decay: float) -> Training:
    """Train on ratings; the score is R squared of new ones."""
    train, test = ratings()
    make = lambda: Factors(decay).use(train, test, 128, keys=("person", "film", "stars"))  # noqa: E731
    return script(seed, make, lambda m: explained(m(*test[:2]), test[2]), 500, NUMBERS)


# -- lifetimes of images ----------------------------------------------------------------------------------------------


@lru_cache
def scans() -> tuple[Data, Data]:
    """Images whose digit sets how long somebody lives; a third leaves the study before."""
    parts = []
    for (x, y), seed in ((TRAIN, 334), (TEST, 335)):
        g = seeded(seed)
        times = torch.empty(len(x)).exponential_(generator=g) * (-(y.float() - 4.5) * 0.5).exp()
        left = torch.empty(len(x)).exponential_(generator=g) * times.median() * 3
        parts.append((x, torch.minimum(times, left), (times <= left).float()))
    return parts[0], parts[1]


class Hazard(Loaded):
    """Cox's partial likelihood of images; at risk are those who live longer, or those who died before."""

    def __init__(self, longer: bool) -> None:
        super().__init__()
        self.longer = longer
        self.risk = nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(192, 1)
        )

    def _loss(self, batch: Data) -> Tensor:
        x, times, died = batch
        risk = self.risk(x).squeeze(1)
        at_risk = times[None, :] >= times[:, None] if self.longer else times[None, :] <= times[:, None]
        return ((risk.masked_fill(~at_risk, -1e9).logsumexp(1) - risk) * died).sum() / died.sum().clamp(min=1)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        loss = self._loss(batch)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", self._loss(batch))
        risk, times, died = self.risk(batch[0]).squeeze(1), batch[1], batch[2]
        earlier = (times[:, None] < times) & (died[:, None] > 0)
        self.log("val_concordance", (risk[:, None] > risk)[earlier].float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def surviving(seed: int, longer: bool) -> Training:
    """Train on lifetimes; the score is the concordance of new images."""
    train, (x, times, died) = scans()

    def score(m: Any) -> Tensor:
        risk, earlier = m.risk(x).squeeze(1), (times[:, None] < times) & (died[:, None] > 0)
        return (risk[:, None] > risk)[earlier].float().mean()

    watched: dict[str, dict[str, Any]] = {"DeadUnits": {}, "TrainingDoctor": {}}
    return script(seed, lambda: Hazard(longer).use(train, (x, times, died), 64), score, 300, watched)


# -- decisions --------------------------------------------------------------------------------------------------------


class Actor(Loaded):
    """An actor, a critic and the entropy of the actor: it names a digit; a neighbour of the right one earns a fifth."""

    def __init__(self, bonus: float, lr: float = 3e-3) -> None:
        super().__init__()
        self.bonus, self.lr = bonus, lr
        self.body = nn.Sequential(nn.Linear(64, 48), nn.ReLU())
        self.actor, self.critic = nn.Linear(48, 10), nn.Linear(48, 1)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, best = batch
        h = self.body(x)
        choice = torch.distributions.Categorical(logits=self.actor(h))
        action, value = choice.sample(), self.critic(h).squeeze(1)
        reward = torch.where(action == best, 1.0, torch.where((action - best).abs() == 1, 0.2, 0.0))
        advantage = (reward - value).detach()
        entropy = choice.entropy().mean()
        loss = -(choice.log_prob(action) * advantage).mean() + 0.5 * F.mse_loss(value, reward) - self.bonus * entropy
        self.log_dict({"reward": reward.mean(), "entropy": entropy, "value": value.mean()})
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def acting(seed: int, bonus: float) -> Training:
    """Train on rewards; the score is the share of best choices."""
    watched: dict[str, dict[str, Any]] = {
        "UsageCollapse": {"assignments": "actor", "kind": "policy"},
        "DeadUnits": {},
        "TrainingDoctor": {},
    }
    score = lambda m: (m.actor(m.body(FLAT_TEST)).argmax(1) == TEST[1]).float().mean()  # noqa: E731
    return script(seed, lambda: Actor(bonus).use((FLAT, TRAIN[1]), (), 64), score, 500, watched)


DOOR = torch.tensor([15.0, 6.0])


@lru_cache
def logged(count: int = 4000) -> Data:
    """Where somebody stands in a room of 20x20, and in which of 36 directions they went on to the door; one of ten by chance."""
    g = seeded(336)
    place = 20 * torch.rand(count, 2, generator=g)
    way = DOOR - place
    best = (torch.atan2(way[:, 1], way[:, 0]) / math.tau * 36).round().long() % 36
    random = torch.randint(36, (count,), generator=g)
    return place, torch.where(torch.rand(count, generator=g) < 0.1, random, best)


class Cloned(Loaded):
    """Clones what was logged; the policy ends with a softmax "for the sampler", and the loss has one of its own, or not."""

    def __init__(self, twice: bool) -> None:
        super().__init__()
        self.twice = twice
        self.policy = nn.Sequential(nn.Linear(2, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 36))

    def forward(self, place: Tensor) -> Tensor:
        out = self.policy((place - 10) / 6)
        return out.softmax(-1) if self.twice else out

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        out = self(batch[0])
        return {"loss": F.cross_entropy(out, batch[1]), "logits": out, "labels": batch[1]}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


def cloning(seed: int, twice: bool) -> Training:
    """Train on logged steps; the score is the share of places from which the direction is right within 15 degrees."""
    rows = logged()
    train, test = cut(rows, 3500)

    def score(m: Any) -> Tensor:
        place = 20 * torch.rand(1000, 2, generator=seeded(341))
        way = DOOR - place
        off = (m(place).argmax(1) - torch.atan2(way[:, 1], way[:, 0]) / math.tau * 36 + 18) % 36 - 18
        return (off.abs() <= 1.5).float().mean()

    return script(seed, lambda: Cloned(twice).use(train, test, 32), score, 400, CLASSES)


# -- bags of images ---------------------------------------------------------------------------------------------------


def bags(data: Data, count: int, seed: int) -> Data:
    """Twelve digits, and whether a zero is among them."""
    g = seeded(seed)
    chosen = torch.randint(len(data[0]), (count, 12), generator=g)
    wanted = torch.rand(count, generator=g) < 0.5
    zeros, others = (data[1] == 0).nonzero().squeeze(1), (data[1] != 0).nonzero().squeeze(1)
    chosen = others[chosen % len(others)]
    chosen[wanted, 0] = zeros[chosen[wanted, 0] % len(zeros)]
    return data[0].flatten(1)[chosen], wanted.long()


class Bags(Loaded):
    """Attention over the images of a bag, and a linear answer; the weights add up to one in a bag, or over the batch."""

    def __init__(self, over_batch: bool) -> None:
        super().__init__()
        self.dim = 0 if over_batch else 1
        self.embed = nn.Sequential(nn.Linear(64, 48), nn.ReLU())
        self.attend = nn.Sequential(nn.Linear(48, 24), nn.Tanh(), nn.Linear(24, 1))
        self.answer = nn.Linear(48, 2)

    def forward(self, bag: Tensor) -> Tensor:
        h = self.embed(bag)
        return self.answer((self.attend(h).softmax(self.dim) * h).sum(1))

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        logits = self(batch[0])
        return {"loss": F.cross_entropy(logits, batch[1]), "logits": logits, "labels": batch[1]}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", F.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def bagging(seed: int, over_batch: bool) -> Training:
    """Train on bags; the score is the accuracy for bags that come one by one."""
    train, test = bags(TRAIN, 2000, 337), bags(TEST, 256, 338)
    score = lambda m: torch.stack([(m(x[None]).argmax(1) == y).float() for x, y in zip(*test, strict=True)]).mean()  # noqa: E731
    return script(seed, lambda: Bags(over_batch).use(train, test, 64), score, 400, CLASSES)


# -- tables -----------------------------------------------------------------------------------------------------------


@lru_cache
def sales() -> tuple[Data, Data]:
    """A shop, an article and two numbers; what is sold depends on all of them."""
    g = seeded(339)
    shop, article = torch.randint(60, (5000,), generator=g), torch.randint(40, (5000,), generator=g)
    x = torch.randn(5000, 2, generator=g)
    y = torch.randn(60, generator=g)[shop] + torch.randn(40, generator=g)[article] + 0.5 * torch.sin(2 * x[:, 0])
    return cut((shop, article, x, y + 0.2 * torch.randn(5000, generator=g)), 4000)


class Shops(Loaded):
    """Embeddings of a shop and an article beside numbers; their tables are made for the data, after the optimizer or before."""

    def __init__(self, late: bool) -> None:
        super().__init__()
        self.late = late
        self.shop, self.article = nn.Embedding(60, 2), nn.Embedding(40, 2)
        self.out = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 1))

    def on_train_start(self) -> None:
        if self.late:  # "the number of shops is known from the data alone"
            data = self.train_set.tensors
            self.shop = nn.Embedding(int(data[0].max()) + 1, 2)
            self.article = nn.Embedding(int(data[1].max()) + 1, 2)

    def forward(self, shop: Tensor, article: Tensor, x: Tensor) -> Tensor:
        return self.out(torch.cat([self.shop(shop), self.article(article), x], 1)).squeeze(1)

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        guess = self(*batch[:3])
        return {"loss": F.l1_loss(guess, batch[3]), "prediction": guess, "labels": batch[3]}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        self.log("val_loss", F.l1_loss(self(*batch[:3]), batch[3]))

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.Adam(self.parameters(), lr=8e-3)
        restarts = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, 150)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": restarts, "interval": "step"}}


def selling(seed: int, late: bool) -> Training:
    """Train on sales; the score is R squared."""
    train, test = sales()
    return script(
        seed, lambda: Shops(late).use(train, test, 64), lambda m: explained(m(*test[:3]), test[3]), 450, NUMBERS
    )


def exports(before: bool) -> tuple[Data, Data, Data]:
    """Tumours of three exports of one file, one in three mislabelled; joined before they are divided, or after. New ones to test."""
    x, y = t.cancer()
    g = seeded(340)
    order = torch.randperm(len(x), generator=g)
    x, y = x[order], y[order]
    new = x[320:], y[320:]
    x, y = x[:320], torch.where(torch.rand(320, generator=g) < 0.35, 1 - y[:320], y[:320])
    parts = (torch.arange(320).repeat(3)[torch.randperm(960, generator=g)],)
    train, val = cut(parts, 720) if before else ((torch.arange(240).repeat(3),), (torch.arange(240, 320),))
    return (x[train[0]], y[train[0]]), (x[val[0]], y[val[0]]), new


class Patients(Loaded):
    """A classifier of tumours; the weights with the lowest loss in validation are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.model = t.mlp([30, 128, 128, 2])
        self.best, self.kept = math.inf, None

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        logits = self.model(batch[0])
        return {"loss": F.cross_entropy(logits, batch[1]), "logits": logits, "labels": batch[1]}

    def validation_step(self, batch: Data, batch_idx: int) -> None:
        logits = self.model(batch[0])
        self.log_dict(
            {"val_loss": F.cross_entropy(logits, batch[1]), "val_acc": (logits.argmax(1) == batch[1]).float().mean()}
        )

    def on_validation_epoch_end(self) -> None:
        loss = float(self.trainer.callback_metrics["val_loss"])
        if loss < self.best:
            self.best, self.kept = loss, copy.deepcopy(self.model.state_dict())

    def on_fit_end(self) -> None:
        if self.kept is not None:
            self.model.load_state_dict(self.kept)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def treating(seed: int, before: bool) -> Training:
    """Train on tumours; the score is the accuracy for new ones, of what was kept."""
    train, val, (x, y) = exports(before)
    score = lambda m: (m.model(x).argmax(1) == y).float().mean()  # noqa: E731
    return script(seed, lambda: Patients().use(train, val, 32), score, 600, CLASSES)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "an oscillator by its equation, rate of 2e-5", 0.5, lambda s: oscillating(s, 2e-5), "weights do not change", *UNLEARNED,
            "vanishing gradients", twin="an oscillator by its equation, rate of 4e-3"),
    healthy(FAMILY, "an oscillator by its equation, rate of 4e-3", 0.5, lambda s: oscillating(s, 4e-3)),
    failing(FAMILY, "stars of films, decay of 30", 0.3, lambda s: rating(s, 30.0), "shrinking weights", *UNLEARNED, "dimensional collapse", ONE_BATCH),
    healthy(FAMILY, "stars of films from four tastes", 0.5, lambda s: rating(s, 0.01)),
    failing(FAMILY, "lifetimes of images, those at risk who died before", 0.57, lambda s: surviving(s, False), *UNLEARNED, FOLLOW, *FAST),
    healthy(FAMILY, "lifetimes of images, a third leaves early", 0.57, lambda s: surviving(s, True)),
    failing(FAMILY, "an actor, a critic, entropy with the wrong sign", 0.5, lambda s: acting(s, -0.5), "policy collapse", *UNLEARNED,
            "vanishing gradients", "no gradients"),
    healthy(FAMILY, "an actor and a critic, a bonus of entropy", 0.5, lambda s: acting(s, 0.02)),
    failing(FAMILY, "cloned steps to a door, two softmaxes", 0.6, lambda s: cloning(s, True), *UNLEARNED, "vanishing gradients",
            "sanity:initial loss", ONE_BATCH),
    healthy(FAMILY, "cloned steps to a door, one in ten by chance", 0.6, lambda s: cloning(s, False)),
    failing(FAMILY, "bags of digits, attention normalised over the batch", 0.75, lambda s: bagging(s, True), "sanity:samples do not leak", *UNLEARNED,
            "evaluation differs", "overfitting"),
    healthy(FAMILY, "bags of digits, a zero among twelve", 0.75, lambda s: bagging(s, False)),
    failing(FAMILY, "shops and articles, tables made after the optimizer", 0.5, lambda s: selling(s, True), "weights do not change", *UNLEARNED,
            "sanity:all parameters learn", ONE_BATCH),
    healthy(FAMILY, "shops and articles, warm restarts", 0.7, lambda s: selling(s, False)),
    failing(FAMILY, "three exports of tumours, joined before the split", 0.75, lambda s: treating(s, True), "sanity:validation data are new", *UNLEARNED,
            FOLLOW, "overfitting"),
    healthy(FAMILY, "three exports of tumours, divided and then joined", 0.75, lambda s: treating(s, False)),
]  # fmt: skip
