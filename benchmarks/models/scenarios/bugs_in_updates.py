"""Bugs in what is updated: parameters, gradients, modes; each with a look-alike that is right, where there is one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scenarios import styles as s
from benchmarks.models.scenarios.bugs import CONSTANT, TOO_HIGH, WIDE, simple
from benchmarks.models.scenarios.styles import Plain
from benchmarks.models.trainings import Training, adam, digits, mlp, sgd, split

FAMILY = "bugs in updates"
NOT_TRAINED = ("no gradients", "sanity:all parameters learn")


# -- which parameters learn -------------------------------------------------------------------------------------------


class Encoded(nn.Module):
    """An encoder to four numbers and a head, with or without a gradient between them."""

    def __init__(self, detach: bool = False, width: int = 4) -> None:
        super().__init__()
        self.encoder, self.head, self.detach = mlp([64, 64, width]), mlp([width, 64, 10]), detach

    def forward(self, x: Tensor) -> Tensor:
        h = self.encoder(x)
        return self.head(h.detach() if self.detach else h)


class NewHead(Plain):
    """Fine-tuning of the head alone, which is replaced after the optimizer was made."""

    def on_train_start(self) -> None:
        self.net.head = mlp([self.net.head[0].in_features, 64, 10])


def trained_before(net: nn.Module, seed: int, optimizer: s.Optimizer, steps: int) -> None:
    """Train on the rows that the training itself will see, with another random state."""
    (x, y), _ = split(digits(), seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 17)
        updates = optimizer(net.parameters())
        for _ in range(steps):
            chosen = torch.randint(len(x), (64,))
            loss = F.cross_entropy(net(x[chosen]), y[chosen])
            updates.zero_grad()
            loss.backward()
            updates.step()


def pretrained(seed: int) -> nn.Module:
    """A good encoder to 16 numbers, which is frozen, and a new head."""
    net = Encoded(width=16)
    trained_before(net, seed, adam(3e-3), 150)
    net.encoder.requires_grad_(False)
    net.head = mlp([16, 64, 10])
    return net


def only_biases() -> nn.Module:
    """The weights are frozen by a filter on names that took all of them."""
    net = WIDE()
    for name, parameter in net.named_parameters():
        if "weight" in name or not name.startswith("4"):
            parameter.requires_grad_(False)
    return net


def zero_head() -> nn.Module:
    """All logits are 0 at the start."""
    net = WIDE()
    nn.init.zeros_(net[-1].weight)
    nn.init.zeros_(net[-1].bias)
    return net


class Manual(Plain):
    """Manual optimization: an update every ``every`` batches; gradients are set to zero after it, or never."""

    def __init__(self, *given: Any, every: int = 1, zero: bool = True, step: bool = True) -> None:
        super().__init__(*given)
        self.automatic_optimization = False
        self.every, self.zero, self.step = every, zero, step

    def training_step(self, batch: Any, batch_idx: int) -> None:
        optimizer: Any = self.optimizers()
        self.manual_backward(self.loss(self(batch[0]), batch[1]) / self.every)
        if (batch_idx + 1) % self.every == 0:
            if self.step:
                optimizer.step()
            if self.zero:
                optimizer.zero_grad()


def manual(seed: int, optimizer: s.Optimizer, steps: int = 400, **how: Any) -> Training:
    """Digits with manual optimization."""
    style = lambda *given: Manual(*given, **how)  # noqa: E731
    return simple(seed, WIDE, optimizer, style=style, steps=steps)


# -- modes ------------------------------------------------------------------------------------------------------------


class EvalMode(Plain):
    """The network is put into evaluation mode, and stays there while it trains."""

    def on_train_start(self) -> None:
        self.net.eval()

    def on_validation_end(self) -> None:
        self.net.eval()


def pixels() -> tuple[Tensor, Tensor]:
    """Digits as numbers from 0 to 255."""
    return digits()[0] * 255, digits()[1]


NORMED = lambda: nn.Sequential(nn.BatchNorm1d(64), mlp([64, 96, 96, 96, 10], norm=True))  # noqa: E731


def frozen_statistics(seed: int) -> nn.Module:
    """A network whose BatchNorm has statistics from earlier training, which are to stay; with a new last layer."""
    net = mlp([64, 96, 96, 10], norm=True)
    trained_before(net, seed, sgd(0.05), 100)
    net[-1] = nn.Linear(96, 10)
    return net


SCENARIOS: list[Scenario] = [
    # -- which parameters learn
    failing(
        FAMILY,
        "encoder detached",
        0.85,
        lambda seed: simple(seed, lambda: Encoded(True, width=2), adam(3e-3)),
        *NOT_TRAINED,
    ),
    healthy(FAMILY, "encoder to four numbers", 0.85, lambda seed: simple(seed, Encoded, adam(3e-3), steps=600)),
    failing(
        FAMILY,
        "head replaced after the optimizer was made",
        0.8,
        lambda seed: simple(seed, lambda: pretrained(seed), adam(3e-3), style=NewHead),
        *NOT_TRAINED,
        "labels do not follow from inputs",
        "prediction collapse",
    ),
    healthy(FAMILY, "frozen encoder, new head", 0.8, lambda seed: simple(seed, lambda: pretrained(seed), adam(3e-3))),
    failing(
        FAMILY,
        "all weights frozen by mistake",
        0.8,
        lambda seed: simple(seed, only_biases, adam(3e-3)),
        *NOT_TRAINED,
        *CONSTANT,
        "labels do not follow from inputs",
    ),
    healthy(FAMILY, "head of zeros", 0.85, lambda seed: simple(seed, zero_head, sgd(0.1))),
    failing(
        FAMILY,
        "zero_grad forgotten",
        0.8,
        lambda seed: manual(seed, sgd(0.1), zero=False),
        *TOO_HIGH,
        *CONSTANT,
        "dead units",
    ),
    healthy(
        FAMILY,
        "gradients of four batches, by hand",
        0.8,
        lambda seed: manual(seed, sgd(0.1), steps=800, every=4),
    ),
    failing(
        FAMILY,
        "optimizer.step forgotten",
        0.8,
        lambda seed: manual(seed, adam(1e-3), step=False),
        *NOT_TRAINED,
        "labels do not follow from inputs",
        "prediction collapse",
    ),
    # -- modes
    failing(
        FAMILY,
        "BatchNorm left in eval()",
        0.8,
        lambda seed: simple(seed, NORMED, sgd(0.05), data=pixels(), style=EvalMode),
        *TOO_HIGH,
        *CONSTANT,
        "dead units",
        "sanity:modules are in training mode",
        twin="BatchNorm on pixels from 0 to 255",
    ),
    healthy(
        FAMILY, "BatchNorm on pixels from 0 to 255", 0.8, lambda seed: simple(seed, NORMED, sgd(0.05), data=pixels())
    ),
    healthy(
        FAMILY,
        "BatchNorm in eval() on purpose",
        0.8,
        lambda seed: simple(seed, lambda: frozen_statistics(seed), sgd(0.02), style=EvalMode),
    ),
]
