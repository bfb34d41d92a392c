"""Policies, preferences and few examples: what tutorials on decisions train, and what goes wrong when a reader adapts them.

Rewritten in small form from documented examples of libraries and courses; nothing is copied. The comment above each scenario
says what kind of example it is from and, for a failing one, which mistake was made. The names were chosen so that all of
them are in the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

import copy
import math
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import DOCTOR, script, seeded
from benchmarks.models.trainings import Batches, Training, loader, mlp

FAMILY = "guides decisions"
UNRELATED = ("labels do not follow from inputs", "prediction collapse", "inputs ignored")
FOLLOW, ONE_BATCH = "sanity:labels follow from inputs", "sanity:overfits one batch"


# -- preferences ------------------------------------------------------------------------------------------------------

WANT = torch.randn(8, 6, generator=seeded(111))


def reward(x: Tensor) -> Tensor:
    """What each of six answers to a question is worth."""
    return x @ WANT + 0.5 * (x[:, :1] * x[:, 1:2])


def preferences(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Questions, the better and the worse one of two answers; one judgement of ten is wrong."""
    g = seeded(seed)
    x = torch.randn(count, 8, generator=g)
    pair = torch.rand(count, 6, generator=g).argsort(1)[:, :2]
    worth = reward(x).gather(1, pair)
    first = (worth[:, 0] > worth[:, 1]) ^ (torch.rand(count, generator=g) < 0.1)
    return x, torch.where(first, pair[:, 0], pair[:, 1]), torch.where(first, pair[:, 1], pair[:, 0])


PREFERENCES = preferences(4000, 112), preferences(500, 113)


class Preferences(L.LightningModule):
    """A policy that is moved from its reference by pairs of answers.

    Args:
        copied: whether the reference is a frozen copy, or the policy itself.
    """

    def __init__(self, copied: bool, beta: float = 0.5) -> None:
        super().__init__()
        self.policy = mlp([8, 64, 6])
        self.reference = copy.deepcopy(self.policy).requires_grad_(False) if copied else self.policy
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        return self.policy(x)

    def step(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of the implied rewards."""
        x, chosen, rejected = batch
        gain = self.policy(x).log_softmax(1) - self.reference(x).log_softmax(1)
        margin = self.beta * (gain.gather(1, chosen[:, None]) - gain.gather(1, rejected[:, None]))
        return -F.logsigmoid(margin).mean(), (margin > 0).float().mean()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss, accuracy = self.step(batch)
        self.log_dict({"rewards/accuracies": accuracy, "loss": loss})
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", self.step(batch)[0])

    def train_dataloader(self) -> Any:
        data = torch.utils.data.TensorDataset(*PREFERENCES[0])
        return torch.utils.data.DataLoader(data, 64, shuffle=True)

    def val_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*PREFERENCES[1]), 250)

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.policy.parameters(), lr=5e-3)
        warm = torch.optim.lr_scheduler.LinearLR(optimizer, 0.1, total_iters=20)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": warm, "interval": "step"}}

    def score(self) -> Tensor:
        """Worth of the most likely answer: 0 for a random one, 1 for the best one."""
        x = torch.randn(500, 8, generator=seeded(114))
        worth = reward(x)
        taken = worth.gather(1, self.policy(x).argmax(1, keepdim=True)).squeeze(1)
        return (taken - worth.mean(1)).mean() / (worth.amax(1) - worth.mean(1)).mean()


def preferred(seed: int, copied: bool) -> Training:
    """Train on pairs of answers."""
    return script(seed, lambda: Preferences(copied), lambda m: m.score(), 350, DOCTOR)


# -- few examples -----------------------------------------------------------------------------------------------------


TURN = torch.linalg.qr(torch.randn(48, 48, generator=seeded(115)))[0]


def episodes(first: int, last: int, reordered: bool) -> Any:
    """Draw five characters of these, four samples of each to learn from and six to ask for.

    A character is twelve numbers among 48 that are larger and mean nothing, all of them mixed.

    Args:
        first: number of the first character that is drawn from.
        last: number behind the last one.
        reordered: whether the queries' classes are numbered in the order in which they come, as a second dictionary would.
    """
    characters = torch.randn(100, 12, generator=seeded(116))

    def draw(g: torch.Generator, index: int) -> dict[str, Tensor]:
        chosen = first + torch.randperm(last - first, generator=g)[:5]
        written = characters[chosen][:, None] + 0.3 * torch.randn(5, 10, 12, generator=g)
        drawn = torch.cat([written, 3 * torch.randn(5, 10, 36, generator=g)], -1) @ TURN
        label = torch.arange(5)[:, None].repeat(1, 6)
        if reordered:
            label = torch.randperm(5, generator=g)[label]
        return {"support": drawn[:, :4], "query": drawn[:, 4:].flatten(0, 1), "label": label.flatten()}

    return draw


class Prototypes(L.LightningModule):
    """Queries belong to the class whose mean embedding is nearest; the episodes are dictionaries."""

    def __init__(self) -> None:
        super().__init__()
        self.net = mlp([48, 64, 32])

    def logits(self, batch: dict[str, Tensor]) -> Tensor:
        """Minus the squared distance of queries to the means."""
        means = self.net(batch["support"]).mean(1)
        return -torch.cdist(self.net(batch["query"]), means).square()

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        logits = self.logits(batch)
        loss = F.cross_entropy(logits, batch["label"])
        self.log("train_acc", (logits.argmax(1) == batch["label"]).float().mean(), batch_size=len(logits))
        return {"loss": loss, "logits": logits.detach()}

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
        return [optimizer], [torch.optim.lr_scheduler.MultiStepLR(optimizer, [300, 400], gamma=0.1)]


def few_shot(seed: int, reordered: bool) -> Training:
    """Train on episodes of seventy characters; the score is of episodes of thirty others."""
    torch.manual_seed(seed)

    @torch.no_grad()
    def score(module: Any) -> float:
        module.eval()
        draw, right = episodes(70, 100, False), 0.0
        for i in range(60):
            batch = draw(seeded(200 + i), i)
            right += float((module.logits(batch).argmax(1) == batch["label"]).float().mean())
        return right / 60

    data = Batches(400, episodes(0, 70, reordered), seed)
    watched: dict[str, dict[str, Any]] = {
        "PredictionCollapse": {"target": "label"},
        "RepresentationCollapse": {"layer": "net"},
        "TrainingDoctor": {},
    }
    return Training(Prototypes(), data, 400, watched, score=score)


class Sines(L.LightningModule):
    """Weights from which a sine is learned by one gradient step of ten points.

    Args:
        functional: whether the inner step makes new tensors of the weights, or changes a deep copy of the network.
    """

    def __init__(self, functional: bool, inner: float = 0.02) -> None:
        super().__init__()
        self.net, self.functional, self.inner = mlp([1, 40, 40, 1], act=nn.Tanh), functional, inner

    @staticmethod
    def tasks(g: torch.Generator, index: int) -> tuple[Tensor, Tensor]:
        """Eight sines, of each of which ten points are for the inner step and ten for the outer one."""
        high, phase = 0.5 + 2 * torch.rand(8, 1, 1, generator=g), math.pi * torch.rand(8, 1, 1, generator=g)
        x = 8 * torch.rand(8, 20, 1, generator=g) - 4
        return x, high * torch.sin(x + phase)

    def adapted(self, x: Tensor, y: Tensor, steps: int = 1) -> Any:
        """Return a function of points that has learned from these."""
        if not self.functional:
            clone = copy.deepcopy(self.net)
            optimizer = torch.optim.SGD(clone.parameters(), lr=self.inner)
            for _ in range(steps):
                optimizer.zero_grad()
                F.mse_loss(clone(x), y).backward()
                optimizer.step()
            return clone
        weights = dict(self.net.named_parameters())
        for _ in range(steps):
            loss = F.mse_loss(functional_call(self.net, weights, x), y)
            slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            weights = {n: w - self.inner * g for (n, w), g in zip(weights.items(), slopes, strict=True)}
        return lambda points: functional_call(self.net, weights, points)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        losses = []
        for x, y in zip(*batch, strict=True):
            losses.append(F.mse_loss(self.adapted(x[:10], y[:10])(x[10:]), y[10:]))
        loss = torch.stack(losses).mean()
        self.log("meta_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.net.parameters(), lr=5e-3)


def meta(seed: int, functional: bool) -> Training:
    """Train a start for sines; the score is R squared of new ones after three steps of ten points."""
    torch.manual_seed(seed)

    def score(module: Any) -> float:
        error = total = 0.0
        for i in range(10):
            for x, y in zip(*module.tasks(seeded(300 + i), i), strict=True):
                guess = module.adapted(x[:10], y[:10], steps=3)(x[10:])
                error += float((guess - y[10:]).square().sum())
                total += float(y[10:].square().sum())
        return 1 - error / total

    return Training(Sines(functional), Batches(250, Sines.tasks, seed), 250, DOCTOR, score=score)


# -- returns ----------------------------------------------------------------------------------------------------------


class Corridor(L.LightningModule):
    """A policy that has to leave a corridor of nine places at its right end; REINFORCE, some episodes for each update.

    Args:
        episodes: how many episodes there are in an update.
    """

    def __init__(self, episodes: int) -> None:
        super().__init__()
        self.policy, self.episodes = mlp([9, 32, 2]), episodes

    def play(self, count: int) -> tuple[Tensor, Tensor]:
        """Sums of log-probabilities, and the returns: 1 for the end, less 0.05 for each step."""
        place, total = torch.full((count,), 4), torch.zeros(count)
        worth, going = torch.zeros(count), torch.ones(count)
        for _ in range(16):
            choice = torch.distributions.Categorical(logits=self.policy(F.one_hot(place, 9).float()))
            action = choice.sample()
            total = total + going * choice.log_prob(action)
            place = (place + 2 * action - 1).clamp(0, 8)
            worth = worth + going * ((place == 8).float() - 0.05)
            going = going * (place != 8)
        return total, worth

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        total, worth = self.play(self.episodes)
        self.log("reward", worth.mean())
        advantage = (worth - worth.mean()) / (worth.std(unbiased=False) + 1e-8)
        return -(total * advantage).mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=1e-2)

    def train_dataloader(self) -> Any:
        return loader(Batches(200, lambda g, i: torch.zeros(1), 0))


def corridor(seed: int, episodes: int) -> Training:
    """Train to leave the corridor."""
    score = lambda m: m.play(300)[1].mean()  # noqa: E731
    return script(seed, lambda: Corridor(episodes), score, 200, DOCTOR)


# -- continuous actions -----------------------------------------------------------------------------------------------


class PointMass(L.LightningModule):
    """A deterministic policy and its critic, with target networks and a memory: a mass is to rest at 0.

    Args:
        unit: what an observation of one metre is.
    """

    def __init__(self, unit: float) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.unit: float = unit
        self.memory: list[Any] = []
        self.state = self.start(16)
        self.actor = nn.Sequential(
            nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1), nn.Tanh()
        )
        self.critic = mlp([3, 32, 32, 1])
        self.actor_target = copy.deepcopy(self.actor).requires_grad_(False)
        self.critic_target = copy.deepcopy(self.critic).requires_grad_(False)

    def start(self, count: int) -> Tensor:
        """Places up to a metre away, with small velocities, in units."""
        return self.unit * torch.randn(count, 2) * torch.tensor([0.7, 0.2])

    def move(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next state and what it is worth."""
        place, velocity = (state / self.unit).unbind(1)
        velocity = (velocity + 0.2 * action.squeeze(1)).clamp(-1, 1)
        place = (place + 0.2 * velocity).clamp(-2, 2)
        return self.unit * torch.stack([place, velocity], 1), -(place.square() + 0.1 * velocity.square())

    @torch.no_grad()
    def collect(self, step: int) -> None:
        """Sixteen masses move on, and start anew after 25 steps."""
        action = (self.actor(self.state) + 0.3 * torch.randn(16, 1)).clamp(-1, 1)
        if step < 10:
            action = 2 * torch.rand(16, 1) - 1
        after, worth = self.move(self.state, action)
        self.memory.append((self.state, action, worth, after))
        self.state = self.start(16) if step % 25 == 24 else after

    def training_step(self, batch: Any, batch_idx: int) -> None:
        self.collect(batch_idx)
        chosen = torch.randint(len(self.memory), (6,)).tolist()
        state, action, worth, after = (
            torch.cat(parts) for parts in zip(*(self.memory[i] for i in chosen), strict=True)
        )
        of_actor, of_critic = self.optimizers()  # type: ignore[misc]
        with torch.no_grad():
            future = self.critic_target(torch.cat([after, self.actor_target(after)], 1)).squeeze(1)
        critic_loss = F.mse_loss(self.critic(torch.cat([state, action], 1)).squeeze(1), worth + 0.9 * future)
        of_critic.zero_grad()
        self.manual_backward(critic_loss)
        of_critic.step()
        actor_loss = -self.critic(torch.cat([state, self.actor(state)], 1)).mean()
        of_actor.zero_grad()
        self.manual_backward(actor_loss)
        of_actor.step()
        self.log_dict({"critic_loss": critic_loss, "actor_loss": actor_loss})
        with torch.no_grad():
            for a, b in ((self.actor_target, self.actor), (self.critic_target, self.critic)):
                for old, new in zip(a.parameters(), b.parameters(), strict=True):
                    old.lerp_(new, 0.02)

    def configure_optimizers(self) -> Any:
        return [torch.optim.Adam(self.actor.parameters(), lr=2e-3), torch.optim.Adam(self.critic.parameters(), lr=5e-3)]

    def score(self) -> Tensor:
        """Share of the cost of doing nothing that is saved in 25 steps."""
        torch.manual_seed(5)
        start = self.start(200)
        costs = []
        for policy in (self.actor, lambda s: torch.zeros(len(s), 1)):
            state, cost = start, torch.zeros(())
            for _ in range(25):
                state, worth = self.move(state, policy(state))
                cost = cost - worth.mean()
            costs.append(cost)
        return 1 - costs[0] / costs[1]


def point_mass(seed: int, unit: float) -> Training:
    """Train a policy for the mass."""
    torch.manual_seed(seed)
    module = PointMass(unit)

    @torch.no_grad()
    def score(trained: Any) -> float:
        trained.eval()
        return float(trained.score())

    data = Batches(500, lambda g, i: torch.zeros(1), seed)
    return Training(module, data, 500, {"DeadUnits": {}, "TrainingDoctor": {}}, score=score)


SCENARIOS: list[Scenario] = [
    # library for preferences: DPO from a frozen copy; the loss starts at log 2
    healthy(FAMILY, "DPO", 0.7, lambda s: preferred(s, True)),
    # the same: ref_model = model, without a copy, so that the margin is always 0
    failing(FAMILY, "DPO, the reference is the policy", 0.4, lambda s: preferred(s, False), "no gradients", "vanishing gradients",
            "weights do not change", *UNRELATED, "sanity:all parameters learn", "sanity:inputs matter", ONE_BATCH),
    # course notebook on meta-learning: prototypical networks
    healthy(FAMILY, "prototypes of few examples", 0.7, lambda s: few_shot(s, False)),
    # the same: a second dictionary numbers the classes of the queries
    failing(FAMILY, "few examples, queries numbered anew", 0.5, lambda s: few_shot(s, True), *UNRELATED, "complete collapse",
            "dimensional collapse", FOLLOW, ONE_BATCH),
    # library for meta-learning: MAML on sines, with gradients through the inner step
    healthy(FAMILY, "MAML on sines", 0.5, lambda s: meta(s, True)),
    # the same by deepcopy and an inner optimizer: the gradients of the outer loss are those of the copies
    failing(FAMILY, "MAML on deep copies", 0.4, lambda s: meta(s, False), "no gradients", "weights do not change",
            "sanity:all parameters learn", ONE_BATCH),
    # introduction to policy gradients: the returns of eight episodes are standardised
    healthy(FAMILY, "REINFORCE in a corridor, returns standardised", 0.5, lambda s: corridor(s, 8)),
    # the same with one episode for an update: its return less its return
    failing(FAMILY, "the returns of one episode, standardised", 0.5, lambda s: corridor(s, 1), "no gradients",
            "vanishing gradients", "weights do not change", "sanity:all parameters learn", ONE_BATCH),
    # single-file DDPG
    healthy(FAMILY, "DDPG on a point mass", 0.4, lambda s: point_mass(s, 1.0)),
    # the same with observations in another unit: the tanh of the policy saturates
    failing(FAMILY, "a deterministic policy, positions in millimetres", 0.4, lambda s: point_mass(s, 1000.0), "saturated units", "dead units",
            "policy collapse", "divergence", "loss spikes", "learning rate too high", "vanishing gradients", "no gradients"),
]  # fmt: skip
