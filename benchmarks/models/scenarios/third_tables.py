"""Public examples of ratings, patients, graphs, decisions and equations, told again in small: half fail, half are healthy look-alikes.

Written by somebody who has not seen the rules. The names were chosen so that all of them are in the develop half: these
scenarios are for development and verify nothing.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models import trainings as t
from benchmarks.models.retold import (
    COLLAPSE,
    DOCTOR,
    STILL,
    UNITS,
    Detectors,
    Example,
    embedding,
    predicting,
    probed,
    trained,
)
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, UNLEARNED, Data, cut

FAMILY = "third tables"


# -- Keras: collaborative filtering -----------------------------------------------------------------------------------


def stars(count: int, seed: int) -> Data:
    """Users, films and ratings from 1 to 5."""
    g, one = seeded(seed), seeded(541)
    users, films = torch.randn(300, 3, generator=one), torch.randn(150, 3, generator=one)
    like = 0.8 * torch.randn(150, generator=one)
    u, f = torch.randint(300, (count,), generator=g), torch.randint(150, (count,), generator=g)
    rating = 3 + 0.5 * (users[u] * films[f]).sum(1) + like[f] + 0.3 * torch.randn(count, generator=g)
    return u, f, rating.round().clamp(1, 5)


class Recommender(Example):
    """The product of two embeddings and two biases, behind a sigmoid; ratings are from 0 to 1, or as they are."""

    rate = 1e-2

    def __init__(self, scaled: bool) -> None:
        super().__init__()
        self.scaled = scaled
        self.users, self.films = nn.Embedding(300, 8), nn.Embedding(150, 8)
        self.user_bias, self.film_bias = nn.Embedding(300, 1), nn.Embedding(150, 1)
        for layer in (self.users, self.films, self.user_bias, self.film_bias):
            nn.init.normal_(layer.weight, std=0.1)
        self.match = nn.Sigmoid()

    def forward(self, u: Tensor, f: Tensor) -> Tensor:
        product = (self.users(u) * self.films(f)).sum(1)
        return self.match(product + self.user_bias(u).squeeze(1) + self.film_bias(f).squeeze(1))

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        u, f, rating = batch
        prediction, target = self(u, f), (rating - 1) / 4 if self.scaled else rating
        loss = F.mse_loss(prediction, target)
        self.log("mse", loss, prog_bar=True)
        return {"loss": loss, "prediction": prediction.detach(), "stars": target}


def rated(seed: int, scaled: bool) -> Training:
    """Train on ratings; the score is R squared of new ones, in stars."""
    u, f, rating = stars(2000, 542)

    def score(m: Any) -> Tensor:
        guess = m(u, f) * 4 + 1 if scaled else m(u, f)
        return 1 - (guess - rating).square().mean() / rating.var()

    watched = predicting("prediction", "stars", units=False)
    return trained(seed, lambda: Recommender(scaled).use(stars(12_000, 543), (), 128), score, watched, 450)


# -- Keras: node2vec, by word2vec's negative sampling -----------------------------------------------------------------


def walked(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Neighbours in walks on a graph of 150 nodes of 3 communities, ``[count, 2]``, and the communities."""
    g = seeded(seed)
    group = torch.arange(150) % 3
    chance = torch.where(group[:, None] == group, 0.2, 0.015)
    edges = (torch.rand(150, 150, generator=seeded(544)) < chance).triu(1).float()
    edges = edges + edges.T + torch.eye(150)
    first = torch.randint(150, (count,), generator=g)
    return torch.stack([first, edges[first].multinomial(1, generator=g).squeeze(1)], 1), group


class SkipGram(Example):
    """Neighbours should be alike and five random nodes not; or, as a minus is missing, these too."""

    rate = 2e-2

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = sign
        self.target, self.context = nn.Embedding(150, 16), nn.Embedding(150, 16)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        node, near = batch[0].unbind(1)
        center, others = self.target(node), self.context(torch.randint(150, (len(node), 5)))
        positive = F.logsigmoid((center * self.context(near)).sum(1))
        negative = F.logsigmoid(self.sign * (others @ center.unsqueeze(2)).squeeze(2)).sum(1)
        loss = -(positive + negative).mean()
        self.log("loss", loss)
        return loss


def nodes(seed: int, sign: float) -> Training:
    """Train embeddings; the score is the accuracy of a linear classifier of communities, learned from one node in four."""
    pairs, group = walked(60_000, 545)
    known = torch.arange(150) % 4 == 0
    score = lambda m: probed(  # noqa: E731
        m.target.weight[known], group[known], m.target.weight[~known], group[~known]
    )
    make = lambda: SkipGram(sign).use((pairs,), (), 256)  # noqa: E731
    return trained(seed, make, score, embedding("target", units=False), 400)


# -- DeepSurv ---------------------------------------------------------------------------------------------------------


class DeepSurv(Example):
    """Cox's partial likelihood of a batch; 1 is for those who died, or, as the column is that of the censored, for the others."""

    rate = 3e-3

    def __init__(self, censored: bool) -> None:
        super().__init__()
        self.censored = censored
        self.net = nn.Sequential(nn.Linear(12, 32), nn.SELU(), nn.Dropout(0.2), nn.Linear(32, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).squeeze(1)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        x, time, died = batch
        event = 1 - died if self.censored else died
        order = time.argsort(descending=True)
        hazard, event = self(x)[order], event[order]
        loss = -((hazard - hazard.logcumsumexp(0)) * event).sum() / event.sum().clamp(min=1)
        self.log("cox", loss, prog_bar=True)
        return loss


def patients(seed: int, censored: bool) -> Training:
    """Train on patients of whom half are censored; the score is the concordance of new ones."""
    g = seeded(546)
    x = torch.randn(3000, 12, generator=g)
    risk = x[:, 0] + 0.8 * x[:, 1] * x[:, 2] - 0.6 * x[:, 3]
    life, watch = (-torch.rand(3000, generator=g).log() / r for r in (risk.exp(), torch.ones(3000)))
    train, (a, time, died) = cut((x, torch.minimum(life, watch), (life < watch).float()), 2500)

    def score(m: Any) -> Tensor:
        first = (time[:, None] < time) & (died[:, None] > 0)
        return ((m(a)[:, None] > m(a)) & first).sum() / first.sum()

    return trained(seed, lambda: DeepSurv(censored).use(train, (), 64), score, DOCTOR, 300)


# -- Keras: graph attention -------------------------------------------------------------------------------------------


class Attention(nn.Module):
    """One head over the nodes that a mask allows."""

    def __init__(self, inputs: int, outputs: int, allowed: Tensor) -> None:
        super().__init__()
        self.kernel, self.one, self.two = (
            nn.Linear(inputs, outputs, bias=False),
            nn.Linear(outputs, 1),
            nn.Linear(outputs, 1),
        )
        self.register_buffer("allowed", allowed)

    def forward(self, x: Tensor) -> Tensor:
        h = self.kernel(x)
        scores = F.leaky_relu(self.one(h) + self.two(h).T, 0.2)
        return scores.masked_fill(~self.allowed, -1e9).softmax(1) @ h


class GAT(Example):
    """Two layers over a graph, all of it in each batch; nodes attend to their neighbours, or to all others."""

    rate = 1e-2

    def __init__(self, allowed: Tensor) -> None:
        super().__init__()
        self.first, self.second = Attention(24, 32, allowed), Attention(32, 5, allowed)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.elu(self.first(x)))

    def training_step(self, batch: Data, batch_idx: int) -> dict[str, Tensor]:
        x, y, known = (d[0] for d in batch)
        logits = self(x)[known]
        return {"loss": F.cross_entropy(logits, y[known]), "logits": logits, "labels": y[known]}


def papers(seed: int, inverted: bool) -> Training:
    """Train on papers that cite each other; the score is the accuracy of those without a known subject."""
    g, y = seeded(547), torch.arange(300) % 5
    chance = torch.where(y[:, None] == y, 0.10, 0.01)
    edges = (torch.rand(300, 300, generator=g) < chance).triu(1)
    edges = edges | edges.T | torch.eye(300, dtype=torch.bool)
    x = F.pad(F.one_hot(y, 5).float(), (0, 19)) + 0.9 * torch.randn(300, 24, generator=g)
    known = torch.rand(300, generator=g) < 0.3
    score = lambda m: (m(x).argmax(1) == y)[~known].float().mean()  # noqa: E731
    make = lambda: GAT(~edges if inverted else edges).use((x[None], y[None], known[None]), (), 1)  # noqa: E731
    return trained(seed, make, score, predicting("logits", "labels", units=False), 200)


# -- CleanRL: DQN and A2C ---------------------------------------------------------------------------------------------

SIZE, GOAL = 6, 35  # a field of 6x6 with its goal in a corner
MOVES = torch.tensor([[-1, 0], [1, 0], [0, -1], [0, 1]])


def moved(place: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return places after a move, rewards (1 at the goal, -0.02 else) and who is done; walls stop a move."""
    row, column = (torch.stack([place // SIZE, place % SIZE], 1) + MOVES[action]).clamp(0, SIZE - 1).unbind(1)
    after = row * SIZE + column
    done = (after == GOAL).float()
    return after, torch.where(done > 0, 1.0, -0.02), done


def arrived(choose: Any) -> Tensor:
    """Share of all places from which the goal is reached in fourteen moves."""
    place = torch.arange(SIZE * SIZE - 1)
    there = torch.zeros(len(place), dtype=torch.bool)
    for _ in range(14):
        place = moved(place, choose(seen(place)))[0]
        there |= place == GOAL
        place = torch.where(there, GOAL, place)
    return there.float().mean()


def seen(place: Tensor) -> Tensor:
    """What is seen of a place: its row and column, one-hot."""
    return torch.cat([F.one_hot(place // SIZE, SIZE), F.one_hot(place % SIZE, SIZE)], 1).float()


class DQN(Example):
    """Sixteen fields at once, a buffer, and a target network that is copied each 25 updates, or never."""

    rate = 2e-3

    def __init__(self, copied: bool) -> None:
        super().__init__()
        self.copied = copied
        self.q_network, self.target_network = t.mlp([12, 64, 4]), t.mlp([12, 64, 4]).requires_grad_(False)
        self.buffer: list[tuple[Tensor, ...]] = []
        self.place = torch.randint(GOAL, (16,))

    def explore(self) -> None:
        """Take a step in each field; one in three at random."""
        with torch.no_grad():
            best = self.q_network(seen(self.place)).argmax(1)
        action = torch.where(torch.rand(16) < 0.35, torch.randint(4, (16,)), best)
        after, reward, done = moved(self.place, action)
        self.buffer = [*self.buffer[-400:], (self.place, action, after, reward, done)]
        fresh = (done > 0) | (torch.rand(16) < 0.03)
        self.place = torch.where(fresh, torch.randint(GOAL, (16,)), after)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        self.explore()
        if self.copied and batch_idx % 25 == 0:
            self.target_network.load_state_dict(self.q_network.state_dict())
        rows = [self.buffer[k] for k in torch.randint(len(self.buffer), (8,)).tolist()]
        place, action, after, reward, done = (torch.cat(d) for d in zip(*rows, strict=True))
        with torch.no_grad():
            target = reward + 0.95 * self.target_network(seen(after)).amax(1) * (1 - done)
        values = self.q_network(seen(place)).gather(1, action.unsqueeze(1)).squeeze(1)
        loss = F.mse_loss(values, target)
        self.log_dict({"td_loss": loss, "q_values": values.mean()})
        return loss


class A2C(Example):
    """Sixteen fields, eight steps at a time; the policy is made likelier where the advantage is positive, or where it is negative."""

    rate = 3e-3

    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = sign
        self.actor, self.critic = t.mlp([12, 64, 4], nn.Tanh), t.mlp([12, 64, 1], nn.Tanh)
        self.place = torch.randint(GOAL, (16,))

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        steps = []
        for _ in range(8):
            observed = seen(self.place)
            with torch.no_grad():
                action = torch.distributions.Categorical(logits=self.actor(observed)).sample()
            after, reward, done = moved(self.place, action)
            steps.append((observed, action, reward, done))
            fresh = (done > 0) | (torch.rand(16) < 0.03)
            self.place = torch.where(fresh, torch.randint(GOAL, (16,)), after)
        with torch.no_grad():
            value, returns = self.critic(seen(self.place)).squeeze(1), []
            for _, _, reward, done in reversed(steps):
                value = reward + 0.95 * value * (1 - done)
                returns.insert(0, value)
        observed, action = (torch.cat([s[k] for s in steps]) for k in (0, 1))
        policy = torch.distributions.Categorical(logits=self.actor(observed))
        advantage = torch.cat(returns) - self.critic(observed).squeeze(1)
        policy_loss = self.sign * (policy.log_prob(action) * advantage.detach()).mean()
        loss = policy_loss + 0.5 * advantage.square().mean() - 0.005 * policy.entropy().mean()
        self.log_dict({"policy_loss": policy_loss, "reward": torch.cat([s[2] for s in steps]).mean()}, prog_bar=True)
        return loss


def played(seed: int, make: Any, choose: Any, watched: Detectors, steps: int) -> Training:
    """Play; the score is the share of places from which the goal is reached soon."""
    empty = (torch.zeros(steps, 1),)
    return trained(seed, lambda: make().use(empty, (), 1), lambda m: arrived(lambda x: choose(m, x)), watched, steps)


def deep_q(seed: int, copied: bool) -> Training:
    """Train DQN; it plays what it values most."""
    return played(seed, lambda: DQN(copied), lambda m, x: m.q_network(x).argmax(1), UNITS, 700)


def actor_critic(seed: int, sign: float) -> Training:
    """Train A2C; it plays the likeliest action."""
    watched: Detectors = {"UsageCollapse": {"assignments": "actor", "kind": "policy"}, **UNITS}
    return played(seed, lambda: A2C(sign), lambda m, x: m.actor(x).argmax(1), watched, 300)


# -- two tasks --------------------------------------------------------------------------------------------------------


class Shared(Example):
    """A body with two heads, and the sum of their errors."""

    rate = 5e-3

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(10, 96), nn.ReLU())
        self.age, self.income = nn.Linear(96, 1), nn.Linear(96, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        h = self.body(x)
        return self.age(h).squeeze(1), self.income(h).squeeze(1)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        age, income = self(batch[0])
        losses = F.mse_loss(age, batch[1]), F.mse_loss(income, batch[2])
        self.log_dict({"loss_age": losses[0], "loss_income": losses[1]})
        return losses[0] + losses[1]


def two_tasks(seed: int, unit: float) -> Training:
    """Train on ages, standardised, and incomes in some unit; the score is the lower R squared of the two."""
    g = seeded(548)
    x = torch.randn(3000, 10, generator=g)
    age = torch.sin(2 * x[:, 0]) + 0.6 * x[:, 1] + 0.3 * torch.randn(3000, generator=g)
    income = unit * (x[:, 2] * x[:, 3] + x[:, 4] + 0.3 * torch.randn(3000, generator=g))
    train, new = cut((x, age, income), 2500)

    def score(m: Any) -> Tensor:
        found = [1 - (a - b).square().mean() / b.var() for a, b in zip(m(new[0]), new[1:], strict=True)]
        return torch.stack(found).amin()

    return trained(seed, lambda: Shared().use(train, (), 64), score, UNITS, 500)


# -- NeRF in two dimensions -------------------------------------------------------------------------------------------


class Coordinates(Example):
    """Colours of places, through sines and cosines of 1, 2, 4 and 8 times pi."""

    rate = 3e-3

    def __init__(self) -> None:
        super().__init__()
        self.mlp = t.mlp([16, 64, 64, 1])

    def forward(self, x: Tensor) -> Tensor:
        phase = (x.unsqueeze(2) * math.pi * torch.tensor([1.0, 2.0, 4.0, 8.0])).flatten(1)
        return self.mlp(torch.cat([phase.sin(), phase.cos()], 1)).squeeze(1)

    def training_step(self, batch: Data, batch_idx: int) -> Tensor:
        loss = F.mse_loss(self(batch[0]), batch[1])
        self.log("psnr", -10 * loss.log10(), prog_bar=True)
        return loss


def painted(seed: int, scale: float) -> Training:
    """Train on four pixels of five of a picture; places are from 0 to 1, or numbers of pixels; the score is R squared of the others."""
    g = seeded(549)
    place = torch.stack(torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij"), 2).view(-1, 2)
    middles, widths = 64 * torch.rand(14, 2, generator=g), 3 + 9 * torch.rand(14, generator=g)
    colour = (torch.randn(14, generator=g) * (-(torch.cdist(place, middles) / widths).square()).exp()).sum(1)
    order = torch.randperm(4096, generator=g)
    train, new = cut((scale * place[order], colour[order] / colour.std()), 3277)
    score = lambda m: 1 - (m(new[0]) - new[1]).square().mean() / new[1].var()  # noqa: E731
    return trained(seed, lambda: Coordinates().use(train, (), 128), score, predicting("mlp"), 400)


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "one to five stars behind a sigmoid", 0.2, lambda s: rated(s, False), *UNLEARNED, *STILL, "saturated units", ONE_BATCH, FOLLOW),
    healthy(FAMILY, "ratings scaled for their sigmoid", 0.3, lambda s: rated(s, True)),
    failing(FAMILY, "walks on a graph, all nodes are pulled", 0.6, lambda s: nodes(s, 1.0), *COLLAPSE, *UNLEARNED),
    healthy(FAMILY, "walks on a graph, random nodes are pushed", 0.8, lambda s: nodes(s, -1.0)),
    failing(FAMILY, "DeepSurv, the column of the censored", 0.58, lambda s: patients(s, True), *UNLEARNED, FOLLOW, ONE_BATCH, "overfitting"),
    healthy(FAMILY, "DeepSurv, half are censored", 0.65, lambda s: patients(s, False)),
    failing(FAMILY, "papers attend to those they do not cite", 0.5, lambda s: papers(s, True), *UNLEARNED, "overfitting", "oversmoothing", ONE_BATCH),
    healthy(FAMILY, "papers with attention to citations", 0.5, lambda s: papers(s, False)),
    failing(FAMILY, "DQN, a target that is never copied", 0.5, lambda s: deep_q(s, False), *UNLEARNED),
    healthy(FAMILY, "DQN, its target is copied", 0.75, lambda s: deep_q(s, True)),
    failing(FAMILY, "A2C, the sign of its policy loss", 0.4, lambda s: actor_critic(s, 1.0), "policy collapse", *FAST),
    healthy(FAMILY, "A2C finds a corner", 0.75, lambda s: actor_critic(s, -1.0)),
    failing(FAMILY, "ages in years, incomes in cents", 0.35, lambda s: two_tasks(s, 3e4), *UNLEARNED, *FAST, "sanity:initial loss", ONE_BATCH),
    healthy(FAMILY, "ages and incomes, standardised", 0.35, lambda s: two_tasks(s, 1.0)),
    failing(FAMILY, "a picture whose places are numbers of pixels", 0.4, lambda s: painted(s, 1.0), *UNLEARNED, "sanity:inputs matter", ONE_BATCH),
    healthy(FAMILY, "a picture, places are from 0 to 1", 0.7, lambda s: painted(s, 1 / 64)),
]  # fmt: skip
