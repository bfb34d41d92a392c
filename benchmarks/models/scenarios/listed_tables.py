"""Rows of customers, patients and prices: half of the trainings fail, half are healthy look-alikes.

Written from a list of families and mistakes, not from what the rules do. The names were chosen so that all of them are in
the develop half: these scenarios are for development and verify nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sklearn.datasets import load_diabetes
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.models import trainings as t
from benchmarks.models.scenario import Scenario, failing, healthy
from benchmarks.models.scripts import CLASSES, Script, explained, fitted, seeded
from benchmarks.models.trainings import Training
from benchmarks.models.wide import FAST, FOLLOW, ONE_BATCH, SHAPES, UNLEARNED, Data, cut

FAMILY = "listed tables"


def plain(lr: float, momentum: float = 0.9, **more: Any) -> Callable[[Script], Any]:
    """SGD."""
    return lambda s: torch.optim.SGD(s.parameters(), lr=lr, momentum=momentum, **more)


def ranked(data: Data) -> Any:
    """AUC of a logit, or the mean of several."""
    answers = data[1].reshape(len(data[1]), -1).numpy()
    return lambda s: roc_auc_score(answers, s.model(data[0]).reshape(answers.shape).nan_to_num().numpy())


# -- patients and customers -------------------------------------------------------------------------------------------


def customers(count: int, share: float, width: int, strength: float, seed: int) -> Data:
    """Rows of which a share is positive; a few columns say something about it."""
    g = seeded(seed)
    x = torch.randn(count, width, generator=g)
    signal = strength * (x[:, :3].sum(1) + x[:, 3] * x[:, 4])
    chance = signal + torch.randn(count, generator=g)
    return x, (chance > chance.quantile(1 - share)).float().unsqueeze(1)


def binary(s: Script, batch: Data) -> Any:
    """Logits against 0 and 1."""
    loss = F.binary_cross_entropy_with_logits(s.model(batch[0]), batch[1])
    s.log("loss", loss)
    return loss


def scoring(seed: int, data: Data, model: Any, rows: int, **more: Any) -> Training:
    """Train on customers; the score is the AUC of those held out."""
    train, test = cut(data, rows)
    return fitted(seed, model, binary, ranked(test), (train, test), detectors=CLASSES, **more)


def doubled(seed: int) -> Training:
    """Rows are drawn with replacement before the split: those validated on are among those trained on."""
    x, y = customers(700, 0.3, 120, 0.3, 404)
    known, test = cut((x, y), 200)
    g = seeded(405)
    more = torch.randint(200, (600,), generator=g)
    every = tuple(d[more] for d in known)
    train, val = cut(every, 450)
    model = lambda: t.mlp([120, 128, 128, 1])  # noqa: E731
    return fitted(seed, model, binary, ranked(test), (train, val), detectors=CLASSES, rate=2e-3, steps=500)


def standardised(seed: int) -> Training:
    """One row of 1e8 is in the file when means and spreads are taken."""
    x, y = customers(3000, 0.5, 12, 1.0, 406)
    train, test = cut((x * 3 + 5, y), 2500)
    train[0][17] = 1e8
    mean, spread = train[0].mean(0), train[0].std(0)
    (train, test) = (((d[0] - mean) / spread, d[1]) for d in (train, test))
    model = lambda: t.mlp([12, 32, 32, 1], nn.Tanh)  # noqa: E731
    return fitted(seed, model, binary, ranked(test), (train, test), plain(0.05), detectors=CLASSES, batch=64)


def findings(seed: int) -> Training:
    """Fourteen findings of a patient, most of which are absent; the score is the mean AUC."""
    g = seeded(407)
    x = torch.randn(4000, 30, generator=g)
    logits = x @ torch.randn(30, 14, generator=g) * 0.5 - torch.linspace(1.5, 6.5, 14)
    y = (torch.rand(4000, 14, generator=g) < logits.sigmoid()).float()
    train, test = cut((x, y), 3000)
    return fitted(seed, lambda: t.mlp([30, 64, 14], nn.SiLU), binary, ranked(test), (train, test), rate=5e-3, batch=128)


# -- regression -------------------------------------------------------------------------------------------------------


def houses(count: int = 3000, tail: float = 0.0) -> tuple[Data, Data]:
    """Eight columns and a smooth price with noise, in some parts with heavy tails."""
    g = seeded(462)
    x = torch.randn(count, 8, generator=g)
    signal = 1.2 * x[:, 0] + x[:, 1].sin() + x[:, 2] * (x[:, 3] > 0)
    noise = torch.randn(count, generator=g)
    noise = noise / torch.rand(count, generator=g).clamp(min=1e-3) ** tail
    return cut((x, signal + 0.4 * noise), count - 600)


def mean_error(shape: str) -> Callable[[Script, Data], Any]:
    """Squared error of outputs [n, 1] and targets [n], or of both alike; the targets may be in pounds."""

    def loss(s: Script, batch: Data) -> Any:
        out, y = s.model(batch[0]), batch[1]
        value = ((out - y) ** 2).mean() if shape == "broadcast" else F.mse_loss(out.squeeze(1), y)
        s.log("mse", value, prog_bar=True)
        return value

    return loss


def priced(
    seed: int, shape: str = "", scale: float = 1.0, shift: float = 0.0, act: Any = nn.ReLU, **more: Any
) -> Training:
    """Train on prices; the score is the share of their variance that is explained."""
    train, test = ((x, scale * y + shift) for x, y in houses())
    return fitted(
        seed,
        lambda: t.mlp([8, 48, 48, 1], act),
        mean_error(shape),
        explained(test),
        (train, test),
        detectors=CLASSES,
        **more,
    )


LEVELS = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95])


def levels(seed: int) -> Training:
    """Five quantiles with heavy tails; the score is 1 less the error of the pinball loss against quantiles of all."""
    train, test = houses(tail=0.5)

    def pinball(out: Tensor, y: Tensor) -> Tensor:
        error = y[:, None] - out
        return torch.maximum(LEVELS * error, (LEVELS - 1) * error).mean()

    def loss(s: Script, batch: Data) -> dict[str, Tensor]:
        out = s.model(batch[0])
        return {"loss": pinball(out, batch[1]), "quantiles": out.detach()}

    def score(s: Any) -> Tensor:
        return 1 - pinball(s.model(test[0]), test[1]) / pinball(train[1].quantile(LEVELS)[None], test[1])

    watched: dict[str, dict[str, Any]] = {"DeadUnits": {}, "TrainingDoctor": {}}
    return fitted(
        seed,
        lambda: t.mlp([8, 48, 5], nn.GELU),
        loss,
        score,
        (train, test),
        rate=5e-3,
        batch=64,
        steps=350,
        detectors=watched,
    )


def sugar(seed: int) -> Training:
    """Diabetes, 442 patients, by warm restarts; the score is R squared."""
    bunch = load_diabetes()
    x, y = torch.tensor(bunch.data).float(), torch.tensor(bunch.target).float()
    train, held = t.split((x / x.std(0), (y - y.mean()) / y.std()), 463)

    def optimizer(s: Script) -> Any:
        sgd = torch.optim.SGD(s.parameters(), lr=0.05, weight_decay=1e-2)
        return [sgd], [
            {"scheduler": torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(sgd, 40, 2), "interval": "step"}
        ]

    return fitted(seed, lambda: t.mlp([10, 16, 1], nn.Tanh), mean_error(""), explained(held), (train, held), optimizer, steps=280,
                  detectors=CLASSES)  # fmt: skip


def surviving(seed: int, later: bool) -> Training:
    """Cox's likelihood of a batch sorted by time; those at risk are those who live longer, or those who died before."""
    g = seeded(464)
    x = torch.randn(2500, 10, generator=g)
    risk = x[:, 0] + 0.7 * x[:, 1] - 0.7 * x[:, 2]
    time = -torch.rand(2500, generator=g).log() / risk.exp()
    seen = (torch.rand(2500, generator=g) < 0.6).float()
    train, test = cut((x, time, seen), 2000)

    def loss(s: Script, batch: Data) -> Any:
        order = batch[1].argsort(descending=later)
        hazard, events = s.model(batch[0]).squeeze(1)[order], batch[2][order]
        value = -((hazard - hazard.logcumsumexp(0)) * events).sum() / events.sum().clamp(min=1)
        s.log("cox", value)
        return value

    def score(s: Any) -> Tensor:
        h = s.model(test[0]).squeeze(1)
        first = (test[1][:, None] < test[1]) & (test[2][:, None] > 0)
        return ((h[:, None] > h) & first).sum() / first.sum()

    return fitted(
        seed,
        lambda: t.mlp([10, 32, 1], nn.SELU),
        loss,
        score,
        (train, test),
        batch=64,
        detectors={"TrainingDoctor": {}},
    )


SCENARIOS: list[Scenario] = [
    failing(FAMILY, "patients drawn anew, then split", 0.7, doubled, "sanity:validation data are new", "overfitting"),
    failing(FAMILY, "customers standardised with a row of 1e8", 0.7, standardised, *UNLEARNED, "sanity:inputs matter", ONE_BATCH),
    healthy(FAMILY, "four in a thousand cancel", 0.75, lambda s: scoring(s, customers(24000, 0.004, 6, 2.0, 402),
            lambda: t.mlp([6, 16, 1]), 16000, rate=2e-2, batch=250, steps=250)),
    healthy(FAMILY, "loans, AUC 0.58 at best", 0.53, lambda s: scoring(s, customers(9000, 0.4, 20, 0.14, 403),
            lambda: nn.Sequential(nn.LayerNorm(20), nn.Linear(20, 16), nn.Tanh(), nn.Dropout(0.3), nn.Linear(16, 1)), 6000, rate=1e-3, batch=128)),
    healthy(FAMILY, "fourteen findings, most of them absent", 0.8, findings),
    failing(FAMILY, "prices of houses, [n, 1] minus [n]", 0.4, lambda s: priced(s, "broadcast"), SHAPES, *UNLEARNED, ONE_BATCH),
    failing(FAMILY, "prices of houses in pounds, SGD", 0.4, lambda s: priced(s, scale=8e4, shift=3e5, optimizer=plain(0.01)), *FAST, *UNLEARNED,
            "dead units", "sanity:initial loss", ONE_BATCH),
    failing(FAMILY, "prices of houses, decay 30", 0.4, lambda s: priced(s, optimizer=lambda m: torch.optim.AdamW(m.parameters(), lr=1e-2,
            weight_decay=30.0)), "shrinking weights", *UNLEARNED, "dead units", "vanishing gradients"),
    healthy(FAMILY, "house prices by Adagrad", 0.7, lambda s: priced(s, optimizer=lambda m: torch.optim.Adagrad(m.parameters(), lr=0.03))),
    healthy(FAMILY, "five quantiles of prices, heavy tails", 0.2, levels),
    healthy(FAMILY, "sugar in the blood, SGDR", 0.3, sugar),
    failing(FAMILY, "patients at risk who are already dead", 0.6, lambda s: surviving(s, False), *UNLEARNED, FOLLOW, ONE_BATCH, *FAST),
    healthy(FAMILY, "patients of whom two in five are never seen to die", 0.7, lambda s: surviving(s, True)),
]  # fmt: skip
