"""Reinforcement learning: deep Q-learning after Lightning's published example, and rl4co.

The example plays in its ``training_step``: a step that is run twice changes the environment and the replay buffer.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import lightning.pytorch as L
import numpy
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from tests.strangers.stranger import QUIET, Stranger, resumed_by_hand


class Corridor:
    """An environment: walk right to the end. A plain object with attributes, as gym's are."""

    def __init__(self, length: int = 6) -> None:
        self.length, self.position, self.age = length, 0, 0
        self.generator = numpy.random.default_rng(0)

    def reset(self) -> numpy.ndarray[Any, Any]:
        self.position, self.age = int(self.generator.integers(2)), 0
        return self.observation()

    def observation(self) -> numpy.ndarray[Any, Any]:
        return numpy.array([self.position / self.length, self.age / 20], dtype=numpy.float32)

    def step(self, action: int) -> tuple[numpy.ndarray[Any, Any], float, bool]:
        self.position = max(0, self.position + (1 if action else -1))
        self.age += 1
        arrived = self.position >= self.length
        return self.observation(), float(arrived), arrived or self.age >= 20


class Experience(NamedTuple):
    state: numpy.ndarray[Any, Any]
    action: int
    reward: float
    done: bool
    new_state: numpy.ndarray[Any, Any]


class ReplayBuffer:
    """The newest experiences."""

    def __init__(self, capacity: int) -> None:
        self.buffer: deque[Experience] = deque(maxlen=capacity)

    def append(self, experience: Experience) -> None:
        self.buffer.append(experience)

    def sample(self, size: int) -> tuple[numpy.ndarray[Any, Any], ...]:
        indices = numpy.random.choice(len(self.buffer), size, replace=False)
        states, actions, rewards, dones, new_states = zip(*(self.buffer[i] for i in indices), strict=True)
        return (
            numpy.array(states),
            numpy.array(actions),
            numpy.array(rewards, dtype=numpy.float32),
            numpy.array(dones),
            numpy.array(new_states),
        )


class Replay(IterableDataset[Any]):
    """Draws an epoch from the buffer, which grows meanwhile."""

    def __init__(self, buffer: ReplayBuffer, size: int) -> None:
        self.buffer, self.size = buffer, size

    def __iter__(self) -> Iterator[Any]:
        yield from zip(*self.buffer.sample(self.size), strict=True)


class Agent:
    """Acts in the environment, and remembers."""

    def __init__(self, environment: Corridor, buffer: ReplayBuffer) -> None:
        self.environment, self.buffer = environment, buffer
        self.reset()

    def reset(self) -> None:
        self.state = self.environment.reset()

    def action(self, network: nn.Module, epsilon: float) -> int:
        if random.random() < epsilon:
            return random.randrange(2)
        return int(network(torch.as_tensor(self.state)[None]).argmax())

    @torch.no_grad()
    def play(self, network: nn.Module, epsilon: float = 0.0) -> tuple[float, bool]:
        action = self.action(network, epsilon)
        new_state, reward, done = self.environment.step(action)
        self.buffer.append(Experience(self.state, action, reward, done, new_state))
        self.state = new_state
        if done:
            self.reset()
        return reward, done


def _network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 2))


class DeepQ(L.LightningModule):
    """Two networks, an agent, and a buffer that is filled before the first step."""

    def __init__(self, sync_rate: int = 4, warm_start: int = 40) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net, self.target_net = _network(), _network()
        self.buffer = ReplayBuffer(64)
        self.agent = Agent(Corridor(), self.buffer)
        self.total_reward = self.episode_reward = 0.0
        for _ in range(warm_start):
            self.agent.play(self.net, epsilon=1.0)

    def loss(self, batch: Any) -> Tensor:
        states, actions, rewards, dones, new_states = batch
        values = self.net(states).gather(1, actions.long()[:, None]).squeeze(-1)
        with torch.no_grad():
            new_values = self.target_net(new_states).max(1)[0]
            new_values[dones] = 0.0
        return nn.functional.mse_loss(values, new_values * 0.99 + rewards)

    def training_step(self, batch: Any, nb_batch: int) -> Tensor:
        epsilon = max(0.01, 1.0 - (self.global_step + 1) / 10)
        reward, done = self.agent.play(self.net, epsilon)
        self.episode_reward += reward
        loss = self.loss(batch)
        if done:
            self.total_reward, self.episode_reward = self.episode_reward, 0.0
        if self.global_step % self.hparams.sync_rate == 0:  # type: ignore[attr-defined]
            self.target_net.load_state_dict(self.net.state_dict())
        self.log_dict({"reward": reward, "train_loss": loss, "total_reward": self.total_reward})
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.net.parameters(), lr=0.01)

    def train_dataloader(self) -> Any:
        return DataLoader(Replay(self.buffer, 32), batch_size=8)


def deep_q_learning(callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None = None) -> None:
    L.seed_everything(0, verbose=False)
    trainer = L.Trainer(callbacks=callbacks, **{**QUIET, "max_epochs": 3, **arguments})
    trainer.fit(DeepQ(), ckpt_path=checkpoint)


def attention_model(callbacks: list[Any], arguments: Mapping[str, Any], checkpoint: str | None = None) -> None:
    from rl4co.envs import TSPEnv
    from rl4co.envs.routing import TSPGenerator
    from rl4co.models import AttentionModel
    from rl4co.utils.trainer import RL4COTrainer

    L.seed_everything(0, verbose=False)
    module = AttentionModel(
        TSPEnv(generator=TSPGenerator(num_loc=4), seed=0),
        baseline="exponential",
        policy_kwargs={"embed_dim": 16, "num_heads": 2, "num_encoder_layers": 1},
        batch_size=4,
        train_data_size=24,
        val_data_size=4,
        test_data_size=4,
        optimizer_kwargs={"lr": 1e-3},
    )
    # its defaults change torch's flags for the whole process, and with them the bits of every later test
    flags = {"matmul_precision": None, "disable_profiling_executor": False}
    defaults = {"precision": "32-true", **flags}  # (on a CPU Lightning makes bf16 of the default, 16-mixed)
    trainer = RL4COTrainer(callbacks=callbacks, **{**QUIET, "max_epochs": 2, **defaults, **arguments})
    with resumed_by_hand("lightning.pytorch", checkpoint):  # (its own fit has no weights_only, which its policy needs)
        trainer.fit(module)


STRANGERS = (
    Stranger(
        "Lightning's DQN example",
        deep_q_learning,
        conflicts={"LRSchedule": "the number of updates of this run is not known"},
        arguments={"LRSchedule": {"total": 6}},
        not_resumed="Replay is an iterable data set",
    ),
    Stranger(
        "rl4co AttentionModel",
        attention_model,
        package="rl4co",
        imports=("rl4co", "rl4co.envs", "rl4co.models"),
        conflicts={"GradientClip": r"gradient_clip_val=1\.0"},
        trainer={"gradient_clip_val": None},
    ),
)
