"""Reinforcement learning: bandits and corridors, policy gradients and Q-learning. Every loss is noisy or near 0 by design."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.trainings import Batches, Training, mlp

# -- contextual bandits -----------------------------------------------------------------------------------------------

ARMS = 6


def contexts(batch: int, same: bool) -> Callable[[torch.Generator, int], Any]:
    """Draw contexts; the best arm is the sector of the first two numbers, or always the third arm (``same``)."""

    def draw(generator: torch.Generator, index: int) -> Any:
        x = torch.randn(batch, 4, generator=generator)
        best = ((torch.atan2(x[:, 1], x[:, 0]) / torch.pi + 1) / 2 * ARMS).long().clamp(max=ARMS - 1)
        return x, torch.full_like(best, 2) if same else best

    return draw


class Bandit(L.LightningModule):
    """REINFORCE: the policy draws an arm, and its reward is 1 for the best arm, less for the others, and noise.

    Args:
        scale: the rewards are multiplied by it.
        baseline: whether a running mean of rewards is subtracted.
        entropy: weight of the entropy bonus.
    """

    def __init__(self, lr: float, scale: float = 1.0, baseline: bool = True, entropy: float = 0.01) -> None:
        super().__init__()
        self.policy = mlp([4, 32, 32, ARMS])
        self.lr, self.scale, self.baseline, self.entropy = lr, scale, baseline, entropy
        self.register_buffer("mean", torch.zeros(()))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, best = batch
        policy = torch.distributions.Categorical(logits=self.policy(x))
        arm = policy.sample()
        reward = self.scale * (1.0 - 0.4 * (arm - best).abs().clamp(max=2) + 0.3 * torch.randn(len(x)))
        advantage = reward - self.mean if self.baseline else reward
        self.mean.lerp_(reward.mean(), 0.05)
        self.log("reward", reward.mean())
        return -(advantage * policy.log_prob(arm)).mean() - self.entropy * policy.entropy().mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def bandit(seed: int, lr: float, same: bool = False, steps: int = 600, batch: int = 64, **more: Any) -> Training:
    """Train a policy; score: the share of contexts in which the likeliest arm is the best one."""
    torch.manual_seed(seed)
    draw = contexts(batch, same)
    x, best = contexts(1024, same)(torch.Generator().manual_seed(10**6 + seed), 0)

    @torch.no_grad()
    def score(module: Any) -> float:
        module.eval()
        return float((module.policy(x).argmax(-1) == best).float().mean())

    detectors: dict[str, dict[str, Any]] = {
        "TrainingDoctor": {},
        "DeadUnits": {},
        "UsageCollapse": {"assignments": "policy", "kind": "policy"},
    }
    return Training(Bandit(lr, **more), Batches(steps, draw, seed), steps, detectors, score=score)


# -- a corridor -------------------------------------------------------------------------------------------------------

PLACES, LIMIT, DISCOUNT = 8, 24, 0.9


def moved(place: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step in the corridor; action 1 is right in even places and left in odd ones; the end gives 1, the start 0.05."""
    right = (action == 1) == (place % 2 == 0)
    after = (place + torch.where(right, 1, -1)).clamp(0, PLACES - 1)
    done = after == PLACES - 1
    return after, done.float() + 0.05 * (after == 0).float(), done


def seen(place: Tensor) -> Tensor:
    """What the agent sees."""
    return F.one_hot(place, PLACES).float()


@torch.no_grad()
def reaches_the_end(choose: Callable[[Tensor], Tensor]) -> float:
    """Share of the places from which the greedy policy reaches the end."""
    place = torch.arange(PLACES - 1)
    arrived = torch.zeros(PLACES - 1, dtype=torch.bool)
    for _ in range(LIMIT):
        place, _, done = moved(place, choose(seen(place)).argmax(-1))
        arrived |= done
        place = torch.where(arrived, PLACES - 1, place)
    return float(arrived.float().mean())


class DeepQ(L.LightningModule):
    """Q-learning with a replay memory; the agent acts and learns in each training step.

    Args:
        every: steps between two copies into the target network; 0 for no target network.
    """

    def __init__(self, optimizer: Callable[[Any], torch.optim.Optimizer], every: int = 25, scale: float = 1.0) -> None:
        super().__init__()
        self.q = mlp([PLACES, 48, 48, 2])
        self.target = copy.deepcopy(self.q).requires_grad_(False)
        self.optimizer, self.every, self.scale = optimizer, every, scale
        self.place, self.memory = torch.zeros(8, dtype=torch.long), []

    @torch.no_grad()
    def act(self, epsilon: float) -> None:
        greedy = self.q(seen(self.place)).argmax(-1)
        action = torch.where(torch.rand(len(self.place)) < epsilon, torch.randint(2, self.place.shape), greedy)
        after, reward, done = moved(self.place, action)
        self.memory.append((self.place, action, after, reward, done))
        self.memory = self.memory[-400:]
        afresh = done | (torch.rand(len(done)) < 0.05)
        self.place = torch.where(afresh, torch.randint(PLACES - 1, done.shape), after)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        self.act(max(0.1, 1.0 - batch_idx / 200))
        chosen = torch.randint(len(self.memory), (8,))
        place, action, after, reward, done = (torch.cat(v) for v in zip(*(self.memory[i] for i in chosen), strict=True))
        q = self.q(seen(place)).gather(1, action[:, None])[:, 0]
        follower = self.target if self.every else self.q
        following = follower(seen(after)).max(1).values
        if self.every:
            following = following.detach()
        wanted = self.scale * reward + DISCOUNT * following * ~done
        self.log("q", q.mean())
        return {"loss": F.mse_loss(q, wanted)}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        if self.every and batch_idx % self.every == 0:
            self.target.load_state_dict(self.q.state_dict())

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.q.parameters())


class ActorCritic(L.LightningModule):
    """Advantage actor-critic on episodes of the corridor, with a shared optimizer.

    Args:
        entropy: weight of the entropy bonus.
    """

    def __init__(self, lr: float, entropy: float = 0.02, length: int = 12) -> None:
        super().__init__()
        self.actor, self.critic = mlp([PLACES, 32, 2]), mlp([PLACES, 32, 1])
        self.lr, self.entropy, self.length = lr, entropy, length

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        place, alive, steps = batch, torch.ones(len(batch)), []
        for _ in range(self.length):
            x = seen(place)
            policy = torch.distributions.Categorical(logits=self.actor(x))
            action = policy.sample()
            after, reward, done = moved(place, action)
            steps.append((policy, action, reward, self.critic(x)[:, 0], alive))
            alive = alive * (~done).float()
            place = after
        value = self.critic(seen(place))[:, 0].detach() * alive
        loss = torch.zeros(())
        for policy, action, reward, guess, mask in reversed(steps):
            value = reward * mask + DISCOUNT * value
            advantage = value - guess
            actor = -advantage.detach() * policy.log_prob(action) - self.entropy * policy.entropy()
            loss = loss + ((actor + 0.5 * advantage.square()) * mask).mean()
        return loss / self.length

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.lr)


def corridor(
    seed: int, make: Callable[[], L.LightningModule], net: str, steps: int, rows: int = 32, watched: bool = False
) -> Training:
    """Train an agent; ``net`` names the network that chooses. Score: where the greedy policy gets to."""
    torch.manual_seed(seed)
    detectors: dict[str, dict[str, Any]] = {"TrainingDoctor": {}, "DeadUnits": {}}
    if watched:
        detectors["UsageCollapse"] = {"assignments": net, "kind": "policy"}
    draw = lambda generator, index: torch.randint(PLACES - 1, (rows,), generator=generator)  # noqa: E731
    score = lambda module: reaches_the_end(module.get_submodule(net))  # noqa: E731
    return Training(make(), Batches(steps, draw, seed), steps, detectors, score=score)


def adam(lr: float) -> Callable[[Any], torch.optim.Optimizer]:
    """Make Adam."""
    return lambda p: torch.optim.Adam(p, lr=lr)


SCENARIOS: list[Scenario] = [
    healthy("reinforcement", "REINFORCE, the loss stays near 0", 0.6, lambda s: bandit(s, 5e-3, steps=800)),
    failing(
        "reinforcement",
        "REINFORCE, rewards in hundreds, rate 0.1, no baseline",
        0.6,
        lambda s: bandit(s, 0.1, scale=300.0, baseline=False),
        "policy collapse",
        "learning rate too high",
        "dead units",
        "inputs ignored",
        "divergence",
        "loss spikes",
    ),
    healthy(
        "reinforcement",
        "REINFORCE, one arm is always the best",
        0.9,
        lambda s: bandit(s, 3e-3, same=True, steps=500),
    ),
    failing(
        "reinforcement",
        "REINFORCE, sign of the entropy bonus reversed",
        0.6,
        lambda s: bandit(s, 5e-3, entropy=-2.0),
        "policy collapse",
        twin="REINFORCE, the loss stays near 0",
    ),
    healthy(
        "reinforcement",
        "Q-learning with a target network",
        0.9,
        lambda s: corridor(s, lambda: DeepQ(adam(2e-3)), "q", 800),
    ),
    failing(
        "reinforcement",
        "Q-learning without a target network, rewards of 100, SGD 0.3",
        0.9,
        lambda s: corridor(s, lambda: DeepQ(lambda p: torch.optim.SGD(p, 0.3, 0.9), every=0, scale=100.0), "q", 600),
        "divergence",
        "learning rate too high",
        "loss spikes",
        "non-finite values",
        "dead units",
        twin="Q-learning with a target network",
    ),
    healthy(
        "reinforcement",
        "actor-critic",
        0.6,
        lambda s: corridor(s, lambda: ActorCritic(1e-2), "actor", 250, watched=True),
    ),
    failing(
        "reinforcement",
        "actor-critic, rate 1",
        0.6,
        lambda s: corridor(s, lambda: ActorCritic(1.0), "actor", 250, watched=True),
        "policy collapse",
        "learning rate too high",
        "divergence",
        "loss spikes",
        "dead units",
        twin="actor-critic",
    ),
]
