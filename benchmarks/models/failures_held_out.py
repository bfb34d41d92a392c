"""Scenarios that played no part in choosing thresholds: other networks, data and faults. The search never reads them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models import trainings as t
from benchmarks.models.failures import LOST, NO_SIGNAL, STOPPED, TOO_HIGH, bias, failing, few_and_noisy
from benchmarks.models.scenario import Scenario
from benchmarks.models.trainings import Task, Training, adam, classifier, mlp, sgd
from lightning_tricks import GradientAccumulation, LRSchedule


class Convolutions(nn.Module):
    """Two convolutions and a linear head, on digits as images."""

    def __init__(self, bias: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()
        )
        self.head = nn.Linear(256, 10)
        if bias:
            for layer in self.body:
                if isinstance(layer, nn.Conv2d):
                    nn.init.constant_(layer.bias, bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.body(x.reshape(-1, 1, 8, 8)).flatten(1))
        return out


class Rows(nn.Module):
    """A recurrent network that reads a digit row by row."""

    def __init__(self) -> None:
        super().__init__()
        self.memory, self.head = nn.LSTM(8, 48, batch_first=True), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.memory(x.reshape(-1, 8, 8))[0][:, -1])
        return out


class Recurrent(nn.Module):
    """A recurrent tagger."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.memory = nn.Embedding(32, 24), nn.GRU(24, 24, batch_first=True)
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.memory(self.embed(x))[0])
        return out


class Zeroed(nn.Sequential):
    """All weights are 0."""

    def __init__(self, sizes: list[int]) -> None:
        super().__init__(*mlp(sizes))
        for p in self.parameters():
            nn.init.zeros_(p)


def elsewhere(seed: int) -> Training:
    """An optimizer that was given another network's parameters."""
    other = mlp([30, 32, 2])
    return classifier(seed, lambda: mlp([30, 32, 2]), lambda p: torch.optim.Adam(other.parameters()), t.cancer())


def regression(seed: int, lr: float) -> Training:
    """The sum of squares of some inputs."""
    torch.manual_seed(seed)

    def draw(generator: torch.Generator, index: int) -> Any:
        x = torch.randn(64, 10, generator=generator)
        return x, (x[:, :3] ** 2).sum(1, keepdim=True) - 3 + 0.1 * torch.randn(64, 1, generator=generator)

    def step(task: Task, batch: Any, index: int) -> Any:
        return {"loss": F.mse_loss(task.net(batch[0]), batch[1])}

    watched: dict[str, dict[str, Any]] = {"TrainingDoctor": {}, "DeadUnits": {}}
    return Training(Task(mlp([10, 64, 64, 1]), step, sgd(lr)), t.Batches(400, draw, seed), 400, watched)


def inf_at(step: int) -> Callable[[Any, int], Any]:
    """One infinite number."""

    def spoil(batch: Any, index: int) -> Any:
        if index != step:
            return batch
        x = batch[0].clone()
        x[0, 0] = math.inf
        return (x, *batch[1:])

    return spoil


def rolled(batch: Any, index: int) -> Any:
    """Each sample with its neighbour's label."""
    return batch[0], batch[1].roll(1)


def emptied(batch: Any, index: int) -> Any:
    """A loader that gives zeros."""
    return torch.zeros_like(batch[0]), batch[1]


def noisy(data: tuple[Tensor, ...], seed: int) -> tuple[Tensor, ...]:
    """Three in ten labels are wrong."""
    return few_and_noisy(len(data[0]), 0.3)(data, seed)


def nineteen_in_twenty(data: tuple[Tensor, ...], seed: int) -> tuple[Tensor, ...]:
    """Mostly benign; the rest can be told."""
    rare = data[1] == 0
    keep = torch.cat([torch.nonzero(~rare).flatten(), torch.nonzero(rare).flatten()[:19]])
    return tuple(x[keep] for x in data)


def grid(batch: int, side: int = 3) -> Callable[[torch.Generator, int], Any]:
    """Points on a grid."""

    def draw(generator: torch.Generator, index: int) -> Any:
        places = torch.randint(side, (batch, 2), generator=generator).float() - (side - 1) / 2
        return (1.5 * places + 0.05 * torch.randn(batch, 2, generator=generator),)

    return draw


def scheduled(seed: int) -> Training:
    """With a warm-up of a quarter of the run."""
    training = classifier(seed, Convolutions, adam(3e-3))
    training.callbacks.append(LRSchedule("cosine", warmup="25%"))
    return training


def accumulated(seed: int) -> Training:
    """With four micro-batches per update."""
    training = classifier(seed, lambda: mlp([64, 64, 10]), sgd(0.1), batch=16, steps=1200, validate=False)
    training.callbacks.append(GradientAccumulation(4))
    training.steps = 300
    return training


GRU = lambda s, **more: t.tagger(s, 3e-3, 16, 300, net=Recurrent, **more)  # noqa: E731

SCENARIOS = [
    # -- failing
    failing("CNN, Adam 0.3", lambda s: classifier(s, Convolutions, adam(0.3)), *TOO_HIGH, *STOPPED, *NO_SIGNAL),
    failing("LSTM, SGD 50", lambda s: classifier(s, Rows, sgd(50.0)), *TOO_HIGH),
    failing("optimizer of another network", elsewhere, "no gradients"),
    failing(
        "wine, all weights 0",
        lambda s: classifier(s, lambda: Zeroed([13, 32, 32, 3]), adam(1e-3), t.wine(), batch=32),
        *NO_SIGNAL,
        *STOPPED,
        "vanishing gradients",
    ),
    failing("regression, SGD 1", lambda s: regression(s, 1.0), *TOO_HIGH, *STOPPED),
    failing(
        "one infinite number",
        lambda s: classifier(s, Convolutions, sgd(0.05), spoil=inf_at(160)),
        "non-finite values",
        onset=0.4,
    ),
    failing(
        "neighbour's labels",
        lambda s: classifier(s, Convolutions, adam(1e-3), spoil=rolled),
        "labels do not follow from inputs",
    ),
    failing(
        "zeros from the loader",
        lambda s: classifier(s, Convolutions, adam(1e-3), spoil=emptied, validate=False),
        *NO_SIGNAL,
    ),
    failing("CNN, biases -3", lambda s: classifier(s, lambda: Convolutions(-3.0), adam(1e-4)), *STOPPED),
    failing(
        "six sigmoid layers, wine",
        lambda s: classifier(s, lambda: mlp([13, *[32] * 7, 3], nn.Sigmoid), sgd(0.02), t.wine(), batch=32),
        "vanishing gradients",
    ),
    failing(
        "GRU tagger, rate times 2000 at 60%",
        lambda s: GRU(s, rate=lambda i: 2000.0 if i >= 180 else 1.0),
        *LOST,
        onset=0.6,
    ),
    failing(
        "Barlow Twins, no redundancy term",
        lambda s: t.siamese(s, t.barlow(0.0), optimizer=adam(1e-3)),
        "dimensional collapse",
    ),
    failing(
        "SimSiam, no stop-gradient, Adam, other data",
        lambda s: t.siamese(
            s, t.simsiam(False), optimizer=adam(1e-3), net=lambda: t.Siamese(norm=False), data=t.low_rank(8)
        ),
        "complete collapse",
        "dimensional collapse",
    ),
    failing(
        "GAN on a circle of 5, generator's rate 8e-3",
        lambda s: t.adversarial(s, t.circle(128, 5), rates=(8e-3, 1e-3), width=48),
        "mode collapse",
    ),
    failing(
        "GAN on a grid, generator's rate 1e-2",
        lambda s: t.adversarial(s, grid(128), rates=(1e-2, 5e-4)),
        "mode collapse",
    ),
    failing(
        "own text only, longer texts",
        lambda s: t.writer(s, source="replace", length=96, per_epoch=30, epochs=12),
        "recursive collapse",
        onset=0.1,
    ),
    failing(
        "sampling gets colder and colder",
        lambda s: t.writer(s, temperature=lambda epoch: max(0.05, 1.0 - 0.2 * epoch)),
        "repetition",
        onset=0.2,
    ),
    # -- healthy
    Scenario("CNN", lambda s: classifier(s, Convolutions, adam(1e-3))),
    Scenario("CNN, cosine with a long warm-up", scheduled),
    Scenario("LSTM", lambda s: classifier(s, Rows, adam(3e-3))),
    Scenario("breast cancer", lambda s: classifier(s, lambda: mlp([30, 32, 2]), adam(1e-3), t.cancer())),
    Scenario("wine, batch 8", lambda s: classifier(s, lambda: mlp([13, 32, 3]), sgd(0.02), t.wine(), batch=8)),
    Scenario("regression", lambda s: regression(s, 0.01)),
    Scenario("three in ten labels wrong", lambda s: classifier(s, lambda: mlp([64, 64, 10]), adam(1e-3), change=noisy)),
    Scenario(
        "dropout 0.7",
        lambda s: classifier(
            s, lambda: nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Dropout(0.7), nn.Linear(256, 10)), adam(1e-3)
        ),
    ),
    Scenario(
        "GELU, weight decay 0.3",
        lambda s: classifier(s, lambda: mlp([64, 96, 96, 10], nn.GELU), adam(1e-3, weight_decay=0.3)),
    ),
    Scenario("slow learner, SGD 1e-3", lambda s: classifier(s, lambda: mlp([64, 64, 10]), sgd(3e-3), steps=700)),
    Scenario("sparse, biases -0.1", lambda s: classifier(s, lambda: bias(mlp([64, 256, 10]), -0.05), adam(1e-3))),
    Scenario("accumulation of 4", accumulated),
    Scenario(
        "one in twenty",
        lambda s: classifier(s, lambda: mlp([30, 16, 2]), adam(2e-3), t.cancer(), change=nineteen_in_twenty),
    ),
    Scenario("GRU tagger", GRU),
    Scenario("SimSiam, Adam, batch 64", lambda s: t.siamese(s, t.simsiam(), optimizer=adam(1e-3), batch=64)),
    Scenario("Barlow Twins, other data", lambda s: t.siamese(s, t.barlow(), optimizer=adam(1e-3), data=t.low_rank(6))),
    Scenario("GAN on a circle of 5, R1", lambda s: t.adversarial(s, t.circle(128, 5), penalty=1.0, betas=(0.0, 0.9))),
    Scenario("writer, rate 3e-3", lambda s: t.writer(s, lr=3e-3)),
    Scenario("twelve generations, real text kept", lambda s: t.writer(s, source="accumulate", per_epoch=30, epochs=12)),
]
