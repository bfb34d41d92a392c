"""The scenarios on which the detectors' thresholds were chosen: failing trainings, and healthy ones that look like them."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario
from benchmarks.models.trainings import Training, adam, classifier, mlp, sgd

TOO_HIGH = frozenset({"divergence", "learning rate too high", "non-finite values", "loss spikes"})
NO_SIGNAL = frozenset({"inputs ignored"})
STOPPED = frozenset({"dead units"})
LOST = frozenset({"prediction collapse", "divergence", "loss spikes"})
WIDE = (64, 128, 128, 10)


def failing(name: str, make: Callable[[int], Training], *causes: str, onset: float = 0.0, twin: str = "") -> Scenario:
    """Make a failing scenario."""
    return Scenario(name, make, frozenset(causes), onset, twin)


def bias(net: nn.Sequential, value: float) -> nn.Sequential:
    """Set the biases of hidden layers."""
    for layer in list(net)[:-1]:
        if isinstance(layer, nn.Linear):
            nn.init.constant_(layer.bias, value)
            layer.weight.data.mul_(0.3)
    return net


class Ignoring(nn.Module):
    """Multiplies its input by 0."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = mlp(WIDE)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x * 0)
        return out


def shuffled(data: tuple[Tensor, ...], seed: int) -> tuple[Tensor, ...]:
    """Labels in another order than their inputs."""
    return data[0], data[1][torch.randperm(len(data[1]), generator=torch.Generator().manual_seed(seed))]


def few_and_noisy(count: int, noise: float) -> Callable[[tuple[Tensor, ...], int], tuple[Tensor, ...]]:
    """Few samples, a share of them with wrong labels."""

    def prepare(data: tuple[Tensor, ...], seed: int) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(seed)
        y = data[1][:count].clone()
        wrong = torch.rand(count, generator=generator) < noise
        y[wrong] = torch.randint(10, (int(wrong.sum()),), generator=generator)
        return data[0][:count], y

    return prepare


def nan_at(step: int) -> Callable[[tuple[Tensor, ...], int], tuple[Tensor, ...]]:
    """One NaN in one batch."""

    def spoil(batch: tuple[Tensor, ...], index: int) -> tuple[Tensor, ...]:
        return (torch.full_like(batch[0], math.nan), *batch[1:]) if index == step else batch

    return spoil


def imbalanced(data: tuple[Tensor, ...], seed: int) -> tuple[Tensor, ...]:
    """Ten times more of class 0."""
    zero = data[1] == 0
    return tuple(torch.cat([x[zero].repeat_interleave(10, 0), x[~zero]]) for x in data)


def one_against_all(data: tuple[Tensor, ...], seed: int) -> tuple[Tensor, ...]:
    """Is it a 3? One in ten is."""
    return data[0], (data[1] == 3).long()


def narrow(data: tuple[Tensor, ...], seed: int) -> tuple[Tensor, ...]:
    """Inputs in three dimensions of 64."""
    x = data[0] - data[0].mean(0)
    _, _, v = torch.linalg.svd(x, full_matrices=False)
    return x @ v[:3].T @ v[:3] * 3, data[1]


def burst(start: int, length: int, factor: float) -> Callable[[int], float]:
    """A rate that is too high for some steps."""
    return lambda step: factor if start <= step < start + length else 1.0


SCENARIOS = [
    # -- failing
    failing("SGD, rate 3", lambda s: classifier(s, lambda: mlp(WIDE), sgd(3.0)), *TOO_HIGH, *STOPPED, twin="digits"),
    failing(
        "Adam, rate 0.3, deep",
        lambda s: classifier(s, lambda: mlp([64, 128, 128, 128, 10]), adam(0.3)),
        *TOO_HIGH,
        *STOPPED,
        *NO_SIGNAL,
        twin="digits",
    ),
    failing("dead ReLU from the start", lambda s: classifier(s, lambda: bias(mlp(WIDE), -0.8), sgd(0.01)), *STOPPED),
    failing(
        "dead ReLU after a burst of the rate",
        lambda s: classifier(s, lambda: mlp(WIDE), sgd(0.1), rate=burst(100, 10, 60.0)),
        *STOPPED,
        *LOST,
        *TOO_HIGH,
        onset=0.25,
        twin="digits",
    ),
    failing(
        "eight sigmoid layers",
        lambda s: classifier(s, lambda: mlp([64, *[64] * 8, 10], nn.Sigmoid), sgd(0.05)),
        "vanishing gradients",
    ),
    failing("inputs times 0", lambda s: classifier(s, Ignoring, adam(1e-3)), *NO_SIGNAL),
    failing(
        "labels shuffled",
        lambda s: classifier(s, lambda: mlp([64, 32, 10]), adam(1e-3, weight_decay=0.1), change=shuffled),
        "labels do not follow from inputs",
    ),
    failing(
        "60 samples, a third mislabelled",
        lambda s: classifier(s, lambda: mlp(WIDE), adam(1e-3), prepare=few_and_noisy(60, 0.3), steps=500),
        "overfitting",
        onset=0.04,
    ),
    failing(
        "one batch of NaN",
        lambda s: classifier(s, lambda: mlp(WIDE), sgd(0.1), spoil=nan_at(133)),
        "non-finite values",
        onset=0.33,
        twin="digits",
    ),
    failing(
        "tagger, rate times 40 from half on",
        lambda s: t.tagger(s, 1e-3, 16, 400, rate=lambda step: 40.0 if step >= 200 else 1.0),
        *LOST,
        onset=0.5,
        twin="tagger",
    ),
    failing(
        "tagger of the blog post: batch 1, rate 2e-2",
        lambda s: t.tagger(s, 2e-2, 1, 600),
        *LOST,
        "labels do not follow from inputs",
        "inputs ignored",
        onset=0.1,
        twin="tagger, batch 32",
    ),
    failing("SimSiam, no stop-gradient", lambda s: t.siamese(s, t.simsiam(False)), "dimensional collapse"),
    failing(
        "SimSiam, no stop-gradient, no BatchNorm",
        lambda s: t.siamese(s, t.simsiam(False), net=lambda: t.Siamese(norm=False)),
        "complete collapse",
    ),
    failing(
        "SimSiam, no predictor",
        lambda s: t.siamese(s, t.simsiam(), net=lambda: t.Siamese(predictor=False)),
        "dimensional collapse",
    ),
    failing(
        "VICReg, no variance term",
        lambda s: t.siamese(s, t.vicreg(variance=0.0), optimizer=adam(1e-3), net=lambda: t.Siamese(norm=False)),
        "complete collapse",
        "dimensional collapse",
    ),
    failing(
        "VICReg, no covariance term",
        lambda s: t.siamese(s, t.vicreg(covariance=0.0), optimizer=adam(1e-3), net=lambda: t.Siamese(last=False)),
        "dimensional collapse",
    ),
    failing(
        "GAN on a circle, generator's rate 5e-3",
        lambda s: t.adversarial(s, t.circle(128), rates=(5e-3, 1e-3)),
        "mode collapse",
    ),
    failing(
        "GAN on digits, generator's rate 1e-2",
        lambda s: t.adversarial(s, t.rows((t.digits()[0] * 2 - 1,), 64), size=64, rates=(1e-2, 1e-3), steps=600),
        "mode collapse",
    ),
    failing("own text only, ten generations", lambda s: t.writer(s, source="replace"), "recursive collapse", onset=0.1),
    failing(
        "sampling gets cold",
        lambda s: t.writer(s, temperature=lambda epoch: 1.0 if epoch < 3 else 0.05),
        "repetition",
        onset=0.3,
    ),
    # -- healthy
    Scenario("digits", lambda s: classifier(s, lambda: mlp(WIDE), sgd(0.1))),
    Scenario("digits, long after convergence", lambda s: classifier(s, lambda: mlp(WIDE), adam(1e-3), steps=900)),
    Scenario("batch 2", lambda s: classifier(s, lambda: mlp(WIDE), sgd(0.01, 0.0), batch=2, steps=800)),
    Scenario(
        "warm-up from 1e-3 of the rate",
        lambda s: classifier(s, lambda: mlp(WIDE), sgd(0.1), steps=600, schedule=lambda i: 1e-3 if i < 200 else 1.0),
    ),
    Scenario("ten times more of class 0", lambda s: classifier(s, lambda: mlp(WIDE), sgd(0.1), prepare=imbalanced)),
    Scenario(
        "sparse ReLU", lambda s: classifier(s, lambda: bias(mlp([64, 256, 256, 10]), -0.02), adam(1e-3), steps=400)
    ),
    Scenario("inputs in three dimensions", lambda s: classifier(s, lambda: mlp(WIDE), adam(2e-3), change=narrow)),
    Scenario(
        "neural collapse at the end of good training",
        lambda s: classifier(s, lambda: mlp(WIDE, norm=True), sgd(0.1), steps=900),
    ),
    Scenario("eight tanh layers", lambda s: classifier(s, lambda: mlp([64, *[64] * 8, 10], nn.Tanh), adam(1e-3))),
    Scenario(
        "cyclic rate",
        lambda s: classifier(s, lambda: mlp(WIDE), sgd(0.1), rate=lambda i: 0.05 + abs((i % 100) - 50) / 50),
    ),
    Scenario("one in ten", lambda s: classifier(s, lambda: mlp([64, 64, 2]), adam(1e-3), change=one_against_all)),
    Scenario("tagger", lambda s: t.tagger(s, 1e-3, 16, 400)),
    Scenario("tagger, batch 32", lambda s: t.tagger(s, 1e-2, 32, 200)),
    Scenario("SimSiam", lambda s: t.siamese(s, t.simsiam())),
    Scenario(
        "VICReg",
        lambda s: t.siamese(s, t.vicreg(covariance=4.0), optimizer=adam(1e-3), net=lambda: t.Siamese(last=False)),
    ),
    Scenario(
        "VICReg on data of rank 4",
        lambda s: t.siamese(
            s, t.vicreg(covariance=4.0), optimizer=adam(1e-3), net=lambda: t.Siamese(last=False), data=t.low_rank(4)
        ),
    ),
    Scenario("Barlow Twins", lambda s: t.siamese(s, t.barlow(), optimizer=adam(1e-3))),
    Scenario(
        "GAN on a circle, R1",
        lambda s: t.adversarial(s, t.circle(128), rates=(1e-3, 1e-3), penalty=1.0, betas=(0.0, 0.9)),
    ),
    Scenario("ten generations, real text kept", lambda s: t.writer(s, source="accumulate")),
    Scenario("writer at temperature 1", lambda s: t.writer(s)),
]
