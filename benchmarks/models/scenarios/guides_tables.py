"""Recommendations, graphs, equations and tables of tutorials, and what goes wrong when a reader adapts them.

Rewritten in small form from documented examples of libraries and courses; nothing is copied. The comment above each scenario
says what kind of example it is from and, for a failing one, which mistake was made. The names were chosen so that all of
them are in the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

import math
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import (
    CLASSES,
    DOCTOR,
    PLAIN,
    Script,
    adam,
    auc,
    explained,
    fitted,
    halves,
    script,
    seeded,
    sgd,
    table,
)
from benchmarks.models.trainings import Training, mlp

FAMILY = "guides tables"
UNRELATED = ("labels do not follow from inputs", "prediction collapse", "inputs ignored")
FAST = ("divergence", "learning rate too high", "non-finite values", "loss spikes", "dead units")
FOLLOW, ONE_BATCH = "sanity:labels follow from inputs", "sanity:overfits one batch"


# -- users, films and facts -------------------------------------------------------------------------------------------


class Ranking(L.LightningModule):
    """Users and films as vectors, ranked by pairs: a film that was seen before one that was not.

    Args:
        seen: whether the other film is drawn from those that the user saw too.
    """

    def __init__(self, seen: bool) -> None:
        super().__init__()
        g = seeded(81)
        taste, kind = torch.randn(120, 4, generator=g), torch.randn(90, 4, generator=g)
        self.likes = (taste @ kind.T + torch.randn(120, 90, generator=g) > 1.5).float()
        held = torch.rand(120, 90, generator=g) < 0.2
        self.train_likes, self.held = self.likes * ~held, held
        self.users, self.films, self.seen = nn.Embedding(120, 16), nn.Embedding(90, 16), seen
        for part in (self.users, self.films):
            nn.init.normal_(part.weight, std=0.1)

    def forward(self, user: Tensor, film: Tensor) -> Tensor:
        return (self.users(user) * self.films(film)).sum(-1)

    def train_dataloader(self) -> Any:
        pairs = self.train_likes.nonzero()
        return DataLoader(TensorDataset(pairs[:, 0], pairs[:, 1]), 64, shuffle=True)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        user, film = batch
        pool = self.train_likes[user] if self.seen else 1 - self.train_likes[user]
        other = torch.multinomial(pool, 1).squeeze(1)
        return {"loss": -F.logsigmoid(self(user, film) - self(user, other)).mean()}

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=5e-3, weight_decay=1e-4)

    def score(self) -> Tensor:
        """Chance that a held-out film that is liked is ranked before one that is not, over users."""
        scores = self.users.weight @ self.films.weight.T
        found = [auc(scores[u][self.held[u]], self.likes[u][self.held[u]]) for u in range(120)]
        return torch.stack([f for f in found if not f.isnan()]).mean()


def ranked(seed: int, seen: bool = False) -> Training:
    """Train with Bayesian personalised ranking."""
    return script(seed, lambda: Ranking(seen), lambda m: m.score(), 500, DOCTOR)


class Translations(nn.Module):
    """Things as points and relations as steps between them; a triple is as wrong as its distance."""

    def __init__(self) -> None:
        super().__init__()
        self.things, self.steps = nn.Embedding(100, 16), nn.Embedding(4, 16)
        for part in (self.things, self.steps):
            nn.init.uniform_(part.weight, -6 / 4, 6 / 4)

    def forward(self, triple: Tensor) -> Tensor:
        head, relation, tail = triple.unbind(-1)
        things = F.normalize(self.things.weight)
        return (things[head] + self.steps(relation) - things[tail]).norm(dim=-1)


def grid_facts() -> tuple[tuple[Tensor], tuple[Tensor]]:
    """Which of the hundred places of a grid is right of, left of, below or above which."""
    place = torch.arange(100).view(10, 10)
    pairs = [
        (place[:, :-1], place[:, 1:]),
        (place[:, 1:], place[:, :-1]),
        (place[:-1], place[1:]),
        (place[1:], place[:-1]),
    ]
    facts = torch.cat(
        [torch.stack([a.flatten(), torch.full((90,), r), b.flatten()], 1) for r, (a, b) in enumerate(pairs)]
    )
    facts = facts[torch.randperm(360, generator=seeded(82))]
    return (facts[:300],), (facts[300:],)


FACTS = grid_facts()


def margin_ranking(copied: bool) -> Any:
    """True triples have to be nearer by a margin than corrupted ones; option: whether a copy is corrupted."""

    def loss(s: Script, batch: Any) -> Tensor:
        true = batch[0]
        false = true.clone() if copied else true
        end = 2 * torch.randint(2, (len(true),))
        false[torch.arange(len(true)), end] = torch.randint(100, (len(true),))
        return F.margin_ranking_loss(s.model(false), s.model(true), torch.ones(len(true)), margin=1.0)

    return loss


def hits(s: Any) -> Tensor:
    """Share of held-out facts whose true tail is among the ten nearest of a hundred."""
    facts = FACTS[1][0]
    every = facts[:, None].repeat(1, 100, 1)
    every[..., 2] = torch.arange(100)
    distance = s.model(every)
    true = distance.gather(1, facts[:, 2:])
    return ((distance < true).sum(1) < 10).float().mean()


# -- equations of motion ----------------------------------------------------------------------------------------------


MOTION = torch.tensor([[-0.1, 2.0], [-2.0, -0.1]])


def field(x: Tensor) -> Tensor:
    """The true velocity: a spiral of cubes."""
    return x.pow(3) @ MOTION


def moved(velocity: Any, x: Tensor, step: float, count: int) -> Tensor:
    """Follow a velocity by the classical method of fourth order; return the states ``[count, n, 2]``."""
    states = []
    for _ in range(count):
        a = velocity(x)
        b = velocity(x + step / 2 * a)
        c = velocity(x + step / 2 * b)
        x = x + step / 6 * (a + 2 * b + 2 * c + velocity(x + step * c))
        states.append(x)
    return torch.stack(states)


def spirals(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Starts, and where they are after 1 to 8 steps of 0.08."""
    x = 1.5 * torch.rand(count, 2, generator=seeded(seed)) + 0.5
    x = x * (2 * torch.randint(2, (count, 2), generator=seeded(seed + 1)) - 1)
    return x, moved(field, x, 0.02, 32)[3::4].transpose(0, 1)


SPIRALS = spirals(1500, 83), spirals(200, 85)


class Velocity(nn.Module):
    """A network of the cubes of a state, as in the example."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 2))
        for layer in (self.net[0], self.net[2]):
            nn.init.normal_(layer.weight, std=0.1)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.pow(3))


def ode(seed: int, unit: float) -> Training:
    """Fit trajectories; ``unit`` seconds are one step."""
    loss = lambda s, b: (moved(s.model, b[0], unit, 8).transpose(0, 1) - b[1]).abs().mean()  # noqa: E731

    def score(s: Any) -> Tensor:
        x, y = SPIRALS[1]
        error = (moved(s.model, x, unit, 8).transpose(0, 1) - y).square().mean()
        return torch.nan_to_num(1 - error / (x[:, None] - y).square().mean(), nan=-1e6)

    return fitted(seed, Velocity, loss, score, SPIRALS, adam(1e-2), steps=300, detectors=DOCTOR)


# -- sets and graphs --------------------------------------------------------------------------------------------------


def sets(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Two to six images of digits, the rest of six places empty, and the sum of the digits over 10."""
    images, labels = t.digits()
    first, last = (0, 1400) if seed == 86 else (1400, 1797)
    which = torch.randint(first, last, (count, 6), generator=seeded(seed))
    there = torch.arange(6) < torch.randint(2, 7, (count, 1), generator=seeded(seed + 1))
    return images[which] * there.unsqueeze(-1), (labels[which] * there).sum(1) / 10.0


class Sums(nn.Module):
    """The same network for each member, a sum, and another network."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.all = mlp([64, 64, 32]), mlp([32, 32, 1])

    def forward(self, x: Tensor) -> Tensor:
        there = (x.abs().sum(-1, keepdim=True) > 0).float()
        return self.all((self.each(x) * there).sum(1)).squeeze(1)


def counted(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Random graphs of twelve nodes, sparse, middling or dense, and which."""
    g = seeded(seed)
    y = torch.randint(3, (count,), generator=g)
    drawn = torch.rand(count, 12, 12, generator=g).triu(1)
    drawn = drawn + drawn.transpose(1, 2) + 2 * torch.eye(12)
    return (drawn < torch.tensor([0.2, 0.35, 0.5])[y][:, None, None]).float(), y


GRAPHS = counted(1500, 91), counted(300, 92)


class Isomorphism(nn.Module):
    """Two layers over nodes that start as ones; option: means over neighbours and over nodes, for sums."""

    def __init__(self, mean: bool) -> None:
        super().__init__()
        layer = lambda a: nn.Sequential(nn.Linear(a, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU())  # noqa: E731
        self.first, self.second, self.out, self.mean = layer(1), layer(32), nn.Linear(32, 3), mean

    def forward(self, adjacency: Tensor) -> Tensor:
        h = torch.ones(*adjacency.shape[:2], 1)
        if self.mean:
            # each node is its own neighbour, so that no mean is over nothing
            adjacency = adjacency + torch.eye(12)
            adjacency = adjacency / adjacency.sum(-1, keepdim=True)
        else:
            adjacency = adjacency + torch.eye(12)
        for layer in (self.first, self.second):
            h = layer(adjacency @ h)
        return self.out(h.mean(1) if self.mean else h.sum(1) / 12)


def crossed(s: Script, batch: Any) -> Tensor:
    """Cross entropy of logits."""
    return F.cross_entropy(s.model(batch[0]), batch[1])


def gin(seed: int, mean: bool) -> Training:
    """Tell graphs apart by how dense they are."""
    score = lambda s: (s.model(GRAPHS[1][0]).argmax(1) == GRAPHS[1][1]).float().mean()  # noqa: E731
    return fitted(seed, lambda: Isomorphism(mean), crossed, score, GRAPHS, adam(3e-3), detectors=CLASSES)


# -- tables -----------------------------------------------------------------------------------------------------------


def mixed(fresh: bool) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Two categories of 30, four numbers and what follows from them; option: other codes for the test rows."""
    g = seeded(93)
    shop, kind, x = (
        torch.randint(30, (4000,), generator=g),
        torch.randint(30, (4000,), generator=g),
        torch.randn(4000, 4, generator=g),
    )
    of_shop, of_kind = torch.randn(30, generator=g), torch.randn(30, generator=g)
    y = of_shop[shop] + of_kind[kind] * x[:, 0].tanh() + 0.3 * x[:, 1] + 0.3 * torch.randn(4000, generator=g)
    codes = torch.stack([shop, kind], 1)
    train, test = halves((codes, x, (y - y.mean()) / y.std()))
    if fresh:
        other = torch.stack([torch.randperm(30, generator=g)[test[0][:, i]] for i in range(2)], 1)
        test = (other, *test[1:])
    return train, test


class Tabular(nn.Module):
    """Embeddings of categories beside normalised numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.ModuleList(nn.Embedding(30, 8) for _ in range(2))
        self.norm, self.net = nn.BatchNorm1d(4), mlp([20, 64, 32, 1], norm=True)

    def forward(self, codes: Tensor, x: Tensor) -> Tensor:
        parts = [e(codes[:, i]) for i, e in enumerate(self.embed)]
        return self.net(torch.cat([*parts, self.norm(x)], 1)).squeeze(1)


def tabular(seed: int, fresh: bool) -> Training:
    """Train on categories and numbers."""
    data = mixed(fresh)
    score = lambda s: 1 - (s.model(*data[1][:2]) - data[1][2]).square().mean() / data[1][2].var()  # noqa: E731
    loss = lambda s, b: F.mse_loss(s.model(b[0], b[1]), b[2])  # noqa: E731
    return fitted(seed, Tabular, loss, score, data, adam(5e-3), steps=400, batch=64, detectors=PLAIN)


def swapped_statistics(seed: int) -> Training:
    """Rows whose standardisation got its two numbers in the wrong order."""
    (x, y), (held, labels) = halves(table())
    mean, std = x.mean(0), x.std(0)
    prepare = lambda rows: (rows - std) / mean  # noqa: E731
    data = (prepare(x), y), (prepare(held), labels)
    loss = lambda s, b: F.mse_loss(s.model(b[0]).squeeze(1), b[1])  # noqa: E731
    return fitted(
        seed,
        lambda: mlp([12, 64, 64, 1]),
        loss,
        explained(data[1]),
        data,
        sgd(0.01),
        detectors={**PLAIN, "DeadUnits": {}},
    )


def inverse(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """A number, and one of the several from which it came: the inverse of a sine on a slope."""
    y = torch.rand(count, 1, generator=seeded(seed)) * 2 - 1
    x = y + 0.6 * torch.sin(2 * math.pi * y) + 0.05 * torch.randn(count, 1, generator=seeded(seed + 1))
    return x, y


INVERSE = inverse(4000, 94), inverse(500, 96)


def mixture(axis: int) -> Any:
    """Negative log-likelihood of a mixture of five normal distributions; option: the axis over which they are mixed."""

    def loss(s: Script, batch: Any) -> Tensor:
        x, y = batch
        weight, mean, spread = s.model(x).chunk(3, 1)
        each = torch.distributions.Normal(mean, spread.clamp(-5, 5).exp()).log_prob(y)
        return -torch.logsumexp(weight.log_softmax(1) + each, axis).mean()

    return loss


def mean_likelihood(s: Any) -> Tensor:
    """Mean log-likelihood of test values."""
    return -mixture(1)(s, INVERSE[1])


class Distributed(nn.Module):
    """A linear layer whose weights are normal distributions."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__()
        self.mean, self.rho = nn.Parameter(torch.randn(b, a) / a**0.5), nn.Parameter(torch.full((b, a), -4.0))
        self.bias = nn.Parameter(torch.zeros(b))

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn_like(self.mean) if self.training else 0.0
        return F.linear(x, self.mean + F.softplus(self.rho) * noise, self.bias)

    def divergence(self) -> Tensor:
        """KL divergence from a normal distribution with a standard deviation of 1."""
        std = F.softplus(self.rho)
        return 0.5 * (std.square() + self.mean.square() - 1 - 2 * std.log()).sum()


def bayesian(seed: int, share: float) -> Training:
    """Weights with distributions; ``share``: the part of the whole divergence that is added to a mean error."""
    data = halves(table())

    def loss(s: Script, batch: Any) -> Tensor:
        error = F.mse_loss(s.model(batch[0]).squeeze(1), batch[1])
        return (
            error + share * sum(m.divergence() for m in s.model if isinstance(m, Distributed)) if s.training else error
        )

    model = lambda: nn.Sequential(Distributed(12, 48), nn.ReLU(), Distributed(48, 1))  # noqa: E731
    return fitted(
        seed, model, loss, explained(data[1]), data, adam(5e-3, weight_decay=0.0), steps=500, batch=64, detectors=PLAIN
    )


def ordinal(s: Script, batch: Any) -> Tensor:
    """Is it more than one, two, three, four stars: four logits from one number and four thresholds."""
    levels = (batch[1][:, None] > torch.arange(4)).float()
    return F.binary_cross_entropy_with_logits(s.model(batch[0]) + s.thresholds, levels)


def stars() -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Rows, and none to four stars by how large their target is."""
    x, y = table()
    noise = 0.3 * torch.randn(len(y), generator=seeded(99))
    return halves((x, torch.bucketize(y + noise, torch.tensor([-1.2, -0.4, 0.4, 1.2]))))


STARS = stars()


def agreement(s: Any) -> Tensor:
    """Rank correlation, as a share of concordant pairs, of the score and the stars."""
    guess, y = s.model(STARS[1][0]).squeeze(1), STARS[1][1]
    differ = y[:, None] > y
    return (guess[:, None] > guess)[differ].float().mean()


SCENARIOS: list[Scenario] = [
    # library for recommendations: Bayesian personalised ranking
    healthy(FAMILY, "films ranked for each user, BPR", 0.75, ranked),
    # the same with a sampler that got the list of films seen, not the list of the others
    failing(FAMILY, "BPR, negatives from the films that were seen", 0.65, lambda s: ranked(s, True), *UNRELATED, FOLLOW, ONE_BATCH),
    # library for knowledge graphs: TransE
    healthy(FAMILY, "TransE on a grid", 0.6, lambda s: fitted(s, Translations, margin_ranking(True), hits, FACTS, adam(1e-2), steps=600,
                                                              detectors=DOCTOR)),
    # the same: clone() is missing, so that the true triples are corrupted with them; the loss is the margin
    failing(FAMILY, "TransE, corrupted triples that are the true ones", 0.4, lambda s: fitted(
        s, Translations, margin_ranking(False), hits, FACTS, adam(1e-2), detectors=DOCTOR), "no gradients", "vanishing gradients",
        "weights do not change", *UNRELATED, "sanity:all parameters learn", "sanity:inputs matter", ONE_BATCH),
    # example of a library for differential equations: a spiral
    healthy(FAMILY, "a neural ODE on a spiral", 0.8, lambda s: ode(s, 0.08)),
    # the same with the times of a table in hundredths of a second
    failing(FAMILY, "a neural ODE, times in other units", 0.5, lambda s: ode(s, 8.0), *FAST, "vanishing gradients", *UNRELATED,
            ONE_BATCH, "sanity:initial loss"),
    # paper code on sets: digits are added
    healthy(FAMILY, "a set network adds digits", 0.8, lambda s: fitted(
        s, Sums, lambda m, b: F.l1_loss(m.model(b[0]), b[1]), explained(sets(400, 88)), (sets(3000, 86), sets(400, 88)), adam(2e-3),
        steps=400, detectors=PLAIN)),
    # tutorial of a graph library: sums over neighbours, for graphs without features
    healthy(FAMILY, "graphs told apart by sums over neighbours", 0.75, lambda s: gin(s, False)),
    # the same with aggr="mean": all nodes stay alike
    failing(FAMILY, "means over neighbours that are all 1", 0.6, lambda s: gin(s, True), *UNRELATED, "sanity:inputs matter", FOLLOW, ONE_BATCH),
    # lesson on tables: embeddings of categories, normalised numbers
    healthy(FAMILY, "a table with categories", 0.8, lambda s: tabular(s, False)),
    # the same: the encoder of categories is fitted again to the validation rows
    failing(FAMILY, "categories numbered apart for training and test", 0.4, lambda s: tabular(s, True), "overfitting", "evaluation differs"),
    # documentation of transforms.Normalize(mean, std), called with (std, mean)
    failing(FAMILY, "mean and deviation swapped", 0.5, swapped_statistics, *FAST, *UNRELATED, "sanity:initial loss", ONE_BATCH),
    # tutorial on mixture density networks: the inverse of a curve
    healthy(FAMILY, "an inverse problem by a mixture density network", 0.3, lambda s: fitted(
        s, lambda: mlp([1, 32, 32, 15], act=nn.Tanh), mixture(1), mean_likelihood, INVERSE, adam(5e-3), steps=500, batch=64, detectors=DOCTOR)),
    # the same with logsumexp over the batch, not over the five distributions
    failing(FAMILY, "a mixture density network that mixes the batch", 0.3, lambda s: fitted(
        s, lambda: mlp([1, 32, 32, 15], act=nn.Tanh), mixture(0), mean_likelihood, INVERSE, adam(5e-3), steps=500, batch=64, detectors=DOCTOR),
        *UNRELATED, "divergence", ONE_BATCH),
    # library for Bayesian networks: the divergence is divided by the number of samples
    healthy(FAMILY, "weights with distributions, KL shared by batches", 0.6, lambda s: bayesian(s, 1 / 3200)),
    # the same: all of the divergence is added to the mean error of each batch
    failing(FAMILY, "weights with distributions, KL in full for each batch", 0.5, lambda s: bayesian(s, 1.0), *UNRELATED, "shrinking weights",
            "posterior collapse"),
    # library for ordinal regression: one number and four thresholds
    healthy(FAMILY, "stars from one to five by thresholds", 0.8, lambda s: fitted(
        s, lambda: mlp([12, 48, 48, 1]), ordinal, agreement, STARS, adam(3e-3), thresholds=nn.Parameter(torch.tensor([1.0, 0.3, -0.3, -1.0])),
        steps=400, detectors=DOCTOR)),
]  # fmt: skip
