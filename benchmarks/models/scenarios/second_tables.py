"""Tables, ratings, rankings, lifetimes, graphs and decisions as users of forums train them: half fail, half are healthy look-alikes.

Nobody had tuned anything on them when they were written. The names were chosen so that all of them are in the develop half:
these scenarios are for development and verify nothing.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import CLASSES, Script, auc, explained, fitted, halves, right, script, seeded, table
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, UNLEARNED, Data, cut

FAMILY = "second tables"
UNITS: dict[str, dict[str, Any]] = {"DeadUnits": {}, "TrainingDoctor": {}}
STILL = ("weights do not change", "no gradients", "vanishing gradients", *UNLEARNED)


def squared(s: Script, batch: Data) -> Tensor:
    return F.mse_loss(s.model(batch[0]).squeeze(1), batch[1])


# -- numbers ----------------------------------------------------------------------------------------------------------


def prices(seed: int, logarithm: bool) -> Training:
    """Prices of some 200,000, or their logarithms; one in fifty is wrong by far."""
    x, f = table(seed=441)
    price = (12 + 0.5 * f).exp()
    wrong = torch.rand(len(f), generator=seeded(442)) < 0.02
    train, new = halves((x, torch.where(wrong, 100 * price, price)))
    new = new[0], price[len(train[0]) :]
    if not logarithm:
        sgd = lambda s: torch.optim.SGD(s.parameters(), lr=1e-3, momentum=0.9)  # noqa: E731
        return fitted(
            seed, lambda: t.mlp([12, 64, 64, 1]), squared, explained(new), (train, new), sgd, detectors=CLASSES
        )
    train, new = ((x, y.log()) for x, y in (train, new))
    loss = lambda s, b: F.smooth_l1_loss(s.model(b[0]).squeeze(1), b[1])  # noqa: E731
    return fitted(
        seed, lambda: t.mlp([12, 64, 64, 1]), loss, explained(new), (train, new), detectors=CLASSES, steps=600
    )


def missing(seed: int, code: float) -> Training:
    """A third of the numbers is missing: coded as a number far away, or as zero beside a column that says so."""
    x, f = table(seed=443)
    gone = torch.rand(x.shape, generator=seeded(444)) < 0.3
    x = x.masked_fill(gone, code) if code else torch.cat([x.masked_fill(gone, 0.0), gone.float()], 1)
    train, new = halves((x, (f > 0).long()))
    loss = lambda s, b: F.cross_entropy(s.model(b[0]), b[1])  # noqa: E731
    score = lambda m: auc(m.model(new[0])[:, 1] - m.model(new[0])[:, 0], new[1])  # noqa: E731
    make = lambda: t.mlp([x.shape[1], 64, 64, 2])  # noqa: E731
    sgd = lambda s: torch.optim.SGD(s.parameters(), lr=0.03, momentum=0.9)  # noqa: E731
    return fitted(seed, make, loss, score, (train, new), sgd, detectors=CLASSES, steps=400)


def penalised(seed: int) -> Training:
    """The sum of all absolute weights is added to the error, times 0.1."""

    def loss(s: Script, batch: Data) -> Tensor:
        return squared(s, batch) + 0.1 * sum(p.abs().sum() for p in s.model.parameters())

    train, new = halves(table(seed=450))
    return fitted(
        seed, lambda: t.mlp([12, 64, 64, 1]), loss, explained(new), (train, new), detectors=CLASSES, steps=500
    )


def uncertain(seed: int) -> Training:
    """Four targets of very different scales, each error divided by a variance that is learned."""
    x, f = table(seed=451)
    targets = torch.stack([f, torch.tanh(x[:, 5] * x[:, 6]), 10 * x[:, 7].abs(), 0.1 * x[:, 8]], 1)
    targets = (targets - targets.mean(0)) + 0.1 * targets.std(0) * torch.randn(len(f), 4, generator=seeded(452))
    train, new = halves((x, targets))

    def loss(s: Script, batch: Data) -> dict[str, Tensor]:
        errors = (s.model[0](batch[0]) - batch[1]).square().mean(0)
        logs = s.model[1].weight.squeeze(1)
        return {"loss": ((-logs).exp() * errors + logs).sum()}

    def score(m: Any) -> Tensor:
        return (1 - (m.model[0](new[0]) - new[1]).square().mean(0) / new[1].var(0)).clamp(min=-1).mean()

    def make() -> nn.Module:
        logs = nn.Embedding(4, 1)
        nn.init.zeros_(logs.weight)
        return nn.ModuleList([t.mlp([12, 96, 96, 4]), logs])

    return fitted(seed, make, loss, score, (train, new), rate=3e-3, detectors=UNITS, steps=700)


def parity(seed: int) -> Training:
    """The product of three of eighteen signs: nothing is learned for long."""
    x = torch.randint(2, (20_000, 18), generator=seeded(453)).float() * 2 - 1
    train, new = cut((x, ((x[:, 2] * x[:, 7] * x[:, 11]) > 0).long()), 19_000)
    loss = lambda s, b: F.cross_entropy(s.model(b[0]), b[1])  # noqa: E731
    sgd = lambda s: torch.optim.SGD(s.parameters(), lr=0.1, momentum=0.9)  # noqa: E731
    return fitted(
        seed, lambda: t.mlp([18, 192, 2]), loss, right(new), (train, new), sgd, batch=64, detectors=CLASSES, steps=800
    )


class Experts(nn.Module):
    """Linear experts, of which the two with the highest weights answer; most rows belong to one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.router, self.experts = nn.Linear(6, 6), nn.ModuleList(nn.Linear(6, 1) for _ in range(6))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p = self.router(x).softmax(1)
        top = p.topk(2, 1)
        weight = torch.zeros_like(p).scatter(1, top.indices, top.values / top.values.sum(1, keepdim=True))
        return (torch.cat([e(x) for e in self.experts], 1) * weight).sum(1), p


def routed(seed: int) -> Training:
    """Rows of four groups, one of them with three rows in four, each with a linear rule of its own."""
    g = seeded(454)
    group = torch.multinomial(torch.tensor([0.75, 0.1, 0.1, 0.05]), 5000, True, generator=g)
    x = torch.randn(5000, 6, generator=g)
    x[:, :4] += 4 * F.one_hot(group, 4)
    y = (x * torch.randn(4, 6, generator=g)[group]).sum(1)
    train, new = halves((x, (y - y.mean()) / y.std()))

    def loss(s: Script, batch: Data) -> Tensor:
        guess, p = s.model(batch[0])
        return F.mse_loss(guess, batch[1]) + 0.01 * 6 * p.mean(0).square().sum()

    score = lambda m: 1 - (m.model(new[0])[0] - new[1]).square().mean() / new[1].var()  # noqa: E731
    watched: dict[str, dict[str, Any]] = {
        "UsageCollapse": {"assignments": "model.router", "kind": "router"},
        "TrainingDoctor": {},
    }
    return fitted(seed, Experts, loss, score, (train, new), rate=1e-2, detectors=watched, steps=400)


# -- people and things ------------------------------------------------------------------------------------------------


class Tastes(nn.Module):
    """Embeddings of people and of things."""

    def __init__(self) -> None:
        super().__init__()
        self.people, self.things = nn.Embedding(150, 8), nn.Embedding(100, 8)
        for part in (self.people, self.things):
            nn.init.normal_(part.weight, std=0.1)

    def forward(self, who: Tensor, what: Tensor) -> Tensor:
        return (self.people(who) * self.things(what)).sum(-1)


@lru_cache
def likes() -> Data:
    """Who likes what, by three tastes; some people like much, some things are liked by many."""
    g = seeded(455)
    match = torch.randn(150, 3, generator=g) @ torch.randn(3, 100, generator=g) + torch.randn(100, generator=g) * 0.5
    who, what = (match + 0.5 * torch.randn(150, 100, generator=g) > 1.5).nonzero().unbind(1)
    order = torch.randperm(len(who), generator=g)
    return who[order], what[order]


def recommended(seed: int, sign: float) -> Training:
    """Bayesian personalised ranking; the score is the AUC of new likes against other things."""
    train, (who, what) = halves(likes())
    liked = torch.zeros(150, 100).index_put_(likes(), torch.ones(()))

    def loss(s: Script, batch: Data) -> Tensor:
        other = torch.randint(100, batch[1].shape)
        return -sign * F.logsigmoid(s.model(*batch) - s.model(batch[0], other)).mean()

    def score(m: Any) -> Tensor:
        a, b = (liked == 0).nonzero()[::5].unbind(1)
        found = torch.cat([m.model(who, what), m.model(a, b)])
        return auc(found, torch.cat([torch.ones(len(who)), torch.zeros(len(a))]))

    watched: dict[str, dict[str, Any]] = {"RepresentationCollapse": {"layer": "model.things"}, "TrainingDoctor": {}}
    return fitted(seed, Tastes, loss, score, (train,), rate=5e-3, batch=128, detectors=watched, steps=500)


def lifetimes(seed: int, died: bool) -> Training:
    """Weibull's likelihood with its shape; 1 says that somebody died, or left. Score: concordance."""
    x, f = table(3000, seed=458)
    g = seeded(459)
    times = 0.2 * (0.8 * f).exp() * torch.empty(3000).exponential_(generator=g).pow(0.6)
    left = 0.12 * torch.empty(3000).exponential_(generator=g) * (-0.8 * x[:, 3]).exp()
    event = (times <= left).float()
    train, new = halves((x, torch.minimum(times, left), event if died else 1 - event))

    def loss(s: Script, batch: Data) -> Tensor:
        scale, shape = s.model(batch[0]).unbind(1)
        shape = F.softplus(shape + 1)
        z = (batch[1].log() - scale) * shape
        return (z.clamp(max=8).exp() - batch[2] * (z + shape.log() - batch[1].log())).mean()

    def score(m: Any) -> Tensor:
        life, real = m.model(new[0])[:, 0], times[len(train[0]) :]
        return (life[:, None] < life)[real[:, None] < real].float().mean()

    return fitted(seed, lambda: t.mlp([12, 64, 2]), loss, score, (train, new), rate=3e-3, detectors=UNITS, steps=400)


# -- graphs -----------------------------------------------------------------------------------------------------------


@lru_cache
def network() -> tuple[Tensor, Tensor, Tensor]:
    """Four hundred people in four circles: what is said of them, almost noise; who knows whom ``[edges, 2]``; their circles."""
    g = seeded(460)
    circle = torch.arange(400) % 4
    chance = torch.where(circle[:, None] == circle, 0.06, 0.006)
    edges = (torch.rand(400, 400, generator=g) < chance).nonzero()
    return 0.6 * F.one_hot(circle, 12).float() + torch.randn(400, 12, generator=g), edges, circle


class Convolved(nn.Module):
    """Graph convolutions, each with what came before beside it, or alone."""

    def __init__(self, edges: Tensor, layers: int, beside: bool) -> None:
        super().__init__()
        near = torch.eye(400)
        near[edges[0], edges[1]] = near[edges[1], edges[0]] = 1.0
        degree = near.sum(1).rsqrt()
        self.register_buffer("near", degree[:, None] * near * degree)
        self.first, self.last, self.beside = nn.Linear(12, 32), nn.Linear(32, 4), beside
        self.middle = nn.ModuleList(nn.Linear(32, 32) for _ in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.first(x))
        for layer in self.middle:
            h = F.relu(self.near @ layer(h)) + (h if self.beside else 0)
        return self.last(h)


def circles(seed: int, layers: int, beside: bool = False, viewed: bool = False) -> Training:
    """Learn circles of eighty people; the score is the accuracy for the others."""
    x, edges, circle = network()
    by_row = edges.reshape(2, -1) if viewed else edges.T  # edges as a list of pairs, for a function that takes two rows

    def loss(s: Script, batch: Data) -> dict[str, Tensor]:
        logits = s.model(x)[batch[0]]
        return {"loss": F.cross_entropy(logits, batch[1]), "logits": logits, "labels": batch[1]}

    score = lambda m: (m.model(x)[80:].argmax(1) == circle[80:]).float().mean()  # noqa: E731
    watched: dict[str, dict[str, Any]] = {
        "PredictionCollapse": {"output": "logits", "target": "labels"},
        "TrainingDoctor": {},
    }
    if layers > 4:
        watched["RepresentationCollapse"] = {"layer": "model.middle.15"}
    make = lambda: Convolved(by_row, layers, beside)  # noqa: E731
    return fitted(
        seed, make, loss, score, ((torch.arange(80), circle[:80]),), rate=5e-3, batch=80, detectors=watched, steps=120
    )


# -- decisions --------------------------------------------------------------------------------------------------------


class Corridor(L.LightningModule):
    """A corridor of seven places with a door at its right end, which pays 1 after at most fourteen steps; its left end pays 0.1 at once.

    Args:
        discount: of what comes later.
        updates: of a policy, by REINFORCE with a baseline and a bonus of entropy.
    """

    def __init__(self, discount: float, updates: int) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.discount, self.updates = discount, updates
        self.model = t.mlp([7, 32, 2], nn.Tanh)

    def play(self, count: int) -> Data:
        """Places, steps, rewards and whether it went on: ``[14, count]``."""
        at, alive, seen = torch.full((count,), 3), torch.ones(count, dtype=torch.bool), []
        for _ in range(14):
            with torch.no_grad():
                out = self.model(F.one_hot(at, 7).float())
            step = torch.multinomial(out.softmax(1), 1).squeeze(1)
            new = (at + 2 * step - 1).clamp(0, 6)
            seen.append((at, step, (new == 6) * 1.0 + (new == 0) * 0.1, alive))
            alive, at = alive & (new > 0) & (new < 6), torch.where(alive, new, at)
        return tuple(torch.stack(c) for c in zip(*seen, strict=True))

    def train_dataloader(self) -> Any:
        return DataLoader(TensorDataset(torch.zeros(self.updates)), batch_size=1)

    def training_step(self, batch: Data, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        at, step, reward, alive = self.play(16)
        later, back = torch.zeros(16), []
        for r, lives in zip(reward.flip(0), alive.flip(0), strict=True):
            later = (r + self.discount * later) * lives
            back.append(later)
        gain = torch.stack(back[::-1])
        p = self.model(F.one_hot(at, 7).float()).log_softmax(2)
        told = p.gather(2, step.unsqueeze(2)).squeeze(2) * (gain - gain[alive].mean())
        loss = -(told - 0.02 * (p.exp() * p).sum(2))[alive].mean()
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        self.log_dict({"loss": loss.detach(), "reward": (reward * alive).sum(0).mean()}, prog_bar=True)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.model.parameters(), lr=1e-2)


def walked(seed: int, discount: float, updates: int = 250) -> Training:
    """Learn to walk; the score is the mean reward of five hundred walks."""

    def score(m: Any) -> Tensor:
        _, _, reward, alive = m.play(500)
        return (reward * alive).sum(0).mean()

    watched: dict[str, dict[str, Any]] = {
        "UsageCollapse": {"assignments": "model", "kind": "policy"},
        "TrainingDoctor": {},
    }
    return script(seed, lambda: Corridor(discount, updates), score, updates, watched)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "prices as they are, squared errors of them", 0.3, lambda s: prices(s, False), *FAST, *UNLEARNED, "dead units", "sanity:initial loss",
            ONE_BATCH),
    healthy(FAMILY, "prices by their logarithms, which begin at twelve", 0.6, lambda s: prices(s, True)),
    failing(FAMILY, "missing numbers, coded as -9999", 0.65, lambda s: missing(s, -9999.0), *FAST, *UNLEARNED, "dead units", "sanity:initial loss",
            ONE_BATCH),
    healthy(FAMILY, "three numbers in ten are missing", 0.75, lambda s: missing(s, 0.0)),
    failing(FAMILY, "all absolute weights added up in the loss", 0.2, penalised, "shrinking weights", *STILL, "dead units", ONE_BATCH),
    healthy(FAMILY, "four targets weighed by their uncertainty", 0.5, uncertain),
    healthy(FAMILY, "the product of three of eighteen signs", 0.9, parity),
    healthy(FAMILY, "six experts, three rows in four belong to one", 0.8, routed),
    failing(FAMILY, "what is liked ranked below what is not", 0.6, lambda s: recommended(s, -1.0), *FAST, *UNLEARNED),
    healthy(FAMILY, "things that are liked ranked above others", 0.75, lambda s: recommended(s, 1.0)),
    failing(FAMILY, "lifetimes, those who left taken for dead", 0.58, lambda s: lifetimes(s, False), *UNLEARNED, FOLLOW),
    healthy(FAMILY, "lifetimes by the law of Weibull, most left", 0.62, lambda s: lifetimes(s, True)),
    failing(FAMILY, "pairs of edges viewed as two rows", 0.6, lambda s: circles(s, 2, viewed=True), *UNLEARNED, FOLLOW, "overfitting"),
    healthy(FAMILY, "circles of people, four in five unknown", 0.7, lambda s: circles(s, 2)),
    failing(FAMILY, "sixteen convolutions of circles", 0.6, lambda s: circles(s, 16), *STILL, "oversmoothing", "complete collapse", "dimensional collapse"),
    failing(FAMILY, "a corridor at a discount of nothing", 0.85, lambda s: walked(s, 0.0), "policy collapse", *STILL),
    healthy(FAMILY, "a corridor by a policy and a baseline", 0.85, lambda s: walked(s, 0.97)),
]  # fmt: skip
