"""Regression of distributions: quantiles, densities, survival, and counts and claims that are often 0."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scenarios import styles as s
from benchmarks.models.scenarios.regression import CONSTANT, FAMILY, NET, fitted, function, held, normal, rows
from benchmarks.models.scenarios.styles import Plain, predict, stream
from benchmarks.models.trainings import Training, adam, mlp

# -- distributions ----------------------------------------------------------------------------------------------------

LEVELS = torch.tensor([0.05, 0.5, 0.95])


def pinball(predictions: Tensor, y: Tensor) -> Tensor:
    """The loss of quantiles."""
    error = y - predictions
    return torch.maximum(LEVELS * error, (LEVELS - 1) * error).mean()


def quantile_skill(test: tuple[Tensor, ...]) -> s.Score:
    """Share of the pinball loss of constant quantiles that is saved."""
    constant = torch.quantile(test[1], LEVELS)[None]
    return lambda module: 1 - float(pinball(predict(module, test[0]), test[1]) / pinball(constant, test[1]))


def uneven(y: Tensor, generator: torch.Generator) -> Tensor:
    """Small values, with noise that depends on the value: log-densities are well above 0."""
    return 0.1 * (y + (0.05 + 0.3 * (y > 0)) * torch.randn(y.shape, generator=generator))


def likelihood(output: Tensor, y: Tensor) -> Tensor:
    """Negative log-likelihood of a normal distribution with mean and log-variance from the network."""
    mean, log_variance = output.chunk(2, 1)
    return (0.5 * (log_variance + (y - mean).square() / log_variance.exp())).mean() + 0.5 * math.log(2 * math.pi)


def density_skill(test: tuple[Tensor, ...]) -> s.Score:
    """By how many nats per row the density is better than the best normal distribution without inputs."""
    constant = 0.5 * float(test[1].var().log()) + 0.5 + 0.5 * math.log(2 * math.pi)
    return lambda module: constant - float(likelihood(predict(module, test[0]), test[1]).nan_to_num(99.0, 99.0, 99.0))


def sixty_rows(seed: int) -> Training:
    """Mean and variance of 60 rows: the variance shrinks until each row is certain."""
    torch.manual_seed(seed)
    draw = rows(60, normal(1.0))
    fixed = draw(torch.Generator().manual_seed(seed + 500), 0)
    test = held(normal(1.0))
    module = Plain(mlp([8, 128, 128, 2]), likelihood, adam(2e-3))
    return stream(
        seed,
        module,
        lambda g, i: fixed,
        density_skill(test),
        steps=600,
        detectors=s.UNITS,
        validation=[(test[0][:300], test[1][:300])],
    )


# -- survival ---------------------------------------------------------------------------------------------------------


def cox(reversed_: bool) -> s.Loss:
    """Cox's partial likelihood; reversed, each event is compared with those that came before it."""

    def loss(risk: Tensor, y: Tensor) -> Tensor:
        time, event = y[:, 0], y[:, 1]
        order = torch.argsort(time, descending=not reversed_)
        risk, event = risk[order, 0], event[order]
        return -((risk - torch.logcumsumexp(risk, 0)) * event).sum() / event.sum().clamp(min=1)

    return loss


def concordance(test: tuple[Tensor, ...]) -> s.Score:
    """Share of comparable pairs in which the one with the higher risk dies first; 0.5 by chance."""

    def score(module: Any) -> float:
        risk, (time, event) = predict(module, test[0])[:, 0], test[1].unbind(1)
        pairs = (time[:, None] < time[None]) & (event[:, None] > 0)
        return float((risk[:, None] > risk[None])[pairs].float().mean())

    return score


def survival(seed: int, reversed_: bool) -> Training:
    """Times to an event, a third of which are censored."""
    torch.manual_seed(seed)

    def draw(generator: torch.Generator, index: int, count: int = 64) -> Any:
        x = torch.randn(count, 8, generator=generator)
        time = -torch.rand(count, generator=generator).clamp(1e-6).log() / torch.exp(0.8 * function(x))
        end = -2 * torch.rand(count, generator=generator).clamp(1e-6).log()
        return x, torch.stack([torch.minimum(time, end), (time <= end).float()], 1)

    test = draw(torch.Generator().manual_seed(999_999), 0, 1500)
    module = Plain(NET(), cox(reversed_), adam(2e-3))
    val = [draw(torch.Generator().manual_seed(seed + 60), 0, 256)]
    return stream(seed, module, draw, concordance(test), detectors=s.UNITS, validation=val)


# -- counts -----------------------------------------------------------------------------------------------------------


def counts(y: Tensor, generator: torch.Generator) -> Tensor:
    """Poisson counts with a mean of about 2."""
    return torch.poisson(torch.exp(0.7 * y), generator=generator)


def seldom(y: Tensor, generator: torch.Generator) -> Tensor:
    """Claims: seven in ten are 0, and the others depend on the inputs."""
    paid = torch.rand(y.shape, generator=generator) < 0.3 * torch.sigmoid(3 * y) + 0.05
    return torch.where(paid, 3 + y, 0.0)


def deviance(log_rate: bool) -> Callable[[tuple[Tensor, ...]], s.Score]:
    """Share of the Poisson deviance of a constant rate that is explained."""

    def make(test: tuple[Tensor, ...]) -> s.Score:
        y = test[1]

        def loss(rate: Tensor) -> float:
            rate = rate.clamp(min=1e-6)
            return float((rate - y + torch.special.xlogy(y, y / rate)).mean())

        def score(module: Any) -> float:
            output = predict(module, test[0])
            return 1 - loss(output.exp() if log_rate else output) / loss(y.mean().expand(y.shape))

        return score

    return make


class Rates(nn.Module):
    """Rates through a last ReLU, with a bias that puts all of them below 0."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.positive = mlp([8, 64, 64, 1]), nn.ReLU()
        nn.init.constant_(self.inner[-1].bias, -1.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.positive(self.inner(x))


SCENARIOS: list[Scenario] = [
    # -- healthy
    healthy(
        FAMILY,
        "three quantiles",
        0.25,
        lambda seed: fitted(
            seed, pinball, adam(3e-3), normal(0.3), normal(0.3), lambda: NET(3), score=quantile_skill, detectors=s.UNITS
        ),
    ),
    healthy(
        FAMILY,
        "mean and variance of small values, negative loss",
        0.5,
        lambda seed: fitted(
            seed,
            likelihood,
            adam(3e-3),
            uneven,
            uneven,
            lambda: NET(2),
            score=density_skill,
            steps=700,
            detectors=s.UNITS,
        ),
    ),
    healthy(FAMILY, "Cox regression", 0.65, lambda seed: survival(seed, False)),
    healthy(
        FAMILY,
        "Poisson counts",
        0.2,
        lambda seed: fitted(
            seed, F.poisson_nll_loss, adam(2e-3), counts, counts, score=deviance(True), detectors=s.UNITS
        ),
    ),
    healthy(
        FAMILY,
        "seven claims in ten are 0, squared error",
        0.05,
        lambda seed: fitted(seed, F.mse_loss, adam(2e-3), seldom, seldom, batch=128),
    ),
    # -- failing
    failing(FAMILY, "mean and variance of 60 rows", 0.0, sixty_rows, "overfitting", onset=0.05),
    failing(
        FAMILY,
        "Cox regression, risk sets reversed",
        0.65,
        lambda seed: survival(seed, True),
        # nothing in the run itself is unusual: that the ranks are wrong is all there is to see
        "labels do not follow from inputs",
        "sanity:labels follow from inputs",
    ),
    failing(
        FAMILY,
        "counts through a last ReLU that is dead",
        0.2,
        lambda seed: fitted(
            seed,
            lambda rate, y: F.poisson_nll_loss(rate, y, log_input=False),
            adam(2e-3),
            counts,
            counts,
            Rates,
            score=deviance(False),
        ),
        *CONSTANT,
        "dead units",
        "no gradients",
    ),
    failing(
        FAMILY,
        "seven claims in ten are 0, absolute error",
        0.05,
        lambda seed: fitted(seed, F.l1_loss, adam(2e-3), seldom, seldom, batch=128),
        *CONSTANT,
    ),
]
