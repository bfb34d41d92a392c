"""Bugs in losses, shapes and networks; each with a look-alike that is right, where there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning.pytorch as L
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scenarios import styles as s
from benchmarks.models.scenarios.styles import Plain, predict, stream, table
from benchmarks.models.trainings import Training, adam, digits, mlp, sgd, split

FAMILY = "bugs in code"
CONSTANT = ("prediction collapse", "inputs ignored")
TOO_HIGH = ("divergence", "learning rate too high", "non-finite values")
UNRELATED = ("labels do not follow from inputs", "sanity:labels follow from inputs")
TOO_LITTLE = (
    "labels do not follow from inputs",
    "vanishing gradients",
    "prediction collapse",
    "sanity:overfits one batch",
)


def simple(
    seed: int,
    net: Callable[[], nn.Module],
    optimizer: s.Optimizer,
    loss: s.Loss = F.cross_entropy,
    data: tuple[Tensor, ...] | None = None,
    style: Callable[..., L.LightningModule] = Plain,
    score: Callable[[tuple[Tensor, ...]], s.Score] = s.accuracy,
    **more: Any,
) -> Training:
    """Train a network on digits, or on other rows."""
    return table(seed, lambda: style(net(), loss, optimizer), data or digits(), score, **more)


WIDE = lambda: mlp([64, 128, 128, 10])  # noqa: E731

# -- losses -----------------------------------------------------------------------------------------------------------


def species(seed: int, last: nn.Module, optimizer: s.Optimizer, scale: float = 1.0) -> Training:
    """100 classes around 100 points; a last layer follows the logits, and cross-entropy after it."""
    torch.manual_seed(seed)
    centres = torch.randn(100, 32, generator=torch.Generator().manual_seed(4))

    def draw(generator: torch.Generator, index: int, count: int = 64) -> Any:
        y = torch.randint(100, (count,), generator=generator)
        return centres[y] + 0.7 * torch.randn(count, 32, generator=generator), y

    held = draw(torch.Generator().manual_seed(999_999), 0, 2000)
    module = Plain(nn.Sequential(mlp([32, 128, 100]), last), lambda p, y: F.cross_entropy(p / scale, y), optimizer)
    return stream(seed, module, draw, s.accuracy(held), steps=500, validation=[(held[0][:500], held[1][:500])])


def one_by_one(held: tuple[Tensor, ...]) -> s.Score:
    """Share of right answers when rows come one at a time, as in use."""
    return lambda m: sum(float(predict(m, x[None]).argmax(1) == y) for x, y in zip(*held, strict=True)) / len(held[1])


def saved_bits(held: tuple[Tensor, ...]) -> s.Score:
    """Share of the entropy of the labels that ``sigmoid(forward(x))`` saves: below 0, the base rate is better."""
    y = held[1]
    rate = y.mean()
    entropy = float(F.binary_cross_entropy(rate.expand(y.shape), y))
    return lambda m: 1 - float(F.binary_cross_entropy_with_logits(predict(m, held[0]), y)) / entropy


def is_three(seed: int, sigmoid: bool) -> Training:
    """Is it a 3? One in ten is. Where the network ends in a sigmoid, the loss applies another one."""
    data = (digits()[0], (digits()[1] == 3).float()[:, None])
    net = lambda: nn.Sequential(mlp([64, 64, 1]), *([nn.Sigmoid()] if sigmoid else []))  # noqa: E731
    return simple(seed, net, adam(2e-3), F.binary_cross_entropy_with_logits, data, score=saved_bits)


# -- shapes -----------------------------------------------------------------------------------------------------------


class Reader(nn.Module):
    """Reads a digit row by row with a GRU that wants time first; ``view`` gives it rows of different images."""

    def __init__(self, view: bool) -> None:
        super().__init__()
        self.view, self.memory, self.head = view, nn.GRU(8, 48), nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = x.reshape(-1, 8, 8)
        x = x.reshape(8, len(x), 8) if self.view else x.permute(1, 0, 2)
        return self.head(self.memory(x)[0][-1])


def candidates(seed: int, interleaved: bool) -> Training:
    """Eight candidates for each query: which ones belong to its class? The queries repeat in one order or another."""
    torch.manual_seed(seed)
    train, held = split(digits(), seed)

    def pairs(data: tuple[Tensor, ...], generator: torch.Generator, count: int, right: bool) -> Any:
        query = torch.randint(len(data[1]), (count,), generator=generator)
        other = torch.randint(len(data[1]), (count * 8,), generator=generator)
        target = (data[1][query].repeat_interleave(8) == data[1][other]).float()
        queries = data[0][query].repeat_interleave(8, 0) if right else data[0][query].repeat(8, 1)
        return torch.cat([queries, data[0][other]], 1), target

    net = nn.Sequential(mlp([128, 128, 64, 1]), nn.Flatten(0))
    weight = torch.tensor(5.0)
    loss = lambda logits, y: F.binary_cross_entropy_with_logits(logits, y, pos_weight=weight)  # noqa: E731
    draw = lambda generator, index: pairs(train, generator, 24, interleaved)  # noqa: E731
    score = s.auc(pairs(held, torch.Generator().manual_seed(6), 500, True))
    val = [pairs(held, torch.Generator().manual_seed(7), 60, interleaved)]
    return stream(seed, Plain(net, loss, adam(3e-3)), draw, score, steps=600, validation=val)


# -- what a network can express ---------------------------------------------------------------------------------------


def parity(seed: int, act: Callable[[], nn.Module]) -> Training:
    """Exclusive or of the signs of two numbers among 6."""
    torch.manual_seed(seed)

    def draw(generator: torch.Generator, index: int, count: int = 64) -> Any:
        x = torch.randn(count, 6, generator=generator)
        return x, ((x[:, 0] > 0) ^ (x[:, 1] > 0)).long()

    held = draw(torch.Generator().manual_seed(999_999), 0, 2000)
    module = Plain(mlp([6, 64, 64, 2], act), F.cross_entropy, adam(3e-3))
    return stream(seed, module, draw, s.accuracy(held), steps=500, validation=[(held[0][:400], held[1][:400])])


def per_class(logits: Tensor, y: Tensor) -> Tensor:
    """A sum over rows, divided by rows, classes and rows again: 640 times too small."""
    return F.cross_entropy(logits, y, reduction="sum") / logits.numel() / len(y)


SUM = lambda logits, y: F.cross_entropy(logits, y, reduction="sum")  # noqa: E731
NEGATED = lambda logits, y: -F.cross_entropy(logits, y)  # noqa: E731
EXPECTED = lambda logits, y: -logits.softmax(1).gather(1, y[:, None]).mean()  # noqa: E731
OVER_BATCH = nn.LogSoftmax(0)

SCENARIOS: list[Scenario] = [
    # -- losses
    failing(
        FAMILY,
        "softmax before cross-entropy, 100 classes",
        0.6,
        lambda seed: species(seed, nn.Softmax(1), sgd(0.05)),
        *TOO_LITTLE,
        "sanity:initial loss",
    ),
    healthy(FAMILY, "log-softmax before cross-entropy", 0.6, lambda seed: species(seed, nn.LogSoftmax(1), sgd(0.05))),
    healthy(FAMILY, "temperature 0.2", 0.6, lambda seed: species(seed, nn.Identity(), adam(1e-3), scale=0.2)),
    failing(
        FAMILY,
        "softmax over the batch",
        0.8,
        lambda seed: simple(seed, lambda: nn.Sequential(WIDE(), OVER_BATCH), adam(1e-3), F.nll_loss, score=one_by_one),
        "sanity:samples do not leak",
        "sanity:initial loss",
    ),
    failing(
        FAMILY,
        "two sigmoids",
        0.3,
        lambda seed: is_three(seed, True),
        "prediction collapse",
        "sanity:initial loss",
        "sanity:overfits one batch",
    ),
    healthy(FAMILY, "one sigmoid, in the loss", 0.3, lambda seed: is_three(seed, False)),
    failing(
        FAMILY,
        "sign of the loss flipped",
        0.8,
        lambda seed: simple(seed, WIDE, sgd(0.05), NEGATED),
        *TOO_HIGH,
        "labels do not follow from inputs",
        "prediction collapse",
        "sanity:overfits one batch",
    ),
    healthy(
        FAMILY, "minus the expected accuracy", 0.8, lambda seed: simple(seed, WIDE, adam(3e-3), EXPECTED, steps=600)
    ),
    failing(
        FAMILY,
        "summed loss, rate of a mean",
        0.8,
        lambda seed: simple(seed, WIDE, sgd(0.1), SUM, batch=128),
        *TOO_HIGH,
        *CONSTANT,
        "dead units",
        "sanity:initial loss",
        twin="summed loss, rate of a sum",
    ),
    healthy(FAMILY, "summed loss, rate of a sum", 0.8, lambda seed: simple(seed, WIDE, sgd(1e-3), SUM, batch=128)),
    failing(
        FAMILY,
        "loss divided three times",
        0.8,
        lambda seed: simple(seed, WIDE, sgd(0.1), per_class),
        *TOO_LITTLE,
        "sanity:initial loss",
    ),
    # -- shapes
    failing(
        FAMILY,
        "view for permute",
        0.8,
        lambda seed: simple(seed, lambda: Reader(True), adam(3e-3), detectors=s.watched("net", units=False)),
        *UNRELATED,
        "prediction collapse",
        "sanity:samples do not leak",
    ),
    healthy(
        FAMILY,
        "permute for time first",
        0.8,
        lambda seed: simple(seed, lambda: Reader(False), adam(3e-3), detectors=s.watched("net", units=False)),
    ),
    failing(
        FAMILY,
        "repeat for repeat_interleave in pairs",
        0.75,
        lambda seed: candidates(seed, False),
        *UNRELATED,
        *CONSTANT,
    ),
    healthy(FAMILY, "eight candidates for each query", 0.75, lambda seed: candidates(seed, True)),
    # -- what a network can express
    failing(
        FAMILY,
        "exclusive or without an activation",
        0.9,
        lambda seed: parity(seed, nn.Identity),
        *UNRELATED,
        *CONSTANT,
        "sanity:overfits one batch",
    ),
    healthy(FAMILY, "exclusive or with ReLU", 0.9, lambda seed: parity(seed, nn.ReLU)),
    healthy(
        FAMILY,
        "deep linear network on breast cancer",
        0.85,
        lambda seed: simple(
            seed,
            lambda: mlp([30, 32, 32, 32, 2], nn.Identity),
            adam(1e-3),
            data=t.cancer(),
            detectors=s.watched("net", units=False),
        ),
    ),
]
