"""Bugs in data and settings: order, pairs, scales, leaks, rates, weight decay; each with a look-alike that is right."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scenarios import styles as s
from benchmarks.models.scenarios.bugs import CONSTANT, TOO_HIGH, TOO_LITTLE, UNRELATED, WIDE, simple
from benchmarks.models.scenarios.bugs_in_updates import pixels
from benchmarks.models.scenarios.regression import diabetes
from benchmarks.models.scenarios.styles import Plain, stream
from benchmarks.models.trainings import Training, adam, digits, mlp, rows, sgd, split

FAMILY = "bugs in data"


# -- order ------------------------------------------------------------------------------------------------------------


def sorted_by_label(seed: int) -> Training:
    """A loader that is not shuffled, on files that lie in one folder per class: three passes over them."""
    torch.manual_seed(seed)
    (x, y), held = split(digits(), seed)
    order = torch.argsort(y, stable=True)
    x, y = x[order], y[order]

    def draw(generator: torch.Generator, index: int) -> Any:
        start = 12 * index % (len(y) - 12)
        return x[start : start + 12], y[start : start + 12]

    return stream(seed, Plain(WIDE(), F.cross_entropy, sgd(0.02)), draw, s.accuracy(held), steps=360)


def sorted_in_batches(seed: int) -> Training:
    """The rows of a batch are sorted by label, as collate functions that pack by length do."""
    torch.manual_seed(seed)
    train, held = split(digits(), seed)
    inner = rows(train, 64)

    def draw(generator: torch.Generator, index: int) -> Any:
        x, y = inner(generator, index)
        order = torch.argsort(y)
        return x[order], y[order]

    module = Plain(WIDE(), F.cross_entropy, sgd(0.05))
    return stream(seed, module, draw, s.accuracy(held), validation=[held])


def diabetes_pairs(seed: int) -> Training:
    """Inputs and targets come from two files that are sorted differently."""
    x, y = diabetes()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    training = simple(
        seed, lambda: mlp([10, 32, 1]), adam(1e-3, weight_decay=0.1), F.mse_loss, (x, y[order]), score=s.r2, batch=32
    )
    return training


def one_batch(seed: int, size: int) -> Training:
    """A sampler whose seed is set in each call: every batch is the first one."""
    torch.manual_seed(seed)
    train, held = split(digits(), seed)
    first = rows(train, size)(torch.Generator().manual_seed(seed), 0)
    module = Plain(WIDE(), F.cross_entropy, adam(2e-3))
    return stream(seed, module, lambda g, i: first, s.accuracy(held), validation=[held])


# -- leaks ------------------------------------------------------------------------------------------------------------


class Unseen:
    """Accuracy on validation data, and on data that neither training nor validation has."""

    def __init__(self, val: tuple[Tensor, ...], unseen: tuple[Tensor, ...]) -> None:
        self.val, self.unseen = s.accuracy(val), s.accuracy(unseen)

    def __call__(self, module: Any) -> float:
        """By how much the validation promises too much, negated."""
        return self.unseen(module) - self.val(module)


def validated(seed: int, overlap: bool) -> Training:
    """400 digits, a quarter of them mislabelled; validation on 200 others, or on 200 of the same."""
    torch.manual_seed(seed)
    x, y = digits()
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
    generator = torch.Generator().manual_seed(seed + 1)
    y = torch.where(torch.rand(len(y), generator=generator) < 0.25, torch.randint(10, y.shape, generator=generator), y)
    train, val, unseen = ((x[i], y[i]) for i in (order[:400], order[400:600], order[600:]))
    if overlap:
        val = (train[0][:200], train[1][:200])
    module = Plain(WIDE(), F.cross_entropy, adam(2e-3 if overlap else 1e-3))
    steps = 800 if overlap else 150
    return stream(seed, module, rows(train, 64), Unseen(val, unseen), validation=[val], steps=steps)


def churn(seed: int, leaked: bool) -> Training:
    """Will a customer leave? Column 20 is filled in afterwards, so in use it is 0."""
    torch.manual_seed(seed)

    def draw(generator: torch.Generator, index: int, count: int = 64, known: bool = leaked) -> Any:
        x = torch.randn(count, 21, generator=generator)
        y = (x[:, 0] * x[:, 1] + 0.2 * torch.randn(count, generator=generator) > 0).long()
        x[:, 20] = 4.0 * (2 * y - 1) if known else 0.0
        return x, y

    in_use = draw(torch.Generator().manual_seed(999_999), 0, 4000, False)
    val = [draw(torch.Generator().manual_seed(seed + 5), 0, 500)]
    module = Plain(mlp([21, 32, 2]), F.cross_entropy, adam(3e-3))
    return stream(seed, module, draw, s.accuracy(in_use), validation=val, steps=600)


# -- scales -----------------------------------------------------------------------------------------------------------


def broken_row(value: float, start: int) -> Callable[[Any, int], Any]:
    """From one batch on, every twentieth batch has a row whose sensor failed."""

    def spoil(batch: Any, index: int) -> Any:
        if index < start or (index - start) % 20:
            return batch
        x = batch[0].clone()
        x[3] = value
        return (x, *batch[1:])

    return spoil


def broken(seed: int, value: float, **more: Any) -> Training:
    """Digits, among which are broken rows."""
    torch.manual_seed(seed)
    train, held = split(digits(), seed)
    inner, spoil = rows(train, 64), broken_row(value, 120)
    draw = lambda generator, index: spoil(inner(generator, index), index)  # noqa: E731
    module = Plain(WIDE(), F.cross_entropy, sgd(0.05))
    return stream(seed, module, draw, s.accuracy(held), validation=[held], **more)


def clipped(seed: int, threshold: float) -> Training:
    """Digits with SGD and a gradient clipped to a norm."""
    arguments = {"max_steps": 400, "gradient_clip_val": threshold}
    return simple(seed, WIDE, sgd(0.1), arguments=arguments)


class Convolutions(nn.Module):
    """Two convolutions with BatchNorm: the loss does not depend on the scale of their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1, bias=False),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 16, 3, padding=1, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
        )
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x.reshape(-1, 1, 8, 8)).flatten(1))


def tokens(seed: int, lr: float) -> Training:
    """The tagger of the other scenarios, a transformer, with validation."""
    return t.tagger(seed, lr, 16, 300)


SCENARIOS: list[Scenario] = [
    # -- order
    failing(
        FAMILY,
        "not shuffled, sorted by label",
        0.7,
        sorted_by_label,
        "prediction collapse",
        "loss spikes",
        "divergence",
        "sanity:data are shuffled",
    ),
    healthy(FAMILY, "sorted by label within each batch", 0.8, sorted_in_batches),
    failing(FAMILY, "diabetes, targets of other patients", 0.2, diabetes_pairs, *UNRELATED, *CONSTANT),
    failing(FAMILY, "every batch is the first one", 0.85, lambda seed: one_batch(seed, 16), "overfitting"),
    # -- leaks
    failing(
        FAMILY,
        "validation data in training",
        -0.1,
        lambda seed: validated(seed, True),
        "overfitting",
        "sanity:validation data are new",
    ),
    healthy(FAMILY, "validation data that are new", -0.1, lambda seed: validated(seed, False)),
    failing(
        FAMILY,
        "the target is a feature",
        0.7,
        lambda seed: churn(seed, True),
        # that one column says it all is all there is to see
        "sanity:inputs matter",
        "sanity:labels follow from inputs",
    ),
    healthy(FAMILY, "a column that is always 0", 0.7, lambda seed: churn(seed, False)),
    # -- scales
    failing(
        FAMILY,
        "pixels from 0 to 255, SGD at 0.1",
        0.8,
        lambda seed: simple(seed, WIDE, sgd(0.1), data=pixels()),
        *TOO_HIGH,
        *CONSTANT,
        "dead units",
    ),
    failing(
        FAMILY,
        "rows of 1e8",
        0.8,
        lambda seed: broken(seed, 1e8),
        *TOO_HIGH,
        "loss spikes",
        *CONSTANT,
        "dead units",
        onset=0.3,
    ),
    healthy(
        FAMILY,
        "rows of 1e3, gradient clipped",
        0.8,
        lambda seed: broken(seed, 1e3, arguments={"max_steps": 400, "gradient_clip_val": 0.5}),
    ),
    failing(FAMILY, "gradient clipped to 1e-4", 0.8, lambda seed: clipped(seed, 1e-4), *TOO_LITTLE),
    healthy(FAMILY, "gradient clipped to 0.5", 0.8, lambda seed: clipped(seed, 0.5)),
    # -- rates
    failing(
        FAMILY,
        "wine, SGD, rate 100 times too high",
        0.8,
        lambda seed: simple(seed, lambda: mlp([13, 64, 64, 3]), sgd(10.0), data=t.wine(), batch=16),
        *TOO_HIGH,
        *CONSTANT,
        "dead units",
    ),
    failing(
        FAMILY,
        "transformer, Adam, rate 100 times too high",
        0.8,
        lambda seed: tokens(seed, 0.3),
        *TOO_HIGH,
        *CONSTANT,
        "labels do not follow from inputs",
    ),
    failing(
        FAMILY,
        "tanh, Adam, rate 300 times too high",
        0.8,
        lambda seed: simple(seed, lambda: mlp([64, 128, 128, 10], nn.Tanh), adam(0.3)),
        *TOO_HIGH,
        *CONSTANT,
        "saturated units",
    ),
    failing(
        FAMILY,
        "SGD, rate 1000 times too low",
        0.8,
        lambda seed: simple(seed, WIDE, sgd(1e-4)),
        *TOO_LITTLE,
    ),
    failing(
        FAMILY,
        "transformer, Adam, rate 1000 times too low",
        0.8,
        lambda seed: tokens(seed, 3e-6),
        *TOO_LITTLE,
    ),
    healthy(
        FAMILY,
        "BatchNorm at a rate of 1",
        0.85,
        lambda seed: simple(seed, Convolutions, sgd(1.0, 0.0), batch=32, steps=300),
    ),
    failing(
        FAMILY,
        "weight decay 30",
        0.8,
        lambda seed: simple(seed, WIDE, adam(1e-3, weight_decay=30.0)),
        "shrinking weights",
        *CONSTANT,
        "vanishing gradients",
    ),
    healthy(FAMILY, "weight decay 0.5", 0.85, lambda seed: simple(seed, WIDE, adam(2e-3, weight_decay=0.5))),
]
