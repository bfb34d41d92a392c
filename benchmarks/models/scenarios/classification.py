"""Classification: rare classes, noise and weak signals, several labels for one row, many and new classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scenarios import styles as s
from benchmarks.models.scenarios.styles import DICT, Plain, Shared, fresh, predict, stream
from benchmarks.models.trainings import Training, adam, digits, mlp, rows, sgd, split

FAMILY = "classification"
LOST = ("prediction collapse", "inputs ignored")


# -- rare classes -----------------------------------------------------------------------------------------------------


def threes(seed: int, scale: float = 1.0) -> Training:
    """Is it a 3? One image in a hundred is."""
    torch.manual_seed(seed)
    (x, y), held = split((digits()[0] * scale, (digits()[1] == 3).long()), seed)
    positive, negative = torch.nonzero(y == 1).flatten(), torch.nonzero(y == 0).flatten()

    def draw(generator: torch.Generator, index: int) -> Any:
        rare = torch.rand(128, generator=generator) < 0.01
        places = torch.rand(128, generator=generator)
        chosen = torch.where(rare, positive[(places * len(positive)).long()], negative[(places * len(negative)).long()])
        return x[chosen], y[chosen]

    module = Plain(mlp([64, 64, 2]), F.cross_entropy, adam(2e-3))
    return stream(seed, module, draw, s.balanced_accuracy(held), steps=600, validation=[held])


def fraud(batch: int) -> Callable[[torch.Generator, int], Any]:
    """Four transactions in a thousand are fraud, most of them where two numbers of 20 are large."""

    def draw(generator: torch.Generator, index: int) -> Any:
        x = torch.randn(batch, 20, generator=generator)
        likely = 0.0002 + 0.8 * torch.sigmoid(12 * (x[:, 0] + x[:, 1] - 3.7))
        return x, (torch.rand(batch, generator=generator) < likely).long()

    return draw


def fraud_detector(seed: int, weights: tuple[float, float]) -> Training:
    """Class weights against the imbalance."""
    torch.manual_seed(seed)
    weight = torch.tensor(weights)
    module = Shared(mlp([20, 64, 2]), lambda logits, y: F.cross_entropy(logits, y, weight=weight), adam(3e-3))
    score = s.balanced_accuracy(fresh(fraud(20_000)))
    held = [s.named(fraud(2000))(torch.Generator().manual_seed(seed), 0)]
    return stream(seed, module, s.named(fraud(256)), score, detectors=DICT, steps=500, validation=held)


# -- noise and weak signals -------------------------------------------------------------------------------------------


def mislabelled(data: tuple[Tensor, ...], share: float, seed: int) -> tuple[Tensor, ...]:
    """Replace a share of the labels by other classes."""
    generator, (x, y) = torch.Generator().manual_seed(seed), data
    wrong = torch.rand(len(y), generator=generator) < share
    return x, torch.where(wrong, (y + torch.randint(1, 10, y.shape, generator=generator)) % 10, y)


def noisy_digits(seed: int) -> Training:
    """Four in ten labels are wrong, in training and in validation; the score asks for the right ones."""
    torch.manual_seed(seed)
    train, held = split(digits(), seed)
    draw = rows(mislabelled(train, 0.4, seed), 128)
    module = Plain(mlp([64, 64, 10]), F.cross_entropy, adam(1e-3))
    return stream(seed, module, draw, s.accuracy(held), validation=[mislabelled(held, 0.4, seed + 1)])


def weak(batch: int, slope: float, related: bool = True) -> Callable[[torch.Generator, int], Any]:
    """The label depends on one number of 20, a little; or on none."""

    def draw(generator: torch.Generator, index: int) -> Any:
        x = torch.randn(batch, 20, generator=generator)
        told = x[:, 0] if related else torch.randn(batch, generator=generator)
        return x, (torch.rand(batch, generator=generator) < torch.sigmoid(slope * told)).long()

    return draw


def weak_signal(seed: int, slope: float, related: bool = True) -> Training:
    """Logistic slopes of 0.2 and 0.35 allow an AUC of 0.556 and 0.597."""
    torch.manual_seed(seed)
    module = Plain(mlp([20, 32, 2]), F.cross_entropy, adam(1e-3, weight_decay=0.1))
    draw = weak(256, slope, related)
    held = weak(40_000, slope)(torch.Generator().manual_seed(31), 0)
    val = weak(1000, slope, related)(torch.Generator().manual_seed(32), 0)
    return stream(seed, module, draw, s.auc(held), steps=600, validation=[val])


def skill(held: tuple[Tensor, ...]) -> s.Score:
    """Share of the entropy of the labels that the predicted probabilities save: below 0, a constant is better."""

    def score(module: Any) -> float:
        frequencies = torch.bincount(held[1]) / len(held[1])
        entropy = -float((frequencies * frequencies.log()).sum())
        return 1 - float(F.cross_entropy(predict(module, held[0]), held[1])) / entropy

    return score


def medical(seed: int, net: Callable[[], nn.Module], count: int) -> Training:
    """Patients with 50 numbers, one of which says something."""
    torch.manual_seed(seed)
    x, y = weak(count + 4000, 1.0)(torch.Generator().manual_seed(seed + 77), 0)
    x = torch.cat([x, torch.randn(len(x), 30, generator=torch.Generator().manual_seed(seed))], 1)
    draw, held = rows((x[:count], y[:count]), 32), (x[count:], y[count:])
    module = Plain(net(), F.cross_entropy, adam(1e-3))
    return stream(seed, module, draw, skill(held), steps=500, validation=[(held[0][:500], held[1][:500])])


# -- several labels, several classes ----------------------------------------------------------------------------------


def properties(data: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Digits with six properties: even, at least 5, prime, has a loop, is 0, is 1."""
    sets = ({0, 2, 4, 6, 8}, {5, 6, 7, 8, 9}, {2, 3, 5, 7}, {0, 6, 8, 9}, {0}, {1})
    has = torch.tensor([[float(k in some) for some in sets] for k in range(10)])
    return data[0], has[data[1]]


def multi_label(seed: int, optimizer: s.Optimizer) -> Training:
    """Six yes-or-no questions about a digit."""
    torch.manual_seed(seed)
    train, held = split(properties(digits()), seed)

    def score(module: Any) -> float:
        said, true = predict(module, held[0]) > 0, held[1] > 0
        return float((2 * (said & true).sum(0) / (said.sum(0) + true.sum(0)).clamp(min=1)).mean())

    module = Shared(mlp([64, 96, 96, 6]), F.binary_cross_entropy_with_logits, optimizer)
    val = [{"inputs": held[0], "labels": held[1]}]
    return stream(seed, module, s.named(rows(train, 64)), score, detectors=DICT, validation=val)


def rare_topics(seed: int, negatives: float) -> Training:
    """Documents as counts of 100 words; 30 topics, each of which one in 25 documents has."""
    torch.manual_seed(seed)
    words = torch.rand(30, 100, generator=torch.Generator().manual_seed(5)).pow(12)

    def draw(generator: torch.Generator, index: int, count: int = 128) -> Any:
        topics = (torch.rand(count, 30, generator=generator) < 0.04).float()
        return torch.poisson(0.2 + 4 * topics @ words, generator=generator), topics

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        each = F.binary_cross_entropy_with_logits(logits, y, reduction="none")
        return torch.where(y > 0, each, negatives * each).mean()

    held = draw(torch.Generator().manual_seed(999_999), 0, 3000)

    def score(module: Any) -> float:
        said, true = predict(module, held[0]) > 0, held[1] > 0
        return float(2 * (said & true).sum() / (said.sum() + true.sum()))

    return stream(seed, Plain(mlp([100, 128, 30]), loss, adam(3e-3)), draw, score, validation=[held])


def incremental(seed: int, replay: bool) -> Training:
    """Classes 0 to 4 first, then 5 to 7 too, then all; or in each phase the new ones only."""
    torch.manual_seed(seed)
    (x, y), held = split(digits(), seed)
    phases = [(0, 5), (5, 8), (8, 10)]
    known = [torch.nonzero((y < high) & ((y >= low) | replay)).flatten() for low, high in phases]

    def draw(generator: torch.Generator, index: int) -> Any:
        pool = known[min(index // 150, 2)]
        chosen = pool[torch.randint(len(pool), (64,), generator=generator)]
        return x[chosen], y[chosen]

    return stream(seed, Plain(mlp([64, 96, 10]), F.cross_entropy, adam(2e-3)), draw, s.accuracy(held), steps=500)


def species(seed: int, optimizer: s.Optimizer, batch: int = 128, scale: float = 1.0, steps: int = 500) -> Training:
    """200 classes around 200 points."""
    torch.manual_seed(seed)
    centres = torch.randn(200, 64, generator=torch.Generator().manual_seed(3))

    def draw(generator: torch.Generator, index: int, count: int = batch) -> Any:
        y = torch.randint(200, (count,), generator=generator)
        return centres[y] + 1.3 * torch.randn(count, 64, generator=generator), y

    held = draw(torch.Generator().manual_seed(999_999), 0, 2000)
    module = Plain(mlp([64, 256, 200]), F.cross_entropy, optimizer)
    return stream(seed, module, draw, s.accuracy(held), validation=[held], steps=steps)


SCENARIOS: list[Scenario] = [
    # -- healthy
    healthy(FAMILY, "99:1, learned", 0.75, threes),
    healthy(FAMILY, "99.6:0.4, learned", 0.75, lambda seed: fraud_detector(seed, (1.0, 60.0))),
    healthy(FAMILY, "four in ten labels wrong, everywhere", 0.75, noisy_digits),
    healthy(FAMILY, "weak signal, AUC 0.556 at best", 0.53, lambda seed: weak_signal(seed, 0.2)),
    healthy(FAMILY, "weak signal, AUC 0.597 at best", 0.57, lambda seed: weak_signal(seed, 0.35)),
    healthy(FAMILY, "linear model on 600 patients", 0.0, lambda seed: medical(seed, lambda: nn.Linear(50, 2), 600)),
    healthy(FAMILY, "six properties of a digit", 0.8, lambda seed: multi_label(seed, adam(2e-3))),
    healthy(FAMILY, "30 rare topics", 0.6, lambda seed: rare_topics(seed, 1.0)),
    healthy(FAMILY, "new classes appear, old ones stay", 0.85, lambda seed: incremental(seed, True)),
    healthy(FAMILY, "200 classes", 0.6, lambda seed: species(seed, adam(3e-3))),
    # -- failing
    failing(
        FAMILY,
        "99:1, pixels divided by 255 twice",
        0.75,
        lambda seed: threes(seed, 16 / 255**2),
        *LOST,
        "sanity:inputs matter",
        twin="99:1, learned",
    ),
    failing(
        FAMILY,
        "99.6:0.4, class weights the wrong way round",
        0.75,
        lambda seed: fraud_detector(seed, (60.0, 1.0)),
        *LOST,
    ),
    failing(
        FAMILY,
        "weak signal, labels drawn apart from the inputs",
        0.53,
        lambda seed: weak_signal(seed, 0.35, related=False),
        "labels do not follow from inputs",
        *LOST,
        "sanity:labels follow from inputs",
    ),
    failing(
        FAMILY,
        "large network on 600 patients",
        0.0,
        lambda seed: medical(seed, lambda: mlp([50, 256, 256, 2]), 600),
        "overfitting",
        onset=0.05,
    ),
    failing(
        FAMILY,
        "six properties, SGD at 30",
        0.8,
        lambda seed: multi_label(seed, sgd(30.0)),
        *LOST,
        "dead units",
        "learning rate too high",
        "divergence",
        twin="six properties of a digit",
    ),
    failing(
        FAMILY,
        "30 rare topics, negatives weigh 50 times more",
        0.6,
        lambda seed: rare_topics(seed, 50.0),
        *LOST,
    ),
    failing(
        FAMILY,
        "new classes appear, old ones are gone",
        0.85,
        lambda seed: incremental(seed, False),
        "prediction collapse",
        "divergence",
        "loss spikes",
        "sanity:data are shuffled",
    ),
    failing(
        FAMILY,
        "200 classes, SGD at 0.3, batch 2",
        0.6,
        lambda seed: species(seed, sgd(0.3), batch=2, steps=700),
        *LOST,
        "divergence",
        "learning rate too high",
        "dead units",
        twin="200 classes",
    ),
]
