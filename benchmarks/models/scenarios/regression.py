"""Regression: heavy tails, huge targets and inputs, broadcasting, several targets, weak signals."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scenarios import styles as s
from benchmarks.models.scenarios.styles import DICT, Plain, Shared, predict, stream
from benchmarks.models.trainings import Training, adam, mlp, sgd

FAMILY = "regression"
CONSTANT = ("prediction collapse", "inputs ignored")
TOO_HIGH = ("divergence", "learning rate too high", "non-finite values")
Draw = Callable[[torch.Generator, int], Any]


def function(x: Tensor) -> Tensor:
    """What the networks shall learn: smooth, not linear, variance about 1.4."""
    return x[:, 0] + torch.sin(2 * x[:, 1]) + 0.5 * x[:, 2] * x[:, 3]


def rows(batch: int, noise: Callable[[Tensor, torch.Generator], Tensor], features: int = 8) -> Draw:
    """Inputs, and targets of shape [n, 1]: the function, after ``noise``."""

    def draw(generator: torch.Generator, index: int) -> Any:
        x = torch.randn(batch, features, generator=generator)
        return x, noise(function(x), generator)[:, None]

    return draw


def normal(size: float, scale: float = 1.0, shift: float = 0.0) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Add normal noise, then change the unit."""
    return lambda y, g: scale * (y + size * torch.randn(y.shape, generator=g)) + shift


def heavy(freedom: float) -> Callable[[Tensor, torch.Generator], Tensor]:
    """Add noise of Student's t distribution: below 2 degrees of freedom the variance is infinite."""

    def noise(y: Tensor, generator: torch.Generator) -> Tensor:
        squares = torch.distributions.Gamma(freedom / 2, 0.5)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
            chi = squares.sample(y.shape)
        return y + 0.5 * torch.randn(y.shape, generator=generator) / (chi / freedom).sqrt()

    return noise


def held(noise: Callable[[Tensor, torch.Generator], Tensor], count: int = 4000, **more: Any) -> Any:
    """Draw data that no training sees."""
    return s.fresh(rows(count, noise, **more))


NET = lambda outputs=1, features=8: mlp([features, 64, 64, outputs])  # noqa: E731
CLEAN = normal(0.0)


def fitted(
    seed: int,
    loss: s.Loss,
    optimizer: s.Optimizer,
    noise: Callable[[Tensor, torch.Generator], Tensor],
    truth: Callable[[Tensor, torch.Generator], Tensor] = CLEAN,
    net: Callable[[], nn.Module] = NET,
    batch: int = 64,
    score: Callable[[tuple[Tensor, ...]], s.Score] = s.r2,
    **more: Any,
) -> Training:
    """Train on noisy values of the function; the score compares with ``truth``."""
    torch.manual_seed(seed)
    val = rows(256, noise)(torch.Generator().manual_seed(seed + 1000), 0)
    module = Plain(net(), loss, optimizer)
    return stream(seed, module, rows(batch, noise), score(held(truth)), **{"validation": [val], **more})


# -- scales -----------------------------------------------------------------------------------------------------------


class Standardised(nn.Module):
    """Learns mean and spread of the targets as parameters: the network itself works at scale 1."""

    def __init__(self, mean: float, spread: float) -> None:
        super().__init__()
        self.inner = NET()
        self.register_buffer("mean", torch.tensor(mean))
        self.register_buffer("spread", torch.tensor(spread))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) * self.spread + self.mean


def prices(seed: int, net: Callable[[], nn.Module], optimizer: s.Optimizer, **more: Any) -> Training:
    """Targets around 20,000 with a spread of 12,000: the loss begins at 5e8."""
    noise = normal(0.2, 1e4, 2e4)
    return fitted(seed, F.mse_loss, optimizer, noise, normal(0.0, 1e4, 2e4), net, **more)


def thousands(seed: int) -> Training:
    """Inputs in the thousands saturate sigmoid units, each of which is a step that nothing moves."""
    torch.manual_seed(seed)

    def draw(generator: torch.Generator, index: int, count: int = 64) -> Any:
        x = torch.randn(count, 8, generator=generator)
        return 5000 + 50 * x, function(x)[:, None]

    test = draw(torch.Generator().manual_seed(999_999), 0, 4000)
    module = Plain(mlp([8, 48, 48, 1], nn.Sigmoid), F.mse_loss, adam(1e-3))
    return stream(seed, module, draw, s.r2(test), validation=[(test[0][:256], test[1][:256])])


@lru_cache
def diabetes() -> tuple[Tensor, Tensor]:
    """442 patients with 10 numbers, and how their disease progressed; standardised."""
    bunch = load_diabetes()
    x, y = torch.tensor(bunch.data * 442**0.5), torch.tensor(bunch.target)
    return x.float(), ((y - y.mean()) / y.std()).float()[:, None]


def patients(seed: int) -> Training:
    """Half of the variance can be explained, and no more."""
    module = lambda: Shared(mlp([10, 32, 1]), F.mse_loss, adam(1e-3, weight_decay=0.1))  # noqa: E731
    training = s.table(seed, module, diabetes(), s.r2, batch=32, detectors=DICT)
    inner, (x, y) = training.data.draw, training.validation[0]  # type: ignore[attr-defined]
    training.data.draw = lambda *given: dict(zip(("inputs", "labels"), inner(*given), strict=True))  # type: ignore[attr-defined]
    training.validation = [{"inputs": x, "labels": y}]
    return training


# -- shapes -----------------------------------------------------------------------------------------------------------


def broadcast(seed: int, squeezed: bool) -> Training:
    """Predictions of shape [n, 1] against targets of shape [n]: each is compared with all; or squeezed, as it should."""
    torch.manual_seed(seed)
    shaped = (lambda p: p.squeeze(1)) if squeezed else (lambda p: p)
    draw = rows(64, normal(0.1))

    def flat(*given: Any) -> Any:
        x, y = draw(*given)
        return x, y[:, 0]

    module = Plain(NET(), lambda p, y: F.mse_loss(shaped(p), y), adam(2e-3))
    return stream(seed, module, flat, s.r2(held(CLEAN)), validation=[flat(torch.Generator().manual_seed(8), 0)])


def four_targets(seed: int) -> Training:
    """Four targets, one of which is always 0."""
    torch.manual_seed(seed)

    def draw(generator: torch.Generator, index: int, count: int = 64) -> Any:
        x = torch.randn(count, 8, generator=generator)
        return x, torch.stack([function(x), x[:, 4].abs(), x[:, 5] * x[:, 6], torch.zeros(count)], 1)

    test = draw(torch.Generator().manual_seed(999_999), 0, 4000)

    def score(module: Any) -> float:
        error = (predict(module, test[0]) - test[1]).square().mean(0) / test[1].var(0)
        return float(1 - error[:3].mean())

    return stream(seed, Plain(NET(4), F.mse_loss, adam(3e-3)), draw, score, steps=600, validation=[test])


def weak(seed: int) -> Training:
    """One number of 20 explains 5 % of the variance, and there is no more to find."""
    torch.manual_seed(seed)

    def draw(generator: torch.Generator, index: int, count: int = 256) -> Any:
        x = torch.randn(count, 20, generator=generator)
        return x, (0.2294 * x[:, 0] + torch.randn(count, generator=generator))[:, None]

    test = draw(torch.Generator().manual_seed(999_999), 0, 20_000)
    module = Plain(mlp([20, 32, 1]), F.mse_loss, adam(1e-3, weight_decay=0.1))
    return stream(seed, module, draw, s.r2(test), steps=600, validation=[(test[0][:1000], test[1][:1000])])


SCENARIOS: list[Scenario] = [
    # -- healthy
    healthy(
        FAMILY, "Student's t noise, Huber loss", 0.7, lambda seed: fitted(seed, F.huber_loss, adam(3e-3), heavy(1.3))
    ),
    healthy(
        FAMILY,
        "prices around 20,000, standardised inside",
        0.7,
        lambda seed: prices(seed, lambda: Standardised(2e4, 1.2e4), adam(2e-3)),
    ),
    healthy(FAMILY, "[n, 1] squeezed to [n]", 0.7, lambda seed: broadcast(seed, True)),
    healthy(FAMILY, "one of four targets is always 0", 0.6, four_targets),
    healthy(FAMILY, "5 % of the variance can be explained", 0.02, weak),
    healthy(FAMILY, "diabetes", 0.2, patients),
    # -- failing
    failing(
        FAMILY,
        "Student's t noise, squared error, SGD",
        0.7,
        lambda seed: fitted(seed, F.mse_loss, sgd(0.02), heavy(1.1)),
        *TOO_HIGH,
        "loss spikes",
    ),
    failing(
        FAMILY,
        "prices around 20,000, SGD",
        0.7,
        lambda seed: prices(seed, NET, sgd(0.01)),
        *TOO_HIGH,
        "dead units",
        "prediction collapse",
        "sanity:initial loss",
        twin="prices around 20,000, standardised inside",
    ),
    failing(
        FAMILY,
        "prices around 20,000, Adam at 1e-3",
        0.7,
        lambda seed: prices(seed, NET, adam(1e-3), steps=300),
        *CONSTANT,
        "sanity:initial loss",
        "sanity:overfits one batch",
    ),
    failing(
        FAMILY,
        "inputs in the thousands, sigmoid units",
        0.5,
        thousands,
        *CONSTANT,
        "saturated units",
        "vanishing gradients",
    ),
    failing(
        FAMILY,
        "[n, 1] against [n]",
        0.7,
        lambda seed: broadcast(seed, False),
        *CONSTANT,
        "sanity:shapes of outputs and labels",
    ),
]
